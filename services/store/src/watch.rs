//! Watches: ordered, no gap, no duplicate, resumable from any retained revision.
//!
//! A watcher is a cursor into the cluster's shared log: an event is kept and encoded once, however many watch it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use galley_types::{ResourceName, Revision};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use crate::cache::{self, Advance, Start};
use crate::cluster::Loaded;
use crate::codec;
use crate::object::Object;

/// What is watched or listed: one resource, in one namespace or in all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// `pods`, `deployments.apps`.
    pub resource: ResourceName,
    /// `None`: all namespaces (or a cluster-scoped resource).
    pub namespace: Option<Arc<str>>,
}

/// What happened to the key, before any selector is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// The key came to be.
    Added,
    /// The key's object was replaced.
    Modified,
    /// The key went away. `object` is the last state, with the deletion's revision as its resourceVersion.
    Deleted,
}

/// One change, shared by all watchers.
#[derive(Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The state after the change (before it, for a deletion).
    pub object: Arc<Object>,
    /// The state before a modification or deletion: a selector that matched before and does not match now sees a deletion.
    pub previous: Option<Arc<Object>>,
    /// The encoded watch line for a watcher without selectors or conversion, made by the first that needs it.
    pub line: OnceLock<Bytes>,
}

/// What a watcher receives.
#[derive(Debug)]
pub enum WatchItem {
    /// A change in scope.
    Event(Arc<Event>),
    /// Nothing in scope happened up to this revision: what a bookmark says.
    Progress(Revision),
}

/// Why a watch ended.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum WatchEnd {
    /// The revision is older than the retention: list again (HTTP 410, reason Expired).
    #[error("too old resource version: {asked} ({oldest})")]
    Expired {
        /// What the caller asked to resume from.
        asked: Revision,
        /// The oldest revision that can be resumed from.
        oldest: Revision,
    },
    /// The watcher fell behind what is kept for it; it may resume from its last revision.
    #[error("watcher is too slow")]
    TooSlow,
    /// The shard moved away or the server stops; the watcher may resume from its last revision elsewhere.
    #[error("the store is closing")]
    Closing,
}

/// Events taken from the shared log under one lock.
const TAKE: usize = 256;
/// The same in bytes: what is taken is kept for this watcher even when the log lets it go. The last event may be larger.
const TAKE_BYTES: usize = 256 << 10;
/// Changes read from Postgres at once.
const PAGE: usize = 500;

/// A cursor into the log. Dropping it ends the watch.
///
/// ```text
///  resume point older than memory       Postgres' `changes`, page by page
///                 └────────────────────────────┬────────────────────────┘
///                                              v  (caught up with the log's floor)
///  resume point in memory ──────────> the cluster's shared log ──> next()
/// ```
#[derive(Debug)]
pub struct Watch {
    cluster: Arc<Loaded>,
    scope: Scope,
    kind: usize,
    source: Source,
    wake: watch::Receiver<()>,
    buffer: VecDeque<Arc<Event>>,
    /// Everything in scope up to here was handed out.
    delivered: Revision,
    /// Kept from wait to wait: the runtime's timers are not touched for every change.
    progress_due: Pin<Box<Sleep>>,
}

#[derive(Debug)]
enum Source {
    /// Reads `changes`; has read up to this revision.
    Changes(Revision),
    /// Reads the log at this position.
    Log(u64),
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.is_counted() {
            self.cluster.watches.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Watch {
    pub(crate) async fn open(cluster: Arc<Loaded>, scope: Scope, from: Revision) -> Result<Self, WatchEnd> {
        #[cfg(any(test, feature = "testing"))]
        if cluster.settings.breaks(crate::testing::Fault::EarlyGone, &scope.resource) {
            cluster.settings.broke();
            return Err(WatchEnd::Expired { asked: from, oldest: from.next() });
        }
        let entry = cluster.state.write().enter(&scope.resource, from);
        let source = match entry.start {
            Start::Log(position) => Source::Log(position),
            Start::Before(floor) if !codec::is_logged(&scope.resource) => {
                return Err(WatchEnd::Expired { asked: from, oldest: floor });
            }
            Start::Before(_) => Source::Changes(from),
        };
        let progress_due = Box::pin(tokio::time::sleep(cluster.settings.progress));
        let mut watch = Self {
            cluster,
            scope,
            kind: entry.kind,
            source,
            wake: entry.wake,
            buffer: VecDeque::new(),
            delivered: from,
            progress_due,
        };
        if watch.is_counted() {
            watch.cluster.watches.fetch_add(1, Ordering::Relaxed);
        }
        if let Source::Changes(from) = watch.source {
            // The first page now: an expired revision is answered before the watch begins.
            watch.page(from).await?;
        }
        Ok(watch)
    }

    /// The next change in scope, or progress when `Watch::progress` is due. Cancel-safe.
    pub async fn next(&mut self) -> Result<WatchItem, WatchEnd> {
        loop {
            if let Some(event) = self.buffer.pop_front() {
                self.delivered = event.object.revision;
                return Ok(WatchItem::Event(event));
            }
            // Not at each event: what is taken at once is little.
            if Instant::now() >= self.progress_due.deadline() {
                let next = Instant::now() + self.cluster.settings.progress;
                self.progress_due.as_mut().reset(next);
                return self.progress();
            }
            if let Source::Changes(read) = self.source {
                self.page(read).await?;
                continue;
            }
            // Seen before looking, so that a change after the look wakes.
            self.wake.borrow_and_update();
            match self.take()? {
                Advance::Quiet(_) => {
                    tokio::select! {
                        biased;
                        _ = self.wake.changed() => {}
                        () = &mut self.progress_due => {}
                    }
                }
                Advance::Events | Advance::Behind | Advance::Closed => {}
            }
        }
    }

    /// Bytes of events that were taken from the log and not handed out.
    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        self.buffer.iter().map(|event| event.object.body.len()).sum()
    }

    fn is_counted(&self) -> bool {
        self.scope.resource.as_str() != cache::EVERYTHING
    }

    /// How far this watch is, if more can be said than the last event said.
    fn progress(&mut self) -> Result<WatchItem, WatchEnd> {
        if self.buffer.is_empty()
            && let Source::Log(_) = self.source
            && let Advance::Quiet(revision) = self.take()?
        {
            self.delivered = self.delivered.max(revision);
            #[cfg(any(test, feature = "testing"))]
            if self.cluster.settings.breaks(crate::testing::Fault::BookmarkAhead, &self.scope.resource) {
                self.cluster.settings.broke();
                return Ok(WatchItem::Progress(Revision(self.delivered.0 + 50)));
            }
        }
        Ok(WatchItem::Progress(self.delivered))
    }

    fn take(&mut self) -> Result<Advance, WatchEnd> {
        let Source::Log(position) = &mut self.source else {
            return Ok(Advance::Events);
        };
        let state = self.cluster.state.read();
        let namespace = self.scope.namespace.as_deref();
        match state.advance(self.kind, namespace, self.delivered, position, &mut self.buffer, TAKE, TAKE_BYTES) {
            Advance::Behind => Err(WatchEnd::TooSlow),
            Advance::Closed => Err(WatchEnd::Closing),
            found @ (Advance::Events | Advance::Quiet(_)) => Ok(found),
        }
    }

    /// Reads the next page of `changes`, and moves to the log when it has caught up.
    async fn page(&mut self, read: Revision) -> Result<(), WatchEnd> {
        let (start, revision) = {
            let state = self.cluster.state.read();
            if state.is_closed() {
                return Err(WatchEnd::Closing);
            }
            state.reenter(self.kind, read)
        };
        let until = match start {
            Start::Log(position) => {
                self.source = Source::Log(position);
                return Ok(());
            }
            Start::Before(_) => revision,
        };
        let (events, read) = self.cluster.changes(&self.scope, read, until, PAGE).await?;
        self.buffer.extend(events);
        self.source = match self.cluster.state.read().reenter(self.kind, read).0 {
            Start::Log(position) => Source::Log(position),
            Start::Before(_) => Source::Changes(read),
        };
        Ok(())
    }
}
