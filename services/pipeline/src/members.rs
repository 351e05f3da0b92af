//! Edits of a stored body that touch little of it: members of JSON objects as the texts that they are.
//!
//! What a write does not touch is copied, not decoded: binding a pod would otherwise spend most of its time on taking apart and
//! putting together a spec that it adds one name to.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use galley_kube::Status;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// The members of a JSON object. Ordered by name, as trees are when they are encoded.
#[derive(Debug)]
pub struct Members<'a>(BTreeMap<Cow<'a, str>, Cow<'a, RawValue>>);

impl<'de> Deserialize<'de> for Members<'de> {
    /// By hand, so that names and texts are borrowed.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;
        impl<'de> Visitor<'de> for Whole {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = BTreeMap::new();
                while let Some(Name(name)) = map.next_key()? {
                    members.insert(name, Cow::Borrowed(map.next_value::<&RawValue>()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Whole)
    }
}

struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl<'a> Members<'a> {
    /// Of a JSON text. No members for null.
    pub fn parse(text: &'a [u8]) -> Result<Self, Status> {
        if text == b"null" {
            return Ok(Self(BTreeMap::new()));
        }
        serde_json::from_slice(text).map_err(Status::internal)
    }

    /// The text of a member.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|raw| raw.get())
    }

    /// A member's own members; none where it is missing.
    pub fn members(&self, name: &str) -> Result<Members<'_>, Status> {
        Members::parse(self.text(name).unwrap_or("null").as_bytes())
    }

    /// A member as a tree; null where it is missing.
    pub fn value(&self, name: &str) -> Result<Value, Status> {
        self.text(name).map_or(Ok(Value::Null), serde_json::from_str).map_err(Status::internal)
    }

    /// Sets a member.
    pub fn set(&mut self, name: &'a str, value: &impl Serialize) -> Result<(), Status> {
        let raw = serde_json::value::to_raw_value(value).map_err(Status::internal)?;
        self.0.insert(Cow::Borrowed(name), Cow::Owned(raw));
        Ok(())
    }

    /// All members.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> + Clone {
        self.0.iter().map(|(name, raw)| (&**name, &**raw))
    }

    /// Put together again.
    pub fn to_raw(&self) -> Result<Box<RawValue>, Status> {
        serde_json::value::to_raw_value(&self.0).map_err(Status::internal)
    }
}
