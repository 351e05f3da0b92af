//! PodDisruptionBudget: how many of its pods may be disrupted now.
//!
//! Eviction takes `disruptionsAllowed` down and names the pod in `disruptedPods` in one write; this controller counts afresh
//! from what is true, and believes in a disruption only for a while. Rules: Kubernetes documentation, 'Specifying a
//! Disruption Budget for your Application'.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::action::{Action, Note, Plan};
use crate::{meta, pod, time};

/// Where budgets are.
pub const RESOURCE: &str = "poddisruptionbudgets.policy";
/// What events and audit call the controller.
pub const COMPONENT: &str = "controllermanager";
/// An eviction that did not lead to a deletion within this is no disruption.
const BELIEF: SignedDuration = SignedDuration::from_secs(120);

/// What a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The budget.
    pub budget: Arc<PodDisruptionBudget>,
    /// The pods it selects.
    pub pods: Vec<Arc<Pod>>,
    /// The scale (`spec.replicas`) of each workload that the pods belong to, by its uid.
    pub scales: BTreeMap<String, i32>,
    /// Pods that belong to no workload with a scale.
    pub unmanaged: usize,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The figures changed.
    StatusIsOld,
    /// They are right.
    AsWanted,
}

/// Observed -> actions.
pub fn plan(observed: &Observed, now: Timestamp) -> Plan<Reason> {
    let budget = &*observed.budget;
    let Some(spec) = &budget.spec else { return Plan::nothing(Reason::AsWanted) };
    let mut plan = Plan::new();
    let old = budget.status.clone().unwrap_or_default();
    let by_count = matches!(spec.min_available, Some(IntOrString::Int(_)));
    let about = meta::reference("policy/v1", "PodDisruptionBudget", &budget.metadata);
    if observed.pods.is_empty() {
        plan.notes.push(Note::normal(&about, "NoPods", "No matching pods found"));
    }
    let expected = if by_count {
        i32::try_from(observed.pods.len()).unwrap_or(i32::MAX)
    } else {
        observed.scales.values().fold(0_i32, |sum, n| sum.saturating_add(*n))
    };
    if !by_count && observed.unmanaged > 0 {
        let message = "Pods selected by this PodDisruptionBudget were found to be unmanaged. As a result, the status of \
             the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods \
             please set \".spec.minAvailable\" field of the PDB to an integer value.";
        plan.notes.push(Note::warning(&about, "UnmanagedPods", message));
    }
    let desired = match (&spec.min_available, &spec.max_unavailable) {
        (Some(min), _) => scaled(min, expected),
        (None, Some(max)) => (expected - scaled(max, expected)).max(0),
        (None, None) => 0,
    };
    let (disrupted, next) = believed(&old, &observed.pods, now);
    if let Some(at) = next {
        plan.wake(at);
    }
    let healthy = observed
        .pods
        .iter()
        .filter(|p| {
            let leaving = disrupted.contains_key(meta::name(&p.metadata));
            pod::is_active(p) && pod::is_ready(p) && !leaving
        })
        .count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    let status = PodDisruptionBudgetStatus {
        conditions: Some(conditions(&old, allowed, budget.metadata.generation, now)),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: if disrupted.is_empty() { None } else { Some(disrupted) },
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: budget.metadata.generation,
    };
    if status != old {
        let updated = PodDisruptionBudget { status: Some(status), ..budget.clone() };
        plan.push(Action::update_status(RESOURCE, &budget.metadata, &updated, Reason::StatusIsOld));
    }
    plan.or_nothing(Reason::AsWanted)
}

/// A count, or a percentage of `of` rounded up.
fn scaled(value: &IntOrString, of: i32) -> i32 {
    match value {
        IntOrString::Int(count) => *count,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            i32::try_from((percent * i64::from(of)).div_euclid(100) + i64::from((percent * i64::from(of)) % 100 != 0))
                .unwrap_or(i32::MAX)
        }
    }
}

/// Pods that were evicted and are not gone yet, and when the first of them is no longer believed in.
fn believed(
    old: &PodDisruptionBudgetStatus,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Timestamp>) {
    let mut kept = BTreeMap::new();
    let mut next: Option<Timestamp> = None;
    for (name, since) in old.disrupted_pods.iter().flatten() {
        let there = pods.iter().any(|p| meta::name(&p.metadata) == name && !meta::is_deleting(&p.metadata));
        let until = since.0.checked_add(BELIEF).unwrap_or(Timestamp::MAX);
        if there && now < until {
            kept.insert(name.clone(), since.clone());
            next = Some(next.map_or(until, |n| n.min(until)));
        }
    }
    (kept, next)
}

fn conditions(
    old: &PodDisruptionBudgetStatus,
    allowed: i32,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    const KIND: &str = "DisruptionAllowed";
    let mut out: Vec<Condition> = old.conditions.clone().unwrap_or_default();
    let (status, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let before = out.iter().find(|c| c.type_ == KIND && c.status == status).map(|c| c.last_transition_time.clone());
    out.retain(|c| c.type_ != KIND);
    out.push(Condition {
        type_: KIND.into(),
        status: status.into(),
        reason: reason.into(),
        message: String::new(),
        observed_generation: generation,
        last_transition_time: before.unwrap_or_else(|| Time(time::seconds(now))),
    });
    out
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pods(ready: usize, not_ready: usize) -> Vec<Arc<Pod>> {
        (0..ready + not_ready)
            .map(|i| {
                let status = if i < ready { "True" } else { "False" };
                let pod = json!({"metadata": {"name": format!("p{i}")}, "status": {"phase": "Running",
                    "conditions": [{"type": "Ready", "status": status}]}});
                Arc::new(serde_json::from_value(pod).unwrap())
            })
            .collect()
    }

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().unwrap()
    }

    fn status(spec: Value, old: Value, pods: Vec<Arc<Pod>>, scale: i32) -> (Plan<Reason>, Value) {
        let budget = json!({"metadata": {"name": "b", "namespace": "d", "generation": 1}, "spec": spec, "status": old});
        let observed = Observed {
            budget: Arc::new(serde_json::from_value(budget).unwrap()),
            pods,
            scales: BTreeMap::from([("rs".to_owned(), scale)]),
            unmanaged: 0,
        };
        let plan = plan(&observed, now());
        let status = plan.actions().find_map(|a| match &a.verb {
            crate::Verb::Update { body, .. } => Some(body["status"].clone()),
            _ => None,
        });
        (plan, status.unwrap_or_default())
    }

    #[test]
    fn counts_and_percentages_say_how_many_may_go() {
        for (spec, ready, scale, want) in [
            // (desired, allowed, expected)
            (json!({"minAvailable": 2}), 3, 3, (2, 1, 3)),
            (json!({"minAvailable": 5}), 3, 3, (5, 0, 3)),
            (json!({"minAvailable": "50%"}), 3, 3, (2, 1, 3)),
            (json!({"maxUnavailable": 1}), 3, 4, (3, 0, 4)),
            (json!({"maxUnavailable": 1}), 4, 4, (3, 1, 4)),
            (json!({"maxUnavailable": "30%"}), 10, 10, (7, 3, 10)),
            (json!({"maxUnavailable": "100%"}), 3, 3, (0, 3, 3)),
            (json!({"maxUnavailable": 1}), 0, 0, (0, 0, 0)),
        ] {
            let (_, status) = status(spec.clone(), Value::Null, pods(ready, 0), scale);
            let figures = (
                status["desiredHealthy"].clone(),
                status["disruptionsAllowed"].clone(),
                status["expectedPods"].clone(),
            );
            assert_eq!(figures, (json!(want.0), json!(want.1), json!(want.2)), "{spec}");
            let reason = if want.1 > 0 { "SufficientPods" } else { "InsufficientPods" };
            assert_eq!(status["conditions"][0]["reason"], reason);
        }
    }

    #[test]
    fn an_eviction_counts_until_the_pod_goes_or_two_minutes_passed() {
        let old = |at: &str| json!({"disruptedPods": {"p0": at}});
        let spec = json!({"minAvailable": 1});
        let (plan, fresh) = status(spec.clone(), old("2026-01-01T00:09:00Z"), pods(3, 0), 3);
        assert_eq!((&fresh["currentHealthy"], &fresh["disruptionsAllowed"]), (&json!(2), &json!(1)));
        assert_eq!(plan.wake_at, Some("2026-01-01T00:11:00Z".parse().unwrap()));
        let (_, stale) = status(spec, old("2026-01-01T00:01:00Z"), pods(3, 0), 3);
        assert_eq!((&stale["currentHealthy"], &stale["disruptedPods"]), (&json!(3), &Value::Null));
    }
}
