//! Garbage collection of every resource, custom ones too: see `galley_controllers_plan::garbage`.
//!
//! The owner graph is the view's index by owner uid; a key is any object. An object is looked at when its owners, finalizers
//! or deletion change, when an owner goes or starts to wait, and when a dependent goes.

use galley_controllers_plan::garbage::{COMPONENT, Dependent, FOREGROUND, ORPHAN, Observed, OwnerState, Reason, plan};
use galley_controllers_plan::{Plan, meta};
use galley_store::{DecodeError, EventKind, Object, ObjectKey};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Deserialize;

use crate::controller::{Context, Controller, Wake};
use crate::view::{Change, Owner, Seen, View};

/// The controller.
#[derive(Debug)]
pub struct Garbage;

impl Controller for Garbage {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, view: &View, wake: &mut Wake) {
        let now = change.now;
        let uid = &now.object.uid;
        if change.kind == EventKind::Deleted {
            wake_all(view.owned_by(uid), wake);
            wake_all(now.owners.iter().filter_map(|owner| view.by_uid(&owner.uid)), wake);
            return;
        }
        let same = change.before.is_some_and(|before| {
            before.object.uid == *uid
                && before.deleting == now.deleting
                && before.owners == now.owners
                && before.finalizers == now.finalizers
        });
        if same {
            return;
        }
        if !now.owners.is_empty() || now.deleting {
            wake.key(now.object.key.clone());
        }
        if waits(now) {
            wake_all(view.owned_by(uid), wake);
        }
        // An owner that a dependent no longer names may have waited for it.
        for owner in change.before.into_iter().flat_map(|before| &before.owners) {
            if !now.owners.iter().any(|now| now == owner) {
                wake_all(view.by_uid(&owner.uid).into_iter(), wake);
            }
        }
    }

    fn plan(&mut self, key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let view = context.view;
        let Some(seen) = view.at(key) else { return Ok(Plan::nothing(Reason::Gone).explain()) };
        let owners: Vec<OwnerState> = seen.owners.iter().map(|owner| judge(seen, owner, context)).collect();
        let marked = seen.deleting && seen.finalizers.iter().any(|f| f == ORPHAN || f == FOREGROUND);
        if !marked && owners.iter().all(|owner| *owner == OwnerState::Solid) {
            return Ok(Plan::nothing(Reason::Kept).explain());
        }
        let (meta, about) = metadata(&seen.object)?;
        let mut dependents = Vec::new();
        for dependent in view.owned_by(&seen.object.uid) {
            let resource = dependent.object.key.resource.as_str().to_owned();
            let waits_for_dependents = waits(dependent);
            dependents.push(Dependent { resource, meta: metadata(&dependent.object)?.0, waits_for_dependents });
        }
        let references: Vec<OwnerReference> = meta.owner_references.clone().unwrap_or_default();
        let observed = Observed {
            resource: key.resource.as_str().to_owned(),
            meta,
            about,
            owners: references.into_iter().zip(owners).collect(),
            dependents,
        };
        Ok(plan(&observed).explain())
    }
}

fn wake_all<'a>(seen: impl Iterator<Item = &'a Seen>, wake: &mut Wake) {
    for seen in seen {
        wake.key(seen.object.key.clone());
    }
}

fn waits(seen: &Seen) -> bool {
    seen.deleting && seen.finalizers.iter().any(|finalizer| finalizer == FOREGROUND)
}

fn judge(dependent: &Seen, owner: &Owner, context: &Context<'_>) -> OwnerState {
    let Some(found) = context.view.by_uid(&owner.uid) else {
        let served = (context.served)(&owner.api_version, &owner.kind);
        return if served { OwnerState::Absent } else { OwnerState::Unknown };
    };
    let (here, there) = (&dependent.object.key.namespace, &found.object.key.namespace);
    if !there.is_empty() && here.is_empty() {
        OwnerState::Unknown
    } else if !there.is_empty() && here != there {
        OwnerState::ElsewhereInNamespaces
    } else if found.object.key.name != owner.name {
        OwnerState::Absent
    } else if waits(found) {
        OwnerState::WaitsForDependents
    } else {
        OwnerState::Solid
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Partial {
    api_version: String,
    kind: String,
    metadata: ObjectMeta,
}

/// The metadata of an object of any kind.
fn metadata(object: &Object) -> Result<(ObjectMeta, ObjectReference), DecodeError> {
    let partial: Partial = serde_json::from_slice(&object.body).map_err(|source| DecodeError {
        key: object.key.clone(),
        wanted: "metadata",
        source,
    })?;
    let about = meta::reference(&partial.api_version, &partial.kind, &partial.metadata);
    Ok((partial.metadata, about))
}
