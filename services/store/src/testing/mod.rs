//! For tests of this and other crates: a store over memory, and private Postgres servers.

mod broken;
mod clock;
mod postgres;
mod simulation;

use std::sync::Arc;
use std::time::Duration;

use galley_types::{Clock, ResourceName};
use serde_json::Value;

use crate::backend::memory::Memory;
use crate::cluster::ClusterStore;
use crate::config::StoreConfig;
use crate::crypto::LocalKey;
use crate::error::StoreError;
use crate::object::{Draft, Fields, ObjectKey};
use crate::registry::{ClusterKeys, ClusterNetwork, NewCluster};
use crate::store::Store;

pub use crate::backend::memory::Faults;
pub use broken::{Broken, Fault};
pub use clock::TokioClock;
pub use postgres::{Postgres, PostgresError};
pub use simulation::run_seeds;

/// A database in memory, that several stores may open as several processes would. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MemoryDatabase(Arc<Memory>);

impl MemoryDatabase {
    /// An empty one. `seed` decides its faults.
    pub fn new(clock: Arc<dyn Clock>, seed: u64) -> Self {
        Self(Arc::new(Memory::new(clock, seed)))
    }

    /// What goes wrong from now on.
    pub fn faults(&self, faults: Faults) {
        self.0.faults(faults);
    }

    /// Every stored body: what a dump would show.
    pub fn dump(&self) -> Vec<u8> {
        self.0.dump()
    }

    /// A hash of every change ever committed, in its order: whether two runs had the same history.
    pub fn history(&self) -> u64 {
        self.0.history()
    }

    /// How many changes of each resource were ever committed.
    pub fn written(&self) -> std::collections::BTreeMap<ResourceName, u64> {
        self.0.written()
    }

    /// Every change ever committed to a cluster, compacted or not: what happened, whatever anybody was told.
    #[cfg(test)]
    pub(crate) fn ledger(&self, cluster: galley_types::ClusterId) -> Vec<crate::backend::ChangeRow> {
        self.0.ledger(cluster)
    }

    /// Whether anything is kept of a cluster.
    #[cfg(test)]
    pub(crate) fn has(&self, cluster: galley_types::ClusterId) -> bool {
        self.0.has(cluster)
    }

    /// Up to which revision a cluster's changes may be gone.
    #[cfg(test)]
    pub(crate) fn compacted(&self, cluster: galley_types::ClusterId) -> galley_types::Revision {
        self.0.compacted(cluster)
    }

    /// Batches committed so far.
    pub fn commits(&self) -> u64 {
        self.0.commits()
    }

    /// Opens a store on it.
    pub async fn open(&self, config: StoreConfig, clock: Arc<dyn Clock>) -> Result<Store, StoreError> {
        Store::start(self.0.clone(), config, clock).await
    }

    /// Opens a store on it that owns no shards.
    pub async fn open_gateway(&self, config: StoreConfig, clock: Arc<dyn Clock>) -> Result<Store, StoreError> {
        Store::start_gateway(self.0.clone(), config, clock).await
    }
}

/// The defaults, with a fixed master key.
pub fn config(database_url: &str, holder: &str) -> StoreConfig {
    StoreConfig::new(database_url, holder, Arc::new(LocalKey::from_bytes(&[42; 32])))
}

/// A cluster to be made for a tenant, with placeholders for its keys.
pub fn new_cluster(tenant: galley_types::TenantId, name: &str) -> NewCluster {
    NewCluster {
        tenant,
        name: name.to_owned(),
        idempotency_key: None,
        ca_certificate: "certificate".into(),
        keys: ClusterKeys { ca_key: "ca key".into(), service_account_key: "service account key".into() },
        network: ClusterNetwork::default(),
    }
}

/// A draft from a JSON object: what the pipeline does, in short. Labels come from it; `fields` are given.
pub fn draft(resource: &str, object: &Value, fields: &[(&str, &str)]) -> Draft {
    const MARK: &str = "\u{1}revision\u{1}";
    let mut object = object.clone();
    let metadata = &mut object["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let key = ObjectKey::new(&ResourceName::from(resource), &text(&metadata["namespace"]), &text(&metadata["name"]));
    let uid = text(&metadata["uid"]);
    let labels = metadata["labels"].as_object().map_or_else(Default::default, |labels| {
        labels.iter().map(|(name, value)| (name.clone(), text(value))).collect()
    });
    metadata["resourceVersion"] = MARK.into();
    let json = object.to_string();
    let escaped = Value::from(MARK).to_string();
    let (head, tail) = json.split_once(escaped.trim_matches('"')).expect("the mark was just put there");
    let fields: Fields = fields.iter().copied().collect();
    Draft { key, uid: uid.into(), labels, fields, head: head.to_owned().into(), tail: tail.to_owned().into() }
}

impl Store {
    /// A store over memory.
    pub async fn open_in_memory(clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        MemoryDatabase::new(clock.clone(), 0).open(config("", "test"), clock).await
    }

    /// A loaded cluster of a new tenant.
    pub async fn cluster_for_test(&self, name: &str) -> Result<Arc<ClusterStore>, StoreError> {
        let tenant = self.tenant_create(&format!("tenant-of-{name}")).await?;
        let cluster = self.cluster_create(new_cluster(tenant.id, name)).await?;
        self.cluster(cluster.id).await
    }

    /// Ends this store's tasks at once, as a crash does: leases stay, nothing is answered.
    pub fn crash(&self) {
        self.inner.stop();
        self.inner.shard_list().iter().for_each(|shard| shard.lose());
        self.inner.all_loaded().iter().for_each(|cluster| cluster.loaded.close());
    }

    /// Renews no lease from now on, and goes on otherwise: what a process does that is cut off from lease rows.
    pub fn freeze(&self) {
        self.inner.stop_upkeep();
    }

    /// One round of housekeeping now: marks, eviction, expired Events, retention, deleted clusters.
    pub async fn housekeep(&self) -> Result<(), StoreError> {
        crate::upkeep::house_round(&self.inner, true).await?;
        self.inner.settle_marks(Duration::ZERO).await?;
        crate::upkeep::purge(&self.inner).await
    }

    /// One round of lease renewal and acquisition now.
    pub async fn renew(&self) -> Result<(), StoreError> {
        crate::upkeep::lease_round(&self.inner).await.map(drop)
    }
}

/// How long tests wait for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);
