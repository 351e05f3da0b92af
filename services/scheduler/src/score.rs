//! Which of the nodes that can is best: kube-scheduler's default scores, weights and normalisation.

use crate::counters::NOWHERE;
use crate::filter::{Cycle, counts_for};
use crate::snapshot::{Slot, Snapshot};

const MAX_SCORE: i64 = 100;

// Weights of kube-scheduler's default profile.
const TAINTS: i64 = 3;
const NODE_AFFINITY: i64 = 2;
const SPREAD: i64 = 2;
const POD_AFFINITY: i64 = 2;

const HOSTNAME: &str = "kubernetes.io/hostname";

/// A total for each of the feasible nodes, in their order.
pub(crate) fn totals(snapshot: &Snapshot, cycle: &Cycle, feasible: &[Slot]) -> Vec<i64> {
    let statics = &snapshot.classes[cycle.class_id].statics;
    let mut totals: Vec<i64> = feasible.iter().map(|slot| resources(snapshot, cycle, *slot)).collect();
    let mut add = |weight: i64, scores: Option<Vec<i64>>| {
        for (total, score) in totals.iter_mut().zip(scores.into_iter().flatten()) {
            *total += weight * score;
        }
    };
    let gather = |column: &[i64]| -> Vec<i64> { feasible.iter().map(|slot| column[*slot]).collect() };
    add(TAINTS, highest_is_worst(gather(&statics.avoid)));
    if !cycle.class.preferred_nodes.is_empty() {
        add(NODE_AFFINITY, share_of_highest(gather(&statics.preferred)));
    }
    add(1, Some(gather(&statics.images)));
    add(POD_AFFINITY, pod_affinity(snapshot, cycle, feasible));
    add(SPREAD, soft_spread(snapshot, cycle, feasible));
    totals
}

/// LeastAllocated and BalancedAllocation over CPU and memory.
fn resources(snapshot: &Snapshot, cycle: &Cycle, slot: Slot) -> i64 {
    let (cpu, memory) = (snapshot.cpu.allocatable[slot], snapshot.memory.allocatable[slot]);
    let least = |allocatable: i64, requested: i64| {
        if requested > allocatable { 0 } else { (allocatable - requested) * MAX_SCORE / allocatable }
    };
    let (mut sum, mut parts) = (0, 0);
    if cpu > 0 {
        sum += least(cpu, snapshot.counted_cpu[slot] + cycle.class.counted_cpu);
        parts += 1;
    }
    if memory > 0 {
        sum += least(memory, snapshot.counted_memory[slot] + cycle.class.counted_memory);
        parts += 1;
    }
    let mut score = if parts > 0 { sum / parts } else { 0 };
    let requests = &cycle.class.requests;
    let best_effort = requests.milli_cpu == 0 && requests.memory == 0;
    if !best_effort && cpu > 0 && memory > 0 {
        let share = |requested: i64, allocatable: i64| (requested as f64 / allocatable as f64).min(1.0);
        let of_cpu = share(snapshot.cpu.requested[slot] + requests.milli_cpu, cpu);
        let of_memory = share(snapshot.memory.requested[slot] + requests.memory, memory);
        score += ((1.0 - (of_cpu - of_memory).abs() / 2.0) * MAX_SCORE as f64) as i64;
    } else if !best_effort {
        score += MAX_SCORE;
    }
    score
}

/// `None` where all are equal: a constant decides nothing.
fn highest_is_worst(raw: Vec<i64>) -> Option<Vec<i64>> {
    let highest = raw.iter().copied().max().filter(|h| *h > 0)?;
    Some(raw.into_iter().map(|n| MAX_SCORE - MAX_SCORE * n / highest).collect())
}

fn share_of_highest(raw: Vec<i64>) -> Option<Vec<i64>> {
    let highest = raw.iter().copied().max().filter(|h| *h > 0)?;
    Some(raw.into_iter().map(|n| MAX_SCORE * n / highest).collect())
}

/// Preferred terms of this pod, and terms of placed pods that this pod matches.
fn pod_affinity(snapshot: &Snapshot, cycle: &Cycle, feasible: &[Slot]) -> Option<Vec<i64>> {
    let state = &snapshot.classes[cycle.class_id];
    let pulled: Vec<usize> = state.matches.iter().copied().filter(|c| snapshot.counters[*c].any_pulling()).collect();
    if pulled.is_empty() && !state.likes.iter().any(|(c, _)| snapshot.counters[*c].any_matching()) {
        return None;
    }
    let raw: Vec<i64> = feasible
        .iter()
        .map(|slot| {
            let domain = |c: usize| snapshot.topologies[snapshot.counters[c].topology].domain(*slot);
            let own = state.likes.iter().map(|(c, w)| w * i64::from(snapshot.counters[*c].matching(domain(*c))));
            let others = pulled.iter().map(|c| snapshot.counters[*c].pull(domain(*c)));
            own.sum::<i64>() + others.sum::<i64>()
        })
        .collect();
    let (low, high) = (*raw.iter().min()?, *raw.iter().max()?);
    if low == high {
        return None;
    }
    Some(raw.into_iter().map(|n| (MAX_SCORE as f64 * ((n - low) as f64 / (high - low) as f64)) as i64).collect())
}

/// `ScheduleAnyway` constraints: the fewer matching pods in the node's domains, the better; a topology with many domains
/// weighs more.
fn soft_spread(snapshot: &Snapshot, cycle: &Cycle, feasible: &[Slot]) -> Option<Vec<i64>> {
    let state = &snapshot.classes[cycle.class_id];
    let soft: Vec<_> = state.class.spread.iter().zip(&state.spread).filter(|(s, _)| !s.hard).collect();
    if soft.is_empty() {
        return None;
    }
    let needs_all = soft.iter().any(|(s, _)| !s.by_default);
    let domain = |topology: usize, slot: Slot| snapshot.topologies[topology].domain(slot);
    let ignored = |slot: Slot| needs_all && soft.iter().any(|(_, (_, t))| domain(*t, slot) == NOWHERE);
    // Sums by domain, for domains that a feasible node is in (-1: none is).
    let mut sums: Vec<Vec<i64>> =
        soft.iter().map(|(_, (_, t))| vec![-1; snapshot.topologies[*t].domain_count()]).collect();
    let mut considered = 0;
    for slot in feasible.iter().copied().filter(|s| !ignored(*s)) {
        considered += 1;
        for ((_, (_, topology)), sums) in soft.iter().zip(&mut sums) {
            let at = domain(*topology, slot);
            if at != NOWHERE {
                sums[at as usize] = 0;
            }
        }
    }
    let by_host: Vec<bool> = soft.iter().map(|(s, _)| &*s.topology_key == HOSTNAME).collect();
    let weights: Vec<f64> = sums
        .iter()
        .zip(&by_host)
        .map(|(sums, host)| {
            let domains = if *host { considered } else { sums.iter().filter(|n| **n >= 0).count() };
            ((domains + 2) as f64).ln()
        })
        .collect();
    if by_host.iter().any(|host| !host) {
        for slot in snapshot.live.iter().copied().filter(|s| !ignored(*s)) {
            for (((spread, (counter, topology)), sums), host) in soft.iter().zip(&mut sums).zip(&by_host) {
                let at = domain(*topology, slot);
                if *host || at == NOWHERE || sums[at as usize] < 0 || !counts_for(state, spread, slot) {
                    continue;
                }
                sums[at as usize] += i64::from(snapshot.spreads[*counter].on_node(slot));
            }
        }
    }
    let raw: Vec<Option<i64>> = feasible
        .iter()
        .map(|slot| {
            if ignored(*slot) {
                return None;
            }
            let mut score = 0.0;
            for (at, (spread, (counter, topology))) in soft.iter().enumerate() {
                let place = domain(*topology, *slot);
                if place == NOWHERE {
                    continue;
                }
                let pods = if by_host[at] {
                    i64::from(snapshot.spreads[*counter].on_node(*slot))
                } else {
                    sums[at][place as usize]
                };
                score += pods as f64 * weights[at] + f64::from(spread.max_skew - 1);
            }
            Some(score.round() as i64)
        })
        .collect();
    let (low, high) = (raw.iter().flatten().min().copied()?, raw.iter().flatten().max().copied()?);
    let normalized = |score: i64| {
        if high == 0 { MAX_SCORE } else { MAX_SCORE * (high + low - score) / high }
    };
    Some(raw.into_iter().map(|score| score.map_or(0, normalized)).collect())
}
