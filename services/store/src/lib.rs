//! etcd's place: every cluster's objects and changes in Postgres, one writer for each shard, reads from memory.
//!
//! ```text
//!  Store ── shards this process owns, by lease and epoch ── a Writer each ──┐ one transaction for all that waits
//!    │                                                                      v
//!    └─ loaded clusters ── ClusterStore ── State (objects, event logs) <── Postgres: objects, changes
//!                               └─ Watch: a cursor into the log, or first into `changes`
//! ```
//!
//! The order of things, in which nobody sees what is not durable: plan, commit, cache, answer, watchers.

mod backend;
mod cache;
mod cluster;
mod codec;
mod config;
mod crypto;
mod entropy;
mod error;
mod lanes;
mod notice;
mod object;
mod owners;
mod plan;
mod registry;
mod shard;
mod spread;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod upkeep;
mod views;
mod watch;
mod writer;

pub use backend::Unsettled;
pub use cluster::{ClusterStore, CommitError, Listing, Write};
pub use config::{CacheLimits, StoreConfig};
pub use crypto::{KEY_BYTES, KeyError, KeyWrapper, LocalKey};
pub use entropy::Entropy;
pub use error::{DatabaseError, StoreError};
pub use notice::Notice;
pub use object::{DecodeError, Draft, Fields, Labels, Object, ObjectKey};
pub use owners::Owner;
pub use registry::{
    BootstrapToken, BootstrapUse, Cluster, ClusterKeys, ClusterNetwork, ClusterPage, ClusterState, NewCluster,
    NewToken, ServiceToken, Tenant, TokenRow,
};
pub use shard::Pass;
pub use store::Store;
pub use watch::{Event, EventKind, Scope, Watch, WatchEnd, WatchItem};
