//! Replicas over one database, and what happens to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use galley_types::{ClusterId, Revision};
use parking_lot::Mutex;
use rand::Rng as _;
use rand::rngs::SmallRng;
use tokio::task::JoinHandle;

use super::super::support::*;
use super::ledger::Ledger;
use super::pick;
use crate::codec;
use crate::testing::{MemoryDatabase, TokioClock, config};
use crate::*;

/// One that is logged, one that is encrypted, one that expires, one whose changes are not logged.
pub const RESOURCES: [&str; 4] = ["pods", "secrets", "events", "leases.coordination.k8s.io"];

const HOLDERS: [&str; 2] = ["a", "b"];

pub struct World {
    pub database: MemoryDatabase,
    /// What replicas write down; leases run by the database's own, which nobody moves.
    clock: Arc<TokioClock>,
    entropy: Entropy,
    replicas: Mutex<Vec<Store>>,
    listeners: Mutex<Vec<JoinHandle<()>>>,
    pub clusters: Vec<ClusterId>,
    pub acknowledged: Mutex<BTreeMap<(ClusterId, Revision), String>>,
    /// The last revision of each cluster, once it is known.
    pub ends: Mutex<BTreeMap<ClusterId, Revision>>,
}

impl World {
    pub async fn new(seed: u64) -> Arc<Self> {
        let mut world = Self {
            database: MemoryDatabase::new(clock(), seed),
            clock: clock(),
            entropy: Entropy::seeded(seed),
            replicas: Mutex::default(),
            listeners: Mutex::default(),
            clusters: Vec::new(),
            acknowledged: Mutex::default(),
            ends: Mutex::default(),
        };
        let first = world.open(HOLDERS[0]).await.expect("opens");
        for name in ["one", "two"] {
            world.clusters.push(first.cluster_for_test(name).await.expect("cluster").id());
        }
        let second = world.open(HOLDERS[1]).await.expect("opens");
        *world.replicas.lock() = vec![first, second];
        Arc::new(world)
    }

    async fn open(&self, holder: &str) -> Result<Store, StoreError> {
        let mut config = config("", holder);
        config.entropy = self.entropy.clone();
        config.shards = 2;
        config.lease = Duration::from_secs(5);
        config.lease_renewal = Duration::from_secs(1);
        config.progress = Duration::from_secs(1);
        config.commit_timeout = Duration::from_secs(4);
        config.retention = Duration::from_secs(1800);
        config.event_ttl = Duration::from_secs(900);
        // Short logs: watches and lists come to need `changes`.
        config.cache.log_events = 6;
        config.cache.idle = Duration::from_secs(3);
        let store = self.database.open(config, self.clock.clone()).await?;
        self.listeners.lock().push(tokio::spawn(listen(store.notices())));
        Ok(store)
    }

    pub fn ledger(&self, id: ClusterId) -> Ledger {
        Ledger::of(self.database.ledger(id))
    }

    fn newest_acknowledged(&self, id: ClusterId) -> Revision {
        let acknowledged = self.acknowledged.lock();
        let mut of_cluster = acknowledged.range((id, Revision(0))..=(id, Revision(u64::MAX)));
        of_cluster.next_back().map_or(Revision(0), |((_, revision), _)| *revision)
    }

    fn replica(&self, rng: &mut SmallRng) -> Store {
        pick(&self.replicas.lock(), rng)
    }

    /// The cluster, from whichever replica serves it now.
    pub async fn cluster(&self, id: ClusterId, rng: &mut SmallRng) -> Arc<ClusterStore> {
        loop {
            let store = self.replica(rng);
            let floor = self.newest_acknowledged(id);
            if let Ok(cluster) = store.cluster(id).await {
                assert!(cluster.revision() >= floor, "read {} after {floor} was acknowledged", cluster.revision());
                return cluster;
            }
            tokio::time::sleep(Duration::from_millis(rng.random_range(1..300))).await;
        }
    }

    /// Whether a watch or list may end so, and if so, whether its revision is gone.
    pub fn may_end(&self, id: ClusterId, scope: &Scope, end: &WatchEnd) -> bool {
        match end {
            WatchEnd::Closing | WatchEnd::TooSlow => false,
            WatchEnd::Expired { asked, .. } => {
                let compacted = self.database.compacted(id);
                assert!(!codec::is_logged(&scope.resource) || *asked < compacted, "{end} in spite of {compacted}");
                true
            }
        }
    }

    /// Crashes replicas and opens others in their place; a third comes and goes.
    pub async fn upset(self: Arc<Self>, mut rng: SmallRng) {
        loop {
            tokio::time::sleep(Duration::from_millis(rng.random_range(300..5000))).await;
            if rng.random_bool(0.15) {
                let Ok(third) = self.open("c").await else { continue };
                self.replicas.lock().push(third.clone());
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..8000))).await;
                self.replicas.lock().pop();
                if rng.random_bool(0.5) {
                    third.close().await
                } else {
                    third.crash()
                }
                continue;
            }
            let at = rng.random_range(0..HOLDERS.len());
            let old = self.replicas.lock()[at].clone();
            if rng.random_bool(0.4) {
                // Its shards are taken over while it thinks that all is well, and is still asked.
                old.freeze();
                tokio::time::sleep(Duration::from_millis(rng.random_range(5000..15_000))).await;
            }
            if rng.random_bool(0.3) {
                old.close().await;
            } else {
                old.crash();
            }
            drop(old);
            let new = loop {
                match self.open(HOLDERS[at]).await {
                    Ok(store) => break store,
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            };
            self.replicas.lock()[at] = new;
        }
    }

    /// Evicts, halves logs and expires at any time; now and then a quarter of an hour passes for what is written down.
    pub async fn press(self: Arc<Self>, mut rng: SmallRng) {
        loop {
            tokio::time::sleep(Duration::from_millis(rng.random_range(50..2000))).await;
            let store = self.replica(&mut rng);
            if rng.random_bool(0.1) {
                self.clock.advance(Duration::from_secs(rng.random_range(60..900)));
            }
            match rng.random_range(0..4) {
                // Refused and fenced rounds are repeated by the replica itself.
                0 => drop(store.housekeep().await),
                1 => store.loaded().iter().for_each(|c| c.loaded.state.write().halve_logs()),
                2 => drop(store.renew().await),
                _ => store.evict().await,
            }
        }
    }

    /// What controllers were told was right.
    pub fn listened(&self) {
        for listener in self.listeners.lock().drain(..) {
            if listener.is_finished() {
                futures::FutureExt::now_or_never(listener).expect("it is finished").expect("no broken promise");
            } else {
                listener.abort();
            }
        }
    }

    /// A deleted cluster is found no more, and leaves nothing behind.
    pub async fn delete_one(&self, rng: &mut SmallRng) {
        let id = self.clusters[0];
        let tenant = self.cluster(id, rng).await.info().tenant;
        let store = self.replica(rng);
        assert!(store.cluster_delete(tenant, &id.to_string()).await.expect("all is well"));
        let replicas = self.replicas.lock().clone();
        for store in replicas {
            // One that was cut off may not, and does not know yet.
            drop(store.housekeep().await);
            assert!(store.cluster(id).await.is_err(), "a deleted cluster is not served");
        }
        assert!(!self.database.has(id), "nothing is left");
        assert!(self.database.has(self.clusters[1]), "of this one only");
    }
}

/// Listens as the controllers' driver does: after a cluster is loaded, every change once, in order.
async fn listen(mut notices: tokio::sync::mpsc::UnboundedReceiver<Notice>) {
    let mut views: BTreeMap<ClusterId, (Revision, Arc<ClusterStore>)> = BTreeMap::new();
    while let Some(notice) = notices.recv().await {
        match notice {
            Notice::Loaded(cluster) => {
                let revision = cluster.list_all().revision;
                cluster.settled(revision, None);
                assert!(views.insert(cluster.id(), (revision, cluster)).is_none(), "loaded once");
            }
            Notice::Changed(cluster, events) => {
                // A batch that was on its way when the cluster was unloaded.
                let Some((seen, loaded)) = views.get_mut(&cluster.id()) else { continue };
                assert!(Arc::ptr_eq(&loaded.loaded, &cluster.loaded), "of the cluster that is loaded now");
                for event in events.iter().filter(|event| event.object.revision > *seen).collect::<Vec<_>>() {
                    assert_eq!(event.object.revision, seen.next(), "each change once, in order");
                    *seen = event.object.revision;
                }
                cluster.settled(*seen, None);
            }
            Notice::Unloaded(id) => {
                assert!(views.remove(&id).is_some(), "unloaded once");
            }
        }
    }
}
