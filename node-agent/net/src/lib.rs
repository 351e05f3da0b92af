//! The node's network: CNI configuration, paths to other nodes' pods, Services in nftables, cluster DNS, and the way to the
//! API server for pods.
//!
//! The caller brings what the cluster says ([`ClusterView`]) and a way to open `kubernetes` streams ([`Dialer`]); this crate
//! decides nothing by itself: `galley_node_plan::net` plans, and the modules here apply. Everything is changed by
//! difference, so that restarting the agent disturbs no connection: [`run`] leaves the network in place when it ends, and
//! only [`cleanup`] takes it away.
//!
//! ```text
//!  ClusterView ──► plan::net ──► cni       (conflist for containerd)
//!  (watch)                  ├──► overlay   (VXLAN or routes to other nodes' pods, masquerade to outside)
//!                           ├──► proxy     (table `galley-proxy`: Services)
//!                           ├──► health    (health-check node ports)
//!                           └──► dns       (10.96.0.10:53)
//!  pods ──► 10.96.0.1:443, :6443 ──► apiserver ──► Dialer ──► tunnel
//! ```
//!
//! All of it happens in the network namespace of the calling process.

mod apiserver;
mod cni;
mod command;
mod conntrack;
mod dns;
mod health;
mod host;
mod nft;
mod overlay;
mod run;

use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::io::{AsyncRead, AsyncWrite};

pub use run::{cleanup, run};

/// What this node's network is, and where it keeps its files. `new` has the defaults of a Galley cluster.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// This node's name: `metadata.name` of its Node.
    pub node_name: String,
    /// This node's InternalIP: the address that other nodes reach it at, and its end of the VXLAN.
    pub node_ip: Ipv4Addr,
    /// The range that ClusterIPs come from; its first address is the `kubernetes` Service.
    pub service_cidr: Ipv4Net,
    /// Where pods ask for names.
    pub cluster_dns: Ipv4Addr,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// How packets reach pods of other nodes.
    pub overlay: Overlay,
    /// Where containerd reads the CNI network list. Nodes that share a machine need their own.
    pub cni_conf_dir: PathBuf,
    /// Where the host-local plugin keeps the addresses that it gave out. Nodes that share a machine need their own; it is best
    /// on a file system that forgets at boot.
    pub cni_state_dir: PathBuf,
    /// The resolvers for names outside the cluster.
    pub resolv_conf: PathBuf,
    /// Whether `spec.externalIPs` of Services is followed. Off by default: anybody who may create a Service could take over an
    /// address (CVE-2020-8554).
    pub external_ips: bool,
}

impl NetConfig {
    /// The defaults for a node whose cluster uses Galley's default ranges.
    pub fn new(node_name: impl Into<String>, node_ip: Ipv4Addr) -> Self {
        Self {
            node_name: node_name.into(),
            node_ip,
            service_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16),
            cluster_dns: Ipv4Addr::new(10, 96, 0, 10),
            cluster_domain: "cluster.local".into(),
            overlay: Overlay::default(),
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_state_dir: "/run/galley/cni".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            external_ips: false,
        }
    }

    /// The ClusterIP of the `kubernetes` Service: the first address of the Service range.
    pub fn kubernetes_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.service_cidr.network()).saturating_add(1))
    }
}

/// How packets travel between the pods of two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlay {
    /// UDP-encapsulated: works wherever the nodes reach each other.
    Vxlan {
        /// VXLAN network identifier.
        vni: u32,
        /// UDP port.
        port: u16,
    },
    /// Plain routes with the other node as the gateway: no encapsulation, but all nodes on one link.
    Routes,
}

impl Default for Overlay {
    fn default() -> Self {
        // The port that Linux' own VXLAN and flannel use, so that security groups made for those also fit.
        Self::Vxlan { vni: 1, port: 8472 }
    }
}

/// What the cluster says, whole. Send a new one whenever something changed: readers see only the newest.
#[derive(Debug, Clone, Default)]
pub struct ClusterView {
    /// All Services.
    pub services: Vec<Arc<Service>>,
    /// All EndpointSlices.
    pub endpoint_slices: Vec<Arc<EndpointSlice>>,
    /// All Nodes, also this one (its `spec.podCIDR` configures CNI).
    pub nodes: Vec<Arc<Node>>,
}

/// Opens one `kubernetes` stream: raw TCP of a pod's connection to the `kubernetes` Service, carried by the tunnel.
pub trait Dialer: Send + Sync + 'static {
    /// The stream.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// One new stream; an error closes the pod's connection.
    fn dial(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Whether pods can be started, for the Node's `Ready` condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetStatus {
    /// Pods may start.
    Ready,
    /// Not yet, or no longer, because of this.
    NotReady(String),
}
