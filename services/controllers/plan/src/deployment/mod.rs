//! Deployment: ReplicaSets of successive templates, and the way from one to the next.
//!
//! ```text
//! claim sets -> deleting? status only
//!            -> paused or scaled? keep proportions, status
//!            -> Recreate: old sets to 0, wait for their pods, new set up
//!            -> RollingUpdate: new set up within the surge, else old sets down within the unavailability
//!            -> complete: old sets beyond the history limit go
//! ```
//! One plan takes one of these steps; the plans that its writes cause take the next. ReplicaSets are written with the revision
//! they were read at as precondition, so two plans cannot both count on the same room.
//! Source: Kubernetes documentation, Deployment; annotations and condition reasons as kubectl reads them.

pub mod math;
pub mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodTemplateSpec};
use serde_json::{Value, json};

use self::math::Draft;
use crate::action::{Action, FailedVerb, Failure, Note, Plan};
use crate::meta::{self, Claim};
use crate::{pod, replica_set, template};

/// Where Deployments are.
pub const RESOURCE: &str = "deployments.apps";
/// What events and audit call the controller.
pub const COMPONENT: &str = "deployment-controller";
/// The label that tells the pods of one template from those of another.
pub const HASH_LABEL: &str = "pod-template-hash";
/// The number of the rollout, on Deployment and ReplicaSets.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(crate) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(crate) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of the Deployment that are not its ReplicaSets'.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];
/// A longer history annotation forgets its oldest entries.
const MAX_HISTORY_LENGTH: usize = 2_000;

/// Why a plan does something, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The object is gone or has no spec.
    Gone,
    /// An orphan set matches the selector.
    Adopted,
    /// A set's labels no longer match.
    Released,
    /// No set has the template.
    NoSetForTemplate,
    /// The name of the new set is taken by something else.
    NameCollision,
    /// The set's annotations or `minReadySeconds` are not the Deployment's.
    SetIsOld,
    /// The Deployment does not carry its revision.
    RevisionIsOld,
    /// `spec.replicas` changed: sets follow in proportion.
    Scaled,
    /// The new set may grow.
    RollForward,
    /// Old pods that are not available are in the way.
    UnhealthyOld,
    /// Old pods may go.
    RollDown,
    /// Recreate: old pods go first.
    RecreateDown,
    /// More old sets than `revisionHistoryLimit`.
    HistoryTooLong,
    /// The status does not say what is observed.
    StatusIsOld,
    /// The object is being deleted: its sets are the garbage collector's.
    BeingDeleted,
    /// The selector selects everything.
    SelectsEverything,
    /// Everything is as wanted, or waits for pods.
    AsWanted,
}

/// What a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The Deployment.
    pub deployment: Arc<Deployment>,
    /// Sets it controls, and sets of its namespace that nobody controls.
    pub sets: Vec<Arc<ReplicaSet>>,
    /// For `Recreate`: pods of the sets it controls.
    pub pods: Vec<Arc<Pod>>,
    /// Whether an object named [`new_set_name`] exists.
    pub name_taken: bool,
    /// The last attempt, if it failed.
    pub failure: Option<Failure>,
}

/// The name of the set for the current template.
pub fn new_set_name(deployment: &Deployment) -> String {
    format!("{}-{}", meta::name(&deployment.metadata), hash(deployment))
}

fn hash(deployment: &Deployment) -> String {
    let template = deployment.spec.as_ref().map(|s| &s.template);
    template::hash(&template, deployment.status.as_ref().and_then(|s| s.collision_count))
}

/// Observed -> actions.
pub fn plan(observed: &Observed, now: Timestamp) -> Plan<Reason> {
    let deployment = &*observed.deployment;
    let Some(spec) = &deployment.spec else { return Plan::nothing(Reason::Gone) };
    let about = meta::reference("apps/v1", "Deployment", &deployment.metadata);
    if meta::selects_everything(&spec.selector) {
        let mut plan = Plan::nothing(Reason::SelectsEverything);
        let text = "This deployment is selecting all pods. A non-empty selector is required.";
        plan.notes.push(Note::warning(&about, "SelectingAll", text));
        return plan;
    }
    let mut plan = Plan::new();
    let sets = claim(observed, spec, &mut plan);
    let rollout = Rollout::new(deployment, spec, about, sets, now);
    rollout.plan(observed, plan)
}

fn claim<'a>(observed: &'a Observed, spec: &DeploymentSpec, plan: &mut Plan<Reason>) -> Vec<&'a Arc<ReplicaSet>> {
    let owner = &observed.deployment.metadata;
    let reference = meta::controller_reference("apps/v1", "Deployment", owner);
    let mut sets = Vec::new();
    for set in &observed.sets {
        let matches = meta::selects(&spec.selector, set.metadata.labels.as_ref());
        match meta::claim(&set.metadata, owner, matches) {
            Claim::Owned => sets.push(set),
            Claim::Adopt => {
                plan.push(meta::adopt(replica_set::RESOURCE, &set.metadata, &reference, Reason::Adopted));
            }
            Claim::Release => {
                plan.push(meta::release(replica_set::RESOURCE, &set.metadata, &reference.uid, Reason::Released));
            }
            Claim::Ignore => {}
        }
    }
    sets.sort_by(|a, b| age(a).cmp(&age(b)));
    sets
}

/// Oldest first.
fn age(set: &ReplicaSet) -> (Option<Timestamp>, &str) {
    (set.metadata.creation_timestamp.as_ref().map(|t| t.0), meta::name(&set.metadata))
}

fn revision(annotations: Option<&BTreeMap<String, String>>) -> i64 {
    annotations.and_then(|a| a.get(REVISION)).and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// The template without what tells sets apart.
fn bare(template: Option<&PodTemplateSpec>) -> PodTemplateSpec {
    let mut template = template.cloned().unwrap_or_default();
    let meta = template.metadata.get_or_insert_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH_LABEL);
    }
    meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
    meta.annotations = meta.annotations.take().filter(|annotations| !annotations.is_empty());
    meta.creation_timestamp = None;
    template
}

struct Rollout<'a> {
    deployment: &'a Deployment,
    spec: &'a DeploymentSpec,
    about: ObjectReference,
    /// All sets, oldest first.
    sets: Vec<&'a Arc<ReplicaSet>>,
    new: Option<&'a Arc<ReplicaSet>>,
    old: Vec<&'a Arc<ReplicaSet>>,
    desired: i32,
    bounds: math::Fenceposts,
    now: Timestamp,
}

impl<'a> Rollout<'a> {
    fn new(
        deployment: &'a Deployment,
        spec: &'a DeploymentSpec,
        about: ObjectReference,
        sets: Vec<&'a Arc<ReplicaSet>>,
        now: Timestamp,
    ) -> Self {
        let wanted = bare(Some(&spec.template));
        let new = sets.iter().copied().find(|set| bare(set.spec.as_ref().and_then(|s| s.template.as_ref())) == wanted);
        let old =
            sets.iter().copied().filter(|set| new.is_none_or(|new| new.metadata.uid != set.metadata.uid)).collect();
        let (desired, bounds) = (math::desired(deployment), math::bounds(deployment));
        Self { deployment, spec, about, sets, new, old, desired, bounds, now }
    }

    fn plan(&self, observed: &Observed, mut plan: Plan<Reason>) -> Plan<Reason> {
        if !plan.is_quiet() {
            // Ownership first: what is adopted counts in the next plan.
            return plan;
        }
        if meta::is_deleting(&self.deployment.metadata) {
            self.status(&mut plan, status::calculate(self.deployment, &self.sets, self.newest(), self.now));
            return plan.or_nothing(Reason::BeingDeleted);
        }
        if self.sync_revision(&mut plan) {
            return plan;
        }
        let paused = self.spec.paused == Some(true);
        if self.mark_paused(&mut plan, paused) {
            return plan;
        }
        if paused || self.is_scaled() {
            self.scale(&mut plan);
            if paused {
                self.clean_up(&mut plan);
            }
            self.status(&mut plan, status::calculate(self.deployment, &self.sets, self.newest(), self.now));
            return plan.or_nothing(Reason::AsWanted);
        }
        if math::is_recreate(self.deployment) {
            self.recreate(observed, &mut plan)
        } else {
            self.roll(observed, &mut plan)
        }
        plan.or_nothing(Reason::AsWanted)
    }

    fn newest(&self) -> Option<&ReplicaSet> {
        self.new.map(|set| &**set)
    }

    /// Brings the revision and what is copied from the Deployment onto the new set and back.
    fn sync_revision(&self, plan: &mut Plan<Reason>) -> bool {
        let Some(new) = self.new else { return false };
        let mut draft = Draft::of(new);
        self.annotate_new(&mut draft.annotations, self.old_revision() + 1);
        draft.min_ready_seconds = self.spec.min_ready_seconds.or(draft.min_ready_seconds.map(|_| 0));
        if let Some(action) = self.write(&draft, Reason::SetIsOld) {
            plan.push(action);
            return true;
        }
        let revision = draft.annotations.get(REVISION);
        if revision.map(String::as_str) != meta::annotation(&self.deployment.metadata, REVISION) {
            let patch = json!({"metadata": {"annotations": {REVISION: revision}}});
            plan.push(Action::merge(RESOURCE, &self.deployment.metadata, patch, Reason::RevisionIsOld));
            return true;
        }
        false
    }

    fn old_revision(&self) -> i64 {
        self.old.iter().map(|set| revision(set.metadata.annotations.as_ref())).max().unwrap_or(0)
    }

    fn annotate_new(&self, annotations: &mut BTreeMap<String, String>, number: i64) {
        for (key, value) in self.deployment.metadata.annotations.iter().flatten() {
            if !NOT_COPIED.contains(&key.as_str()) {
                annotations.insert(key.clone(), value.clone());
            }
        }
        let before = annotations.get(REVISION).cloned();
        if revision(Some(annotations)) < number {
            annotations.insert(REVISION.into(), number.to_string());
            // The set was the new one before, and is again: its earlier numbers are its history.
            if let Some(before) = before {
                let mut history: Vec<String> = annotations
                    .get(REVISION_HISTORY)
                    .map(|text| text.split(',').map(str::to_owned).collect())
                    .unwrap_or_default();
                history.push(before);
                while history.iter().map(|entry| entry.len() + 1).sum::<usize>() > MAX_HISTORY_LENGTH {
                    history.remove(0);
                }
                annotations.insert(REVISION_HISTORY.into(), history.join(","));
            }
        }
    }

    /// The Deployment was scaled since its sets were.
    fn is_scaled(&self) -> bool {
        self.sets.iter().filter(|set| math::replicas(set) > 0).any(|set| {
            let noted = meta::annotation(&set.metadata, DESIRED_REPLICAS).and_then(|n| n.parse::<i32>().ok());
            noted.is_some_and(|noted| noted != self.desired)
        })
    }

    fn most(&self) -> i32 {
        self.desired + self.bounds.surge
    }

    /// The patch that makes a set what the draft says, if it is not.
    fn write(&self, draft: &Draft<'_>, because: Reason) -> Option<Action<Reason>> {
        let set = draft.set;
        let before = math::replicas(set);
        let mut patch = json!({});
        if draft.replicas != before {
            patch["spec"]["replicas"] = json!(draft.replicas);
        }
        if draft.min_ready_seconds != set.spec.as_ref().and_then(|s| s.min_ready_seconds) {
            patch["spec"]["minReadySeconds"] = json!(draft.min_ready_seconds);
        }
        for (key, value) in &draft.annotations {
            if meta::annotation(&set.metadata, key) != Some(value) {
                patch["metadata"]["annotations"][key] = json!(value);
            }
        }
        if patch == json!({}) {
            return None;
        }
        let action = Action::merge(replica_set::RESOURCE, &set.metadata, patch, because);
        if draft.replicas == before {
            return Some(action);
        }
        Some(action.telling(self.scaled_note(meta::name(&set.metadata), before, draft.replicas)))
    }

    fn scaled_note(&self, set: &str, before: i32, after: i32) -> Note {
        let way = if before < after { "up" } else { "down" };
        let text = format!("Scaled {way} replica set {set} from {before} to {after}");
        Note::normal(&self.about, "ScalingReplicaSet", text)
    }

    /// A draft of a set at a new size.
    fn resized(&self, set: &'a ReplicaSet, replicas: i32) -> Draft<'a> {
        let mut draft = Draft::of(set);
        draft.replicas = replicas;
        draft.annotate(self.desired, self.most());
        draft
    }

    /// Follows `spec.replicas` outside of a rollout's own steps.
    fn scale(&self, plan: &mut Plan<Reason>) {
        let active: Vec<&Arc<ReplicaSet>> = self.sets.iter().copied().filter(|set| math::replicas(set) > 0).collect();
        let only = match active.as_slice() {
            [] => self.new.or_else(|| self.old.last().copied()),
            [one] => Some(*one),
            _ => None,
        };
        if let Some(only) = only {
            plan_all(plan, self.write(&self.resized(only, self.desired), Reason::Scaled));
            return;
        }
        if let Some(new) = self.new.filter(|new| self.is_saturated(new)) {
            for set in active.iter().filter(|set| set.metadata.uid != new.metadata.uid) {
                plan_all(plan, self.write(&self.resized(set, 0), Reason::Scaled));
            }
        } else if !math::is_recreate(self.deployment) {
            self.scale_in_proportion(active, plan);
        }
    }

    fn is_saturated(&self, new: &ReplicaSet) -> bool {
        math::replicas(new) == self.desired
            && meta::annotation(&new.metadata, DESIRED_REPLICAS) == Some(&self.desired.to_string())
            && Draft::of(new).available() == self.desired
    }

    fn scale_in_proportion(&self, active: Vec<&'a Arc<ReplicaSet>>, plan: &mut Plan<Reason>) {
        let total: i32 = active.iter().map(|set| math::replicas(set)).sum();
        let allowed = if self.desired > 0 { self.most() } else { 0 };
        let to_add = allowed - total;
        let mut drafts: Vec<Draft<'_>> = active.into_iter().map(|set| Draft::of(set)).collect();
        // The largest first; among equals the newer when growing, the older when shrinking.
        drafts.sort_by(|a, b| {
            let by_age = if to_add > 0 { age(b.set).cmp(&age(a.set)) } else { age(a.set).cmp(&age(b.set)) };
            b.replicas.cmp(&a.replicas).then(by_age)
        });
        let mut added = 0;
        for draft in &mut drafts {
            let share = math::proportion(draft, self.deployment, to_add, added);
            draft.replicas += share;
            added += share;
        }
        if to_add != 0
            && let Some(largest) = drafts.first_mut()
        {
            largest.replicas = (largest.replicas + to_add - added).max(0);
        }
        for mut draft in drafts {
            draft.annotate(self.desired, self.most());
            plan_all(plan, self.write(&draft, Reason::Scaled));
        }
    }

    fn roll(&self, observed: &Observed, plan: &mut Plan<Reason>) {
        let Some(new) = self.new else {
            self.create_new(observed, plan);
            return;
        };
        let total: i32 = self.sets.iter().map(|set| math::replicas(set)).sum();
        let current = math::replicas(new);
        let size = if current > self.desired { self.desired } else { math::new_size(self.deployment, total, current) };
        if size != current {
            plan_all(plan, self.write(&self.resized(new, size), Reason::RollForward));
        } else if !self.roll_down(new, total, plan) {
            self.finish(plan);
        }
        self.rollout_status(plan);
    }

    /// Takes old pods away: those that are not available first, then as many as availability allows.
    fn roll_down(&self, new: &'a ReplicaSet, total: i32, plan: &mut Plan<Reason>) -> bool {
        let mut drafts: Vec<Draft<'_>> =
            self.old.iter().filter(|set| math::replicas(set) > 0).map(|set| Draft::of(set)).collect();
        if drafts.is_empty() {
            return false;
        }
        let least = self.desired - self.bounds.unavailable;
        let new_unavailable = math::replicas(new) - Draft::of(new).available();
        let room = total - least - new_unavailable;
        if room <= 0 {
            return false;
        }
        let mut unhealthy = 0;
        for draft in &mut drafts {
            let count = (draft.replicas - draft.available()).min(room - unhealthy).max(0);
            draft.replicas -= count;
            unhealthy += count;
        }
        let available: i32 = self.sets.iter().map(|set| Draft::of(set).available()).sum();
        let mut healthy = (available - least).max(0);
        for draft in &mut drafts {
            let count = draft.replicas.min(healthy);
            draft.replicas -= count;
            healthy -= count;
        }
        let mut changed = false;
        for mut draft in drafts {
            let before = math::replicas(draft.set);
            if draft.replicas != before {
                let because = if draft.replicas >= draft.available() { Reason::UnhealthyOld } else { Reason::RollDown };
                draft.annotate(self.desired, self.most());
                plan_all(plan, self.write(&draft, because));
                changed = true;
            }
        }
        changed
    }

    fn recreate(&self, observed: &Observed, plan: &mut Plan<Reason>) {
        let mut down = false;
        for set in self.old.iter().filter(|set| math::replicas(set) > 0) {
            plan_all(plan, self.write(&self.resized(set, 0), Reason::RecreateDown));
            down = true;
        }
        let new_uid = self.new.map(|set| meta::uid(&set.metadata));
        let old_running = observed.pods.iter().any(|p| {
            !pod::is_terminal(p) && meta::controller_of(&p.metadata).is_some_and(|owner| Some(&*owner.uid) != new_uid)
        });
        if !down && !old_running {
            match self.new {
                None => {
                    self.create_new(observed, plan);
                    return;
                }
                Some(new) if math::replicas(new) != self.desired => {
                    plan_all(plan, self.write(&self.resized(new, self.desired), Reason::RollForward));
                }
                Some(_) => self.finish(plan),
            }
        }
        self.rollout_status(plan);
    }

    fn create_new(&self, observed: &Observed, plan: &mut Plan<Reason>) {
        let mut status = status::rollout(self.deployment, &self.sets, None, self.now);
        let name = new_set_name(self.deployment);
        if observed.name_taken {
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
            let updated = Deployment { status: Some(status), ..self.deployment.clone() };
            plan.push(Action::update_status(RESOURCE, &self.deployment.metadata, &updated, Reason::NameCollision));
            return;
        }
        let total: i32 = self.sets.iter().map(|set| math::replicas(set)).sum();
        let size = math::new_size(self.deployment, total, 0);
        let action = Action::create(
            replica_set::RESOURCE,
            meta::namespace(&self.deployment.metadata),
            self.new_set(&name, size),
            Reason::NoSetForTemplate,
        )
        .or_telling(Note::warning(
            &self.about,
            "ReplicaSetCreateError",
            format!("Failed to create new replica set {name:?}: {{error}}"),
        ));
        let failed = observed.failure.as_ref().filter(|f| f.verb == FailedVerb::Create);
        if status::progress_deadline(self.deployment).is_some() {
            let condition = match failed {
                Some(failure) => {
                    let text = format!("Failed to create new replica set {name:?}: {}", failure.message);
                    status::new_condition("Progressing", "False", "ReplicaSetCreateError", text, self.now)
                }
                None => {
                    let text = format!("Created new replica set {name:?}");
                    status::new_condition("Progressing", "True", "NewReplicaSetCreated", text, self.now)
                }
            };
            status::set(&mut status, condition);
        }
        if failed.is_some() {
            self.status(plan, status);
            plan.barrier();
            plan.push(action);
        } else {
            plan.push(if size > 0 { action.telling(self.scaled_note(&name, 0, size)) } else { action });
            plan.barrier();
            self.status(plan, status);
        }
    }

    fn new_set(&self, name: &str, size: i32) -> Value {
        let hash = hash(self.deployment);
        let mut template = self.spec.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(HASH_LABEL.into(), hash.clone());
        let labels = labels.clone();
        let mut selector = self.spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash);
        let mut annotations = BTreeMap::new();
        self.annotate_new(&mut annotations, self.old_revision() + 1);
        annotations.insert(DESIRED_REPLICAS.into(), self.desired.to_string());
        annotations.insert(MAX_REPLICAS.into(), self.most().to_string());
        let mut set = json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": name,
                "namespace": meta::namespace(&self.deployment.metadata),
                "labels": labels,
                "annotations": annotations,
                "ownerReferences": [
                    meta::controller_reference("apps/v1", "Deployment", &self.deployment.metadata)
                ],
            },
            "spec": {"replicas": size, "selector": selector, "template": template},
        });
        if let Some(seconds) = self.spec.min_ready_seconds {
            set["spec"]["minReadySeconds"] = json!(seconds);
        }
        set
    }

    fn rollout_status(&self, plan: &mut Plan<Reason>) {
        let mut status = status::rollout(self.deployment, &self.sets, self.newest(), self.now);
        if let Some(new) = self.new
            && status::progress_deadline(self.deployment).is_some()
            && status::condition(&status, "Progressing").is_none()
        {
            let text = format!("Found new replica set {:?}", meta::name(&new.metadata));
            let found = status::new_condition("Progressing", "True", "FoundNewReplicaSet", text, self.now);
            status::set(&mut status, found);
        }
        if let Some(at) = status::deadline(self.deployment, &status) {
            plan.wake(crate::time::after(at, 1));
        }
        self.status(plan, status);
    }

    /// A pause stops the progress deadline's clock, and its end starts it anew: both are told before anything else is done.
    fn mark_paused(&self, plan: &mut Plan<Reason>, paused: bool) -> bool {
        if status::progress_deadline(self.deployment).is_none() {
            return false;
        }
        let mut status = self.deployment.status.clone().unwrap_or_default();
        let reason = status::condition(&status, "Progressing").and_then(|c| c.reason.as_deref());
        let was = reason == Some("DeploymentPaused");
        if reason == Some(status::TIMED_OUT) || paused == was {
            return false;
        }
        let (reason, text) = if paused {
            ("DeploymentPaused", "Deployment is paused")
        } else {
            ("DeploymentResumed", "Deployment is resumed")
        };
        status::set(&mut status, status::new_condition("Progressing", "Unknown", reason, text.into(), self.now));
        self.status(plan, status);
        true
    }

    fn status(&self, plan: &mut Plan<Reason>, status: DeploymentStatus) {
        if self.deployment.status.as_ref() != Some(&status) {
            let updated = Deployment { status: Some(status), ..self.deployment.clone() };
            plan.push(Action::update_status(RESOURCE, &self.deployment.metadata, &updated, Reason::StatusIsOld));
        }
    }

    /// The rollout is through: history beyond the limit goes.
    fn finish(&self, plan: &mut Plan<Reason>) {
        let status = self.deployment.status.clone().unwrap_or_default();
        if status::is_complete(self.deployment, &status) {
            self.clean_up(plan);
        }
    }

    fn clean_up(&self, plan: &mut Plan<Reason>) {
        let Some(limit) = self.spec.revision_history_limit.filter(|limit| *limit != i32::MAX) else { return };
        let mut old: Vec<_> = self.old.iter().filter(|set| !meta::is_deleting(&set.metadata)).collect();
        let too_many = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|set| revision(set.metadata.annotations.as_ref()));
        for set in old.into_iter().take(too_many) {
            let status = set.status.clone().unwrap_or_default();
            let idle = status.replicas == 0
                && math::replicas(set) == 0
                && status.observed_generation >= set.metadata.generation;
            if idle {
                plan.push(Action::delete_background(replica_set::RESOURCE, &set.metadata, Reason::HistoryTooLong));
            }
        }
    }
}

fn plan_all(plan: &mut Plan<Reason>, actions: impl IntoIterator<Item = Action<Reason>>) {
    for action in actions {
        plan.push(action);
    }
}

#[cfg(test)]
mod tests;
