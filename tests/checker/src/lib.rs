//! Drives a Kubernetes API server with concurrent writers, readers and watchers, and records everything that they see, for
//! `galley-history` to judge. Any server will do: only ConfigMaps of one namespace, over plain Kubernetes HTTP.
//!
//! ```text
//!  writers ─┐                                    ┌─► history (JSON lines)
//!  readers ─┼─► HTTP ─► one or several replicas  │
//!  watchers ┘     └──────────► recorder ─────────┴─► verdict
//! ```
//!
//! What the clients do is decided by a seed; what happens in between is the server's and the clock's, so a seed makes the
//! same workload again, not the same history. The history is what is kept.

mod client;
pub mod file;
pub mod plant;
mod reader;
mod recorder;
mod run;
pub mod torture;
mod watcher;
mod writer;

pub use client::{Target, TargetError};
pub use recorder::Recorder;
pub use run::{Config, DriveError, Running};
