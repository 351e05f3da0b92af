//! The scheduler: which node a pod goes to, and why it does not.
//!
//! Pure: a [`Snapshot`] that changes are applied to, pods, and an rng for ties go in; bindings with reasons come out. Who
//! watches, binds and deletes is the controllers' business. Filters, scores, weights and texts are kube-scheduler's default
//! profile (Kubernetes 1.36), because users read the texts and rely on the placement.

mod batch;
mod counters;
mod explain;
mod filter;
mod pod;
mod preempt;
mod queue;
mod resources;
mod score;
mod selector;
mod snapshot;
mod statics;
mod volumes;

#[cfg(test)]
mod tests;

pub use batch::{Outcome, Unschedulable, schedule_batch};
pub use explain::{Plugin, PluginSet};
pub use pod::PodInfo;
pub use preempt::Preemption;
pub use queue::{Change, Queue, Queued};
pub use selector::{Labels, Selector};
pub use snapshot::{Budget, Snapshot};
pub use volumes::ClaimBinding;
