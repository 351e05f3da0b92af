//! The cloud that needs no cloud: instances are network namespaces on this machine, load balancers are listeners.
//!
//! ```text
//!   this machine ── bridge galley0 10.89.0.1/24 ──┬── netns galley-node-1: containerd, galley-node-agent, pods
//!        │                                        └── netns galley-node-2: …
//!        └── 10.89.255.1:80 (a LoadBalancer Service) ──► node ports of the healthy nodes
//! ```
//!
//! A node here is as whole as one on its own machine: it has its own network, container runtime, disks and cgroups, and knows
//! the control plane only by its address. What it shares with the machine is the kernel.

mod balancer;
mod command;
mod config;
mod error;
mod file;
mod network;
mod node;
pub mod oci;
mod process;
mod remains;

pub use balancer::{BalancerConfig, LocalBalancers, Rhythm};
pub use config::LocalCloud;
pub use error::LocalError;
pub use network::ensure_bridge;
pub use node::{LocalNode, MirrorError, NodeSpec, NodeState, RegistryMirror, stop_all};
pub use remains::remove_cgroups;
