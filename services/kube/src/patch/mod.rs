//! The patches that clients send: JSON patch (RFC 6902), JSON merge patch (RFC 7386), strategic merge patch.
//!
//! All work on trees. What comes out is decoded, defaulted and validated again like any other write, so a patch cannot make an
//! object that an update could not. Server-side apply is in [`crate::apply`].

mod json;
mod strategic;

pub use json::json;
pub use strategic::strategic;

use serde_json::{Value, json};

use crate::status::{FieldError, Status};

/// What is said of a patch whose result does not decode: `error` is what decoding said. `strategic` tells the kind of the
/// patch, for the messages of the two differ.
pub fn undecodable(strategic: bool, patch: &Value, patched: &Value, error: &Status) -> Status {
    // The result's kind is not the point, its patch is.
    let why = error.message.split_once(" cannot be handled as a ").and_then(|(_, rest)| rest.split_once(": "));
    let Some((_, why)) = why else { return error.clone() };
    let (shown, why) = match why.rsplit_once(" of type ") {
        Some((_, wanted)) if strategic => (go_map(patch), format!("unrecognized type: {wanted}")),
        _ if strategic => (go_map(patch), why.to_owned()),
        _ => (patched.to_string(), why.to_owned()),
    };
    Status::invalid("", "", "", &[FieldError::invalid("patch", &json!(shown), &why)])
}

/// As Go prints a tree: `map[spec:map[replicas:two]]`.
fn go_map(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members: Vec<String> = members.iter().map(|(key, value)| format!("{key}:{}", go_map(value))).collect();
            format!("map[{}]", members.join(" "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(go_map).collect::<Vec<_>>().join(" ")),
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".into(),
        other => other.to_string(),
    }
}

/// Applies a JSON merge patch: null removes, objects merge, everything else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.as_str()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{self, Body, FieldValidation};

    #[test]
    fn a_patch_with_an_unreadable_result_is_invalid_itself() {
        let ty = schema::kind("apps/v1", "Deployment").unwrap();
        let patch = json!({"spec": {"replicas": "two"}});
        let decoded = schema::decode(ty, "apps/v1", "Deployment", Body::Value(patch.clone()), FieldValidation::Strict);
        let error = decoded.unwrap_err();
        assert_eq!(
            undecodable(true, &patch, &patch, &error).message,
            " \"\" is invalid: patch: Invalid value: \"map[spec:map[replicas:two]]\": unrecognized type: int32"
        );
        let merged = undecodable(false, &patch, &patch, &error);
        assert!(merged.message.ends_with("of type int32"), "{}", merged.message);
        assert_eq!(merged.code, 422);
        let decoded = schema::decode(
            ty,
            "apps/v1",
            "Deployment",
            Body::Value(json!({"spec": {"x": 1}})),
            FieldValidation::Strict,
        );
        let strict = undecodable(true, &json!({"spec": {"x": 1}}), &Value::Null, &decoded.unwrap_err());
        assert!(strict.message.ends_with("strict decoding error: unknown field \"spec.x\""), "{}", strict.message);
    }

    #[test]
    fn merge_patches_follow_the_examples_of_rfc_7386() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut merged = target.clone();
            merge(&mut merged, &patch);
            assert_eq!(merged, result, "{target} with {patch}");
        }
    }
}
