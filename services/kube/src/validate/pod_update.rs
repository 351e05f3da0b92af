//! What may change in a pod that exists.

use serde_json::{Map, Value, json};

use super::support::difference;
use super::{Errors, Get, Path};

const CHANGEABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// An update of the pod itself.
pub(super) fn update(errors: &mut Errors, new: &Value, old: &Value) {
    let path = Path::root("spec");
    super::pod::spec(errors, new.at("spec"), &path);
    let (Some(new), Some(old)) = (new.map("spec"), old.map("spec")) else { return };
    for list in ["containers", "initContainers"] {
        let length = |spec: &Map<String, Value>| spec.get(list).and_then(Value::as_array).map_or(0, Vec::len);
        if length(new) != length(old) {
            return errors.forbidden(&path.field(list), "pod updates may not add or remove containers");
        }
    }
    deadline(errors, new, old, &path);
    tolerations(errors, new, old, &path);
    let gates_path = path.field("schedulingGates");
    let gates = |spec: &Map<String, Value>| spec.get("schedulingGates").cloned().unwrap_or(json!([]));
    let (new_gates, old_gates) = (gates(new), gates(old));
    let added: Vec<&str> = new_gates
        .as_array()
        .into_iter()
        .flatten()
        .filter(|gate| !old_gates.as_array().is_some_and(|old| old.contains(gate)))
        .map(|gate| gate.text("name"))
        .collect();
    if !added.is_empty() {
        let detail = format!("only deletion is allowed, but found new scheduling gates '{}'", added.join(", "));
        errors.forbidden(&gates_path, &detail);
    }
    let gated = old_gates.as_array().is_some_and(|gates| !gates.is_empty());
    let mut expected = new.clone();
    put_back(&mut expected, old, gated);
    if expected != *old {
        errors.forbidden(&path, &format!("{CHANGEABLE}\n{}", difference("core.PodSpec", &expected, old)));
    }
}

fn deadline(errors: &mut Errors, new: &Map<String, Value>, old: &Map<String, Value>, path: &Path<'_>) {
    let path = path.field("activeDeadlineSeconds");
    let seconds = |spec: &Map<String, Value>| spec.get("activeDeadlineSeconds").and_then(Value::as_i64);
    match (seconds(new), seconds(old)) {
        (Some(new), Some(old)) if new > old => {
            errors.invalid(&path, new, "must be less than or equal to previous value");
        }
        (None, Some(old)) => errors.invalid(&path, old, "must not update from a positive integer to nil value"),
        _ => {}
    }
}

fn tolerations(errors: &mut Errors, new: &Map<String, Value>, old: &Map<String, Value>, path: &Path<'_>) {
    let list = |spec: &Map<String, Value>| -> Vec<Value> {
        let mut list = spec.get("tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
        for toleration in &mut list {
            // How long a taint is tolerated may change.
            if let Some(toleration) = toleration.as_object_mut() {
                toleration.remove("tolerationSeconds");
            }
        }
        list
    };
    let new_list = list(new);
    if list(old).iter().any(|toleration| !new_list.contains(toleration)) {
        errors.forbidden(
            &path.field("tolerations"),
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
}

/// Undoes every change that is allowed, so that what still differs is not.
fn put_back(new: &mut Map<String, Value>, old: &Map<String, Value>, gated: bool) {
    for list in ["containers", "initContainers"] {
        let Some(Value::Array(items)) = new.get_mut(list) else { continue };
        let was = old.get(list).and_then(Value::as_array);
        for (item, was) in items.iter_mut().zip(was.into_iter().flatten()) {
            restore(item, was, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        restore_member(new, old, field);
    }
    let grace = |spec: &Map<String, Value>| spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64);
    if grace(new) == Some(1) && grace(old).is_some_and(|seconds| seconds < 0) {
        restore_member(new, old, "terminationGracePeriodSeconds");
    }
    if gated {
        // A pod that waits for its gates may be steered elsewhere.
        for field in ["nodeSelector", "affinity"] {
            restore_member(new, old, field);
        }
    }
}

fn restore(item: &mut Value, was: &Value, field: &str) {
    if let (Some(item), Some(was)) = (item.as_object_mut(), was.as_object()) {
        restore_member(item, was, field);
    }
}

fn restore_member(item: &mut Map<String, Value>, was: &Map<String, Value>, field: &str) {
    match was.get(field) {
        Some(value) => item.insert(field.to_owned(), value.clone()),
        None => item.remove(field),
    };
}

/// An update through a subresource of pods.
pub(super) fn subresource(errors: &mut Errors, name: &str, new: &Value, old: &Value) {
    match name {
        "ephemeralcontainers" => ephemeral(errors, new, old),
        "resize" => resize(errors, new, old),
        _ => {}
    }
}

fn ephemeral(errors: &mut Errors, new: &Value, old: &Value) {
    let path = Path::root("spec");
    super::pod::spec(errors, new.at("spec"), &path);
    let path = path.field("ephemeralContainers");
    let list = new.at("spec").list("ephemeralContainers");
    for was in old.at("spec").list("ephemeralContainers") {
        let name = was.text("name");
        match list.iter().enumerate().find(|(_, c)| c.text("name") == name) {
            None => errors.forbidden(&path, &format!("existing ephemeral containers {name:?} may not be removed\n")),
            Some((at, is)) if is != was => {
                let detail = format!("existing ephemeral containers {name:?} may not be changed\n");
                errors.forbidden(&path.index(at), &detail);
            }
            Some(_) => {}
        }
    }
}

fn resize(errors: &mut Errors, new: &Value, old: &Value) {
    let path = Path::root("spec");
    super::pod::spec(errors, new.at("spec"), &path);
    let (Some(new), Some(old)) = (new.map("spec"), old.map("spec")) else { return };
    let mut expected = new.clone();
    for list in ["containers", "initContainers"] {
        let Some(Value::Array(items)) = expected.get_mut(list) else { continue };
        let was = old.get(list).and_then(Value::as_array);
        for (item, was) in items.iter_mut().zip(was.into_iter().flatten()) {
            restore(item, was, "resources");
            restore(item, was, "resizePolicy");
        }
    }
    if expected != *old {
        errors.forbidden(&path, "only cpu and memory resources are mutable");
    }
}
