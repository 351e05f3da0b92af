//! Roles and their bindings.

use galley_types::names;
use serde_json::Value;

use super::{Errors, Get, Path};
use crate::status::FieldError;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn role(errors: &mut Errors, object: &Value, namespaced: bool) {
    let path = Path::root("rules");
    for (at, rule) in object.list("rules").iter().enumerate() {
        let path = path.index(at);
        if rule.list("verbs").is_empty() {
            errors.required(&path.field("verbs"), "verbs must contain at least one value");
        }
        if !rule.list("nonResourceURLs").is_empty() {
            let urls = path.field("nonResourceURLs");
            if namespaced {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                errors.invalid(&urls, rule.list("nonResourceURLs").to_vec(), detail);
            }
            if ["apiGroups", "resources", "resourceNames"].iter().any(|f| !rule.list(f).is_empty()) {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(&urls, rule.list("nonResourceURLs").to_vec(), detail);
            }
            continue;
        }
        if rule.list("apiGroups").is_empty() {
            errors.required(&path.field("apiGroups"), "resource rules must supply at least one api group");
        }
        if rule.list("resources").is_empty() {
            errors.required(&path.field("resources"), "resource rules must supply at least one resource");
        }
    }
    let selectors = Path::root("aggregationRule");
    let selectors = selectors.field("clusterRoleSelectors");
    if object.has("aggregationRule") {
        let list = object.at("aggregationRule").list("clusterRoleSelectors");
        if list.is_empty() {
            errors.required(&selectors, "at least one clusterRoleSelector required if aggregationRule is non-nil");
        }
        for (at, selector) in list.iter().enumerate() {
            errors.selector(&selectors.index(at), selector);
        }
    }
}

pub(super) fn binding(errors: &mut Errors, object: &Value, old: Option<&Value>, namespaced: bool) {
    let (role, path) = (object.at("roleRef"), Path::root("roleRef"));
    if role.text("apiGroup") != GROUP {
        errors.not_supported(&path.field("apiGroup"), role.text("apiGroup"), &[GROUP]);
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&role.text("kind")) {
        errors.not_supported(&path.field("kind"), role.text("kind"), kinds);
    }
    let name = role.text("name");
    if name.is_empty() {
        errors.required(&path.field("name"), "");
    } else {
        errors.named(&path.field("name"), name, names::path_segment(name));
    }
    let subjects = Path::root("subjects");
    for (at, subject) in object.list("subjects").iter().enumerate() {
        one_subject(errors, subject, namespaced, &subjects.index(at));
    }
    if let Some(old) = old
        && role != old.at("roleRef")
    {
        errors.push(FieldError::invalid(path, role, "cannot change roleRef"));
    }
}

fn one_subject(errors: &mut Errors, subject: &Value, namespaced: bool, path: &Path<'_>) {
    let (name, group) = (subject.text("name"), subject.text("apiGroup"));
    if name.is_empty() {
        errors.required(&path.field("name"), "");
    }
    match subject.text("kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.named(&path.field("name"), name, names::dns1123_subdomain(name));
            }
            if !group.is_empty() {
                errors.not_supported(&path.field("apiGroup"), group, &[""]);
            }
            if !namespaced && subject.text("namespace").is_empty() {
                errors.required(&path.field("namespace"), "");
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.not_supported(&path.field("apiGroup"), group, &[GROUP]);
            }
        }
        other => errors.not_supported(&path.field("kind"), other, &["ServiceAccount", "User", "Group"]),
    }
}
