//! What the node's network should be, as values: no IO, no clock.
//!
//! ```text
//!  Services, EndpointSlices ──► frontends ──► proxy ──► nftables::Ruleset ──► nftables::diff ──► scripts for `nft -f -`
//!                                        ├──► conntrack (stale UDP flows)
//!                                        └──► health    (health-check node ports)
//!  Nodes ──► overlay ──► links, neighbours, routes to other nodes' pods
//!        └──► cni    ──► the network list that containerd reads
//!  Services, EndpointSlices ──► zone ──► answers of cluster DNS
//! ```

pub mod cni;
pub mod conntrack;
pub mod frontends;
pub mod nftables;
pub mod overlay;
pub mod proxy;
pub mod zone;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;

/// The node's IPv4 pod range, when node IPAM has given it one.
pub fn pod_cidr(node: &Node) -> Option<Ipv4Net> {
    let spec = node.spec.as_ref()?;
    spec.pod_cidrs.iter().flatten().chain(spec.pod_cidr.iter()).find_map(|cidr| cidr.parse().ok())
}

/// The node's IPv4 InternalIP.
pub fn internal_ip(node: &Node) -> Option<Ipv4Addr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().filter(|address| address.type_ == "InternalIP").find_map(|address| address.address.parse().ok())
}

/// The node's name.
pub fn node_name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

/// FNV-1a: the hash behind names and fingerprints that must stay equal between versions of the agent, which the standard
/// library's hasher does not promise.
pub(crate) fn fnv1a(parts: &[&str]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in part.bytes().chain(std::iter::once(0)) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}
