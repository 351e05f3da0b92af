//! DaemonSet: one pod of a template on every node that fits.
//!
//! ```text
//! claim -> revision of the template -> nodes without a pod, with a wrong one, or with too many
//!       -> all as they should be: replace old pods, as many at a time as the strategy allows -> status
//! ```
//! Source: Kubernetes documentation, 'DaemonSet' and 'Perform a Rolling Update on a DaemonSet'.

mod pods;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, PodTemplateSpec};
use serde_json::json;

use self::pods::Fit;
use crate::action::{Action, Failure, Note, Plan};
use crate::deployment::math::{Round, scaled};
use crate::meta::{self, Claim};
use crate::pod::{self, Availability};
use crate::replicas::count;
use crate::revisions::{self, Current, HASH_LABEL};
use crate::time::positive;

/// Where DaemonSets are.
pub const RESOURCE: &str = "daemonsets.apps";
/// What events and audit call the controller.
pub const COMPONENT: &str = "daemonset-controller";
/// Pods made or taken away in one plan.
const BURST: usize = 500;
/// A pod that failed sooner than this after it was made waits until then: a node that refuses it would get it for ever.
const FAILED_PAUSE: SignedDuration = SignedDuration::from_secs(10);

/// Why a plan does something, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The object is gone or has no spec.
    Gone,
    /// The selector selects everything.
    SelectsEverything,
    /// The object is being deleted: its pods are the garbage collector's.
    BeingDeleted,
    /// An orphan matches the selector.
    Adopted,
    /// An object's labels no longer match.
    Released,
    /// The template has no revision yet, or an old number.
    RevisionIsOld,
    /// More revisions than the history limit.
    HistoryTooLong,
    /// The node has no pod.
    NodeWithoutPod,
    /// The node has more pods than it should.
    TooManyOnNode,
    /// The node does not fit (any more), or is gone.
    NodeDoesNotFit,
    /// The pod ended.
    PodEnded,
    /// The pod is of an old template.
    PodIsOld,
    /// The status does not say what is observed.
    StatusIsOld,
    /// Everything is as wanted, or waits for pods.
    AsWanted,
}

/// What a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The DaemonSet.
    pub set: Arc<DaemonSet>,
    /// Pods it controls, and pods of its namespace that nobody controls.
    pub pods: Vec<Arc<Pod>>,
    /// All nodes.
    pub nodes: Vec<Arc<Node>>,
    /// Revisions it controls, and those of its namespace that nobody controls.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// Whether the name of the template's revision is taken.
    pub name_taken: bool,
    /// The last attempt, if it failed.
    pub failure: Option<Failure>,
}

/// The name that the revision of the current template gets.
pub fn revision_name(set: &DaemonSet) -> String {
    let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    revisions::name(&set.metadata, &template, set.status.as_ref().and_then(|s| s.collision_count))
}

/// Observed -> actions.
pub fn plan(observed: &Observed, now: Timestamp) -> Plan<Reason> {
    let set = &*observed.set;
    let Some(spec) = &set.spec else { return Plan::nothing(Reason::Gone) };
    let about = meta::reference("apps/v1", "DaemonSet", &set.metadata);
    if meta::selects_everything(&spec.selector) {
        let mut plan = Plan::nothing(Reason::SelectsEverything);
        let text = "This daemon set is selecting all pods. A non-empty selector is required.";
        plan.notes.push(Note::warning(&about, "SelectingAll", text));
        return plan;
    }
    let mut plan = Plan::new();
    let reference = meta::controller_reference("apps/v1", "DaemonSet", &set.metadata);
    let mut mine = Vec::new();
    for pod in &observed.pods {
        let matches = meta::selects(&spec.selector, pod.metadata.labels.as_ref());
        match meta::claim(&pod.metadata, &set.metadata, matches) {
            Claim::Owned => mine.push(pod),
            Claim::Adopt => plan.push(meta::adopt("pods", &pod.metadata, &reference, Reason::Adopted)),
            Claim::Release => plan.push(meta::release("pods", &pod.metadata, &reference.uid, Reason::Released)),
            Claim::Ignore => {}
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
    let current = match current {
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
            let updated = DaemonSet { status: Some(status), ..set.clone() };
            plan.push(Action::update_status(RESOURCE, &set.metadata, &updated, Reason::RevisionIsOld));
            return plan;
        }
    };
    let day = Day::new(set, spec, about, &mine, &observed.nodes, revisions::hash(current), now);
    day.plan(observed.failure.is_some(), &history, &mine, plan)
}

struct Place<'a> {
    node: &'a Node,
    fit: Fit,
    /// Oldest first, those on the node before those on their way.
    pods: Vec<&'a Pod>,
}

/// One look at all nodes.
struct Day<'a> {
    set: &'a DaemonSet,
    spec: &'a DaemonSetSpec,
    about: ObjectReference,
    template: PodTemplateSpec,
    hash: &'a str,
    places: Vec<Place<'a>>,
    /// Pods meant for a node that is not there.
    lost: Vec<&'a Pod>,
    now: Timestamp,
}

impl<'a> Day<'a> {
    fn new(
        set: &'a DaemonSet,
        spec: &'a DaemonSetSpec,
        about: ObjectReference,
        mine: &[&'a Arc<Pod>],
        nodes: &'a [Arc<Node>],
        hash: &'a str,
        now: Timestamp,
    ) -> Self {
        let template = pods::tolerant(&spec.template);
        let mut by_node: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
        for pod in mine {
            by_node.entry(pods::node_of(pod).unwrap_or_default()).or_default().push(pod);
        }
        let mut places = Vec::with_capacity(nodes.len());
        for node in nodes {
            let mut pods = by_node.remove(meta::name(&node.metadata)).unwrap_or_default();
            pods.sort_by_key(|p| (pod::node(p).is_none(), p.metadata.creation_timestamp.as_ref().map(|t| t.0)));
            places.push(Place { node, fit: pods::fit(&template, node), pods });
        }
        // A pod that is bound to a node that is gone is pod garbage collection's.
        let lost = by_node.into_values().flatten().filter(|p| pod::node(p).is_none() && pod::is_active(p)).collect();
        Self { set, spec, about, template, hash, places, lost, now }
    }

    fn plan(
        &self,
        failing: bool,
        history: &[&Arc<ControllerRevision>],
        mine: &[&Arc<Pod>],
        mut plan: Plan<Reason>,
    ) -> Plan<Reason> {
        self.manage(&mut plan);
        let rolls = self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete");
        if plan.is_quiet() && rolls {
            self.roll(&mut plan);
        }
        let live = |revision: &ControllerRevision| {
            let hash = revisions::hash(revision);
            hash == self.hash || mine.iter().any(|p| meta::label(&p.metadata, HASH_LABEL) == Some(hash))
        };
        if plan.is_quiet() {
            let limit = self.spec.revision_history_limit;
            revisions::truncate(history, live, limit, Reason::HistoryTooLong, &mut plan);
        }
        if plan.is_quiet() || failing {
            self.status(&mut plan);
        }
        plan.or_nothing(Reason::AsWanted)
    }

    fn is_new(&self, pod: &Pod) -> bool {
        meta::label(&pod.metadata, HASH_LABEL) == Some(self.hash)
    }

    fn availability(&self, pod: &Pod) -> Availability {
        pod::availability(pod, self.spec.min_ready_seconds.unwrap_or(0), self.now)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        self.availability(pod) == Availability::Available
    }

    fn bounds(&self) -> (usize, usize) {
        let desired = count(self.places.iter().filter(|place| place.fit.run).count());
        let rolling = self.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()), desired, Round::Up);
        let unavailable = rolling
            .and_then(|r| r.max_unavailable.as_ref())
            .map_or(i32::from(surge == 0), |value| scaled(Some(value), desired, Round::Up));
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        (usize::try_from(surge).unwrap_or(0), usize::try_from(unavailable).unwrap_or(0))
    }

    fn create(&self, node: &Node, because: Reason) -> Action<Reason> {
        let body = pods::new(self.set, &self.template, self.hash, meta::name(&node.metadata));
        Action::create("pods", meta::namespace(&self.set.metadata), body, because)
            .telling(Note::normal(&self.about, "SuccessfulCreate", "Created pod: {name}"))
            .or_telling(Note::warning(&self.about, "FailedCreate", "Error creating: {error}"))
    }

    fn delete(&self, pod: &Pod, because: Reason) -> Action<Reason> {
        let text = format!("Deleted pod: {}", meta::name(&pod.metadata));
        Action::delete("pods", &pod.metadata, because)
            .telling(Note::normal(&self.about, "SuccessfulDelete", text))
            .or_telling(Note::warning(&self.about, "FailedDelete", "Error deleting: {error}"))
    }

    /// Every node that fits has a pod, and only such nodes have one.
    fn manage(&self, plan: &mut Plan<Reason>) {
        let (surge, _) = self.bounds();
        let mut actions = Vec::new();
        for place in &self.places {
            if place.fit.run && place.pods.is_empty() {
                actions.push(self.create(place.node, Reason::NodeWithoutPod));
            } else if !place.fit.stay {
                let active = place.pods.iter().filter(|p| !meta::is_deleting(&p.metadata));
                actions.extend(active.map(|p| self.delete(p, Reason::NodeDoesNotFit)));
            } else {
                self.tidy(place, surge > 0, &mut actions, plan);
            }
        }
        actions.extend(self.lost.iter().map(|p| self.delete(p, Reason::NodeDoesNotFit)));
        actions.into_iter().take(BURST).for_each(|action| plan.push(action));
    }

    fn tidy(&self, place: &Place<'a>, surges: bool, actions: &mut Vec<Action<Reason>>, plan: &mut Plan<Reason>) {
        let mut running: Vec<&Pod> = Vec::new();
        for pod in place.pods.iter().copied().filter(|p| !meta::is_deleting(&p.metadata)) {
            if !pod::is_terminal(pod) {
                running.push(pod);
                continue;
            }
            let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
            let node = meta::name(&place.node.metadata);
            let failed = pod::phase(pod) == "Failed";
            let created = pod.metadata.creation_timestamp.as_ref().map_or(self.now, |t| t.0);
            let due = created.checked_add(FAILED_PAUSE).unwrap_or(created);
            if failed && due > self.now {
                plan.wake(due);
                continue;
            }
            let note = if failed {
                let text = format!("Found failed daemon pod {namespace}/{name} on node {node}, will try to kill it");
                Note::warning(&self.about, "FailedDaemonPod", text)
            } else {
                let text =
                    format!("Found succeeded daemon pod {namespace}/{name} on node {node}, will try to delete it");
                Note::normal(&self.about, "SucceededDaemonPod", text)
            };
            plan.notes.push(note);
            actions.push(self.delete(pod, Reason::PodEnded));
        }
        let keep_one = |pods: Vec<&Pod>| -> Vec<Action<Reason>> {
            pods.into_iter().skip(1).map(|p| self.delete(p, Reason::TooManyOnNode)).collect()
        };
        if surges {
            let (new, old): (Vec<&Pod>, Vec<&Pod>) = running.into_iter().partition(|p| self.is_new(p));
            actions.extend(keep_one(new));
            actions.extend(keep_one(old));
        } else {
            actions.extend(keep_one(running));
        }
    }

    /// The pod of the current template and the one of an older, on a node.
    fn pair(&self, place: &Place<'a>) -> (Option<&'a Pod>, Option<&'a Pod>) {
        let active = || place.pods.iter().copied().filter(|p| !meta::is_deleting(&p.metadata));
        (active().find(|p| self.is_new(p)), active().find(|p| !self.is_new(p)))
    }

    fn roll(&self, plan: &mut Plan<Reason>) {
        let (surge, unavailable) = self.bounds();
        let places = self.places.iter().filter(|place| place.fit.stay);
        if surge > 0 {
            self.roll_surging(places, surge, plan);
            return;
        }
        let mut not_available = 0;
        let mut candidates = Vec::new();
        let mut broken = Vec::new();
        for place in places {
            match self.pair(place) {
                (Some(new), None) => not_available += usize::from(!self.is_available(new)),
                (None, Some(old)) if self.is_available(old) => candidates.push(old),
                (None, Some(old)) => {
                    not_available += 1;
                    broken.push(old);
                }
                (None, None) if !place.fit.run => {}
                (None, None) | (Some(_), Some(_)) => not_available += 1,
            }
        }
        // An old pod that is not available costs nothing; the others only as far as availability allows.
        let room = unavailable.saturating_sub(not_available);
        for old in broken.into_iter().chain(candidates.into_iter().take(room)) {
            plan.push(self.delete(old, Reason::PodIsOld));
        }
    }

    fn roll_surging<'b>(&self, places: impl Iterator<Item = &'b Place<'a>>, surge: usize, plan: &mut Plan<Reason>)
    where
        'a: 'b,
    {
        let mut surging = 0;
        let mut candidates = Vec::new();
        for place in places {
            match self.pair(place) {
                (Some(new), Some(old)) => {
                    if self.is_available(new) || !self.is_available(old) {
                        plan.push(self.delete(old, Reason::PodIsOld));
                    } else {
                        surging += 1;
                    }
                }
                (None, Some(old)) if !self.is_available(old) => {
                    plan.push(self.create(place.node, Reason::PodIsOld));
                }
                (None, Some(_)) => candidates.push(place.node),
                (Some(_) | None, None) => {}
            }
        }
        for node in candidates.into_iter().take(surge.saturating_sub(surging)) {
            plan.push(self.create(node, Reason::PodIsOld));
        }
    }

    fn status(&self, plan: &mut Plan<Reason>) {
        let old = self.set.status.clone().unwrap_or_default();
        let mut status = DaemonSetStatus {
            observed_generation: self.set.metadata.generation,
            collision_count: old.collision_count,
            conditions: old.conditions.clone(),
            ..DaemonSetStatus::default()
        };
        let (mut available, mut updated) = (0, 0);
        for place in &self.places {
            if !place.fit.run {
                status.number_misscheduled += i32::from(!place.pods.is_empty());
                continue;
            }
            status.desired_number_scheduled += 1;
            let Some(first) = place.pods.first() else { continue };
            status.current_number_scheduled += 1;
            status.number_ready += i32::from(place.pods.iter().any(|p| pod::is_ready(p)));
            match place.pods.iter().map(|p| self.availability(p)).min_by_key(|a| match a {
                Availability::Available => Timestamp::MIN,
                Availability::At(at) => *at,
                Availability::NotReady => Timestamp::MAX,
            }) {
                Some(Availability::Available) => available += 1,
                Some(Availability::At(at)) => plan.wake(at),
                Some(Availability::NotReady) | None => {}
            }
            updated += i32::from(self.is_new(first));
        }
        status.number_available = positive(available, old.number_available);
        let unavailable = status.desired_number_scheduled - available;
        status.number_unavailable = positive(unavailable, old.number_unavailable);
        status.updated_number_scheduled = positive(updated, old.updated_number_scheduled);
        if status != old || self.set.status.is_none() {
            let updated = DaemonSet { status: Some(status), ..self.set.clone() };
            plan.push(Action::update_status(RESOURCE, &self.set.metadata, &updated, Reason::StatusIsOld));
        }
    }
}

#[cfg(test)]
mod tests;
