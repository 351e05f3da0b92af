//! A few names with a value each, in one allocation: the labels and selectable fields of an object in memory.
//!
//! There is one of these beside every object of every cluster. A map of texts costs several hundred bytes for three labels,
//! as much as a small object itself; here they cost their own length and a few digits.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where a label is looked up.
pub trait LabelSet {
    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str>;
}

impl LabelSet for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl LabelSet for Pairs {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)
    }
}

/// Names and values, ordered by name. Immutable, and cheap to clone.
///
/// Looking one up is a walk over all: right for the handful that objects have.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Pairs {
    /// Each text as `length:text`, name after value after name. Nothing is allocated for no pairs.
    text: Option<Arc<str>>,
}

impl Pairs {
    /// No pairs.
    pub const fn new() -> Self {
        Self { text: None }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.text.is_none()
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// Whether the name is there.
    pub fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// All, by name.
    pub fn iter(&self) -> Iter<'_> {
        Iter { rest: self.text.as_deref().unwrap_or_default() }
    }

    /// Bytes that they take.
    pub fn footprint(&self) -> usize {
        // The text and its two reference counts.
        self.text.as_ref().map_or(0, |text| text.len() + 16)
    }
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for Pairs {
    /// Of a name that comes twice the last value stays, as in a map.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut pairs: Vec<(K, V)> = pairs.into_iter().collect();
        if pairs.is_empty() {
            return Self::new();
        }
        pairs.sort_by(|(one, _), (other, _)| one.as_ref().cmp(other.as_ref()));
        let mut text = String::with_capacity(pairs.iter().map(|(k, v)| k.as_ref().len() + v.as_ref().len() + 6).sum());
        for (at, (name, value)) in pairs.iter().enumerate() {
            if pairs.get(at + 1).is_none_or(|(next, _)| next.as_ref() != name.as_ref()) {
                push(&mut text, name.as_ref());
                push(&mut text, value.as_ref());
            }
        }
        Self { text: Some(text.into()) }
    }
}

fn push(text: &mut String, part: &str) {
    use fmt::Write as _;
    // Writing to a String does not fail.
    let _ = write!(text, "{}:", part.len());
    text.push_str(part);
}

/// Pairs in order.
#[derive(Debug, Clone)]
pub struct Iter<'a> {
    rest: &'a str,
}

impl<'a> Iter<'a> {
    fn part(&mut self) -> Option<&'a str> {
        let (length, rest) = self.rest.split_once(':')?;
        let length = length.bytes().fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
        let (part, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(part)
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        Some((self.part()?, self.part()?))
    }
}

impl<'a> IntoIterator for &'a Pairs {
    type Item = (&'a str, &'a str);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl Serialize for Pairs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs: Vec<(String, String)> = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs.into_iter().collect())
            }
        }
        deserializer.deserialize_map(Map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_a_map_in_order() {
        let awkward = "3:a\"\u{0}:é";
        let pairs: Pairs = [("tier", "db"), ("app", awkward), ("", "")].into_iter().collect();
        assert_eq!(pairs.iter().collect::<Vec<_>>(), [("", ""), ("app", awkward), ("tier", "db")]);
        assert_eq!((pairs.get("app"), pairs.get("ap")), (Some(awkward), None));
        assert!(pairs.contains_key("") && !pairs.contains_key("db"));
        assert_eq!(serde_json::from_str::<Pairs>(&serde_json::to_string(&pairs).unwrap()).unwrap(), pairs);
    }

    #[test]
    fn no_pairs_are_equal_however_they_were_made() {
        assert_eq!(Pairs::new(), std::iter::empty::<(&str, &str)>().collect());
        assert_eq!(serde_json::to_string(&Pairs::new()).unwrap(), "{}");
        assert_eq!((Pairs::new().footprint(), Pairs::new().iter().next()), (0, None));
    }

    #[test]
    fn the_last_value_of_a_name_stays() {
        let pairs: Pairs = [("a", "1"), ("b", "2"), ("a", "3")].into_iter().collect();
        assert_eq!(pairs.iter().collect::<Vec<_>>(), [("a", "3"), ("b", "2")]);
        assert_eq!(serde_json::from_str::<Pairs>(r#"{"a":"1","b":"2","a":"3"}"#).unwrap(), pairs);
    }
}
