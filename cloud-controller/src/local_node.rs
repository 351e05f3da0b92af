//! `local-node`: nodes on this machine, by hand.

use std::path::PathBuf;

use anyhow::Context;
use clap::Subcommand;
use galley_cloud_local::{LocalNode, NodeSpec, NodeState, RegistryMirror, stop_all};

use crate::CloudArguments;

#[derive(Subcommand)]
pub enum Command {
    /// Start a node, or what is missing of it
    Start {
        /// The name of its Node
        name: String,
        #[command(flatten)]
        cloud: CloudArguments,
        /// The address of the control plane, as the node sees it
        #[arg(long)]
        server: String,
        /// A one-time token; a node that joined before needs none
        #[arg(long, default_value = "")]
        token: String,
        /// `sha256:...` of the installation's certificate authority
        #[arg(long)]
        ca_hash: String,
        /// The program galley-node-agent [default: beside this one]
        #[arg(long)]
        agent: Option<PathBuf>,
        /// Fetch images of HOST from URL instead; may be given several times
        #[arg(long, value_name = "HOST=URL")]
        registry_mirror: Vec<RegistryMirror>,
        /// An image archive that the node has from the start; may be given several times
        #[arg(long, value_name = "TAR")]
        image: Vec<PathBuf>,
    },
    /// Stop a node; its disk stays
    Stop {
        name: String,
        #[command(flatten)]
        cloud: CloudArguments,
    },
    /// Stop a node and delete its disk
    Delete {
        name: String,
        #[command(flatten)]
        cloud: CloudArguments,
    },
    /// Let a node die, as if it lost its power
    Kill {
        name: String,
        #[command(flatten)]
        cloud: CloudArguments,
    },
    /// Show all nodes
    List {
        #[command(flatten)]
        cloud: CloudArguments,
    },
    /// Stop all nodes and remove the bridge
    Down {
        #[command(flatten)]
        cloud: CloudArguments,
        /// Delete the nodes' disks, too
        #[arg(long)]
        purge: bool,
    },
}

fn agent_beside_this() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("this program does not know where it is")?;
    Ok(own.with_file_name("galley-node-agent"))
}

impl Command {
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Start { name, cloud, server, token, ca_hash, agent, registry_mirror, image } => {
                let agent = agent.map_or_else(agent_beside_this, Ok)?;
                let arguments = ["join", "--server", &server, "--token", &token, "--ca-hash", &ca_hash];
                let spec = NodeSpec {
                    name,
                    agent: Some(agent),
                    agent_arguments: arguments.map(Into::into).into(),
                    registry_mirrors: registry_mirror,
                    images: image,
                };
                let node = LocalNode::start(&cloud.cloud(), spec)?;
                println!("node {} runs at {}; its log is {}", node.name(), node.address(), node.agent_log().display());
            }
            Self::Stop { name, cloud } => LocalNode::open(&cloud.cloud(), &name)?.stop()?,
            Self::Delete { name, cloud } => LocalNode::open(&cloud.cloud(), &name)?.delete()?,
            Self::Kill { name, cloud } => LocalNode::open(&cloud.cloud(), &name)?.kill()?,
            Self::List { cloud } => {
                for node in LocalNode::list(&cloud.cloud())? {
                    let state = match node.state() {
                        NodeState::Running => "running",
                        NodeState::Degraded => "degraded",
                        NodeState::Stopped => "stopped",
                    };
                    println!("{:<24} {state:<10} {}", node.name(), node.address());
                }
            }
            Self::Down { cloud, purge } => stop_all(&cloud.cloud(), purge)?,
        }
        Ok(())
    }
}
