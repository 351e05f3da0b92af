//! One cluster's objects: reads from the owner's cache, writes through the shard's writer.

use std::any::Any;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use galley_types::{ClusterId, ResourceName, Revision, TenantId};
use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::backend::{Backend, ChangesQuery, Mark};
use crate::cache::{self, State};
use crate::codec;
use crate::config::StoreConfig;
use crate::crypto::DataKey;
use crate::entropy::Entropy;
use crate::error::StoreError;
use crate::lanes::Lane;
use crate::object::{Draft, Object, ObjectKey};
use crate::plan::Request;
use crate::registry::{self, Cluster, ClusterKeys};
use crate::shard::Shard;
use crate::watch::{Event, Scope, Watch, WatchEnd};

/// A page of changes ends here: a reader that is slow or one of many holds no more than this, and one large change.
const CHANGES_BYTES: usize = 1 << 20;
/// Changes read at once when a list is rolled back.
const ROLLBACK_PAGE: usize = 2000;

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
    /// The cluster's objects take all the room that they may: delete some.
    #[error("{key:?} needs {requested} bytes, and the cluster has {used} of {limit}")]
    NoRoom {
        /// Which object.
        key: ObjectKey,
        /// How much more it needs.
        requested: usize,
        /// What the cluster's objects take.
        used: usize,
        /// What they may.
        limit: usize,
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

/// A loaded cluster. Cheap to clone through its `Arc`.
///
/// A cluster that was idle is unloaded, held or not, once controllers are settled: a [`crate::Notice`] says so, writes through
/// an old `Arc` are refused, and the cluster is loaded again by the next request. Drop the `Arc` then: it keeps the old cache.
///
/// Reads answer from memory, which is the truth while this process holds the cluster's shard. [`crate::Store::cluster`]
/// checks that it does: get the cluster there for each request rather than keeping it.
#[derive(Debug)]
pub struct ClusterStore {
    pub(crate) loaded: Arc<Loaded>,
}

/// What the layer above keeps beside a loaded cluster.
#[derive(Default)]
pub(crate) struct Extension(OnceLock<Arc<dyn Any + Send + Sync>>);

impl std::fmt::Debug for Extension {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Extension").field(&self.0.get().is_some()).finish()
    }
}

/// What a cluster's readers, watchers and writer share.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub id: ClusterId,
    pub tenant: TenantId,
    pub info: Cluster,
    pub key: DataKey,
    pub state: RwLock<State>,
    pub shard: Arc<Shard>,
    pub backend: Arc<dyn Backend>,
    pub settings: Arc<StoreConfig>,
    pub segment: Mutex<Segment>,
    pub extension: Extension,
    pub settled: Mutex<Settled>,
    /// Watches of clients. Controllers' watches of everything do not keep a cluster in memory.
    pub watches: AtomicUsize,
    /// When it was last asked for, in milliseconds after the store was opened.
    pub used: AtomicU64,
    /// When it was loaded, likewise.
    pub since: u64,
}

/// How far controllers are.
#[derive(Debug)]
pub(crate) struct Settled {
    pub mark: Mark,
    /// Not written down yet.
    pub dirty: bool,
    /// When controllers said so.
    pub since: Instant,
}

/// The segment of `changes` that the cluster last wrote to, and the first revision in it.
#[derive(Debug)]
pub(crate) struct Segment {
    pub index: i64,
    pub floor: Revision,
}

impl Write {
    /// About how large it is.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Create(draft) | Self::Update { draft, .. } => draft.head.len() + draft.tail.len(),
            Self::Delete { .. } => 0,
        }
    }

    fn resource(&self) -> &ResourceName {
        match self {
            Self::Create(draft) | Self::Update { draft, .. } => &draft.key.resource,
            Self::Delete { key, .. } => &key.resource,
        }
    }
}

impl ClusterStore {
    /// Which cluster.
    pub fn id(&self) -> ClusterId {
        self.loaded.id
    }

    /// Its tenant, names and addresses.
    pub fn info(&self) -> &Cluster {
        &self.loaded.info
    }

    /// Where ids and generated names of its objects come from.
    pub fn entropy(&self) -> &Entropy {
        &self.loaded.settings.entropy
    }

    /// The newest committed revision.
    pub fn revision(&self) -> Revision {
        self.loaded.state.read().revision()
    }

    /// One object, consistent with every write acknowledged before the call.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<Object>> {
        let state = self.loaded.state.read();
        #[cfg(any(test, feature = "testing"))]
        if self.loaded.settings.breaks(crate::testing::Fault::StaleRead, &key.resource)
            && let Some(before) = state.before(key)
        {
            self.loaded.settings.broke();
            return Some(before.clone());
        }
        state.get(key).cloned()
    }

    /// All objects in scope, consistent with every write acknowledged before the call.
    pub fn list(&self, scope: &Scope) -> Listing {
        let state = self.loaded.state.read();
        #[cfg(any(test, feature = "testing"))]
        if let Some(objects) = self.loaded.settings.torn(&state, scope) {
            return Listing { revision: state.revision(), objects };
        }
        Listing { revision: state.revision(), objects: state.list(scope) }
    }

    /// How many objects are in scope.
    pub fn count(&self, scope: &Scope) -> usize {
        self.loaded.state.read().count(scope)
    }

    /// The newest change to any of these resources: what is derived from them holds for as long as this stays the same.
    pub fn touched(&self, resources: &[&str]) -> Revision {
        self.loaded.state.read().touched(resources)
    }

    /// Resources that have objects: what is left to delete in a namespace, or to collect.
    pub fn resources(&self) -> Vec<ResourceName> {
        self.loaded.state.read().resources()
    }

    /// All objects in scope as they were at `revision` (a chunked list's later pages). Expired past the retention.
    pub async fn list_at(&self, scope: &Scope, revision: Revision) -> Result<Listing, WatchEnd> {
        let (mut namespaces, reached, revision) = {
            let state = self.loaded.state.read();
            let revision = revision.min(state.revision());
            #[cfg(any(test, feature = "testing"))]
            if revision < state.revision()
                && self.loaded.settings.breaks(crate::testing::Fault::TornPages, &scope.resource)
            {
                self.loaded.settings.broke();
                return Ok(Listing { revision, objects: state.list(scope) });
            }
            if revision == state.revision() {
                return Ok(Listing { revision, objects: state.list(scope) });
            }
            let (namespaces, reached) = state.rolled_back(scope, revision);
            (namespaces, reached, revision)
        };
        if reached > revision {
            if !codec::is_logged(&scope.resource) {
                return Err(WatchEnd::Expired { asked: revision, oldest: reached });
            }
            let mut newer = Vec::new();
            let mut read = revision;
            while read < reached {
                let (events, up_to) = self.loaded.changes(scope, read, reached, ROLLBACK_PAGE).await?;
                newer.extend(events);
                read = up_to;
            }
            newer.iter().rev().for_each(|event| cache::undo(&mut namespaces, event));
        }
        let objects = namespaces.into_values().flat_map(|names| names.into_values()).collect();
        Ok(Listing { revision, objects })
    }

    /// Every change in scope after `from`.
    pub async fn watch(&self, scope: Scope, from: Revision) -> Result<Watch, WatchEnd> {
        Watch::open(self.loaded.clone(), scope, from).await
    }

    /// Every object of every resource at one revision: what controllers build their view from.
    pub fn list_all(&self) -> Listing {
        let state = self.loaded.state.read();
        Listing { revision: state.revision(), objects: state.list_all() }
    }

    /// Every change to every resource after `from`: an event for each revision, in order, none left out, so that a reader
    /// knows that it has seen a write of its own. From memory only: `Expired` before that, and the reader lists again.
    pub async fn watch_all(&self, from: Revision) -> Result<Watch, WatchEnd> {
        let everything = Scope { resource: cache::everything(), namespace: None };
        Watch::open(self.loaded.clone(), everything, from).await
    }

    /// Commits one write: durable when this returns `Ok`. For `Delete` the answer is the last state, with the deletion's
    /// revision.
    pub async fn commit(&self, write: Write) -> Result<Arc<Object>, CommitError> {
        let mut answers = self.commit_all(vec![write]).await;
        answers.pop().unwrap_or_else(|| Err(CommitError::Unavailable("no answer".into())))
    }

    /// Commits several writes in one batch, answering each in order.
    pub async fn commit_all(&self, writes: Vec<Write>) -> Vec<Result<Arc<Object>, CommitError>> {
        let count = writes.len();
        if count == 0 {
            return Vec::new();
        }
        let quiet = writes.iter().all(|write| {
            let resource = write.resource();
            !codec::is_logged(resource) || codec::is_event(resource)
        });
        let lane = if quiet { Lane::Background } else { Lane::Tenant };
        let (answer, answers) = oneshot::channel();
        let request = Request { cluster: self.loaded.clone(), writes, answer };
        let unavailable = || vec![Err(CommitError::Unavailable("the shard is lost".into())); count];
        if self.loaded.shard.lanes.send(lane, request).await.is_err() {
            return unavailable();
        }
        answers.await.unwrap_or_else(|_| unavailable())
    }

    /// The controllers have nothing left to do for all changes up to `revision`, and nothing to do before `wake_at`
    /// (`None`: until something changes). Cheap, called often: the newest report is written down within seconds, and before
    /// the cluster is unloaded; an older persisted report only means that the cluster is loaded needlessly.
    pub fn settled(&self, revision: Revision, wake_at: Option<Timestamp>) {
        let mark = Mark { cluster: self.loaded.id, revision, wake_at };
        let mut settled = self.loaded.settled.lock();
        if settled.mark != mark {
            *settled = Settled { mark, dirty: true, since: Instant::now() };
        }
    }

    /// State of the layer above that lives as long as the cluster is loaded: its locks and caches, made on first use. There
    /// is room for one type; another gets a value of its own at each call.
    pub fn extension<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        let kept = self.loaded.extension.0.get_or_init(|| Arc::new(T::default()));
        Arc::clone(kept).downcast().unwrap_or_default()
    }

    /// Whether reads are still the truth (see [`ClusterStore`]).
    pub fn is_current(&self) -> bool {
        self.loaded.shard.is_held(Instant::now()) && !self.loaded.state.read().is_closed()
    }

    /// How long writes have been taken without fail; `None`: ever since this process has the cluster. Who was silent before
    /// that may have spoken and not been heard.
    pub fn hearing_for(&self) -> Option<Duration> {
        self.loaded.shard.hearing_for(Instant::now())
    }

    /// The cluster's private keys.
    pub async fn keys(&self) -> Result<ClusterKeys, StoreError> {
        let row = self.loaded.backend.cluster_get(None, self.loaded.id).await?;
        let row = row.ok_or(StoreError::ClusterNotFound(self.loaded.id))?;
        registry::open_keys(&self.loaded.key, &row.sealed)
    }
}

impl Loaded {
    /// The first revision of the segment that the next write goes to.
    pub(crate) fn segment_floor(&self, index: i64, next: Revision) -> Revision {
        let mut segment = self.segment.lock();
        if segment.index != index {
            *segment = Segment { index, floor: next };
        }
        segment.floor
    }

    /// A page of logged events after `after`, and how far it reaches.
    pub(crate) async fn changes(
        &self,
        scope: &Scope,
        after: Revision,
        until: Revision,
        limit: usize,
    ) -> Result<(Vec<Arc<Event>>, Revision), WatchEnd> {
        let query = ChangesQuery { cluster: self.id, scope: scope.clone(), after, until, limit, bytes: CHANGES_BYTES };
        let page = self.backend.changes(query).await.map_err(|error| self.unreadable(error.into()))?;
        if page.compacted > after {
            return Err(WatchEnd::Expired { asked: after, oldest: page.compacted });
        }
        let full = page.more;
        let mut events = Vec::with_capacity(page.rows.len());
        for row in page.rows {
            events.push(Arc::new(codec::event_from(&self.key, row).map_err(|error| self.unreadable(error))?));
        }
        let reached = events.last().filter(|_| full).map_or(until, |event| event.object.revision);
        Ok((events, reached))
    }

    fn unreadable(&self, error: StoreError) -> WatchEnd {
        tracing::warn!(cluster = %self.id, error = &error as &dyn std::error::Error, "changes cannot be read");
        WatchEnd::Closing
    }

    /// Ends its watches; refuses its writes.
    pub(crate) fn close(&self) {
        let wake = self.state.write().close();
        for sender in wake {
            sender.send_replace(());
        }
    }
}
