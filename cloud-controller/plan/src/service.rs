//! Services of type LoadBalancer.

use galley_cloud::{Address, HealthCheck, Listener, LoadBalancer, LoadBalancerName, Protocol, Target};
use k8s_openapi::api::core::v1::{Node, Service, ServiceSpec};

/// Holds a Service until its load balancer is gone.
pub const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// Nodes with this label take no traffic from outside.
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// Nodes with this taint are about to go.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// Why a plan is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Not of type LoadBalancer, and never was.
    NotALoadBalancer,
    /// `spec.loadBalancerClass` names somebody else.
    OfAnotherClass,
    /// It is being deleted.
    Deleted,
    /// It was of type LoadBalancer, and is not any more.
    NoLongerALoadBalancer,
    /// It has no port that nodes take.
    NoNodePorts,
    /// It needs a load balancer.
    Wanted,
}

/// One step. Steps are taken in order; when one fails, the rest is planned anew.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    FinalizerAdd,
    Ensure(LoadBalancer),
    /// Writes the address into the status, unless it is there already.
    StatusSet,
    Delete(LoadBalancerName),
    StatusClear,
    FinalizerRemove,
}

/// What to do, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub reason: Reason,
    pub actions: Vec<Action>,
}

fn of_ours(spec: &ServiceSpec, class: &str) -> bool {
    spec.load_balancer_class.as_deref().is_none_or(|wanted| wanted == class)
}

fn name(cluster: &str, service: &Service) -> LoadBalancerName {
    LoadBalancerName {
        cluster: cluster.into(),
        namespace: service.metadata.namespace.clone().unwrap_or_default(),
        service: service.metadata.name.clone().unwrap_or_default(),
    }
}

/// The load balancer that a Service asks for; `None` when it asks for none.
pub fn wanted(cluster: &str, service: &Service, nodes: &[impl std::ops::Deref<Target = Node>]) -> Option<LoadBalancer> {
    let spec = service.spec.as_ref()?;
    let number =
        |number: Option<i32>| number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0);
    let mut listeners: Vec<Listener> = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let protocol = match port.protocol.as_deref() {
                None | Some("TCP") => Protocol::Tcp,
                Some("UDP") => Protocol::Udp,
                Some(_) => return None,
            };
            Some(Listener { protocol, port: number(Some(port.port))?, node_port: number(port.node_port)? })
        })
        .collect();
    listeners.sort();
    if listeners.is_empty() {
        return None;
    }
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    let tcp = listeners.iter().find(|listener| listener.protocol == Protocol::Tcp);
    let health = match (local.then(|| number(spec.health_check_node_port)).flatten(), tcp) {
        (Some(port), _) => HealthCheck::Http { port },
        (None, Some(listener)) => HealthCheck::Tcp { port: listener.node_port },
        (None, None) => HealthCheck::None,
    };
    let mut targets: Vec<Target> = nodes.iter().filter_map(|node| target(node)).collect();
    targets.sort();
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    Some(LoadBalancer {
        name: name(cluster, service),
        listeners,
        targets,
        health,
        source_ranges: ranges.filter_map(|range| range.trim().parse().ok()).collect(),
        wanted_address: spec.load_balancer_ip.as_ref().and_then(|ip| ip.parse().ok()),
    })
}

fn target(node: &Node) -> Option<Target> {
    let labels = node.metadata.labels.as_ref();
    let excluded = labels.is_some_and(|labels| labels.contains_key(EXCLUDE));
    let leaving = node.metadata.deletion_timestamp.is_some()
        || node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key == TO_BE_DELETED);
    if excluded || leaving {
        return None;
    }
    // Whether a node is well is the health check's business: it is quicker than a condition.
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let address = addresses.iter().find(|address| address.type_ == "InternalIP")?.address.parse().ok()?;
    Some(Target { node: node.metadata.name.clone()?, address })
}

/// What to do about a Service, given the nodes of its cluster and the class of load balancers that is ours.
pub fn plan(cluster: &str, service: &Service, nodes: &[impl std::ops::Deref<Target = Node>], class: &str) -> Plan {
    let empty = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty);
    let held = service.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
    let deleted = service.metadata.deletion_timestamp.is_some();
    let balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let nothing = |reason| Plan { reason, actions: Vec::new() };
    let remove = |reason| {
        let mut actions = Vec::new();
        if held {
            actions.push(Action::Delete(name(cluster, service)));
            if !deleted && has_status(service) {
                actions.push(Action::StatusClear);
            }
            actions.push(Action::FinalizerRemove);
        }
        Plan { reason, actions }
    };
    if balanced && !of_ours(spec, class) {
        return nothing(Reason::OfAnotherClass);
    }
    if deleted {
        return remove(Reason::Deleted);
    }
    if !balanced {
        return if held { remove(Reason::NoLongerALoadBalancer) } else { nothing(Reason::NotALoadBalancer) };
    }
    let Some(wanted) = wanted(cluster, service, nodes) else { return nothing(Reason::NoNodePorts) };
    let finalizer = (!held).then_some(Action::FinalizerAdd);
    let actions = finalizer.into_iter().chain([Action::Ensure(wanted), Action::StatusSet]).collect();
    Plan { reason: Reason::Wanted, actions }
}

fn has_status(service: &Service) -> bool {
    service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref())
        .and_then(|balancer| balancer.ingress.as_ref())
        .is_some_and(|ingress| !ingress.is_empty())
}

/// Whether the Service's status says this address and nothing else.
pub fn status_is(service: &Service, address: Address) -> bool {
    let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    let [only] = ingress.map(Vec::as_slice).unwrap_or_default() else { return false };
    only.ip.as_deref() == Some(&*address.ip.to_string()) && only.hostname.is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const CLASS: &str = "galley.dev/local";

    fn service(patch: Value) -> Service {
        let mut service = json!({
            "metadata": { "namespace": "default", "name": "web" },
            "spec": {
                "type": "LoadBalancer",
                "ports": [
                    { "port": 80, "nodePort": 30080, "protocol": "TCP" },
                    { "port": 53, "nodePort": 30053, "protocol": "UDP" },
                ],
            },
        });
        merge(&mut service, patch);
        serde_json::from_value(service).unwrap()
    }

    fn merge(into: &mut Value, patch: Value) {
        match (into, patch) {
            (Value::Object(into), Value::Object(patch)) => {
                for (key, value) in patch {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, patch) => *into = patch,
        }
    }

    fn node(name: &str, address: &str, patch: Value) -> Box<Node> {
        let mut node = json!({
            "metadata": { "name": name },
            "status": { "addresses": [{ "type": "Hostname", "address": name }, { "type": "InternalIP", "address": address }] },
        });
        merge(&mut node, patch);
        Box::new(serde_json::from_value(node).unwrap())
    }

    fn kinds(plan: &Plan) -> Vec<&'static str> {
        let kind = |action: &Action| match action {
            Action::FinalizerAdd => "finalizer",
            Action::Ensure(_) => "ensure",
            Action::StatusSet => "status",
            Action::Delete(_) => "delete",
            Action::StatusClear => "no status",
            Action::FinalizerRemove => "no finalizer",
        };
        plan.actions.iter().map(kind).collect()
    }

    #[test]
    fn each_kind_of_service_gets_its_steps_and_a_reason() {
        let held = json!({ "metadata": { "finalizers": [FINALIZER] } });
        let deleted = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [FINALIZER] } });
        let was = json!({
            "metadata": { "finalizers": [FINALIZER] },
            "spec": { "type": "ClusterIP" },
            "status": { "loadBalancer": { "ingress": [{ "ip": "10.0.0.1" }] } },
        });
        let cases: [(Value, Reason, &[&str]); 8] = [
            (json!({}), Reason::Wanted, &["finalizer", "ensure", "status"]),
            (held, Reason::Wanted, &["ensure", "status"]),
            (deleted, Reason::Deleted, &["delete", "no finalizer"]),
            (was, Reason::NoLongerALoadBalancer, &["delete", "no status", "no finalizer"]),
            (json!({ "spec": { "type": "NodePort" } }), Reason::NotALoadBalancer, &[]),
            (json!({ "spec": { "loadBalancerClass": "other.example" } }), Reason::OfAnotherClass, &[]),
            (json!({ "spec": { "loadBalancerClass": CLASS } }), Reason::Wanted, &["finalizer", "ensure", "status"]),
            (json!({ "spec": { "ports": [] } }), Reason::NoNodePorts, &[]),
        ];
        for (patch, reason, steps) in cases {
            let plan = plan("c", &service(patch.clone()), &[] as &[Box<Node>], CLASS);
            assert_eq!((plan.reason, kinds(&plan).as_slice()), (reason, steps), "{patch}");
        }
    }

    #[test]
    fn nodes_that_are_leaving_or_excluded_take_no_traffic() {
        let nodes = [
            node("b", "10.0.0.2", json!({})),
            node("a", "10.0.0.1", json!({})),
            node("excluded", "10.0.0.3", json!({ "metadata": { "labels": { EXCLUDE: "" } } })),
            node(
                "leaving",
                "10.0.0.4",
                json!({ "spec": { "taints": [{ "key": TO_BE_DELETED, "effect": "NoSchedule" }] } }),
            ),
            node("deleted", "10.0.0.5", json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } })),
            node("unborn", "not an address", json!({})),
        ];
        let balancer = wanted("c", &service(json!({})), &nodes).unwrap();
        let names: Vec<&str> = balancer.targets.iter().map(|target| target.node.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(balancer.health, HealthCheck::Tcp { port: 30080 });
    }

    #[test]
    fn a_local_policy_is_checked_at_its_own_port() {
        let spec = json!({ "spec": { "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000 } });
        let balancer = wanted("c", &service(spec), &[] as &[Box<Node>]).unwrap();
        assert_eq!(balancer.health, HealthCheck::Http { port: 31000 });
    }
}
