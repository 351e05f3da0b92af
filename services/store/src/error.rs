//! What can go wrong beside a single write (see [`crate::CommitError`]).

use galley_types::{ClusterId, ShardId, TenantId};

use crate::backend::BackendError;
use crate::crypto::KeyError;

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres cannot be reached or refused. Nothing can be said about a write that was on its way; retry later.
    #[error("the database is unavailable")]
    Unavailable(#[source] DatabaseError),
    /// Another replica owns the cluster's shard, or this one lost touch with its lease. Ask there, or retry.
    #[error("shard {} of cluster {cluster} is not held here", shard.0)]
    NotOwner {
        /// Which cluster was asked for.
        cluster: ClusterId,
        /// Whose owner to ask.
        shard: ShardId,
    },
    /// There is no such cluster (any more).
    #[error("cluster {0} not found")]
    ClusterNotFound(ClusterId),
    /// A tenant may have one cluster of each name.
    #[error("tenant {tenant} already has a cluster named {name:?}")]
    ClusterNameTaken {
        /// Whose.
        tenant: TenantId,
        /// Which.
        name: String,
    },
    /// Tenants' names are unique.
    #[error("a tenant named {0:?} already exists")]
    TenantNameTaken(String),
    /// There is no such tenant.
    #[error("tenant {0} not found")]
    TenantNotFound(TenantId),
    /// What a client brought back to go on with a list is not what it was given.
    #[error("{0:?} does not continue a list of clusters")]
    BadContinuation(String),
    /// A key is wrong, missing or cannot be used.
    #[error("encryption")]
    Key(#[from] KeyError),
    /// The clusters in memory are in use and leave no room for this one. Nothing is wrong with it: retry later.
    #[error("no room to load cluster {cluster}: the caches hold {used} of {limit} bytes")]
    NoRoom {
        /// Which cluster was asked for.
        cluster: ClusterId,
        /// What caches hold.
        used: usize,
        /// What they may.
        limit: usize,
    },
    /// This store was closed.
    #[error("the store is closed")]
    Closed,
}

/// A failure of the database, for logs.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DatabaseError(#[from] BackendError);

impl From<BackendError> for StoreError {
    fn from(error: BackendError) -> Self {
        Self::Unavailable(error.into())
    }
}
