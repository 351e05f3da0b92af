//! Label selectors (`app=web,tier in (a,b),!old` and `LabelSelector` objects) and field selectors
//! (`metadata.name=x,status.phase!=Running`).
//!
//! Parsed once, matched against many objects: a watch evaluates its selector for every change.

use std::fmt;

use serde_json::Value;

use crate::names;
use crate::pairs::LabelSet;

/// Why a selector cannot be used. Shown to users after `unable to parse requirement: ` and the like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The text form has a wrong token.
    #[error("found '{found}', expected: {expected}")]
    Unexpected {
        /// The token.
        found: String,
        /// What could stand there.
        expected: &'static str,
    },
    /// A key that is no label key.
    #[error("key: Invalid value: {key:?}: {why}")]
    Key {
        /// The key.
        key: String,
        /// The rule it breaks.
        why: String,
    },
    /// A value that is no label value.
    #[error("values[{index}][{key}]: Invalid value: {value:?}: {why}")]
    Value {
        /// Its key.
        key: String,
        /// The value.
        value: String,
        /// Its place in the list of values.
        index: usize,
        /// The rule it breaks.
        why: String,
    },
    /// `In` without values, `Exists` with some.
    #[error("values: Invalid value: {values:?}: {why}")]
    Values {
        /// The values.
        values: Vec<String>,
        /// The rule.
        why: &'static str,
    },
    /// An operator of a `LabelSelector` that does not exist.
    #[error("{operator:?} is not a valid label selector operator")]
    Operator {
        /// The operator.
        operator: String,
    },
    /// A field selector without `=`, `==` or `!=`.
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    FieldTerm {
        /// All of it.
        selector: String,
        /// The part.
        term: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    Greater(i64),
    Less(i64),
}

/// Requirements that must all hold. Empty: everything matches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    requirements: Vec<(String, Test)>,
    nothing: bool,
}

impl LabelSelector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches no object: what a missing `LabelSelector` means.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Labels that must be equal: `spec.selector` of Services and ReplicationControllers.
    pub fn from_labels<K: Into<String>, V: Into<String>>(labels: impl IntoIterator<Item = (K, V)>) -> Self {
        Self {
            requirements: labels.into_iter().map(|(k, v)| (k.into(), Test::In(vec![v.into()]))).collect(),
            nothing: false,
        }
    }

    /// The text form: `a=b,c!=d,e in (x,y),f notin (z),!g,h,i>1`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Parser { tokens: tokens(text), at: 0 }.selector()
    }

    /// A `LabelSelector` object; null matches nothing, `{}` everything.
    pub fn from_value(selector: &Value) -> Result<Self, SelectorError> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Vec::new();
        if let Some(labels) = selector["matchLabels"].as_object() {
            for (key, value) in labels {
                let value = value.as_str().unwrap_or_default().to_owned();
                requirements.push(requirement(key.clone(), "In", vec![value])?);
            }
        }
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let values = expression["values"].as_array().into_iter().flatten();
            requirements.push(requirement(
                expression["key"].as_str().unwrap_or_default().to_owned(),
                expression["operator"].as_str().unwrap_or_default(),
                values.filter_map(|v| v.as_str().map(str::to_owned)).collect(),
            )?);
        }
        Ok(Self { requirements, nothing: false })
    }

    /// From the parts of a typed `LabelSelector`: `matchLabels`, and `matchExpressions` as (key, operator, values).
    pub fn from_parts<'a>(
        match_labels: impl IntoIterator<Item = (&'a String, &'a String)>,
        match_expressions: impl IntoIterator<Item = (&'a str, &'a str, &'a [String])>,
    ) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for (key, value) in match_labels {
            requirements.push(requirement(key.clone(), "In", vec![value.clone()])?);
        }
        for (key, operator, values) in match_expressions {
            requirements.push(requirement(key.to_owned(), operator, values.to_vec())?);
        }
        Ok(Self { requirements, nothing: false })
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &impl LabelSet) -> bool {
        self.matches_with(|key| labels.label(key))
    }

    /// As [`Self::matches`], with labels looked up by `get`.
    pub fn matches_with<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|(key, test)| test.holds(get(key)))
    }

    /// As [`Self::matches`], for labels in JSON (null and missing are none).
    pub fn matches_value(&self, labels: &Value) -> bool {
        self.matches_with(|key| labels.get(key).and_then(Value::as_str))
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::In(values) => value.is_some_and(|v| values.iter().any(|x| x == v)),
            Self::NotIn(values) => value.is_none_or(|v| values.iter().all(|x| x != v)),
            Self::Exists => value.is_some(),
            Self::DoesNotExist => value.is_none(),
            Self::Greater(than) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v > *than),
            Self::Less(than) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v < *than),
        }
    }
}

/// A checked requirement. `operator`: `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt`, `Lt`.
fn requirement(key: String, operator: &str, values: Vec<String>) -> Result<(String, Test), SelectorError> {
    let why = |why| SelectorError::Values { values: values.clone(), why };
    let test = match operator {
        "In" | "NotIn" if values.is_empty() => {
            return Err(why("for 'in', 'notin' operators, values set can't be empty"));
        }
        "In" => Test::In(values),
        "NotIn" => Test::NotIn(values),
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            return Err(why("values set must be empty for exists and does not exist"));
        }
        "Exists" => Test::Exists,
        "DoesNotExist" => Test::DoesNotExist,
        "Gt" | "Lt" => {
            let [value] = values.as_slice() else {
                return Err(why("for 'Gt', 'Lt' operators, exactly one value is required"));
            };
            let Ok(bound) = value.parse() else {
                return Err(why("for 'Gt', 'Lt' operators, the value must be an integer"));
            };
            if operator == "Gt" { Test::Greater(bound) } else { Test::Less(bound) }
        }
        _ => return Err(SelectorError::Operator { operator: operator.into() }),
    };
    if let Some(why) = names::qualified_name(&key).into_iter().next() {
        return Err(SelectorError::Key { key, why });
    }
    if let Test::In(values) | Test::NotIn(values) = &test {
        for (index, value) in values.iter().enumerate() {
            if let Some(why) = names::label_value(value).into_iter().next() {
                return Err(SelectorError::Value { key, value: value.clone(), index, why });
            }
        }
    }
    Ok((key, test))
}

fn tokens(text: &str) -> Vec<&str> {
    const SPECIAL: &[char] = &['=', '!', '(', ')', '>', '<', ','];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if SPECIAL.contains(&first) {
            if rest.starts_with("==") || rest.starts_with("!=") { 2 } else { 1 }
        } else {
            rest.find(|c: char| SPECIAL.contains(&c) || c.is_whitespace()).unwrap_or(rest.len())
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

struct Parser<'a> {
    tokens: Vec<&'a str>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> &'a str {
        self.tokens.get(self.at).copied().unwrap_or("")
    }

    fn next(&mut self) -> &'a str {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn word(&mut self) -> Option<&'a str> {
        let token = self.peek();
        let is_word = token.starts_with(|c: char| !"=!()><,".contains(c));
        is_word.then(|| self.next())
    }

    fn unexpected<T>(&self, expected: &'static str) -> Result<T, SelectorError> {
        Err(SelectorError::Unexpected { found: self.peek().into(), expected })
    }

    fn selector(mut self) -> Result<LabelSelector, SelectorError> {
        let mut requirements = Vec::new();
        if self.tokens.is_empty() {
            return Ok(LabelSelector::everything());
        }
        loop {
            requirements.push(self.requirement()?);
            match self.peek() {
                "" => break,
                "," => {
                    self.at += 1;
                    if self.peek().is_empty() || self.peek() == "," {
                        return self.unexpected("identifier after ','");
                    }
                }
                _ => return self.unexpected("',' or 'end of string'"),
            }
        }
        Ok(LabelSelector { requirements, nothing: false })
    }

    fn requirement(&mut self) -> Result<(String, Test), SelectorError> {
        if self.peek() == "!" {
            self.at += 1;
            let Some(key) = self.word() else { return self.unexpected("identifier") };
            return requirement(key.into(), "DoesNotExist", Vec::new());
        }
        let Some(key) = self.word() else { return self.unexpected("!, identifier, or 'end of string'") };
        let operator = self.peek();
        match operator {
            "" | "," => requirement(key.into(), "Exists", Vec::new()),
            "=" | "==" | "!=" => {
                self.at += 1;
                let value = self.word().unwrap_or("");
                requirement(key.into(), if operator == "!=" { "NotIn" } else { "In" }, vec![value.into()])
            }
            ">" | "<" => {
                self.at += 1;
                let value = self.word().unwrap_or("");
                requirement(key.into(), if operator == ">" { "Gt" } else { "Lt" }, vec![value.into()])
            }
            "in" | "notin" => {
                self.at += 1;
                let values = self.values()?;
                requirement(key.into(), if operator == "in" { "In" } else { "NotIn" }, values)
            }
            _ => self.unexpected("in, notin, =, ==, !=, gt, lt"),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        if self.peek() != "(" {
            return self.unexpected("'('");
        }
        self.at += 1;
        let mut values = vec![self.word().unwrap_or("").to_owned()];
        loop {
            match self.next() {
                "," => values.push(self.word().unwrap_or("").to_owned()),
                ")" => return Ok(values),
                _ => {
                    self.at -= 1;
                    return self.unexpected("',' or ')'");
                }
            }
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nothing {
            return f.write_str("<none>");
        }
        for (index, (key, test)) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match test {
                Test::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Test::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", values[0])?,
                Test::In(values) => write!(f, "{key} in ({})", values.join(","))?,
                Test::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
                Test::Exists => f.write_str(key)?,
                Test::DoesNotExist => write!(f, "!{key}")?,
                Test::Greater(than) => write!(f, "{key}>{than}")?,
                Test::Less(than) => write!(f, "{key}<{than}")?,
            }
        }
        Ok(())
    }
}

/// One term of a field selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldTerm {
    /// `metadata.name`.
    pub field: String,
    /// What it is compared with.
    pub value: String,
    /// `=` (true) or `!=`.
    pub equal: bool,
}

/// Terms that must all hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    /// The terms; none matches everything.
    pub terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// The text form. A backslash takes `,`, `=` and `\` literally. Which fields exist is for the caller to check.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for term in split_unescaped(text) {
            if term.is_empty() {
                continue;
            }
            let parsed = parse_term(term)
                .ok_or_else(|| SelectorError::FieldTerm { selector: text.into(), term: term.into() })?;
            terms.push(parsed);
        }
        Ok(Self { terms })
    }

    /// Whether everything matches.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether an object is selected whose fields `get` knows; a missing field is the empty text.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|t| (get(&t.field).unwrap_or("") == t.value) == t.equal)
    }

    /// The value that `field` must be equal to, if the selector says so: a lookup by name instead of a scan.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{}{}", term.field, if term.equal { "=" } else { "!=" })?;
            for c in term.value.chars() {
                if matches!(c, ',' | '=' | '\\') {
                    f.write_str("\\")?;
                }
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == ',' {
            parts.push(&text[start..at]);
            start = at + 1;
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_term(term: &str) -> Option<FieldTerm> {
    for (at, c) in term.char_indices() {
        let (length, equal) = match c {
            '!' if term[at..].starts_with("!=") => (2, false),
            '=' if term[at..].starts_with("==") => (2, true),
            '=' => (1, true),
            _ => continue,
        };
        return Some(FieldTerm { field: term[..at].to_owned(), value: unescape(&term[at + length..])?, equal });
    }
    None
}

fn unescape(text: &str) -> Option<String> {
    let mut value = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => value.push(c),
                _ => return None,
            },
            ',' | '=' => return None,
            _ => value.push(c),
        }
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use std::collections::BTreeMap;

    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split(',').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    }

    #[test]
    fn label_selectors_select() {
        for (selector, on, expected) in [
            ("", "a=b", true),
            ("a=b", "a=b", true),
            ("a==b", "a=b", true),
            ("a = b", "a=b", true),
            ("a=b", "a=c", false),
            ("a=", "a=", true),
            ("a!=b", "a=b", false),
            ("a!=b", "", true),
            ("a in (b, c)", "a=c", true),
            ("a in (b,c)", "a=d", false),
            ("a notin (b,c)", "a=d", true),
            ("a notin (b)", "", true),
            ("a", "a=b", true),
            ("a", "b=a", false),
            ("!a", "b=a", true),
            ("!a", "a=a", false),
            ("a>1", "a=2", true),
            ("a<1", "a=2", false),
            ("a=b,c!=d,e in (x,y),!f,g", "a=b,e=x,g=1", true),
            ("a=b,c!=d,e in (x,y),!f,g", "a=b,e=x,g=1,f=1", false),
            ("app.kubernetes.io/name=web", "app.kubernetes.io/name=web", true),
        ] {
            let parsed = LabelSelector::parse(selector).expect(selector);
            assert_eq!(parsed.matches(&labels(on)), expected, "{selector} on {on}");
            assert_eq!(LabelSelector::parse(&parsed.to_string()).as_ref(), Ok(&parsed), "{selector}");
        }
    }

    #[test]
    fn broken_label_selectors_are_refused() {
        for selector in ["a=b,", "a in", "a in b", "=b", "a b", "a in (b", "a/b/c=d", "a=@", ",", "a>x"] {
            assert!(LabelSelector::parse(selector).is_err(), "{selector}");
        }
    }

    #[test]
    fn selector_objects_select() {
        let selector = LabelSelector::from_value(&json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["old"]}, {"key": "x", "operator": "Exists"}],
        }))
        .unwrap();
        assert!(selector.matches(&labels("app=web,x=1")));
        assert!(!selector.matches(&labels("app=web,x=1,tier=old")));
        assert!(!LabelSelector::from_value(&Value::Null).unwrap().matches(&labels("")));
        assert!(LabelSelector::from_value(&json!({})).unwrap().matches(&labels("")));
        assert!(LabelSelector::from_value(&json!({"matchExpressions": [{"key": "a", "operator": "In"}]})).is_err());
    }

    #[test]
    fn field_selectors_select() {
        let fields = labels("metadata.name=x,status.phase=Running");
        let get = |field: &str| fields.get(field).map(String::as_str);
        for (selector, expected) in [
            ("", true),
            ("metadata.name=x", true),
            ("metadata.name==x,status.phase!=Running", false),
            ("spec.nodeName=", true),
            ("spec.nodeName!=", false),
            ("metadata.name=a\\,b", false),
        ] {
            assert_eq!(FieldSelector::parse(selector).expect(selector).matches(get), expected, "{selector}");
        }
        assert!(FieldSelector::parse("metadata.name").is_err());
        assert_eq!(FieldSelector::parse("metadata.name=x").unwrap().required("metadata.name"), Some("x"));
    }
}
