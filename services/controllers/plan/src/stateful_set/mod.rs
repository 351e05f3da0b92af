//! StatefulSet: pods with a name and volumes that last, one after the other.
//!
//! ```text
//! claim -> revision -> pods from the first ordinal on: missing? its claims, then the pod; not available? wait (OrderedReady)
//!       -> pods beyond the replicas, from the last: delete, wait for it to be gone
//!       -> pods of an old revision, from the last down to the partition: delete, wait for the new one
//! ```
//! Ordered sets take one such step at a time; `Parallel` ones take all at once, but for updates.
//! Source: Kubernetes documentation, 'StatefulSets'.

pub mod identity;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolumeClaim, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

use crate::action::{Action, Failure, Note, Plan};
use crate::deployment::math::{Round, scaled};
use crate::meta::{self, Claim};
use crate::pod::{self, Availability};
use crate::revisions::{self, Current, HASH_LABEL};
use crate::time::positive;

/// Where StatefulSets are.
pub const RESOURCE: &str = "statefulsets.apps";
/// What events and audit call the controller.
pub const COMPONENT: &str = "statefulset-controller";
const CLAIMS: &str = "persistentvolumeclaims";

/// Why a plan does something, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The object is gone or has no spec.
    Gone,
    /// The object is being deleted: its pods are the garbage collector's.
    BeingDeleted,
    /// An orphan matches the selector.
    Adopted,
    /// An object's labels or name no longer match.
    Released,
    /// The template has no revision yet, or an old number.
    RevisionIsOld,
    /// More revisions than the history limit.
    HistoryTooLong,
    /// The pod's claim is missing.
    ClaimMissing,
    /// The claim's owner is not what the retention policy says.
    ClaimOwner,
    /// The ordinal has no pod.
    PodMissing,
    /// The pod ended.
    PodEnded,
    /// The ordinal is beyond the replicas.
    TooMany,
    /// The pod is of an old revision.
    PodIsOld,
    /// The status does not say what is observed.
    StatusIsOld,
    /// A pod has to become available, or be gone, first.
    Waiting,
    /// Everything is as wanted.
    AsWanted,
}

/// What a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The StatefulSet.
    pub set: Arc<StatefulSet>,
    /// Pods it controls, and pods of its namespace that nobody controls.
    pub pods: Vec<Arc<Pod>>,
    /// Claims of its pods that exist, by name.
    pub claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    /// Revisions it controls, and those of its namespace that nobody controls.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// Whether the name of the template's revision is taken.
    pub name_taken: bool,
    /// The last attempt, if it failed.
    pub failure: Option<Failure>,
}

/// The name that the revision of the current template gets.
pub fn revision_name(set: &StatefulSet) -> String {
    let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    revisions::name(&set.metadata, &template, set.status.as_ref().and_then(|s| s.collision_count))
}

/// The names of all claims that the set may have for these ordinals and its own.
pub fn claim_names(set: &StatefulSet, pods: &[Arc<Pod>]) -> Vec<String> {
    let Some(spec) = &set.spec else { return Vec::new() };
    let name = meta::name(&set.metadata);
    let mut ordinals: Vec<i32> = pods.iter().filter_map(|p| identity::ordinal(name, p)).collect();
    ordinals.extend(range(spec));
    ordinals.sort_unstable();
    ordinals.dedup();
    ordinals.into_iter().flat_map(|n| identity::claim_names(set, n).map(|(_, name)| name).collect::<Vec<_>>()).collect()
}

fn range(spec: &StatefulSetSpec) -> std::ops::Range<i32> {
    let start = spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0);
    start..start.saturating_add(spec.replicas.unwrap_or(1))
}

/// Observed -> actions.
pub fn plan(observed: &Observed, now: Timestamp) -> Plan<Reason> {
    let set = &*observed.set;
    let Some(spec) = &set.spec else { return Plan::nothing(Reason::Gone) };
    let mut plan = Plan::new();
    let reference = meta::controller_reference("apps/v1", "StatefulSet", &set.metadata);
    let mut mine = BTreeMap::new();
    for pod in &observed.pods {
        let ordinal = identity::ordinal(meta::name(&set.metadata), pod);
        let matches = ordinal.is_some() && meta::selects(&spec.selector, pod.metadata.labels.as_ref());
        match (meta::claim(&pod.metadata, &set.metadata, matches), ordinal) {
            (Claim::Owned, Some(ordinal)) => {
                mine.insert(ordinal, &**pod);
            }
            (Claim::Adopt, _) => plan.push(meta::adopt("pods", &pod.metadata, &reference, Reason::Adopted)),
            (Claim::Release, _) => {
                plan.push(meta::release("pods", &pod.metadata, &reference.uid, Reason::Released));
            }
            (Claim::Owned | Claim::Ignore, _) => {}
        }
    }
    let mut history = Vec::new();
    for revision in &observed.revisions {
        let matches = meta::selects(&spec.selector, revision.metadata.labels.as_ref());
        match meta::claim(&revision.metadata, &set.metadata, matches) {
            Claim::Owned | Claim::Release => history.push(revision),
            Claim::Adopt => {
                plan.push(meta::adopt(revisions::RESOURCE, &revision.metadata, &reference, Reason::Adopted));
            }
            Claim::Ignore => {}
        }
    }
    if !plan.is_quiet() {
        return plan;
    }
    if meta::is_deleting(&set.metadata) {
        return Plan::nothing(Reason::BeingDeleted);
    }
    let collisions = set.status.as_ref().and_then(|s| s.collision_count);
    let current =
        revisions::current(&set.metadata, &reference, &spec.template, collisions, &history, |_| observed.name_taken);
    let update = match current {
        Current::Found(found) => found,
        Current::Renumber(found, number) => {
            let patch = json!({"revision": number});
            plan.push(Action::merge(revisions::RESOURCE, &found.metadata, patch, Reason::RevisionIsOld));
            return plan;
        }
        Current::Create(Some(body)) => {
            let namespace = meta::namespace(&set.metadata);
            plan.push(Action::create(revisions::RESOURCE, namespace, body, Reason::RevisionIsOld));
            return plan;
        }
        Current::Create(None) => {
            let mut status = set.status.clone().unwrap_or_default();
            status.collision_count = Some(collisions.unwrap_or(0) + 1);
            let updated = StatefulSet { status: Some(status), ..set.clone() };
            plan.push(Action::update_status(RESOURCE, &set.metadata, &updated, Reason::RevisionIsOld));
            return plan;
        }
    };
    let before = set.status.as_ref().and_then(|s| s.current_revision.as_deref());
    let current = history.iter().copied().find(|r| Some(meta::name(&r.metadata)) == before).unwrap_or(update);
    let mut row = Row {
        set,
        spec,
        about: meta::reference("apps/v1", "StatefulSet", &set.metadata),
        reference,
        pods: mine,
        claims: &observed.claims,
        current,
        update,
        now,
        waiting: false,
    };
    row.act(&mut plan);
    if plan.is_quiet() {
        let live = |revision: &ControllerRevision| {
            let name = meta::name(&revision.metadata);
            let used = |p: &&Pod| meta::label(&p.metadata, HASH_LABEL) == Some(name);
            name == meta::name(&update.metadata) || name == meta::name(&current.metadata) || row.pods.values().any(used)
        };
        revisions::truncate(&history, live, spec.revision_history_limit, Reason::HistoryTooLong, &mut plan);
    }
    if plan.is_quiet() || observed.failure.is_some() {
        row.status(&mut plan);
    }
    plan.or_nothing(if row.waiting { Reason::Waiting } else { Reason::AsWanted })
}

/// One look at the pods in a row.
struct Row<'a> {
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    about: ObjectReference,
    reference: OwnerReference,
    pods: BTreeMap<i32, &'a Pod>,
    claims: &'a BTreeMap<String, Arc<PersistentVolumeClaim>>,
    /// The revision that pods below the partition have.
    current: &'a ControllerRevision,
    /// The revision of the template.
    update: &'a ControllerRevision,
    now: Timestamp,
    waiting: bool,
}

impl Row<'_> {
    fn is_ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn is_rolling(&self) -> bool {
        self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete")
    }

    fn partition(&self) -> i32 {
        let rolling = self.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        rolling.and_then(|r| r.partition).unwrap_or(0)
    }

    fn availability(&self, pod: &Pod) -> Availability {
        if pod::phase(pod) != "Running" {
            return Availability::NotReady;
        }
        pod::availability(pod, self.spec.min_ready_seconds.unwrap_or(0), self.now)
    }

    fn is_healthy(&self, pod: &Pod, plan: &mut Plan<Reason>) -> bool {
        match self.availability(pod) {
            Availability::Available => !meta::is_deleting(&pod.metadata),
            Availability::At(at) => {
                plan.wake(at);
                false
            }
            Availability::NotReady => false,
        }
    }

    fn act(&mut self, plan: &mut Plan<Reason>) {
        if self.stand_up(plan) || self.stand_down(plan) {
            return;
        }
        if plan.is_quiet() && self.is_rolling() {
            self.roll(plan);
        }
    }

    fn wait(&mut self) -> bool {
        self.waiting = true;
        true
    }

    /// Every ordinal has its pod; true: that is enough for now.
    fn stand_up(&mut self, plan: &mut Plan<Reason>) -> bool {
        let (mut claims, mut pods) = (Vec::new(), Vec::new());
        let mut done = false;
        for ordinal in range(self.spec) {
            let Some(pod) = self.pods.get(&ordinal).copied() else {
                self.claims_of(ordinal, None, &mut claims);
                pods.push(self.create(ordinal));
                if self.is_ordered() {
                    done = true;
                    break;
                }
                continue;
            };
            if pod::is_terminal(pod) {
                if !meta::is_deleting(&pod.metadata) {
                    let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
                    let (reason, what) = if pod::phase(pod) == "Failed" {
                        ("RecreatingFailedPod", "failed")
                    } else {
                        ("RecreatingTerminatedPod", "terminated")
                    };
                    let set = meta::name(&self.set.metadata);
                    let text = format!("StatefulSet {namespace}/{set} is recreating {what} Pod {name}");
                    let severity = if what == "failed" { Note::warning } else { Note::normal };
                    plan.notes.push(severity(&self.about, reason, text));
                    pods.push(self.delete(pod, Reason::PodEnded));
                }
                done = self.is_ordered();
            } else {
                self.claims_of(ordinal, None, &mut claims);
                done = self.is_ordered() && !self.is_healthy(pod, plan);
            }
            if done {
                break;
            }
        }
        let quiet = claims.is_empty() && pods.is_empty();
        for action in claims {
            plan.push(action);
        }
        plan.barrier();
        for action in pods {
            plan.push(action);
        }
        if done && quiet {
            return self.wait();
        }
        done
    }

    /// Ordinals out of range go, the last first; true: that is enough for now.
    fn stand_down(&mut self, plan: &mut Plan<Reason>) -> bool {
        let wanted = range(self.spec);
        let condemned: Vec<(i32, &Pod)> =
            self.pods.iter().rev().filter(|(n, _)| !wanted.contains(n)).map(|(n, p)| (*n, *p)).collect();
        let first_unhealthy = self
            .pods
            .values()
            .find(|p| pod::phase(p) != "Running" || !pod::is_ready(p) || meta::is_deleting(&p.metadata))
            .map(|p| meta::uid(&p.metadata).to_owned());
        for (ordinal, pod) in condemned {
            if meta::is_deleting(&pod.metadata) {
                if self.is_ordered() {
                    return self.wait();
                }
                continue;
            }
            let healthy = pod::phase(pod) == "Running" && pod::is_ready(pod);
            if self.is_ordered() && !healthy && first_unhealthy.as_deref() != Some(meta::uid(&pod.metadata)) {
                return self.wait();
            }
            let mut claims = Vec::new();
            self.claims_of(ordinal, Some(pod), &mut claims);
            claims.into_iter().for_each(|action| plan.push(action));
            plan.barrier();
            plan.push(self.delete(pod, Reason::TooMany));
            if self.is_ordered() {
                return true;
            }
        }
        false
    }

    /// Old pods go from the last ordinal on, as many as may be unavailable.
    fn roll(&mut self, plan: &mut Plan<Reason>) {
        let replicas = self.spec.replicas.unwrap_or(1);
        let rolling = self.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let most = rolling.and_then(|r| r.max_unavailable.as_ref());
        let most = most.map_or(1, |value| scaled(Some(value), replicas, Round::Up).max(1));
        let start = range(self.spec).start.max(self.partition());
        let targets: Vec<&Pod> =
            range(self.spec).rev().filter(|n| *n >= start).filter_map(|n| self.pods.get(&n).copied()).collect();
        let is_new = |p: &Pod| meta::label(&p.metadata, HASH_LABEL) == Some(meta::name(&self.update.metadata));
        let all: Vec<&Pod> = self.pods.values().copied().collect();
        let mut unavailable = 0;
        for pod in all {
            unavailable += i32::from(!self.is_healthy(pod, plan));
        }
        for pod in targets {
            let healthy = self.is_healthy(pod, plan);
            if is_new(pod) || meta::is_deleting(&pod.metadata) {
                if !healthy && most == 1 {
                    self.wait();
                    return;
                }
                continue;
            }
            // An old pod that is broken may be what the update mends.
            if healthy && unavailable >= most {
                self.wait();
                return;
            }
            unavailable += i32::from(healthy);
            plan.push(self.delete(pod, Reason::PodIsOld));
            if most == 1 {
                return;
            }
        }
    }

    fn create(&self, ordinal: i32) -> Action<Reason> {
        let below = self.is_rolling() && ordinal < range(self.spec).start.max(self.partition());
        let revision = if below { self.current } else { self.update };
        let template: PodTemplateSpec = revisions::template(revision).unwrap_or_else(|| self.spec.template.clone());
        let name = identity::pod_name(self.set, ordinal);
        let set = meta::name(&self.set.metadata);
        let body = identity::pod(self.set, self.spec, &template, meta::name(&revision.metadata), ordinal);
        let done = format!("create Pod {name} in StatefulSet {set} successful");
        let failed = format!("create Pod {name} in StatefulSet {set} failed error: {{error}}");
        Action::create("pods", meta::namespace(&self.set.metadata), body, Reason::PodMissing)
            .telling(Note::normal(&self.about, "SuccessfulCreate", done))
            .or_telling(Note::warning(&self.about, "FailedCreate", failed))
    }

    fn delete(&self, pod: &Pod, because: Reason) -> Action<Reason> {
        let (name, set) = (meta::name(&pod.metadata), meta::name(&self.set.metadata));
        let done = format!("delete Pod {name} in StatefulSet {set} successful");
        let failed = format!("delete Pod {name} in StatefulSet {set} failed error: {{error}}");
        Action::delete("pods", &pod.metadata, because)
            .telling(Note::normal(&self.about, "SuccessfulDelete", done))
            .or_telling(Note::warning(&self.about, "FailedDelete", failed))
    }

    fn retention(&self) -> (bool, bool) {
        let policy = self.spec.persistent_volume_claim_retention_policy.as_ref();
        let deletes = |when: Option<&String>| when.is_some_and(|when| when == "Delete");
        let deleted = deletes(policy.and_then(|p| p.when_deleted.as_ref()));
        (deleted, deletes(policy.and_then(|p| p.when_scaled.as_ref())))
    }

    /// Makes the claims of an ordinal that are missing, and sees that they go with whom the retention policy says.
    /// `condemned`: the pod, if it is about to go for good.
    fn claims_of(&self, ordinal: i32, condemned: Option<&Pod>, actions: &mut Vec<Action<Reason>>) {
        let (when_deleted, when_scaled) = self.retention();
        let set = OwnerReference { controller: None, block_owner_deletion: None, ..self.reference.clone() };
        let owner = match condemned {
            Some(pod) if when_scaled => Some(OwnerReference {
                controller: None,
                block_owner_deletion: None,
                ..meta::controller_reference("v1", "Pod", &pod.metadata)
            }),
            _ => when_deleted.then_some(set),
        };
        for (template, name) in identity::claim_names(self.set, ordinal) {
            match self.claims.get(&name) {
                None if condemned.is_none() => {
                    let body = identity::claim(self.set, self.spec, template, &name, owner.as_ref());
                    let (pod, set) = (identity::pod_name(self.set, ordinal), meta::name(&self.set.metadata));
                    let namespace = meta::namespace(&self.set.metadata);
                    let done = format!("create Claim {name} Pod {pod} in StatefulSet {set} success");
                    let failed =
                        format!("create Claim {name} for Pod {pod} in StatefulSet {set} failed error: {{error}}");
                    actions.push(
                        Action::create(CLAIMS, namespace, body, Reason::ClaimMissing)
                            .telling(Note::normal(&self.about, "SuccessfulCreate", done))
                            .or_telling(Note::warning(&self.about, "FailedCreate", failed)),
                    );
                }
                None => {}
                Some(claim) => actions.extend(self.claim_owner(&claim.metadata, owner.as_ref())),
            }
        }
    }

    /// Only owners that this controller sets are touched: the set, and pods of the set.
    fn claim_owner(&self, claim: &ObjectMeta, wanted: Option<&OwnerReference>) -> Option<Action<Reason>> {
        let owners = claim.owner_references.clone().unwrap_or_default();
        let ours = |owner: &OwnerReference| {
            owner.uid == self.reference.uid
                || (owner.kind == "Pod" && owner.name.starts_with(&format!("{}-", self.reference.name)))
        };
        let mut new: Vec<OwnerReference> = owners.iter().filter(|owner| !ours(owner)).cloned().collect();
        new.extend(wanted.cloned());
        let uids = |list: &[OwnerReference]| list.iter().map(|owner| owner.uid.clone()).collect::<Vec<_>>();
        if uids(&new) == uids(&owners) {
            return None;
        }
        let new = if new.is_empty() { serde_json::Value::Null } else { json!(new) };
        Some(Action::merge(CLAIMS, claim, json!({"metadata": {"ownerReferences": new}}), Reason::ClaimOwner))
    }

    fn status(&self, plan: &mut Plan<Reason>) {
        let old = self.set.status.clone().unwrap_or_default();
        let (current, update) = (meta::name(&self.current.metadata), meta::name(&self.update.metadata));
        let sum = |is: &dyn Fn(&Pod) -> bool| self.pods.values().map(|p| i32::from(is(p))).sum::<i32>();
        let is_ready = |p: &Pod| pod::phase(p) == "Running" && pod::is_ready(p);
        let of = |revision: &str, p: &Pod| {
            !meta::is_deleting(&p.metadata) && meta::label(&p.metadata, HASH_LABEL) == Some(revision)
        };
        let replicas = sum(&|_| true);
        let ready = sum(&is_ready);
        let available = sum(&|p| self.availability(p) == Availability::Available);
        let updated = sum(&|p| of(update, p));
        let mut in_current = sum(&|p| of(current, p));
        let mut revision = current;
        let wanted = self.spec.replicas.unwrap_or(1);
        if self.is_rolling() && [updated, ready, replicas].iter().all(|n| *n == wanted) {
            revision = update;
            in_current = updated;
        }
        let status = StatefulSetStatus {
            replicas,
            ready_replicas: positive(ready, old.ready_replicas),
            available_replicas: positive(available, old.available_replicas),
            current_replicas: positive(in_current, old.current_replicas),
            updated_replicas: positive(updated, old.updated_replicas),
            current_revision: Some(revision.into()),
            update_revision: Some(update.into()),
            observed_generation: self.set.metadata.generation,
            collision_count: old.collision_count,
            conditions: old.conditions.clone(),
        };
        if status != old {
            let updated = StatefulSet { status: Some(status), ..self.set.clone() };
            plan.push(Action::update_status(RESOURCE, &self.set.metadata, &updated, Reason::StatusIsOld));
        }
    }
}

#[cfg(test)]
mod tests;
