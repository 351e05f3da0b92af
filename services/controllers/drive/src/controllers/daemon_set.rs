//! DaemonSet: see `galley_controllers_plan::daemon_set`.

use galley_controllers_plan::daemon_set::{COMPONENT, Observed, RESOURCE, Reason, plan, revision_name};
use galley_controllers_plan::{Plan, meta, revisions};
use galley_store::{DecodeError, ObjectKey};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node;

use crate::controller::{Context, Controller, Wake};
use crate::view::{Change, Owner, View};

/// The controller.
#[derive(Debug)]
pub struct DaemonSets;

fn is_daemon_set(owner: &Owner) -> bool {
    owner.kind == "DaemonSet" && owner.api_version.starts_with("apps/")
}

/// Whether a node changed in what decides where pods belong; heartbeats do not.
fn node_matters(change: &Change<'_>) -> bool {
    let Some(before) = change.before else { return true };
    if before.object.labels != change.now.object.labels {
        return true;
    }
    let spec = |seen: &crate::view::Seen| seen.object.typed::<Node>().ok().map(|node| node.spec.clone());
    spec(before) != spec(change.now)
}

impl Controller for DaemonSets {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, view: &View, wake: &mut Wake) {
        match change.resource() {
            RESOURCE => wake.key(change.key().clone()),
            "nodes" if node_matters(change) => {
                for seen in view.all(RESOURCE) {
                    wake.key(seen.object.key.clone());
                }
            }
            "pods" | revisions::RESOURCE => {
                wake.controllers(change, RESOURCE, is_daemon_set);
                if change.now.controller().is_none() {
                    for seen in view.in_namespace(RESOURCE, &change.key().namespace) {
                        let Ok(set) = seen.object.typed::<DaemonSet>() else { continue };
                        let selector = set.spec.as_ref().map(|spec| &spec.selector);
                        if selector.is_some_and(|s| meta::selects(s, Some(&change.now.object.labels))) {
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
        let gone = || Plan::nothing(Reason::Gone).explain();
        let Some(set) = view.typed::<DaemonSet>(key)? else { return Ok(gone()) };
        let Some(spec) = &set.spec else { return Ok(gone()) };
        let uid = meta::uid(&set.metadata);
        let pods = view.claimable("pods", &key.namespace, uid, &spec.selector)?;
        let history = view.claimable(revisions::RESOURCE, &key.namespace, uid, &spec.selector)?;
        let nodes = view.all("nodes").map(|seen| seen.object.typed()).collect::<Result<_, _>>()?;
        let name_taken = view.get(revisions::RESOURCE, &key.namespace, &revision_name(&set)).is_some();
        let failure = context.failure.cloned();
        let observed = Observed { set, pods, nodes, revisions: history, name_taken, failure };
        Ok(plan(&observed, context.now).explain())
    }
}
