//! What a Deployment says of itself.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::math;
use crate::meta;
use crate::time::{self, positive};

/// Sets what a rollout needs to tell progress from standstill.
pub const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
/// The rollout did not progress in time.
pub const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// `progressDeadlineSeconds`, if there is one.
pub fn progress_deadline(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref()?.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)
}

/// A condition by type.
pub fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// A condition that begins now.
pub fn new_condition(kind: &str, status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    let now = Some(Time(time::seconds(now)));
    DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: now.clone(),
        last_transition_time: now,
    }
}

/// Sets a condition; one that says the same already stays as it is.
pub fn set(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    if let Some(current) = self::condition(status, &condition.type_) {
        if current.status == condition.status && current.reason == condition.reason {
            return;
        }
        if current.status == condition.status {
            condition.last_transition_time.clone_from(&current.last_transition_time);
        }
    }
    remove(status, &condition.type_);
    status.conditions.get_or_insert_default().push(condition);
}

/// Removes a condition.
pub fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| c.type_ != kind);
        if conditions.is_empty() {
            status.conditions = None;
        }
    }
}

/// Counts and availability.
pub fn calculate(
    deployment: &Deployment,
    sets: &[&Arc<ReplicaSet>],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let sum = |count: &dyn Fn(&ReplicaSet) -> i32| sets.iter().map(|set| count(set)).sum::<i32>();
    let of = |set: &ReplicaSet| set.status.clone().unwrap_or_default();
    let available = sum(&|set| of(set).available_replicas.unwrap_or(0));
    let unavailable = (sum(&math::replicas) - available).max(0);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: positive(sum(&|set| of(set).replicas), old.replicas),
        updated_replicas: positive(new.map_or(0, |set| of(set).replicas), old.updated_replicas),
        ready_replicas: positive(sum(&|set| of(set).ready_replicas.unwrap_or(0)), old.ready_replicas),
        available_replicas: positive(available, old.available_replicas),
        unavailable_replicas: positive(unavailable, old.unavailable_replicas),
        terminating_replicas: Some(sum(&|set| of(set).terminating_replicas.unwrap_or(0))),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let enough = available >= math::desired(deployment) - math::bounds(deployment).unavailable;
    set(
        &mut status,
        if enough {
            let text = "Deployment has minimum availability.".into();
            new_condition("Available", "True", "MinimumReplicasAvailable", text, now)
        } else {
            let text = "Deployment does not have minimum availability.".into();
            new_condition("Available", "False", "MinimumReplicasUnavailable", text, now)
        },
    );
    status
}

/// Every pod is of the new template and available.
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let desired = math::desired(deployment);
    let all = |count: Option<i32>| count.unwrap_or(0) == desired;
    all(status.updated_replicas)
        && all(status.replicas)
        && all(status.available_replicas)
        && status.observed_generation >= deployment.metadata.generation
}

fn is_progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |count: Option<i32>| count.unwrap_or(0);
    let old_pods = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || old_pods(new) < old_pods(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

/// When the rollout times out unless it progresses; `None` where it cannot.
pub fn deadline(deployment: &Deployment, status: &DeploymentStatus) -> Option<Timestamp> {
    let seconds = progress_deadline(deployment)?;
    let progressing = condition(status, "Progressing")?;
    if matches!(progressing.reason.as_deref(), Some(NEW_SET_AVAILABLE | TIMED_OUT)) {
        return None;
    }
    let from = progressing.last_update_time.as_ref()?.0;
    Some(time::after(from, seconds.into()))
}

/// Progress and failures of a rollout, on top of [`calculate`].
pub fn rollout(
    deployment: &Deployment,
    sets: &[&Arc<ReplicaSet>],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let mut status = calculate(deployment, sets, new, now);
    let old = deployment.status.clone().unwrap_or_default();
    let current = condition(&old, "Progressing").cloned();
    if progress_deadline(deployment).is_none() {
        remove(&mut status, "Progressing");
    } else {
        let was_complete = status.replicas.unwrap_or(0) == status.updated_replicas.unwrap_or(0)
            && current.as_ref().is_some_and(|c| c.reason.as_deref() == Some(NEW_SET_AVAILABLE));
        if !was_complete {
            progress(deployment, &old, &mut status, current, new, now);
        }
    }
    match failure_of(sets, new) {
        Some(failure) => set(&mut status, failure),
        None => remove(&mut status, "ReplicaFailure"),
    }
    status
}

fn progress(
    deployment: &Deployment,
    old: &DeploymentStatus,
    status: &mut DeploymentStatus,
    current: Option<DeploymentCondition>,
    new: Option<&ReplicaSet>,
    now: Timestamp,
) {
    let who = match new {
        Some(set) => format!("ReplicaSet {:?}", meta::name(&set.metadata)),
        None => format!("Deployment {:?}", meta::name(&deployment.metadata)),
    };
    if is_complete(deployment, status) {
        let text = format!("{who} has successfully progressed.");
        set(status, new_condition("Progressing", "True", NEW_SET_AVAILABLE, text, now));
    } else if is_progressing(old, status) {
        let text = format!("{who} is progressing.");
        let mut condition = new_condition("Progressing", "True", "ReplicaSetUpdated", text, now);
        if let Some(current) = current {
            if current.status == "True" {
                condition.last_transition_time = current.last_transition_time;
            }
            remove(status, "Progressing");
        }
        set(status, condition);
    } else if deadline(deployment, status).is_some_and(|at| at < now) {
        let text = format!("{who} has timed out progressing.");
        set(status, new_condition("Progressing", "False", TIMED_OUT, text, now));
    }
}

fn failure_of(sets: &[&Arc<ReplicaSet>], new: Option<&ReplicaSet>) -> Option<DeploymentCondition> {
    let others = sets.iter().map(|set| &***set);
    new.into_iter().chain(others).find_map(|set| {
        let failure = set.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "ReplicaFailure")?;
        Some(DeploymentCondition {
            type_: "ReplicaFailure".into(),
            status: failure.status.clone(),
            reason: failure.reason.clone(),
            message: failure.message.clone(),
            last_update_time: failure.last_transition_time.clone(),
            last_transition_time: failure.last_transition_time.clone(),
        })
    })
}
