//! Can this pod run on that node? One function, [`Cycle::check`], answers for placing, explaining and preempting alike.
//!
//! Filters run in kube-scheduler's order, and the first that objects speaks for the node: users know the texts, and which
//! one they see depends on the order.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::counters::NOWHERE;
use crate::pod::{HostPort, PodClass, PodInfo};
use crate::snapshot::{ClassId, Slot, Snapshot};
use crate::statics::StaticFailure;
use crate::volumes::{VolumeFailure, Wants};

/// What is lacking, as bits: pods, cpu, memory, ephemeral storage, then the class's extended resources in order.
pub(crate) const LACKS_PODS: u64 = 1;
pub(crate) const LACKS_CPU: u64 = 2;
pub(crate) const LACKS_MEMORY: u64 = 4;
pub(crate) const LACKS_EPHEMERAL: u64 = 8;
/// The bit of the first extended resource.
pub(crate) const LACKS_EXTENDED_SHIFT: u32 = 4;

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    Static(StaticFailure),
    Ports,
    Resources {
        /// Bits, see `LACKS_*`.
        lacks: u64,
        /// More than the node has at all: removing pods would not help.
        beyond: bool,
    },
    Volume(VolumeFailure),
    SpreadLabel,
    Spread,
    Affinity,
    AntiAffinity,
    RefusedByOthers,
}

impl Failure {
    /// Whether removing pods from the node could make it go away.
    pub(crate) fn preemptible(&self) -> bool {
        match self {
            Self::Ports | Self::Spread | Self::AntiAffinity | Self::RefusedByOthers => true,
            Self::Resources { beyond, .. } => !beyond,
            Self::Static(_) | Self::Volume(_) | Self::SpreadLabel | Self::Affinity => false,
        }
    }
}

/// Room on a node that is promised to others.
#[derive(Debug, Default)]
struct Promised {
    milli_cpu: i64,
    memory: i64,
    ephemeral: i64,
    pods: i64,
    extended: HashMap<usize, i64>,
    ports: Vec<HostPort>,
}

/// One hard spread constraint, with the domains counted for this pod.
#[derive(Debug)]
struct HardSpread {
    topology: usize,
    /// By domain; -1: no eligible node is in it.
    counts: Vec<i64>,
    minimum: i64,
    own: i64,
    max_skew: i64,
}

/// The placing of one pod: what does not change from node to node.
#[derive(Debug)]
pub(crate) struct Cycle {
    pub class_id: ClassId,
    pub class: Arc<PodClass>,
    wants: Wants,
    promised: HashMap<Slot, Promised>,
    spread: SmallVec<[HardSpread; 2]>,
    /// Counters in which others may refuse this pod.
    refused_in: SmallVec<[usize; 4]>,
    asks_nothing: bool,
    matches_itself: bool,
}

impl Cycle {
    /// Prepares to place the pod, or says why no node will do.
    pub(crate) fn new(snapshot: &mut Snapshot, pod: &PodInfo) -> Result<Self, String> {
        let class_id = snapshot.class(&pod.class);
        snapshot.refresh_statics(class_id);
        let wants = if pod.class.claims.is_empty() { Wants::default() } else { snapshot.volumes.wants(&pod.class)? };
        let mut cycle = Self {
            class_id,
            class: pod.class.clone(),
            wants,
            promised: HashMap::new(),
            spread: SmallVec::new(),
            refused_in: SmallVec::new(),
            asks_nothing: pod.class.requests.is_zero(),
            matches_itself: false,
        };
        for (uid, (slot, other)) in &snapshot.nominated {
            if *uid != pod.uid && other.class.priority >= pod.class.priority {
                cycle.promised.entry(*slot).or_default().add(snapshot, other);
            }
        }
        cycle.recount(snapshot);
        Ok(cycle)
    }

    /// Looks at the placed pods again: preemption changes them under the cycle.
    pub(crate) fn recount(&mut self, snapshot: &Snapshot) {
        let state = &snapshot.classes[self.class_id];
        self.refused_in = state.matches.iter().copied().filter(|c| snapshot.counters[*c].any_refusing()).collect();
        self.matches_itself = state.affinity.first().is_some_and(|c| state.matches.contains(c));
        self.spread = hard_spreads(snapshot, self.class_id);
    }

    /// The first objection to placing the pod in `slot`.
    pub(crate) fn check(&self, snapshot: &Snapshot, slot: Slot) -> Option<Failure> {
        let state = &snapshot.classes[self.class_id];
        if let Some(failure) = &state.statics.verdict[slot] {
            return Some(Failure::Static(failure.clone()));
        }
        let promised = if self.promised.is_empty() { None } else { self.promised.get(&slot) };
        if !self.class.ports.is_empty() {
            let taken = snapshot.ports[slot].iter().chain(promised.iter().flat_map(|p| &p.ports));
            for used in taken {
                if self.class.ports.iter().any(|p| p.clashes(used)) {
                    return Some(Failure::Ports);
                }
            }
        }
        if let Some(failure) = self.check_resources(snapshot, slot, promised) {
            return Some(failure);
        }
        if !self.class.claims.is_empty()
            && let Some(failure) = snapshot.volumes.check(&self.wants, snapshot.node(slot))
        {
            return Some(Failure::Volume(failure));
        }
        for spread in &self.spread {
            let domain = snapshot.topologies[spread.topology].domain(slot);
            if domain == NOWHERE {
                return Some(Failure::SpreadLabel);
            }
            let here = spread.counts[domain as usize].max(0);
            if here + spread.own - spread.minimum > spread.max_skew {
                return Some(Failure::Spread);
            }
        }
        let domain = |counter: usize| snapshot.topologies[snapshot.counters[counter].topology].domain(slot);
        if !state.affinity.is_empty() {
            let all_near = state.affinity.iter().all(|c| snapshot.counters[*c].matching(domain(*c)) > 0);
            let labelled = || state.affinity.iter().all(|c| domain(*c) != NOWHERE);
            // The first of a group that wants to be together may go anywhere.
            let first = || self.matches_itself && !state.affinity.iter().any(|c| snapshot.counters[*c].any_matching());
            if !(all_near || (labelled() && first())) {
                return Some(Failure::Affinity);
            }
        }
        if state.anti_affinity.iter().any(|c| snapshot.counters[*c].matching(domain(*c)) > 0) {
            return Some(Failure::AntiAffinity);
        }
        if self.refused_in.iter().any(|c| snapshot.counters[*c].refuses(domain(*c))) {
            return Some(Failure::RefusedByOthers);
        }
        None
    }

    fn check_resources(&self, snapshot: &Snapshot, slot: Slot, promised: Option<&Promised>) -> Option<Failure> {
        let (mut lacks, mut beyond) = (0, false);
        let (mut pods, mut milli_cpu, mut memory, mut ephemeral) = (0, 0, 0, 0);
        if let Some(p) = promised {
            (pods, milli_cpu, memory, ephemeral) = (p.pods, p.milli_cpu, p.memory, p.ephemeral);
        }
        if snapshot.pod_slots.free(slot) - pods < 1 {
            lacks |= LACKS_PODS;
        }
        if !self.asks_nothing {
            let requests = &self.class.requests;
            for (bit, column, wanted, held) in [
                (LACKS_CPU, &snapshot.cpu, requests.milli_cpu, milli_cpu),
                (LACKS_MEMORY, &snapshot.memory, requests.memory, memory),
                (LACKS_EPHEMERAL, &snapshot.ephemeral, requests.ephemeral, ephemeral),
            ] {
                if wanted > 0 && wanted > column.free(slot) - held {
                    lacks |= bit;
                    beyond |= wanted > column.allocatable[slot];
                }
            }
            for (at, (column, wanted)) in snapshot.classes[self.class_id].extended.iter().enumerate() {
                let held = promised.and_then(|p| p.extended.get(column)).copied().unwrap_or(0);
                let column = &snapshot.extended[*column];
                if *wanted > column.free(slot) - held {
                    lacks |= 1 << (LACKS_EXTENDED_SHIFT + u32::try_from(at.min(59)).unwrap_or(59));
                    beyond |= *wanted > column.allocatable[slot];
                }
            }
        }
        (lacks != 0).then_some(Failure::Resources { lacks, beyond })
    }

    /// Volumes for the claims that waited for this decision.
    pub(crate) fn choose_volumes(&self, snapshot: &Snapshot, slot: Slot) -> Vec<crate::ClaimBinding> {
        if self.class.claims.is_empty() {
            return Vec::new();
        }
        snapshot.volumes.choose(&self.wants, snapshot.node(slot)).unwrap_or_default()
    }
}

impl Promised {
    fn add(&mut self, snapshot: &Snapshot, pod: &PodInfo) {
        let requests = &pod.class.requests;
        self.milli_cpu += requests.milli_cpu;
        self.memory += requests.memory;
        self.ephemeral += requests.ephemeral;
        self.pods += 1;
        for (name, amount) in &requests.extended {
            if let Some(column) = snapshot.extended_id(name) {
                *self.extended.entry(column).or_insert(0) += amount;
            }
        }
        self.ports.extend(pod.class.ports.iter().cloned());
    }
}

/// Whether a node's pods count for a constraint of this class.
pub(crate) fn counts_for(state: &crate::snapshot::ClassState, spread: &crate::pod::Spread, slot: Slot) -> bool {
    (!spread.honor_affinity || state.statics.admits[slot]) && (!spread.honor_taints || state.statics.tolerates[slot])
}

fn hard_spreads(snapshot: &Snapshot, class_id: ClassId) -> SmallVec<[HardSpread; 2]> {
    let state = &snapshot.classes[class_id];
    let hard: SmallVec<[_; 2]> = state.class.spread.iter().zip(&state.spread).filter(|(s, _)| s.hard).collect();
    if hard.is_empty() {
        return SmallVec::new();
    }
    let mut out: SmallVec<[HardSpread; 2]> = hard
        .iter()
        .map(|(spread, (_, topology))| HardSpread {
            topology: *topology,
            counts: vec![-1; snapshot.topologies[*topology].domain_count()],
            minimum: 0,
            own: i64::from(spread.selector.matches(&state.class.labels)),
            max_skew: i64::from(spread.max_skew),
        })
        .collect();
    for slot in snapshot.live.iter().copied() {
        if hard.iter().any(|(_, (_, topology))| snapshot.topologies[*topology].domain(slot) == NOWHERE) {
            continue;
        }
        for ((spread, (counter, topology)), sums) in hard.iter().zip(&mut out) {
            if counts_for(state, spread, slot) {
                let count = &mut sums.counts[snapshot.topologies[*topology].domain(slot) as usize];
                *count = (*count).max(0) + i64::from(snapshot.spreads[*counter].on_node(slot));
            }
        }
    }
    for ((spread, _), sums) in hard.iter().zip(&mut out) {
        let present = sums.counts.iter().copied().filter(|n| *n >= 0);
        let domains = present.clone().count();
        sums.minimum = if (domains as u64) < u64::from(spread.min_domains) { 0 } else { present.min().unwrap_or(0) };
    }
    out
}
