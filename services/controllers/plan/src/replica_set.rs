//! ReplicaSet: a number of pods of one template. See [`crate::replicas`] for the decisions.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::action::{Action, Failure, Plan};
use crate::meta;
use crate::replicas::{self, Counts, Reason, Set};
use crate::time;

/// Where ReplicaSets are.
pub const RESOURCE: &str = "replicasets.apps";
/// What events and audit call the controller.
pub const COMPONENT: &str = "replicaset-controller";

/// What a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The ReplicaSet.
    pub set: Arc<ReplicaSet>,
    /// Pods it controls, and pods of its namespace that nobody controls.
    pub pods: Vec<Arc<Pod>>,
    /// Pods of all ReplicaSets with the same owner (its own among them).
    pub related: Vec<Arc<Pod>>,
    /// The last attempt, if it failed.
    pub failure: Option<Failure>,
}

/// Observed -> actions.
pub fn plan(observed: &Observed, now: Timestamp) -> Plan<Reason> {
    let set = &*observed.set;
    let Some(spec) = &set.spec else { return Plan::nothing(Reason::Gone) };
    let common = Set {
        meta: &set.metadata,
        reference: meta::controller_reference("apps/v1", "ReplicaSet", &set.metadata),
        about: meta::reference("apps/v1", "ReplicaSet", &set.metadata),
        wanted: spec.replicas.unwrap_or(1),
        min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
        template: spec.template.as_ref(),
    };
    let matches = |pod: &Pod| {
        !meta::selects_everything(&spec.selector) && meta::selects(&spec.selector, pod.metadata.labels.as_ref())
    };
    let counted = replicas::plan(&common, &observed.pods, &observed.related, matches, observed.failure.as_ref(), now);
    let mut plan = counted.plan;
    if let Some(counts) = counted.counts {
        let old = set.status.clone().unwrap_or_default();
        let status = status(set, &old, &counts, counted.failure, now);
        if status != old {
            let updated = ReplicaSet { status: Some(status), ..set.clone() };
            plan.push(Action::update_status(RESOURCE, &set.metadata, &updated, Reason::StatusIsOld));
        }
    }
    let idle = if meta::is_deleting(&set.metadata) { Reason::BeingDeleted } else { Reason::AsWanted };
    plan.or_nothing(idle)
}

fn status(
    set: &ReplicaSet,
    old: &ReplicaSetStatus,
    counts: &Counts,
    failure: Option<(&'static str, String)>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let mut conditions: Vec<ReplicaSetCondition> = old.conditions.clone().unwrap_or_default();
    let known = conditions.iter().any(|c| c.type_ == "ReplicaFailure");
    match failure {
        Some((reason, message)) if !known => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(Time(time::seconds(now))),
        }),
        Some(_) => {}
        None => conditions.retain(|c| c.type_ != "ReplicaFailure"),
    }
    ReplicaSetStatus {
        replicas: counts.replicas,
        fully_labeled_replicas: time::positive(counts.fully_labeled, old.fully_labeled_replicas),
        ready_replicas: time::positive(counts.ready, old.ready_replicas),
        available_replicas: time::positive(counts.available, old.available_replicas),
        terminating_replicas: Some(counts.terminating),
        observed_generation: set.metadata.generation,
        conditions: if conditions.is_empty() { None } else { Some(conditions) },
    }
}

#[cfg(test)]
#[path = "replica_set_tests.rs"]
mod tests;
