//! Taint-based eviction: a pod leaves a node whose NoExecute taints it does not tolerate, or not for longer.
//!
//! A toleration's `tolerationSeconds` count from when the taint was added. Rules: Kubernetes documentation, 'Taints and
//! Tolerations', 'Taint based Evictions'.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use serde_json::json;

use crate::action::{Action, Note, PatchForm, Plan, Verb};
use crate::{meta, time};

/// What events and audit call the controller.
pub const COMPONENT: &str = "taint-eviction-controller";

/// When each taint (key, value) was first seen, for those that do not say when they were added.
pub type FirstSeen = BTreeMap<(String, String), Timestamp>;

/// What a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The node, if it is there.
    pub node: Option<Arc<Node>>,
    /// Its pods. Only looked at when it has NoExecute taints.
    pub pods: Vec<Arc<Pod>>,
    /// See [`FirstSeen`].
    pub first_seen: FirstSeen,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The pod does not tolerate the taint.
    NotTolerated,
    /// It did, and its time is up.
    ToleratedLongEnough,
    /// The node has no such taint, or nobody there minds yet.
    NobodyMinds,
}

/// The NoExecute taints of a node.
pub fn evicting(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec.iter().flat_map(|s| s.taints.iter().flatten()).filter(|t| t.effect == "NoExecute")
}

/// Observed -> actions.
pub fn plan(observed: &Observed, now: Timestamp) -> Plan<Reason> {
    let mut plan = Plan::new();
    let Some(node) = observed.node.as_deref() else { return Plan::nothing(Reason::NobodyMinds) };
    let taints: Vec<&Taint> = evicting(node).collect();
    let mut deletions = Vec::new();
    if !taints.is_empty() {
        for pod in observed.pods.iter().filter(|p| !meta::is_deleting(&p.metadata)) {
            match leaves(pod, &taints, &observed.first_seen) {
                Leaves::Never => {}
                Leaves::Now => evict(pod, Reason::NotTolerated, now, &mut plan, &mut deletions),
                Leaves::At(at) if at <= now => evict(pod, Reason::ToleratedLongEnough, now, &mut plan, &mut deletions),
                Leaves::At(at) => plan.wake(at),
            }
        }
    }
    plan.barrier();
    for deletion in deletions {
        plan.push(deletion);
    }
    plan.or_nothing(Reason::NobodyMinds)
}

enum Leaves {
    Never,
    Now,
    At(Timestamp),
}

fn leaves(pod: &Pod, taints: &[&Taint], first_seen: &FirstSeen) -> Leaves {
    let tolerations: &[Toleration] = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let mut shortest: Option<i64> = None;
    let mut since = Timestamp::MIN;
    for taint in taints {
        let mut tolerating = tolerations.iter().filter(|t| tolerates(t, taint)).peekable();
        if tolerating.peek().is_none() {
            return Leaves::Now;
        }
        let seconds = tolerating.filter_map(|t| t.toleration_seconds).min();
        if let Some(seconds) = seconds {
            shortest = Some(shortest.map_or(seconds, |s| s.min(seconds)));
            let id = (taint.key.clone(), taint.value.clone().unwrap_or_default());
            let added = taint.time_added.as_ref().map(|t| t.0).or_else(|| first_seen.get(&id).copied());
            since = since.max(added.unwrap_or(Timestamp::MIN));
        }
    }
    match shortest {
        None => Leaves::Never,
        Some(seconds) if seconds <= 0 => Leaves::Now,
        Some(seconds) => Leaves::At(time::after(since, seconds)),
    }
}

/// Whether a toleration matches a taint (API reference, `Toleration`).
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match toleration.operator.as_deref() {
            Some("Exists") => true,
            _ => !key.is_empty() && text(&toleration.value) == text(&taint.value),
        }
}

fn evict(pod: &Pod, why: Reason, now: Timestamp, plan: &mut Plan<Reason>, deletions: &mut Vec<Action<Reason>>) {
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": time::seconds(now)});
    let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
    plan.push(Action {
        resource: "pods".into(),
        namespace: namespace.into(),
        name: name.into(),
        verb: Verb::Patch {
            body: json!({"metadata": {"uid": meta::uid(&pod.metadata)}, "status": {"conditions": [condition]}}),
            form: PatchForm::Strategic,
            subresource: Some("status"),
        },
        because: why,
        on_success: None,
        on_failure: None,
    });
    let about = meta::reference("v1", "Pod", &pod.metadata);
    let note = Note::normal(&about, "TaintManagerEviction", format!("Marking for deletion Pod {namespace}/{name}"));
    deletions.push(Action::delete("pods", &pod.metadata, why).telling(note));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(taint: serde_json::Value, toleration: serde_json::Value) -> Observed {
        let node = json!({"metadata": {"name": "n1"}, "spec": {"taints": [taint]}});
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"containers": [], "tolerations": toleration}});
        Observed {
            node: Some(Arc::new(serde_json::from_value(node).unwrap())),
            pods: vec![Arc::new(serde_json::from_value(pod).unwrap())],
            first_seen: FirstSeen::new(),
        }
    }

    #[test]
    fn a_pod_leaves_at_once_later_or_never_as_its_tolerations_say() {
        let added: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let taint = json!({"key": "k", "value": "v", "effect": "NoExecute", "timeAdded": added});
        let at = |seconds: i64| time::after(added, seconds);
        for (toleration, now, leaves, wake) in [
            (json!([]), at(0), true, None),
            (json!([{"key": "k", "operator": "Exists"}]), at(9999), false, None),
            (json!([{"operator": "Exists"}]), at(9999), false, None),
            (json!([{"key": "k", "value": "other"}]), at(0), true, None),
            (json!([{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]), at(0), true, None),
            (json!([{"key": "k", "value": "v", "tolerationSeconds": 300}]), at(299), false, Some(at(300))),
            (json!([{"key": "k", "value": "v", "tolerationSeconds": 300}]), at(300), true, None),
            (json!([{"key": "k", "value": "v", "tolerationSeconds": 0}]), at(0), true, None),
        ] {
            let plan = plan(&observed(taint.clone(), toleration.clone()), now);
            let deletes = plan.actions().any(|a| matches!(a.verb, Verb::Delete { .. }));
            assert_eq!((deletes, plan.wake_at), (leaves, wake), "{toleration}");
        }
        let harmless = json!({"key": "k", "effect": "NoSchedule"});
        assert!(plan(&observed(harmless, json!([])), added).is_quiet());
    }
}
