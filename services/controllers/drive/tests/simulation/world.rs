//! One cluster, its store and its driver, and what happens to them.

use std::sync::Arc;
use std::time::Duration;

use galley_authz::Actor;
use galley_controllers_drive::{ApiSource, Backoff, Config, run};
use galley_kube::Status;
use galley_pipeline::{ClusterApi, DeleteOptions, Patch, PatchKind, Settings, WriteOptions};
use galley_store::testing::{MemoryDatabase, TokioClock, config};
use galley_store::{ClusterStore, Entropy, Object, Scope, Store, StoreError};
use galley_types::{Clock, ClusterId};
use jiff::SignedDuration;
use parking_lot::Mutex;
use rand::Rng as _;
use rand::rngs::SmallRng;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clumsy;
use crate::nodes::Nodes;

/// How long a node may be silent: long, so that heartbeats are few.
pub const GRACE: SignedDuration = SignedDuration::from_secs(200);

pub struct World {
    pub database: MemoryDatabase,
    pub clock: Arc<TokioClock>,
    entropy: Entropy,
    id: ClusterId,
    store: Mutex<Store>,
    driver: Mutex<Option<Driver>>,
    pub nodes: Mutex<Nodes>,
}

struct Driver {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn settings() -> Settings {
    Settings { root_ca: "PEM".into(), ..Settings::default() }
}

impl World {
    pub async fn new(seed: u64) -> Arc<Self> {
        clumsy::calm(false);
        let clock = Arc::new(TokioClock::default());
        let database = MemoryDatabase::new(clock.clone(), seed);
        let entropy = Entropy::seeded(seed);
        let store = open(&database, &clock, &entropy).await.expect("opens");
        let id = store.cluster_for_test("one").await.expect("in memory").id();
        let world = Arc::new(Self {
            database,
            clock,
            entropy,
            id,
            store: Mutex::new(store),
            driver: Mutex::default(),
            nodes: Mutex::default(),
        });
        for namespace in ["default", "kube-node-lease"] {
            let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            world.create("namespaces", body).await.expect("nothing is wrong yet");
        }
        world.start_driver();
        world
    }

    fn start_driver(&self) {
        let clock: Arc<dyn Clock> = self.clock.clone();
        let apis: ApiSource = Arc::new(move |cluster: Arc<ClusterStore>| {
            ClusterApi::new(cluster, clock.clone()).with_settings(settings())
        });
        let config = Config {
            backoff: Backoff { base: Duration::from_millis(10), max: Duration::from_secs(60) },
            wake_every: Duration::from_secs(10),
            controllers: clumsy::with_everybody,
            node_monitor_grace_period: GRACE,
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(self.store.lock().clone(), apis, config, stop.clone()));
        *self.driver.lock() = Some(Driver { stop, task });
    }

    /// Kills the driver where it stands, and starts another.
    pub async fn restart_driver(&self) {
        let driver = self.driver.lock().take();
        if let Some(Driver { stop, task }) = driver {
            stop.cancel();
            task.await.expect("the driver itself does not panic");
        }
        self.start_driver();
    }

    /// Kills the process and starts it again.
    async fn crash(&self, gently: bool) {
        let driver = self.driver.lock().take();
        if let Some(Driver { stop, task }) = driver {
            stop.cancel();
            task.await.expect("the driver itself does not panic");
        }
        let store = self.store.lock().clone();
        if gently {
            store.close().await
        } else {
            store.crash()
        }
        drop(store);
        self.reopen().await;
    }

    async fn reopen(&self) {
        let store = loop {
            match open(&self.database, &self.clock, &self.entropy).await {
                Ok(store) => break store,
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
        *self.store.lock() = store;
        self.start_driver();
    }

    /// After the last fault, which may have been in the middle of a restart.
    pub async fn come_back(&self) {
        self.crash(false).await;
    }

    /// The cluster's API as users reach it.
    pub async fn api(&self) -> Result<ClusterApi, StoreError> {
        let store = self.store.lock().clone();
        let cluster = store.cluster(self.id).await?;
        Ok(ClusterApi::new(cluster, self.clock.clone()).with_settings(settings()))
    }

    /// As [`Self::api`], for a world without faults.
    pub async fn calm_api(&self) -> ClusterApi {
        loop {
            match self.api().await {
                Ok(api) => return api,
                Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        }
    }

    /// Writes of everything but heartbeats and Events.
    pub fn writes(&self) -> u64 {
        let written = self.database.written();
        let told = ["leases.coordination.k8s.io", "events"];
        written.iter().filter(|(resource, _)| !told.contains(&resource.as_str())).map(|(_, n)| n).sum()
    }

    /// Writes of Events.
    pub fn events(&self) -> u64 {
        let written = self.database.written();
        written.iter().filter(|(resource, _)| resource.as_str() == "events").map(|(_, n)| n).sum()
    }

    pub async fn create(&self, resource: &str, body: Value) -> Result<Arc<Object>, Status> {
        let api = self.api().await.map_err(Status::internal)?;
        let found = api.resource(resource).expect("a served resource");
        let namespace = body["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        Ok(api.create(&actor(), &found, &namespace, body, &WriteOptions::default()).await?.object)
    }

    pub async fn merge(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        subresource: Option<&'static str>,
        body: Value,
    ) -> Result<Arc<Object>, Status> {
        let api = self.api().await.map_err(Status::internal)?;
        let found = api.resource(resource).expect("a served resource");
        let patch = Patch { kind: PatchKind::Merge, body };
        let options = WriteOptions::default();
        Ok(api.patch(&actor(), &found, namespace, name, subresource, patch, &options).await?.object)
    }

    pub async fn delete(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), Status> {
        let api = self.api().await.map_err(Status::internal)?;
        let found = api.resource(resource).expect("a served resource");
        api.delete(&actor(), &found, namespace, name, options).await.map(drop)
    }

    /// Objects of a resource, if the store answers.
    pub async fn objects(&self, resource: &str) -> Vec<Arc<Object>> {
        let scope = Scope { resource: resource.into(), namespace: None };
        self.api().await.map_or_else(|_| Vec::new(), |api| api.store().list(&scope).objects)
    }

    /// What was written last, newest first.
    pub async fn newest(&self, count: usize) -> String {
        let mut objects = self.calm_api().await.store().list_all().objects;
        objects.sort_by_key(|object| std::cmp::Reverse(object.revision));
        let text = |object: &Arc<Object>| format!("{:?} {}", object.key, String::from_utf8_lossy(&object.body));
        objects.iter().take(count).map(text).collect::<Vec<_>>().join("\n")
    }

    /// All but events, for a failure's report.
    pub async fn dump(&self) -> String {
        let objects = self.calm_api().await.store().list_all().objects;
        let wanted = objects.iter().filter(|object| object.key.resource.as_str() != "events");
        wanted.map(|object| String::from_utf8_lossy(&object.body).into_owned()).collect::<Vec<_>>().join("\n")
    }
}

async fn open(database: &MemoryDatabase, clock: &Arc<TokioClock>, entropy: &Entropy) -> Result<Store, StoreError> {
    let mut config = config("", "one");
    config.entropy = entropy.clone();
    config.shards = 1;
    config.lease = Duration::from_secs(30);
    config.lease_renewal = Duration::from_secs(8);
    config.commit_timeout = Duration::from_secs(5);
    config.cache.idle = Duration::from_secs(20);
    database.open(config, clock.clone()).await
}

pub fn actor() -> Actor {
    Actor::controller("tester")
}

/// Restarts, kills and evicts.
pub async fn chaos(world: Arc<World>, mut rng: SmallRng) {
    loop {
        tokio::time::sleep(Duration::from_millis(rng.random_range(200..40_000))).await;
        match rng.random_range(0..5) {
            0 => world.crash(rng.random_bool(0.3)).await,
            1 => world.restart_driver().await,
            2 => {
                let store = world.store.lock().clone();
                store.evict().await;
            }
            // Retention and times to live; refused rounds come again.
            3 => {
                let store = world.store.lock().clone();
                drop(store.housekeep().await);
            }
            _ => {}
        }
    }
}
