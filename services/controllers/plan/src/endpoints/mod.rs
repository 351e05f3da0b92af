//! Endpoints and EndpointSlices: which addresses a Service stands for.
//!
//! ```text
//! Service + pods it selects ──> [legacy] one Endpoints object, ready and not ready apart
//!                           └─> [slice] EndpointSlices of at most 100 endpoints, one set for each list of ports
//! Endpoints of a Service without selector ──> [mirror] EndpointSlices with the same addresses
//! ```
//! Rules: Kubernetes documentation, 'Service', 'EndpointSlices', 'Pod termination and endpoints'.

pub mod legacy;
pub mod mirror;
pub mod slice;
pub mod slices;
#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::meta::{self, Labels};
use crate::pod;

/// Marks what belongs to a headless Service.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// Which Service a slice belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Which controller made a slice.
pub const SLICE_MANAGER: &str = "endpointslice.kubernetes.io/managed-by";
/// Which controller made an Endpoints object.
pub const ENDPOINTS_MANAGER: &str = "endpoints.kubernetes.io/managed-by";

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Addresses without an object that lists them.
    Missing,
    /// The object lists something else.
    Differs,
    /// An object that lists nothing any more.
    Unused,
    /// As it should be.
    AsWanted,
    /// Its user lists the addresses, or it stands for a name elsewhere.
    NotSelecting,
    /// The Service is gone.
    ServiceGone,
    /// These addresses are not to be mirrored.
    NotMirrored,
}

/// Whether the controllers fill in the Service's addresses.
pub fn is_selecting(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() != Some("ExternalName") && spec.selector.as_ref().is_some_and(|s| !s.is_empty())
}

fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// The Service's families, the primary first.
fn families(spec: &ServiceSpec) -> Vec<String> {
    match spec.ip_families.as_ref().filter(|f| !f.is_empty()) {
        Some(families) => families.clone(),
        None => {
            vec![if spec.cluster_ip.as_deref().is_some_and(|ip| ip.contains(':')) { "IPv6" } else { "IPv4" }.into()]
        }
    }
}

/// The pod's address of a family.
fn address<'a>(pod: &'a Pod, family: &str) -> Option<&'a str> {
    let status = pod.status.as_ref()?;
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut all = listed.chain(status.pod_ip.as_deref()).filter(|ip| !ip.is_empty());
    all.find(|ip| ip.contains(':') == (family == "IPv6"))
}

/// The number a port of the Service has in this pod.
fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(number)) => Some(if *number == 0 { port.port } else { *number }),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
            let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar));
            containers
                .flat_map(|c| c.ports.iter().flatten())
                .find(|p| p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol)
                .map(|p| p.container_port)
        }
    }
}

/// The Service's ports that the pod has, with their numbers there.
fn ports<'a>(service: &'a ServiceSpec, pod: &Pod) -> Vec<(&'a ServicePort, i32)> {
    service.ports.iter().flatten().filter_map(|port| Some((port, target_port(pod, port)?))).collect()
}

/// The name that a headless Service's DNS gives the pod.
fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let here = spec.subdomain.as_deref() == Some(meta::name(&service.metadata));
    spec.hostname.clone().filter(|hostname| here && !hostname.is_empty())
}

fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// Whether a pod belongs to its Services at all: running or about to, and with an address.
fn has_endpoint(candidate: &Pod) -> bool {
    !pod::is_terminal(candidate)
        && candidate.status.as_ref().is_some_and(|s| s.pod_ip.as_deref().is_some_and(|ip| !ip.is_empty()))
}

/// The Service's labels, but for those that tell about the object itself.
fn inherited(labels: Option<&Labels>) -> Labels {
    let reserved = [HEADLESS, SERVICE_NAME, SLICE_MANAGER, ENDPOINTS_MANAGER];
    labels
        .into_iter()
        .flatten()
        .filter(|(k, _)| !reserved.contains(&k.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}
