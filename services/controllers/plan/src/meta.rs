//! Metadata that every controller reads: owners, selectors, names.

use std::collections::BTreeMap;

use galley_types::{LabelSet, ResourceName};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use serde::Serialize;
use serde_json::{Value, json};

use crate::action::Action;

/// Labels as the types hold them.
pub type Labels = BTreeMap<String, String>;

/// `metadata.name`, empty where it is missing.
pub fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

/// `metadata.namespace`, empty for cluster-scoped objects.
pub fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or_default()
}

/// `metadata.uid`.
pub fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

/// Whether deletion was asked for.
pub fn is_deleting(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

/// A label's value.
pub fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str)
}

/// An annotation's value.
pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether the object has this finalizer.
pub fn has_finalizer(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|f| f == finalizer)
}

/// The owner that manages this object, if one does.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether the object with `uid` manages this one.
pub fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

/// The reference that a controller sets on what it makes.
pub fn controller_reference(api_version: &str, kind: &str, owner: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: api_version.into(),
        kind: kind.into(),
        name: name(owner).into(),
        uid: uid(owner).into(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// `involvedObject` of an event.
pub fn reference(api_version: &str, kind: &str, meta: &ObjectMeta) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version.into()),
        kind: Some(kind.into()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// A typed object as JSON. The types are plain data: this cannot fail for any of them.
pub fn to_value<T: Serialize>(object: &T) -> Value {
    serde_json::to_value(object).unwrap_or(Value::Null)
}

/// Whether `selector` matches. An empty selector matches everything; an operator that is not known, nothing.
/// Source: Kubernetes API reference, `LabelSelector`.
pub fn selects<L: LabelSet>(selector: &LabelSelector, labels: Option<&L>) -> bool {
    let label = |key: &str| labels.and_then(|labels| labels.label(key));
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| label(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let value = label(&requirement.key);
            let listed = |v: &str| requirement.values.iter().flatten().any(|wanted| wanted == v);
            match requirement.operator.as_str() {
                "In" => value.is_some_and(listed),
                "NotIn" => !value.is_some_and(listed),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Whether a selector says nothing (controllers treat that as an error of the user, not as 'everything').
pub fn selects_everything(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// What a controller does about an object that it may own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Its own, and still selected.
    Owned,
    /// Nobody's, selected: take it.
    Adopt,
    /// Its own, but no longer selected: let go.
    Release,
    /// Somebody else's, or not selected.
    Ignore,
}

/// Who an object belongs to, seen from the owner.
pub fn claim(object: &ObjectMeta, owner: &ObjectMeta, matches: bool) -> Claim {
    match controller_of(object) {
        Some(reference) if reference.uid != uid(owner) => Claim::Ignore,
        Some(_) if matches => Claim::Owned,
        Some(_) if is_deleting(owner) => Claim::Ignore,
        Some(_) => Claim::Release,
        None if !matches || is_deleting(owner) || is_deleting(object) => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// Makes `reference` an owner of the object.
pub fn adopt<R>(resource: &str, object: &ObjectMeta, reference: &OwnerReference, because: R) -> Action<R> {
    let mut owners: Vec<OwnerReference> = object.owner_references.clone().unwrap_or_default();
    owners.retain(|owner| owner.uid != reference.uid);
    owners.push(reference.clone());
    Action::merge(resource, object, json!({"metadata": {"ownerReferences": owners}}), because)
}

/// Removes the owner with `uid` from the object.
pub fn release<R>(resource: &str, object: &ObjectMeta, owner_uid: &str, because: R) -> Action<R> {
    let mut owners: Vec<OwnerReference> = object.owner_references.clone().unwrap_or_default();
    owners.retain(|owner| owner.uid != owner_uid);
    let owners = if owners.is_empty() { Value::Null } else { json!(owners) };
    Action::merge(resource, object, json!({"metadata": {"ownerReferences": owners}}), because)
}

/// `metadata.finalizers` without `finalizer`, as a merge patch.
pub fn remove_finalizer<R>(resource: &str, object: &ObjectMeta, finalizer: &str, because: R) -> Action<R> {
    let left: Vec<&String> = object.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
    let left = if left.is_empty() { Value::Null } else { json!(left) };
    Action::merge(resource, object, json!({"metadata": {"finalizers": left}}), because)
}

/// The resource of a kind that an owner reference or an event names, for built-in kinds.
pub fn is_kind(reference: &OwnerReference, group: &str, kind: &str) -> bool {
    let owner_group = reference.api_version.split_once('/').map_or("", |(group, _)| group);
    reference.kind == kind && owner_group == group
}

/// `deployments.apps` from its parts.
pub fn resource(plural: &str, group: &str) -> ResourceName {
    ResourceName::new(plural, group)
}
