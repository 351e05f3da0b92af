//! Defaults of RBAC objects.

use serde_json::{Map, Value};

use super::{child, items, set, text};

const GROUP: &str = "rbac.authorization.k8s.io";

/// `rules` is always there.
pub(super) fn role(object: &mut Map<String, Value>) {
    set(object, "rules", Value::Null);
}

pub(super) fn binding(object: &mut Map<String, Value>) {
    let role = child(object, "roleRef");
    if text(role, "apiGroup").is_empty() {
        role.insert("apiGroup".into(), GROUP.into());
    }
    for subject in items(object, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            set(subject, "apiGroup", GROUP);
        }
    }
}
