//! Node IPAM: each node's range of pod addresses, a /24 of the cluster's.
//!
//! All nodes are planned together, from one observation: two nodes can never be given the same range.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::action::{Action, Note, Plan};
use crate::meta;

/// What events and audit call the controller.
pub const COMPONENT: &str = "node-ipam-controller";
/// 254 pods on a node are more than the 110 that a kubelet takes (kube-controller-manager's `--node-cidr-mask-size-ipv4`).
const PREFIX: u8 = 24;

/// What a plan is made from.
#[derive(Debug, Clone)]
pub struct Observed {
    /// All nodes.
    pub nodes: Vec<Arc<Node>>,
    /// The cluster's range.
    pub pod_cidr: Ipv4Net,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A node without a range.
    Missing,
    /// Every node has one, or there is none left.
    AllGiven,
}

/// Observed -> actions.
pub fn plan(observed: &Observed) -> Plan<Reason> {
    let range = |n: &Node| n.spec.as_ref().and_then(|s| s.pod_cidr.clone()).filter(|c| !c.is_empty());
    let taken: BTreeSet<Ipv4Addr> =
        observed.nodes.iter().filter_map(|n| range(n)?.parse::<Ipv4Net>().ok()).map(|net| net.network()).collect();
    let mut lacking: Vec<&Arc<Node>> =
        observed.nodes.iter().filter(|n| range(n).is_none() && !meta::is_deleting(&n.metadata)).collect();
    let mut plan = Plan::new();
    if !lacking.is_empty() {
        lacking.sort_by_key(|n| (n.metadata.creation_timestamp.clone(), n.metadata.name.clone()));
        let subnets = observed.pod_cidr.subnets(PREFIX.max(observed.pod_cidr.prefix_len())).into_iter().flatten();
        let mut free = subnets.filter(|net| !taken.contains(&net.network()));
        for node in lacking {
            match free.next() {
                Some(net) => {
                    let net = net.to_string();
                    let patch = json!({"spec": {"podCIDR": net, "podCIDRs": [net]}});
                    plan.push(Action::merge("nodes", &node.metadata, patch, Reason::Missing));
                }
                None => {
                    let about = meta::reference("v1", "Node", &node.metadata);
                    let message = format!("Node {} status is now: CIDRNotAvailable", meta::name(&node.metadata));
                    plan.notes.push(Note::normal(&about, "CIDRNotAvailable", message));
                }
            }
        }
    }
    plan.or_nothing(Reason::AllGiven)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    #[test]
    fn nodes_get_different_ranges_and_freed_ones_are_used_again() {
        let mut world = World::new();
        let observe =
            |w: &World| plan(&Observed { nodes: w.list("nodes"), pod_cidr: "10.244.0.0/16".parse().unwrap() });
        for name in ["a", "b", "c"] {
            world.create("nodes", &json!({"metadata": {"name": name}, "spec": {}}));
        }
        world.settle(observe);
        let ranges = |w: &World| -> Vec<String> {
            w.list::<Node>("nodes").iter().map(|n| n.spec.as_ref().unwrap().pod_cidr.clone().unwrap()).collect()
        };
        assert_eq!(ranges(&world), ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"]);
        world.delete("nodes", "", "b");
        world.create("nodes", &json!({"metadata": {"name": "d"}, "spec": {}}));
        world.settle(observe);
        assert_eq!(ranges(&world), ["10.244.0.0/24", "10.244.2.0/24", "10.244.1.0/24"]);
    }

    #[test]
    fn a_node_that_gets_none_is_told() {
        let mut world = World::new();
        for name in ["a", "b"] {
            world.create("nodes", &json!({"metadata": {"name": name}, "spec": {}}));
        }
        let observe = |w: &World| plan(&Observed { nodes: w.list("nodes"), pod_cidr: "10.0.0.0/24".parse().unwrap() });
        assert_eq!(world.settle(observe).notes[0].reason, "CIDRNotAvailable");
    }
}
