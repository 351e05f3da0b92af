//! What happens to a request between authentication and the answer: authorize -> decode -> default -> admit -> validate ->
//! store -> encode. No HTTP here: the API server calls it for clients, the controllers call it for themselves, so that a pod
//! made by a ReplicaSet passes the same admission as one made with kubectl.

mod api;

pub use api::{
    ClusterApi, DeleteOptions, FieldValidation, Patch, PatchKind, Preconditions, Propagation, WriteOptions, Written,
};
