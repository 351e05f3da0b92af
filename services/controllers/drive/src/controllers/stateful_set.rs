//! StatefulSet: see `galley_controllers_plan::stateful_set`.

use std::collections::BTreeMap;

use galley_controllers_plan::stateful_set::{COMPONENT, Observed, RESOURCE, Reason, claim_names, plan, revision_name};
use galley_controllers_plan::{Plan, meta, revisions};
use galley_store::{DecodeError, EventKind, ObjectKey};
use k8s_openapi::api::apps::v1::StatefulSet;

use crate::controller::{Context, Controller, Wake};
use crate::view::{Change, Owner, View};

const CLAIMS: &str = "persistentvolumeclaims";

/// The controller.
#[derive(Debug)]
pub struct StatefulSets;

fn is_stateful_set(owner: &Owner) -> bool {
    owner.kind == "StatefulSet" && owner.api_version.starts_with("apps/")
}

impl Controller for StatefulSets {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, view: &View, wake: &mut Wake) {
        match change.resource() {
            RESOURCE => wake.key(change.key().clone()),
            // A claim that goes is missed by its pod's set.
            CLAIMS if change.kind == EventKind::Deleted => {
                for seen in view.in_namespace(RESOURCE, &change.key().namespace) {
                    wake.key(seen.object.key.clone());
                }
            }
            "pods" | revisions::RESOURCE => {
                wake.controllers(change, RESOURCE, is_stateful_set);
                if change.now.controller().is_none() {
                    for seen in view.in_namespace(RESOURCE, &change.key().namespace) {
                        let Ok(set) = seen.object.typed::<StatefulSet>() else { continue };
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
        let Some(set) = view.typed::<StatefulSet>(key)? else { return Ok(gone()) };
        let Some(spec) = &set.spec else { return Ok(gone()) };
        let uid = meta::uid(&set.metadata);
        let pods = view.claimable("pods", &key.namespace, uid, &spec.selector)?;
        let history = view.claimable(revisions::RESOURCE, &key.namespace, uid, &spec.selector)?;
        let mut claims = BTreeMap::new();
        for name in claim_names(&set, &pods) {
            if let Some(seen) = view.get(CLAIMS, &key.namespace, &name) {
                claims.insert(name, seen.object.typed()?);
            }
        }
        let name_taken = view.get(revisions::RESOURCE, &key.namespace, &revision_name(&set)).is_some();
        let failure = context.failure.cloned();
        let observed = Observed { set, pods, claims, revisions: history, name_taken, failure };
        Ok(plan(&observed, context.now).explain())
    }
}
