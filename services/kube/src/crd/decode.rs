//! Decoding of custom objects: unknown fields are dropped, and told of, as for built-in kinds. Types are checked later, by
//! validation, for that is where the API server checks them.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};

use super::Schema;
use crate::Resource;
use crate::schema::{self, Body, Decoded, FieldValidation};
use crate::status::Status;

/// Decodes a custom object.
///
/// Errors: 400 in the words of kube-apiserver.
pub fn decode(resource: &Resource, body: Body<'_>, mode: FieldValidation) -> Result<Decoded, Status> {
    let (api_version, kind) = (resource.api_version(), resource.kind.as_str());
    let refused = |why: &str| {
        Status::bad_request(format!("{kind} in version {:?} cannot be handled as a {kind}: {why}", resource.version))
    };
    let mut problems = Vec::new();
    let mut value = match body {
        Body::Value(value) => value,
        Body::Bytes(bytes) => {
            let mut deserializer = serde_json::Deserializer::from_slice(bytes);
            let seed = Tracking { problems: &mut problems };
            let value = seed.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
            value.map_err(|syntax| schema::unreadable(kind, bytes, &syntax))?
        }
    };
    if !value.is_object() {
        return Err(refused("json: cannot unmarshal into Go value of type map[string]interface {}"));
    }
    schema::check_type_meta(&mut value, &api_version, kind)?;
    if let Some(metadata) = value.get_mut("metadata") {
        *metadata = decode_metadata(metadata.take(), resource, &mut problems)?;
    }
    if let (Some(custom), Value::Object(members)) = (&resource.custom, &mut value) {
        prune_members(members, &custom.schema, true, "", &mut problems);
        decode_embedded(&mut value, &custom.schema, resource, "", &mut problems)?;
    }
    match mode {
        FieldValidation::Strict if !problems.is_empty() => {
            return Err(refused(&format!("strict decoding error: {}", problems.join(", "))));
        }
        FieldValidation::Ignore => problems.clear(),
        FieldValidation::Strict | FieldValidation::Warn => {}
    }
    Ok(Decoded { value, warnings: problems })
}

fn decode_metadata(metadata: Value, resource: &Resource, problems: &mut Vec<String>) -> Result<Value, Status> {
    // A kind that has nothing but metadata here, so that paths start with it.
    let Some(ty) = schema::kind("v1", "PodTemplate").filter(|_| metadata.is_object()) else { return Ok(metadata) };
    let body = Body::Value(json!({"metadata": metadata}));
    let mut decoded = schema::decode(ty, &resource.api_version(), &resource.kind, body, FieldValidation::Warn)?;
    problems.append(&mut decoded.warnings);
    Ok(decoded.value["metadata"].take())
}

/// Objects within the object (`x-kubernetes-embedded-resource`) have metadata like any other.
fn decode_embedded(
    value: &mut Value,
    schema: &Schema,
    resource: &Resource,
    path: &str,
    problems: &mut Vec<String>,
) -> Result<(), Status> {
    match value {
        Value::Object(members) => {
            if schema.embedded
                && let Some(metadata) = members.get_mut("metadata")
            {
                let from = problems.len();
                *metadata = decode_metadata(metadata.take(), resource, problems)?;
                within(&mut problems[from..], path);
            }
            for (name, member) in members.iter_mut() {
                if let Some(schema) = schema.member(name) {
                    let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    decode_embedded(member, schema, resource, &inner, problems)?;
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = &schema.items {
                for (at, item) in items.iter_mut().enumerate() {
                    decode_embedded(item, schema, resource, &format!("{path}[{at}]"), problems)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// The fields that every object has are not the schema's to name.
const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

fn prune(value: &mut Value, schema: &Schema, path: &str, problems: &mut Vec<String>) {
    match value {
        Value::Object(members) => prune_members(members, schema, schema.embedded, path, problems),
        Value::Array(items) => {
            if let Some(item_schema) = &schema.items {
                for (at, item) in items.iter_mut().enumerate() {
                    prune(item, item_schema, &format!("{path}[{at}]"), problems);
                }
            }
        }
        _ => {}
    }
}

fn prune_members(
    members: &mut Map<String, Value>,
    schema: &Schema,
    is_resource: bool,
    path: &str,
    problems: &mut Vec<String>,
) {
    let keeps_unknown = schema.preserve_unknown || schema.any_additional;
    members.retain(|name, member| {
        if is_resource && META.contains(&name.as_str()) {
            return true;
        }
        let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match schema.member(name) {
            Some(schema) => prune(member, schema, &inner, problems),
            None if keeps_unknown => {}
            None => {
                problems.push(format!("unknown field {inner:?}"));
                return false;
            }
        }
        true
    });
}

/// Any JSON, with duplicate fields noted.
struct Tracking<'p> {
    problems: &'p mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Tracking<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Puts a segment before the paths of problems, which start after the quote: `duplicate field "rest"`.
fn within(problems: &mut [String], segment: &str) {
    for problem in problems {
        if let Some((what, rest)) = problem.split_once('"') {
            let dot = if rest.starts_with('[') { "" } else { "." };
            *problem = format!("{what}\"{segment}{dot}{rest}");
        }
    }
}

impl<'de> Visitor<'de> for Tracking<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let from = self.problems.len();
            let item = seq.next_element_seed(Tracking { problems: self.problems })?;
            within(&mut self.problems[from..], &format!("[{}]", items.len()));
            match item {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let from = self.problems.len();
            let value = map.next_value_seed(Tracking { problems: self.problems })?;
            within(&mut self.problems[from..], &key);
            if members.contains_key(&key) {
                self.problems.push(format!("duplicate field {key:?}"));
            }
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }
}
