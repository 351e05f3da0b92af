//! One cluster in memory: its objects in list order, and for each resource the newest events. No IO, no locks.
//!
//! ```text
//! State ── Kind "pods" ── namespaces: a ─ { x, y }, b ─ { z }       (the newest committed state)
//!      │               └─ log: [ floor | event event event ... ]    (every event of pods after `floor`)
//!      └─ Kind "configmaps" ...
//! ```
//!
//! Invariant: `objects` at `revision` is what the log's events lead to; a log has every event of its resource after its
//! floor. Without it a list and the watch that starts from it would disagree.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use galley_types::{ResourceName, Revision};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::config::CacheLimits;
use crate::object::{Object, ObjectKey};
use crate::watch::{Event, EventKind, Scope};

/// Stands for all resources: its log has every event, its objects are elsewhere. No resource can have this name.
pub(crate) const EVERYTHING: &str = "*";
const EVERYTHING_AT: usize = 0;

pub(crate) fn everything() -> ResourceName {
    EVERYTHING.into()
}

/// Objects by namespace and name.
pub(crate) type Namespaces = BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<Object>>>;

#[derive(Debug)]
pub(crate) struct State {
    revision: Revision,
    kinds: Vec<Kind>,
    index: HashMap<ResourceName, usize>,
    /// The floor of logs that start later.
    loaded: Revision,
    object_bytes: usize,
    log_bytes: usize,
    closed: bool,
}

#[derive(Debug)]
struct Kind {
    name: ResourceName,
    namespaces: Namespaces,
    count: usize,
    /// The newest change, or what was loaded.
    touched: Revision,
    log: Log,
    /// Made by the first watcher.
    wake: Option<watch::Sender<()>>,
}

/// The newest events of one resource.
#[derive(Debug)]
struct Log {
    events: VecDeque<(Arc<Event>, usize)>,
    /// How many were dropped: the absolute position of the front.
    first: u64,
    floor: Revision,
    bytes: usize,
}

/// What a cursor found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Advance {
    /// Events were taken.
    Events,
    /// Nothing in scope up to this revision.
    Quiet(Revision),
    /// The cursor's events are gone.
    Behind,
    /// The cluster is closed.
    Closed,
}

/// Where a watch can start.
#[derive(Debug)]
pub(crate) struct Entry {
    pub kind: usize,
    pub start: Start,
    pub wake: watch::Receiver<()>,
}

/// Where a watch can start.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// At this position in the log.
    Log(u64),
    /// Before the log: it begins after this floor.
    Before(Revision),
}

impl State {
    pub(crate) fn new(revision: Revision, objects: Vec<Arc<Object>>) -> Self {
        let mut state = Self {
            revision,
            kinds: Vec::new(),
            index: HashMap::new(),
            loaded: revision,
            object_bytes: 0,
            log_bytes: 0,
            closed: false,
        };
        state.kind(&everything());
        for object in objects {
            let kind = state.kind(&object.key.resource.clone());
            state.object_bytes += object.footprint();
            state.kinds[kind].put(object);
        }
        state
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// About how much memory this takes.
    pub(crate) fn bytes(&self) -> usize {
        self.object_bytes + self.log_bytes
    }

    /// What objects take of it.
    pub(crate) fn object_bytes(&self) -> usize {
        self.object_bytes
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<&Arc<Object>> {
        let kind = &self.kinds[*self.index.get(&key.resource)?];
        kind.namespaces.get(&key.namespace)?.get(&key.name)
    }

    pub(crate) fn list(&self, scope: &Scope) -> Vec<Arc<Object>> {
        let Some(kind) = self.index.get(&scope.resource).map(|kind| &self.kinds[*kind]) else {
            return Vec::new();
        };
        match &scope.namespace {
            Some(namespace) => {
                kind.namespaces.get(namespace).map_or_else(Vec::new, |names| names.values().cloned().collect())
            }
            None => {
                let mut objects = Vec::with_capacity(kind.count);
                objects.extend(kind.namespaces.values().flat_map(BTreeMap::values).cloned());
                objects
            }
        }
    }

    /// The state of an object before its last change, if the log still has it.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn before(&self, key: &ObjectKey) -> Option<&Arc<Object>> {
        let kind = &self.kinds[*self.index.get(&key.resource)?];
        let last = kind.log.events.iter().rev().find(|(event, _)| event.object.key == *key)?;
        last.0.previous.as_ref()
    }

    /// Breaks the newest entries of a log.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn break_log(&mut self, resource: &ResourceName, fault: crate::testing::Fault) -> bool {
        use crate::testing::Fault;
        let Some(at) = self.index.get(resource) else { return false };
        let events = &mut self.kinds[*at].log.events;
        let (len, Some(last)) = (events.len(), events.back().cloned()) else { return false };
        match fault {
            Fault::DroppedEvent => drop(events.pop_back()),
            Fault::RepeatedEvent => events.push_back(last),
            _ if len >= 2 => events.swap(len - 2, len - 1),
            _ => return false,
        }
        true
    }

    /// All objects, resource by resource.
    pub(crate) fn list_all(&self) -> Vec<Arc<Object>> {
        let mut kinds: Vec<&Kind> = self.kinds.iter().collect();
        kinds.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        kinds.into_iter().flat_map(|kind| kind.namespaces.values().flat_map(BTreeMap::values)).cloned().collect()
    }

    /// How many objects are in scope.
    pub(crate) fn count(&self, scope: &Scope) -> usize {
        let Some(kind) = self.index.get(&scope.resource).map(|kind| &self.kinds[*kind]) else {
            return 0;
        };
        match &scope.namespace {
            Some(namespace) => kind.namespaces.get(namespace).map_or(0, BTreeMap::len),
            None => kind.count,
        }
    }

    /// The newest change to any of these resources; what is derived from them holds while this stays.
    pub(crate) fn touched(&self, resources: &[&str]) -> Revision {
        let kinds = resources.iter().filter_map(|resource| self.index.get(*resource));
        kinds.map(|at| self.kinds[*at].touched).max().unwrap_or_default()
    }

    /// Resources that have objects.
    pub(crate) fn resources(&self) -> Vec<ResourceName> {
        self.kinds.iter().filter(|kind| kind.count > 0).map(|kind| kind.name.clone()).collect()
    }

    /// Makes committed events visible. Answers whom to wake, once the lock is released.
    pub(crate) fn apply(
        &mut self,
        events: &[Arc<Event>],
        revision: Revision,
        limits: &CacheLimits,
    ) -> Vec<watch::Sender<()>> {
        let mut touched: Vec<usize> = vec![EVERYTHING_AT];
        for event in events {
            let at = self.kind(&event.object.key.resource);
            if !touched.contains(&at) {
                touched.push(at);
            }
            let kind = &mut self.kinds[at];
            kind.touched = event.object.revision;
            if let Some(previous) = &event.previous {
                self.object_bytes -= previous.footprint();
            }
            match event.kind {
                EventKind::Added | EventKind::Modified => {
                    self.object_bytes += event.object.footprint();
                    kind.put(event.object.clone());
                }
                EventKind::Deleted => kind.remove(&event.object.key),
            }
            // Bytes of events count in both logs: either may be the one that keeps them.
            for at in [at, EVERYTHING_AT] {
                let log = &mut self.kinds[at].log;
                let before = log.bytes;
                log.push(event.clone(), limits);
                self.log_bytes = self.log_bytes + log.bytes - before;
            }
        }
        self.revision = revision;
        touched.iter().filter_map(|at| self.kinds[*at].wake.clone()).collect()
    }

    /// Nothing is read or written here any more. Answers whom to wake.
    pub(crate) fn close(&mut self) -> Vec<watch::Sender<()>> {
        self.closed = true;
        self.kinds.iter().filter_map(|kind| kind.wake.clone()).collect()
    }

    /// Where a watch of events after `from` can start.
    pub(crate) fn enter(&mut self, resource: &ResourceName, from: Revision) -> Entry {
        let at = self.kind(resource);
        let kind = &mut self.kinds[at];
        let wake = kind.wake.get_or_insert_with(|| watch::Sender::new(())).subscribe();
        let start = if from >= kind.log.floor {
            Start::Log(kind.log.position_after(from))
        } else {
            Start::Before(kind.log.floor)
        };
        Entry { kind: at, start, wake }
    }

    /// As `enter`, for a watch that has read up to `from` elsewhere.
    pub(crate) fn reenter(&self, kind: usize, from: Revision) -> (Start, Revision) {
        let log = &self.kinds[kind].log;
        let start = if from >= log.floor { Start::Log(log.position_after(from)) } else { Start::Before(log.floor) };
        (start, self.revision)
    }

    /// Moves a cursor over the log, taking up to `most` events in scope, or as many as reach `most_bytes`.
    pub(crate) fn advance(
        &self,
        kind: usize,
        namespace: Option<&str>,
        after: Revision,
        position: &mut u64,
        taken: &mut VecDeque<Arc<Event>>,
        most: usize,
        most_bytes: usize,
    ) -> Advance {
        if self.closed {
            return Advance::Closed;
        }
        let log = &self.kinds[kind].log;
        let Some(skip) = position.checked_sub(log.first) else {
            return Advance::Behind;
        };
        let mut bytes = 0;
        for (event, _) in log.events.range(usize::try_from(skip).unwrap_or(usize::MAX).min(log.events.len())..) {
            *position += 1;
            let key = &event.object.key;
            // A watch may ask for a revision that is still to come.
            if event.object.revision > after && namespace.is_none_or(|namespace| *key.namespace == *namespace) {
                taken.push_back(event.clone());
                bytes += event.object.body.len() + event.previous.as_ref().map_or(0, |before| before.body.len());
                if taken.len() >= most || bytes >= most_bytes {
                    break;
                }
            }
        }
        if taken.is_empty() { Advance::Quiet(self.revision) } else { Advance::Events }
    }

    /// The objects of a scope, rolled back over the log to `revision` or, where the log is shorter, to its floor. Answers the
    /// revision that was reached.
    pub(crate) fn rolled_back(&self, scope: &Scope, revision: Revision) -> (Namespaces, Revision) {
        let Some(kind) = self.index.get(&scope.resource).map(|kind| &self.kinds[*kind]) else {
            return (Namespaces::new(), revision.max(self.loaded));
        };
        let mut namespaces = match &scope.namespace {
            Some(namespace) => kind
                .namespaces
                .get_key_value(namespace)
                .map(|(key, names)| (key.clone(), names.clone()))
                .into_iter()
                .collect(),
            None => kind.namespaces.clone(),
        };
        let reached = revision.max(kind.log.floor);
        for (event, _) in kind.log.events.iter().rev().take_while(|(event, _)| event.object.revision > reached) {
            if scope.namespace.as_deref().is_none_or(|namespace| *event.object.key.namespace == *namespace) {
                undo(&mut namespaces, event);
            }
        }
        (namespaces, reached)
    }

    /// Events with a time to live that were last written before `before`, at most `most`.
    pub(crate) fn written_before(
        &self,
        wanted: impl Fn(&ResourceName) -> bool,
        before: Timestamp,
        most: usize,
    ) -> Vec<Arc<Object>> {
        let kinds = self.kinds.iter().filter(|kind| wanted(&kind.name));
        let objects = kinds.flat_map(|kind| kind.namespaces.values().flat_map(BTreeMap::values));
        objects.filter(|object| object.written() < before).take(most).cloned().collect()
    }

    /// When the last of certain objects was written.
    pub(crate) fn newest_written(&self, wanted: impl Fn(&ResourceName) -> bool) -> Option<Timestamp> {
        let kinds = self.kinds.iter().filter(|kind| wanted(&kind.name));
        kinds.flat_map(|kind| kind.namespaces.values().flat_map(BTreeMap::values)).map(|object| object.written()).max()
    }

    /// Whether any log has events older than `before`.
    pub(crate) fn has_aged(&self, before: Timestamp) -> bool {
        self.kinds.iter().any(|kind| kind.log.has_aged(before))
    }

    /// Drops events older than `before`.
    pub(crate) fn age_logs(&mut self, before: Timestamp) {
        for kind in &mut self.kinds {
            while kind.log.has_aged(before) {
                kind.log.pop();
            }
            // What a storm needed is given back.
            if kind.log.events.len() < kind.log.events.capacity() / 4 {
                kind.log.events.shrink_to_fit();
            }
        }
        self.log_bytes = self.kinds.iter().map(|kind| kind.log.bytes).sum();
    }

    /// Drops the older half of every log.
    pub(crate) fn halve_logs(&mut self) {
        for kind in &mut self.kinds {
            let keep = kind.log.events.len() / 2;
            while kind.log.events.len() > keep {
                kind.log.pop();
            }
        }
        self.log_bytes = self.kinds.iter().map(|kind| kind.log.bytes).sum();
    }

    fn kind(&mut self, resource: &ResourceName) -> usize {
        if let Some(at) = self.index.get(resource) {
            return *at;
        }
        let at = self.kinds.len();
        self.kinds.push(Kind {
            name: resource.clone(),
            namespaces: BTreeMap::new(),
            count: 0,
            touched: self.loaded,
            log: Log { events: VecDeque::new(), first: 0, floor: self.loaded, bytes: 0 },
            wake: None,
        });
        self.index.insert(resource.clone(), at);
        at
    }
}

impl Kind {
    fn put(&mut self, object: Arc<Object>) {
        let (namespace, name) = (object.key.namespace.clone(), object.key.name.clone());
        if self.namespaces.entry(namespace).or_default().insert(name, object).is_none() {
            self.count += 1;
        }
    }

    fn remove(&mut self, key: &ObjectKey) {
        if let Some(names) = self.namespaces.get_mut(&key.namespace) {
            if names.remove(&key.name).is_some() {
                self.count -= 1;
            }
            if names.is_empty() {
                self.namespaces.remove(&key.namespace);
            }
        }
    }
}

impl Log {
    fn push(&mut self, event: Arc<Event>, limits: &CacheLimits) {
        // The state before is kept alive by this event alone, unless its own event is still here.
        let before = event.previous.as_ref().filter(|previous| previous.revision <= self.floor);
        let bytes = event.object.footprint() + before.map_or(0, |previous| previous.footprint());
        self.bytes += bytes;
        self.events.push_back((event, bytes));
        while self.events.len() > limits.log_events || self.bytes > limits.log_bytes {
            if self.pop().is_none() {
                break;
            }
        }
    }

    fn pop(&mut self) -> Option<()> {
        let (event, bytes) = self.events.pop_front()?;
        self.floor = event.object.revision;
        self.first += 1;
        self.bytes -= bytes;
        Some(())
    }

    fn has_aged(&self, before: Timestamp) -> bool {
        self.events.front().is_some_and(|(event, _)| event.object.written() < before)
    }

    fn position_after(&self, revision: Revision) -> u64 {
        self.first + self.events.partition_point(|(event, _)| event.object.revision <= revision) as u64
    }
}

/// Takes one event back.
pub(crate) fn undo(namespaces: &mut Namespaces, event: &Event) {
    let key = &event.object.key;
    match &event.previous {
        Some(previous) => {
            namespaces.entry(key.namespace.clone()).or_default().insert(key.name.clone(), previous.clone());
        }
        None => {
            if let Some(names) = namespaces.get_mut(&key.namespace) {
                names.remove(&key.name);
            }
        }
    }
}
