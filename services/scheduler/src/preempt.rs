//! Making room: which pods of lower priority must leave for a pod that fits nowhere.
//!
//! For each node where removing pods could help, all pods of lower priority are taken off; if the pod fits then, as many
//! as possible are put back, those that a PodDisruptionBudget protects first and the important ones before the others.
//! What stays off are the node's victims, and the node whose victims are the smallest loss is chosen (Kubernetes
//! documentation, 'Pod Priority and Preemption').

use std::cmp::Reverse;
use std::sync::Arc;

use jiff::Timestamp;
use rand::Rng;

use crate::explain::counted;
use crate::filter::{Cycle, Failure};
use crate::pod::PodInfo;
use crate::snapshot::{Slot, Snapshot};

/// Nodes that are tried: more would find a slightly smaller loss at the price of everybody's latency.
const CANDIDATES: usize = 100;

/// Room to be made: the victims are to be deleted, and the pod waits with `nominatedNodeName` set.
#[derive(Debug, Clone)]
pub struct Preemption {
    /// Where.
    pub node: Arc<str>,
    /// Who has to go.
    pub victims: Vec<Arc<PodInfo>>,
}

/// A node's price. The least wins; the order of fields is the order of importance.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Price {
    budgets_violated: usize,
    highest_priority: i32,
    /// Each priority is shifted to be positive, so that more victims always cost more.
    sum_of_priorities: i64,
    victims: usize,
    /// The latest start among the most important victims is the least loss.
    started: Reverse<Timestamp>,
    slot: Slot,
}

/// The room to be made, or the text that follows the diagnosis.
pub(crate) fn preempt(
    snapshot: &mut Snapshot,
    cycle: &mut Cycle,
    pod: &Arc<PodInfo>,
    failures: &[(Slot, Failure)],
    rng: &mut impl Rng,
) -> Result<Preemption, String> {
    if !pod.class.preempts {
        return Err("not eligible due to preemptionPolicy=Never.".into());
    }
    if let Some(slot) = pod.nominated.as_deref().and_then(|n| snapshot.slot_of(n)) {
        let hopeless = failures.iter().any(|(s, f)| *s == slot && !f.preemptible());
        let leaving = snapshot.on_node[slot]
            .iter()
            .map(|id| &snapshot.pod(*id).info)
            .any(|p| p.class.priority < pod.class.priority && (p.terminating || snapshot.doomed.contains(&p.uid)));
        if !hopeless && leaving {
            return Err("not eligible due to a terminating pod on the nominated node.".into());
        }
    }
    let candidates: Vec<Slot> = failures.iter().filter(|(_, f)| f.preemptible()).map(|(s, _)| *s).collect();
    let mut best: Option<(Price, Vec<Arc<PodInfo>>)> = None;
    let offset = if candidates.is_empty() { 0 } else { rng.random_range(0..candidates.len()) };
    let mut found = 0;
    for at in 0..candidates.len() {
        let slot = candidates[(offset + at) % candidates.len()];
        let Some((price, victims)) = try_node(snapshot, cycle, pod, slot) else { continue };
        if best.as_ref().is_none_or(|(least, _)| price < *least) {
            best = Some((price, victims));
        }
        found += 1;
        if found == CANDIDATES {
            break;
        }
    }
    cycle.recount(snapshot);
    match best {
        Some((price, victims)) => {
            let node = snapshot.node(price.slot).name.clone();
            Ok(Preemption { node, victims })
        }
        None => {
            let tried = candidates.len();
            let reasons = [
                ("No preemption victims found for incoming pod", tried),
                ("Preemption is not helpful for scheduling", failures.len() - tried),
            ];
            Err(counted(failures.len(), reasons.into_iter().filter(|(_, n)| *n > 0)))
        }
    }
}

/// What making room on this node costs; `None` where it is impossible. Leaves the snapshot as it was.
fn try_node(
    snapshot: &mut Snapshot,
    cycle: &mut Cycle,
    pod: &Arc<PodInfo>,
    slot: Slot,
) -> Option<(Price, Vec<Arc<PodInfo>>)> {
    let lower: Vec<usize> = snapshot.on_node[slot]
        .iter()
        .copied()
        .filter(|id| snapshot.pod(*id).info.class.priority < pod.class.priority)
        .collect();
    if lower.is_empty() {
        return None;
    }
    let order = snapshot.on_node[slot].clone();
    for id in &lower {
        snapshot.detach(*id);
    }
    cycle.recount(snapshot);
    let mut off = lower.clone();
    let mut result = None;
    if cycle.check(snapshot, slot).is_none() {
        // Who is leaving already costs nothing, and is not asked to leave twice.
        let leaves = |id: &usize| snapshot.doomed.contains(&snapshot.pod(*id).info.uid);
        let mut staying: Vec<usize> = lower.iter().copied().filter(|id| !leaves(id)).collect();
        staying.sort_by_key(|id| {
            let info = &snapshot.pod(*id).info;
            (Reverse(info.class.priority), info.started, info.uid.clone())
        });
        let protected = protected(snapshot, &staying);
        let mut violated = 0;
        let mut victims = Vec::new();
        let (first, second): (Vec<_>, Vec<_>) =
            staying.into_iter().zip(protected).partition(|(_, is_protected)| *is_protected);
        for (id, is_protected) in first.into_iter().chain(second) {
            snapshot.attach(id);
            cycle.recount(snapshot);
            if cycle.check(snapshot, slot).is_some() {
                snapshot.detach(id);
                cycle.recount(snapshot);
                violated += usize::from(is_protected);
                victims.push(id);
            } else {
                off.retain(|o| *o != id);
            }
        }
        let infos: Vec<_> = victims.iter().map(|id| snapshot.pod(*id).info.clone()).collect();
        result = Some((price(slot, violated, &infos), infos));
    }
    for id in off {
        snapshot.attach(id);
    }
    snapshot.on_node[slot] = order;
    result
}

/// For each pod, whether evicting it (and those before it) would break a budget.
fn protected(snapshot: &Snapshot, pods: &[usize]) -> Vec<bool> {
    let mut left: Vec<i32> = snapshot.budgets.iter().map(|b| b.allowed).collect();
    pods.iter()
        .map(|id| {
            let info = &snapshot.pod(*id).info;
            let mut breaks = false;
            for (budget, left) in snapshot.budgets.iter().zip(&mut left) {
                if budget.namespace == info.class.namespace
                    && !info.class.labels.is_empty()
                    && budget.selector.matches(&info.class.labels)
                    && !budget.disrupted.contains(&*info.name)
                {
                    *left -= 1;
                    breaks |= *left < 0;
                }
            }
            breaks
        })
        .collect()
}

fn price(slot: Slot, budgets_violated: usize, victims: &[Arc<PodInfo>]) -> Price {
    let highest = victims.iter().map(|v| v.class.priority).max().unwrap_or(i32::MIN);
    let started = victims.iter().filter(|v| v.class.priority == highest).filter_map(|v| v.started).min();
    Price {
        budgets_violated,
        highest_priority: highest,
        sum_of_priorities: victims.iter().map(|v| i64::from(v.class.priority) + i64::from(i32::MAX) + 1).sum(),
        victims: victims.len(),
        started: Reverse(started.unwrap_or(Timestamp::MIN)),
        slot,
    }
}
