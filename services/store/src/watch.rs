//! Watches: ordered, no gap, no duplicate, resumable from any retained revision.
//!
//! A watcher is a cursor into the cluster's shared log: an event is kept and encoded once, however many watch it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use galley_types::{ResourceName, Revision};

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

/// A cursor into the log. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    _private: (),
}

impl Watch {
    /// The next change in scope, or progress when `Watch::progress` is due. Cancel-safe.
    pub async fn next(&mut self) -> Result<WatchItem, WatchEnd> {
        std::future::pending().await
    }
}
