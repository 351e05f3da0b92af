//! The recording that all clients share: one clock, one list.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use galley_history::{Entry, Micros};
use parking_lot::Mutex;
use rand::Rng as _;
use rand::rngs::SmallRng;

/// Versions kept to come back to.
const VERSIONS: usize = 4096;

/// Takes down what clients see. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    began: Instant,
    entries: Mutex<Vec<Entry>>,
    sessions: AtomicU64,
    newest: AtomicU64,
    versions: Mutex<Vec<u64>>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            began: Instant::now(),
            entries: Mutex::default(),
            sessions: AtomicU64::new(0),
            newest: AtomicU64::new(0),
            versions: Mutex::default(),
        }))
    }

    /// The time.
    pub fn now(&self) -> Micros {
        u64::try_from(self.0.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Something that was done to the server.
    pub fn note(&self, what: impl Into<String>) {
        self.add(Entry::Note { at: self.now(), what: what.into() });
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.0.entries.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether an entry that was added after the first `from` is as asked.
    pub fn any_since(&self, from: usize, wanted: impl Fn(&Entry) -> bool) -> bool {
        self.0.entries.lock().iter().skip(from).any(wanted)
    }

    pub(crate) fn add(&self, entry: Entry) {
        self.0.entries.lock().push(entry);
    }

    pub(crate) fn session(&self) -> u64 {
        self.0.sessions.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A version that somebody saw: reads and watches may come back to it.
    pub(crate) fn seen(&self, version: u64, rng: &mut SmallRng) {
        self.0.newest.fetch_max(version, Ordering::Relaxed);
        let mut versions = self.0.versions.lock();
        if versions.len() < VERSIONS {
            versions.push(version);
        } else {
            versions[rng.random_range(0..VERSIONS)] = version;
        }
    }

    pub(crate) fn newest(&self) -> u64 {
        self.0.newest.load(Ordering::Relaxed)
    }

    /// Some version from the past.
    pub(crate) fn past(&self, rng: &mut SmallRng) -> Option<u64> {
        let versions = self.0.versions.lock();
        (!versions.is_empty()).then(|| versions[rng.random_range(0..versions.len())])
    }

    pub(crate) fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut *self.0.entries.lock())
    }
}
