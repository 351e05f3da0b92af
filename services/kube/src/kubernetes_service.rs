//! The Service `default/kubernetes` and where it leads: how pods, and whatever looks for the API server by reading objects,
//! find it.
//!
//! Every node carries connections to the Service's address over its own tunnel, so the address where the API server is reached
//! is the same on each node and is no other machine's: the endpoint is the Service's address at the port that the node-agent
//! listens on for it. It is in the API server's certificate, so that a client that connects to an endpoint instead of the
//! Service verifies it as well.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// All three objects are called so.
pub const NAME: &str = "kubernetes";
/// Where they are.
pub const NAMESPACE: &str = "default";
/// The Service's port.
const PORT: u16 = 443;
/// The endpoint's port, as kubeadm's API servers have it; the node-agent listens on it on every node.
const TARGET_PORT: u16 = 6443;

/// The Service at `address`, its Endpoints and its EndpointSlice, each with its resource.
pub fn objects(address: Ipv4Addr) -> [(&'static str, Value); 3] {
    let ip = address.to_string();
    let port = json!({"name": "https", "port": TARGET_PORT, "protocol": "TCP"});
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE,
            "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "ports": [{"name": "https", "port": PORT, "protocol": "TCP", "targetPort": TARGET_PORT}],
        },
    });
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        // The slice is written beside it, so it needs no mirror.
        "metadata": {"name": NAME, "namespace": NAMESPACE,
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": ip}], "ports": [port]}],
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": NAME}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        "ports": [port],
    });
    [("services", service), ("endpoints", endpoints), ("endpointslices.discovery.k8s.io", slice)]
}
