//! A pod's volumes on the node: directories below `<root>/<pod uid>/volumes`, filled and mounted.
//!
//! What a volume holds is computed by pure functions ([`payload`]) from objects that the caller has read; this crate puts it
//! there. Everything may be repeated: mounting again a volume that is there only brings its content up to date, so
//! that a restarted agent goes on where the old one stopped.
//!
//! Invariants: a container sees either all of the old content or all of the new (one symlink is swapped); secrets and tokens are
//! only ever in memory (tmpfs); a `subPath` cannot leave its volume, whatever symlinks the pod puts there.

mod atomic;
mod error;
mod hostpath;
mod mounts;
mod ownership;
mod payload;
mod pod;
mod subpath;

pub use error::{SetUpError, VolumeError};
pub use payload::{File, References, Sources, TokenKey, payload, references};
pub use pod::{Mount, PodVolumes, Propagation};
