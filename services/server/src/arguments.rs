//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use galley_api_server::FlowConfig;
use galley_store::{CacheLimits, LocalKey};
use galley_types::{Quantity, QuantityError};
use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

/// Managed Kubernetes: one control plane for thousands of clusters.
#[derive(Debug, Parser)]
#[command(version, name = "galley-server")]
pub struct Arguments {
    /// Log as JSON, a line for each event.
    #[arg(long, env = "GALLEY_LOG_JSON", global = true)]
    pub log_json: bool,
    /// What is logged: levels for targets, as the crate tracing-subscriber writes them.
    #[arg(long = "log", env = "GALLEY_LOG", default_value = "info,sqlx=warn", global = true)]
    pub log_filter: EnvFilter,
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
    /// Holds the master key (`master.key`), which wraps the clusters' data keys, and this process' identity.
    #[arg(long, env = "GALLEY_DATA_DIR", default_value = "/var/lib/galley")]
    pub data_dir: PathBuf,
    /// The master key as 64 hexadecimal digits, instead of the file: for machines that keep nothing. Better in the environment than
    /// on the command line, which everybody on the machine can read.
    #[arg(long, env = "GALLEY_MASTER_KEY", hide_env_values = true)]
    pub master_key: Option<MasterKey>,
}

impl StateOptions {
    /// The master key: the one that was given, or else the data directory's, which is made when there is none.
    pub fn key(&self) -> anyhow::Result<LocalKey> {
        match &self.master_key {
            Some(MasterKey(key)) => Ok(LocalKey::from_bytes(key)),
            None => LocalKey::from_file(&self.data_dir.join("master.key")).context("the master key cannot be used"),
        }
    }

    /// Where the master key comes from, for people.
    pub fn key_source(&self) -> String {
        match self.master_key {
            Some(_) => "GALLEY_MASTER_KEY".to_owned(),
            None => self.data_dir.join("master.key").display().to_string(),
        }
    }
}

/// 32 secret bytes, which no log shows.
#[derive(Clone)]
pub struct MasterKey([u8; 32]);

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey")
    }
}

impl FromStr for MasterKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "must be 64 hexadecimal digits";
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(WRONG);
        }
        let mut key = [0; 32];
        for (byte, at) in key.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| WRONG)?;
        }
        Ok(Self(key))
    }
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
    /// `HOST:PORT` that other replicas are told; `--peer-listen` if left out. A network (`10.0.0.0/16`) stands for this machine's
    /// address in it and the port of `--peer-listen`: for machines that learn their addresses when they start.
    #[arg(long, env = "GALLEY_PEER_ADVERTISE")]
    pub peer_advertise: Option<PeerAdvertise>,
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

/// Where other replicas are told to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerAdvertise {
    /// `HOST:PORT`.
    Address(String),
    /// This machine's address in a network.
    Network(IpNet),
}

impl FromStr for PeerAdvertise {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(network) = text.parse() {
            return Ok(Self::Network(network));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(Self::Address(text.to_owned())),
            _ => Err("must be HOST:PORT or a network such as 10.0.0.0/16"),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_key_is_64_hexadecimal_digits_and_is_not_shown() {
        let key: MasterKey = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F".parse().unwrap();
        assert_eq!(key.0, std::array::from_fn(|at| u8::try_from(at).unwrap()));
        assert_eq!(format!("{key:?}"), "MasterKey");
        for wrong in ["", "00", &"0".repeat(63), &"g".repeat(64), &"é".repeat(32), &"+1".repeat(32)] {
            assert!(wrong.parse::<MasterKey>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn peers_are_told_an_address_or_a_network_to_find_it_in() {
        let parse = |text: &str| text.parse::<PeerAdvertise>();
        assert_eq!(parse("a.internal:9"), Ok(PeerAdvertise::Address("a.internal:9".to_owned())));
        assert_eq!(parse("[fd00::1]:9"), Ok(PeerAdvertise::Address("[fd00::1]:9".to_owned())));
        assert_eq!(parse("10.64.0.0/16"), Ok(PeerAdvertise::Network("10.64.0.0/16".parse().unwrap())));
        for wrong in ["a.internal", ":9", "a:99999", "10.64.0.0/33", ""] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
