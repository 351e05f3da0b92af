//! Paths to other nodes.

use std::sync::Arc;

use galley_node_plan::net::overlay::{Batches, Mac, Paths, diff, direct_paths, parse_paths, peers, vxlan_paths};
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

fn node(name: &str, ip: &str, cidr: Option<&str>) -> Arc<Node> {
    let node = json!({
        "metadata": { "name": name },
        "spec": { "podCIDR": cidr },
        "status": { "addresses": [{ "type": "InternalIP", "address": ip }] },
    });
    Arc::new(serde_json::from_value(node).unwrap())
}

#[test]
fn peers_are_the_other_nodes_that_have_a_range() {
    let nodes = [
        node("self", "10.0.0.1", Some("10.244.0.0/24")),
        node("late", "10.0.0.4", Some("10.244.1.0/24")),
        node("b", "10.0.0.2", Some("10.244.1.0/24")),
        node("new", "10.0.0.3", None),
        node("unborn", "", Some("10.244.2.0/24")),
    ];
    let peers = peers(&nodes, "self");
    assert_eq!(peers.len(), 1, "of two nodes with one range the first counts: {peers:?}");
    assert_eq!(peers[0].node_ip.to_string(), "10.0.0.2");
}

#[test]
fn a_peer_that_comes_and_goes_is_added_and_removed_without_touching_others() {
    let all = [node("b", "10.0.0.2", Some("10.244.1.0/24")), node("c", "10.0.0.3", Some("10.244.2.0/24"))];
    let (one, both) = (vxlan_paths(&peers(&all[..1], "a")), vxlan_paths(&peers(&all, "a")));
    let added = diff(&both, &one, "v", true);
    assert_eq!(
        added,
        Batches {
            ip: vec![
                "neigh replace 10.244.2.0 lladdr 0a:67:0a:00:00:03 dev v nud permanent".into(),
                "route replace 10.244.2.0/24 via 10.244.2.0 dev v proto 71 onlink".into(),
            ],
            bridge: vec!["fdb replace 0a:67:0a:00:00:03 dev v dst 10.0.0.3 self permanent".into()],
        }
    );
    let removed = diff(&one, &both, "v", true);
    assert_eq!(removed.ip, ["route del 10.244.2.0/24 dev v proto 71", "neigh del 10.244.2.0 dev v"]);
    assert_eq!(removed.bridge, ["fdb del 0a:67:0a:00:00:03 dev v self"]);
    assert_eq!(diff(&both, &both, "v", true), Batches::default());

    let direct = diff(&direct_paths(&peers(&all[..1], "a")), &Paths::default(), "eth0", false);
    assert_eq!(direct.ip, ["route replace 10.244.1.0/24 via 10.0.0.2 dev eth0 proto 71"]);
}

#[test]
fn what_iproute_prints_is_understood() {
    let routes = json!([{ "dst": "10.244.1.0/24", "gateway": "10.244.1.0", "flags": ["onlink"] }, { "dst": "10.9.9.9", "gateway": "10.0.0.9" }]);
    let neighbours = json!([{ "dst": "10.244.1.0", "lladdr": "0a:67:0a:00:00:02", "state": ["PERMANENT"] }]);
    let fdb = json!([
        { "mac": "0a:67:0a:00:00:02", "dst": "10.0.0.2", "flags": ["self"], "state": "permanent" },
        { "mac": "33:33:00:00:00:01", "flags": ["self"], "state": "permanent" },
    ]);
    let paths = parse_paths(&routes, &neighbours, &fdb);
    assert_eq!(paths.routes.len(), 2);
    assert_eq!(paths.routes[&"10.9.9.9/32".parse().unwrap()].to_string(), "10.0.0.9");
    assert_eq!(paths.neighbours[&"10.244.1.0".parse().unwrap()], Mac([0x0a, 0x67, 10, 0, 0, 2]));
    assert_eq!(paths.fdb.len(), 1, "multicast entries are the kernel's");
    assert_eq!(parse_paths(&Value::Null, &json!([]), &Value::Null), Paths::default());
}
