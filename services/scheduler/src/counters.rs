//! Counts of pods by topology domain, kept as pods come and go, so that affinity and spreading are array look-ups.
//!
//! kube-scheduler walks all pods of all nodes for every pod that it places; that is what makes required anti-affinity an
//! order of magnitude slower there than everything else. Here each distinct term has one [`Counter`], moved by one when a
//! pod that concerns it is placed or leaves. The invariant, checked by `Snapshot::audit` in tests: a counter equals what a
//! walk over all placed pods would count.

use std::collections::HashMap;
use std::sync::Arc;

use crate::pod::Matcher;
use crate::selector::{Labels, Selector};

/// A node without the topology's label belongs to no domain.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// One topology key and the domain of each node.
#[derive(Debug)]
pub(crate) struct Topology {
    pub key: Arc<str>,
    domains: HashMap<Arc<str>, u32>,
    /// By slot.
    domain_of: Vec<u32>,
}

impl Topology {
    pub(crate) fn new(key: &Arc<str>) -> Self {
        Self { key: key.clone(), domains: HashMap::new(), domain_of: Vec::new() }
    }

    /// The domain of the node in `slot`, or `NOWHERE`.
    pub(crate) fn domain(&self, slot: usize) -> u32 {
        self.domain_of.get(slot).copied().unwrap_or(NOWHERE)
    }

    pub(crate) fn domain_count(&self) -> usize {
        self.domains.len()
    }

    /// Whether [`Self::place`] would change anything.
    pub(crate) fn moves(&self, slot: usize, labels: &Labels) -> bool {
        let now = labels.get(&*self.key).and_then(|v| self.domains.get(v.as_str())).copied();
        let absent = !labels.contains_key(&*self.key);
        now.unwrap_or(NOWHERE) != self.domain(slot) || (now.is_none() && !absent)
    }

    /// Puts the node in `slot` where its labels say.
    pub(crate) fn place(&mut self, slot: usize, labels: &Labels) {
        if self.domain_of.len() <= slot {
            self.domain_of.resize(slot + 1, NOWHERE);
        }
        self.domain_of[slot] = match labels.get(&*self.key) {
            None => NOWHERE,
            Some(value) => {
                let next = u32::try_from(self.domains.len()).unwrap_or(NOWHERE);
                *self.domains.entry(value.as_str().into()).or_insert(next)
            }
        };
    }

    pub(crate) fn clear(&mut self, slot: usize) {
        if let Some(domain) = self.domain_of.get_mut(slot) {
            *domain = NOWHERE;
        }
    }
}

/// Counts for one affinity term: pods that match it, and pods that state it.
#[derive(Debug)]
pub(crate) struct Counter {
    pub matcher: Matcher,
    /// Index of the topology.
    pub topology: usize,
    /// Placed pods that match, by domain.
    matching: Vec<u32>,
    matching_total: u32,
    /// Placed pods that refuse to share a domain with pods that match, by domain.
    refusing: Vec<u32>,
    refusing_total: u32,
    /// Sum of the weights with which placed pods like (or dislike) pods that match, by domain.
    pull: Vec<i64>,
    pulling: u32,
}

/// What a pod is to a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Matches,
    Refuses,
    Pulls(i64),
}

impl Counter {
    pub(crate) fn new(matcher: Matcher, topology: usize) -> Self {
        Self {
            matcher,
            topology,
            matching: Vec::new(),
            matching_total: 0,
            refusing: Vec::new(),
            refusing_total: 0,
            pull: Vec::new(),
            pulling: 0,
        }
    }

    /// A pod in this role comes to (or leaves) the domain.
    pub(crate) fn shift(&mut self, role: Role, domain: u32, comes: bool) {
        if domain == NOWHERE {
            return;
        }
        let at = domain as usize;
        let move_count = |list: &mut Vec<u32>, total: &mut u32| {
            if list.len() <= at {
                list.resize(at + 1, 0);
            }
            if comes {
                list[at] += 1;
                *total += 1;
            } else {
                list[at] -= 1;
                *total -= 1;
            }
        };
        match role {
            Role::Matches => move_count(&mut self.matching, &mut self.matching_total),
            Role::Refuses => move_count(&mut self.refusing, &mut self.refusing_total),
            Role::Pulls(weight) => {
                if self.pull.len() <= at {
                    self.pull.resize(at + 1, 0);
                }
                self.pull[at] += if comes { weight } else { -weight };
                if comes {
                    self.pulling += 1;
                } else {
                    self.pulling -= 1;
                }
            }
        }
    }

    pub(crate) fn matching(&self, domain: u32) -> u32 {
        self.matching.get(domain as usize).copied().unwrap_or(0)
    }

    pub(crate) fn any_matching(&self) -> bool {
        self.matching_total > 0
    }

    pub(crate) fn refuses(&self, domain: u32) -> bool {
        self.refusing.get(domain as usize).is_some_and(|n| *n > 0)
    }

    pub(crate) fn any_refusing(&self) -> bool {
        self.refusing_total > 0
    }

    pub(crate) fn pull(&self, domain: u32) -> i64 {
        self.pull.get(domain as usize).copied().unwrap_or(0)
    }

    pub(crate) fn any_pulling(&self) -> bool {
        self.pulling > 0
    }

    /// For comparison with a recount: the three counts of a domain.
    #[cfg(test)]
    pub(crate) fn at(&self, domain: u32) -> (u32, u32, i64) {
        (self.matching(domain), self.refusing.get(domain as usize).copied().unwrap_or(0), self.pull(domain))
    }
}

/// Pods that one topology spread constraint counts, by node: which nodes count depends on the pod that asks, so domains
/// are summed up when it does.
#[derive(Debug)]
pub(crate) struct SpreadCounter {
    pub namespace: Arc<str>,
    pub selector: Selector,
    per_node: Vec<u32>,
}

impl SpreadCounter {
    pub(crate) fn new(namespace: Arc<str>, selector: Selector) -> Self {
        Self { namespace, selector, per_node: Vec::new() }
    }

    pub(crate) fn shift(&mut self, slot: usize, comes: bool) {
        if self.per_node.len() <= slot {
            self.per_node.resize(slot + 1, 0);
        }
        if comes {
            self.per_node[slot] += 1;
        } else {
            self.per_node[slot] -= 1;
        }
    }

    pub(crate) fn on_node(&self, slot: usize) -> u32 {
        self.per_node.get(slot).copied().unwrap_or(0)
    }
}
