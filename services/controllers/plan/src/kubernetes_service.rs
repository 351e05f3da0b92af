//! Keeps the Service `default/kubernetes` with its Endpoints and EndpointSlice: pods find the API server by it, so a cluster in
//! which somebody deleted or changed it would not mend itself otherwise. Upstream the API server does the same for itself.

use std::net::Ipv4Addr;
use std::sync::Arc;

use galley_kube::kubernetes_service::objects;
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::action::{Action, Plan};
use crate::endpoints::slices;
use crate::meta;

/// What events and audit call the controller.
pub const COMPONENT: &str = "kubernetes-service-controller";

/// The three objects as they should be, or as they are.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// `services`
    pub service: Option<Arc<Service>>,
    /// `endpoints`
    pub endpoints: Option<Arc<Endpoints>>,
    /// `endpointslices.discovery.k8s.io`
    pub slice: Option<Arc<EndpointSlice>>,
}

impl Objects {
    /// As they should be when the Service is at `address`.
    pub fn at(address: Ipv4Addr) -> Self {
        let [(_, service), (_, endpoints), (_, slice)] = objects(address);
        Self { service: Some(typed(service)), endpoints: Some(typed(endpoints)), slice: Some(typed(slice)) }
    }
}

fn typed<T: DeserializeOwned>(object: Value) -> Arc<T> {
    match serde_json::from_value(object) {
        Ok(object) => Arc::new(object),
        Err(error) => unreachable!("the objects are constants: {error}"),
    }
}

/// What a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The namespace `default`, if it is there.
    pub namespace: Option<Arc<Namespace>>,
    /// What should be.
    pub wanted: Objects,
    /// What is.
    pub found: Objects,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is not there.
    Missing,
    /// It leads somewhere else.
    Differs,
    /// The Service has another address, which cannot be changed: it must be made anew.
    OtherAddress,
    /// All is as it should be.
    AsWanted,
    /// The namespace is not there (yet).
    NoNamespace,
}

/// Observed -> actions. Labels and annotations that users add stay; what says where the API server is, is put right.
pub fn plan(observed: &Observed) -> Plan<Reason> {
    let Some(namespace) = observed.namespace.as_deref() else { return Plan::nothing(Reason::NoNamespace) };
    let namespace = meta::name(&namespace.metadata);
    let mut plan = Plan::new();
    let Observed { wanted, found, .. } = observed;
    match (wanted.service.as_deref(), found.service.as_deref()) {
        (Some(wanted), None) => {
            plan.push(Action::create("services", namespace, meta::to_value(wanted), Reason::Missing));
        }
        (Some(wanted), Some(found)) if !meta::is_deleting(&found.metadata) => {
            plan.phases.extend(mended(wanted, found).map(|action| vec![action]));
        }
        _ => {}
    }
    match (wanted.endpoints.as_deref(), found.endpoints.as_deref()) {
        (Some(wanted), None) => {
            plan.push(Action::create("endpoints", namespace, meta::to_value(wanted), Reason::Missing));
        }
        (Some(wanted), Some(found)) => {
            let labels = merged(found.metadata.labels.as_ref(), wanted.metadata.labels.as_ref());
            if found.subsets != wanted.subsets || found.metadata.labels != labels {
                let mut fixed = Endpoints { subsets: wanted.subsets.clone(), ..found.clone() };
                fixed.metadata.labels = labels;
                plan.push(Action::update("endpoints", &found.metadata, &fixed, Reason::Differs));
            }
        }
        _ => {}
    }
    match (wanted.slice.as_deref(), found.slice.as_deref()) {
        (Some(wanted), None) => {
            plan.push(Action::create(slices::RESOURCE, namespace, meta::to_value(wanted), Reason::Missing));
        }
        (Some(wanted), Some(found)) => {
            let labels = merged(found.metadata.labels.as_ref(), wanted.metadata.labels.as_ref());
            if found.endpoints != wanted.endpoints || found.ports != wanted.ports || found.metadata.labels != labels {
                let (endpoints, ports) = (wanted.endpoints.clone(), wanted.ports.clone());
                let mut fixed = EndpointSlice { endpoints, ports, ..found.clone() };
                fixed.metadata.labels = labels;
                plan.push(Action::update(slices::RESOURCE, &found.metadata, &fixed, Reason::Differs));
            }
        }
        _ => {}
    }
    plan.or_nothing(Reason::AsWanted)
}

fn mended(wanted: &Service, found: &Service) -> Option<Action<Reason>> {
    let (want, have) = (wanted.spec.as_ref()?, found.spec.clone().unwrap_or_default());
    if have.cluster_ip != want.cluster_ip {
        return Some(Action::delete("services", &found.metadata, Reason::OtherAddress));
    }
    let selects = have.selector.as_ref().is_some_and(|selector| !selector.is_empty());
    if have.ports == want.ports && have.type_ == want.type_ && !selects {
        return None;
    }
    let mut fixed = found.clone();
    // The whole of it: a type other than ClusterIP brings fields along that are not allowed without it.
    fixed.spec = Some(want.clone());
    Some(Action::update("services", &found.metadata, &fixed, Reason::Differs))
}

/// What is there, with what must be there.
fn merged(found: Option<&meta::Labels>, wanted: Option<&meta::Labels>) -> Option<meta::Labels> {
    let mut labels = found.cloned().unwrap_or_default();
    labels.extend(wanted.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
    Some(labels)
}

#[cfg(test)]
mod tests {
    use galley_kube::kubernetes_service::{NAME, NAMESPACE};
    use serde_json::json;

    use super::*;
    use crate::world::World;

    fn observe(world: &World) -> Plan<Reason> {
        plan(&Observed {
            namespace: world.get("namespaces", "", NAMESPACE),
            wanted: Objects::at(Ipv4Addr::new(10, 96, 0, 1)),
            found: Objects {
                service: world.get("services", NAMESPACE, NAME),
                endpoints: world.get("endpoints", NAMESPACE, NAME),
                slice: world.get(slices::RESOURCE, NAMESPACE, NAME),
            },
        })
    }

    fn endpoints(world: &World) -> Value {
        meta::to_value(&*world.get::<Endpoints>("endpoints", NAMESPACE, NAME).expect("there"))["subsets"].clone()
    }

    #[test]
    fn the_api_servers_addresses_are_made_and_mended() {
        let mut world = World::new();
        assert_eq!(observe(&world).nothing, Some(Reason::NoNamespace));
        world.create("namespaces", &json!({"metadata": {"name": NAMESPACE}}));
        world.settle(observe);
        assert_eq!(observe(&world).nothing, Some(Reason::AsWanted));
        let right = json!([{"addresses": [{"ip": "10.96.0.1"}], "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}]}]);
        assert_eq!(endpoints(&world), right);

        world.edit("endpoints", NAMESPACE, NAME, |o| o["subsets"][0]["addresses"][0]["ip"] = json!("192.0.2.1"));
        world.edit(slices::RESOURCE, NAMESPACE, NAME, |o| o["endpoints"] = json!([]));
        world.edit("services", NAMESPACE, NAME, |o| {
            o["metadata"]["labels"]["mine"] = json!("kept");
            o["spec"]["selector"] = json!({"app": "forged"});
        });
        world.settle(observe);
        assert_eq!(endpoints(&world), right);
        let service = world.get::<Service>("services", NAMESPACE, NAME).expect("there");
        assert!(service.spec.as_ref().is_some_and(|spec| spec.selector.is_none()));
        assert_eq!(meta::label(&service.metadata, "mine"), Some("kept"));
        let slice = world.get::<EndpointSlice>(slices::RESOURCE, NAMESPACE, NAME).expect("there");
        let endpoint = slice.endpoints.as_ref().and_then(|all| all.first()).expect("an endpoint");
        assert_eq!(endpoint.addresses, ["10.96.0.1"]);
    }

    #[test]
    fn a_service_at_another_address_is_made_anew() {
        let mut world = World::new();
        world.create("namespaces", &json!({"metadata": {"name": NAMESPACE}}));
        let spec = json!({"clusterIP": "10.96.3.4", "ports": [{"port": 443}]});
        world.create("services", &json!({"metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": spec}));
        world.settle(observe);
        let service = world.get::<Service>("services", NAMESPACE, NAME).expect("there");
        assert_eq!(service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()), Some("10.96.0.1"));
    }
}
