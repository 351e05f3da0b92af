//! So many pods of one template: the core of ReplicaSet and ReplicationController.
//!
//! ```text
//! claim (adopt, release) -> fewer pods than wanted: create; more: delete the most expendable; as many: tell in status
//! ```
//! While pods are being created or deleted the status waits: the plan that follows sees them and counts once.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::action::{Action, FailedVerb, Failure, Note, Plan};
use crate::meta::{self, Claim};
use crate::{pod, template};

/// As many pods as one plan creates or deletes; the next plan goes on. Bounds the memory of a plan, not its speed.
const BURST: usize = 2_000;

/// Why a plan does something, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The object is gone.
    Gone,
    /// The object is being deleted: its pods are the garbage collector's.
    BeingDeleted,
    /// An orphan matches the selector.
    Adopted,
    /// A pod's labels no longer match.
    Released,
    /// Fewer pods than wanted.
    TooFew {
        /// `spec.replicas`
        wanted: i32,
        /// Active pods.
        have: usize,
    },
    /// More pods than wanted.
    TooMany {
        /// `spec.replicas`
        wanted: i32,
        /// Active pods.
        have: usize,
    },
    /// The status does not say what is observed.
    StatusIsOld,
    /// Everything is as wanted.
    AsWanted,
}

/// What ReplicaSet and ReplicationController have in common.
#[derive(Debug, Clone)]
pub struct Set<'a> {
    /// The owner's metadata.
    pub meta: &'a ObjectMeta,
    /// The reference its pods carry.
    pub reference: OwnerReference,
    /// What events are about.
    pub about: ObjectReference,
    /// `spec.replicas`
    pub wanted: i32,
    /// `spec.minReadySeconds`
    pub min_ready_seconds: i32,
    /// `spec.template`
    pub template: Option<&'a PodTemplateSpec>,
}

/// The counts of a status.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    /// Active pods.
    pub replicas: i32,
    /// With all labels of the template.
    pub fully_labeled: i32,
    /// Ready.
    pub ready: i32,
    /// Ready for long enough.
    pub available: i32,
    /// Being deleted.
    pub terminating: i32,
}

/// What [`plan`] leaves to the caller: the status, where now is the time to write it.
#[derive(Debug)]
pub struct Counted {
    /// The actions so far.
    pub plan: Plan<Reason>,
    /// The counts to write, unless pods are being changed right now.
    pub counts: Option<Counts>,
    /// `ReplicaFailure` condition: reason and message.
    pub failure: Option<(&'static str, String)>,
}

/// Claims, creates and deletes pods. `pods`: those of the set and those of nobody; `matches`: the set's selector; `related`:
/// all pods of sets with the same owner, for spreading deletions.
pub fn plan(
    set: &Set<'_>,
    pods: &[Arc<Pod>],
    related: &[Arc<Pod>],
    matches: impl Fn(&Pod) -> bool,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Counted {
    let mut plan = Plan::new();
    let mut claimed: Vec<&Arc<Pod>> = Vec::new();
    for pod in pods {
        match meta::claim(&pod.metadata, set.meta, matches(pod)) {
            Claim::Owned => claimed.push(pod),
            Claim::Adopt if pod::is_terminal(pod) => {}
            Claim::Adopt => {
                plan.push(meta::adopt("pods", &pod.metadata, &set.reference, Reason::Adopted));
                claimed.push(pod);
            }
            Claim::Release => plan.push(meta::release("pods", &pod.metadata, meta::uid(set.meta), Reason::Released)),
            Claim::Ignore => {}
        }
    }
    plan.barrier();

    let active: Vec<&Arc<Pod>> = claimed.iter().copied().filter(|p| pod::is_active(p)).collect();
    let wanted = usize::try_from(set.wanted).unwrap_or(0);
    let deleting = meta::is_deleting(set.meta);
    let failed = failure.and_then(|failure| match failure.verb {
        FailedVerb::Create => Some(("FailedCreate", failure.message.clone())),
        FailedVerb::Delete => Some(("FailedDelete", failure.message.clone())),
        FailedVerb::Write => None,
    });
    let unequal = !deleting && active.len() != wanted;
    let census = pod::census(active.iter().map(|p| &***p), set.min_ready_seconds, now);
    let counts = Counts {
        replicas: count(active.len()),
        fully_labeled: count(active.iter().filter(|p| carries(p, set.template)).count()),
        ready: census.ready,
        available: census.available,
        terminating: count(claimed.iter().filter(|p| pod::is_terminating(p)).count()),
    };
    if let Some(next) = census.next {
        plan.wake(next);
    }
    if unequal && active.len() < wanted {
        create(set, &mut plan, wanted, active.len());
    } else if unequal {
        delete(set, &mut plan, wanted, &active, related, now);
    }
    Counted { plan, counts: (!unequal || failed.is_some()).then_some(counts), failure: failed.filter(|_| unequal) }
}

fn create(set: &Set<'_>, plan: &mut Plan<Reason>, wanted: usize, have: usize) {
    let empty = PodTemplateSpec::default();
    let namespace = meta::namespace(set.meta);
    let body = template::pod(set.template.unwrap_or(&empty), namespace, &set.reference);
    for _ in 0..(wanted - have).min(BURST) {
        let because = Reason::TooFew { wanted: set.wanted, have };
        plan.push(
            Action::create("pods", namespace, body.clone(), because)
                .telling(Note::normal(&set.about, "SuccessfulCreate", "Created pod: {name}"))
                .or_telling(Note::warning(&set.about, "FailedCreate", "Error creating: {error}")),
        );
    }
}

fn delete(
    set: &Set<'_>,
    plan: &mut Plan<Reason>,
    wanted: usize,
    active: &[&Arc<Pod>],
    related: &[Arc<Pod>],
    now: Timestamp,
) {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for node in related.iter().filter(|p| pod::is_active(p)).filter_map(|p| pod::node(p)) {
        *on_node.entry(node).or_default() += 1;
    }
    let neighbours = |p: &Pod| pod::node(p).and_then(|node| on_node.get(node)).copied().unwrap_or(0);
    let mut ranked: Vec<(&Arc<Pod>, usize)> = active.iter().map(|p| (*p, neighbours(p))).collect();
    ranked.sort_by(|a, b| pod::by_expendability((a.0, a.1), (b.0, b.1), now));
    for (victim, _) in ranked.into_iter().take((active.len() - wanted).min(BURST)) {
        let because = Reason::TooMany { wanted: set.wanted, have: active.len() };
        let name = meta::name(&victim.metadata);
        plan.push(
            Action::delete("pods", &victim.metadata, because)
                .telling(Note::normal(&set.about, "SuccessfulDelete", format!("Deleted pod: {name}")))
                .or_telling(Note::warning(&set.about, "FailedDelete", "Error deleting: {error}")),
        );
    }
}

fn carries(pod: &Pod, template: Option<&PodTemplateSpec>) -> bool {
    let wanted = template.and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.as_ref());
    wanted.into_iter().flatten().all(|(key, value)| meta::label(&pod.metadata, key) == Some(value))
}

/// A length as Kubernetes' counts are typed.
pub fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
