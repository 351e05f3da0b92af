//! `galley-node-agent`: turns a machine into a node of a Galley cluster.
//!
//! ```text
//!  join ──> identity (certificate, on disk) ──> run
//!  run:  link (one TLS connection, streams both ways)
//!         ├─ api client ──> node object and lease, pods to run, Services for the network
//!         └─ kubelet requests (logs, exec, ...) and dials from the API server
//!        pods: one task for each pod: observe ─> plan ─> apply
//!        net:  CNI, Services, cluster DNS (crate galley-node-net)
//! ```

mod agent;
mod api;
mod events;
mod files;
mod gc;
mod kubelet;
mod node;
mod pods;
mod simulated;
mod tls;
mod watching;

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use galley_node_link::{CaHash, Identity, JoinOptions, join};
use galley_types::{Clock, SystemClock};
use tracing_subscriber::EnvFilter;

#[derive(Debug, Parser)]
#[command(name = "galley-node-agent", version, about = "Turns a machine into a node of a Galley cluster")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Joins a cluster if this machine has not joined yet, then runs.
    Join {
        /// The management API, as `galley nodes join-command` prints it.
        #[arg(long)]
        server: String,
        /// The one-time token; not needed by a machine that has joined.
        #[arg(long)]
        token: Option<String>,
        /// `sha256:` and the hex digest of the installation CA's public key.
        #[arg(long)]
        ca_hash: CaHash,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Runs a node that has joined before.
    Run {
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Runs many nodes without containers, for load tests: their pods are Running at once.
    Simulated(simulated::SimulatedArgs),
}

/// How this machine is a node.
#[derive(Debug, Clone, Args)]
struct NodeArgs {
    /// The node's name in the cluster; the host name if not given.
    #[arg(long)]
    node_name: Option<String>,
    /// Where the agent keeps its certificate, pods' volumes and logs.
    #[arg(long, default_value = "/var/lib/galley-node")]
    data_dir: PathBuf,
    /// The container runtime's CRI v1 socket.
    #[arg(long, default_value = "unix:///run/containerd/containerd.sock")]
    cri_socket: String,
    /// The cgroup below which pods' cgroups are made.
    #[arg(long, default_value = "/galley")]
    cgroup_root: String,
    /// The address that other nodes reach this one at; of the default route's interface if not given.
    #[arg(long)]
    node_ip: Option<IpAddr>,
    /// Where containerd reads the CNI network list.
    #[arg(long, default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// Labels of the Node object, given when it is made: `key=value,...`.
    #[arg(long, value_delimiter = ',')]
    labels: Vec<String>,
    /// Taints of the Node object, given when it is made: `key=value:Effect,...`.
    #[arg(long, value_delimiter = ',')]
    taints: Vec<String>,
    /// `spec.providerID` of the Node object.
    #[arg(long)]
    provider_id: Option<String>,
    /// The most pods that the node takes.
    #[arg(long, default_value_t = 110)]
    max_pods: u32,
    /// Unused images are removed when the disk is fuller than this; 100 is never.
    #[arg(long, default_value_t = 85, value_parser = clap::value_parser!(u64).range(0..=100))]
    image_gc_high_threshold_percent: u64,
    /// Pods are evicted when less than this share of the disk is free; 0 is never.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=100))]
    eviction_hard_nodefs_percent: u64,
}

fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        match cli.command {
            Command::Join { server, token, ca_hash, node } => {
                let name = node_name(&node)?;
                let data_dir = node.data_dir.clone();
                let options = JoinOptions { server, token, ca_hash, node_name: name, data_dir };
                let identity = join(&options, SystemClock.now()).await.context("join failed")?;
                agent::run(identity, node).await
            }
            Command::Run { node } => {
                let name = node_name(&node)?;
                let identity = Identity::load(&node.data_dir)?
                    .with_context(|| format!("{} has not joined: run `join` first", node.data_dir.display()))?;
                anyhow::ensure!(identity.node_name == name, "this machine is the node {:?}", identity.node_name);
                agent::run(identity, node).await
            }
            Command::Simulated(args) => simulated::run(args).await,
        }
    })
}

fn node_name(node: &NodeArgs) -> anyhow::Result<String> {
    if let Some(name) = &node.node_name {
        return Ok(name.clone());
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("read the host name")?;
    Ok(name.trim().to_lowercase())
}
