//! The CNI network list that containerd reads.

use std::path::Path;

use ipnet::Ipv4Net;
use serde_json::{Value, json};

/// The bridge that pods hang on.
pub const BRIDGE: &str = "galley-cni";

/// How pods are attached to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// All pods on one bridge. Needs the kernel's br_netfilter: a pod answers its neighbour over the bridge, and the answer must
    /// pass conntrack to get the Service's address back.
    Bridge,
    /// Each pod on its own link, routed by the node: where br_netfilter is not to be had.
    PointToPoint,
}

/// The network list for a node with this pod range. `state_dir` is where host-local keeps the addresses that it gave out.
pub fn network_list(pod_cidr: Ipv4Net, mtu: u32, attachment: Attachment, state_dir: &Path) -> Value {
    let ipam = json!({
        "type": "host-local",
        "dataDir": state_dir,
        "ranges": [[{ "subnet": pod_cidr.trunc().to_string() }]],
        "routes": [{ "dst": "0.0.0.0/0" }],
    });
    let first = match attachment {
        Attachment::Bridge => json!({
            "type": "bridge",
            "bridge": BRIDGE,
            "isGateway": true,
            // A pod may reach itself through a Service.
            "hairpinMode": true,
            // nftables masquerades, with the pod ranges of all nodes left out.
            "ipMasq": false,
            "mtu": mtu,
            "ipam": ipam,
        }),
        Attachment::PointToPoint => json!({ "type": "ptp", "ipMasq": false, "mtu": mtu, "ipam": ipam }),
    };
    json!({
        "cniVersion": "0.4.0",
        "name": "galley",
        "plugins": [first, { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }],
    })
}
