//! JSON patch (RFC 6902).

use serde_json::Value;

use crate::status::{Reason, Status};

/// More operations than this are refused: the API server's limit.
const OPERATIONS_MAX: usize = 10_000;

/// Applies a list of operations, all or none.
///
/// Errors: 400 when the patch is no list of operations, 413 when it is too long, 422 when an operation cannot be applied or a
/// `test` fails.
pub fn json(mut document: Value, patch: &Value) -> Result<Value, Status> {
    let Value::Array(operations) = patch else {
        let found = match patch {
            Value::Object(_) => "object",
            Value::String(_) => "string",
            Value::Number(_) => "number",
            _ => "value",
        };
        return Err(Status::bad_request(format!(
            "error decoding patch: json: cannot unmarshal {found} into Go value of type jsonpatch.Patch"
        )));
    };
    if operations.len() > OPERATIONS_MAX {
        return Err(Status::new(
            413,
            Reason::RequestEntityTooLarge,
            format!(
                "Request entity is too large: The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
                operations.len()
            ),
        ));
    }
    for operation in operations {
        apply(&mut document, operation).ok_or_else(rejected)?;
    }
    Ok(document)
}

fn rejected() -> Status {
    Status::new(422, Reason::Invalid, "the server rejected our request due to an error in our request")
}

/// One operation; `None` when it cannot be applied.
fn apply(document: &mut Value, operation: &Value) -> Option<()> {
    let path = tokens(operation.get("path")?.as_str()?)?;
    match operation.get("op")?.as_str()? {
        "add" => add(document, &path, operation.get("value").cloned().unwrap_or(Value::Null)),
        "remove" => remove(document, &path).map(drop),
        "replace" => {
            *find(document, &path)? = operation.get("value").cloned().unwrap_or(Value::Null);
            Some(())
        }
        "move" => {
            let from = tokens(operation.get("from")?.as_str()?)?;
            let moved = remove(document, &from)?;
            add(document, &path, moved)
        }
        "copy" => {
            let from = tokens(operation.get("from")?.as_str()?)?;
            let copied = find(document, &from)?.clone();
            add(document, &path, copied)
        }
        "test" => {
            let wanted = operation.get("value").unwrap_or(&Value::Null);
            // A missing field equals null, as in the library that the API server uses.
            let found = find(document, &path).map_or(&Value::Null, |v| &*v);
            (found == wanted).then_some(())
        }
        _ => None,
    }
}

/// `/a/b~1c` -> `a`, `b/c`.
fn tokens(pointer: &str) -> Option<Vec<String>> {
    if pointer.is_empty() {
        return Some(Vec::new());
    }
    Some(pointer.strip_prefix('/')?.split('/').map(|t| t.replace("~1", "/").replace("~0", "~")).collect())
}

/// An index into a list of `length`; negative ones count from the end.
fn index(token: &str, length: usize) -> Option<usize> {
    let at: i64 = token.parse().ok()?;
    let at = if at < 0 { usize::try_from(length as i64 + at).ok()? } else { at as usize };
    (at <= length).then_some(at)
}

fn find<'v>(document: &'v mut Value, path: &[String]) -> Option<&'v mut Value> {
    path.iter().try_fold(document, |value, token| match value {
        Value::Object(members) => members.get_mut(token),
        Value::Array(items) => {
            let at = index(token, items.len())?;
            items.get_mut(at)
        }
        _ => None,
    })
}

fn add(document: &mut Value, path: &[String], value: Value) -> Option<()> {
    let Some((last, parents)) = path.split_last() else {
        *document = value;
        return Some(());
    };
    match find(document, parents)? {
        Value::Object(members) => {
            members.insert(last.clone(), value);
        }
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            let at = index(last, items.len())?;
            items.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(document: &mut Value, path: &[String]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    match find(document, parents)? {
        Value::Object(members) => members.remove(last),
        Value::Array(items) => {
            let at = index(last, items.len()).filter(|at| *at < items.len())?;
            Some(items.remove(at))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operations_apply_in_order() {
        for (document, patch, result) in [
            (json!({"a": 1}), json!([{"op": "add", "path": "/b", "value": 2}]), json!({"a": 1, "b": 2})),
            (json!({"a": [1, 2]}), json!([{"op": "add", "path": "/a/1", "value": 9}]), json!({"a": [1, 9, 2]})),
            (json!({"a": [1]}), json!([{"op": "add", "path": "/a/-", "value": 2}]), json!({"a": [1, 2]})),
            (json!({"a": 1}), json!([{"op": "remove", "path": "/a"}]), json!({})),
            (json!({"a/b": 1}), json!([{"op": "replace", "path": "/a~1b", "value": 2}]), json!({"a/b": 2})),
            (json!({"a": 1}), json!([{"op": "move", "from": "/a", "path": "/b"}]), json!({"b": 1})),
            (json!({"a": 1}), json!([{"op": "copy", "from": "/a", "path": "/b"}]), json!({"a": 1, "b": 1})),
            (
                json!({"a": 1}),
                json!([{"op": "test", "path": "/a", "value": 1}, {"op": "replace", "path": "/a", "value": 2}]),
                json!({"a": 2}),
            ),
            (json!({"a": [1, 2]}), json!([{"op": "remove", "path": "/a/-1"}]), json!({"a": [1]})),
        ] {
            assert_eq!(json(document, &patch).unwrap(), result, "{patch}");
        }
    }

    #[test]
    fn what_cannot_be_applied_is_rejected() {
        for patch in [
            json!([{"op": "remove", "path": "/x"}]),
            json!([{"op": "replace", "path": "/x", "value": 1}]),
            json!([{"op": "add", "path": "/x/y", "value": 1}]),
            json!([{"op": "test", "path": "/a", "value": 2}]),
            json!([{"op": "frobnicate", "path": "/a"}]),
            json!([{"op": "add", "path": "/l/9", "value": 1}]),
            json!([{"op": "remove", "path": "/l/0"}]),
        ] {
            let status = json(json!({"a": 1, "l": []}), &patch).unwrap_err();
            assert_eq!((status.code, status.reason), (422, Reason::Invalid), "{patch}");
        }
        let status = json(json!({}), &json!({"a": 1})).unwrap_err();
        assert_eq!(
            status.message,
            "error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch"
        );
    }
}
