//! Reading and writing JSON trees by path. Objects travel through the pipeline as `serde_json::Value`, so that a field this
//! build does not model is carried rather than lost.

use serde_json::{Map, Value};

/// The value at a path of object keys, written as a JSON pointer (`/metadata/name`) without escapes. `Value::pointer` makes two
/// texts for each key, to look for escapes: a tenth of what creating a pod took.
pub fn at<'a>(value: &'a Value, pointer: &str) -> Option<&'a Value> {
    pointer.split('/').skip(1).try_fold(value, |value, key| value.as_object()?.get(key))
}

/// The text at a path ([`at`]); empty where there is none.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    at(value, pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The number at a path ([`at`]).
pub fn int(value: &Value, pointer: &str) -> Option<i64> {
    at(value, pointer).and_then(Value::as_i64)
}

/// The array at a path ([`at`]); empty where there is none.
pub fn array<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    at(value, pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The object under `key`, made when it is absent or null.
pub fn object_mut<'a>(parent: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let slot = parent.entry(key).or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("made an object just above"),
    }
}

/// The array under `key`, made when it is absent or null.
pub fn array_mut<'a>(parent: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let slot = parent.entry(key).or_insert_with(|| Value::Array(Vec::new()));
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    match slot {
        Value::Array(list) => list,
        _ => unreachable!("made an array just above"),
    }
}

/// The root of a body as a map; a body that is no object becomes an empty one (decoding has refused those before).
pub fn root(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object just above"),
    }
}

/// The map at a path of keys, made where absent.
pub fn map_at<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let mut map = root(value);
    for key in path {
        map = object_mut(map, key);
    }
    map
}

/// `metadata`, made when absent.
pub fn metadata(value: &mut Value) -> &mut Map<String, Value> {
    map_at(value, &["metadata"])
}

/// Whether two bodies say the same, leaving out what a write changes by itself: resourceVersion and managedFields' times.
pub fn same_but_bookkeeping(a: &Value, b: &Value) -> bool {
    let (Value::Object(a), Value::Object(b)) = (a, b) else { return a == b };
    if a.len() != b.len() {
        return false;
    }
    a.iter().all(|(key, left)| match b.get(key) {
        None => false,
        Some(right) if key == "metadata" => same_metadata(left, right),
        Some(right) => left == right,
    })
}

fn same_metadata(a: &Value, b: &Value) -> bool {
    let (Value::Object(a), Value::Object(b)) = (a, b) else { return a == b };
    let differs = |left: &Map<String, Value>, right: &Map<String, Value>| {
        left.iter().any(|(key, value)| match key.as_str() {
            "resourceVersion" => false,
            "managedFields" => !right.get(key).is_some_and(|other| same_managed_fields(value, other)),
            _ => right.get(key) != Some(value),
        })
    };
    !differs(a, b) && !differs(b, a)
}

fn same_managed_fields(a: &Value, b: &Value) -> bool {
    let (Value::Array(a), Value::Array(b)) = (a, b) else { return a == b };
    let key = |entry: &Value| {
        let mut entry = entry.clone();
        if let Value::Object(map) = &mut entry {
            map.remove("time");
        }
        entry
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| key(a) == key(b))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_leads_where_a_json_pointer_does() {
        let value = json!({"a": {"b": {"c": 1}, "d": "x"}});
        for path in ["", "/a", "/a/b/c", "/a/d", "/a/d/e", "/z", "/a/z"] {
            assert_eq!(at(&value, path), value.pointer(path), "{path}");
        }
    }

    #[test]
    fn bodies_that_differ_in_bookkeeping_only_are_the_same() {
        let a = json!({"metadata": {"name": "a", "resourceVersion": "1",
            "managedFields": [{"manager": "m", "time": "2026-01-01T00:00:00Z"}]}, "spec": {"x": 1}});
        let mut b = json!({"metadata": {"name": "a", "resourceVersion": "2",
            "managedFields": [{"manager": "m", "time": "2026-01-02T00:00:00Z"}]}, "spec": {"x": 1}});
        assert!(same_but_bookkeeping(&a, &b));
        b["metadata"]["managedFields"][0]["manager"] = json!("n");
        assert!(!same_but_bookkeeping(&a, &b));
        b = a.clone();
        b["metadata"]["labels"] = json!({"a": "b"});
        assert!(!same_but_bookkeeping(&a, &b));
        b = a.clone();
        b["spec"]["x"] = json!(2);
        assert!(!same_but_bookkeeping(&a, &b));
    }
}
