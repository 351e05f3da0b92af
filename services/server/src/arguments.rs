//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use galley_api_server::FlowConfig;
use galley_store::CacheLimits;
use galley_types::{Quantity, QuantityError};

/// Managed Kubernetes: one control plane for thousands of clusters.
#[derive(Debug, Parser)]
#[command(version, name = "galley-server")]
pub struct Arguments {
    /// Log as JSON, a line for each event.
    #[arg(long, env = "GALLEY_LOG_JSON", global = true)]
    pub log_json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve.
    Run(RunOptions),
    /// Administer the installation, directly in its database.
    Admin(AdminOptions),
    /// Print the OpenAPI document of the management API.
    Openapi,
}

/// Where the installation's state is.
#[derive(Debug, Args)]
pub struct StateOptions {
    /// `postgres://USER@HOST:PORT/DATABASE`
    #[arg(long, env = "DATABASE_URL")]
    pub database_url: String,
    /// Holds the master key, which wraps the clusters' data keys, and this process' identity.
    #[arg(long, env = "GALLEY_DATA_DIR", default_value = "/var/lib/galley")]
    pub data_dir: PathBuf,
}

/// What a process of the installation does. Any number of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Ends clients' TLS, and passes requests on to the owner of their cluster.
    Gateway,
    /// Owns shards, and runs their API, controllers and scheduler.
    ShardHost,
}

#[derive(Debug, Args)]
pub struct RunOptions {
    #[command(flatten)]
    pub state: StateOptions,
    /// An address to listen on; may be repeated.
    #[arg(long, default_value = "127.0.0.1:6443")]
    pub listen: Vec<SocketAddr>,
    /// What this process does; may be repeated.
    #[arg(long, value_enum, default_values_t = [Role::Gateway, Role::ShardHost])]
    pub role: Vec<Role>,
    /// Where other replicas of this installation connect to, `ADDRESS:PORT`. Replicas on several machines need an address
    /// that they can reach. A port of 0 is any free one.
    #[arg(long, env = "GALLEY_PEER_LISTEN", default_value = "127.0.0.1:0")]
    pub peer_listen: SocketAddr,
    /// `HOST:PORT` that other replicas are told; `--peer-listen` if left out.
    #[arg(long, env = "GALLEY_PEER_ADVERTISE")]
    pub peer_advertise: Option<String>,
    /// Clusters are `<name>-<short id>.<domain>`.
    #[arg(long, env = "GALLEY_DOMAIN", default_value = "galley.local")]
    pub domain: String,
    /// `https://HOST:PORT` at which clients and nodes reach this installation; the first `--listen` if left out.
    #[arg(long, env = "GALLEY_ADVERTISE")]
    pub advertise: Option<String>,
    /// A node that was not heard of for so long is not ready (`40s`, `2m`); 40 s if left out.
    #[arg(long, env = "GALLEY_NODE_MONITOR_GRACE_PERIOD")]
    pub node_monitor_grace_period: Option<jiff::SignedDuration>,
    /// For how long a node's certificate is valid (`168h`, `1h`). Nodes renew theirs when two thirds of it are over, so a third of
    /// it is how long the control plane may be away without losing nodes for good.
    #[arg(long, env = "GALLEY_NODE_CERTIFICATE_DURATION", default_value = "168h")]
    pub node_certificate_duration: jiff::SignedDuration,
    /// How long changes stay resumable for watches, in seconds.
    #[arg(long, default_value_t = 3600)]
    pub retention_seconds: u64,
    /// How long a shard's lease lasts without renewal, in seconds: the longest that the clusters of a dead process wait until
    /// another takes over, and how long consistent reads are served while the database is away.
    #[arg(long, env = "GALLEY_LEASE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..))]
    pub lease_seconds: u64,
    #[command(flatten)]
    pub budgets: Budgets,
}

/// How much clusters and tenants may take of this process. What is left out has a default.
#[derive(Debug, Args)]
pub struct Budgets {
    /// Memory for the objects and event logs of all clusters (`2Gi`). Clusters that nobody uses are unloaded to stay below it, and
    /// one that does not fit is answered 503.
    #[arg(long, env = "GALLEY_CACHE_MEMORY", value_parser = bytes)]
    pub cache_memory: Option<usize>,
    /// Memory for the objects of one cluster (`1Gi`). One that is full refuses new objects with 403.
    #[arg(long, env = "GALLEY_CLUSTER_MEMORY", value_parser = bytes)]
    pub cluster_memory: Option<usize>,
    /// Memory for request bodies under way (`256Mi`); one tenant has a quarter. Beyond it requests are answered 429.
    #[arg(long, env = "GALLEY_BODY_MEMORY", value_parser = bytes)]
    pub body_memory: Option<usize>,
    /// Watches that a tenant may have (`20000`); one more is answered 429.
    #[arg(long, env = "GALLEY_TENANT_WATCHES")]
    pub tenant_watches: Option<u64>,
}

impl Budgets {
    /// Sets what was given.
    pub fn apply(&self, cache: &mut CacheLimits, flow: &mut FlowConfig) {
        if let Some(bytes) = self.cache_memory {
            cache.bytes = bytes;
            cache.cluster_bytes = bytes / 2;
        }
        if let Some(bytes) = self.cluster_memory {
            cache.cluster_bytes = bytes;
        }
        if let Some(bytes) = self.body_memory {
            flow.body_bytes = bytes as u64;
            flow.tenant_body_bytes = bytes as u64 / 4;
        }
        if let Some(watches) = self.tenant_watches {
            flow.watches = watches;
        }
    }
}

/// A number of bytes as Kubernetes writes it: `2Gi`, `500M`.
fn bytes(text: &str) -> Result<usize, String> {
    let quantity: Quantity = text.parse().map_err(|error: QuantityError| error.to_string())?;
    usize::try_from(quantity.units()).map_err(|_| "must not be negative".to_owned())
}

#[derive(Debug, Args)]
pub struct AdminOptions {
    #[command(flatten)]
    pub state: StateOptions,
    #[command(subcommand)]
    pub command: AdminCommand,
}

#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Make a tenant; no error if there is one of this name.
    TenantCreate {
        /// Unique in the installation.
        name: String,
    },
    /// Make a bearer token of a tenant, and print it.
    TokenCreate {
        /// The tenant's name.
        #[arg(long)]
        tenant: String,
        /// What the token is called in lists.
        #[arg(long, default_value = "admin")]
        name: String,
    },
    /// Make the cloud controller's bearer token, and print it.
    CloudTokenCreate,
    /// Print who owns which shard: shard, replica, its address for other replicas.
    ShardList,
    /// Print every cluster: id, shard, tenant's id, name.
    ClusterList,
}
