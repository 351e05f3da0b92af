//! etcd's place: every cluster's objects and changes in Postgres, one writer for each shard, reads from memory.

mod cluster;
mod object;
mod watch;

pub use cluster::{ClusterStore, CommitError, Listing, Write};
pub use object::{DecodeError, Draft, Fields, Labels, Object, ObjectKey};
pub use watch::{Event, EventKind, Scope, Watch, WatchEnd, WatchItem};
