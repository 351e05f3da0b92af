//! Deployment: see `galley_controllers_plan::deployment`.

use galley_controllers_plan::deployment::{COMPONENT, Observed, RESOURCE, Reason, math, new_set_name, plan};
use galley_controllers_plan::{Plan, meta, replica_set};
use galley_store::{DecodeError, ObjectKey};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;

use crate::controller::{Context, Controller, Wake};
use crate::view::{Change, Owner, View};

/// The controller.
#[derive(Debug)]
pub struct Deployments;

fn is_deployment(owner: &Owner) -> bool {
    owner.kind == "Deployment" && owner.api_version.starts_with("apps/")
}

impl Controller for Deployments {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, view: &View, wake: &mut Wake) {
        match change.resource() {
            RESOURCE => wake.key(change.key().clone()),
            replica_set::RESOURCE => {
                wake.controllers(change, RESOURCE, is_deployment);
                if change.now.controller().is_none() {
                    for seen in view.in_namespace(RESOURCE, &change.key().namespace) {
                        let Ok(deployment) = seen.object.typed::<Deployment>() else { continue };
                        let selector = deployment.spec.as_ref().map(|spec| &spec.selector);
                        if selector.is_some_and(|s| meta::selects(s, Some(&change.now.object.labels))) {
                            wake.key(seen.object.key.clone());
                        }
                    }
                }
            }
            // `Recreate` waits for the last old pod to be gone.
            "pods" if change.kind == galley_store::EventKind::Deleted => {
                for owner in change.controllers().filter(|owner| owner.kind == "ReplicaSet") {
                    let set = view.get(replica_set::RESOURCE, &change.key().namespace, &owner.name);
                    if let Some(owner) = set.and_then(|set| set.controller()).filter(|owner| is_deployment(owner)) {
                        wake.object(RESOURCE, &change.key().namespace, &owner.name);
                    }
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let view = context.view;
        let gone = || Plan::nothing(Reason::Gone).explain();
        let Some(deployment) = view.typed::<Deployment>(key)? else { return Ok(gone()) };
        let Some(spec) = &deployment.spec else { return Ok(gone()) };
        let uid = meta::uid(&deployment.metadata);
        let sets = view.claimable::<ReplicaSet>(replica_set::RESOURCE, &key.namespace, uid, &spec.selector)?;
        let mut pods = Vec::new();
        if math::is_recreate(&deployment) {
            for set in &sets {
                for seen in view.controlled_by("pods", meta::uid(&set.metadata)) {
                    pods.push(seen.object.typed::<Pod>()?);
                }
            }
        }
        let name_taken = view.get(replica_set::RESOURCE, &key.namespace, &new_set_name(&deployment)).is_some();
        let observed = Observed { deployment, sets, pods, name_taken, failure: context.failure.cloned() };
        Ok(plan(&observed, context.now).explain())
    }
}
