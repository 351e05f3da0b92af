//! What the store asks of a database, so that one writer, cache and watch run over Postgres and over a simulated one.
//!
//! The contract that everything above relies on:
//!
//! - `commit` is one transaction that is refused unless the shard's epoch is the one given. All of it or nothing.
//! - `lease_bump` returns only after every commit under an older epoch has taken effect or never will. After it, what
//!   `revisions` says is final: this is how a commit whose outcome was not heard is settled.
//! - `changes` says for which revision changes are complete; nothing is dropped without that mark moving first.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use galley_types::{ClusterId, Revision, ShardId};
use jiff::Timestamp;

use crate::object::ObjectKey;
use crate::registry::records::{
    BootstrapToken, BootstrapUse, ClusterInserted, ClusterRow, Cursor, ServiceToken, Tenant, TenantInserted, TokenRow,
};
use crate::spread::Roster;
use crate::watch::{EventKind, Scope};
use galley_types::TenantId;

#[cfg(any(test, feature = "testing"))]
pub(crate) mod memory;
#[cfg(any(test, feature = "testing"))]
mod memory_registry;
pub(crate) mod postgres;

/// A shard at an epoch: what a commit must still own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fence {
    pub shard: ShardId,
    pub epoch: i64,
}

/// A replica that says that it is there.
#[derive(Debug, Clone)]
pub(crate) struct Presence {
    pub holder: String,
    /// `HOST:PORT` for other replicas.
    pub address: String,
    /// How long it has been there.
    pub age: Duration,
    pub leaving: bool,
}

/// What came of a renewal.
#[derive(Debug)]
pub(crate) struct Renewed {
    /// Those still held.
    pub fences: Vec<Fence>,
    /// After it.
    pub roster: Roster,
}

/// Why the database did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendError {
    /// The shard is another's now. Nothing was written.
    #[error("shard {0} is held under another epoch", shard.0)]
    Fenced { shard: ShardId },
    /// Refused or never sent: certainly nothing was written.
    #[error("database: {operation}")]
    Failed {
        operation: &'static str,
        #[source]
        source: Cause,
    },
    /// Sent, but the answer was not heard: it may have been, or may yet be, written.
    #[error("database: the outcome of {operation} is unknown")]
    Unknown {
        operation: &'static str,
        #[source]
        source: Cause,
    },
    /// A row does not decode.
    #[error("database: corrupt {what} of cluster {cluster}")]
    Corrupt { what: &'static str, cluster: ClusterId },
}

/// What is behind a [`BackendError`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    #[error("postgres")]
    Sqlx(#[source] sqlx::Error),
    #[error("migration")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[cfg(any(test, feature = "testing"))]
    #[error("injected fault")]
    Injected,
}

/// One change, as `changes` keeps it and as `objects` is made from.
#[derive(Debug, Clone)]
pub(crate) struct ChangeRow {
    pub cluster: ClusterId,
    pub tenant: TenantId,
    pub key: ObjectKey,
    pub kind: EventKind,
    pub revision: Revision,
    pub uid: Arc<str>,
    /// Labels and fields, encoded. Of the last state for a deletion.
    pub meta: Arc<str>,
    /// Where the resourceVersion's digits are in the body. Of the last state for a deletion.
    pub revision_at: u32,
    /// Absent for a deletion: it is the previous body with this revision.
    pub body: Option<Bytes>,
    /// The state before, for modifications and deletions.
    pub previous: Option<PreviousRow>,
    /// Whether it goes to `changes`. Leases do not.
    pub logged: bool,
    /// Whether it is the key's last in its batch: what `objects` keeps.
    pub last: bool,
}

/// The state before a change.
#[derive(Debug, Clone)]
pub(crate) struct PreviousRow {
    pub revision: Revision,
    pub meta: Arc<str>,
    pub revision_at: u32,
    /// Absent when the change of `revision` is in the same segment, and so is kept as long as this one.
    pub body: Option<Bytes>,
}

/// How far a batch moves a cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub cluster: ClusterId,
    pub base: Revision,
    pub next: Revision,
}

/// One transaction of a shard's writer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batch {
    pub at: Timestamp,
    pub steps: Vec<Step>,
    pub rows: Vec<ChangeRow>,
}

/// A row of `objects`.
#[derive(Debug, Clone)]
pub(crate) struct ObjectRow {
    pub key: ObjectKey,
    pub uid: Arc<str>,
    pub revision: Revision,
    pub meta: Arc<str>,
    pub revision_at: u32,
    pub body: Bytes,
    pub at: Timestamp,
}

impl ObjectRow {
    /// About how much memory it takes, as `Object::footprint` counts.
    pub(crate) fn size(&self) -> usize {
        400 + self.body.len() + 2 * self.meta.len()
    }
}

/// All of a cluster's objects at a revision.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub revision: Revision,
    pub objects: Vec<ObjectRow>,
}

/// A page of `changes`, ascending.
#[derive(Debug)]
pub(crate) struct ChangesPage {
    /// Logged changes after this revision are all there.
    pub compacted: Revision,
    /// Previous bodies are filled in.
    pub rows: Vec<ChangeRow>,
    /// Whether the page was full before `until`.
    pub more: bool,
}

/// Whether there is room for so many bytes more.
pub(crate) type Fits<'a> = &'a (dyn Fn(usize) -> bool + Send + Sync);

/// What part of `changes` is asked for.
#[derive(Debug, Clone)]
pub(crate) struct ChangesQuery {
    pub cluster: ClusterId,
    pub scope: Scope,
    /// Exclusive.
    pub after: Revision,
    /// Inclusive.
    pub until: Revision,
    pub limit: usize,
    /// The page ends with the row that reaches so many bytes of bodies.
    pub bytes: usize,
}

/// How far controllers are with a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub cluster: ClusterId,
    pub revision: Revision,
    pub wake_at: Option<Timestamp>,
}

/// A cluster that controllers have work for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsettled {
    /// Which cluster.
    pub cluster: ClusterId,
    /// The newest committed revision.
    pub revision: Revision,
    /// What controllers have dealt with.
    pub settled: Revision,
    /// When they asked to be woken.
    pub wake_at: Option<Timestamp>,
}

type Answer<'a, T> = BoxFuture<'a, Result<T, BackendError>>;

/// A database.
pub(crate) trait Backend: Send + Sync + std::fmt::Debug + 'static {
    /// Makes the lease rows of shards `0..count`.
    fn shards_ensure(&self, count: u32) -> Answer<'_, ()>;
    /// Takes those of the shards that are free, expired, or already in this holder's name; each under a new epoch.
    fn lease_acquire<'a>(&'a self, holder: &'a str, shards: &'a [ShardId], lease: Duration) -> Answer<'a, Vec<Fence>>;
    /// Says that this replica is there, extends leases, and tells who holds what.
    fn lease_renew<'a>(&'a self, me: &'a Presence, held: &'a [Fence], lease: Duration) -> Answer<'a, Renewed>;
    /// Gives leases up at once. One with an heir is in its name from now on, for as long as a lease lasts.
    fn lease_release<'a>(&'a self, held: &'a [(Fence, Option<String>)], lease: Duration) -> Answer<'a, ()>;
    /// Who holds what.
    fn roster(&self) -> Answer<'_, Roster>;
    /// This replica is gone.
    fn replica_leave<'a>(&'a self, holder: &'a str) -> Answer<'a, ()>;
    /// The next epoch for the same holder, after all older commits have ended; `None`: the shard is another's.
    fn lease_bump(&self, fence: Fence, lease: Duration) -> Answer<'_, Option<Fence>>;

    /// One transaction.
    fn commit<'a>(&'a self, fence: Fence, batch: &'a Batch) -> Answer<'a, ()>;
    /// Committed revisions, in the order asked; 0 for clusters that are gone.
    fn revisions<'a>(&'a self, clusters: &'a [ClusterId]) -> Answer<'a, Vec<Revision>>;
    /// All objects at one instant.
    /// Everything of a cluster, as long as it `fits`: that is asked with each further number of bytes, and `None` is answered
    /// after the first no.
    fn snapshot<'a>(&'a self, cluster: ClusterId, fits: Fits<'a>) -> Answer<'a, Option<Snapshot>>;
    /// A page of the log.
    fn changes(&self, query: ChangesQuery) -> Answer<'_, ChangesPage>;
    /// Drops segments that end at or before `before`, after moving the `compacted` marks.
    fn compact(&self, before: Timestamp, now: Timestamp) -> Answer<'_, ()>;

    /// Keeps controllers' marks. A mark never moves a settled revision back.
    fn settle<'a>(&'a self, marks: &'a [Mark]) -> Answer<'a, ()>;
    /// Active clusters of the shards that have unsettled changes or a wake time that has come.
    fn unsettled<'a>(&'a self, shards: &'a [ShardId], now: Timestamp) -> Answer<'a, Vec<Unsettled>>;

    fn tenant_insert<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, TenantInserted>;
    fn tenant_get(&self, tenant: TenantId) -> Answer<'_, Option<Tenant>>;
    fn tenant_by_name<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Tenant>>;
    fn token_insert<'a>(&'a self, token: &'a TokenRow) -> Answer<'a, ()>;
    fn token_lookup(&self, hash: [u8; 32]) -> Answer<'_, Option<TokenRow>>;
    fn service_token_insert<'a>(&'a self, token: &'a ServiceToken, hash: [u8; 32]) -> Answer<'a, ()>;
    fn service_token_lookup(&self, hash: [u8; 32]) -> Answer<'_, Option<ServiceToken>>;

    fn cluster_insert<'a>(
        &'a self,
        cluster: &'a ClusterRow,
        idempotency_key: Option<&'a str>,
    ) -> Answer<'a, ClusterInserted>;
    /// Within a tenant when one is given, else anywhere.
    fn cluster_get(&self, tenant: Option<TenantId>, cluster: ClusterId) -> Answer<'_, Option<ClusterRow>>;
    /// Every tenant's.
    fn cluster_list(&self) -> Answer<'_, Vec<ClusterRow>>;
    /// Up to `limit` of a tenant's clusters, oldest first, after a place in that order.
    fn cluster_page(&self, tenant: TenantId, after: Cursor, limit: usize) -> Answer<'_, Vec<ClusterRow>>;
    /// The tenant's cluster of that name.
    fn cluster_by_name<'a>(&'a self, tenant: TenantId, name: &'a str) -> Answer<'a, Option<ClusterRow>>;
    fn cluster_by_host<'a>(&'a self, label: &'a str) -> Answer<'a, Option<ClusterRow>>;
    /// Marks it deleted and destroys its keys. False: no such cluster of that tenant.
    fn cluster_shred(&self, tenant: TenantId, cluster: ClusterId) -> Answer<'_, bool>;
    /// Clusters of the shard that are marked deleted and still have rows.
    fn clusters_deleting(&self, shard: ShardId) -> Answer<'_, Vec<ClusterId>>;
    /// Removes up to `rows` rows of each table of clusters of the shard that are marked deleted. True: nothing is left of any.
    /// Refused as a commit is: who lost the shard may not take rows away from under who has it, and may have them in memory.
    fn clusters_purge<'a>(&'a self, fence: Fence, clusters: &'a [ClusterId], rows: i64) -> Answer<'a, bool>;

    fn bootstrap_insert<'a>(&'a self, token: &'a BootstrapToken, hash: [u8; 32]) -> Answer<'a, ()>;
    /// Uses the token up for `node`, if it is there, unused and not expired.
    fn bootstrap_consume<'a>(&'a self, hash: [u8; 32], node: &'a str, now: Timestamp) -> Answer<'a, BootstrapUse>;

    /// The value under `name`, which is `value` if there was none.
    fn installation_value<'a>(&'a self, name: &'a str, value: &'a [u8]) -> Answer<'a, Vec<u8>>;
}
