//! The node's identity, and its one connection to the control plane.
//!
//! ```text
//!  one-time token ──► join ──► Identity (a key that never leaves the node, a certificate for it) ──► files
//!                                  │ renewed when two thirds of its time are over
//!                                  ▼
//!                                Link ──► TLS, upgrade, yamux; connects again for ever
//!                                  ├── client()   kube::Client over `api` streams
//!                                  ├── open(..)   any stream; also the Dialer of the node's network
//!                                  └── inbound    what the control plane opens: `kubelet`, `dial`
//! ```
//!
//! The control plane is trusted by the hash of its certificate authority's key until the node has joined, and by the cluster's
//! own authority from then on. Every failure says which step failed, because a join that fails is read by a human.

mod http;
mod identity;
mod join;
mod link;
mod tls;

pub use self::http::HttpError;
pub use identity::{Identity, IdentityError};
pub use join::{JoinError, JoinOptions, join};
pub use link::{Driver, Link, LinkState};
pub use tls::{CaHash, OtherAuthority, TlsError};
