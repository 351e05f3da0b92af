//! Rows that are no Kubernetes objects, as callers and backends see them.

use galley_types::{ClusterId, ShardId, TenantId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A customer of the installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Unique in the installation.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
}

/// A bearer token of a tenant, found by its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Names the token in lists and logs.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: TenantId,
    /// What its maker called it.
    pub name: String,
    /// SHA-256 of the token.
    pub(crate) hash: [u8; 32],
    /// When it was made.
    pub created: Timestamp,
}

/// A bearer token of a part of the installation: the cloud controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceToken {
    /// Names the token in lists and logs.
    pub id: Uuid,
    /// Which part: `cloud-controller-manager`.
    pub service: String,
    /// When it was made.
    pub created: Timestamp,
}

/// A place in a tenant's clusters, which are in the order of their making.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cursor {
    pub created: Timestamp,
    /// A place, not a capability: it may be of a cluster that is gone.
    pub id: Uuid,
}

impl Cursor {
    /// Before all of them.
    pub const START: Self = Self { created: Timestamp::UNIX_EPOCH, id: Uuid::nil() };

    /// What a client brings back to go on after this place.
    pub fn encode(self) -> String {
        format!("{:x}-{}", self.created.as_nanosecond(), self.id.as_simple())
    }

    pub fn decode(text: &str) -> Option<Self> {
        let (created, id) = text.split_once('-')?;
        let created = Timestamp::from_nanosecond(i128::from_str_radix(created, 16).ok()?).ok()?;
        Some(Self { created, id: Uuid::try_parse(id).ok()? })
    }
}

/// Some of a tenant's clusters, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPage {
    /// The clusters.
    pub clusters: Vec<Cluster>,
    /// How to ask for those after them, if there may be more.
    pub next: Option<String>,
}

/// A cluster's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNetwork {
    /// Pods' addresses; each node gets a /24.
    pub pod_cidr: String,
    /// ClusterIPs. The first is the `kubernetes` Service, the tenth cluster DNS.
    pub service_cidr: String,
    /// Where pods' `resolv.conf` points.
    pub cluster_dns: String,
    /// The suffix of Services' names.
    pub cluster_domain: String,
}

impl Default for ClusterNetwork {
    fn default() -> Self {
        Self {
            pod_cidr: "10.244.0.0/16".into(),
            service_cidr: "10.96.0.0/16".into(),
            cluster_dns: "10.96.0.10".into(),
            cluster_domain: "cluster.local".into(),
        }
    }
}

/// Where a cluster is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// Serves.
    Active,
    /// Its keys are destroyed; rows are being removed. Not found by any lookup for a tenant.
    Deleting,
}

/// A cluster, as the management API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Its id.
    pub id: ClusterId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Unique among the tenant's clusters.
    pub name: String,
    /// `<name>-<short id>`: the first label of its host name, unique in the installation.
    pub host_label: String,
    /// Who writes it.
    pub shard: ShardId,
    /// Where it is in its life.
    pub state: ClusterState,
    /// When it was made.
    pub created: Timestamp,
    /// The certificate of its CA, PEM.
    pub ca_certificate: String,
    /// Its addresses.
    pub network: ClusterNetwork,
}

/// A cluster and its encrypted keys: a row of `clusters`.
#[derive(Debug, Clone)]
pub(crate) struct ClusterRow {
    pub cluster: Cluster,
    pub sealed: SealedKeys,
}

/// A cluster's keys, as the database sees them. Empty after the cluster's deletion.
#[derive(Debug, Clone, Default)]
pub(crate) struct SealedKeys {
    pub data_key: Vec<u8>,
    pub ca_key: Vec<u8>,
    pub service_account_key: Vec<u8>,
}

/// A cluster's private keys.
#[derive(Clone)]
pub struct ClusterKeys {
    /// Of its CA, PEM.
    pub ca_key: String,
    /// Signs service account tokens, PEM.
    pub service_account_key: String,
}

impl std::fmt::Debug for ClusterKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKeys")
    }
}

/// A cluster to be made.
#[derive(Debug, Clone)]
pub struct NewCluster {
    /// Whose it is.
    pub tenant: TenantId,
    /// Unique among the tenant's clusters; a DNS label.
    pub name: String,
    /// A second request with the same key finds the first one's cluster.
    pub idempotency_key: Option<String>,
    /// The certificate of its CA, PEM.
    pub ca_certificate: String,
    /// Its private keys; the store encrypts them.
    pub keys: ClusterKeys,
    /// Its addresses.
    pub network: ClusterNetwork,
}

/// A one-time token that a node joins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    /// Names the token in lists and logs.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: TenantId,
    /// The cluster that the node joins.
    pub cluster: ClusterId,
    /// Useless from then on.
    pub expires: Timestamp,
}

/// What became of an attempt to join with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootstrapUse {
    /// The token was good, and is used up.
    Granted(BootstrapToken),
    /// Another machine came first, or this one before.
    Used {
        /// When.
        at: Timestamp,
        /// The name of the node that it became.
        by: String,
    },
    /// Nobody used it in time.
    Expired {
        /// Since when it is useless.
        at: Timestamp,
    },
    /// Nobody made it; or its cluster is gone, or its end is so long ago that it was forgotten.
    Unknown,
}

#[derive(Debug)]
pub(crate) enum TenantInserted {
    New,
    NameTaken,
}

#[derive(Debug)]
pub(crate) enum ClusterInserted {
    New,
    /// The idempotency key was used before, for this one.
    Before(ClusterRow),
    NameTaken,
    /// The host label is in use: try another id.
    LabelTaken,
}
