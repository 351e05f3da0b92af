//! Ending a pod: main containers first and at once, then sidecars from the last to the first, then the sandbox. And removing
//! what later instances have replaced.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::containers::{Kind, container_kind};
use crate::memory::{Ending, Memory};
use crate::observed::{Container, ObservedPod};
use crate::pod::{Action, Draft, KillWhy, Outcome, Reason, grace_of};

/// Containers get at least this long (seconds) when the pod's grace period has been used up by others.
const LAST_GRACE: i64 = 2;

/// Plans the next steps of ending a pod.
pub(crate) fn stop_pod(
    pod: &Pod,
    spec: &PodSpec,
    observed: &ObservedPod,
    memory: &Memory,
    ending: Option<&Ending>,
    now: Timestamp,
    draft: &mut Draft,
) -> Outcome {
    let reason = if memory.removed { Reason::PodRemoved } else { Reason::PodEnds };
    let grace = remaining_grace(pod, spec, memory, ending, now);
    let alive: Vec<&Container> = observed.containers.iter().filter(|c| c.is_alive()).collect();
    let kind_of = |c: &Container| container_kind(spec, &c.name).unwrap_or(Kind::Main);
    let (sidecars, others): (Vec<&Container>, Vec<&Container>) =
        alive.iter().partition(|c| kind_of(c) == Kind::Sidecar);
    let mut kill = |c: &Container| {
        // A kill under way is repeated only with clearly less patience (`kubectl delete --force` after a plain one).
        let ends = now.saturating_add(SignedDuration::from_secs(grace + LAST_GRACE)).unwrap_or(Timestamp::MAX);
        if memory.killing.get(&c.id).is_some_and(|under_way| *under_way <= ends) {
            return;
        }
        let action = Action::KillContainer { id: c.id.clone(), name: c.name.clone(), grace, why: KillWhy::PodEnds };
        draft.step(action, reason);
    };
    if memory.removed {
        alive.iter().for_each(|c| kill(c));
    } else if !others.is_empty() {
        others.iter().for_each(|c| kill(c));
    } else if let Some(last) = last_sidecar(spec, &sidecars) {
        kill(last);
    }
    if !alive.is_empty() {
        return Outcome::Stopping;
    }
    let ready: Vec<&str> = observed.sandboxes.iter().filter(|s| s.ready).map(|s| s.id.as_str()).collect();
    for id in &ready {
        if !memory.stopping_sandboxes.contains(*id) {
            draft.step(Action::StopSandbox { id: (*id).into() }, reason);
        }
    }
    if ready.is_empty() { Outcome::Stopped } else { Outcome::Stopping }
}

/// The running sidecar that comes last in the spec.
fn last_sidecar<'a>(spec: &PodSpec, running: &[&'a Container]) -> Option<&'a Container> {
    let names: Vec<&str> = spec.init_containers.iter().flatten().map(|c| c.name.as_str()).collect();
    running.iter().max_by_key(|c| names.iter().position(|n| *n == c.name)).copied()
}

/// Seconds that a container gets to end by itself, from now.
fn remaining_grace(pod: &Pod, spec: &PodSpec, memory: &Memory, ending: Option<&Ending>, now: Timestamp) -> i64 {
    if memory.removed {
        return 0;
    }
    if let Some(deletion) = &pod.metadata.deletion_timestamp {
        let grace = grace_of(pod, spec);
        if grace == 0 {
            return 0;
        }
        // deletionTimestamp is when the grace period ends.
        let left = deletion.0.duration_since(now).as_secs();
        return left.clamp(LAST_GRACE, grace.max(LAST_GRACE));
    }
    let grace = ending.and_then(|e| e.grace).unwrap_or_else(|| grace_of(pod, spec));
    let since = ending.map_or(now, |e| e.at);
    let end = since.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX);
    if grace == 0 { 0 } else { end.duration_since(now).as_secs().max(LAST_GRACE) }
}

/// Removes ended instances that a later one has replaced (the newest ended one stays, for `logs --previous` and lastState)
/// and sandboxes that hold nothing any more.
pub(crate) fn clean_up(observed: &ObservedPod, draft: &mut Draft) {
    let mut names: Vec<&str> = observed.containers.iter().map(|c| c.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut kept_sandboxes: Vec<&str> = observed.sandbox().map(|s| s.id.as_str()).into_iter().collect();
    for name in names {
        let ended = observed.instances(name).into_iter().filter(|c| !c.is_alive());
        for (age, instance) in ended.enumerate() {
            if age == 0 {
                kept_sandboxes.push(&instance.sandbox_id);
            } else {
                draft.step(Action::RemoveContainer { id: instance.id.clone() }, Reason::Superseded);
            }
        }
    }
    kept_sandboxes.extend(observed.containers.iter().filter(|c| c.is_alive()).map(|c| c.sandbox_id.as_str()));
    for sandbox in observed.sandboxes.iter().filter(|s| !kept_sandboxes.contains(&s.id.as_str())) {
        let action = if sandbox.ready {
            Action::StopSandbox { id: sandbox.id.clone() }
        } else {
            Action::RemoveSandbox { id: sandbox.id.clone() }
        };
        draft.step(action, Reason::Superseded);
    }
}
