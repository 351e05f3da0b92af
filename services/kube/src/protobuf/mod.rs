//! Request bodies in Kubernetes' protobuf encoding, which kubectl 1.32 and later, and every client-go program with typed
//! clients and default settings, sends. They become the JSON tree that the same object would be, and go on from there as
//! JSON does; answers are JSON, which those clients accept.
//!
//! ```text
//! "k8s\0" + Unknown { 1: TypeMeta { 1: apiVersion, 2: kind }, 2: the object, 3: contentEncoding, 4: contentType }
//! ```
//!
//! Field numbers are in `data/protobuf.txt`, types in the schema. Source: Kubernetes' "Protobuf encoding" API convention.

mod wire;

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine as _;
use serde_json::{Map, Value};

use self::wire::{Field, Malformed, fields};
use crate::schema::{self, Ty, Type};
use crate::status::{Reason, Status};

const PREFIX: &[u8] = b"k8s\0";

/// An object that a client sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// The object with apiVersion and kind. Go's zero values are in it: decode it strictly, which drops them.
    pub value: Value,
}

/// Decodes a body of `application/vnd.kubernetes.protobuf`.
///
/// Errors: 400 for bytes that are no such message, 415 for a kind that has no protobuf form (custom resources, CRDs).
pub fn decode(body: &[u8]) -> Result<Message, Status> {
    let Some(envelope) = body.strip_prefix(PREFIX) else {
        return Err(Status::bad_request(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
        ));
    };
    let (api_version, kind, raw) = open(envelope).map_err(|_| malformed("Unknown"))?;
    // Options of a request have the group of whatever the request is about.
    let ty = schema::kind(&api_version, &kind)
        .or_else(|| schema::named(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}")));
    let Some((ty, table)) = ty.and_then(|ty| Some((ty, TABLES.get(ty.short_name())?))) else {
        return Err(Status::new(
            415,
            Reason::UnsupportedMediaType,
            "the body of the request was in an unknown format - accepted media types include: application/json, \
             application/yaml",
        ));
    };
    let mut object = Map::new();
    message(raw, ty, table, &mut object).map_err(|_| malformed(&kind))?;
    object.insert("apiVersion".into(), api_version.as_str().into());
    object.insert("kind".into(), kind.as_str().into());
    Ok(Message { api_version, kind, value: Value::Object(object) })
}

fn malformed(kind: &str) -> Status {
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): proto: illegal wireType"
    ))
}

fn open(envelope: &[u8]) -> Result<(String, String, &[u8]), Malformed> {
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &b""[..]);
    for field in fields(envelope) {
        match field? {
            (1, Field::Bytes(type_meta)) => {
                for field in fields(type_meta) {
                    match field? {
                        (1, Field::Bytes(text)) => api_version = utf8(text)?,
                        (2, Field::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Field::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    Ok((api_version, kind, raw))
}

/// What a field number means.
enum Entry {
    Named(&'static str),
    /// A message whose fields are the parent's in JSON; the name of its table.
    Embedded(&'static str),
}

type Table = HashMap<u32, Entry>;

static TABLES: LazyLock<HashMap<&'static str, Table>> = LazyLock::new(|| {
    include_str!("../../data/protobuf.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut words = line.split(' ');
            let name = words.next()?;
            let entries = words.filter_map(|word| {
                let (field, number) = word.split_once('=')?;
                let entry = match field.strip_prefix('>') {
                    Some(embedded) => Entry::Embedded(embedded),
                    None => Entry::Named(field),
                };
                Some((number.parse().ok()?, entry))
            });
            Some((name, entries.collect()))
        })
        .collect()
});

/// Adds the fields of a message to `object`.
fn message(
    bytes: &[u8],
    ty: &'static Type,
    table: &'static Table,
    object: &mut Map<String, Value>,
) -> Result<(), Malformed> {
    for field in fields(bytes) {
        let (number, field) = field?;
        match (table.get(&number), field) {
            (Some(Entry::Embedded(name)), Field::Bytes(bytes)) => {
                if let Some(table) = TABLES.get(name) {
                    message(bytes, ty, table, object)?;
                }
            }
            (Some(Entry::Named(name)), field) => {
                if let Some(schema) = ty.field(name) {
                    add(schema.ty, name, field, object)?;
                }
            }
            // A field of a newer client.
            _ => {}
        }
    }
    Ok(())
}

fn add(ty: Ty, name: &str, field: Field<'_>, object: &mut Map<String, Value>) -> Result<(), Malformed> {
    match (ty, field) {
        (Ty::List(item), field) => {
            let list = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = list else { return Err(Malformed) };
            match (item, field) {
                (Ty::Int32 | Ty::Int64 | Ty::Bool, Field::Bytes(packed)) => {
                    for number in wire::packed(packed) {
                        list.push(value(*item, Field::Number(number?))?);
                    }
                }
                (_, field) => list.push(value(*item, field)?),
            }
        }
        (Ty::Map(item), Field::Bytes(entry)) => {
            let map = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(map) = map else { return Err(Malformed) };
            let (mut key, mut member) = (String::new(), empty(*item));
            for field in fields(entry) {
                match field? {
                    (1, Field::Bytes(text)) => key = utf8(text)?,
                    (2, field) => member = value(*item, field)?,
                    _ => {}
                }
            }
            map.insert(key, member);
        }
        (ty, field) => {
            object.insert(name.to_owned(), value(ty, field)?);
        }
    }
    Ok(())
}

/// What a map entry without a value holds.
fn empty(ty: Ty) -> Value {
    match ty {
        Ty::List(_) => Value::Array(Vec::new()),
        Ty::String | Ty::Bytes => Value::String(String::new()),
        _ => Value::Null,
    }
}

fn value(ty: Ty, field: Field<'_>) -> Result<Value, Malformed> {
    Ok(match (ty, field) {
        (Ty::String, Field::Bytes(text)) => Value::String(utf8(text)?),
        (Ty::Bytes, Field::Bytes(bytes)) => Value::String(base64::engine::general_purpose::STANDARD.encode(bytes)),
        (Ty::Int32, Field::Number(number)) => Value::from(number as i32),
        (Ty::Int64, Field::Number(number)) => Value::from(number as i64),
        (Ty::Bool, Field::Number(number)) => Value::from(number != 0),
        (Ty::Double, Field::Fixed64(bits)) => Value::from(f64::from_bits(bits)),
        (Ty::Quantity, Field::Bytes(inner)) => match first(inner, 1)? {
            Some(Field::Bytes(text)) => Value::String(utf8(text)?),
            _ => Value::String("0".into()),
        },
        (Ty::IntOrString, Field::Bytes(inner)) => int_or_string(inner)?,
        (Ty::Time | Ty::MicroTime, Field::Bytes(inner)) => time(inner, ty == Ty::MicroTime)?,
        (Ty::Any | Ty::Object, Field::Bytes(inner)) => match first(inner, 1)? {
            Some(Field::Bytes(raw)) => serde_json::from_slice(raw).map_err(|_| Malformed)?,
            _ => Value::Null,
        },
        (Ty::Struct(id), Field::Bytes(inner)) => {
            let mut object = Map::new();
            if let Some(table) = TABLES.get(id.get().short_name()) {
                message(inner, id.get(), table, &mut object)?;
            }
            Value::Object(object)
        }
        // A list within a map: a message with one repeated field.
        (Ty::List(item), Field::Bytes(inner)) => {
            let mut items = Vec::new();
            for field in fields(inner) {
                if let (1, field) = field? {
                    items.push(value(*item, field)?);
                }
            }
            Value::Array(items)
        }
        _ => return Err(Malformed),
    })
}

fn first(bytes: &[u8], wanted: u32) -> Result<Option<Field<'_>>, Malformed> {
    for field in fields(bytes) {
        let (number, field) = field?;
        if number == wanted {
            return Ok(Some(field));
        }
    }
    Ok(None)
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Malformed> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for field in fields(bytes) {
        match field? {
            (1, Field::Number(kind)) => is_text = kind != 0,
            (2, Field::Number(value)) => number = value as i32,
            (3, Field::Bytes(value)) => text = utf8(value)?,
            _ => {}
        }
    }
    Ok(if is_text { Value::String(text) } else { Value::from(number) })
}

/// The zero time is an empty message, and null in JSON.
fn time(bytes: &[u8], micros: bool) -> Result<Value, Malformed> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    for field in fields(bytes) {
        match field? {
            (1, Field::Number(value)) => seconds = value as i64,
            (2, Field::Number(value)) => nanos = value as i32,
            _ => {}
        }
    }
    let at = jiff::Timestamp::new(seconds, nanos).map_err(|_| Malformed)?;
    let format = if micros { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(Value::String(at.strftime(format).to_string()))
}

fn utf8(bytes: &[u8]) -> Result<String, Malformed> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests;
