//! Node lifecycle: what a node's silence or its conditions mean for its taints and its pods.
//!
//! ```text
//! heartbeat (Lease renewed, or status written) ──> heard of
//! not heard of for the grace period ──> conditions Unknown ──> taints unreachable:NoSchedule, :NoExecute
//!                                                         └─> its pods are not ready
//! Ready=False ──> taints not-ready:NoSchedule, :NoExecute
//! ```
//! `heard` is when the controller saw the last heartbeat, not what the node's clock said: clocks differ. Rules: Kubernetes
//! documentation, 'Nodes', 'Taints and Tolerations'.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::action::{Action, Note, PatchForm, Plan, Verb};
use crate::{meta, pod, time};

/// What events and audit call the controller.
pub const COMPONENT: &str = "node-controller";
/// Silence that makes a node unknown (kube-controller-manager's `--node-monitor-grace-period`, 40 s for agents that renew
/// their Lease every 10 s: three may be lost).
pub const GRACE: SignedDuration = SignedDuration::from_secs(40);

/// Taint of a node that says it is not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of a node that is not heard of.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Conditions whose being `True` keeps pods away.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
const CORDONED: &str = "node.kubernetes.io/unschedulable";
/// Conditions that the node itself reports and that nobody knows when it is silent.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// What a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The node, if it is there.
    pub node: Option<Arc<Node>>,
    /// When its last heartbeat was seen.
    pub heard: Timestamp,
    /// See [`GRACE`].
    pub grace: SignedDuration,
    /// Whether any node of the cluster is heard of. When none is, it is more likely us than them: nobody is evicted.
    pub any_heard: bool,
    /// Its pods. Only looked at when it is silent.
    pub pods: Vec<Arc<Pod>>,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The node is silent.
    NotHeardOf,
    /// Taints follow conditions.
    ConditionsChanged,
    /// A pod on a silent node.
    NodeIsSilent,
    /// All is as it should be.
    AsWanted,
    /// The node is gone.
    Gone,
}

/// Observed -> actions.
pub fn plan(observed: &Observed, now: Timestamp) -> Plan<Reason> {
    let Some(node) = observed.node.as_deref() else { return Plan::nothing(Reason::Gone) };
    let mut plan = Plan::new();
    let deadline = observed.heard.checked_add(observed.grace).unwrap_or(Timestamp::MAX);
    let silent = now >= deadline;
    if !silent {
        plan.wake(deadline);
    }
    let mut conditions = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    if silent && doubt(&mut conditions, node, now) {
        let mut doubted = node.clone();
        doubted.status.get_or_insert_default().conditions = Some(conditions.clone());
        plan.push(Action::update_status("nodes", &node.metadata, &doubted, Reason::NotHeardOf));
        let about = meta::reference("v1", "Node", &node.metadata);
        let message = format!("Node {} status is now: NodeNotReady", meta::name(&node.metadata));
        plan.notes.push(Note::normal(&about, "NodeNotReady", message));
        // The status write moves the resourceVersion: taints and pods come with the next plan.
        return plan;
    }
    let wanted = taints(node, &conditions, observed.any_heard, now);
    let current = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    if wanted != current {
        let taints: Value = if wanted.is_empty() { Value::Null } else { json!(wanted) };
        let patch = json!({"spec": {"taints": taints}});
        plan.push(Action::merge("nodes", &node.metadata, patch, Reason::ConditionsChanged));
    }
    if state(&conditions, "Ready") == Some("Unknown") {
        for unready in observed.pods.iter().filter(|p| pod::is_ready(p)) {
            plan.push(mark_not_ready(unready, now));
            let about = meta::reference("v1", "Pod", &unready.metadata);
            plan.notes.push(Note::warning(&about, "NodeNotReady", "Node is not ready"));
        }
    }
    plan.or_nothing(Reason::AsWanted)
}

fn state<'a>(conditions: &'a [NodeCondition], kind: &str) -> Option<&'a str> {
    conditions.iter().find(|c| c.type_ == kind).map(|c| c.status.as_str())
}

/// Makes what only the node could know `Unknown`; whether that changed anything.
fn doubt(conditions: &mut Vec<NodeCondition>, node: &Node, now: Timestamp) -> bool {
    let mut changed = false;
    for kind in REPORTED {
        match conditions.iter_mut().find(|c| c.type_ == kind) {
            Some(known) if known.status == "Unknown" => {}
            Some(known) => {
                known.status = "Unknown".into();
                known.reason = Some("NodeStatusUnknown".into());
                known.message = Some("Kubelet stopped posting node status.".into());
                known.last_transition_time = Some(Time(time::seconds(now)));
                changed = true;
            }
            None => {
                conditions.push(NodeCondition {
                    type_: kind.into(),
                    status: "Unknown".into(),
                    reason: Some("NodeStatusNeverUpdated".into()),
                    message: Some("Kubelet never posted node status.".into()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(Time(time::seconds(now))),
                });
                changed = true;
            }
        }
    }
    changed
}

/// The node's taints: others' as they are, ours as its conditions say. What is tainted keeps the time it was tainted.
fn taints(node: &Node, conditions: &[NodeCondition], any_heard: bool, now: Timestamp) -> Vec<Taint> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match state(conditions, "Ready") {
        Some("True") => {}
        Some("Unknown") => {
            wanted.push((UNREACHABLE, "NoSchedule"));
            if any_heard {
                wanted.push((UNREACHABLE, "NoExecute"));
            }
        }
        Some(_) => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        // A node that has not said anything yet.
        None => wanted.push((NOT_READY, "NoSchedule")),
    }
    for (condition, taint) in PRESSURES {
        if state(conditions, condition) == Some("True") {
            wanted.push((taint, "NoSchedule"));
        }
    }
    let spec = node.spec.as_ref();
    if spec.and_then(|s| s.unschedulable).unwrap_or(false) {
        wanted.push((CORDONED, "NoSchedule"));
    }
    let ours = |taint: &Taint| {
        let managed = [NOT_READY, UNREACHABLE, CORDONED].into_iter().chain(PRESSURES.map(|(_, taint)| taint));
        let by_us = managed.into_iter().any(|key| key == taint.key);
        by_us
            && (taint.effect == "NoSchedule"
                || (taint.effect == "NoExecute" && [NOT_READY, UNREACHABLE].contains(&taint.key.as_str())))
    };
    let current = spec.and_then(|s| s.taints.clone()).unwrap_or_default();
    let mut out: Vec<Taint> = current
        .into_iter()
        .filter(|t| !ours(t) || wanted.iter().any(|(key, effect)| t.key == *key && t.effect == *effect))
        .collect();
    for (key, effect) in wanted {
        if !out.iter().any(|t| t.key == key && t.effect == effect) {
            let time_added = Some(Time(time::seconds(now)));
            out.push(Taint { key: key.into(), effect: effect.into(), value: None, time_added });
        }
    }
    out
}

fn mark_not_ready(unready: &Pod, now: Timestamp) -> Action<Reason> {
    let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": time::seconds(now)});
    Action {
        resource: "pods".into(),
        namespace: meta::namespace(&unready.metadata).into(),
        name: meta::name(&unready.metadata).into(),
        verb: Verb::Patch {
            body: json!({"metadata": {"uid": meta::uid(&unready.metadata)}, "status": {"conditions": [condition]}}),
            form: PatchForm::Strategic,
            subresource: Some("status"),
        },
        because: Reason::NodeIsSilent,
        on_success: None,
        on_failure: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    fn world(ready: &str) -> World {
        let mut world = World::new();
        world.create(
            "nodes",
            &json!({"metadata": {"name": "n1"}, "spec": {"taints": [{"key": "mine", "effect": "NoSchedule"}]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}}),
        );
        world
    }

    fn observe(world: &World, heard: Timestamp, any_heard: bool) -> Plan<Reason> {
        let observed =
            Observed { node: world.get("nodes", "", "n1"), heard, grace: GRACE, any_heard, pods: Vec::new() };
        plan(&observed, world.now)
    }

    fn tainted(world: &World) -> Vec<(String, String)> {
        let node = world.get::<Node>("nodes", "", "n1").unwrap();
        let taints = node.spec.as_ref().unwrap().taints.clone().unwrap_or_default();
        taints.into_iter().filter(|t| t.key != "mine").map(|t| (t.key, t.effect)).collect()
    }

    #[test]
    fn a_silent_node_becomes_unknown_and_unreachable_after_the_grace_period() {
        let mut world = world("True");
        let heard = world.now;
        let quiet = world.settle(|w| observe(w, heard, true));
        assert_eq!(quiet.wake_at, Some(heard + GRACE));
        assert!(tainted(&world).is_empty());
        world.pass(40);
        world.settle(|w| observe(w, heard, true));
        let node = world.get::<Node>("nodes", "", "n1").unwrap();
        let conditions = node.status.as_ref().unwrap().conditions.as_ref().unwrap();
        assert_eq!(conditions.len(), 4);
        assert!(conditions.iter().all(|c| c.status == "Unknown"));
        assert_eq!(conditions[0].message.as_deref(), Some("Kubelet stopped posting node status."));
        let effects: Vec<String> = tainted(&world).into_iter().map(|(_, effect)| effect).collect();
        assert_eq!(effects, ["NoSchedule", "NoExecute"]);
        // It comes back.
        let now = world.now;
        world.edit("nodes", "", "n1", |n| {
            for c in n["status"]["conditions"].as_array_mut().unwrap() {
                c["status"] = json!(if c["type"] == "Ready" { "True" } else { "False" });
            }
        });
        world.settle(|w| observe(w, now, true));
        assert!(tainted(&world).is_empty());
    }

    #[test]
    fn nobody_is_evicted_while_no_node_at_all_is_heard_of() {
        let mut world = world("Unknown");
        let heard = world.now;
        world.pass(60);
        world.settle(|w| observe(w, heard, false));
        assert_eq!(tainted(&world), [(UNREACHABLE.into(), "NoSchedule".into())]);
    }

    #[test]
    fn taints_follow_conditions_and_cordon() {
        let mut world = world("False");
        world.edit("nodes", "", "n1", |n| {
            n["spec"]["unschedulable"] = json!(true);
            n["status"]["conditions"].as_array_mut().unwrap().push(json!({"type": "DiskPressure", "status": "True"}));
        });
        let heard = world.now;
        world.settle(|w| observe(w, heard, true));
        let pair = |key: &str, effect: &str| (key.to_owned(), effect.to_owned());
        assert_eq!(
            tainted(&world),
            [
                pair(NOT_READY, "NoSchedule"),
                pair(NOT_READY, "NoExecute"),
                pair("node.kubernetes.io/disk-pressure", "NoSchedule"),
                pair(CORDONED, "NoSchedule"),
            ]
        );
    }

    #[test]
    fn pods_of_a_silent_node_are_not_ready() {
        let ready: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}}))
        .unwrap();
        let world = world("Unknown");
        let observed = Observed {
            node: world.get("nodes", "", "n1"),
            heard: world.now,
            grace: GRACE,
            any_heard: true,
            pods: vec![Arc::new(ready)],
        };
        let plan = plan(&observed, world.now);
        assert!(plan.actions().any(|a| a.because == Reason::NodeIsSilent && a.name == "p"));
    }
}
