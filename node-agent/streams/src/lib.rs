//! The streaming protocols of `kubectl exec`, `attach`, `cp` and `port-forward`.
//!
//! The agent stands between two of them: towards the client it is a server that speaks SPDY/3.1 or WebSocket (whatever the
//! client upgraded to), towards the container runtime it is a client of the CRI streaming URLs, which speak SPDY/3.1 only.
//! What both have in common is a [`RemoteCommand`]: the pipes of one process. The agent gets one from
//! [`client::exec`] and hands it to [`serve_remote_command`], which joins it to the client.
//!
//! ```text
//!  kubectl ──SPDY or WebSocket──► serve_remote_command ── RemoteCommand ── client::exec ──SPDY──► containerd
//!  kubectl ──SPDY or SPDY in WebSocket──► serve_port_forward ── byte streams ── client::port_forward ──► containerd
//! ```
//!
//! Sources: the SPDY/3.1 draft specification; Kubernetes' remotecommand subprotocols (`v4.channel.k8s.io`,
//! `v5.channel.k8s.io`) and `portforward.k8s.io`.

pub mod client;
mod command;
mod exit;
mod join;
mod port_forward;
mod serve;
pub mod spdy;
mod upgrade;
mod websocket;

pub use command::{CommandOptions, CommandReader, CommandWriter, Duplex, RemoteCommand, TerminalSize};
pub use exit::Exit;
pub use port_forward::serve_port_forward;
pub use serve::serve_remote_command;

/// A response's body: empty for an upgrade, a text for people for a refusal.
pub type Body = http_body_util::Full<bytes::Bytes>;
