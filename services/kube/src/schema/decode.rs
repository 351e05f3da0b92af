//! Decoding a request's body into an object that has the fields of its type and no others.
//!
//! One pass from the bytes to the JSON tree that is stored: unknown and duplicate fields are noticed (and dropped), nulls and
//! zero values that mean absence are dropped, quantities, times and base64 get their canonical form. It runs for every
//! write, so the valid case allocates nothing but the tree: paths are put together while an error unwinds.
//!
//! The texts are those of kube-apiserver's strict decoder; clients (and tests of operators) match on them.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{Ty, Type, scalars};
use crate::status::Status;
use galley_types::Quantity;

/// `fieldValidation`: what becomes of unknown and duplicate fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop silently.
    Ignore,
    /// Drop with a `Warning` header.
    #[default]
    Warn,
    /// 400.
    Strict,
}

/// What to decode.
#[derive(Debug)]
pub enum Body<'a> {
    /// JSON text. Duplicate fields are noticed only here.
    Bytes(&'a [u8]),
    /// A tree (from YAML, or from a patch).
    Value(Value),
}

/// A decoded object.
#[derive(Debug)]
pub struct Decoded {
    /// The object.
    pub value: Value,
    /// Texts for `Warning` headers: `unknown field "spec.foo"`.
    pub warnings: Vec<String>,
}

/// Problems are collected up to this many, as the API server does.
const PROBLEMS_MAX: usize = 100;

/// Decodes `body` as the kind `kind` of `api_version`, whose type is `ty`. `apiVersion` and `kind` may be missing in it.
///
/// Errors: 400 in the words of kube-apiserver.
pub fn decode(
    ty: &'static Type,
    api_version: &str,
    kind: &str,
    body: Body<'_>,
    mode: FieldValidation,
) -> Result<Decoded, Status> {
    let mut context = Context { track: mode != FieldValidation::Ignore, ..Context::default() };
    let bytes = if let Body::Bytes(bytes) = &body { *bytes } else { b"" };
    let seed = StructSeed { ty, context: &mut context };
    let result = match body {
        Body::Bytes(bytes) => {
            let mut deserializer = serde_json::Deserializer::from_slice(bytes);
            seed.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value))
        }
        Body::Value(value) => seed.deserialize(value),
    };
    let version = api_version.rsplit('/').next().unwrap_or(api_version);
    let found =
        |why: &str| Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"));
    let mut value = match result {
        Ok(value) => value,
        Err(syntax) => {
            return Err(match context.failure {
                Some(failure) => found(&failure.to_string()),
                None => unreadable(kind, bytes, &syntax),
            });
        }
    };
    check_type_meta(&mut value, api_version, kind)?;
    let problems: Vec<String> = context.problems.iter().map(Problem::to_string).collect();
    if mode == FieldValidation::Strict && !problems.is_empty() {
        return Err(found(&format!("strict decoding error: {}", problems.join(", "))));
    }
    Ok(Decoded { value, warnings: problems })
}

/// What is said of bytes that are no JSON object.
pub(crate) fn unreadable(kind: &str, bytes: &[u8], syntax: &serde_json::Error) -> Status {
    let why = if syntax.is_eof() { "unexpected end of JSON input".to_owned() } else { syntax.to_string() };
    let shown = &bytes[..bytes.len().min(30)];
    let dots = if bytes.len() > 30 { " ..." } else { "" };
    let summary = match bytes.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{dots}", String::from_utf8_lossy(shown)),
        Some(_) => format!("{}{dots}", shown.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    };
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: {why} \
         ({summary})"
    ))
}

/// Fills in apiVersion and kind, and refuses others than those expected.
pub(crate) fn check_type_meta(value: &mut Value, api_version: &str, kind: &str) -> Result<(), Status> {
    let Some(object) = value.as_object_mut() else { return Ok(()) };
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or("");
    let (given_version, given_kind) = (text("apiVersion"), text("kind"));
    if !given_version.is_empty() && given_version != api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({given_version}) does not match the expected API version ({api_version})"
        )));
    }
    if !given_kind.is_empty() && given_kind != kind {
        let version = api_version.rsplit('/').next().unwrap_or(api_version);
        return Err(Status::bad_request(format!(
            "{given_kind} in version {version:?} cannot be handled as a {kind}: no kind {given_kind:?} is registered for \
             version {api_version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
        )));
    }
    if given_version.is_empty() {
        object.insert("apiVersion".into(), api_version.into());
    }
    if object.get("kind").is_none() {
        object.insert("kind".into(), kind.into());
    }
    Ok(())
}

#[derive(Debug)]
struct Problem {
    path: String,
    duplicate: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} field {:?}", if self.duplicate { "duplicate" } else { "unknown" }, self.path)
    }
}

#[derive(Debug)]
enum Failure {
    /// A JSON value that the Go type cannot hold.
    Mismatch { found: String, wanted: String, owner: &'static str, path: String },
    /// What a type with a form of its own says.
    Text(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mismatch { found, wanted, owner: "", .. } => {
                write!(f, "json: cannot unmarshal {found} into Go value of type {wanted}")
            }
            Self::Mismatch { found, wanted, owner, path } => {
                write!(f, "json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {wanted}")
            }
            Self::Text(text) => f.write_str(text),
        }
    }
}

#[derive(Default)]
struct Context {
    track: bool,
    problems: Vec<Problem>,
    failure: Option<Failure>,
}

impl Context {
    fn problem(&mut self, path: &str, duplicate: bool) {
        if self.track && self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { path: path.to_owned(), duplicate });
        }
    }

    /// Puts a segment before the paths of the problems since `from`.
    fn within(&mut self, from: usize, segment: impl Fn() -> String) {
        for problem in &mut self.problems[from..] {
            let dot = if problem.path.starts_with('[') { "" } else { "." };
            problem.path = format!("{}{dot}{}", segment(), problem.path);
        }
    }

    fn mismatch(&mut self, found: impl Into<String>, ty: Ty) {
        let (found, wanted) = (found.into(), go_type(ty));
        self.failure = Some(Failure::Mismatch { found, wanted, owner: "", path: String::new() });
    }

    fn within_field(&mut self, owner: &'static Type, name: &'static str) {
        if let Some(Failure::Mismatch { owner: inner, path, wanted, .. }) = &mut self.failure {
            if inner.is_empty() {
                *inner = owner.base_name();
                name.clone_into(path);
                if wanted == "string" {
                    go_string(owner.base_name(), name).clone_into(wanted);
                }
            } else {
                path.insert(0, '.');
                path.insert_str(0, name);
            }
        }
    }
}

/// What Go calls the type of a value.
fn go_type(ty: Ty) -> String {
    match ty {
        Ty::String | Ty::Time | Ty::MicroTime => "string".into(),
        Ty::Bytes => "[]uint8".into(),
        Ty::Int32 | Ty::IntOrString => "int32".into(),
        Ty::Int64 => "int64".into(),
        Ty::Double => "float64".into(),
        Ty::Bool => "bool".into(),
        Ty::Quantity => "resource.Quantity".into(),
        Ty::Any | Ty::Object => "map[string]interface {}".into(),
        Ty::JsonSchema => "v1.JSONSchemaProps".into(),
        Ty::Struct(id) => id.get().go_name().into(),
        Ty::List(item) => format!("[]{}", go_type(*item)),
        Ty::Map(Ty::Quantity) => "v1.ResourceList".into(),
        Ty::Map(item) => format!("map[string]{}", go_type(*item)),
    }
}

/// The Go type of a text field: a named one for most enumerations.
fn go_string(owner: &str, field: &str) -> &'static str {
    match (owner, field) {
        (_, "imagePullPolicy") => "v1.PullPolicy",
        ("PodSpec", "restartPolicy") => "v1.RestartPolicy",
        ("Container", "restartPolicy") => "v1.ContainerRestartPolicy",
        (_, "dnsPolicy") => "v1.DNSPolicy",
        (_, "protocol") => "v1.Protocol",
        (_, "terminationMessagePolicy") => "v1.TerminationMessagePolicy",
        ("ServiceSpec", "type") => "v1.ServiceType",
        ("ServiceSpec", "sessionAffinity") => "v1.ServiceAffinity",
        ("DeploymentStrategy", "type") => "v1.DeploymentStrategyType",
        ("Secret", "type") => "v1.SecretType",
        ("Toleration", "operator") => "v1.TolerationOperator",
        ("Toleration" | "Taint", "effect") => "v1.TaintEffect",
        ("LabelSelectorRequirement", "operator") => "v1.LabelSelectorOperator",
        ("CronJobSpec", "concurrencyPolicy") => "v1.ConcurrencyPolicy",
        ("ObjectMeta" | "OwnerReference", "uid") => "types.UID",
        _ => "string",
    }
}

/// A value of a type.
struct Seed<'c> {
    ty: Ty,
    context: &'c mut Context,
}

/// An object with known fields.
struct StructSeed<'c> {
    ty: &'static Type,
    context: &'c mut Context,
}

impl<'de> DeserializeSeed<'de> for StructSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(TopVisitor(self))
    }
}

/// The whole body: an object.
struct TopVisitor<'c>(StructSeed<'c>);

impl<'de> Visitor<'de> for TopVisitor<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        visit_struct(self.0.ty, self.0.context, map)
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.ty {
            Ty::Any | Ty::Object => serde::Deserialize::deserialize(deserializer),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl Seed<'_> {
    fn mismatch<T, E: serde::de::Error>(self, found: impl Into<String>) -> Result<T, E> {
        self.context.mismatch(found, self.ty);
        Err(E::custom(""))
    }

    fn text<T, E: serde::de::Error>(self, why: String) -> Result<T, E> {
        self.context.failure = Some(Failure::Text(why));
        Err(E::custom(""))
    }

    fn integer<E: serde::de::Error>(self, wide: i128) -> Result<Value, E> {
        match self.ty {
            Ty::Int32 if i32::try_from(wide).is_err() => self.mismatch(format!("number {wide}")),
            Ty::IntOrString if i32::try_from(wide).is_err() => {
                self.text(format!("json: cannot unmarshal number {wide} into Go value of type int32"))
            }
            Ty::Int64 if i64::try_from(wide).is_err() => self.mismatch(format!("number {wide}")),
            Ty::Int32 | Ty::IntOrString | Ty::Int64 | Ty::Double => Ok(match i64::try_from(wide) {
                Ok(value) => Value::from(value),
                Err(_) => Value::from(wide as u64),
            }),
            Ty::Quantity => self.string(wide.to_string()),
            Ty::Time | Ty::MicroTime => {
                self.text("json: cannot unmarshal number into Go value of type string".to_owned())
            }
            _ => self.mismatch("number"),
        }
    }

    /// A text that the deserializer lends: it is copied only if it is kept as it is.
    fn borrowed<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        match self.canonical(text) {
            Ok(Some(other)) => Ok(Value::String(other)),
            Ok(None) => Ok(Value::String(text.to_owned())),
            Err(seed) => seed.wrong_text(text),
        }
    }

    fn string<E: serde::de::Error>(self, text: String) -> Result<Value, E> {
        match self.canonical(&text) {
            Ok(Some(other)) => Ok(Value::String(other)),
            Ok(None) => Ok(Value::String(text)),
            Err(seed) => seed.wrong_text(&text),
        }
    }

    /// `Ok(None)`: good as it is. `Err`: no such text.
    fn canonical(self, text: &str) -> Result<Option<String>, Self> {
        match self.ty {
            Ty::String | Ty::IntOrString | Ty::JsonSchema => Ok(None),
            Ty::Bytes => scalars::base64(text).map_err(|_| self),
            Ty::Quantity => Quantity::canonicalize(text.trim()).map_err(|_| self),
            Ty::Time => scalars::time(text).map_err(|_| self),
            Ty::MicroTime => scalars::micro_time(text).map_err(|_| self),
            _ => Err(self),
        }
    }

    fn wrong_text<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        let why = match self.ty {
            Ty::Bytes => scalars::base64(text).err(),
            Ty::Quantity => Quantity::canonicalize(text).err().map(|e| e.to_string()),
            Ty::Time => scalars::time(text).err(),
            Ty::MicroTime => scalars::micro_time(text).err(),
            _ => None,
        };
        match why {
            Some(why) => self.text(why),
            None => self.mismatch("string"),
        }
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        match self.ty {
            Ty::Bool | Ty::JsonSchema => Ok(Value::Bool(value)),
            Ty::IntOrString => self.text("json: cannot unmarshal bool into Go value of type int32".into()),
            Ty::Time | Ty::MicroTime => self.text("json: cannot unmarshal bool into Go value of type string".into()),
            _ => self.mismatch("bool"),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.integer(i128::from(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.integer(i128::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        match self.ty {
            Ty::Double => Ok(Value::from(value)),
            Ty::Int32 | Ty::Int64 => self.mismatch(format!("number {}", Value::from(value))),
            Ty::IntOrString => {
                let value = Value::from(value);
                self.text(format!("json: cannot unmarshal number {value} into Go value of type int32"))
            }
            Ty::Quantity => self.string(value.to_string()),
            _ => self.mismatch("number"),
        }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        self.borrowed(text)
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Value, E> {
        self.string(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let item_type = match self.ty {
            Ty::List(item) => *item,
            Ty::JsonSchema => Ty::JsonSchema,
            _ => return self.mismatch("array"),
        };
        let mut items = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(64));
        loop {
            let from = self.context.problems.len();
            let item = seq.next_element_seed(Seed { ty: item_type, context: self.context })?;
            self.context.within(from, || format!("[{}]", items.len()));
            match item {
                None => return Ok(Value::Array(items)),
                Some(Value::Null) => items.push(zero(item_type)),
                Some(item) => items.push(item),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let value_type = match self.ty {
            Ty::Map(value) => *value,
            Ty::Struct(id) => return visit_struct(id.get(), self.context, map),
            Ty::JsonSchema => {
                return match super::named("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps") {
                    Some(ty) => visit_struct(ty, self.context, map),
                    None => Err(A::Error::custom("")),
                };
            }
            Ty::IntOrString => return self.text("json: cannot unmarshal object into Go value of type int32".into()),
            Ty::Time | Ty::MicroTime => {
                return self.text("json: cannot unmarshal object into Go value of type string".into());
            }
            _ => return self.mismatch("object"),
        };
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let from = self.context.problems.len();
            let mut value = map.next_value_seed(Seed { ty: value_type, context: self.context })?;
            self.context.within(from, || key.clone());
            if value.is_null() {
                value = zero(value_type);
            }
            match object.entry(key) {
                serde_json::map::Entry::Vacant(entry) => {
                    entry.insert(value);
                }
                serde_json::map::Entry::Occupied(mut entry) => {
                    self.context.problem(&entry.key().clone(), true);
                    entry.insert(value);
                }
            }
        }
        Ok(Value::Object(object))
    }
}

/// What null is in a list or map.
fn zero(ty: Ty) -> Value {
    match ty {
        Ty::String | Ty::Bytes | Ty::IntOrString => Value::String(String::new()),
        Ty::Quantity => Value::String("0".into()),
        Ty::Int32 | Ty::Int64 | Ty::Double => Value::from(0),
        Ty::Bool => Value::Bool(false),
        Ty::Struct(_) | Ty::Map(_) => Value::Object(Map::new()),
        Ty::List(_) => Value::Array(Vec::new()),
        Ty::Any | Ty::Object | Ty::JsonSchema | Ty::Time | Ty::MicroTime => Value::Null,
    }
}

/// A field's name: its index, or the text when there is no such field.
struct NameSeed<'c> {
    ty: &'static Type,
    context: &'c mut Context,
}

impl<'de> DeserializeSeed<'de> for NameSeed<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameSeed<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        let index = self.ty.index(name);
        if index.is_none() {
            self.context.problem(name, false);
        }
        Ok(index)
    }
}

fn visit_struct<'de, A: MapAccess<'de>>(
    ty: &'static Type,
    context: &mut Context,
    mut map: A,
) -> Result<Value, A::Error> {
    let mut object = Map::new();
    let mut seen = 0u128;
    while let Some(index) = map.next_key_seed(NameSeed { ty, context })? {
        let Some(index) = index else {
            map.next_value::<IgnoredAny>()?;
            continue;
        };
        let field = &ty.fields[index];
        if seen & (1 << index) != 0 {
            context.problem(field.name, true);
        }
        seen |= 1 << index;
        let from = context.problems.len();
        let value = match map.next_value_seed(Seed { ty: field.ty, context }) {
            Ok(value) => value,
            Err(error) => {
                context.within_field(ty, field.name);
                return Err(error);
            }
        };
        context.within(from, || field.name.to_owned());
        if is_absent(&value, field) {
            object.remove(field.name);
        } else {
            object.insert(field.name.to_owned(), value);
        }
    }
    Ok(Value::Object(object))
}

fn is_absent(value: &Value, field: &super::Field) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => field.drop_zero && text.is_empty(),
        Value::Bool(value) => field.drop_zero && !value,
        Value::Number(number) => field.drop_zero && number.as_i64() == Some(0),
        Value::Array(items) => field.drop_zero && items.is_empty(),
        Value::Object(members) => field.drop_zero && members.is_empty(),
    }
}

#[cfg(test)]
mod tests;
