//! PodDisruptionBudget: see `galley_controllers_plan::disruption`.

use std::sync::Arc;

use galley_controllers_plan::disruption::{COMPONENT, Observed, RESOURCE, plan};
use galley_controllers_plan::{Plan, meta, pod};
use galley_store::{DecodeError, Labels, ObjectKey};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::Value;

use crate::controller::{Context, Controller, Wake};
use crate::view::{Change, Seen, View};

/// The controller.
#[derive(Debug)]
pub struct Disruption;

/// Workloads whose `spec.replicas` says how many pods there should be.
const SCALED: [&str; 4] = ["replicasets.apps", "deployments.apps", "statefulsets.apps", "replicationcontrollers"];

impl Controller for Disruption {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, view: &View, wake: &mut Wake) {
        let key = change.key();
        match change.resource() {
            RESOURCE => wake.key(key.clone()),
            "pods" => {
                let mut budgets = view.in_namespace(RESOURCE, &key.namespace).peekable();
                if budgets.peek().is_none() || !concerns(change) {
                    return;
                }
                for seen in budgets {
                    let selects = |pod: &Seen| selects(seen, &pod.object.labels);
                    if selects(change.now) || change.before.is_some_and(selects) {
                        wake.key(seen.object.key.clone());
                    }
                }
            }
            resource
                if SCALED.contains(&resource)
                    && change.before.is_none_or(|before| replicas(before) != replicas(change.now)) =>
            {
                for seen in view.in_namespace(RESOURCE, &key.namespace) {
                    wake.key(seen.object.key.clone());
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let view = context.view;
        let Some(budget) = view.typed::<PodDisruptionBudget>(key)? else {
            return Ok(Plan::nothing("the budget is gone".into()));
        };
        let mut observed = Observed { budget: budget.clone(), ..Observed::default() };
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        for seen in selector.into_iter().flat_map(|selector| view.selected_pods(&key.namespace, selector)) {
            let found: Arc<Pod> = seen.object.typed()?;
            if pod::is_terminal(&found) {
                continue;
            }
            match scale(view, seen) {
                Some((uid, replicas)) => {
                    observed.scales.insert(uid, replicas);
                }
                None => observed.unmanaged += 1,
            }
            observed.pods.push(found);
        }
        Ok(plan(&observed, context.now).explain())
    }
}

fn selects(budget: &Seen, labels: &Labels) -> bool {
    budget.object.typed::<PodDisruptionBudget>().is_ok_and(|budget| {
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|selector| meta::selects(selector, Some(labels)))
    })
}

/// Whether a pod's change is one that budgets count.
fn concerns(change: &Change<'_>) -> bool {
    let Some(before) = change.before else { return true };
    let told = |seen: &Seen| {
        let pod = seen.object.typed::<Pod>().ok()?;
        Some((pod::is_ready(&pod), pod::is_terminal(&pod), seen.deleting))
    };
    before.object.labels != change.now.object.labels || told(before) != told(change.now)
}

/// The workload that decides how many pods like this one there are, and how many that is: a ReplicaSet's Deployment rather
/// than the set itself.
fn scale(view: &View, pod: &Seen) -> Option<(String, i32)> {
    let mut owner = view.by_uid(&pod.controller()?.uid)?;
    if owner.object.key.resource.as_str() == "replicasets.apps"
        && let Some(above) = owner.controller().and_then(|above| view.by_uid(&above.uid))
    {
        owner = above;
    }
    Some((owner.object.uid.to_string(), replicas(owner)?))
}

fn replicas(workload: &Seen) -> Option<i32> {
    if !SCALED.contains(&workload.object.key.resource.as_str()) {
        return None;
    }
    let value: Value = workload.object.value().ok()?;
    value.pointer("/spec/replicas").map_or(Some(1), |n| i32::try_from(n.as_i64()?).ok())
}
