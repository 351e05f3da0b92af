//! What happens to a request between authentication and the answer: authorize -> decode -> default -> admit -> validate ->
//! store -> encode. No HTTP here: the API server calls it for clients, the controllers call it for themselves, so that a pod
//! made by a ReplicaSet passes the same admission as one made with kubectl.

mod admission;
mod api;
mod authorize;
mod binding;
mod bootstrap;
mod condition;
mod convert;
mod create;
mod delete;
mod encode;
mod events;
mod eviction;
pub mod fields;
mod members;
mod names;
mod resources;
mod rules;
pub mod scale;
mod settings;
mod strategy;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod time;
mod tokens;
mod update;
pub mod value;

pub use admission::quota::{Usage, in_scope as quota_covers, pod_resources, usage};
pub use api::{Body, ClusterApi, DeleteOptions, Patch, PatchKind, Preconditions, Propagation, WriteOptions, Written};
pub use binding::Binding;
pub use condition::PodCondition;
pub use galley_kube::FieldValidation;
pub use settings::Settings;
pub use tokens::{BoundObject, TokenClaims, TokenSigner};
