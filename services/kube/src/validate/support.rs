//! What every validation uses: paths that cost nothing until something is wrong, the list of problems, and reading of trees.

use std::collections::BTreeMap;
use std::fmt;

use galley_types::names;
use serde_json::{Map, Value, json};

use crate::status::FieldError;

/// Where in an object: `spec.containers[0].image`. Built on the stack, written out only for an error.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Path<'a> {
    Root(&'a str),
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
    Key(&'a Path<'a>, &'a str),
}

impl<'a> Path<'a> {
    pub(crate) fn root(name: &'a str) -> Self {
        Self::Root(name)
    }

    pub(crate) fn field(&'a self, name: &'a str) -> Self {
        Self::Field(self, name)
    }

    pub(crate) fn index(&'a self, at: usize) -> Self {
        Self::Index(self, at)
    }

    pub(crate) fn key(&'a self, key: &'a str) -> Self {
        Self::Key(self, key)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(name) => f.write_str(name),
            Self::Field(Self::Root(""), name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, at) => write!(f, "{parent}[{at}]"),
            Self::Key(parent, key) => write!(f, "{parent}[{key}]"),
        }
    }
}

/// Reading of trees whose types decoding has checked: absent is empty.
pub(crate) trait Get {
    fn at(&self, key: &str) -> &Value;
    fn text(&self, key: &str) -> &str;
    fn int(&self, key: &str) -> Option<i64>;
    fn flag(&self, key: &str) -> bool;
    fn list(&self, key: &str) -> &[Value];
    fn map(&self, key: &str) -> Option<&Map<String, Value>>;
    fn has(&self, key: &str) -> bool;
}

impl Get for Value {
    fn at(&self, key: &str) -> &Value {
        self.get(key).unwrap_or(&Value::Null)
    }

    fn text(&self, key: &str) -> &str {
        self.at(key).as_str().unwrap_or("")
    }

    fn int(&self, key: &str) -> Option<i64> {
        self.at(key).as_i64()
    }

    fn flag(&self, key: &str) -> bool {
        self.at(key) == &Value::Bool(true)
    }

    fn list(&self, key: &str) -> &[Value] {
        self.at(key).as_array().map_or(&[], Vec::as_slice)
    }

    fn map(&self, key: &str) -> Option<&Map<String, Value>> {
        self.at(key).as_object()
    }

    fn has(&self, key: &str) -> bool {
        !self.at(key).is_null()
    }
}

/// The value at a path of fields; null where there is none.
pub(crate) fn node<'v>(value: &'v Value, path: &[&str]) -> &'v Value {
    path.iter().fold(value, |value, key| value.at(key))
}

/// The problems found so far.
#[derive(Debug, Default)]
pub(crate) struct Errors(Vec<FieldError>);

impl Errors {
    pub(crate) fn finish(self) -> Vec<FieldError> {
        self.0
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    pub(crate) fn required(&mut self, path: &Path<'_>, detail: &str) {
        self.push(FieldError::required(path, detail));
    }

    pub(crate) fn invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: &str) {
        self.push(FieldError::invalid(path, &value.into(), detail));
    }

    pub(crate) fn forbidden(&mut self, path: &Path<'_>, detail: &str) {
        self.push(FieldError::forbidden(path, detail));
    }

    pub(crate) fn duplicate(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(FieldError::duplicate(path, &value.into()));
    }

    pub(crate) fn not_found(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(FieldError::not_found(path, &value.into()));
    }

    /// One of `supported`; a missing value is `Required`.
    pub(crate) fn one_of(&mut self, path: &Path<'_>, value: &str, supported: &[&str]) {
        if value.is_empty() {
            self.required(path, "");
        } else if !supported.contains(&value) {
            self.push(FieldError::not_supported(path, &json!(value), supported));
        }
    }

    /// One of `supported`, or absent.
    pub(crate) fn maybe_one_of(&mut self, path: &Path<'_>, value: &str, supported: &[&str]) {
        if !value.is_empty() {
            self.one_of(path, value, supported);
        }
    }

    pub(crate) fn not_supported(&mut self, path: &Path<'_>, value: &str, supported: &[&str]) {
        self.push(FieldError::not_supported(path, &json!(value), supported));
    }

    /// The complaints of a rule of [`names`].
    pub(crate) fn named(&mut self, path: &Path<'_>, value: &str, complaints: Vec<String>) {
        for complaint in complaints {
            self.invalid(path, value, &complaint);
        }
    }

    /// A name that must be there.
    pub(crate) fn required_name(&mut self, path: &Path<'_>, value: &str, rule: fn(&str) -> Vec<String>) {
        if value.is_empty() {
            self.required(path, "");
        } else {
            self.named(path, value, rule(value));
        }
    }

    /// A text that must be there.
    pub(crate) fn required_text(&mut self, path: &Path<'_>, value: &str) {
        if value.is_empty() {
            self.required(path, "");
        }
    }

    pub(crate) fn non_negative(&mut self, path: &Path<'_>, value: Option<i64>) {
        if let Some(value) = value.filter(|v| *v < 0) {
            self.invalid(path, value, "must be greater than or equal to 0");
        }
    }

    pub(crate) fn in_range(&mut self, path: &Path<'_>, value: i64, low: i64, high: i64) {
        if !(low..=high).contains(&value) {
            self.invalid(path, value, &names::range_error(low, high));
        }
    }

    /// A port by number or name.
    pub(crate) fn port(&mut self, path: &Path<'_>, port: &Value) {
        match port {
            Value::Number(number) => self.in_range(path, number.as_i64().unwrap_or(0), 1, 65535),
            Value::String(name) => self.named(path, name, names::port_name(name)),
            // A missing port is port 0.
            _ => self.in_range(path, 0, 1, 65535),
        }
    }

    pub(crate) fn labels(&mut self, path: &Path<'_>, labels: &Value) {
        for (key, value) in labels.as_object().into_iter().flatten() {
            self.named(path, key, names::qualified_name(key));
            let value = value.as_str().unwrap_or("");
            self.named(path, value, names::label_value(value));
        }
    }

    /// A `LabelSelector`.
    pub(crate) fn selector(&mut self, path: &Path<'_>, selector: &Value) {
        self.labels(&path.field("matchLabels"), selector.at("matchLabels"));
        let path = path.field("matchExpressions");
        for (at, expression) in selector.list("matchExpressions").iter().enumerate() {
            let path = path.index(at);
            let values = expression.list("values");
            match expression.text("operator") {
                "In" | "NotIn" if values.is_empty() => {
                    self.required(&path.field("values"), "must be specified when `operator` is 'In' or 'NotIn'");
                }
                "Exists" | "DoesNotExist" if !values.is_empty() => {
                    let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    self.forbidden(&path.field("values"), detail);
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                other => self.invalid(&path.field("operator"), other, "not a valid selector operator"),
            }
            let key = expression.text("key");
            self.named(&path.field("key"), key, names::qualified_name(key));
            for (at, value) in values.iter().enumerate() {
                let value = value.as_str().unwrap_or("");
                self.named(&path.field("values").index(at), value, names::label_value(value));
            }
        }
    }

    /// A field that must be what it was.
    pub(crate) fn immutable(&mut self, path: &Path<'_>, new: &Value, old: &Value) {
        if new != old {
            self.push(FieldError::immutable(path, new));
        }
    }
}

/// The members that differ, one line for each side, as part of a message. `go_type`: `core.PodSpec`.
pub(crate) fn difference(go_type: &str, new: &Map<String, Value>, old: &Map<String, Value>) -> String {
    let mut text = format!("  {go_type}{{\n");
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    let mut identical = 0;
    for key in keys {
        let (was, is) = (old.get(key), new.get(key));
        if was == is {
            identical += 1;
            continue;
        }
        let mut go_name = key.clone();
        go_name[..1].make_ascii_uppercase();
        for (sign, value) in [('-', was), ('+', is)] {
            if let Some(value) = value {
                text.push_str(&format!("{sign} \t{go_name}: {value},\n"));
            }
        }
    }
    text.push_str(&format!("  \t... // {identical} identical fields\n  }}\n"));
    text
}

/// Labels as selectors want them.
pub(crate) fn label_map(labels: &Value) -> BTreeMap<String, String> {
    let labels = labels.as_object().into_iter().flatten();
    labels.map(|(k, v)| (k.clone(), v.as_str().unwrap_or("").to_owned())).collect()
}
