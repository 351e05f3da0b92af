//! The front door: one TLS port for the management API, every cluster's Kubernetes API, and the tunnels of nodes.
//!
//! ```text
//!  TCP ── ClientHello ── SNI ──► cluster host: that cluster's CA and certificate ──┐
//!                          └──► anything else: the installation's certificate ────┤
//!                                                                                  ▼
//!                                   HTTP/1.1 or 2 ── path ──► /v1/...            management API (bearer token of a tenant)
//!                                                        ├──► /clusters/ID/...   a cluster, behind an HTTP load balancer
//!                                                        ├──► /galley/v1/tunnel  a node's tunnel (its certificate)
//!                                                        └──► the rest           authenticate ── flow ── kubernetes::handle
//!                                                                                       ▲
//!  cluster whose shard is another replica's ─► peers ═► that replica: serve_replicas ───┘
//! ```
//!
//! No request reaches a cluster but through its row in the store, and no credential of one cluster means anything on another:
//! each has its own CA and its own key for service account tokens.

pub mod authentication;
mod body;
pub mod clusters;
mod flow;
pub mod gateway;
mod identity;
pub mod installation;
pub mod kubernetes;
mod listener;
pub mod management;
mod peers;
pub mod pki;
mod proxy;
mod relay;
mod served;
mod service_account;
mod tls;
mod tunnel;

pub use body::{Body, json_response, status_response};
pub use flow::{FlowConfig, FlowControl, FlowStats};
pub use gateway::{Gateway, GatewayConfig, GatewayError};
pub use listener::serve;
pub use peers::serve_replicas;
pub use proxy::{Connect, NodeProxy};
