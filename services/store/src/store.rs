//! The store of one process: which shards it owns, and which clusters it has in memory.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use galley_types::{Clock, ClusterId, Revision, ShardId};
use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::backend::postgres::Postgres;
use crate::backend::{Backend, Mark, Snapshot, Unsettled};
use crate::cache::State;
use crate::cluster::{ClusterStore, Extension, Loaded, Segment, Settled};
use crate::codec;
use crate::config::StoreConfig;
use crate::crypto::DataKey;
use crate::error::StoreError;
use crate::notice::{Notice, Notices};
use crate::owners::{Known, Owner};
use crate::registry::{ClusterState, records::ClusterRow};
use crate::shard::Shard;
use crate::writer;

/// A cluster that was asked for this recently may have a request under way: it is not unloaded even for want of memory.
const IN_USE: Duration = Duration::from_secs(10);

/// Hashes without a secret: ids are ours and random, so nobody can make them collide, and a simulation meets clusters in the
/// same order each time it is run.
type InOrder = BuildHasherDefault<DefaultHasher>;

/// Loads of clusters under way at a time. Half of the connections that there are beside writers': resumed watches need some.
const LOADS: usize = 4;

/// How often others are unloaded for one that is loaded.
const LOAD_ATTEMPTS: u32 = 4;

/// What is being loaded.
#[derive(Debug)]
struct Loading {
    turns: tokio::sync::Semaphore,
    /// What of it is in memory already.
    bytes: AtomicUsize,
}

impl Default for Loading {
    fn default() -> Self {
        Self { turns: tokio::sync::Semaphore::new(LOADS), bytes: AtomicUsize::new(0) }
    }
}

/// Memory that is taken for a cluster that is being loaded.
struct Room<'a> {
    loading: &'a AtomicUsize,
    taken: AtomicUsize,
}

impl Room<'_> {
    /// Takes more; answers what all loads have taken.
    fn take(&self, more: usize) -> usize {
        self.taken.fetch_add(more, Ordering::Relaxed);
        self.loading.fetch_add(more, Ordering::Relaxed) + more
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.loading.fetch_sub(*self.taken.get_mut(), Ordering::Relaxed);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Every cluster's objects, and the rows beside them. Cheap to clone; background work ends with the last clone, or with
/// [`Store::close`], which also hands the shards over at once.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) config: Arc<StoreConfig>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) notices: Arc<Notices>,
    opened: Instant,
    /// One lease round at a time.
    pub(crate) round: tokio::sync::Mutex<()>,
    pub(crate) leaving: AtomicBool,
    pub(crate) known: RwLock<Known>,
    pub(crate) refreshing: tokio::sync::Mutex<()>,
    /// Counts shards that came or went.
    pub(crate) moves: watch::Sender<u64>,
    pub(crate) heirs: Mutex<Option<mpsc::UnboundedSender<Owner>>>,
    pub(crate) handovers: Mutex<Vec<JoinHandle<()>>>,
    shards: RwLock<BTreeMap<ShardId, Arc<Shard>>>,
    clusters: RwLock<HashMap<ClusterId, Arc<ClusterStore>, InOrder>>,
    loading: Loading,
    /// One load of a cluster at a time.
    loads: Mutex<HashMap<ClusterId, Arc<tokio::sync::Mutex<()>>>>,
    writers: Mutex<Vec<JoinHandle<()>>>,
    upkeep: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Store {
    /// Opens the store on Postgres: brings its schema up to date, and takes the shards that are free.
    pub async fn open(config: StoreConfig, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let backend = Postgres::connect(&config).await?;
        Self::start(Arc::new(backend), config, clock).await
    }

    /// Opens the store for tenants and tokens only: takes no shards, so it can stand beside a running server and serves no
    /// cluster.
    pub async fn open_registry(config: StoreConfig, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let backend = Postgres::connect(&config).await?;
        Ok(Self { inner: Self::idle(Arc::new(backend), config, clock) })
    }

    /// Opens the store for a gateway: takes no shards, but knows who owns them.
    pub async fn open_gateway(config: StoreConfig, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let backend = Postgres::connect(&config).await?;
        Self::start_gateway(Arc::new(backend), config, clock).await
    }

    pub(crate) async fn start_gateway(
        backend: Arc<dyn Backend>,
        config: StoreConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let store = Self { inner: Self::idle(backend, config, clock) };
        store.inner.refresh().await?;
        let roster = tokio::spawn(crate::upkeep::watch_roster(Arc::downgrade(&store.inner)));
        store.inner.upkeep.lock().push(roster);
        Ok(store)
    }

    fn idle(backend: Arc<dyn Backend>, config: StoreConfig, clock: Arc<dyn Clock>) -> Arc<Inner> {
        Arc::new(Inner {
            backend,
            config: Arc::new(config),
            clock,
            notices: Arc::default(),
            opened: Instant::now(),
            round: tokio::sync::Mutex::default(),
            leaving: AtomicBool::new(false),
            known: RwLock::default(),
            refreshing: tokio::sync::Mutex::default(),
            moves: watch::Sender::default(),
            heirs: Mutex::default(),
            handovers: Mutex::default(),
            shards: RwLock::default(),
            clusters: RwLock::default(),
            loading: Loading::default(),
            loads: Mutex::default(),
            writers: Mutex::default(),
            upkeep: Mutex::default(),
        })
    }

    pub(crate) async fn start(
        backend: Arc<dyn Backend>,
        config: StoreConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        backend.shards_ensure(config.shards).await?;
        let inner = Self::idle(backend, config, clock);
        crate::upkeep::lease_round(&inner).await?;
        let leases = tokio::spawn(crate::upkeep::leases(Arc::downgrade(&inner)));
        let house = tokio::spawn(crate::upkeep::house(Arc::downgrade(&inner)));
        let purges = tokio::spawn(crate::upkeep::purges(Arc::downgrade(&inner)));
        inner.upkeep.lock().extend([leases, house, purges]);
        Ok(Self { inner })
    }

    /// The cluster, loaded if need be. Call it for each request: it is a map lookup, and it is what guarantees that the
    /// cache is the truth now.
    pub async fn cluster(&self, id: ClusterId) -> Result<Arc<ClusterStore>, StoreError> {
        match self.inner.ready(id)? {
            Some(cluster) => Ok(cluster),
            None => self.inner.load(id).await,
        }
    }

    /// As [`Self::cluster`], for a reader that takes an old state: a cluster in memory is answered past the lease too, for as
    /// long as no other owner is known. What it holds was true, and may not be any more. Never write through it.
    pub async fn cluster_stale(&self, id: ClusterId) -> Result<Arc<ClusterStore>, StoreError> {
        match self.inner.in_memory(id)? {
            Some(cluster) => Ok(cluster),
            None => self.inner.load(id).await,
        }
    }

    /// Clusters in memory.
    pub fn loaded(&self) -> Vec<Arc<ClusterStore>> {
        self.inner.clusters.read().values().cloned().collect()
    }

    /// Loads, changes and unloads of all clusters, beginning with those loaded now. For one consumer that keeps up: nothing
    /// bounds what waits.
    pub fn notices(&self) -> mpsc::UnboundedReceiver<Notice> {
        self.inner.notices.subscribe(|| self.loaded())
    }

    /// Clusters of the owned shards that are not loaded, and have changes after their settled revision or a wake time that has
    /// come.
    pub async fn clusters_unsettled(&self) -> Result<Vec<Unsettled>, StoreError> {
        let shards: Vec<ShardId> = self.inner.shards.read().keys().copied().collect();
        let mut unsettled = self.inner.backend.unsettled(&shards, self.inner.now()).await?;
        let loaded = self.inner.clusters.read();
        unsettled.retain(|found| !loaded.contains_key(&found.cluster));
        Ok(unsettled)
    }

    /// Whether at least one shard is owned: what readiness asks.
    pub fn is_serving(&self) -> bool {
        let now = Instant::now();
        self.inner.shards.read().values().any(|shard| shard.is_held(now))
    }

    /// Bytes that loaded clusters take, about.
    pub fn cache_bytes(&self) -> usize {
        self.inner.cache_bytes()
    }

    /// Unloads clusters that nobody needs; happens by itself every few seconds.
    pub async fn evict(&self) {
        self.inner.evict().await;
    }

    /// Finishes what is queued, ends watches, and hands the shards over.
    pub async fn close(&self) {
        self.inner.stop_upkeep();
        let held = !self.inner.shards.read().is_empty();
        if held && let Err(error) = self.leave().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "nobody is told that this replica leaves");
            // Without knowing who could take them.
            let shards = self.inner.shard_list();
            shards.iter().for_each(|shard| {
                shard.gate.close();
            });
            self.inner.hand_over(shards.into_iter().map(|shard| (shard, None)).collect()).await;
        }
        self.inner.leaving.store(true, Ordering::Release);
        if let Err(error) = self.inner.backend.replica_leave(&self.inner.config.holder).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the replica's row runs out instead of going");
        }
        self.inner.stop();
    }
}

impl Inner {
    pub(crate) fn stop(&self) {
        self.stop_upkeep();
        self.handovers.lock().drain(..).for_each(|task| task.abort());
        self.writers.lock().drain(..).for_each(|task| task.abort());
    }

    pub(crate) fn stop_upkeep(&self) {
        self.upkeep.lock().drain(..).for_each(|task| task.abort());
    }

    /// The time, as exact as Postgres keeps it: what is answered now is what is read later.
    pub(crate) fn now(&self) -> Timestamp {
        let now = self.clock.now();
        Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
    }

    fn uptime_ms(&self) -> u64 {
        millis(self.opened.elapsed())
    }

    pub(crate) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// The cluster if it is loaded and its cache is the truth, marked as used.
    fn ready(&self, id: ClusterId) -> Result<Option<Arc<ClusterStore>>, StoreError> {
        let found = self.in_memory(id)?;
        match &found {
            Some(cluster) if !cluster.loaded.shard.is_held(Instant::now()) => {
                Err(StoreError::NotOwner { cluster: id, shard: cluster.loaded.shard.id() })
            }
            _ => Ok(found),
        }
    }

    /// The cluster if it is loaded, marked as used.
    fn in_memory(&self, id: ClusterId) -> Result<Option<Arc<ClusterStore>>, StoreError> {
        let Some(cluster) = self.clusters.read().get(&id).cloned() else {
            return Ok(None);
        };
        if cluster.loaded.shard.is_lost() {
            return Err(StoreError::NotOwner { cluster: id, shard: cluster.loaded.shard.id() });
        }
        cluster.loaded.used.store(self.uptime_ms(), Ordering::Relaxed);
        Ok(Some(cluster))
    }

    async fn load(&self, id: ClusterId) -> Result<Arc<ClusterStore>, StoreError> {
        let turn = self.loads.lock().entry(id).or_default().clone();
        let loaded = {
            let _turn = turn.lock().await;
            match self.ready(id)? {
                Some(cluster) => Ok(cluster),
                None => self.load_alone(id).await,
            }
        };
        self.end_turn(id, &turn);
        loaded
    }

    async fn load_alone(&self, id: ClusterId) -> Result<Arc<ClusterStore>, StoreError> {
        let row = self.backend.cluster_get(None, id).await?.ok_or(StoreError::ClusterNotFound(id))?;
        let ClusterRow { cluster: info, sealed } = row;
        if info.state != ClusterState::Active {
            return Err(StoreError::ClusterNotFound(id));
        }
        let not_owner = StoreError::NotOwner { cluster: id, shard: info.shard };
        let Some(shard) = self.shards.read().get(&info.shard).cloned() else {
            return Err(not_owner);
        };
        let key = DataKey::new(id, &self.config.master_key.unwrap(id, &sealed.data_key).await?);
        let (snapshot, _room) = self.read_objects(id).await?;
        let mut objects = Vec::with_capacity(snapshot.objects.len());
        for row in snapshot.objects {
            objects.push(Arc::new(codec::object_from(id, &key, row)?));
        }
        // Held now, so held when the snapshot was taken: nobody else can have written since.
        if !shard.is_held(Instant::now()) {
            return Err(not_owner);
        }
        let now = self.uptime_ms();
        let cluster = Arc::new(ClusterStore {
            loaded: Arc::new(Loaded {
                id,
                tenant: info.tenant,
                info,
                key,
                state: RwLock::new(State::new(snapshot.revision, objects)),
                shard: shard.clone(),
                backend: self.backend.clone(),
                settings: self.config.clone(),
                segment: Mutex::new(Segment { index: i64::MIN, floor: snapshot.revision.next() }),
                extension: Extension::default(),
                settled: Mutex::new(Settled {
                    mark: Mark { cluster: id, revision: Revision(0), wake_at: None },
                    dirty: false,
                    since: Instant::now(),
                }),
                watches: AtomicUsize::new(0),
                used: AtomicU64::new(now),
                since: now,
            }),
        });
        self.notices.loaded(&cluster, || {
            self.clusters.write().insert(id, cluster.clone());
        });
        // Lost in between: `lose` may have looked before the insertion.
        if shard.is_lost() {
            self.forget(id);
            return Err(not_owner);
        }
        Ok(cluster)
    }

    /// The cluster's objects, as far as there is room for them, which is held until they are in the cache: others are unloaded
    /// first, and a cluster that does not fit then is refused while it is read, not when memory is gone.
    async fn read_objects(&self, id: ClusterId) -> Result<(Snapshot, Room<'_>), StoreError> {
        let Ok(_turn) = self.loading.turns.acquire().await else { return Err(StoreError::Closed) };
        let limit = self.config.cache.bytes;
        for attempt in 0..LOAD_ATTEMPTS {
            let room = Room { loading: &self.loading.bytes, taken: AtomicUsize::new(0) };
            let fits = |more: usize| room.take(more) + self.cache_bytes() <= limit;
            if let Some(snapshot) = self.backend.snapshot(id, &fits).await? {
                return Ok((snapshot, room));
            }
            // How much more it is than was read is not known: each time for twice as much.
            let wanted = room.taken.load(Ordering::Relaxed) << attempt;
            drop(room);
            self.evict_for(wanted).await;
        }
        let used = self.cache_bytes();
        tracing::warn!(cluster = %id, used, limit, "no room for a cluster");
        Err(StoreError::NoRoom { cluster: id, used, limit })
    }

    pub(crate) fn cache_bytes(&self) -> usize {
        self.clusters.read().values().map(|cluster| cluster.loaded.state.read().bytes()).sum()
    }

    /// Unloads a cluster, ending its watches.
    pub(crate) fn forget(&self, id: ClusterId) {
        let mut removed = None;
        self.notices.unloaded(id, || {
            removed = self.clusters.write().remove(&id);
            removed.is_some()
        });
        if let Some(cluster) = removed {
            cluster.loaded.close();
        }
    }

    pub(crate) fn cluster_if_loaded(&self, id: ClusterId) -> Option<Arc<ClusterStore>> {
        self.clusters.read().get(&id).cloned()
    }

    pub(crate) fn all_loaded(&self) -> Vec<Arc<ClusterStore>> {
        self.clusters.read().values().cloned().collect()
    }

    pub(crate) fn shard_list(&self) -> Vec<Arc<Shard>> {
        self.shards.read().values().cloned().collect()
    }

    pub(crate) fn shards_read(&self) -> parking_lot::RwLockReadGuard<'_, BTreeMap<ShardId, Arc<Shard>>> {
        self.shards.read()
    }

    pub(crate) fn shard_insert(&self, shard: Arc<Shard>) {
        self.shards.write().insert(shard.id(), shard);
        self.moves.send_modify(|moves| *moves += 1);
    }

    pub(crate) fn writer_start(&self, run: impl Future<Output = ()> + Send + 'static) {
        let mut writers = self.writers.lock();
        writers.retain(|task| !task.is_finished());
        writers.push(tokio::spawn(run));
    }

    /// Gives up on a shard that is another's: its clusters close.
    pub(crate) fn lose(&self, shard: &Arc<Shard>) {
        shard.lose();
        {
            let mut shards = self.shards.write();
            if shards.get(&shard.id()).is_some_and(|held| Arc::ptr_eq(held, shard)) {
                shards.remove(&shard.id());
                if !shard.gate.is_closed() {
                    tracing::warn!(shard = shard.id().0, "shard lost");
                }
            }
        }
        self.moves.send_modify(|moves| *moves += 1);
        for cluster in self.all_loaded() {
            if Arc::ptr_eq(&cluster.loaded.shard, shard) {
                self.forget(cluster.id());
            }
        }
    }

    /// Unloads clusters that nobody needs, the longest unused first: those idle for the configured time or for as long as they
    /// were in use, and, over the memory budget, those not in use right now. If that is not enough, event logs are halved.
    ///
    /// As long as they were in use: a cluster that was only just created, or that a timer or one request had loaded, goes at
    /// once, so that ten thousand of them are never in memory together.
    pub(crate) async fn evict(&self) {
        self.evict_for(0).await;
    }

    /// As `evict`, with room for so many bytes more.
    async fn evict_for(&self, more: usize) {
        let now = self.uptime_ms();
        let idle = millis(self.config.cache.idle);
        let mut clusters: Vec<(u64, ClusterId, u64, usize)> = self
            .clusters
            .read()
            .iter()
            .map(|(id, cluster)| {
                let loaded = &cluster.loaded;
                let used = loaded.used.load(Ordering::Relaxed);
                (used, *id, used.saturating_sub(loaded.since), loaded.state.read().bytes())
            })
            .collect();
        clusters.sort_unstable();
        let mut bytes: usize = clusters.iter().map(|(_, _, _, bytes)| bytes).sum();
        let budget = self.config.cache.bytes.saturating_sub(more);
        for (used, id, in_use, size) in clusters {
            let least = idle.min(if bytes > budget { millis(IN_USE) } else { in_use.max(millis(IN_USE)) });
            if now.saturating_sub(used) >= least && self.evict_one(id, used).await {
                bytes -= size;
            }
        }
        if bytes > self.config.cache.bytes {
            self.all_loaded().iter().for_each(|cluster| cluster.loaded.state.write().halve_logs());
        }
    }

    /// Unloads a cluster that was last used at `used`, if it is not needed. No load of it begins before its last write ended.
    async fn evict_one(&self, id: ClusterId, used: u64) -> bool {
        let turn = self.loads.lock().entry(id).or_default().clone();
        let evicted = {
            // One that is asked for right now is needed. Nor may a load, which may be what evicts, wait for another.
            let Ok(_turn) = turn.try_lock() else {
                self.end_turn(id, &turn);
                return false;
            };
            let mut removed = None;
            self.notices.unloaded(id, || {
                let mut clusters = self.clusters.write();
                if clusters.get(&id).is_some_and(|cluster| self.is_unneeded(cluster, used)) {
                    removed = clusters.remove(&id);
                }
                removed.is_some()
            });
            if let Some(cluster) = &removed {
                cluster.loaded.close();
                writer::barrier(&cluster.loaded).await;
            }
            removed.is_some()
        };
        self.end_turn(id, &turn);
        evicted
    }

    /// Not used since, not watched, and either nobody holds it or controllers have said that they are done with it for now.
    fn is_unneeded(&self, cluster: &Arc<ClusterStore>, used: u64) -> bool {
        let loaded = &cluster.loaded;
        if loaded.used.load(Ordering::Relaxed) != used || loaded.watches.load(Ordering::Relaxed) > 0 {
            return false;
        }
        let settled = loaded.settled.lock();
        let soon = self.clock.now().checked_add(self.config.cache.idle).unwrap_or(Timestamp::MAX);
        let is_settled =
            settled.mark.revision >= loaded.state.read().revision() && settled.mark.wake_at.is_none_or(|at| at > soon);
        let is_held = Arc::strong_count(cluster) > 1 || Arc::strong_count(loaded) > 1;
        !settled.dirty && (is_settled || !is_held)
    }

    fn end_turn(&self, id: ClusterId, turn: &Arc<tokio::sync::Mutex<()>>) {
        let mut loads = self.loads.lock();
        // The map's and this one: nobody else waits.
        if Arc::strong_count(turn) <= 2 {
            loads.remove(&id);
        }
    }

    /// Writes down how far controllers are, where that has not changed for so long. A cluster with Events is to be loaded again
    /// when the last of them has outlived its time.
    pub(crate) async fn settle_marks(&self, standing: Duration) -> Result<(), StoreError> {
        let now = Instant::now();
        let mut reported = Vec::new();
        for cluster in self.all_loaded() {
            let settled = cluster.loaded.settled.lock();
            if settled.dirty && now.duration_since(settled.since) >= standing {
                let mark = settled.mark.clone();
                drop(settled);
                reported.push((cluster, mark));
            }
        }
        if reported.is_empty() {
            return Ok(());
        }
        let with_events = |(cluster, mark): &(Arc<ClusterStore>, Mark)| {
            let newest = cluster.loaded.state.read().newest_written(codec::is_event);
            let due = newest.and_then(|written| written.checked_add(self.config.event_ttl).ok());
            let wake_at = match (mark.wake_at, due) {
                (Some(wake), Some(due)) => Some(wake.min(due)),
                (wake, due) => wake.or(due),
            };
            Mark { wake_at, ..mark.clone() }
        };
        let marks: Vec<Mark> = reported.iter().map(with_events).collect();
        self.backend.settle(&marks).await?;
        for (cluster, mark) in reported {
            let mut settled = cluster.loaded.settled.lock();
            if settled.mark == mark {
                settled.dirty = false;
            }
        }
        Ok(())
    }
}
