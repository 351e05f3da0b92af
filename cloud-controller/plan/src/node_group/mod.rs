//! What to do about a node group's machines.
//!
//! ```text
//!            stored            stored, then called         stored
//!   Wanted ─────────► Trying ─────────────────────► Launched ────► Ending ──► drained ──► terminated ──► forgotten
//!     │                 │ surely refused                              ▲
//!     └── surplus ──────┴──────────► forgotten            surplus, halted, lost
//! ```
//!
//! A claim is stored before its machine is asked for, with everything that is asked, so that asking again is the same question. A claim
//! whose machine may exist is not forgotten before it is sure that none does. A machine whose claim is not in the ledger is nobody's:
//! it is ended. This needs machines to be listed before the ledger is read: then the claim of every listed machine is in the ledger,
//! if it was not forgotten.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use galley_cloud::{Capacity, Instance, InstanceOwner, InstanceSpec, InstanceState};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// A machine that is not listed this long after it was asked for does not exist. EC2's reads are eventually consistent, usually within
/// seconds ("Ensuring idempotency" and "Eventual consistency" in the EC2 developer guide).
pub const VISIBLE_WITHIN: SignedDuration = SignedDuration::from_mins(5);

/// How long a type without capacity in a place is not asked for again.
pub const SHORTAGE_LASTS: SignedDuration = SignedDuration::from_mins(3);

/// What a group's machines are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub owner: InstanceOwner,
    /// Never used for another group: the start of its claims' names.
    pub uid: String,
    pub desired: usize,
    /// The first is preferred.
    pub instance_types: Vec<String>,
    pub capacity: Capacity,
    /// Machines are spread over them.
    pub subnets: Vec<String>,
    pub security_groups: Vec<String>,
    pub image: String,
    pub instance_profile: Option<String>,
    pub disk_gib: Option<i32>,
    pub user_data: String,
}

/// How far a claim is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// Nobody was asked yet.
    Wanted,
    /// The cloud was asked, last at this time; the answer is not known.
    Trying {
        at: Timestamp,
    },
    Launched {
        id: String,
        at: Timestamp,
    },
    /// To be drained, ended and forgotten.
    Ending {
        id: String,
        at: Timestamp,
    },
}

/// A machine that is ours, was, or will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// The whole question.
    pub spec: InstanceSpec,
    pub stage: Stage,
}

/// All claims of one group. Stored whole, each time on the condition that nobody else wrote in between.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// How many claims were ever made: the number of the next.
    pub made: u64,
    /// By name.
    pub claims: BTreeMap<String, Claim>,
}

/// Types that the cloud had no machine of, by type and subnet, since when. Of all clusters.
pub type Shortages = BTreeMap<(String, String), Timestamp>;

/// Everything that a plan depends on.
pub struct Observed<'a> {
    pub group: &'a Group,
    pub ledger: &'a Ledger,
    /// Listed before `ledger` was read.
    pub instances: &'a [Instance],
    /// Ids of machines whose node runs nothing that would have to be evicted, and takes nothing new; or that have no node.
    pub drained: &'a BTreeSet<String>,
    pub shortages: &'a Shortages,
    pub now: Timestamp,
}

/// One step. The executor is left no choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Store this claim, and that one more was made.
    ClaimAdd(InstanceSpec),
    /// Store that it is being tried, then ask the cloud.
    Launch { claim: String },
    /// Store that this is its machine.
    Adopt { claim: String, id: String },
    /// Store that it is to end.
    End { claim: String, id: String },
    /// Cordon its node and evict its pods, as far as that is possible now.
    Drain { id: String },
    /// Ask the cloud to end it.
    Terminate { id: String },
    /// Store that there is no such claim.
    Forget { claim: String },
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Reason {
    #[error("the group has fewer machines than desired")]
    Missing,
    #[error("the group has more machines than desired")]
    Surplus,
    #[error("no type has capacity in any subnet at the moment")]
    NoCapacity,
    #[error("the cloud is to be asked for it")]
    NotLaunched,
    #[error("the machine was found by its claim")]
    Found,
    #[error("the machine halted")]
    Halted,
    #[error("the machine is gone")]
    Gone,
    #[error("whether the machine exists is not known yet")]
    Unknown,
    #[error("its pods have not left yet")]
    Draining,
    #[error("the machine's end was decided")]
    Ends,
    #[error("no claim speaks of the machine")]
    Orphan,
    #[error("the claim has another machine already")]
    Double,
}

/// What to do, in this order, and why; also why nothing is done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub actions: Vec<(Action, Reason)>,
    /// By claim, or without one for the group.
    pub waits: Vec<(Option<String>, Reason)>,
}

impl Plan {
    /// Nothing to do, and nothing to wait for.
    pub fn is_settled(&self) -> bool {
        self.actions.is_empty() && self.waits.is_empty()
    }
}

/// Decides. `drained` and `instances` may be older than the ledger, never newer.
pub fn plan(observed: &Observed<'_>) -> Plan {
    let mut plan = Plan::default();
    let surplus = surplus(observed);
    for (name, claim) in &observed.ledger.claims {
        of_claim(observed, name, claim, surplus.contains(name.as_str()), &mut plan);
    }
    orphans(observed, &mut plan);
    missing(observed, &mut plan);
    plan
}

/// Claims that are too many: those that cost least to give up, then the newest.
fn surplus<'a>(observed: &Observed<'a>) -> BTreeSet<&'a str> {
    let kept = observed.ledger.claims.iter().filter(|(_, claim)| !matches!(claim.stage, Stage::Ending { .. }));
    let mut kept: Vec<(u8, u64, &str)> = kept
        .map(|(name, claim)| {
            let cost = match claim.stage {
                Stage::Wanted => 0,
                Stage::Trying { .. } => 1,
                Stage::Launched { .. } | Stage::Ending { .. } => 2,
            };
            (cost, u64::MAX - number(name), name.as_str())
        })
        .collect();
    kept.sort_unstable();
    let too_many = kept.len().saturating_sub(observed.group.desired);
    kept.into_iter().take(too_many).map(|(_, _, name)| name).collect()
}

fn claim_name(uid: &str, number: u64) -> String {
    format!("{uid}-{number}")
}

fn number(claim: &str) -> u64 {
    claim.rsplit_once('-').and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

fn of_claim(observed: &Observed<'_>, name: &str, claim: &Claim, surplus: bool, plan: &mut Plan) {
    let claim_name = || name.to_owned();
    let young = |at: Timestamp| observed.now.duration_since(at) < VISIBLE_WITHIN;
    match &claim.stage {
        Stage::Wanted if surplus => plan.actions.push((Action::Forget { claim: claim_name() }, Reason::Surplus)),
        Stage::Wanted => plan.actions.push((Action::Launch { claim: claim_name() }, Reason::NotLaunched)),
        Stage::Trying { at } => {
            if let Some(found) = observed.instances.iter().find(|instance| instance.claim == name) {
                plan.actions.push((Action::Adopt { claim: claim_name(), id: found.id.clone() }, Reason::Found));
            } else if !surplus {
                plan.actions.push((Action::Launch { claim: claim_name() }, Reason::NotLaunched));
            } else if young(*at) {
                plan.waits.push((Some(claim_name()), Reason::Unknown));
            } else {
                plan.actions.push((Action::Forget { claim: claim_name() }, Reason::Surplus));
            }
        }
        Stage::Launched { id, at } => {
            let end = |reason| (Action::End { claim: claim_name(), id: id.clone() }, reason);
            match observed.instances.iter().find(|instance| instance.id == *id) {
                Some(found) if !found.state.is_alive() => plan.actions.push(end(Reason::Halted)),
                Some(_) if surplus => plan.actions.push(end(Reason::Surplus)),
                Some(_) => {}
                None if young(*at) => plan.waits.push((Some(claim_name()), Reason::Unknown)),
                None => plan.actions.push(end(Reason::Gone)),
            }
        }
        Stage::Ending { id, at } => match observed.instances.iter().find(|instance| instance.id == *id) {
            None if young(*at) && !observed.drained.contains(id) => {
                plan.waits.push((Some(claim_name()), Reason::Unknown));
            }
            None => plan.actions.push((Action::Forget { claim: claim_name() }, Reason::Gone)),
            Some(found) => match found.state {
                InstanceState::Pending | InstanceState::Running if !observed.drained.contains(id) => {
                    plan.actions.push((Action::Drain { id: id.clone() }, Reason::Draining));
                }
                InstanceState::Pending | InstanceState::Running | InstanceState::Stopped => {
                    plan.actions.push((Action::Terminate { id: id.clone() }, Reason::Ends));
                }
                InstanceState::Stopping => plan.waits.push((Some(claim_name()), Reason::Ends)),
                InstanceState::Terminated => {
                    plan.actions.push((Action::Forget { claim: claim_name() }, Reason::Gone));
                }
            },
        },
    }
}

fn orphans(observed: &Observed<'_>, plan: &mut Plan) {
    for instance in observed.instances.iter().filter(|instance| instance.owner == observed.group.owner) {
        let reason = match observed.ledger.claims.get(&instance.claim).map(|claim| &claim.stage) {
            None => Reason::Orphan,
            Some(Stage::Launched { id, .. } | Stage::Ending { id, .. }) if *id != instance.id => Reason::Double,
            Some(_) => continue,
        };
        match instance.state {
            InstanceState::Pending | InstanceState::Running | InstanceState::Stopped => {
                plan.actions.push((Action::Terminate { id: instance.id.clone() }, reason));
            }
            InstanceState::Stopping => plan.waits.push((None, reason)),
            InstanceState::Terminated => {}
        }
    }
}

fn missing(observed: &Observed<'_>, plan: &mut Plan) {
    let group = observed.group;
    let kept = observed.ledger.claims.values().filter(|claim| !matches!(claim.stage, Stage::Ending { .. })).count();
    for at in 0..group.desired.saturating_sub(kept) as u64 {
        let number = observed.ledger.made + at;
        let Some((instance_type, subnet)) = choose(observed, number) else {
            plan.waits.push((None, Reason::NoCapacity));
            return;
        };
        let claim = claim_name(&group.uid, number);
        let spec = InstanceSpec {
            owner: group.owner.clone(),
            display_name: format!("{}-{number}", group.owner.group),
            claim,
            image: group.image.clone(),
            instance_type,
            capacity: group.capacity,
            subnet,
            security_groups: group.security_groups.clone(),
            instance_profile: group.instance_profile.clone(),
            disk_gib: group.disk_gib,
            user_data: group.user_data.clone(),
        };
        plan.actions.push((Action::ClaimAdd(spec), Reason::Missing));
    }
}

/// The most preferred type that has capacity in some subnet; subnets take turns.
fn choose(observed: &Observed<'_>, number: u64) -> Option<(String, String)> {
    let short = |instance_type: &str, subnet: &str| {
        let since = observed.shortages.get(&(instance_type.to_owned(), subnet.to_owned()));
        since.is_some_and(|since| observed.now.duration_since(*since) < SHORTAGE_LASTS)
    };
    let subnets = &observed.group.subnets;
    let first = number as usize % subnets.len().max(1);
    observed.group.instance_types.iter().find_map(|instance_type| {
        let turn = subnets.iter().cycle().skip(first).take(subnets.len());
        let subnet = turn.into_iter().find(|subnet| !short(instance_type, subnet))?;
        Some((instance_type.clone(), subnet.clone()))
    })
}
