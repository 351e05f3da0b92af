//! What controllers ask of a pod, and which of several goes first.

use std::cmp::{Ordering, Reverse};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition};

use crate::meta;

/// Lets users say which pods of a ReplicaSet go first: lower goes earlier.
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// `status.phase`, `Pending` where the node has not spoken yet.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

/// Ran to its end, for better or worse.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Counts towards a controller's replicas.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !meta::is_deleting(&pod.metadata)
}

/// Asked to go, but its containers may still run.
pub fn is_terminating(pod: &Pod) -> bool {
    !is_terminal(pod) && meta::is_deleting(&pod.metadata)
}

/// The node it is bound to.
pub fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// A condition by type.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// Since when it is ready, if it is.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|c| c.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0))
}

/// Whether the `Ready` condition is true.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Whether it has been ready for `minReadySeconds`; if it will be later without further change: when.
pub fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    let Some(since) = ready_since(pod) else { return Availability::NotReady };
    if min_ready_seconds <= 0 {
        return Availability::Available;
    }
    let at = since.checked_add(SignedDuration::from_secs(min_ready_seconds.into())).unwrap_or(Timestamp::MAX);
    if at <= now { Availability::Available } else { Availability::At(at) }
}

/// See [`availability`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// Ready for long enough.
    Available,
    /// Ready, and available at this time if it stays so.
    At(Timestamp),
    /// Not ready.
    NotReady,
}

/// `k/n ready` of one set of pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Ready.
    pub ready: i32,
    /// Ready for `minReadySeconds`.
    pub available: i32,
    /// When the next pod becomes available by waiting.
    pub next: Option<Timestamp>,
}

/// Counts `pods`.
pub fn census<'a>(pods: impl IntoIterator<Item = &'a Pod>, min_ready_seconds: i32, now: Timestamp) -> Census {
    let mut census = Census::default();
    for pod in pods {
        match availability(pod, min_ready_seconds, now) {
            Availability::Available => {
                census.ready += 1;
                census.available += 1;
            }
            Availability::At(at) => {
                census.ready += 1;
                census.next = Some(census.next.map_or(at, |next: Timestamp| next.min(at)));
            }
            Availability::NotReady => {}
        }
    }
    census
}

/// Most restarts of any container.
pub fn restarts(pod: &Pod) -> i32 {
    let Some(status) = &pod.status else { return 0 };
    let regular = status.container_statuses.iter().flatten();
    let init = status.init_container_statuses.iter().flatten();
    regular.chain(init).map(|c| c.restart_count).max().unwrap_or(0)
}

/// Which pod a scale-down takes first: the smallest. Field order is the priority.
///
/// Times count in powers of two, so that among pods of about the same age the choice is spread instead of always hitting
/// the newest; the uid breaks the tie. Source: Kubernetes documentation, ReplicaSet, 'Scaling a ReplicaSet'.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Expendable<'a> {
    assigned: bool,
    phase: u8,
    ready: bool,
    deletion_cost: i32,
    /// More pods of the same owner on the node: earlier.
    neighbours: Reverse<usize>,
    /// Ready for a shorter time: earlier.
    ready_age: u32,
    restarts: Reverse<i32>,
    age: u32,
    uid: &'a str,
}

fn magnitude(since: Option<Timestamp>, now: Timestamp) -> u32 {
    let Some(since) = since else { return 0 };
    let nanos = now.duration_since(since).as_nanos();
    if nanos <= 0 { 0 } else { 128 - nanos.cast_unsigned().leading_zeros() }
}

/// The order in which pods go, given how many pods of the same owner are on each pod's node.
pub fn by_expendability(a: (&Pod, usize), b: (&Pod, usize), now: Timestamp) -> Ordering {
    expendable(a.0, a.1, now).cmp(&expendable(b.0, b.1, now))
}

fn expendable(pod: &Pod, neighbours: usize, now: Timestamp) -> Expendable<'_> {
    Expendable {
        assigned: node(pod).is_some(),
        phase: match phase(pod) {
            "Pending" => 0,
            "Unknown" => 1,
            _ => 2,
        },
        ready: is_ready(pod),
        deletion_cost: meta::annotation(&pod.metadata, DELETION_COST).and_then(|c| c.parse().ok()).unwrap_or(0),
        neighbours: Reverse(neighbours),
        ready_age: magnitude(ready_since(pod), now),
        restarts: Reverse(restarts(pod)),
        age: magnitude(pod.metadata.creation_timestamp.as_ref().map(|t| t.0), now),
        uid: meta::uid(&pod.metadata),
    }
}
