//! ReplicaSet: see `galley_controllers_plan::replica_set`.

use std::sync::Arc;

use galley_controllers_plan::replica_set::{COMPONENT, Observed, RESOURCE, plan};
use galley_controllers_plan::replicas::Reason;
use galley_controllers_plan::{Plan, meta};
use galley_store::{DecodeError, ObjectKey};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;

use crate::controller::{Context, Controller, Wake};
use crate::view::{Change, Owner, View};

/// The controller.
#[derive(Debug)]
pub struct ReplicaSets;

fn is_replica_set(owner: &Owner) -> bool {
    owner.kind == "ReplicaSet" && owner.api_version.starts_with("apps/")
}

impl Controller for ReplicaSets {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, view: &View, wake: &mut Wake) {
        match change.resource() {
            RESOURCE => wake.key(change.key().clone()),
            "pods" => {
                wake.controllers(change, RESOURCE, is_replica_set);
                if change.now.controller().is_none() {
                    wake_adopters(change, view, wake);
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let view = context.view;
        let Some(set) = view.typed::<ReplicaSet>(key)? else { return Ok(Plan::nothing(Reason::Gone).explain()) };
        let Some(spec) = &set.spec else { return Ok(Plan::nothing(Reason::Gone).explain()) };
        let pods = view.claimable("pods", &key.namespace, meta::uid(&set.metadata), &spec.selector)?;
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        let related = if pods.len() > wanted { related(&set, view)? } else { Vec::new() };
        let observed = Observed { set, pods, related, failure: context.failure.cloned() };
        Ok(plan(&observed, context.now).explain())
    }
}

/// An orphan concerns every set of its namespace that selects it.
fn wake_adopters(change: &Change<'_>, view: &View, wake: &mut Wake) {
    for seen in view.in_namespace(RESOURCE, &change.key().namespace) {
        let Ok(set) = seen.object.typed::<ReplicaSet>() else { continue };
        let selector = set.spec.as_ref().map(|spec| &spec.selector);
        if selector.is_some_and(|selector| meta::selects(selector, Some(&change.now.object.labels))) {
            wake.key(seen.object.key.clone());
        }
    }
}

/// Pods of all sets of the same Deployment: only looked at when pods must go, so only gathered then.
fn related(set: &ReplicaSet, view: &View) -> Result<Vec<Arc<Pod>>, DecodeError> {
    let own = meta::uid(&set.metadata);
    let siblings: Vec<&str> = match meta::controller_of(&set.metadata) {
        Some(owner) => view.controlled_by(RESOURCE, &owner.uid).map(|seen| &*seen.object.uid).collect(),
        None => vec![own],
    };
    siblings.iter().flat_map(|uid| view.controlled_by("pods", uid)).map(|seen| seen.object.typed()).collect()
}
