//! A load generator for any Kubernetes API server: the same requests, the same JSON, the same clock. Prints one JSON line
//! a run: operations, seconds, rate, latency quantiles in milliseconds, and what the server's processes cost meanwhile.

mod clusters;
mod load;
mod noisy;
mod target;
mod usage;

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde_json::json;

use target::Target;

#[derive(Parser)]
struct Arguments {
    /// The API server's root, as https://127.0.0.1:6443; a path prefix is kept. For `etcd-put`, etcd's client URL.
    #[arg(long)]
    server: String,
    /// Bearer token.
    #[arg(long, default_value = "")]
    token: String,
    /// Connect to this address, while the URL's host is used for SNI and Host.
    #[arg(long)]
    addr: Option<std::net::SocketAddr>,
    /// Namespace of the objects.
    #[arg(long, default_value = "default")]
    namespace: String,
    /// Processes whose CPU seconds and memory are reported: `name=pid`, repeated; children are counted with them.
    #[arg(long = "process", value_parser = usage::parse)]
    processes: Vec<usage::Process>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create objects at full speed.
    Create {
        /// `pod` or `configmap`.
        #[arg(long, default_value = "pod")]
        kind: String,
        #[arg(long, default_value_t = 5000)]
        count: usize,
        #[arg(long, default_value_t = 64)]
        connections: usize,
    },
    /// GET one path again and again.
    Get {
        #[arg(long)]
        path: String,
        #[arg(long, default_value_t = 20000)]
        count: usize,
        #[arg(long, default_value_t = 64)]
        connections: usize,
    },
    /// Watchers on ConfigMaps while a writer writes: events a second, lag from written to received.
    Watch {
        #[arg(long, default_value_t = 100)]
        watchers: usize,
        #[arg(long, default_value_t = 2000)]
        writes: usize,
        #[arg(long, default_value_t = 16)]
        connections: usize,
    },
    /// Create nodes, then pods, and wait until every pod is bound.
    Schedule {
        #[arg(long, default_value_t = 1000)]
        nodes: usize,
        #[arg(long, default_value_t = 5000)]
        pods: usize,
        #[arg(long, default_value_t = 64)]
        connections: usize,
        /// `basic` or `antiaffinity`.
        #[arg(long, default_value = "basic")]
        shape: String,
    },
    /// Create one Deployment and wait until its pods exist.
    Rollout {
        #[arg(long, default_value_t = 1000)]
        replicas: usize,
    },
    /// Create clusters over the management API, each until its own API answers. `--token` is a tenant's.
    Clusters {
        #[arg(long, default_value_t = 1000)]
        count: usize,
        #[arg(long, default_value_t = 4)]
        connections: usize,
    },
    /// A quiet tenant's latencies alone, and beside a storm on another tenant's cluster.
    Noisy {
        /// The other cluster's API.
        #[arg(long)]
        noisy_server: String,
        /// A token with every right there.
        #[arg(long)]
        noisy_token: String,
        /// How long each is measured.
        #[arg(long, default_value_t = 15)]
        seconds: u64,
    },
    /// The storm of `noisy`, until standard input ends.
    Storm,
    /// Make clusters over Galley's management API.
    CreateClusters {
        #[arg(long, default_value = "c")]
        prefix: String,
        #[arg(long, default_value_t = 1000)]
        count: usize,
        #[arg(long, default_value_t = 8)]
        connections: usize,
        /// Keep a kubeconfig of each here.
        #[arg(long)]
        kubeconfigs: Option<std::path::PathBuf>,
    },
    /// List all clusters of Galley's management API, page by page.
    ListClusters,
    /// Delete all clusters of the tenant.
    DeleteClusters {
        #[arg(long, default_value_t = 16)]
        connections: usize,
    },
    /// Put the same ConfigMaps into etcd, through its JSON gateway: what the disk and an HTTP server on this machine give.
    EtcdPut {
        #[arg(long, default_value_t = 5000)]
        count: usize,
        #[arg(long, default_value_t = 64)]
        connections: usize,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let target = Target::new(&arguments.server, &arguments.token, &arguments.namespace, arguments.addr)?;
    let before = usage::read(&arguments.processes);
    let mut line = match arguments.command {
        Command::Create { kind, count, connections } => load::create(&target, &kind, count, connections).await?,
        Command::Get { path, count, connections } => load::get(&target, &path, count, connections).await?,
        Command::Watch { watchers, writes, connections } => load::watch(&target, watchers, writes, connections).await?,
        Command::Schedule { nodes, pods, connections, shape } => {
            load::schedule(&target, nodes, pods, connections, &shape).await?
        }
        Command::Rollout { replicas } => load::rollout(&target, replicas).await?,
        Command::Clusters { count, connections } => load::clusters(&target, count, connections).await?,
        Command::Noisy { noisy_server, noisy_token, seconds } => {
            noisy::noisy(&target, (&noisy_server, &noisy_token), seconds).await?
        }
        Command::Storm => noisy::storm(&target).await?,
        Command::CreateClusters { prefix, count, connections, kubeconfigs } => {
            clusters::create(&target, &prefix, count, connections, kubeconfigs).await?
        }
        Command::ListClusters => clusters::list(&target).await?,
        Command::DeleteClusters { connections } => clusters::delete(&target, connections).await?,
        Command::EtcdPut { count, connections } => load::etcd_put(&target, count, connections).await?,
    };
    let after = usage::read(&arguments.processes);
    for ((name, cpu, rss), (_, before, _)) in after.into_iter().zip(before) {
        line[format!("{name}_cpu_s")] = json!((((cpu - before) * 100.0).round()) / 100.0);
        line[format!("{name}_rss_mb")] = json!(rss / 1024);
    }
    println!("{line}");
    Ok(())
}
