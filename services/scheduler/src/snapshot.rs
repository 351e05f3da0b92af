//! The cluster as the scheduler knows it: nodes and placed pods in columns, updated by changes and never rebuilt.
//!
//! A node lives in a slot; each column holds one figure for all slots, so that the loop over nodes that every pod costs
//! reads memory in order. Invariant: every column equals the sum over the pods placed on the node (`audit` in tests).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::storage::v1::StorageClass;

use crate::counters::{Counter, Role, SpreadCounter, Topology};
use crate::pod::{HostPort, Matcher, NodeInfo, PodClass, PodInfo};
use crate::selector::{Labels, Selector};
use crate::statics::StaticView;
use crate::volumes::{ClaimBinding, Volumes};

/// Where a node's figures stand in the columns.
pub(crate) type Slot = usize;
pub(crate) type ClassId = usize;
type PodId = usize;

/// Classes without placed pods that may pile up before everything derived is rebuilt without them.
const SPARE_CLASSES: usize = 1024;

/// A PodDisruptionBudget, as preemption asks about it.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// The pods it protects.
    pub selector: Selector,
    /// `status.disruptionsAllowed`.
    pub allowed: i32,
    /// `status.disruptedPods`: counted already.
    pub disrupted: HashSet<String>,
}

#[derive(Debug)]
pub(crate) struct PlacedPod {
    pub info: Arc<PodInfo>,
    pub class: ClassId,
    pub slot: Slot,
}

/// What is known about a class.
#[derive(Debug)]
pub(crate) struct ClassState {
    pub class: Arc<PodClass>,
    placed: usize,
    /// Counters whose term a pod of this class matches.
    pub matches: Vec<usize>,
    spread_matches: Vec<usize>,
    /// The joint counter of the required affinity, for each term's topology.
    pub affinity: Vec<usize>,
    pub anti_affinity: Vec<usize>,
    /// Preferred terms with their weights, negative for anti-affinity.
    pub likes: Vec<(usize, i64)>,
    /// What others are drawn by: `likes`, and required affinity terms with weight 1.
    pulls: Vec<(usize, i64)>,
    /// (spread counter, topology) of each of `class.spread`.
    pub spread: Vec<(usize, usize)>,
    /// Columns and amounts of extended resources.
    pub extended: Vec<(usize, i64)>,
    pub statics: StaticView,
}

/// Figures of one resource by slot.
#[derive(Debug, Default)]
pub(crate) struct Column {
    pub allocatable: Vec<i64>,
    pub requested: Vec<i64>,
}

impl Column {
    fn grow(&mut self, slots: usize) {
        self.allocatable.resize(slots, 0);
        self.requested.resize(slots, 0);
    }

    pub(crate) fn free(&self, slot: Slot) -> i64 {
        self.allocatable[slot] - self.requested[slot]
    }
}

/// Nodes, placed pods and what follows from them. See the module's documentation.
#[derive(Debug, Default)]
pub struct Snapshot {
    slots: HashMap<Arc<str>, Slot>,
    pub(crate) nodes: Vec<Option<NodeInfo>>,
    /// Occupied slots, ascending.
    pub(crate) live: Vec<Slot>,
    /// When the node in each slot last changed in what static filters look at.
    pub(crate) node_generation: Vec<u64>,
    pub(crate) generation: u64,
    pub(crate) image_generation: u64,
    pub(crate) image_nodes: HashMap<Arc<str>, u32>,
    pub(crate) cpu: Column,
    pub(crate) memory: Column,
    pub(crate) ephemeral: Column,
    pub(crate) pod_slots: Column,
    pub(crate) counted_cpu: Vec<i64>,
    pub(crate) counted_memory: Vec<i64>,
    extended_ids: HashMap<Arc<str>, usize>,
    pub(crate) extended: Vec<Column>,
    pub(crate) ports: Vec<Vec<HostPort>>,
    pub(crate) on_node: Vec<Vec<PodId>>,
    pub(crate) pods: Vec<Option<PlacedPod>>,
    free_pods: Vec<PodId>,
    by_uid: HashMap<Arc<str>, PodId>,
    /// Pods whose node is not known (yet, or any more).
    strays: HashMap<Arc<str>, BTreeMap<Arc<str>, Arc<PodInfo>>>,
    pub(crate) classes: Vec<ClassState>,
    class_ids: HashMap<Arc<PodClass>, ClassId>,
    pub(crate) topologies: Vec<Topology>,
    pub(crate) counters: Vec<Counter>,
    counter_ids: HashMap<(Matcher, usize), usize>,
    pub(crate) spreads: Vec<SpreadCounter>,
    spread_ids: HashMap<(Arc<str>, Selector), usize>,
    namespaces: HashMap<Arc<str>, Labels>,
    /// Room promised to pods that wait for their victims to leave.
    pub(crate) nominated: HashMap<Arc<str>, (Slot, Arc<PodInfo>)>,
    /// Victims that are on their way out.
    pub(crate) doomed: HashSet<Arc<str>>,
    pub(crate) budgets: Vec<Budget>,
    pub(crate) volumes: Volumes,
}

impl Snapshot {
    /// An empty cluster.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many nodes.
    pub fn node_count(&self) -> usize {
        self.live.len()
    }

    /// Whether a pod with this uid is placed (bound or assumed).
    pub fn is_placed(&self, uid: &str) -> bool {
        self.by_uid.contains_key(uid)
    }

    pub(crate) fn slot_of(&self, node: &str) -> Option<Slot> {
        self.slots.get(node).copied()
    }

    pub(crate) fn node(&self, slot: Slot) -> &NodeInfo {
        self.nodes[slot].as_ref().expect("live slots hold nodes")
    }

    pub(crate) fn pod(&self, id: PodId) -> &PlacedPod {
        self.pods[id].as_ref().expect("nodes hold placed pods only")
    }

    // Nodes.

    /// Adds or updates a node. Answers whether anything that placement looks at changed.
    pub fn set_node(&mut self, node: &core::Node) -> bool {
        let info = NodeInfo::new(node);
        let slot = match self.slots.get(&info.name) {
            Some(slot) => *slot,
            None => self.occupy(&info.name),
        };
        if self.nodes[slot].as_ref() == Some(&info) {
            return false;
        }
        let moves = self.topologies.iter().any(|t| t.moves(slot, &info.labels));
        let pods = if moves { self.on_node[slot].clone() } else { Vec::new() };
        for id in &pods {
            self.count(*id, false);
        }
        for topology in &mut self.topologies {
            topology.place(slot, &info.labels);
        }
        self.cpu.allocatable[slot] = info.allocatable.milli_cpu;
        self.memory.allocatable[slot] = info.allocatable.memory;
        self.ephemeral.allocatable[slot] = info.allocatable.ephemeral;
        self.pod_slots.allocatable[slot] = info.max_pods;
        for column in &mut self.extended {
            column.allocatable[slot] = 0;
        }
        for (name, amount) in &info.allocatable.extended {
            let column = self.extended_column(name);
            self.extended[column].allocatable[slot] = *amount;
        }
        let images_before = self.nodes[slot].as_ref().map(|n| &n.images);
        if images_before != Some(&info.images) {
            self.set_images(slot, Some(&info));
        }
        let name = info.name.clone();
        self.nodes[slot] = Some(info);
        self.generation += 1;
        self.node_generation[slot] = self.generation;
        for id in &pods {
            self.count(*id, true);
        }
        for pod in self.strays.remove(&name).into_iter().flatten().map(|(_, pod)| pod) {
            self.place(pod, slot);
        }
        true
    }

    /// Removes a node. Its pods are remembered until they are removed or the node returns.
    pub fn remove_node(&mut self, name: &str) {
        let Some(slot) = self.slots.remove(name) else { return };
        for id in self.on_node[slot].clone() {
            let pod = self.pod(id).info.clone();
            self.unplace(id);
            self.strays.entry(name.into()).or_default().insert(pod.uid.clone(), pod);
        }
        self.set_images(slot, None);
        self.nodes[slot] = None;
        self.live.retain(|s| *s != slot);
        for topology in &mut self.topologies {
            topology.clear(slot);
        }
        for column in [&mut self.cpu, &mut self.memory, &mut self.ephemeral, &mut self.pod_slots]
            .into_iter()
            .chain(&mut self.extended)
        {
            column.allocatable[slot] = 0;
        }
        self.generation += 1;
        self.node_generation[slot] = self.generation;
        self.nominated.retain(|_, (at, _)| *at != slot);
    }

    fn occupy(&mut self, name: &Arc<str>) -> Slot {
        let vacant = self.live.len() < self.nodes.len();
        let free = (0..self.nodes.len()).find(|slot| vacant && self.live.binary_search(slot).is_err());
        let slot = free.unwrap_or_else(|| {
            let slots = self.nodes.len() + 1;
            self.nodes.push(None);
            self.node_generation.push(0);
            self.ports.push(Vec::new());
            self.on_node.push(Vec::new());
            self.counted_cpu.push(0);
            self.counted_memory.push(0);
            for column in [&mut self.cpu, &mut self.memory, &mut self.ephemeral, &mut self.pod_slots]
                .into_iter()
                .chain(&mut self.extended)
            {
                column.grow(slots);
            }
            slots - 1
        });
        self.slots.insert(name.clone(), slot);
        let at = self.live.partition_point(|s| *s < slot);
        self.live.insert(at, slot);
        slot
    }

    fn set_images(&mut self, slot: Slot, now: Option<&NodeInfo>) {
        self.image_generation += 1;
        for image in self.nodes[slot].iter().flat_map(|n| n.images.keys()) {
            if let Some(nodes) = self.image_nodes.get_mut(image) {
                *nodes -= 1;
                if *nodes == 0 {
                    self.image_nodes.remove(image);
                }
            }
        }
        for image in now.into_iter().flat_map(|n| n.images.keys()) {
            *self.image_nodes.entry(image.clone()).or_insert(0) += 1;
        }
    }

    pub(crate) fn extended_id(&self, name: &str) -> Option<usize> {
        self.extended_ids.get(name).copied()
    }

    fn extended_column(&mut self, name: &Arc<str>) -> usize {
        let next = self.extended.len();
        let id = *self.extended_ids.entry(name.clone()).or_insert(next);
        if id == next {
            let mut column = Column::default();
            column.grow(self.nodes.len());
            self.extended.push(column);
        }
        id
    }

    // Pods.

    /// Adds or updates a pod that is bound to `node`; also confirms an assumption. A pod that ended must be removed.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.nominated.remove(&pod.uid);
        if let Some(id) = self.by_uid.get(&pod.uid).copied() {
            let placed = self.pod(id);
            let same = self.nodes[placed.slot].as_ref().is_some_and(|n| *n.name == *node)
                && placed.info.terminating == pod.terminating
                && placed.info.class == pod.class;
            if same {
                self.pods[id].as_mut().expect("looked up above").info = pod;
                return;
            }
            self.unplace(id);
        }
        self.remove_stray(&pod.uid);
        match self.slots.get(node) {
            Some(slot) => {
                let slot = *slot;
                self.place(pod, slot);
            }
            None => {
                self.strays.entry(node.into()).or_default().insert(pod.uid.clone(), pod);
            }
        }
    }

    /// Removes a pod that was deleted or ended, or an assumption whose binding failed.
    pub fn remove_pod(&mut self, uid: &str) {
        self.nominated.remove(uid);
        self.doomed.remove(uid);
        self.remove_stray(uid);
        if let Some(id) = self.by_uid.get(uid).copied() {
            let class = self.pod(id).info.class.clone();
            if !class.claims.is_empty() {
                self.volumes.forget(&class);
            }
            self.unplace(id);
        }
    }

    fn remove_stray(&mut self, uid: &str) {
        self.strays.retain(|_, pods| {
            pods.remove(uid);
            !pods.is_empty()
        });
    }

    /// Holds room on `node` for a pod whose victims are still leaving.
    pub fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        if let Some(slot) = self.slot_of(node) {
            self.nominated.insert(pod.uid.clone(), (slot, pod));
        }
    }

    /// Gives that room up.
    pub fn unnominate(&mut self, uid: &str) {
        self.nominated.remove(uid);
    }

    /// Places a pod that was just chosen a node: it counts before its binding is committed.
    pub(crate) fn assume(&mut self, pod: &Arc<PodInfo>, slot: Slot, bindings: &[ClaimBinding]) {
        self.nominated.remove(&pod.uid);
        self.volumes.assume(&pod.class.namespace, bindings);
        self.place(pod.clone(), slot);
    }

    fn place(&mut self, info: Arc<PodInfo>, slot: Slot) {
        let class = self.class(&info.class);
        let uid = info.uid.clone();
        let pod = PlacedPod { info, class, slot };
        let id = match self.free_pods.pop() {
            Some(id) => {
                self.pods[id] = Some(pod);
                id
            }
            None => {
                self.pods.push(Some(pod));
                self.pods.len() - 1
            }
        };
        self.by_uid.insert(uid, id);
        self.classes[class].placed += 1;
        self.attach(id);
    }

    fn unplace(&mut self, id: PodId) {
        self.detach(id);
        if let Some(pod) = self.pods[id].take() {
            self.by_uid.remove(&pod.info.uid);
            self.classes[pod.class].placed -= 1;
            self.free_pods.push(id);
        }
    }

    /// Adds a known pod's weight to its node: preemption takes pods off and puts them back to see what would help.
    pub(crate) fn attach(&mut self, id: PodId) {
        let slot = self.pod(id).slot;
        self.on_node[slot].push(id);
        self.weigh(id, 1);
        let ports = self.pod(id).info.class.ports.clone();
        self.ports[slot].extend(ports);
        self.count(id, true);
    }

    pub(crate) fn detach(&mut self, id: PodId) {
        let slot = self.pod(id).slot;
        self.on_node[slot].retain(|p| *p != id);
        self.weigh(id, -1);
        let class = self.pod(id).info.class.clone();
        for port in &class.ports {
            if let Some(at) = self.ports[slot].iter().position(|p| p == port) {
                self.ports[slot].swap_remove(at);
            }
        }
        self.count(id, false);
    }

    fn weigh(&mut self, id: PodId, sign: i64) {
        let pod = self.pods[id].as_ref().expect("nodes hold placed pods only");
        let (slot, state) = (pod.slot, &self.classes[pod.class]);
        let class = &state.class;
        self.cpu.requested[slot] += sign * class.requests.milli_cpu;
        self.memory.requested[slot] += sign * class.requests.memory;
        self.ephemeral.requested[slot] += sign * class.requests.ephemeral;
        self.pod_slots.requested[slot] += sign;
        self.counted_cpu[slot] += sign * class.counted_cpu;
        self.counted_memory[slot] += sign * class.counted_memory;
        for (column, amount) in &state.extended {
            self.extended[*column].requested[slot] += sign * amount;
        }
    }

    /// Moves every counter that the pod concerns.
    fn count(&mut self, id: PodId, comes: bool) {
        let pod = self.pods[id].as_ref().expect("nodes hold placed pods only");
        let state = &self.classes[pod.class];
        for (counter, role) in state.roles() {
            let counter = &mut self.counters[counter];
            counter.shift(role, self.topologies[counter.topology].domain(pod.slot), comes);
        }
        if !pod.info.terminating {
            for spread in &state.spread_matches {
                self.spreads[*spread].shift(pod.slot, comes);
            }
        }
    }

    // Classes and counters.

    /// The class's id; a new class registers its terms and is matched against everybody else's.
    pub(crate) fn class(&mut self, class: &Arc<PodClass>) -> ClassId {
        if let Some(id) = self.class_ids.get(class) {
            return *id;
        }
        let extended = class.requests.extended.iter().filter(|(_, amount)| **amount > 0).map(|(n, a)| (n.clone(), *a));
        let extended: Vec<_> = extended.collect();
        let extended = extended.into_iter().map(|(name, amount)| (self.extended_column(&name), amount)).collect();
        let labels = self.namespaces.get(&class.namespace);
        let matches = (0..self.counters.len()).filter(|c| self.counters[*c].matcher.matches(class, labels)).collect();
        let spread_matches = (0..self.spreads.len())
            .filter(|s| {
                let spread = &self.spreads[*s];
                spread.namespace == class.namespace && spread.selector.matches(&class.labels)
            })
            .collect();
        let id = self.classes.len();
        self.classes.push(ClassState {
            class: class.clone(),
            placed: 0,
            matches,
            spread_matches,
            affinity: Vec::new(),
            anti_affinity: Vec::new(),
            likes: Vec::new(),
            pulls: Vec::new(),
            spread: Vec::new(),
            extended,
            statics: StaticView::default(),
        });
        self.class_ids.insert(class.clone(), id);
        let affinity = class.affinity.iter().flat_map(|(matcher, keys)| keys.iter().map(move |k| (matcher, k)));
        let affinity: Vec<_> = affinity.map(|(m, key)| self.counter(m, key)).collect();
        let anti_affinity =
            class.anti_affinity.iter().map(|t| self.counter(&t.matcher, &t.topology_key)).collect::<Vec<_>>();
        let likes: Vec<_> =
            class.preferred_pods.iter().map(|(w, t)| (self.counter(&t.matcher, &t.topology_key), *w)).collect();
        let mut pulls = likes.clone();
        pulls.extend(class.affinity_terms.iter().map(|t| (self.counter(&t.matcher, &t.topology_key), 1)));
        let spread = class
            .spread
            .iter()
            .map(|s| (self.spread_counter(&class.namespace, &s.selector), self.topology(&s.topology_key)))
            .collect();
        let state = &mut self.classes[id];
        (state.affinity, state.anti_affinity, state.likes, state.pulls, state.spread) =
            (affinity, anti_affinity, likes, pulls, spread);
        id
    }

    pub(crate) fn topology(&mut self, key: &Arc<str>) -> usize {
        if let Some(at) = self.topologies.iter().position(|t| t.key == *key) {
            return at;
        }
        let mut topology = Topology::new(key);
        for slot in &self.live {
            topology.place(*slot, &self.node(*slot).labels);
        }
        self.topologies.push(topology);
        self.topologies.len() - 1
    }

    fn counter(&mut self, matcher: &Matcher, topology_key: &Arc<str>) -> usize {
        let topology = self.topology(topology_key);
        let key = (matcher.clone(), topology);
        if let Some(id) = self.counter_ids.get(&key) {
            return *id;
        }
        let id = self.counters.len();
        self.counters.push(Counter::new(matcher.clone(), topology));
        self.counter_ids.insert(key, id);
        let mut concerned = vec![false; self.classes.len()];
        for (at, state) in self.classes.iter_mut().enumerate() {
            let labels = self.namespaces.get(&state.class.namespace);
            if matcher.matches(&state.class, labels) {
                state.matches.push(id);
                concerned[at] = true;
            }
        }
        // Nobody who is placed states the term yet, or the counter would exist: only those who match count.
        for pod in self.pods.iter().flatten().filter(|p| concerned[p.class]) {
            self.counters[id].shift(Role::Matches, self.topologies[topology].domain(pod.slot), true);
        }
        id
    }

    fn spread_counter(&mut self, namespace: &Arc<str>, selector: &Selector) -> usize {
        let key = (namespace.clone(), selector.clone());
        if let Some(id) = self.spread_ids.get(&key) {
            return *id;
        }
        let id = self.spreads.len();
        self.spreads.push(SpreadCounter::new(namespace.clone(), selector.clone()));
        self.spread_ids.insert(key, id);
        for state in &mut self.classes {
            if state.class.namespace == *namespace && selector.matches(&state.class.labels) {
                state.spread_matches.push(id);
            }
        }
        for pod in self.pods.iter().flatten().filter(|p| !p.info.terminating) {
            if self.classes[pod.class].spread_matches.contains(&id) {
                self.spreads[id].shift(pod.slot, true);
            }
        }
        id
    }

    /// Forgets classes that no placed pod belongs to, and their counters, once there are many.
    pub(crate) fn compact(&mut self) {
        let used = self.classes.iter().filter(|c| c.placed > 0).count();
        if self.classes.len() > 2 * used + SPARE_CLASSES {
            self.recount();
        }
    }

    /// Builds classes and counters again from the placed pods.
    fn recount(&mut self) {
        let placed: Vec<_> = self.pods.drain(..).flatten().collect();
        self.free_pods.clear();
        self.by_uid.clear();
        self.classes.clear();
        self.class_ids.clear();
        self.topologies.clear();
        self.counters.clear();
        self.counter_ids.clear();
        self.spreads.clear();
        self.spread_ids.clear();
        self.on_node.iter_mut().for_each(Vec::clear);
        self.ports.iter_mut().for_each(Vec::clear);
        self.counted_cpu.fill(0);
        self.counted_memory.fill(0);
        for column in [&mut self.cpu, &mut self.memory, &mut self.ephemeral, &mut self.pod_slots]
            .into_iter()
            .chain(&mut self.extended)
        {
            column.requested.fill(0);
        }
        for pod in placed {
            self.place(pod.info, pod.slot);
        }
    }

    // Everything else.

    /// A namespace's labels: affinity terms can select by them.
    pub fn set_namespace(&mut self, name: &str, labels: &Labels) {
        let name: Arc<str> = name.into();
        if self.namespaces.get(&name) == Some(labels) {
            return;
        }
        self.namespaces.insert(name, labels.clone());
        if self.counters.iter().any(|c| c.matcher.depends_on_namespace_labels()) {
            self.recount();
        }
    }

    /// A namespace went away.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// The PodDisruptionBudgets, all of them.
    pub fn set_budgets(&mut self, budgets: Vec<Budget>) {
        self.budgets = budgets;
    }

    /// Adds or updates a PersistentVolumeClaim.
    pub fn set_claim(&mut self, claim: &core::PersistentVolumeClaim) {
        self.volumes.set_claim(claim);
    }

    /// Removes a PersistentVolumeClaim.
    pub fn remove_claim(&mut self, namespace: &str, name: &str) {
        self.volumes.remove_claim(namespace, name);
    }

    /// Adds or updates a PersistentVolume.
    pub fn set_volume(&mut self, volume: &core::PersistentVolume) {
        self.volumes.set_volume(volume);
    }

    /// Removes a PersistentVolume.
    pub fn remove_volume(&mut self, name: &str) {
        self.volumes.remove_volume(name);
    }

    /// Adds or updates a StorageClass.
    pub fn set_storage_class(&mut self, class: &StorageClass) {
        self.volumes.set_class(class);
    }

    /// Removes a StorageClass.
    pub fn remove_storage_class(&mut self, name: &str) {
        self.volumes.remove_class(name);
    }
}

impl ClassState {
    fn roles(&self) -> impl Iterator<Item = (usize, Role)> + '_ {
        let matches = self.matches.iter().map(|c| (*c, Role::Matches));
        let refuses = self.anti_affinity.iter().map(|c| (*c, Role::Refuses));
        let pulls = self.pulls.iter().map(|(c, weight)| (*c, Role::Pulls(*weight)));
        matches.chain(refuses).chain(pulls)
    }
}

#[cfg(test)]
impl Snapshot {
    /// Compares every incremental figure with a walk over all placed pods.
    pub(crate) fn audit(&mut self) {
        let figures = |s: &Self| {
            let columns: Vec<_> = [&s.cpu, &s.memory, &s.ephemeral, &s.pod_slots]
                .into_iter()
                .chain(&s.extended)
                .map(|c| c.requested.clone())
                .collect();
            let mut counts = Vec::new();
            for c in &s.counters {
                let topology = &s.topologies[c.topology];
                for slot in &s.live {
                    counts.push((topology.key.clone(), *slot, c.at(topology.domain(*slot))));
                }
            }
            counts.retain(|(.., at)| *at != (0, 0, 0));
            counts.sort();
            let mut spreads = Vec::new();
            for spread in &s.spreads {
                spreads.extend(s.live.iter().map(|slot| (*slot, spread.on_node(*slot))).filter(|(_, n)| *n > 0));
            }
            spreads.sort_unstable();
            (columns, s.counted_cpu.clone(), s.counted_memory.clone(), counts, spreads)
        };
        let mut known: Vec<_> = self.classes.iter().map(|c| c.class.clone()).collect();
        let before = figures(self);
        self.recount();
        known.drain(..).for_each(|class| {
            self.class(&class);
        });
        let after = figures(self);
        assert_eq!(before, after, "incremental figures differ from a recount");
    }
}
