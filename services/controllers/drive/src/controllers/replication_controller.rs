//! ReplicationController: see `galley_controllers_plan::replication_controller`.

use galley_controllers_plan::replicas::Reason;
use galley_controllers_plan::replication_controller::{COMPONENT, Observed, RESOURCE, plan, selector};
use galley_controllers_plan::{Plan, meta};
use galley_store::{DecodeError, ObjectKey};
use k8s_openapi::api::core::v1::ReplicationController;

use crate::controller::{Context, Controller, Wake};
use crate::view::{Change, View};

/// The controller.
#[derive(Debug)]
pub struct ReplicationControllers;

impl Controller for ReplicationControllers {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, view: &View, wake: &mut Wake) {
        match change.resource() {
            RESOURCE => wake.key(change.key().clone()),
            "pods" => {
                wake.controllers(change, RESOURCE, |owner| owner.kind == "ReplicationController");
                if change.now.controller().is_none() {
                    for seen in view.in_namespace(RESOURCE, &change.key().namespace) {
                        let Ok(set) = seen.object.typed::<ReplicationController>() else { continue };
                        if meta::selects(&selector(&set), Some(&change.now.object.labels)) {
                            wake.key(seen.object.key.clone());
                        }
                    }
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let view = context.view;
        let Some(set) = view.typed::<ReplicationController>(key)? else {
            return Ok(Plan::nothing(Reason::Gone).explain());
        };
        let pods = view.claimable("pods", &key.namespace, meta::uid(&set.metadata), &selector(&set))?;
        let observed = Observed { set, pods, failure: context.failure.cloned() };
        Ok(plan(&observed, context.now).explain())
    }
}
