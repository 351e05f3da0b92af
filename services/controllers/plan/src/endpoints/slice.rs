//! The EndpointSlices of a Service with a selector.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};

use super::slices::{Group, Template, reconcile};
use super::{
    HEADLESS, Reason, SERVICE_NAME, SLICE_MANAGER, address, families, has_endpoint, hostname, inherited, is_headless,
    is_selecting, legacy, ports, target,
};
use crate::action::{Action, Plan};
use crate::{meta, pod};

/// What events and audit call the controller, and what its slices' managed-by label says.
pub const COMPONENT: &str = "endpointslice-controller";
/// The value of `endpointslice.kubernetes.io/managed-by`.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";

/// What a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The Service, if it is there.
    pub service: Option<Arc<Service>>,
    /// Whether it was there and is not any more (and not merely unknown).
    pub deleted: bool,
    /// Pods that its selector matches.
    pub pods: Vec<Arc<Pod>>,
    /// Its slices that this controller made.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// The Endpoints object of its name.
    pub endpoints: Option<Arc<Endpoints>>,
    /// Zones of nodes.
    pub zones: BTreeMap<String, String>,
}

/// Observed -> actions.
pub fn plan(observed: &Observed) -> Plan<Reason> {
    let Some(service) = observed.service.as_deref() else {
        let mut plan = Plan::new();
        if let Some(endpoints) = observed.endpoints.as_deref().filter(|_| observed.deleted) {
            plan.push(Action::delete(legacy::RESOURCE, &endpoints.metadata, Reason::ServiceGone));
        }
        return plan.or_nothing(Reason::ServiceGone);
    };
    let Some(spec) = service.spec.as_ref().filter(|spec| is_selecting(spec)) else {
        return Plan::nothing(Reason::NotSelecting);
    };
    if meta::is_deleting(&service.metadata) {
        return Plan::nothing(Reason::ServiceGone);
    }
    let name = meta::name(&service.metadata);
    let mut labels = inherited(service.metadata.labels.as_ref());
    labels.insert(SERVICE_NAME.into(), name.into());
    labels.insert(SLICE_MANAGER.into(), MANAGER.into());
    if is_headless(spec) {
        labels.insert(HEADLESS.into(), String::new());
    }
    let template = Template {
        namespace: meta::namespace(&service.metadata).into(),
        generate_name: format!("{name}-"),
        labels,
        owner: meta::controller_reference("v1", "Service", &service.metadata),
    };
    let groups = families(spec).iter().flat_map(|family| groups(service, observed, family)).collect();
    let mut plan = Plan::new();
    if let Some(action) = legacy::plan(service, &observed.pods, observed.endpoints.as_deref()) {
        plan.push(action);
    }
    reconcile(&template, groups, &observed.slices, &mut plan);
    plan.or_nothing(Reason::AsWanted)
}

/// One group for each list of ports that pods have; an empty one where there is nothing.
fn groups(service: &Service, observed: &Observed, family: &str) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let Some(spec) = &service.spec else { return groups };
    for candidate in observed.pods.iter().filter(|p| has_endpoint(p)) {
        let Some(ip) = address(candidate, family) else { continue };
        let ports: Vec<EndpointPort> = ports(spec, candidate)
            .into_iter()
            .map(|(port, number)| EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(number),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        let endpoint = endpoint(service, candidate, ip, &observed.zones);
        match groups.iter_mut().find(|g| g.ports == ports) {
            Some(group) => group.endpoints.push(endpoint),
            None => {
                groups.push(Group { address_type: family.into(), ports, endpoints: vec![endpoint] });
            }
        }
    }
    if groups.is_empty() {
        groups.push(Group { address_type: family.into(), ports: Vec::new(), endpoints: Vec::new() });
    }
    hint(spec.traffic_distribution.as_deref(), &mut groups);
    groups
}

fn endpoint(service: &Service, candidate: &Pod, ip: &str, zones: &BTreeMap<String, String>) -> Endpoint {
    let publish_all = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false);
    let serving = pod::is_ready(candidate);
    let terminating = meta::is_deleting(&candidate.metadata);
    let node = pod::node(candidate);
    Endpoint {
        addresses: vec![ip.into()],
        conditions: Some(EndpointConditions {
            ready: Some(publish_all || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, candidate),
        node_name: node.map(str::to_owned),
        target_ref: Some(target(candidate)),
        zone: node.and_then(|node| zones.get(node)).cloned(),
        ..Endpoint::default()
    }
}

/// `trafficDistribution`: each ready endpoint is for its own zone (and node).
fn hint(distribution: Option<&str>, groups: &mut [Group]) {
    let by_node = distribution == Some("PreferSameNode");
    if !by_node && !matches!(distribution, Some("PreferClose" | "PreferSameZone")) {
        return;
    }
    for endpoint in groups.iter_mut().flat_map(|g| &mut g.endpoints) {
        if endpoint.conditions.as_ref().and_then(|c| c.ready) != Some(true) {
            continue;
        }
        let zones = endpoint.zone.clone().map(|name| vec![ForZone { name }]);
        let nodes = endpoint.node_name.clone().filter(|_| by_node).map(|name| vec![ForNode { name }]);
        if zones.is_some() || nodes.is_some() {
            endpoint.hints = Some(EndpointHints { for_zones: zones, for_nodes: nodes });
        }
    }
}
