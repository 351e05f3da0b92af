//! What an operator may turn, with defaults and their reasons.

use std::sync::Arc;
use std::time::Duration;

use crate::crypto::KeyWrapper;
use crate::entropy::Entropy;

/// Changes are kept in partitions of this many seconds. Fixed: partitions of two widths would overlap. A quarter of the
/// default retention, so that at most a quarter more than asked is kept.
pub(crate) const SEGMENT_SECONDS: i64 = 900;

/// Long enough that a slow disk or a busy host loses no lease, short enough to wait for when a host dies.
const DEFAULT_LEASE: Duration = Duration::from_secs(15);
/// Renewals in the time of a lease: two may be lost.
const LEASE_RENEWALS: u32 = 4;
/// A commit takes milliseconds; after this long something is broken.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// How to open a store.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// `postgres://...`
    pub database_url: String,
    /// Names this process in lease rows. The same name after a restart takes its shards back at once, so it must be unique
    /// among running processes and should survive a restart.
    pub holder: String,
    /// `HOST:PORT` at which other replicas reach this one; empty for a process that is alone.
    pub address: String,
    /// How many shards there are. Each is one writer: its commits are serial, and commits of several shards share disk
    /// syncs. Twelve are even shares for one, two, three, four and six replicas; an idle shard costs a task and a lease row.
    /// May grow (new clusters spread over all), never shrink.
    pub shards: u32,
    /// How long changes stay resumable.
    pub retention: Duration,
    /// How long a lease lasts without renewal: also how long another replica waits before it takes over from a dead one.
    pub lease: Duration,
    /// How often leases are renewed; at most a third of `lease`, so that two lost renewals are survived.
    pub lease_renewal: Duration,
    /// How old a replica must be before others hand shards over to it: one that keeps crashing should take none down with
    /// it. Shards that nobody has go to a young one too.
    pub settle: Duration,
    /// What may stay in memory.
    pub cache: CacheLimits,
    /// How often a watch says how far it is.
    pub progress: Duration,
    /// How long Events live after they are last written; Kubernetes' `--event-ttl` default.
    pub event_ttl: Duration,
    /// Upper bound for each commit before its outcome counts as unknown.
    pub commit_timeout: Duration,
    /// Connections beside the one that each shard's writer has.
    pub connections: u32,
    /// Wraps clusters' data keys.
    pub master_key: Arc<dyn KeyWrapper>,
    /// Where ids and generated names come from.
    pub entropy: Entropy,
    /// A promise to break, in builds for tests.
    #[cfg(any(test, feature = "testing"))]
    pub broken: Option<Arc<crate::testing::Broken>>,
}

impl StoreConfig {
    /// The defaults.
    pub fn new(database_url: impl Into<String>, holder: impl Into<String>, master_key: Arc<dyn KeyWrapper>) -> Self {
        Self {
            database_url: database_url.into(),
            holder: holder.into(),
            address: String::new(),
            shards: 12,
            retention: Duration::from_secs(3600),
            lease: DEFAULT_LEASE,
            lease_renewal: DEFAULT_LEASE / LEASE_RENEWALS,
            settle: Duration::from_secs(5),
            cache: CacheLimits::default(),
            progress: Duration::from_secs(10),
            event_ttl: Duration::from_secs(3600),
            commit_timeout: COMMIT_TIMEOUT,
            connections: 8,
            master_key,
            entropy: Entropy::system(),
            #[cfg(any(test, feature = "testing"))]
            broken: None,
        }
    }

    /// Sets the lease, and what must be shorter than it: renewals, and the wait for a commit, which would otherwise outlast
    /// the right to make it.
    pub fn set_lease(&mut self, lease: Duration) {
        self.lease = lease;
        self.lease_renewal = lease / LEASE_RENEWALS;
        self.commit_timeout = COMMIT_TIMEOUT.min(lease * 2 / 3);
    }
}

/// What may stay in memory.
#[derive(Debug, Clone)]
pub struct CacheLimits {
    /// All clusters together. Beyond it, unused clusters go before their time, then event logs are halved.
    pub bytes: usize,
    /// The objects of one cluster. Beyond it nothing is created there, as etcd refuses writes beyond its quota; an eighth more is
    /// for changes of what there is, without which nothing could be deleted gracefully. etcd's largest suggested quota is
    /// 8 GiB; half of what all may have keeps one from pushing all others out.
    pub cluster_bytes: usize,
    /// A cluster that nobody holds or asks for this long is unloaded.
    pub idle: Duration,
    /// Newest events kept for each resource of a cluster.
    pub log_events: usize,
    /// Newest events kept for each resource of a cluster, in bytes: how far a watcher may fall behind before it is cut off.
    pub log_bytes: usize,
    /// Events older than this leave memory: a watcher that comes back later than this reads `changes`. Without it the log of
    /// every node's heartbeats would grow to `log_bytes`.
    pub log_age: Duration,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            bytes: 2 << 30,
            cluster_bytes: 1 << 30,
            idle: Duration::from_secs(300),
            log_events: 16_384,
            log_bytes: 16 << 20,
            log_age: Duration::from_secs(300),
        }
    }
}
