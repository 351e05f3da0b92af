//! The `Endpoints` object of a Service with a selector: what clients from before EndpointSlices read.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};

use super::{
    ENDPOINTS_MANAGER, HEADLESS, Reason, address, families, has_endpoint, hostname, inherited, is_headless, ports,
    target,
};
use crate::action::Action;
use crate::{meta, pod};

/// Where Endpoints are.
pub const RESOURCE: &str = "endpoints";
/// What the label `endpoints.kubernetes.io/managed-by` says.
const MANAGER: &str = "endpoint-controller";
/// More addresses than this are left out, and the object says so.
const CAPACITY: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// What is to be done about the Service's Endpoints.
pub fn plan(service: &Service, pods: &[Arc<Pod>], existing: Option<&Endpoints>) -> Option<Action<Reason>> {
    let spec = service.spec.as_ref()?;
    let (subsets, truncated) = subsets(service, pods);
    let subsets = if subsets.is_empty() { None } else { Some(subsets) };
    let mut labels = inherited(service.metadata.labels.as_ref());
    labels.insert(ENDPOINTS_MANAGER.into(), MANAGER.into());
    if is_headless(spec) {
        labels.insert(HEADLESS.into(), String::new());
    }
    let mut wanted = existing.cloned().unwrap_or_default();
    wanted.subsets = subsets;
    wanted.metadata.labels = Some(labels);
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    if truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    if annotations.is_empty() {
        wanted.metadata.annotations = None;
    }
    match existing {
        Some(existing) => {
            let same = existing.subsets.clone().unwrap_or_default() == wanted.subsets.clone().unwrap_or_default()
                && existing.metadata.labels == wanted.metadata.labels
                && existing.metadata.annotations.clone().unwrap_or_default()
                    == wanted.metadata.annotations.clone().unwrap_or_default();
            (!same).then(|| Action::update(RESOURCE, &existing.metadata, &wanted, Reason::Differs))
        }
        None => {
            wanted.metadata.name = service.metadata.name.clone();
            wanted.metadata.namespace = service.metadata.namespace.clone();
            let body = meta::to_value(&wanted);
            Some(Action::create(RESOURCE, meta::namespace(&service.metadata), body, Reason::Missing))
        }
    }
}

type Ports = Vec<(Option<String>, i32, String, Option<String>)>;
type ByReadiness = (Vec<EndpointAddress>, Vec<EndpointAddress>);

/// Subsets, and whether some addresses did not fit.
fn subsets(service: &Service, candidates: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let Some(spec) = &service.spec else { return Default::default() };
    let publish_all = spec.publish_not_ready_addresses.unwrap_or(false);
    let family = families(spec).swap_remove(0);
    let mut sets: BTreeMap<Ports, ByReadiness> = BTreeMap::new();
    let mut left = CAPACITY;
    let mut truncated = false;
    // Ready ones first, so that what is left out is what nobody can use.
    let mut order: Vec<&Arc<Pod>> = candidates.iter().collect();
    order.sort_by_key(|p| (!pod::is_ready(p), address(p, &family).and_then(|ip| ip.parse::<IpAddr>().ok())));
    for candidate in order {
        if !has_endpoint(candidate) || (meta::is_deleting(&candidate.metadata) && !publish_all) {
            continue;
        }
        let Some(ip) = address(candidate, &family) else { continue };
        let found = ports(spec, candidate);
        if found.is_empty() && !(is_headless(spec) && spec.ports.as_ref().is_none_or(Vec::is_empty)) {
            continue;
        }
        if left == 0 {
            truncated = true;
            break;
        }
        left -= 1;
        let key: Ports = found
            .iter()
            .map(|(port, number)| {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
                (port.name.clone().filter(|n| !n.is_empty()), *number, protocol, port.app_protocol.clone())
            })
            .collect();
        let entry = EndpointAddress {
            ip: ip.into(),
            node_name: pod::node(candidate).map(str::to_owned),
            hostname: hostname(service, candidate),
            target_ref: Some(target(candidate)),
        };
        let (ready, not_ready) = sets.entry(key).or_default();
        if publish_all || pod::is_ready(candidate) { ready.push(entry) } else { not_ready.push(entry) }
    }
    let some = |list: Vec<EndpointAddress>| if list.is_empty() { None } else { Some(list) };
    let subsets = sets
        .into_iter()
        .map(|(ports, (ready, not_ready))| EndpointSubset {
            addresses: some(ready),
            not_ready_addresses: some(not_ready),
            ports: if ports.is_empty() {
                None
            } else {
                let port = |(name, port, protocol, app_protocol)| EndpointPort {
                    name,
                    port,
                    protocol: Some(protocol),
                    app_protocol,
                };
                Some(ports.into_iter().map(port).collect())
            },
        })
        .collect();
    (subsets, truncated)
}
