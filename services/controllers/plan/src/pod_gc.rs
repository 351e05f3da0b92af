//! Pod garbage: pods that no node will ever answer for.
//!
//! - on a node that does not exist (any more), after a while: a node may be on its way back;
//! - being deleted, but never placed;
//! - being deleted on a node that is out of service;
//! - ended, when there are very many.
//!
//! Rules: Kubernetes documentation, 'Pod Lifecycle', 'Garbage collection of Pods'.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;

use crate::action::{Action, PatchForm, Plan, Verb};
use crate::{meta, pod, time};

/// What events and audit call the controller.
pub const COMPONENT: &str = "pod-garbage-collector";
/// How long a node must be missing before its pods are removed.
pub const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);
/// Ended pods that are kept (kube-controller-manager's `--terminated-pod-gc-threshold`).
pub const KEPT: usize = 12_500;
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its node does not exist.
    NodeIsGone,
    /// It was deleted before it was placed.
    NeverPlaced,
    /// Its node is out of service.
    NodeIsOutOfService,
    /// More ended pods than are kept; the oldest go.
    TooManyEnded,
    /// Nothing to collect.
    NothingToCollect,
}

/// A node, or what is left of it.
#[derive(Debug, Clone)]
pub struct OnNode {
    /// The node, if it is there.
    pub node: Option<Arc<Node>>,
    /// Since when it is known to be missing.
    pub missing_since: Timestamp,
    /// Pods bound to it.
    pub pods: Vec<Arc<Pod>>,
}

/// Plans for the pods bound to one node.
pub fn plan_node(observed: &OnNode, now: Timestamp) -> Plan<Reason> {
    let mut plan = Plan::new();
    let (mut why, mut doomed): (_, Vec<&Arc<Pod>>) = (Reason::NothingToCollect, Vec::new());
    match &observed.node {
        None if observed.pods.is_empty() => {}
        None => {
            let at = observed.missing_since.checked_add(QUARANTINE).unwrap_or(Timestamp::MAX);
            if at <= now {
                (why, doomed) = (Reason::NodeIsGone, observed.pods.iter().collect());
            } else {
                plan.wake(at);
            }
        }
        Some(node) => {
            let out = node.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|t| t.key == OUT_OF_SERVICE);
            let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
            let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
            if out && !ready {
                let leaving = observed.pods.iter().filter(|p| meta::is_deleting(&p.metadata));
                (why, doomed) = (Reason::NodeIsOutOfService, leaving.collect());
            }
        }
    }
    for gone in &doomed {
        if !pod::is_terminal(gone) {
            plan.push(fail(gone, why, now));
        }
    }
    plan.barrier();
    for gone in doomed {
        plan.push(delete(gone, why));
    }
    plan.or_nothing(Reason::NothingToCollect)
}

/// Plans for one pod that has no node.
pub fn plan_unplaced(observed: Option<&Pod>) -> Plan<Reason> {
    let mut plan = Plan::new();
    if let Some(gone) = observed.filter(|p| meta::is_deleting(&p.metadata) && pod::node(p).is_none()) {
        plan.push(delete(gone, Reason::NeverPlaced));
    }
    plan.or_nothing(Reason::NothingToCollect)
}

/// Plans for the pods that ended.
pub fn plan_ended(ended: &[Arc<Pod>], kept: usize) -> Plan<Reason> {
    let mut plan = Plan::new();
    if ended.len() > kept {
        let mut oldest: Vec<&Arc<Pod>> = ended.iter().collect();
        oldest.sort_by_key(|p| (p.metadata.creation_timestamp.clone(), p.metadata.uid.clone()));
        for gone in oldest.into_iter().take(ended.len() - kept) {
            plan.push(delete(gone, Reason::TooManyEnded));
        }
    }
    plan.or_nothing(Reason::NothingToCollect)
}

fn delete(gone: &Pod, why: Reason) -> Action<Reason> {
    let mut action = Action::delete("pods", &gone.metadata, why);
    if let Verb::Delete { grace_period_seconds, .. } = &mut action.verb {
        *grace_period_seconds = Some(0);
    }
    action
}

/// A pod that nobody will report on has failed, and says why.
fn fail(gone: &Pod, why: Reason, now: Timestamp) -> Action<Reason> {
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
        "message": "PodGC: node no longer exists", "lastTransitionTime": time::seconds(now)});
    let status = json!({"phase": "Failed", "conditions": [condition]});
    Action {
        resource: "pods".into(),
        namespace: meta::namespace(&gone.metadata).into(),
        name: meta::name(&gone.metadata).into(),
        verb: Verb::Patch {
            body: json!({"metadata": {"uid": meta::uid(&gone.metadata)}, "status": status}),
            form: PatchForm::Strategic,
            subresource: Some("status"),
        },
        because: why,
        on_success: None,
        on_failure: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_pod(name: &str, more: serde_json::Value) -> Arc<Pod> {
        let mut value = json!({"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": {"containers": [], "nodeName": "n1"}});
        for (key, part) in more.as_object().unwrap() {
            for (field, v) in part.as_object().unwrap() {
                value[key][field] = v.clone();
            }
        }
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn deleted(plan: &Plan<Reason>) -> Vec<&str> {
        plan.actions().filter(|a| matches!(a.verb, Verb::Delete { .. })).map(|a| a.name.as_str()).collect()
    }

    #[test]
    fn pods_of_a_missing_node_go_after_the_quarantine() {
        let since: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let observed = OnNode { node: None, missing_since: since, pods: vec![a_pod("p", json!({}))] };
        let early = plan_node(&observed, since);
        assert_eq!((early.is_quiet(), early.wake_at), (true, Some(since + QUARANTINE)));
        assert_eq!(deleted(&plan_node(&observed, since + QUARANTINE)), ["p"]);
    }

    #[test]
    fn a_deleted_pod_without_a_node_goes_at_once() {
        let deleting = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"nodeName": null}});
        assert_eq!(deleted(&plan_unplaced(Some(&a_pod("p", deleting)))), ["p"]);
        assert!(plan_unplaced(Some(&a_pod("p", json!({"spec": {"nodeName": null}})))).is_quiet());
    }

    #[test]
    fn the_oldest_ended_pods_go_when_there_are_too_many() {
        let at = |name: &str, time: &str| a_pod(name, json!({"metadata": {"creationTimestamp": time}}));
        let ended = [at("new", "2026-01-02T00:00:00Z"), at("old", "2026-01-01T00:00:00Z")];
        assert_eq!(deleted(&plan_ended(&ended, 1)), ["old"]);
    }

    #[test]
    fn pods_that_leave_a_node_out_of_service_are_removed() {
        let node =
            json!({"metadata": {"name": "n1"}, "spec": {"taints": [{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]}});
        let observed = OnNode {
            node: Some(Arc::new(serde_json::from_value(node).unwrap())),
            missing_since: Timestamp::UNIX_EPOCH,
            pods: vec![
                a_pod("leaving", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
                a_pod("staying", json!({})),
            ],
        };
        assert_eq!(deleted(&plan_node(&observed, Timestamp::UNIX_EPOCH)), ["leaving"]);
    }
}
