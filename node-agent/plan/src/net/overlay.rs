//! How packets reach the pods of other nodes.
//!
//! Everything about a peer follows from its Node object: its VXLAN MAC address from its InternalIP, its address inside the VXLAN
//! from its podCIDR. So the nodes need to tell each other nothing, and all entries are static: no learning, no flooding.
//!
//! ```text
//!  route     <podCIDR> via <podCIDR's network address> dev galley-vxlan onlink
//!  neighbour <podCIDR's network address> lladdr <MAC of InternalIP>
//!  fdb       <MAC of InternalIP> dst <InternalIP>
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::ops::Deref;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use serde_json::Value;

use super::nftables::Ruleset;
use super::{internal_ip, node_name, pod_cidr};

/// The VXLAN link.
pub const VXLAN_LINK: &str = "galley-vxlan";
/// What VXLAN adds to a packet: outer Ethernet, IPv4, UDP and VXLAN headers.
pub const VXLAN_OVERHEAD: u32 = 50;
/// The table that masquerades pods.
pub const TABLE: &str = "galley-net";
/// Routes of ours are told from others by this number in place of a routing daemon's.
pub const ROUTE_PROTOCOL: u8 = 71;

/// A MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address of the VXLAN end of the node with this InternalIP: locally administered, unicast.
    pub fn of_node(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([0x0a, 0x67, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Another node whose pods are to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub node_ip: Ipv4Addr,
    pub pod_cidr: Ipv4Net,
}

/// All nodes but `own_name` that have an address and a pod range. Of two nodes with one range (one of them is about to be
/// corrected) the first by name is kept.
pub fn peers<N: Deref<Target = Node>>(nodes: &[N], own_name: &str) -> Vec<Peer> {
    let mut sorted: Vec<&Node> = nodes.iter().map(Deref::deref).filter(|node| node_name(node) != own_name).collect();
    sorted.sort_by_key(|node| node_name(node));
    let mut ranges = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    sorted
        .into_iter()
        .filter_map(|node| Some(Peer { node_ip: internal_ip(node)?, pod_cidr: pod_cidr(node)?.trunc() }))
        .filter(|peer| ranges.insert(peer.pod_cidr) && addresses.insert(peer.node_ip))
        .collect()
}

/// What leads to the peers, as the kernel keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Paths {
    /// Pod range to gateway.
    pub routes: BTreeMap<Ipv4Net, Ipv4Addr>,
    /// Address in the VXLAN to MAC.
    pub neighbours: BTreeMap<Ipv4Addr, Mac>,
    /// MAC to node.
    pub fdb: BTreeMap<Mac, Ipv4Addr>,
}

/// Paths over the VXLAN.
pub fn vxlan_paths(peers: &[Peer]) -> Paths {
    let mut paths = Paths::default();
    for peer in peers {
        let gateway = peer.pod_cidr.network();
        let mac = Mac::of_node(peer.node_ip);
        paths.routes.insert(peer.pod_cidr, gateway);
        paths.neighbours.insert(gateway, mac);
        paths.fdb.insert(mac, peer.node_ip);
    }
    paths
}

/// Paths for nodes on one link.
pub fn direct_paths(peers: &[Peer]) -> Paths {
    Paths { routes: peers.iter().map(|peer| (peer.pod_cidr, peer.node_ip)).collect(), ..Paths::default() }
}

/// Input for `ip -batch -` and `bridge -batch -`; empty is nothing to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batches {
    pub ip: Vec<String>,
    pub bridge: Vec<String>,
}

/// How to come from `found` to `wanted` on `link`. New entries come before the routes that use them, and routes go before what
/// they use.
pub fn diff(wanted: &Paths, found: &Paths, link: &str, onlink: bool) -> Batches {
    let mut batches = Batches::default();
    let onlink = if onlink { " onlink" } else { "" };
    for (cidr, _) in found.routes.iter().filter(|(cidr, _)| !wanted.routes.contains_key(*cidr)) {
        batches.ip.push(format!("route del {cidr} dev {link} proto {ROUTE_PROTOCOL}"));
    }
    for (address, mac) in &wanted.neighbours {
        if found.neighbours.get(address) != Some(mac) {
            batches.ip.push(format!("neigh replace {address} lladdr {mac} dev {link} nud permanent"));
        }
    }
    for (cidr, gateway) in &wanted.routes {
        if found.routes.get(cidr) != Some(gateway) {
            batches.ip.push(format!("route replace {cidr} via {gateway} dev {link} proto {ROUTE_PROTOCOL}{onlink}"));
        }
    }
    for address in found.neighbours.keys().filter(|address| !wanted.neighbours.contains_key(*address)) {
        batches.ip.push(format!("neigh del {address} dev {link}"));
    }
    for (mac, node) in &wanted.fdb {
        if found.fdb.get(mac) != Some(node) {
            batches.bridge.push(format!("fdb replace {mac} dev {link} dst {node} self permanent"));
        }
    }
    for mac in found.fdb.keys().filter(|mac| !wanted.fdb.contains_key(*mac)) {
        batches.bridge.push(format!("fdb del {mac} dev {link} self"));
    }
    batches
}

fn text<'a>(entry: &'a Value, key: &str) -> Option<&'a str> {
    entry.get(key).and_then(Value::as_str)
}

fn entries(json: &Value) -> impl Iterator<Item = &Value> {
    json.as_array().into_iter().flatten()
}

fn parse_mac(text: &str) -> Option<Mac> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(Mac(bytes))
}

/// From `ip -j route show dev LINK proto N`, `ip -j neigh show dev LINK` and `bridge -j fdb show dev LINK`.
pub fn parse_paths(routes: &Value, neighbours: &Value, fdb: &Value) -> Paths {
    let route = |entry: &Value| {
        let text = text(entry, "dst")?;
        // A host route is printed without its length.
        let cidr = text.parse().ok().or_else(|| Some(Ipv4Net::from(text.parse::<Ipv4Addr>().ok()?)))?;
        Some((cidr, entry.get("gateway").and_then(Value::as_str)?.parse().ok()?))
    };
    Paths {
        routes: entries(routes).filter_map(route).collect(),
        neighbours: entries(neighbours)
            .filter_map(|entry| Some((text(entry, "dst")?.parse().ok()?, parse_mac(text(entry, "lladdr")?)?)))
            .collect(),
        fdb: entries(fdb)
            .filter_map(|entry| Some((parse_mac(text(entry, "mac")?)?, text(entry, "dst")?.parse().ok()?)))
            .collect(),
    }
}

/// The table that gives pods the node's address when they talk to something outside the cluster: nobody there has a way back
/// to a pod's.
pub fn masquerade(own_pod_cidr: Ipv4Net, pod_cidrs: &BTreeSet<Ipv4Net>) -> Ruleset {
    let mut rules = Ruleset::new(TABLE);
    let inside: Vec<String> =
        pod_cidrs.iter().chain([&own_pod_cidr]).map(ToString::to_string).collect::<BTreeSet<_>>().into_iter().collect();
    rules.base_chain(
        "postrouting",
        "type nat hook postrouting priority 110; policy accept;",
        vec![format!(
            "ip saddr {own_pod_cidr} ip daddr != {{ {}, 224.0.0.0/4 }} masquerade fully-random",
            inside.join(", ")
        )],
    );
    rules
}
