//! One cluster's objects: reads from the owner's cache, writes through the shard's writer.

use std::sync::Arc;

use galley_types::{ClusterId, Revision};

use crate::object::{Draft, Object, ObjectKey};
use crate::watch::{Scope, Watch, WatchEnd};

/// A change to one object. Each is all or nothing; several sent together share a batch, not a fate.
#[derive(Debug, Clone)]
pub enum Write {
    /// The key must not exist.
    Create(Draft),
    /// The key must exist at `expected`.
    Update {
        /// The new state.
        draft: Draft,
        /// The revision it was computed from.
        expected: Revision,
    },
    /// The key must exist at `expected`.
    Delete {
        /// Which object.
        key: ObjectKey,
        /// The revision that was decided on.
        expected: Revision,
    },
}

/// Why a write was not made. Nothing of it is visible, then or later.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// Create: the key exists.
    #[error("{0:?} already exists")]
    Exists(ObjectKey),
    /// Update or delete: the key does not exist.
    #[error("{0:?} not found")]
    NotFound(ObjectKey),
    /// Update or delete: the key is at another revision. Read again and decide again.
    #[error("{key:?} is at revision {current}, not {expected}")]
    Conflict {
        /// Which object.
        key: ObjectKey,
        /// What the caller had read.
        expected: Revision,
        /// What is there.
        current: Revision,
    },
    /// Postgres cannot be reached or the lease is lost: the write's outcome may be unknown; retry later.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
}

/// A consistent list at `revision`, ordered by namespace and name.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The `resourceVersion` of the list; a watch from here misses nothing.
    pub revision: Revision,
    /// The objects.
    pub objects: Vec<Arc<Object>>,
}

/// A loaded cluster. Cheap to clone through its `Arc`; holding one keeps the cluster's cache in memory.
#[derive(Debug)]
pub struct ClusterStore {
    id: ClusterId,
}

impl ClusterStore {
    /// Which cluster.
    pub fn id(&self) -> ClusterId {
        self.id
    }

    /// The newest committed revision.
    pub fn revision(&self) -> Revision {
        Revision(0)
    }

    /// One object, consistent with every write acknowledged before the call.
    pub fn get(&self, _key: &ObjectKey) -> Option<Arc<Object>> {
        None
    }

    /// All objects in scope, consistent with every write acknowledged before the call.
    pub fn list(&self, _scope: &Scope) -> Listing {
        Listing { revision: self.revision(), objects: Vec::new() }
    }

    /// All objects in scope as they were at `revision` (a chunked list's later pages). Expired past the retention.
    pub async fn list_at(&self, _scope: &Scope, revision: Revision) -> Result<Listing, WatchEnd> {
        Ok(Listing { revision, objects: Vec::new() })
    }

    /// Every change in scope after `from`.
    pub async fn watch(&self, _scope: Scope, from: Revision) -> Result<Watch, WatchEnd> {
        Err(WatchEnd::Expired { asked: from, oldest: self.revision() })
    }

    /// Every object of every resource at one revision: what controllers build their view from.
    pub fn list_all(&self) -> Listing {
        Listing { revision: self.revision(), objects: Vec::new() }
    }

    /// Every change to every resource after `from`: an event for each revision, in order, none left out, so that a reader
    /// knows that it has seen a write of its own.
    pub async fn watch_all(&self, from: Revision) -> Result<Watch, WatchEnd> {
        Err(WatchEnd::Expired { asked: from, oldest: self.revision() })
    }

    /// The controllers have nothing left to do for all changes up to `revision`, and nothing to do before `wake_at`
    /// (`None`: until something changes). Cheap, called often: the store persists the newest report when it unloads the
    /// cluster or from time to time; an older persisted report only means that the cluster is loaded needlessly.
    pub fn settled(&self, _revision: Revision, _wake_at: Option<jiff::Timestamp>) {}

    /// Commits one write: durable when this returns `Ok`. For `Delete` the answer is the last state.
    pub async fn commit(&self, write: Write) -> Result<Arc<Object>, CommitError> {
        let mut answers = self.commit_all(vec![write]).await;
        answers.pop().unwrap_or_else(|| Err(CommitError::Unavailable("no answer".into())))
    }

    /// Commits several writes in one batch, answering each in order.
    pub async fn commit_all(&self, writes: Vec<Write>) -> Vec<Result<Arc<Object>, CommitError>> {
        writes.into_iter().map(|_| Err(CommitError::Unavailable("not open".into()))).collect()
    }
}
