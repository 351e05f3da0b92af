//! A whole installation of Galley on one machine, as processes: what `cargo xtask up` starts for a developer and what the
//! end-to-end tests start for themselves.
//!
//! ```text
//! data directory
//!   postgres/   a private PostgreSQL (unix socket only)
//!   server/     galley-server's keys; ca.pem (server-2/, ...: those of further replicas)
//!   cloud/      the local cloud: nodes (namespace, containerd, agent each), load balancers
//!   run/        one pid file and one log for each daemon
//!   dev.kubeconfig
//! ```
//!
//! Everything here is safe to repeat: what already runs is left alone, what is half there is finished. It only starts and
//! stops processes and talks to them with the tools a user has (`galley`, `kubectl`), so it links none of the product.

pub mod daemon;
pub mod emulator;
pub mod installation;
pub mod kubectl;
pub mod postgres;
pub mod wait;

pub use emulator::Emulator;
pub use installation::{Installation, Options, Replica};
pub use kubectl::Kubectl;
