//! Placing a batch of pods: filter, score, choose, assume; and for what fits nowhere: explain, and make room.
//!
//! ```text
//! pods in queue order ──> [Cycle: what this pod asks] ──> check every node ──┬─ some fit ──> score ──> best ──> Placed
//!                                                                           └─ none ──> diagnose ──> preempt ──> Unschedulable
//! ```
//! Each placement counts at once (it is assumed in the snapshot), so the pods of a batch see each other.

use std::sync::Arc;

use rand::Rng;

use crate::explain::{Plugin, PluginSet, counted, diagnose};
use crate::filter::{Cycle, Failure};
use crate::pod::PodInfo;
use crate::preempt::{Preemption, preempt};
use crate::score::totals;
use crate::snapshot::{ClassId, Slot, Snapshot};
use crate::volumes::ClaimBinding;

/// What became of a pod.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Bind it to this node. The snapshot counts it there already; `Snapshot::remove_pod` if the binding fails.
    Placed {
        /// The node.
        node: Arc<str>,
        /// Bind these claims first.
        claims: Vec<ClaimBinding>,
    },
    /// It stays pending.
    Unschedulable(Unschedulable),
}

/// Why, and what may help.
#[derive(Debug, Clone)]
pub struct Unschedulable {
    /// The text of the `FailedScheduling` event and of the `PodScheduled` condition.
    pub message: String,
    /// The filters that objected.
    pub plugins: PluginSet,
    /// Room that is to be made: delete the victims and set `nominatedNodeName`. The snapshot holds the room already.
    pub preemption: Option<Preemption>,
}

/// Buffers and answers that the pods of a batch share.
#[derive(Default)]
struct Scratch {
    feasible: Vec<Slot>,
    /// The last class that fitted nowhere although nothing could be preempted: as long as no pod was placed and no room
    /// promised since, the same is true of the next pod of that class.
    hopeless: Option<(ClassId, Unschedulable)>,
}

/// Decides for each pod in order. The rng breaks ties; equal seeds give equal decisions.
pub fn schedule_batch(snapshot: &mut Snapshot, pods: &[Arc<PodInfo>], rng: &mut impl Rng) -> Vec<Outcome> {
    let mut scratch = Scratch::default();
    let outcomes = pods.iter().map(|pod| schedule_one(snapshot, pod, &mut scratch, rng)).collect();
    snapshot.compact();
    outcomes
}

fn schedule_one(snapshot: &mut Snapshot, pod: &Arc<PodInfo>, scratch: &mut Scratch, rng: &mut impl Rng) -> Outcome {
    if snapshot.node_count() == 0 {
        return Outcome::Unschedulable(Unschedulable {
            message: "no nodes available to schedule pods".into(),
            plugins: PluginSet::default(),
            preemption: None,
        });
    }
    let mut cycle = match Cycle::new(snapshot, pod) {
        Ok(cycle) => cycle,
        Err(why) => {
            let nodes = snapshot.node_count();
            let futile = counted(nodes, [("Preemption is not helpful for scheduling", nodes)].into_iter());
            return Outcome::Unschedulable(Unschedulable {
                message: format!("0/{nodes} nodes are available: {why}. preemption: {futile}"),
                plugins: Plugin::VolumeBinding.into(),
                preemption: None,
            });
        }
    };
    if let Some((class, answer)) = &scratch.hopeless
        && *class == cycle.class_id
        && pod.nominated.is_none()
    {
        return Outcome::Unschedulable(answer.clone());
    }
    if let Some(slot) = choose(snapshot, &cycle, pod, &mut scratch.feasible, rng) {
        let claims = cycle.choose_volumes(snapshot, slot);
        snapshot.assume(pod, slot, &claims);
        scratch.hopeless = None;
        return Outcome::Placed { node: snapshot.node(slot).name.clone(), claims };
    }
    let failures: Vec<(Slot, Failure)> =
        snapshot.live.iter().filter_map(|slot| cycle.check(snapshot, *slot).map(|f| (*slot, f))).collect();
    let (mut message, plugins) = diagnose(&cycle.class, &failures);
    let preemption = match preempt(snapshot, &mut cycle, pod, &failures, rng) {
        Ok(preemption) => {
            snapshot.nominate(pod.clone(), &preemption.node);
            snapshot.doomed.extend(preemption.victims.iter().map(|v| v.uid.clone()));
            scratch.hopeless = None;
            Some(preemption)
        }
        Err(why) => {
            message = format!("{message} preemption: {why}");
            None
        }
    };
    let answer = Unschedulable { message, plugins, preemption };
    if answer.preemption.is_none() && pod.nominated.is_none() && cycle.class.claims.is_empty() {
        scratch.hopeless = Some((cycle.class_id, answer.clone()));
    }
    Outcome::Unschedulable(answer)
}

/// The best node that the pod fits on.
fn choose(
    snapshot: &Snapshot,
    cycle: &Cycle,
    pod: &PodInfo,
    feasible: &mut Vec<Slot>,
    rng: &mut impl Rng,
) -> Option<Slot> {
    if let Some(slot) = pod.nominated.as_deref().and_then(|n| snapshot.slot_of(n))
        && cycle.check(snapshot, slot).is_none()
    {
        return Some(slot);
    }
    feasible.clear();
    feasible.extend(snapshot.live.iter().copied().filter(|slot| cycle.check(snapshot, *slot).is_none()));
    match feasible.as_slice() {
        [] => None,
        [only] => Some(*only),
        several => {
            let totals = totals(snapshot, cycle, several);
            let best = totals.iter().copied().max()?;
            let mut equal = several.iter().zip(&totals).filter(|(_, t)| **t == best).map(|(s, _)| *s);
            let ties = totals.iter().filter(|t| **t == best).count();
            equal.nth(rng.random_range(0..ties))
        }
    }
}
