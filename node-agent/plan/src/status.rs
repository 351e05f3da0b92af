//! What the API server is told about a pod: phase, conditions, container statuses.
//!
//! Invariants: a pod that was reported `Succeeded` or `Failed` never goes back; restart counts never fall; conditions of
//! others (PodScheduled, readiness gates, DisruptionTarget) are kept as they are; a transition time changes only with the status.

mod container;
mod phase;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::containers::{Kind, all_containers};
use crate::memory::Memory;
use crate::observed::ObservedPod;
use crate::pod::Outcome;
use crate::qos::qos_class;

/// What the node knows about itself that pods' statuses carry.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    /// The node's addresses, primary first.
    pub ips: Vec<String>,
}

/// Whether the API server already has the pod's end.
pub fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The status to report.
pub fn pod_status(
    pod: &Pod,
    observed: &ObservedPod,
    memory: &Memory,
    outcome: Outcome,
    node: &NodeFacts,
    now: Timestamp,
) -> PodStatus {
    let old = pod.status.clone().unwrap_or_default();
    let Some(spec) = &pod.spec else { return old };
    let mut status = PodStatus {
        observed_generation: pod.metadata.generation,
        qos_class: Some(old.qos_class.clone().unwrap_or_else(|| qos_class(spec).as_str().into())),
        start_time: old.start_time.clone().or_else(|| Some(Time(memory.seen_at.unwrap_or(now)))),
        host_ip: node.ips.first().cloned(),
        host_ips: Some(node.ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        nominated_node_name: old.nominated_node_name.clone(),
        resource_claim_statuses: old.resource_claim_statuses.clone(),
        ..PodStatus::default()
    };
    let ips = pod_ips(spec, observed, &old, node);
    status.pod_ip = ips.first().cloned();
    status.pod_ips = (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect());

    let view = container::View { pod, spec, observed, memory, outcome, now };
    let (mut init, mut main, mut ephemeral) = (Vec::new(), Vec::new(), Vec::new());
    for c in all_containers(spec) {
        let reported = view.status(&c);
        match c.kind {
            Kind::Init | Kind::Sidecar => init.push(reported),
            Kind::Main => main.push(reported),
            Kind::Ephemeral => ephemeral.push(reported),
        }
    }
    let phase = phase::phase(pod, spec, observed, outcome, memory);
    status.phase = Some(phase.as_str().into());
    if let Some(ending) = &memory.ending {
        status.reason = Some(ending.reason.clone());
        status.message = Some(ending.message.clone());
    } else if is_terminal(pod) {
        status.reason = old.reason.clone();
        status.message = old.message.clone();
    }
    let facts = phase::Facts { spec, init: &init, main: &main, phase, sandbox_ready: sandbox_usable(observed) };
    let own = phase::conditions(&facts, old.conditions.as_deref().unwrap_or_default());
    status.conditions = Some(merge_conditions(old.conditions.as_deref().unwrap_or_default(), own, pod, now));
    status.init_container_statuses = (!init.is_empty()).then_some(init);
    status.container_statuses = Some(main);
    status.ephemeral_container_statuses = (!ephemeral.is_empty()).then_some(ephemeral);
    status
}

fn sandbox_usable(observed: &ObservedPod) -> bool {
    observed.sandbox().is_some_and(|s| s.ready)
}

/// The sandbox's addresses; the node's for pods in the node's network; the last reported ones once the sandbox is gone.
fn pod_ips(spec: &PodSpec, observed: &ObservedPod, old: &PodStatus, node: &NodeFacts) -> Vec<String> {
    if spec.host_network == Some(true) {
        return if observed.sandboxes.is_empty() { Vec::new() } else { node.ips.clone() };
    }
    let current = observed.sandbox().map(|s| s.ips.clone()).unwrap_or_default();
    if !current.is_empty() {
        return current;
    }
    old.pod_ips.iter().flatten().map(|p| p.ip.clone()).collect()
}

/// Puts the node's conditions over the old ones, keeps foreign ones, and times transitions.
fn merge_conditions(old: &[PodCondition], own: Vec<PodCondition>, pod: &Pod, now: Timestamp) -> Vec<PodCondition> {
    let mut all: Vec<PodCondition> = Vec::with_capacity(own.len() + old.len());
    for mut condition in own {
        let before = old.iter().find(|c| c.type_ == condition.type_);
        condition.last_transition_time = match before {
            Some(before) if before.status == condition.status && before.last_transition_time.is_some() => {
                before.last_transition_time.clone()
            }
            _ => Some(Time(now)),
        };
        condition.observed_generation = pod.metadata.generation;
        all.push(condition);
    }
    let foreign: Vec<PodCondition> =
        old.iter().filter(|c| !all.iter().any(|own| own.type_ == c.type_)).cloned().collect();
    all.extend(foreign);
    all
}

#[cfg(test)]
mod tests;
