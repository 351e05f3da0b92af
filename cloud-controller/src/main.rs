//! The cloud controller: the one process that makes things outside of the clusters for what is in them.
//!
//! `run` gives LoadBalancer Services of every cluster their load balancers. `local-node` is the local cloud's hand tool: it starts
//! and stops nodes on this machine.

mod cluster;
mod local_node;
mod run;
mod service;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use galley_cloud_local::LocalCloud;
use ipnet::Ipv4Net;

#[derive(Parser)]
#[command(name = "galley-cloud-controller", version, about = "What Galley's clusters need from a cloud")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Give LoadBalancer Services of every cluster their load balancers
    Run(run::Run),
    /// Nodes on this machine
    LocalNode {
        #[command(subcommand)]
        command: local_node::Command,
    },
}

/// Which local cloud.
#[derive(Args)]
struct CloudArguments {
    /// Where the local cloud keeps its nodes' disks, its logs and what it remembers
    #[arg(long, default_value = "/var/lib/galley/cloud")]
    state_dir: PathBuf,
    /// What names of bridges, namespaces and cgroups start with
    #[arg(long, default_value = "galley")]
    prefix: String,
    /// The bridge's address and range
    #[arg(long, default_value = "10.89.0.1/24")]
    subnet: Ipv4Net,
    /// Where LoadBalancer Services get their addresses: a range of its own, or loopback addresses
    #[arg(long, default_value = "10.89.255.0/24")]
    balancers: Ipv4Net,
}

impl CloudArguments {
    fn cloud(self) -> LocalCloud {
        let defaults = LocalCloud::of_prefix(&self.prefix, 89, self.state_dir);
        LocalCloud { subnet: self.subnet, balancers: self.balancers, ..defaults }
    }
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info,kube_client=error".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    match Arguments::parse().command {
        Command::Run(command) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(command.run())
        }
        Command::LocalNode { command } => command.run(),
    }
}
