//! From what a request names to where it goes: which node, which address, which path.

use galley_kube::{Reason, Status};
use galley_store::{ClusterStore, Object, ObjectKey, Scope};
use http::Request;
use http::uri::PathAndQuery;
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::de::DeserializeOwned;
use std::sync::Arc;

use super::Connect;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Whose tunnel.
    pub node: String,
    /// What to speak to there.
    pub via: Via,
    /// Path and query of the request that is sent.
    pub path: PathAndQuery,
}

/// What is spoken to on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Via {
    /// The kubelet handler.
    Kubelet,
    /// A pod.
    Address { host: String, port: u16, tls: bool },
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resolved {
    Target(Target),
    /// There is nothing to see yet: an empty answer.
    Nothing,
    Redirect(String),
}

/// Finds the target of a request.
pub(crate) fn resolve<B>(store: &ClusterStore, to: &Connect, request: &Request<B>) -> Result<Resolved, Status> {
    let query = request.uri().query().unwrap_or_default();
    match to {
        Connect::Log { namespace, name } => {
            let pod = find::<Pod>(store, "pods", namespace, name)?;
            let container = container(&pod, name, query)?;
            let Some(node) = node_of(&pod) else { return Ok(Resolved::Nothing) };
            let kept = ["container=", "insecureSkipTLSVerifyBackend=", "pretty="];
            let query = pairs(query).filter(|pair| !kept.iter().any(|k| pair.starts_with(k)));
            kubelet(node, &format!("/containerLogs/{namespace}/{name}/{container}"), query.map(str::to_owned))
        }
        Connect::Exec { namespace, name } | Connect::Attach { namespace, name } => {
            let pod = find::<Pod>(store, "pods", namespace, name)?;
            let container = container(&pod, name, query)?;
            let verb = if matches!(to, Connect::Exec { .. }) { "exec" } else { "attach" };
            if verb == "exec" && !pairs(query).any(|pair| pair.starts_with("command=")) {
                return Err(Status::bad_request("you must specify at least one command for the container"));
            }
            let node = assigned(&pod, name)?;
            let query = pairs(query).filter_map(kubelet_parameter);
            kubelet(node, &format!("/{verb}/{namespace}/{name}/{container}"), query)
        }
        Connect::PortForward { namespace, name } => {
            let pod = find::<Pod>(store, "pods", namespace, name)?;
            let node = assigned(&pod, name)?;
            kubelet(node, &format!("/portForward/{namespace}/{name}"), pairs(query).map(str::to_owned))
        }
        Connect::Node { name, path } => {
            let name = split_name(name)?.name;
            find_object(store, "nodes", "", &name)?;
            if let Some(redirect) = redirect(path, request) {
                return Ok(redirect);
            }
            kubelet(name, path, pairs(query).map(str::to_owned))
        }
        Connect::Pod { namespace, name, path } => {
            let asked = split_name(name)?;
            let pod = find::<Pod>(store, "pods", namespace, &asked.name)?;
            if let Some(redirect) = redirect(path, request) {
                return Ok(redirect);
            }
            let node = assigned(&pod, &asked.name)?;
            let host = pod.status.as_ref().and_then(|s| s.pod_ip.clone()).filter(|ip| !ip.is_empty());
            let host = host.ok_or_else(|| Status::bad_request("address not allowed"))?;
            let port = match asked.port.as_deref() {
                Some(port) => port.parse().map_err(|_| invalid_port(port))?,
                None => first_port(&pod).unwrap_or(if asked.tls { 443 } else { 80 }),
            };
            address(node, host, port, asked.tls, path, query)
        }
        Connect::Service { namespace, name, path } => {
            let asked = split_name(name)?;
            let service = find::<Service>(store, "services", namespace, &asked.name)?;
            if let Some(redirect) = redirect(path, request) {
                return Ok(redirect);
            }
            let (node, host, port) = endpoint(store, namespace, &asked, &service)?;
            address(node, host, port, asked.tls, path, query)
        }
    }
}

fn kubelet(node: String, path: &str, query: impl Iterator<Item = String>) -> Result<Resolved, Status> {
    Ok(Resolved::Target(Target { node, via: Via::Kubelet, path: joined(path, query)? }))
}

fn address(node: String, host: String, port: u16, tls: bool, path: &str, query: &str) -> Result<Resolved, Status> {
    let path = joined(path, pairs(query).map(str::to_owned))?;
    Ok(Resolved::Target(Target { node, via: Via::Address { host, port, tls }, path }))
}

fn joined(path: &str, query: impl Iterator<Item = String>) -> Result<PathAndQuery, Status> {
    let query: Vec<String> = query.collect();
    let path = if path.is_empty() { "/" } else { path };
    let whole = if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) };
    whole.parse().map_err(|_| Status::bad_request(format!("invalid path {path:?}")))
}

fn pairs(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').filter(|pair| !pair.is_empty())
}

/// The kubelet's name of an exec or attach parameter.
fn kubelet_parameter(pair: &str) -> Option<String> {
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    let flag = |name: &str| {
        let set = !matches!(value, "" | "0" | "false" | "False" | "FALSE" | "f" | "F");
        set.then(|| format!("{name}=1"))
    };
    match key {
        "stdin" => flag("input"),
        "stdout" => flag("output"),
        "stderr" => flag("error"),
        "tty" => flag("tty"),
        "command" => Some(pair.to_owned()),
        _ => None,
    }
}

/// A relative link on the proxied page resolves only below `.../proxy/`.
fn redirect<B>(path: &str, request: &Request<B>) -> Option<Resolved> {
    let reads = matches!(*request.method(), http::Method::GET | http::Method::HEAD);
    if !path.is_empty() || !reads || request.headers().contains_key(http::header::UPGRADE) {
        return None;
    }
    let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    Some(Resolved::Redirect(format!("{}/{query}", request.uri().path())))
}

fn find_object(store: &ClusterStore, resource: &str, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
    let key = ObjectKey::new(&resource.into(), namespace, name);
    store.get(&key).ok_or_else(|| Status::not_found("", resource, name))
}

fn find<T>(store: &ClusterStore, resource: &str, namespace: &str, name: &str) -> Result<Arc<T>, Status>
where
    T: DeserializeOwned + Send + Sync + 'static,
{
    find_object(store, resource, namespace, name)?.typed::<T>().map_err(Status::internal)
}

fn node_of(pod: &Pod) -> Option<String> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty())
}

fn assigned(pod: &Pod, name: &str) -> Result<String, Status> {
    node_of(pod).ok_or_else(|| Status::bad_request(format!("pod {name} does not have a host assigned")))
}

/// The container that a request means. Texts: the API server's.
fn container(pod: &Pod, name: &str, query: &str) -> Result<String, Status> {
    let Some(spec) = &pod.spec else { return Err(Status::bad_request(format!("pod {name} has no spec"))) };
    let regular: Vec<&str> = spec.containers.iter().map(|c| c.name.as_str()).collect();
    let init: Vec<&str> = spec.init_containers.iter().flatten().map(|c| c.name.as_str()).collect();
    let ephemeral: Vec<&str> = spec.ephemeral_containers.iter().flatten().map(|c| c.name.as_str()).collect();
    let asked = pairs(query).find_map(|pair| pair.strip_prefix("container=")).filter(|asked| !asked.is_empty());
    match (asked, regular.as_slice()) {
        (Some(asked), _) if [&regular, &init, &ephemeral].iter().any(|names| names.contains(&asked)) => {
            Ok(asked.to_owned())
        }
        (Some(asked), _) => Err(Status::bad_request(format!("container {asked} is not valid for pod {name}"))),
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) => {
            let mut text =
                format!("a container name must be specified for pod {name}, choose one of: [{}]", regular.join(" "));
            if !init.is_empty() {
                text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            if !ephemeral.is_empty() {
                text.push_str(&format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" ")));
            }
            Err(Status::bad_request(text))
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Asked {
    tls: bool,
    name: String,
    port: Option<String>,
}

/// `[SCHEME:]NAME[:PORT]`.
fn split_name(text: &str) -> Result<Asked, Status> {
    let parts: Vec<&str> = text.split(':').collect();
    let port = |port: &str| Some(port.to_owned()).filter(|p| !p.is_empty());
    match parts.as_slice() {
        [name] => Ok(Asked { tls: false, name: (*name).to_owned(), port: None }),
        [name, number] => Ok(Asked { tls: false, name: (*name).to_owned(), port: port(number) }),
        ["" | "http", name, number] => Ok(Asked { tls: false, name: (*name).to_owned(), port: port(number) }),
        ["https", name, number] => Ok(Asked { tls: true, name: (*name).to_owned(), port: port(number) }),
        _ => Err(Status::bad_request(format!("invalid request {text:?}"))),
    }
}

fn invalid_port(port: &str) -> Status {
    Status::bad_request(format!("invalid port {port:?}"))
}

fn first_port(pod: &Pod) -> Option<u16> {
    let containers = &pod.spec.as_ref()?.containers;
    containers.iter().flat_map(|c| c.ports.iter().flatten()).find_map(|p| u16::try_from(p.container_port).ok())
}

fn unavailable(message: String) -> Status {
    Status::new(503, Reason::ServiceUnavailable, message)
}

/// A ready endpoint of the asked port: node, address, port.
fn endpoint(
    store: &ClusterStore,
    namespace: &str,
    asked: &Asked,
    service: &Service,
) -> Result<(String, String, u16), Status> {
    let ports: &[ServicePort] = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let matches = |port: &&ServicePort| match asked.port.as_deref() {
        None => true,
        Some(wanted) => port.name.as_deref() == Some(wanted) || wanted.parse() == Ok(port.port),
    };
    let port = match (asked.port.as_deref(), ports) {
        (None, [only]) => Some(only),
        (None, _) => ports.iter().find(|p| p.name.as_deref().unwrap_or_default().is_empty()),
        (Some(_), _) => ports.iter().find(matches),
    };
    let none = || unavailable(format!("no endpoints available for service {:?}", asked.name));
    let port = port.ok_or_else(|| {
        unavailable(format!(
            "no service port {:?} found for service {:?}",
            asked.port.as_deref().unwrap_or(""),
            asked.name
        ))
    })?;
    let scope = Scope { resource: "endpointslices.discovery.k8s.io".into(), namespace: Some(namespace.into()) };
    let mut candidates = Vec::new();
    for object in store.list(&scope).objects {
        if object.labels.get("kubernetes.io/service-name") != Some(asked.name.as_str()) {
            continue;
        }
        let slice = object.typed::<EndpointSlice>().map_err(Status::internal)?;
        let number = slice
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default())
            .and_then(|p| p.port)
            .or(match &port.target_port {
                Some(IntOrString::Int(number)) => Some(*number),
                _ => None,
            })
            .and_then(|number| u16::try_from(number).ok());
        let Some(number) = number else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            if let (true, Some(node), Some(address)) = (ready, endpoint.node_name.clone(), endpoint.addresses.first()) {
                candidates.push((node, address.clone(), number));
            }
        }
    }
    if candidates.is_empty() {
        return Err(none());
    }
    let chosen = rand::random_range(0..candidates.len());
    Ok(candidates.swap_remove(chosen))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_container_need_not_be_named_when_there_is_one() {
        let one =
            pod(serde_json::json!({"spec": {"containers": [{"name": "main"}], "initContainers": [{"name": "i"}]}}));
        assert_eq!(container(&one, "web", "follow=true").unwrap(), "main");
        assert_eq!(container(&one, "web", "container=i").unwrap(), "i");
        let wrong = container(&one, "web", "container=x").unwrap_err();
        assert_eq!((wrong.code, &*wrong.message), (400, "container x is not valid for pod web"));
        let two = pod(serde_json::json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}],
            "initContainers": [{"name": "i"}]}}));
        assert_eq!(
            container(&two, "web", "").unwrap_err().message,
            "a container name must be specified for pod web, choose one of: [a b] or one of the init containers: [i]"
        );
    }

    #[test]
    fn parameters_are_renamed_for_the_kubelet() {
        let query = "container=main&stdin=true&stdout=true&stderr=false&tty=1&command=ls&command=-l%20a";
        let renamed: Vec<String> = pairs(query).filter_map(kubelet_parameter).collect();
        assert_eq!(renamed, ["input=1", "output=1", "tty=1", "command=ls", "command=-l%20a"]);
    }

    #[test]
    fn names_carry_scheme_and_port() {
        let asked =
            |tls, name: &str, port: Option<&str>| Asked { tls, name: name.into(), port: port.map(str::to_owned) };
        assert_eq!(split_name("web").unwrap(), asked(false, "web", None));
        assert_eq!(split_name("web:80").unwrap(), asked(false, "web", Some("80")));
        assert_eq!(split_name("https:web:admin").unwrap(), asked(true, "web", Some("admin")));
        assert_eq!(split_name("http:web:").unwrap(), asked(false, "web", None));
        assert!(split_name("ftp:web:80").is_err());
    }
}
