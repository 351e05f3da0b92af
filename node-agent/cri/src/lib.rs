//! The container runtime, reached over its CRI v1 socket, in the words of Kubernetes' pods.
//!
//! Two halves: pure functions that turn a pod's spec into CRI messages ([`sandbox_config`], [`container_config`]), and thin calls
//! ([`Cri`]) that send them and read back what is there ([`Cri::observe`]). What a restart of the agent must not forget is
//! written on the sandboxes and containers themselves, as labels and annotations ([`labels`]): the runtime is the agent's memory.
//!
//! Invariants: only sandboxes and containers with this node's label are ever listed, stopped or removed, so that several agents
//! can share a runtime; everything the agent makes carries the label from its first moment.

pub mod cgroup;
mod client;
mod container;
mod dns;
mod error;
mod identity;
pub mod labels;
pub mod logs;
mod observe;
mod sandbox;
mod termination;
#[cfg(feature = "testing")]
pub mod testing;

pub use client::{Auth, Cri, ExecResult, ImageInfo, RuntimeInfo, UsageSample};
pub use container::{ContainerInputs, MountSpec, Propagation, command_line, container_config};
pub use dns::{ResolvConf, dns_config};
pub use error::CriError;
pub use identity::{IdentityError, ImageUser, run_as};
/// The messages of CRI v1.
pub use k8s_cri::v1 as messages;
pub use observe::{Inventory, PodIdentity, Seen};
pub use sandbox::{SandboxInputs, hostname, hosts_file, log_directory, sandbox_config};
