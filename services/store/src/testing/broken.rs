//! A store that breaks one of its promises now and then: what checkers are checked with. Only in builds for tests; only for
//! ConfigMaps, so that the cluster around them works.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use galley_types::{ResourceName, Revision};

use crate::cache::State;
use crate::config::StoreConfig;
use crate::object::Object;
use crate::watch::Scope;

/// What it applies to.
const RESOURCE: &str = "configmaps";
/// How far back a torn list's older half is.
const TORN_BY: u64 = 5;

/// A broken promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A get answers the state before the last.
    StaleRead,
    /// A change reaches no watcher.
    DroppedEvent,
    /// Two changes reach watchers in the wrong order.
    SwappedEvents,
    /// A change reaches watchers twice.
    RepeatedEvent,
    /// A write is acknowledged, and not made.
    LostWrite,
    /// Half of a list is of an older revision.
    TornList,
    /// Later pages of a list are of the newest revision, whatever they say.
    TornPages,
    /// A conditional write is made although its condition does not hold.
    LostUpdate,
    /// A watch says that it is further than it is.
    BookmarkAhead,
    /// A revision is forgotten long before its time.
    EarlyGone,
}

/// A fault, and how often it is made.
#[derive(Debug)]
pub struct Broken {
    fault: Fault,
    every: u64,
    chances: AtomicU64,
    made: AtomicU64,
}

impl Broken {
    /// Every so many chances.
    pub fn new(fault: Fault, every: u64) -> Arc<Self> {
        Arc::new(Self { fault, every: every.max(1), chances: AtomicU64::new(0), made: AtomicU64::new(0) })
    }

    /// How often it was made.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }
}

impl StoreConfig {
    /// Whether to break this now.
    pub(crate) fn breaks(&self, fault: Fault, resource: &ResourceName) -> bool {
        let Some(broken) = self.broken.as_ref().filter(|broken| broken.fault == fault) else { return false };
        resource.as_str() == RESOURCE
            && broken.chances.fetch_add(1, Ordering::Relaxed) % broken.every == broken.every - 1
    }

    /// Counts a fault that was made.
    pub(crate) fn broke(&self) {
        if let Some(broken) = &self.broken {
            broken.made.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Breaks the newest entries of the log.
    pub(crate) fn break_log(&self, state: &mut State) {
        let resource = RESOURCE.into();
        for fault in [Fault::DroppedEvent, Fault::SwappedEvents, Fault::RepeatedEvent] {
            if self.breaks(fault, &resource) && state.break_log(&resource, fault) {
                self.broke();
            }
        }
    }

    /// The current list with its first half from before.
    pub(crate) fn torn(&self, state: &State, scope: &Scope) -> Option<Vec<Arc<Object>>> {
        if !self.breaks(Fault::TornList, &scope.resource) {
            return None;
        }
        let before = Revision(state.revision().0.saturating_sub(TORN_BY));
        let (old, _) = state.rolled_back(scope, before);
        let mut objects: BTreeMap<_, _> =
            state.list(scope).into_iter().map(|object| (object.key.clone(), object)).collect();
        let half = objects.len() / 2;
        let middle = objects.keys().nth(half).cloned()?;
        objects.retain(|key, _| *key >= middle);
        let old = old.into_values().flat_map(BTreeMap::into_values).filter(|object| object.key < middle);
        objects.extend(old.map(|object| (object.key.clone(), object)));
        self.broke();
        Some(objects.into_values().collect())
    }
}
