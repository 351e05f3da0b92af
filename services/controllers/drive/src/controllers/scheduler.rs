//! The scheduler's place among the controllers: feeds `galley_scheduler` with changes, and carries its decisions out.
//!
//! One key stands for the whole cluster: a plan takes a batch of pending pods, places them in the snapshot at once, and binds
//! them in one batch of the store. The snapshot counts a placement from the moment it is decided; what `changed` tells later
//! confirms it, and what was not confirmed when the next plan starts has failed and is tried again. Only pods whose
//! `schedulerName` is `default-scheduler` are taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use galley_controllers_plan::{Action, Note, Plan, Verb, meta, pod as pods, time};
use galley_scheduler::{
    Budget, Change as Event, ClaimBinding, Outcome, PodInfo, Preemption, Queue, Selector, Snapshot, schedule_batch,
};
use galley_store::{DecodeError, EventKind, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use memchr::memmem;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::controller::{Context, Controller, Wake};
use crate::view::{Change, Seen, View};

/// What users put into `spec.schedulerName`, and read in events.
const NAME: &str = "default-scheduler";
/// Pods placed between two looks at what else the cluster's controllers have to do: a few tens of milliseconds.
const BATCH: usize = 512;

/// The controller.
#[derive(Debug)]
pub struct Scheduler {
    snapshot: Snapshot,
    queue: Queue,
    rng: StdRng,
    /// What happened since the last plan.
    events: Vec<Event>,
    /// Placed by the last plan and not confirmed yet.
    unconfirmed: BTreeSet<Arc<str>>,
    /// Pods that must go, by uid, until they are seen going.
    victims: BTreeMap<Arc<str>, Victim>,
    budgets_changed: bool,
}

#[derive(Debug)]
struct Victim {
    namespace: Arc<str>,
    name: Arc<str>,
    preemptor: Arc<str>,
    node: Arc<str>,
}

impl Default for Scheduler {
    fn default() -> Self {
        Self {
            snapshot: Snapshot::new(),
            queue: Queue::new(),
            // Breaks ties between equally good nodes: nothing that needs to be unpredictable.
            rng: StdRng::seed_from_u64(0),
            events: Vec::new(),
            unconfirmed: BTreeSet::new(),
            victims: BTreeMap::new(),
            budgets_changed: true,
        }
    }
}

impl Controller for Scheduler {
    fn name(&self) -> &'static str {
        NAME
    }

    fn changed(&mut self, change: &Change<'_>, view: &View, wake: &mut Wake) {
        let object = &change.now.object;
        let name = &*object.key.name;
        let gone = change.kind == EventKind::Deleted;
        match change.resource() {
            "pods" => self.pod_changed(change, view),
            "nodes" if gone => {
                self.snapshot.remove_node(name);
                self.events.push(Event::NodeRemoved);
            }
            "nodes" => {
                if let Ok(node) = object.typed::<Node>()
                    && self.snapshot.set_node(&node)
                {
                    let added = change.before.is_none();
                    self.events.push(if added { Event::NodeAdded } else { Event::NodeChanged });
                }
            }
            "namespaces" if gone => self.snapshot.remove_namespace(name),
            "namespaces" => {
                if let Ok(namespace) = object.typed::<Namespace>() {
                    self.snapshot
                        .set_namespace(name, namespace.metadata.labels.as_ref().unwrap_or(&Default::default()));
                    self.events.push(Event::NamespaceChanged);
                }
            }
            "poddisruptionbudgets.policy" => self.budgets_changed = true,
            "persistentvolumeclaims" => {
                match object.typed::<PersistentVolumeClaim>() {
                    Ok(claim) if !gone => self.snapshot.set_claim(&claim),
                    _ => self.snapshot.remove_claim(&object.key.namespace, name),
                }
                self.events.push(Event::VolumeChanged);
            }
            "persistentvolumes" => {
                match object.typed::<PersistentVolume>() {
                    Ok(volume) if !gone => self.snapshot.set_volume(&volume),
                    _ => self.snapshot.remove_volume(name),
                }
                self.events.push(Event::VolumeChanged);
            }
            "storageclasses.storage.k8s.io" => {
                match object.typed::<StorageClass>() {
                    Ok(class) if !gone => self.snapshot.set_storage_class(&class),
                    _ => self.snapshot.remove_storage_class(name),
                }
                self.events.push(Event::VolumeChanged);
            }
            _ => return,
        }
        if self.queue.is_empty() {
            self.events.clear();
        }
        if self.queue.is_ready() || !self.events.is_empty() {
            wake.object("pods", "", "");
        }
    }

    fn plan(&mut self, _key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let (view, now) = (context.view, context.now);
        for uid in std::mem::take(&mut self.unconfirmed) {
            self.snapshot.remove_pod(&uid);
            self.queue.retry(&uid, now);
        }
        if std::mem::take(&mut self.budgets_changed) {
            self.snapshot.set_budgets(budgets(view));
        }
        let mut events = std::mem::take(&mut self.events);
        events.sort_unstable_by_key(|event| *event as u8);
        events.dedup();
        self.queue.changed(&events);

        let batch: Vec<Arc<PodInfo>> = self.queue.pop(BATCH, now).into_iter().map(|queued| queued.pod).collect();
        let outcomes = schedule_batch(&mut self.snapshot, &batch, &mut self.rng);
        let mut plan = Plan::new();
        for (info, outcome) in batch.iter().zip(outcomes) {
            let Some(pod) = typed(view, info)? else {
                self.snapshot.remove_pod(&info.uid);
                self.queue.remove(&info.uid);
                continue;
            };
            match outcome {
                Outcome::Placed { node, claims } if claims.is_empty() => {
                    self.unconfirmed.insert(info.uid.clone());
                    plan.push(bind(&pod, &node));
                }
                Outcome::Placed { claims, .. } => {
                    // The claims first: once they are bound, the pod goes where its volumes are.
                    self.snapshot.remove_pod(&info.uid);
                    self.queue.retry(&info.uid, now);
                    for claim in claims {
                        if let Some(action) = reserve(view, info, &claim)? {
                            plan.push(action);
                        }
                    }
                }
                Outcome::Unschedulable(why) => {
                    self.queue.failed(&info.uid, why.plugins, now);
                    let about = meta::reference("v1", "Pod", &pod.metadata);
                    plan.notes.push(Note::warning(&about, "FailedScheduling", &*why.message));
                    let nominated = why.preemption.as_ref().map(|p| &*p.node).or(info.nominated.as_deref());
                    if let Some(action) = tell(&pod, &why.message, nominated, now) {
                        plan.push(action);
                    }
                    if let Some(preemption) = why.preemption {
                        self.doom(info, preemption);
                    }
                }
            }
        }
        self.evict(view, &mut plan, now)?;
        if self.queue.is_ready() {
            plan.wake(now);
        } else if let Some(at) = self.queue.next_wake() {
            plan.wake(at);
        }
        Ok(plan.or_nothing("no pod is ready to be placed".into()))
    }
}

impl Scheduler {
    fn pod_changed(&mut self, change: &Change<'_>, view: &View) {
        let object = &change.now.object;
        let uid = &object.uid;
        let field = |name: &str| object.fields.get(name).unwrap_or_default();
        let node = field("spec.nodeName");
        if change.kind == EventKind::Deleted || matches!(field("status.phase"), "Succeeded" | "Failed") {
            if self.snapshot.is_placed(uid) || !node.is_empty() {
                self.events.push(Event::PodLeft);
            }
            self.snapshot.remove_pod(uid);
            self.queue.remove(uid);
            self.unconfirmed.remove(uid);
            self.victims.remove(uid);
            return;
        }
        if node.is_empty() && change.before.is_some_and(|before| is_waiting_as_before(before, change.now)) {
            return;
        }
        let Ok(pod) = object.typed::<Pod>() else { return };
        let before = change.before.and_then(|before| before.object.typed::<Pod>().ok());
        if !node.is_empty() {
            self.queue.remove(uid);
            self.unconfirmed.remove(uid);
            let as_before = before.as_ref().is_some_and(|before| {
                pods::node(before).is_some()
                    && before.metadata.labels == pod.metadata.labels
                    && before.metadata.generation == pod.metadata.generation
                    && meta::is_deleting(&before.metadata) == change.now.deleting
                    && start_time(before) == start_time(&pod)
            });
            if !as_before {
                let placed = before.as_ref().is_none_or(|before| pods::node(before).is_none());
                self.events.push(if placed { Event::PodPlaced } else { Event::PodChanged });
                self.snapshot.set_pod(Arc::new(PodInfo::new(&pod, siblings(view, &pod).as_ref())), node);
            }
            return;
        }
        let scheduler = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref());
        if scheduler.is_some_and(|name| name != NAME) {
            return;
        }
        if change.now.deleting {
            self.queue.remove(uid);
            self.snapshot.unnominate(uid);
            self.events.push(Event::PodLeft);
            return;
        }
        let info = Arc::new(PodInfo::new(&pod, siblings(view, &pod).as_ref()));
        if let Some(node) = &info.nominated {
            self.snapshot.nominate(info.clone(), node);
        }
        self.queue.set(info);
    }

    fn doom(&mut self, preemptor: &PodInfo, preemption: Preemption) {
        for victim in preemption.victims {
            self.victims.insert(
                victim.uid.clone(),
                Victim {
                    namespace: victim.namespace().clone(),
                    name: victim.name.clone(),
                    preemptor: preemptor.uid.clone(),
                    node: preemption.node.clone(),
                },
            );
        }
    }

    /// Deletes the victims that are still there, now or because an earlier plan did not get to it.
    fn evict(&mut self, view: &View, plan: &mut Plan<String>, now: Timestamp) -> Result<(), DecodeError> {
        let mut deletions = Vec::new();
        let mut leaving = Vec::new();
        for (uid, victim) in &self.victims {
            let seen = view.get("pods", &victim.namespace, &victim.name).filter(|s| s.object.uid == *uid);
            let Some(seen) = seen.filter(|s| !s.deleting) else {
                leaving.push(uid.clone());
                continue;
            };
            let pod = seen.object.typed::<Pod>()?;
            let because = format!("preempted by {} on {}", victim.preemptor, victim.node);
            let about = meta::reference("v1", "Pod", &pod.metadata);
            let message = format!("Preempted by pod {} on node {}", victim.preemptor, victim.node);
            let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                "message": format!("{NAME}: preempting to accommodate a higher priority pod"),
                "lastTransitionTime": time::seconds(now)});
            plan.push(tell_condition(&pod, condition, None, because.clone()));
            deletions.push(Action::delete("pods", &pod.metadata, because).telling(Note::normal(
                &about,
                "Preempted",
                message,
            )));
        }
        for uid in leaving {
            self.victims.remove(&uid);
        }
        plan.barrier();
        for deletion in deletions {
            plan.push(deletion);
        }
        Ok(())
    }
}

/// Whether a pod without a node changed in nothing that is looked at here: its own condition comes back as a change. By the texts,
/// as decoding every pending pod again is what this spares.
fn is_waiting_as_before(before: &Seen, now: &Seen) -> bool {
    // Members are ordered: the spec ends where the status begins. No field of a pod's spec is an object of this name.
    let spec = |seen: &Seen| -> Option<usize> { memmem::find(seen.object.rest(), b"},\"status\":{") };
    let (old, new) = (&before.object, &now.object);
    !before.deleting
        && !now.deleting
        && (&old.uid, &old.labels, &old.fields) == (&new.uid, &new.labels, &new.fields)
        && before.owners == now.owners
        && spec(before).is_some_and(|end| spec(now) == Some(end) && old.rest()[..end] == new.rest()[..end])
}

fn start_time(pod: &Pod) -> Option<Timestamp> {
    pod.status.as_ref()?.start_time.as_ref().map(|t| t.0)
}

/// The pod as the view has it, if it still is the same.
fn typed(view: &View, info: &PodInfo) -> Result<Option<Arc<Pod>>, DecodeError> {
    let seen = view.get("pods", info.namespace(), &info.name).filter(|seen| seen.object.uid == info.uid);
    seen.map(|seen| seen.object.typed()).transpose()
}

fn bind(pod: &Pod, node: &str) -> Action<String> {
    let about = meta::reference("v1", "Pod", &pod.metadata);
    let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
    Action {
        resource: "pods".into(),
        namespace: namespace.into(),
        name: name.into(),
        verb: Verb::Bind { uid: meta::uid(&pod.metadata).into(), node: node.into() },
        because: format!("{node} is the best node"),
        on_success: Some(Note::normal(
            &about,
            "Scheduled",
            format!("Successfully assigned {namespace}/{name} to {node}"),
        )),
        on_failure: Some(Note::warning(&about, "FailedScheduling", "binding rejected: {error}")),
    }
}

fn tell_condition(pod: &Pod, condition: Value, nominated: Option<Option<String>>, because: String) -> Action<String> {
    Action {
        resource: "pods".into(),
        namespace: meta::namespace(&pod.metadata).into(),
        name: meta::name(&pod.metadata).into(),
        verb: Verb::Condition { uid: meta::uid(&pod.metadata).into(), condition, nominated },
        because,
        on_success: None,
        on_failure: None,
    }
}

/// The `PodScheduled` condition and the nominated node, unless the pod says so already.
fn tell(pod: &Pod, message: &str, nominated: Option<&str>, now: Timestamp) -> Option<Action<String>> {
    let old = pods::condition(pod, "PodScheduled");
    let as_it_is = old.is_some_and(|c| {
        c.status == "False" && c.reason.as_deref() == Some("Unschedulable") && c.message.as_deref() == Some(message)
    });
    let told = pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref()).filter(|n| !n.is_empty());
    if as_it_is && told == nominated {
        return None;
    }
    let since = old
        .filter(|c| c.status == "False")
        .and_then(|c| c.last_transition_time.as_ref())
        .map_or_else(|| time::seconds(now), |t| t.0);
    let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
        "lastProbeTime": null, "lastTransitionTime": since});
    Some(tell_condition(pod, condition, Some(nominated.map(str::to_owned)), "no node will do".into()))
}

/// Reserves a volume for a claim that waited for its pod's node: the volume controller binds the two.
fn reserve(view: &View, pod: &PodInfo, binding: &ClaimBinding) -> Result<Option<Action<String>>, DecodeError> {
    let claim = view.get("persistentvolumeclaims", pod.namespace(), &binding.claim);
    let volume = view.get("persistentvolumes", "", &binding.volume);
    let (Some(claim), Some(volume)) = (claim, volume) else { return Ok(None) };
    let volume = volume.object.typed::<PersistentVolume>()?;
    let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": **pod.namespace(),
        "name": &*binding.claim, "uid": &*claim.object.uid});
    let patch = json!({"metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}},
        "spec": {"claimRef": reference}});
    Ok(Some(Action::merge("persistentvolumes", &volume.metadata, patch, format!("{} mounts its claim", pod.name))))
}

/// Selects the pods of the Services and the workload that the pod belongs to: where the pod states no constraint, they are
/// spread over hosts and zones.
fn siblings(view: &View, pod: &Pod) -> Option<Selector> {
    let namespace = meta::namespace(&pod.metadata);
    let stated = pod.spec.as_ref().and_then(|spec| spec.topology_spread_constraints.as_ref());
    if stated.is_some_and(|constraints| !constraints.is_empty()) {
        return None;
    }
    let labels = pod.metadata.labels.as_ref()?;
    let mut found: Option<Selector> = None;
    let mut and = |selector: Selector| {
        found = Some(match found.take() {
            Some(before) => before.and(selector),
            None => selector,
        });
    };
    for seen in view.in_namespace("services", namespace) {
        let Ok(service) = seen.object.typed::<Service>() else { continue };
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        if let Some(selector) = selector.filter(|selector| !selector.is_empty())
            && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        {
            and(Selector::equal_to(selector.iter()));
        }
    }
    let owner = meta::controller_of(&pod.metadata);
    let owned = owner.and_then(|owner| view.by_uid(&owner.uid)).map(|seen| (seen.object.key.resource.as_str(), seen));
    match owned {
        Some(("replicasets.apps", seen)) => {
            let set = seen.object.typed::<ReplicaSet>().ok()?;
            and(Selector::new(set.spec.as_ref().map(|spec| &spec.selector)));
        }
        Some(("statefulsets.apps", seen)) => {
            let set = seen.object.typed::<StatefulSet>().ok()?;
            and(Selector::new(set.spec.as_ref().map(|spec| &spec.selector)));
        }
        Some(("replicationcontrollers", seen)) => {
            let set = seen.object.typed::<ReplicationController>().ok()?;
            and(Selector::equal_to(set.spec.as_ref()?.selector.as_ref()?.iter()));
        }
        _ => {}
    }
    found
}

fn budgets(view: &View) -> Vec<Budget> {
    view.all("poddisruptionbudgets.policy")
        .filter_map(|seen| {
            let budget = seen.object.typed::<PodDisruptionBudget>().ok()?;
            let status = budget.status.as_ref();
            Some(Budget {
                namespace: seen.object.key.namespace.clone(),
                selector: Selector::new(budget.spec.as_ref()?.selector.as_ref()),
                allowed: status.and_then(|s| s.disruptions_allowed).unwrap_or(0),
                disrupted: status
                    .and_then(|s| s.disrupted_pods.as_ref())
                    .map(|pods| pods.keys().cloned().collect())
                    .unwrap_or_default(),
            })
        })
        .collect()
}
