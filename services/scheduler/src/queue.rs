//! Which pods to try, and when to try them again.
//!
//! ```text
//!            ┌────────── gates removed ──────────┐
//!  set ──> gated                                 v
//!     └───────────────────────────────────────> active ──pop──> in flight ──done──> gone
//!                                                ^  ^               │
//!                              time is up ───────┘  │               ├─ failed, and something helpful happened meanwhile
//!                                 backoff <─────────┼───────────────┤  (or failed for a passing reason)
//!                                    ^              │               v
//!                                    └── a change that helps ── waiting (at most `PATIENCE`)
//! ```
//! A pod that fits nowhere is not tried again until something happened that one of the filters that refused it looks at:
//! thousands of pending pods cost nothing. It must not miss such a change either: changes that come while the pod is in
//! flight are kept for when it fails.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::explain::{Plugin, PluginSet};
use crate::pod::PodInfo;

/// First pause after a failed attempt, doubled by each further one (kube-scheduler's `podInitialBackoffSeconds`).
const FIRST_BACKOFF: SignedDuration = SignedDuration::from_secs(1);
/// The longest pause (`podMaxBackoffSeconds`).
const LONGEST_BACKOFF: SignedDuration = SignedDuration::from_secs(10);
/// A waiting pod is tried again after this long whatever happened, in case a change was not understood as helpful.
const PATIENCE: SignedDuration = SignedDuration::from_mins(5);

/// Something happened in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// A node came.
    NodeAdded,
    /// A node's labels, taints, resources or `unschedulable` changed.
    NodeChanged,
    /// A node went: domains of spread constraints may have.
    NodeRemoved,
    /// A pod was placed.
    PodPlaced,
    /// A placed pod's labels changed.
    PodChanged,
    /// A placed pod ended or was deleted, or gave up room that it was promised.
    PodLeft,
    /// A namespace's labels changed.
    NamespaceChanged,
    /// A claim, a volume or a storage class changed.
    VolumeChanged,
}

impl Change {
    /// Whether it can change a filter's mind.
    fn helps(self, plugins: PluginSet) -> bool {
        use Plugin as P;
        let of: &[Plugin] = match self {
            // No filter named: there was no node to ask.
            Self::NodeAdded => return !plugins.contains(P::SchedulingGates),
            Self::NodeChanged => &[
                P::NodeUnschedulable,
                P::TaintToleration,
                P::NodeAffinity,
                P::NodeResourcesFit,
                P::VolumeBinding,
                P::VolumeZone,
                P::PodTopologySpread,
                P::InterPodAffinity,
            ],
            Self::NodeRemoved => &[P::PodTopologySpread],
            Self::PodPlaced | Self::PodChanged => &[P::PodTopologySpread, P::InterPodAffinity],
            Self::PodLeft => {
                &[P::NodePorts, P::NodeResourcesFit, P::PodTopologySpread, P::InterPodAffinity, P::VolumeBinding]
            }
            Self::NamespaceChanged => &[P::InterPodAffinity],
            Self::VolumeChanged => &[P::VolumeBinding, P::VolumeZone],
        };
        of.iter().any(|p| plugins.contains(*p))
    }
}

/// A pod to try.
#[derive(Debug, Clone)]
pub struct Queued {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// How often it was tried before.
    pub attempts: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Gated,
    Active,
    Backoff { until: Timestamp },
    Waiting { plugins: PluginSet, since: Timestamp },
    InFlight { changes_seen: usize },
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    attempts: u32,
    place: Place,
}

/// Higher priority first, then the older; the uid breaks ties.
type Rank = (Reverse<i32>, Timestamp, Arc<str>);

/// Pods without a node. See the module's documentation.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<Arc<str>, Entry>,
    active: BTreeSet<Rank>,
    /// Backoffs and patience, by when they end.
    timers: BTreeSet<(Timestamp, Arc<str>)>,
    waiting: BTreeSet<Arc<str>>,
    in_flight: usize,
    /// Changes since the oldest pod in flight was popped.
    changes: Vec<Change>,
}

impl Queue {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many pods are known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no pod is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a pod can be popped now.
    pub fn is_ready(&self) -> bool {
        !self.active.is_empty()
    }

    /// Adds a pending pod, or takes note of its new state: one that lost its gates or changed in what placement looks at
    /// is tried again.
    pub fn set(&mut self, pod: Arc<PodInfo>) {
        let uid = pod.uid.clone();
        let gated = !pod.gates.is_empty();
        let (attempts, next) = match self.entries.get(&uid) {
            None => (0, if gated { Place::Gated } else { Place::Active }),
            Some(entry) => {
                let next = match entry.place {
                    Place::Gated if !gated => Place::Active,
                    Place::Waiting { .. } if entry.pod.class != pod.class => Place::Active,
                    same => same,
                };
                (entry.attempts, next)
            }
        };
        // Even where it stays, its rank may not.
        self.take(&uid);
        self.put(Entry { pod, attempts, place: next });
    }

    /// The pod has a node, ended, or was deleted.
    pub fn remove(&mut self, uid: &str) {
        self.take(uid);
        self.forget_changes();
    }

    /// The next pods to try, at most `most`. Each must be answered with `remove`, `failed` or `retry`.
    pub fn pop(&mut self, most: usize, now: Timestamp) -> Vec<Queued> {
        self.expire(now);
        let mut out = Vec::new();
        while out.len() < most
            && let Some((_, _, uid)) = self.active.first().cloned()
        {
            let Some(mut entry) = self.take(&uid) else { break };
            out.push(Queued { pod: entry.pod.clone(), attempts: entry.attempts });
            entry.attempts += 1;
            entry.place = Place::InFlight { changes_seen: self.changes.len() };
            self.put(entry);
        }
        out
    }

    /// These filters refused the pod.
    pub fn failed(&mut self, uid: &str, plugins: PluginSet, now: Timestamp) {
        let Some(mut entry) = self.take(uid) else { return };
        let helped = match entry.place {
            Place::InFlight { changes_seen } => {
                self.changes.get(changes_seen..).unwrap_or_default().iter().any(|c| c.helps(plugins))
            }
            _ => false,
        };
        entry.place = if helped {
            Place::Backoff { until: now.saturating_add(backoff(entry.attempts)).unwrap_or(now) }
        } else {
            Place::Waiting { plugins, since: now }
        };
        self.put(entry);
        self.forget_changes();
    }

    /// Something else went wrong, such as the binding: try again soon.
    pub fn retry(&mut self, uid: &str, now: Timestamp) {
        let Some(mut entry) = self.take(uid) else { return };
        entry.place = Place::Backoff { until: now.saturating_add(backoff(entry.attempts)).unwrap_or(now) };
        self.put(entry);
        self.forget_changes();
    }

    /// Something happened.
    pub fn changed(&mut self, changes: &[Change]) {
        // Thousands may wait: they are looked through only when something happened.
        if changes.is_empty() {
            return;
        }
        if self.in_flight > 0 {
            self.changes.extend_from_slice(changes);
        }
        let entries = &self.entries;
        let helped: Vec<_> = self
            .waiting
            .iter()
            .filter_map(|uid| match entries[uid].place {
                Place::Waiting { plugins, since } if changes.iter().any(|c| c.helps(plugins)) => {
                    Some((uid.clone(), since))
                }
                _ => None,
            })
            .collect();
        for (uid, since) in helped {
            let Some(mut entry) = self.take(&uid) else { continue };
            // The pause counts from the attempt: whoever waited longer than that is tried at the next `pop`.
            entry.place = Place::Backoff { until: since.saturating_add(backoff(entry.attempts)).unwrap_or(since) };
            self.put(entry);
        }
    }

    /// When `pop` may answer more than it does now, if nothing happens before.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn expire(&mut self, now: Timestamp) {
        while let Some((at, uid)) = self.timers.first().cloned()
            && at <= now
        {
            let Some(mut entry) = self.take(&uid) else { break };
            entry.place = Place::Active;
            self.put(entry);
        }
    }

    fn forget_changes(&mut self) {
        if self.in_flight == 0 {
            self.changes.clear();
        }
    }

    fn put(&mut self, entry: Entry) {
        let uid = entry.pod.uid.clone();
        match entry.place {
            Place::Gated => {}
            Place::Active => {
                self.active.insert(rank(&entry.pod));
            }
            Place::Backoff { until } => {
                self.timers.insert((until, uid.clone()));
            }
            Place::Waiting { since, .. } => {
                self.waiting.insert(uid.clone());
                self.timers.insert((patience_ends(since), uid.clone()));
            }
            Place::InFlight { .. } => self.in_flight += 1,
        }
        self.entries.insert(uid, entry);
    }

    fn take(&mut self, uid: &str) -> Option<Entry> {
        let entry = self.entries.remove(uid)?;
        match entry.place {
            Place::Gated => {}
            Place::Active => {
                self.active.remove(&rank(&entry.pod));
            }
            Place::Backoff { until } => {
                self.timers.remove(&(until, entry.pod.uid.clone()));
            }
            Place::Waiting { since, .. } => {
                self.waiting.remove(uid);
                self.timers.remove(&(patience_ends(since), entry.pod.uid.clone()));
            }
            Place::InFlight { .. } => self.in_flight -= 1,
        }
        Some(entry)
    }
}

fn rank(pod: &PodInfo) -> Rank {
    (Reverse(pod.priority()), pod.created, pod.uid.clone())
}

fn patience_ends(since: Timestamp) -> Timestamp {
    since.saturating_add(PATIENCE).unwrap_or(since)
}

fn backoff(attempts: u32) -> SignedDuration {
    let doublings = attempts.saturating_sub(1).min(8);
    (FIRST_BACKOFF * (1 << doublings)).min(LONGEST_BACKOFF)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1 as core;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn pod(name: &str, priority: i32, gates: &[&str]) -> Arc<PodInfo> {
        let gates = gates.iter().map(|g| core::PodSchedulingGate { name: (*g).into() }).collect();
        let mut pod = core::Pod::default();
        pod.metadata.uid = Some(name.into());
        pod.metadata.name = Some(name.into());
        pod.spec =
            Some(core::PodSpec { priority: Some(priority), scheduling_gates: Some(gates), ..Default::default() });
        Arc::new(PodInfo::new(&pod, None))
    }

    fn names(popped: &[Queued]) -> Vec<&str> {
        popped.iter().map(|q| &*q.pod.uid).collect()
    }

    #[test]
    fn pods_come_by_priority_then_age() {
        let mut queue = Queue::new();
        for (name, priority) in [("b", 0), ("a", 0), ("urgent", 10)] {
            queue.set(pod(name, priority, &[]));
        }
        assert_eq!(names(&queue.pop(2, at(0))), ["urgent", "a"]);
        assert_eq!(names(&queue.pop(2, at(0))), ["b"]);
    }

    #[test]
    fn a_gated_pod_waits_for_its_gates_only() {
        let mut queue = Queue::new();
        queue.set(pod("a", 0, &["hold"]));
        queue.changed(&[Change::NodeAdded]);
        assert!(queue.pop(9, at(1000)).is_empty());
        queue.set(pod("a", 0, &[]));
        assert_eq!(names(&queue.pop(9, at(1000))), ["a"]);
    }

    #[test]
    fn a_refused_pod_waits_for_a_change_that_its_filter_looks_at() {
        let mut queue = Queue::new();
        queue.set(pod("a", 0, &[]));
        queue.pop(1, at(0));
        queue.failed("a", Plugin::NodeResourcesFit.into(), at(0));
        queue.changed(&[Change::PodPlaced, Change::NamespaceChanged]);
        assert!(queue.pop(1, at(60)).is_empty());
        queue.changed(&[Change::PodLeft]);
        assert_eq!(names(&queue.pop(1, at(60))), ["a"]);
    }

    #[test]
    fn pauses_double_up_to_ten_seconds() {
        let mut queue = Queue::new();
        queue.set(pod("a", 0, &[]));
        let mut now = 0;
        for want in [1, 2, 4, 8, 10, 10] {
            assert_eq!(queue.pop(1, at(now)).len(), 1, "at {now}");
            queue.failed("a", Plugin::NodePorts.into(), at(now));
            queue.changed(&[Change::PodLeft]);
            assert_eq!(queue.next_wake(), Some(at(now + want)));
            assert!(queue.pop(1, at(now + want - 1)).is_empty());
            now += want;
        }
    }

    #[test]
    fn a_change_while_the_pod_is_in_flight_is_not_missed() {
        let mut queue = Queue::new();
        queue.set(pod("a", 0, &[]));
        queue.pop(1, at(0));
        queue.changed(&[Change::PodLeft]);
        queue.failed("a", Plugin::NodeResourcesFit.into(), at(0));
        assert_eq!(names(&queue.pop(1, at(1))), ["a"]);
        queue.failed("a", Plugin::NodeResourcesFit.into(), at(1));
        assert!(queue.pop(1, at(60)).is_empty(), "an old change must not count again");
    }

    #[test]
    fn patience_ends_after_five_minutes() {
        let mut queue = Queue::new();
        queue.set(pod("a", 0, &[]));
        queue.pop(1, at(0));
        queue.failed("a", PluginSet::default(), at(0));
        assert!(queue.pop(1, at(299)).is_empty());
        assert_eq!(names(&queue.pop(1, at(300))), ["a"]);
    }

    #[test]
    fn a_removed_pod_is_forgotten_wherever_it_is() {
        let mut queue = Queue::new();
        queue.set(pod("a", 0, &[]));
        queue.pop(1, at(0));
        queue.remove("a");
        queue.failed("a", PluginSet::default(), at(0));
        assert!(queue.is_empty() && queue.next_wake().is_none());
    }
}
