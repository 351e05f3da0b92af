//! EndpointSlice mirroring: who writes the Endpoints of a Service without selector by hand gets EndpointSlices for them, so
//! that everything else needs to read slices only.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};

use super::slices::{Group, Template, reconcile};
use super::{ENDPOINTS_MANAGER, Reason, SERVICE_NAME, SLICE_MANAGER, inherited};
use crate::action::Plan;
use crate::meta;

/// What events and audit call the controller.
pub const COMPONENT: &str = "endpointslice-mirroring-controller";
/// The value of `endpointslice.kubernetes.io/managed-by`.
pub const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Says that somebody makes the slices himself.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that are a lock, not addresses.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Addresses of one subset that are mirrored (kube-controller-manager's `--mirroring-max-endpoints-per-subset`).
const CAPACITY: usize = 1000;

/// What a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The Endpoints, if they are there.
    pub endpoints: Option<Arc<Endpoints>>,
    /// The Service of that name, if it is there.
    pub service: Option<Arc<Service>>,
    /// The slices that this controller made.
    pub slices: Vec<Arc<EndpointSlice>>,
}

/// Observed -> actions.
pub fn plan(observed: &Observed) -> Plan<Reason> {
    let mut plan = Plan::new();
    let mirrored = observed.endpoints.as_deref().filter(|endpoints| {
        let meta = &endpoints.metadata;
        let selects =
            |s: &Service| s.spec.as_ref().is_some_and(|spec| spec.selector.as_ref().is_some_and(|s| !s.is_empty()));
        !meta::is_deleting(meta)
            && meta::label(meta, SKIP) != Some("true")
            && meta::annotation(meta, LEADER).is_none()
            && meta::label(meta, ENDPOINTS_MANAGER).is_none()
            && observed.service.as_deref().is_some_and(|service| !selects(service))
    });
    let Some(endpoints) = mirrored else {
        for slice in observed.slices.iter().filter(|s| !meta::is_deleting(&s.metadata)) {
            plan.push(crate::Action::delete(super::slices::RESOURCE, &slice.metadata, Reason::Unused));
        }
        return plan.or_nothing(Reason::NotMirrored);
    };
    let name = meta::name(&endpoints.metadata);
    let mut labels = inherited(endpoints.metadata.labels.as_ref());
    labels.insert(SERVICE_NAME.into(), name.into());
    labels.insert(SLICE_MANAGER.into(), MANAGER.into());
    let template = Template {
        namespace: meta::namespace(&endpoints.metadata).into(),
        generate_name: format!("{name}-"),
        labels,
        owner: meta::controller_reference("v1", "Endpoints", &endpoints.metadata),
    };
    reconcile(&template, groups(endpoints), &observed.slices, &mut plan);
    plan.or_nothing(Reason::AsWanted)
}

fn groups(endpoints: &Endpoints) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|p| EndpointPort {
                name: Some(p.name.clone().unwrap_or_default()),
                port: Some(p.port),
                protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: p.app_protocol.clone(),
            })
            .collect();
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
        for (address, ready) in ready.chain(not_ready).take(CAPACITY) {
            let address_type = if address.ip.contains(':') { "IPv6" } else { "IPv4" };
            let endpoint = mirrored(address, ready);
            match groups.iter_mut().find(|g| g.address_type == address_type && g.ports == ports) {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group {
                    address_type: address_type.into(),
                    ports: ports.clone(),
                    endpoints: vec![endpoint],
                }),
            }
        }
    }
    groups
}

fn mirrored(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}
