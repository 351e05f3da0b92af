//! `metadata`: names, labels, annotations, owners, finalizers.

use galley_types::names;
use serde_json::{Value, json};

use super::{Errors, Get, Path};
use crate::Resource;
use crate::status::FieldError;

/// All keys and values of annotations together.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// The rule for names of a resource's objects.
fn name_rule(resource: &Resource) -> fn(&str) -> Vec<String> {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "namespaces") => names::dns1123_label,
        ("", "services") => names::dns1035_label,
        ("rbac.authorization.k8s.io", _)
        | ("flowcontrol.apiserver.k8s.io", _)
        | ("certificates.k8s.io", "certificatesigningrequests") => names::path_segment,
        ("networking.k8s.io", "ipaddresses") => |_| Vec::new(),
        _ => names::dns1123_subdomain,
    }
}

pub(super) fn create(errors: &mut Errors, resource: &Resource, object: &Value) {
    let metadata = object.at("metadata");
    let path = Path::root("metadata");
    let rule = name_rule(resource);
    let prefix = metadata.text("generateName");
    if !prefix.is_empty() {
        // A name is added to the prefix, so that a trailing dash is fine.
        let complete = format!("{}a", prefix);
        errors.named(&path.field("generateName"), prefix, rule(&complete));
    }
    let name = metadata.text("name");
    if name.is_empty() {
        errors.required(&path.field("name"), "name or generateName is required");
    } else {
        errors.named(&path.field("name"), name, rule(name));
    }
    let namespace = metadata.text("namespace");
    if resource.namespaced {
        errors.required_name(&path.field("namespace"), namespace, names::dns1123_label);
    } else if !namespace.is_empty() {
        errors.forbidden(&path.field("namespace"), "not allowed on this type");
    }
    errors.non_negative(&path.field("generation"), metadata.int("generation"));
    labels_and_annotations(errors, metadata, &path);
    owners(errors, metadata.list("ownerReferences"), &path.field("ownerReferences"));
    finalizers(errors, metadata.list("finalizers"), &path.field("finalizers"));
}

/// Labels and annotations of an object or of a template.
pub(super) fn labels_and_annotations(errors: &mut Errors, metadata: &Value, path: &Path<'_>) {
    errors.labels(&path.field("labels"), metadata.at("labels"));
    let path = path.field("annotations");
    let mut size = 0;
    for (key, value) in metadata.map("annotations").into_iter().flatten() {
        errors.named(&path, key, names::qualified_name(&key.to_lowercase()));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX {
        errors.push(FieldError::too_long(path, ANNOTATIONS_MAX));
    }
}

fn owners(errors: &mut Errors, owners: &[Value], path: &Path<'_>) {
    let mut controller: Option<&str> = None;
    for owner in owners {
        let api_version = owner.text("apiVersion");
        if api_version.is_empty() || api_version.ends_with('/') {
            errors.invalid(&path.field("apiVersion"), api_version, "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if owner.text(field).is_empty() {
                errors.invalid(&path.field(field), "", "must not be empty");
            }
        }
        if api_version == "v1" && owner.text("kind") == "Event" {
            errors.invalid(path, owner.clone(), "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.flag("controller") {
            if let Some(other) = controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {other} and {}",
                    owner.text("name")
                );
                errors.invalid(path, json!(owners), &detail);
            }
            controller = Some(owner.text("name"));
        }
    }
}

fn finalizers(errors: &mut Errors, finalizers: &[Value], path: &Path<'_>) {
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    for (at, finalizer) in finalizers.iter().enumerate() {
        let name = finalizer.as_str().unwrap_or("");
        finalizer_name(errors, name, &path.index(at));
    }
    if has("orphan") && has("foregroundDeletion") {
        errors.invalid(path, json!(finalizers), "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

pub(super) fn finalizer_name(errors: &mut Errors, name: &str, path: &Path<'_>) {
    errors.named(path, name, names::qualified_name(name));
    if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
        errors.invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified");
    }
}

pub(super) fn update(errors: &mut Errors, new: &Value, old: &Value) {
    let path = Path::root("metadata");
    let (new, old) = (new.at("metadata"), old.at("metadata"));
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        errors.immutable(&path.field(field), new.at(field), old.at(field));
    }
    if let (Some(new), Some(old)) = (new.int("generation"), old.int("generation"))
        && new < old
    {
        errors.invalid(&path.field("generation"), new, "must not be decremented");
    }
    if old.has("deletionTimestamp") {
        let added: Vec<&str> = new
            .list("finalizers")
            .iter()
            .filter(|f| !old.list("finalizers").contains(f))
            .filter_map(Value::as_str)
            .collect();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            );
            errors.forbidden(&path.field("finalizers"), &detail);
        }
    }
}
