//! A cluster over a store in memory, with the controllers running on it.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::sync::Arc;
use std::time::Duration;

use galley_authz::Actor;
use galley_controllers_drive::{ApiSource, Backoff, Config, Controller, run};
use galley_pipeline::{ClusterApi, DeleteOptions, Patch, PatchKind, Propagation, Settings, WriteOptions};
use galley_store::testing::{MemoryDatabase, PATIENCE, TokioClock, config};
use galley_store::{ClusterStore, Scope, Store};
use galley_types::Clock;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

#[allow(dead_code, reason = "each test binary uses its part")]
pub struct World {
    pub store: Store,
    pub api: ClusterApi,
    pub clock: Arc<TokioClock>,
    pub database: MemoryDatabase,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[allow(dead_code, reason = "each test binary uses its part")]
impl World {
    /// A cluster with the namespace `default` and its service account, and all controllers.
    pub async fn start() -> Self {
        let clock = Arc::new(TokioClock::default());
        let database = MemoryDatabase::new(clock.clone(), 0);
        let store = database.open(config("", "test"), clock.clone()).await.expect("in memory");
        let cluster = store.cluster_for_test("one").await.expect("in memory");
        let settings = Settings { root_ca: "PEM".into(), ..Settings::default() };
        let api = ClusterApi::new(cluster, clock.clone() as Arc<dyn Clock>).with_settings(settings);
        let world = Self { store: store.clone(), api: api.clone(), clock, database, stop: CancellationToken::new() };
        world
            .create("namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}))
            .await;
        world
            .create(
                "serviceaccounts",
                json!({"apiVersion": "v1", "kind": "ServiceAccount",
                    "metadata": {"name": "default", "namespace": "default"}}),
            )
            .await;
        world.run(api);
        world
    }

    /// Starts the controllers.
    pub fn run(&self, api: ClusterApi) {
        self.run_with(api, Config::default().controllers, self.stop.child_token());
    }

    /// Kills the controllers that were started by [`World::start`] where they stand.
    pub fn kill(&mut self) {
        std::mem::take(&mut self.stop).cancel();
    }

    /// Starts these controllers until `stop`.
    pub fn run_with(&self, api: ClusterApi, controllers: fn() -> Vec<Box<dyn Controller>>, stop: CancellationToken) {
        let apis: ApiSource = Arc::new(move |_: Arc<ClusterStore>| api.clone());
        let backoff = Backoff { base: Duration::from_millis(5), max: Duration::from_millis(200) };
        let wake_every = Duration::from_millis(50);
        let config = Config { backoff, wake_every, controllers, ..Config::default() };
        tokio::spawn(run(self.store.clone(), apis, config, stop));
    }

    pub fn actor() -> Actor {
        Actor::controller("tester")
    }

    pub async fn create(&self, resource: &str, body: Value) -> Value {
        let found = self.api.resource(resource).expect("a served resource");
        let namespace = body["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let options = WriteOptions::default();
        let written = self.api.create(&Self::actor(), &found, &namespace, body, &options).await;
        written.unwrap_or_else(|status| panic!("create {resource}: {}", status.message)).object.value().expect("JSON")
    }

    pub async fn merge(&self, resource: &str, name: &str, subresource: Option<&str>, body: Value) {
        self.merge_in("default", resource, name, subresource, body).await;
    }

    pub async fn merge_in(&self, namespace: &str, resource: &str, name: &str, subresource: Option<&str>, body: Value) {
        let found = self.api.resource(resource).expect("a served resource");
        let patch = Patch { kind: PatchKind::Merge, body };
        let options = WriteOptions::default();
        let written = self.api.patch(&Self::actor(), &found, namespace, name, subresource, patch, &options).await;
        written.unwrap_or_else(|status| panic!("patch {resource} {name}: {}", status.message));
    }

    pub async fn delete(&self, resource: &str, name: &str, propagation: Option<Propagation>) {
        let found = self.api.resource(resource).expect("a served resource");
        let options = DeleteOptions { propagation, ..DeleteOptions::default() };
        let deleted = self.api.delete(&Self::actor(), &found, "default", name, &options).await;
        deleted.unwrap_or_else(|status| panic!("delete {resource} {name}: {}", status.message));
    }

    pub fn list(&self, resource: &str) -> Vec<Value> {
        let scope = Scope { resource: resource.into(), namespace: None };
        self.api.store().list(&scope).objects.iter().map(|object| object.value().expect("JSON")).collect()
    }

    pub fn get(&self, resource: &str, name: &str) -> Option<Value> {
        self.list(resource).into_iter().find(|object| object["metadata"]["name"] == name)
    }

    /// Waits until something is so, looking again after every change.
    pub async fn until(&self, what: &str, is: impl FnMut(&Self) -> bool) {
        self.until_within(PATIENCE, what, is).await;
    }

    /// As [`Self::until`], where more time passes (with a paused clock, none does).
    pub async fn until_within(&self, patience: Duration, what: &str, mut is: impl FnMut(&Self) -> bool) {
        let waiting = async {
            let mut watch = self.api.store().watch_all(self.api.store().revision()).await.expect("just read");
            while !is(self) {
                watch.next().await.expect("the store is open");
            }
        };
        if tokio::time::timeout(patience, waiting).await.is_err() {
            let dump: Vec<String> = ["deployments.apps", "replicasets.apps", "pods", "jobs.batch", "events"]
                .iter()
                .flat_map(|resource| self.list(resource))
                .take(20)
                .map(|object| object.to_string())
                .collect();
            panic!("never so: {what}\n{}", dump.join("\n"));
        }
    }

    /// Plays the nodes: every pod runs and is ready.
    pub async fn start_pods(&self) {
        for pod in self.list("pods") {
            if pod["status"]["phase"] == "Pending" || pod["status"]["phase"].is_null() {
                let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
                let since = self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                let status = json!({"status": {"phase": "Running", "conditions":
                    [{"type": "Ready", "status": "True", "lastTransitionTime": since}]}});
                self.merge("pods", &name, Some("status"), status).await;
            }
        }
    }
}
