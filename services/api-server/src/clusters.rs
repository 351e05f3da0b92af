//! The clusters that this process has touched: their keys, by id and host name.
//!
//! Nothing here holds a cluster's objects in memory: an API is made anew over what the store has loaded, for each request.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use galley_kube::{Reason, Status};
use galley_pipeline::{ClusterApi, Settings};
use galley_store::{Cluster, ClusterStore, Store, StoreError};
use galley_types::{Clock, ClusterId};
use jiff::{SignedDuration, Timestamp};
use parking_lot::RwLock;
use rcgen::KeyPair;

use crate::pki::{PkiError, key_create};
use crate::served::{ServedCluster, ServedError, Signer};
use crate::service_account::ServiceAccountKey;

/// A cluster that nobody asked for this long is forgotten; its keys are read again when somebody does.
const IDLE: SignedDuration = SignedDuration::from_mins(10);

/// How new a state a request must see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Everything that was acknowledged before it.
    Newest,
    /// Any committed state: what this process still has in memory when it cannot reach the database.
    Any,
}

/// Why a cluster cannot be served now.
#[derive(Debug, thiserror::Error)]
pub enum ClustersError {
    /// The store says no.
    #[error("the store cannot serve the cluster")]
    Store(#[from] StoreError),
    /// The cluster's keys are unusable.
    #[error("cluster {cluster} cannot be served")]
    Served {
        /// Which.
        cluster: ClusterId,
        /// Why.
        #[source]
        source: ServedError,
    },
}

impl ClustersError {
    /// The answer to a request for the cluster's API.
    pub fn status(&self) -> Status {
        match self {
            Self::Store(StoreError::ClusterNotFound(_)) => {
                Status::new(404, Reason::NotFound, "the cluster does not exist")
            }
            Self::Store(error @ StoreError::NoRoom { .. }) => {
                let mut status =
                    Status::new(503, Reason::ServiceUnavailable, format!("{error}, please try again later"));
                // Clusters that nobody uses are looked for every few seconds.
                status.retry_after_seconds = 5;
                status
            }
            Self::Store(_) => {
                let mut status = Status::new(
                    503,
                    Reason::ServiceUnavailable,
                    "the storage of this cluster is unavailable, please try again later",
                );
                status.retry_after_seconds = 1;
                status
            }
            Self::Served { .. } => Status::internal("the cluster cannot be served"),
        }
    }
}

#[derive(Debug)]
struct Entry {
    label: String,
    served: Option<Arc<ServedCluster>>,
    /// Of all APIs of this cluster: gets its key when the cluster is first served.
    signer: Arc<Signer>,
    settings: Settings,
    /// Seconds since 1970.
    used: AtomicI64,
}

impl Entry {
    fn new(info: &Cluster, now: Timestamp) -> Self {
        Self {
            label: info.host_label.clone(),
            served: None,
            signer: Arc::default(),
            settings: settings(info),
            used: AtomicI64::new(now.as_second()),
        }
    }

    fn touch(&self, now: Timestamp) {
        self.used.store(now.as_second(), Ordering::Relaxed);
    }
}

/// The clusters of this process.
#[derive(Debug)]
pub struct Clusters {
    store: Store,
    clock: Arc<dyn Clock>,
    domain: String,
    /// One key serves all clusters: each has a certificate of its own for it.
    key: KeyPair,
    entries: RwLock<HashMap<ClusterId, Entry>>,
    /// By host label, and by the text of the id.
    labels: RwLock<HashMap<String, ClusterId>>,
}

impl Clusters {
    /// Clusters have host names `<label>.<domain>`.
    pub fn new(store: Store, clock: Arc<dyn Clock>, domain: String) -> Result<Self, PkiError> {
        Ok(Self { store, clock, domain, key: key_create()?, entries: RwLock::default(), labels: RwLock::default() })
    }

    /// The cluster whose host name begins with `label`.
    pub async fn by_label(&self, label: &str) -> Result<Option<Arc<ServedCluster>>, ClustersError> {
        let known = self.labels.read().get(label).copied();
        if let Some(served) = known.and_then(|id| self.known(id)) {
            return Ok(Some(served));
        }
        match self.store.cluster_by_hostname(label).await? {
            Some(info) => Ok(Some(self.serve(info).await?)),
            None => Ok(None),
        }
    }

    /// The cluster that the text of a request names. Its means of authentication decide what the caller may see of it.
    pub async fn by_id_text(&self, text: &str) -> Result<Option<Arc<ServedCluster>>, ClustersError> {
        if let Some(served) = self.known_text(text) {
            return Ok(Some(served));
        }
        match self.store.cluster_by_id(text).await? {
            Some(info) => match self.known(info.id) {
                Some(served) => Ok(Some(served)),
                None => Ok(Some(self.serve(info).await?)),
            },
            None => Ok(None),
        }
    }

    /// The cluster of this id, if it is known here.
    pub(crate) fn known_text(&self, text: &str) -> Option<Arc<ServedCluster>> {
        let id = self.labels.read().get(text).copied();
        id.and_then(|id| self.known(id))
    }

    fn known(&self, id: ClusterId) -> Option<Arc<ServedCluster>> {
        let entries = self.entries.read();
        let entry = entries.get(&id)?;
        entry.touch(self.clock.now());
        entry.served.clone()
    }

    /// The keys of a cluster whose row was found.
    pub async fn serve(&self, info: Cluster) -> Result<Arc<ServedCluster>, ClustersError> {
        if let Some(served) = self.known(info.id) {
            return Ok(served);
        }
        let id = info.id;
        let keys = self.store.cluster_keys(id).await?;
        let now = self.clock.now();
        let served = ServedCluster::new(info, &keys, &self.key, &self.domain, now)
            .map_err(|source| ClustersError::Served { cluster: id, source })?;
        let mut entries = self.entries.write();
        let entry = entries.entry(id).or_insert_with(|| Entry::new(&served.info, now));
        entry.touch(now);
        // Another request may have been faster.
        let served = Arc::clone(entry.served.get_or_insert_with(|| Arc::new(served)));
        entry.signer.give(&served.tokens);
        let mut labels = self.labels.write();
        labels.insert(entry.label.clone(), id);
        labels.insert(id.to_string(), id);
        Ok(served)
    }

    /// The cluster's API; loads the cluster if need be. Ask for each request.
    pub async fn api(&self, served: &ServedCluster) -> Result<ClusterApi, ClustersError> {
        self.api_as(served, Freshness::Newest).await
    }

    /// The cluster's API for a request that may be answered from a state that is not the newest.
    pub async fn api_as(&self, served: &ServedCluster, freshness: Freshness) -> Result<ClusterApi, ClustersError> {
        let id = served.info.id;
        let found = match freshness {
            Freshness::Newest => self.store.cluster(id).await,
            Freshness::Any => self.store.cluster_stale(id).await,
        };
        match found {
            Ok(store) => Ok(self.make_api(&store, Some(&served.tokens))),
            Err(error) => {
                if matches!(error, StoreError::ClusterNotFound(_)) {
                    self.forget(id);
                }
                Err(error.into())
            }
        }
    }

    /// The API of a cluster, by its row.
    pub async fn api_of(&self, info: &Cluster) -> Result<ClusterApi, ClustersError> {
        let served = self.serve(info.clone()).await?;
        self.api(&served).await
    }

    /// The API of a cluster in memory, for requests and controllers alike.
    pub fn api_over(&self, store: &Arc<ClusterStore>) -> ClusterApi {
        self.make_api(store, None)
    }

    fn make_api(&self, store: &Arc<ClusterStore>, key: Option<&Arc<ServiceAccountKey>>) -> ClusterApi {
        let now = self.clock.now();
        let make = |entry: &Entry| {
            entry.touch(now);
            if let Some(key) = key {
                entry.signer.give(key);
            }
            ClusterApi::new(Arc::clone(store), Arc::clone(&self.clock))
                .with_signer(Arc::clone(&entry.signer) as _)
                .with_settings(entry.settings.clone())
        };
        if let Some(entry) = self.entries.read().get(&store.id()) {
            return make(entry);
        }
        make(self.entries.write().entry(store.id()).or_insert_with(|| Entry::new(store.info(), now)))
    }

    /// The cluster is deleted, or its shard was lost.
    pub fn forget(&self, id: ClusterId) {
        if let Some(entry) = self.entries.write().remove(&id) {
            let mut labels = self.labels.write();
            labels.remove(&entry.label);
            labels.remove(&id.to_string());
        }
    }

    /// Forgets what was not used lately. To be called now and then.
    pub fn sweep(&self) {
        let idle_since = (self.clock.now() - IDLE).as_second();
        let mut gone = Vec::new();
        self.entries.write().retain(|id, entry| {
            let keep = entry.used.load(Ordering::Relaxed) > idle_since;
            if !keep {
                gone.extend([entry.label.clone(), id.to_string()]);
            }
            keep
        });
        let mut labels = self.labels.write();
        for label in gone {
            labels.remove(&label);
        }
    }
}

fn settings(info: &Cluster) -> Settings {
    let mut settings = Settings { root_ca: info.ca_certificate.as_str().into(), ..Settings::default() };
    if let Ok(cidr) = info.network.pod_cidr.parse() {
        settings.pod_cidr = cidr;
    }
    if let Ok(cidr) = info.network.service_cidr.parse() {
        settings.service_cidr = cidr;
    }
    if let Ok(dns) = info.network.cluster_dns.parse() {
        settings.cluster_dns = dns;
    }
    settings
}
