//! ControllerRevisions: the templates that a DaemonSet or StatefulSet had, numbered.
//!
//! A revision's data is a strategic merge patch that sets the template, so that `kubectl rollout undo` can apply it; it is
//! also how two templates are compared. Source: Kubernetes documentation, ControllerRevision.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};

use crate::action::{Action, Plan};
use crate::meta::{self, Labels};
use crate::template;

/// Where ControllerRevisions are.
pub const RESOURCE: &str = "controllerrevisions.apps";
/// On pods and revisions: which revision.
pub const HASH_LABEL: &str = "controller-revision-hash";

/// What to do about revisions before anything else.
#[derive(Debug)]
pub enum Current<'a> {
    /// The revision of the current template.
    Found(&'a Arc<ControllerRevision>),
    /// It has to be made; its name is taken by another if `None`.
    Create(Option<Value>),
    /// It is there under an old number: the template was taken back.
    Renumber(&'a Arc<ControllerRevision>, i64),
}

/// The patch that sets a template.
pub fn data(template: &PodTemplateSpec) -> Value {
    let mut template = meta::to_value(template);
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// The template that a revision holds.
pub fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// Finds the revision of `wanted` among those of the owner, or says how to make it.
pub fn current<'a>(
    owner: &ObjectMeta,
    reference: &OwnerReference,
    wanted: &PodTemplateSpec,
    collision_count: Option<i32>,
    revisions: &[&'a Arc<ControllerRevision>],
    taken: impl Fn(&str) -> bool,
) -> Current<'a> {
    let data = data(wanted);
    let newest = revisions.iter().map(|r| r.revision).max().unwrap_or(0);
    let equal = revisions.iter().copied().filter(|r| r.data.as_ref().is_some_and(|d| d.0 == data));
    if let Some(found) = equal.max_by_key(|r| r.revision) {
        return if found.revision == newest { Current::Found(found) } else { Current::Renumber(found, newest + 1) };
    }
    let hash = template::hash(&data, collision_count);
    let name = format!("{}-{hash}", meta::name(owner));
    if taken(&name) {
        return Current::Create(None);
    }
    let mut labels: Labels = wanted.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    labels.insert(HASH_LABEL.into(), hash);
    let annotations = owner.annotations.clone().unwrap_or_default();
    Current::Create(Some(json!({
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": name,
            "namespace": meta::namespace(owner),
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [reference],
        },
        "data": data,
        "revision": newest + 1,
    })))
}

/// The name that [`current`] would give the revision of a template.
pub fn name(owner: &ObjectMeta, wanted: &PodTemplateSpec, collision_count: Option<i32>) -> String {
    format!("{}-{}", meta::name(owner), template::hash(&data(wanted), collision_count))
}

/// The hash of a revision.
pub fn hash(revision: &ControllerRevision) -> &str {
    meta::label(&revision.metadata, HASH_LABEL).unwrap_or_default()
}

/// Deletes the oldest revisions that nothing uses, beyond `limit`.
pub fn truncate<R: Clone + std::fmt::Debug>(
    revisions: &[&Arc<ControllerRevision>],
    is_live: impl Fn(&ControllerRevision) -> bool,
    limit: Option<i32>,
    because: R,
    plan: &mut Plan<R>,
) {
    let mut history: Vec<_> = revisions.iter().filter(|r| !is_live(r) && !meta::is_deleting(&r.metadata)).collect();
    history.sort_by_key(|r| r.revision);
    let surplus = history.len().saturating_sub(usize::try_from(limit.unwrap_or(10)).unwrap_or(0));
    for revision in history.into_iter().take(surplus) {
        plan.push(Action::delete(RESOURCE, &revision.metadata, because.clone()));
    }
}
