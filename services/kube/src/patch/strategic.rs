//! Strategic merge patch: a merge patch that knows which lists are merged by a key. What `kubectl apply`, `edit`, `scale`,
//! `rollout` and `label` send for built-in kinds.
//!
//! Directives: `$patch: replace|delete|merge` in an object or list item, `$deleteFromPrimitiveList/<field>`,
//! `$setElementOrder/<field>`, `$retainKeys`. Merge keys and strategies come from the schema. (Kubernetes'
//! "strategic-merge-patch" API convention.)

use serde_json::{Map, Value};

use crate::schema::{Field, Ty, Type};
use crate::status::{Reason, Status};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";

/// Applies `patch` to an object of type `ty`.
///
/// Errors: 400 for a malformed directive, 422 for a list item without its merge key.
pub fn strategic(live: Value, patch: Value, ty: &'static Type) -> Result<Value, Status> {
    let (Value::Object(live), Value::Object(patch)) = (live, patch) else {
        return Err(bad_patch("Invalid JSON document"));
    };
    merge_object(live, patch, Some(Ty::Struct(ty.id()))).map(Value::Object)
}

fn bad_patch(why: &str) -> Status {
    Status::bad_request(why.to_owned())
}

fn bad_format(directive: &str) -> Status {
    bad_patch(&format!("invalid patch format of {directive}"))
}

/// The field of this name, when the schema knows it.
fn field_of(ty: Option<Ty>, name: &str) -> Option<&'static Field> {
    match ty {
        Some(Ty::Struct(id)) => id.get().field(name),
        _ => None,
    }
}

fn child_type(ty: Option<Ty>, name: &str) -> Option<Ty> {
    match ty {
        Some(Ty::Struct(id)) => id.get().field(name).map(|f| f.ty),
        Some(Ty::Map(value)) => Some(*value),
        _ => None,
    }
}

fn merge_object(
    mut live: Map<String, Value>,
    mut patch: Map<String, Value>,
    ty: Option<Ty>,
) -> Result<Map<String, Value>, Status> {
    match patch.remove(PATCH) {
        None => {}
        Some(Value::String(directive)) => match directive.as_str() {
            "replace" => return Ok(adopt_object(patch)),
            "delete" => return Ok(Map::new()),
            "merge" => {}
            other => return Err(bad_patch(&format!("unknown patch type found: {other}"))),
        },
        Some(_) => return Err(bad_format("$patch")),
    }
    if let Some(keys) = patch.remove(RETAIN_KEYS) {
        retain_keys(&mut live, &patch, &keys)?;
    }
    let mut orders: Map<String, Value> = Map::new();
    let mut deletions: Map<String, Value> = Map::new();
    patch = patch
        .into_iter()
        .filter_map(|(key, value)| {
            if let Some(field) = key.strip_prefix(ORDER_PREFIX) {
                orders.insert(field.to_owned(), value);
                None
            } else if let Some(field) = key.strip_prefix(DELETE_PREFIX) {
                deletions.insert(field.to_owned(), value);
                None
            } else {
                Some((key, value))
            }
        })
        .collect();
    for (key, removed) in deletions {
        let Value::Array(removed) = removed else { return Err(bad_format("$deleteFromPrimitiveList")) };
        if let Some(Value::Array(items)) = live.get_mut(&key) {
            items.retain(|item| !removed.contains(item));
        }
    }
    for key in orders.keys() {
        // An order without items to merge still orders what is there.
        if !patch.contains_key(key) && live.get(key).is_some_and(Value::is_array) {
            patch.insert(key.clone(), Value::Array(Vec::new()));
        }
    }
    for (key, value) in patch {
        if value.is_null() {
            live.remove(&key);
            continue;
        }
        let merged = match (live.remove(&key), value) {
            (Some(Value::Object(was)), Value::Object(change)) => {
                Value::Object(merge_object(was, change, child_type(ty, &key))?)
            }
            (Some(Value::Array(was)), Value::Array(change)) => match field_of(ty, &key).filter(|f| f.patch_merge) {
                Some(field) => Value::Array(merge_list(was, change, field, orders.get(&key))?),
                None => Value::Array(change.into_iter().map(adopt).collect()),
            },
            (_, change) => adopt(change),
        };
        live.insert(key, merged);
    }
    Ok(live)
}

/// `$retainKeys`: what the patch does not name goes. Each key that the patch sets must be named.
fn retain_keys(live: &mut Map<String, Value>, patch: &Map<String, Value>, keys: &Value) -> Result<(), Status> {
    let named: Option<Vec<&str>> = keys.as_array().and_then(|keys| keys.iter().map(Value::as_str).collect());
    let Some(named) = named else { return Err(bad_format("$retainKeys")) };
    if patch.iter().any(|(key, value)| !value.is_null() && !key.starts_with('$') && !named.contains(&key.as_str())) {
        return Err(bad_format("$retainKeys"));
    }
    live.retain(|key, _| named.contains(&key.as_str()));
    Ok(())
}

/// A part of the patch that has no counterpart: without nulls and directives.
fn adopt(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(adopt_object(members)),
        Value::Array(items) => {
            Value::Array(items.into_iter().filter(|item| !is_directive_item(item)).map(adopt).collect())
        }
        other => other,
    }
}

fn is_directive_item(item: &Value) -> bool {
    matches!(item.get(PATCH).and_then(Value::as_str), Some("delete")) || is_replace_marker(item)
}

/// `{"$patch": "replace"}`: the list is replaced by the other items.
fn is_replace_marker(item: &Value) -> bool {
    item.as_object().is_some_and(|m| m.len() == 1 && m.get(PATCH).is_some_and(|d| d == "replace"))
}

fn adopt_object(members: Map<String, Value>) -> Map<String, Value> {
    members
        .into_iter()
        .filter(|(key, value)| {
            !value.is_null()
                && key != PATCH
                && key != RETAIN_KEYS
                && !key.starts_with(ORDER_PREFIX)
                && !key.starts_with(DELETE_PREFIX)
        })
        .map(|(key, value)| (key, adopt(value)))
        .collect()
}

fn merge_list(
    live: Vec<Value>,
    patch: Vec<Value>,
    field: &'static Field,
    order: Option<&Value>,
) -> Result<Vec<Value>, Status> {
    if patch.iter().any(is_replace_marker) {
        return Ok(patch.into_iter().filter(|item| !is_replace_marker(item)).map(adopt).collect());
    }
    let server_order = live.clone();
    let key = field.patch_merge_key;
    let merged = if key.is_empty() { merge_scalars(live, patch) } else { merge_items(live, patch, field)? };
    match order {
        None => Ok(merged),
        Some(Value::Array(order)) => Ok(in_order(merged, order, &server_order, key)),
        Some(_) => Err(bad_format("$setElementOrder")),
    }
}

fn merge_scalars(mut live: Vec<Value>, patch: Vec<Value>) -> Vec<Value> {
    for item in patch {
        if !live.contains(&item) {
            live.push(item);
        }
    }
    live
}

fn merge_items(live: Vec<Value>, patch: Vec<Value>, field: &'static Field) -> Result<Vec<Value>, Status> {
    let key = field.patch_merge_key;
    let item_type = match field.ty {
        Ty::List(item) => Some(*item),
        _ => None,
    };
    let mut merged = live;
    for item in patch {
        let Value::Object(item) = item else {
            return Err(Status::new(
                500,
                Reason::InternalError,
                format!("{item} is not a map in a list merged by {key}"),
            ));
        };
        let Some(id) = item.get(key).cloned() else { return Err(no_merge_key(&item, key)) };
        if item.get(PATCH).is_some_and(|directive| directive == "delete") {
            merged.retain(|other| other.get(key) != Some(&id));
            continue;
        }
        match merged.iter_mut().find(|other| other.get(key) == Some(&id)) {
            Some(Value::Object(was)) => {
                let was_taken = std::mem::take(was);
                *was = merge_object(was_taken, item, item_type)?;
            }
            _ => merged.push(Value::Object(adopt_object(item))),
        }
    }
    Ok(merged)
}

fn no_merge_key(item: &Map<String, Value>, key: &str) -> Status {
    let shown: Vec<String> = item
        .iter()
        .map(|(k, v)| match v {
            Value::String(text) => format!("{k}:{text}"),
            other => format!("{k}:{other}"),
        })
        .collect();
    Status::new(
        500,
        Reason::InternalError,
        format!("map: map[{}] does not contain declared merge key: {key}", shown.join(" ")),
    )
}

/// Items that the client named in its order, and those that only the server has where they were relative to the others.
fn in_order(items: Vec<Value>, order: &[Value], server_order: &[Value], key: &str) -> Vec<Value> {
    fn id<'v>(item: &'v Value, key: &str) -> Option<&'v Value> {
        if key.is_empty() { Some(item) } else { item.get(key) }
    }
    let place =
        |item: &Value, among: &[Value]| among.iter().position(|o| id(o, key).is_some() && id(o, key) == id(item, key));
    let (mut named, mut server_only): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| place(item, order).is_some());
    named.sort_by_key(|item| place(item, order));
    server_only.sort_by_key(|item| place(item, server_order));
    // An item of the server's stays behind all those that it was behind, however the client orders them.
    let mut result = Vec::with_capacity(named.len() + server_only.len());
    let mut named = std::collections::VecDeque::from(named);
    for theirs in server_only {
        let at = place(&theirs, server_order);
        let before = named.iter().rposition(|ours| place(ours, server_order).is_some_and(|ours| Some(ours) < at));
        result.extend(named.drain(..before.map_or(0, |last| last + 1)));
        result.push(theirs);
    }
    result.extend(named);
    result
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema;

    fn deployment(live: Value, patch: Value) -> Result<Value, Status> {
        strategic(live, patch, schema::kind("apps/v1", "Deployment").unwrap())
    }

    fn containers(live: Value, patch: Value) -> Value {
        let wrap = |c: Value| json!({"spec": {"template": {"spec": c}}});
        deployment(wrap(live), wrap(patch)).unwrap()["spec"]["template"]["spec"].clone()
    }

    #[test]
    fn lists_with_a_merge_key_are_merged() {
        for (live, patch, result) in [
            (
                json!({"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}]}),
                json!({"containers": [{"name": "b", "image": "b:2"}]}),
                json!({"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:2"}]}),
            ),
            (
                json!({"containers": [{"name": "a"}]}),
                json!({"containers": [{"name": "b", "image": "b", "command": null}]}),
                json!({"containers": [{"name": "a"}, {"name": "b", "image": "b"}]}),
            ),
            (
                json!({"containers": [{"name": "a"}, {"name": "b"}]}),
                json!({"containers": [{"$patch": "delete", "name": "a"}]}),
                json!({"containers": [{"name": "b"}]}),
            ),
            (
                json!({"containers": [{"name": "a"}, {"name": "b"}]}),
                json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
                json!({"containers": [{"name": "c"}]}),
            ),
            (
                json!({"containers": [{"name": "a", "args": ["x"]}]}),
                json!({"containers": [{"name": "a", "args": ["y"]}]}),
                json!({"containers": [{"name": "a", "args": ["y"]}]}),
            ),
            (
                json!({"containers": [{"name": "a"}, {"name": "injected"}]}),
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b"}]}),
                json!({"containers": [{"name": "b"}, {"name": "a"}, {"name": "injected"}]}),
            ),
            (
                json!({"containers": [{"name": "a"}, {"name": "b"}]}),
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
                json!({"containers": [{"name": "b"}, {"name": "a"}]}),
            ),
            (
                json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}),
                json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 81}]}]}),
                json!({"containers": [{"name": "a", "ports": [
                    {"containerPort": 80, "protocol": "TCP", "name": "http"}, {"containerPort": 81}]}]}),
            ),
            (
                json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
                json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
                json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
            ),
        ] {
            assert_eq!(containers(live, patch.clone()), result, "{patch}");
        }
    }

    #[test]
    fn objects_merge_unless_told_to_be_replaced() {
        let live = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {}}}});
        let patched = deployment(
            live.clone(),
            json!({"metadata": {"labels": {"a": null, "c": "3"}}, "spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        )
        .unwrap();
        assert_eq!(
            patched,
            json!({"metadata": {"labels": {"b": "2", "c": "3"}}, "spec": {"strategy": {"type": "Recreate"}}})
        );
        let replaced = deployment(live, json!({"metadata": {"labels": {"$patch": "replace", "z": "1"}}})).unwrap();
        assert_eq!(replaced["metadata"]["labels"], json!({"z": "1"}));
    }

    #[test]
    fn lists_of_scalars_are_merged_as_sets_where_the_schema_says_so() {
        let patched = deployment(
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"],
                "$setElementOrder/finalizers": ["c", "b"]}}),
        )
        .unwrap();
        assert_eq!(patched["metadata"]["finalizers"], json!(["c", "b"]));
    }

    #[test]
    fn malformed_patches_say_why() {
        let status = deployment(
            json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}]}}}}),
            json!({"spec": {"template": {"spec": {"containers": [{"image": "nginx"}]}}}}),
        )
        .unwrap_err();
        assert_eq!(status.message, "map: map[image:nginx] does not contain declared merge key: name");
        assert!(deployment(json!({}), json!({"spec": {"$patch": "frob"}})).is_ok());
        assert!(deployment(json!({"spec": {}}), json!({"spec": {"$patch": "frob"}})).is_err());
    }
}
