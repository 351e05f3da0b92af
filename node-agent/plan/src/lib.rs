//! What a node should do about its pods and its network ([`net`]), decided without touching the node.
//!
//! Everything here is a function of values: the pod as the API server has it, what the container runtime says is there
//! ([`ObservedPod`]), what the agent remembers about failures and probes ([`Memory`]), and `now`. So that a decision can be
//! tested by a table, replayed from a log, and repeated after a restart of the agent with the same answer.
//!
//! ```text
//!  API server ── Pod ──┐
//!  runtime ─ observed ─┼─> pod_plan ──> steps (what, why) ──> applied by the agent ──> observed again
//!  agent ──── memory ──┘ └─> pod_status ──> PodStatus
//! ```
//!
//! Invariants: planning twice on the same input gives the same steps; a plan for a pod that is as it should be is empty;
//! what must survive a restart of the agent (attempt numbers, restart delays) is read from the runtime, not from memory.

mod backoff;
mod containers;
pub mod downward;
pub mod env;
pub mod image;
mod memory;
pub mod net;
pub mod node;
mod observed;
mod pod;
pub mod probe;
pub mod qos;
pub mod quantity;
mod status;
mod terminate;
#[cfg(test)]
mod testing;

pub use backoff::{RESTART_DELAY_MAX, next_restart_delay, pull_delay, restart_at};
pub use containers::{ContainerRef, Kind, all_containers, container_kind, spec_hash};
pub use memory::{Ending, Failure, Memory, ProbeVerdict, VolumesState, WaitingReason};
pub use observed::{Container, ContainerState, ObservedPod, Sandbox};
pub use pod::{Action, KillWhy, Outcome, PodPlan, Reason, Step, pod_plan};
pub use status::{NodeFacts, is_terminal, pod_status};
