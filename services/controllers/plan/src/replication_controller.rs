//! ReplicationController: a ReplicaSet of before. See [`crate::replicas`] for the decisions.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Pod, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};

use crate::action::{Action, Failure, Plan};
use crate::meta;
use crate::replicas::{self, Reason, Set};
use crate::time;

/// Where ReplicationControllers are.
pub const RESOURCE: &str = "replicationcontrollers";
/// What events and audit call the controller.
pub const COMPONENT: &str = "replication-controller";

/// What a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The ReplicationController.
    pub set: Arc<ReplicationController>,
    /// Pods it controls, and pods of its namespace that nobody controls.
    pub pods: Vec<Arc<Pod>>,
    /// The last attempt, if it failed.
    pub failure: Option<Failure>,
}

/// The selector, as newer kinds write it.
pub fn selector(set: &ReplicationController) -> LabelSelector {
    LabelSelector { match_labels: set.spec.as_ref().and_then(|s| s.selector.clone()), match_expressions: None }
}

/// Observed -> actions.
pub fn plan(observed: &Observed, now: Timestamp) -> Plan<Reason> {
    let set = &*observed.set;
    let Some(spec) = &set.spec else { return Plan::nothing(Reason::Gone) };
    let common = Set {
        meta: &set.metadata,
        reference: meta::controller_reference("v1", "ReplicationController", &set.metadata),
        about: meta::reference("v1", "ReplicationController", &set.metadata),
        wanted: spec.replicas.unwrap_or(1),
        min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
        template: spec.template.as_ref(),
    };
    let selector = selector(set);
    let matches =
        |pod: &Pod| !meta::selects_everything(&selector) && meta::selects(&selector, pod.metadata.labels.as_ref());
    let counted = replicas::plan(&common, &observed.pods, &observed.pods, matches, observed.failure.as_ref(), now);
    let mut plan = counted.plan;
    if let Some(counts) = counted.counts {
        let old = set.status.clone().unwrap_or_default();
        let mut conditions = old.conditions.clone().unwrap_or_default();
        let known = conditions.iter().any(|c| c.type_ == "ReplicaFailure");
        match counted.failure {
            Some((reason, message)) if !known => conditions.push(ReplicationControllerCondition {
                type_: "ReplicaFailure".into(),
                status: "True".into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_transition_time: Some(Time(time::seconds(now))),
            }),
            Some(_) => {}
            None => conditions.retain(|c| c.type_ != "ReplicaFailure"),
        }
        let status = ReplicationControllerStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: time::positive(counts.fully_labeled, old.fully_labeled_replicas),
            ready_replicas: time::positive(counts.ready, old.ready_replicas),
            available_replicas: time::positive(counts.available, old.available_replicas),
            observed_generation: set.metadata.generation,
            conditions: Some(conditions).filter(|conditions| !conditions.is_empty()),
        };
        if status != old {
            let updated = ReplicationController { status: Some(status), ..set.clone() };
            plan.push(Action::update_status(RESOURCE, &set.metadata, &updated, Reason::StatusIsOld));
        }
    }
    let idle = if meta::is_deleting(&set.metadata) { Reason::BeingDeleted } else { Reason::AsWanted };
    plan.or_nothing(idle)
}
