//! The node authorizer: a node reads what its own pods need, writes its own objects, and nothing else (Kubernetes docs, "Using
//! Node Authorization").

use crate::{Attributes, Decision, Target};

/// What a node's pods refer to.
pub trait NodePods {
    /// Whether a pod on `node` refers to this object: `secrets`, `configmaps`, `persistentvolumeclaims`,
    /// `serviceaccounts`.
    fn refers(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool;
    /// Whether this pod is on `node`, or does not exist (then reading it tells nothing, and a node must learn that it went).
    fn is_on(&self, node: &str, namespace: &str, name: &str) -> bool;
}

/// What every node may do, whatever the object: group, resource, verbs.
const COMMON: &[(&str, &str, &[&str])] = &[
    ("", "services", &["get", "list", "watch"]),
    ("", "endpoints", &["get", "list", "watch"]),
    ("discovery.k8s.io", "endpointslices", &["get", "list", "watch"]),
    // The agent's network needs every node's address and pod range.
    ("", "nodes", &["create", "get", "list", "watch"]),
    ("", "namespaces", &["get", "list", "watch"]),
    ("", "events", &["create", "update", "patch"]),
    ("events.k8s.io", "events", &["create", "update", "patch"]),
    ("", "pods", &["create"]),
    ("", "persistentvolumes", &["get"]),
    ("storage.k8s.io", "csidrivers", &["get", "list", "watch"]),
    ("storage.k8s.io", "volumeattachments", &["get"]),
    ("node.k8s.io", "runtimeclasses", &["get", "list", "watch"]),
    ("certificates.k8s.io", "certificatesigningrequests", &["create", "get", "list", "watch"]),
    ("authentication.k8s.io", "tokenreviews", &["create"]),
    ("authorization.k8s.io", "subjectaccessreviews", &["create"]),
    ("authorization.k8s.io", "localsubjectaccessreviews", &["create"]),
];

/// Whether `node` may do this by being a node.
pub fn authorize(pods: &impl NodePods, node: &str, attributes: &Attributes<'_>) -> Decision {
    let Target::Resource { group, resource, subresource, namespace, name, selected } = attributes.target else {
        return no("");
    };
    let verb = attributes.verb;
    let selects = |field: &str, value: &str| selected.iter().any(|(f, v)| f == field && v == value);
    if subresource.is_empty()
        && COMMON.iter().any(|(g, r, verbs)| *g == group && *r == resource && verbs.contains(&verb))
    {
        return yes();
    }
    match (group, resource, subresource) {
        ("", "nodes", "" | "status") if matches!(verb, "update" | "patch" | "delete") => own(name == node),
        ("", "pods", "") if verb == "get" => own(pods.is_on(node, namespace, name)),
        ("", "pods", "") if matches!(verb, "list" | "watch") => {
            if selects("spec.nodeName", node) || (!name.is_empty() && pods.is_on(node, namespace, name)) {
                yes()
            } else {
                no("can only list/watch pods with spec.nodeName field selector")
            }
        }
        ("", "pods", "") if verb == "delete" => own(pods.is_on(node, namespace, name)),
        ("", "pods", "status") if matches!(verb, "get" | "update" | "patch") => own(pods.is_on(node, namespace, name)),
        ("", "pods", "eviction") if verb == "create" => own(pods.is_on(node, namespace, name)),
        ("", "secrets" | "configmaps" | "persistentvolumeclaims", "") => match verb {
            "get" | "list" | "watch" if name.is_empty() => no("No Object name found"),
            "get" | "list" | "watch" if pods.refers(node, resource, namespace, name) => yes(),
            "get" | "list" | "watch" => no(&format!("no relationship found between node '{node}' and this object")),
            _ => no("can only read resources of this type"),
        },
        ("", "serviceaccounts", "token") if verb == "create" => {
            if pods.refers(node, resource, namespace, name) {
                yes()
            } else {
                no(&format!("no relationship found between node '{node}' and this object"))
            }
        }
        ("coordination.k8s.io", "leases", "") => {
            own(namespace == "kube-node-lease" && (name == node || verb == "create"))
        }
        ("storage.k8s.io", "csinodes", "") => own(name == node || verb == "create"),
        _ => no(""),
    }
}

fn yes() -> Decision {
    Decision::Allow { reason: String::new() }
}

fn no(reason: &str) -> Decision {
    Decision::NoOpinion { reason: reason.to_owned() }
}

fn own(own: bool) -> Decision {
    if own { yes() } else { no("can only access objects of its own") }
}
