//! The OpenAPI v2 document in protobuf (gnostic's `openapi.v2.Document`): the only form in which kubectl asks for it.
//!
//! Field numbers: the `OpenAPIv2.proto` that gnostic publishes. Written by hand because one message type in one direction
//! does not pay for generated code. Only what clients read is written: definitions with their types, references,
//! descriptions and extensions, and the operations' kinds and parameters.

use serde_json::{Map, Value};

/// A protobuf message in the making.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u64, text: &Value) {
        if let Some(text) = text.as_str().filter(|t| !t.is_empty()) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn message(&mut self, field: u64, message: Message) {
        self.bytes(field, &message.0);
    }

    fn flag(&mut self, field: u64, value: &Value) {
        if value == true {
            self.varint(field << 3);
            self.varint(1);
        }
    }
}

/// `value` as gnostic's `Any`: YAML text, of which JSON is a part.
fn any(value: &Value) -> Message {
    let mut message = Message::default();
    message.bytes(2, value.to_string().as_bytes());
    message
}

fn named(name: &str, value: Message) -> Message {
    let mut message = Message::default();
    message.bytes(1, name.as_bytes());
    message.message(2, value);
    message
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// `x-...` keys as `NamedAny`s.
fn extensions(into: &mut Message, field: u64, object: &Map<String, Value>) {
    for (key, value) in object.iter().filter(|(key, _)| key.starts_with("x-")) {
        into.message(field, named(key, any(value)));
    }
}

/// The document, from its JSON.
pub(crate) fn encode(document: &Value) -> Vec<u8> {
    let mut message = Message::default();
    message.text(1, &document["swagger"]);
    let mut info = Message::default();
    info.text(1, &document["info"]["title"]);
    info.text(2, &document["info"]["version"]);
    message.message(2, info);
    let mut paths = Message::default();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        paths.message(2, named(path, path_item(item)));
    }
    message.message(8, paths);
    let mut definitions = Message::default();
    for (name, definition) in document["definitions"].as_object().into_iter().flatten() {
        definitions.message(1, named(name, schema(definition)));
    }
    message.message(9, definitions);
    message.0
}

fn path_item(item: &Value) -> Message {
    let mut message = Message::default();
    for (field, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(found) = item[method].as_object() {
            message.message(field, operation(found));
        }
    }
    for parameter in list(&item["parameters"]) {
        message.message(9, parameters_item(parameter));
    }
    message
}

fn operation(operation: &Map<String, Value>) -> Message {
    let null = Value::Null;
    let get = |key: &str| operation.get(key).unwrap_or(&null);
    let mut message = Message::default();
    message.text(5, get("operationId"));
    for (field, key) in [(6, "produces"), (7, "consumes")] {
        list(get(key)).iter().for_each(|kind| message.text(field, kind));
    }
    for parameter in list(get("parameters")) {
        message.message(8, parameters_item(parameter));
    }
    let mut responses = Message::default();
    for (code, response) in get("responses").as_object().into_iter().flatten() {
        let mut body = Message::default();
        body.text(1, &response["description"]);
        if response["schema"].is_object() {
            let mut item = Message::default();
            item.message(1, schema(&response["schema"]));
            body.message(2, item);
        }
        let mut value = Message::default();
        value.message(1, body);
        responses.message(1, named(code, value));
    }
    message.message(9, responses);
    extensions(&mut message, 13, operation);
    message
}

/// `ParametersItem` > `Parameter` > body, or non-body in the query or the path.
fn parameters_item(parameter: &Value) -> Message {
    let wrap = |field: u64, inner: Message| {
        let mut outer = Message::default();
        outer.message(field, inner);
        outer
    };
    let mut inner = Message::default();
    let parameter_message = if parameter["in"] == "body" {
        inner.text(2, &parameter["name"]);
        inner.text(3, &parameter["in"]);
        inner.flag(4, &parameter["required"]);
        inner.message(5, schema(&parameter["schema"]));
        wrap(1, inner)
    } else {
        inner.flag(1, &parameter["required"]);
        inner.text(2, &parameter["in"]);
        inner.text(4, &parameter["name"]);
        // A query parameter has `allowEmptyValue` in between, so its type comes one field later.
        let (kind, type_field) = if parameter["in"] == "path" { (4, 5) } else { (3, 6) };
        inner.text(type_field, &parameter["type"]);
        wrap(2, wrap(kind, inner))
    };
    wrap(1, parameter_message)
}

fn schema(schema_value: &Value) -> Message {
    let mut message = Message::default();
    let Some(object) = schema_value.as_object() else { return message };
    message.text(1, &schema_value["$ref"]);
    message.text(2, &schema_value["format"]);
    message.text(4, &schema_value["description"]);
    if let Some(default) = object.get("default") {
        message.message(5, any(default));
    }
    for required in list(&schema_value["required"]) {
        message.text(19, required);
    }
    for value in list(&schema_value["enum"]) {
        message.message(20, any(value));
    }
    if schema_value["additionalProperties"].is_object() {
        let mut item = Message::default();
        item.message(1, schema(&schema_value["additionalProperties"]));
        message.message(21, item);
    }
    if schema_value["type"].is_string() {
        let mut kind = Message::default();
        kind.text(1, &schema_value["type"]);
        message.message(22, kind);
    }
    if schema_value["items"].is_object() {
        let mut items = Message::default();
        items.message(1, schema(&schema_value["items"]));
        message.message(23, items);
    }
    if let Some(properties) = schema_value["properties"].as_object() {
        let mut all = Message::default();
        for (name, property) in properties {
            all.message(1, named(name, schema(property)));
        }
        message.message(25, all);
    }
    extensions(&mut message, 31, object);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_is_written_with_gnostics_field_numbers() {
        let document = json!({
            "swagger": "2.0", "info": {"title": "t", "version": "v"}, "paths": {},
            "definitions": {"A": {"type": "object", "x-k": 1}},
        });
        let wanted: &[u8] = &[
            10, 3, b'2', b'.', b'0', // swagger
            18, 6, 10, 1, b't', 18, 1, b'v', // info
            66, 0, // paths
            74, 30, 10, 28, 10, 1, b'A', 18, 23, // definitions, named A
            0xb2, 1, 8, 10, 6, b'o', b'b', b'j', b'e', b'c', b't', // type
            0xfa, 1, 9, 10, 3, b'x', b'-', b'k', 18, 3, 18, 1, b'1', // extension
        ];
        let written = encode(&document);
        // The definitions' lengths follow from their content; everything before them is fixed.
        assert_eq!(&written[..15], &wanted[..15]);
        assert!(written.ends_with(&[10, 3, b'x', b'-', b'k', 18, 3, 18, 1, b'1']), "{written:?}");
    }
}
