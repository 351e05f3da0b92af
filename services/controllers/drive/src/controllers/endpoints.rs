//! Endpoints and EndpointSlices: see `galley_controllers_plan::endpoints`.

use std::collections::{BTreeMap, HashSet};

use galley_controllers_plan::endpoints::{self, SLICE_MANAGER, is_selecting, mirror, slice, slices};
use galley_controllers_plan::{Plan, meta, pod};
use galley_store::{DecodeError, EventKind, ObjectKey};
use k8s_openapi::api::core::v1::{Endpoints as EndpointsObject, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::controller::{Context, Controller, Wake};
use crate::view::{Change, Seen, View};

const ZONE: &str = "topology.kubernetes.io/zone";

/// Fills in the addresses of Services with a selector, in both forms.
#[derive(Debug, Default)]
pub struct Endpoints {
    /// Services that were deleted: their Endpoints have no owner that would take them along.
    deleted: HashSet<ObjectKey>,
}

/// Mirrors Endpoints that users write.
#[derive(Debug)]
pub struct EndpointsMirror;

impl Controller for Endpoints {
    fn name(&self) -> &'static str {
        slice::COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, view: &View, wake: &mut Wake) {
        let key = change.key();
        match change.resource() {
            "services" => {
                if change.kind == EventKind::Deleted {
                    self.deleted.insert(key.clone());
                } else {
                    self.deleted.remove(key);
                }
                wake.key(key.clone());
            }
            "endpoints" if view.get("services", &key.namespace, &key.name).is_some() => {
                wake.object("services", &key.namespace, &key.name);
            }
            slices::RESOURCE if manager(change.now) == Some(slice::MANAGER) => {
                if let Some(service) = change.now.object.labels.get(endpoints::SERVICE_NAME) {
                    wake.object("services", &key.namespace, service);
                }
            }
            "pods" => wake_services(change, view, wake),
            "nodes" => {
                let zone = |seen: &Seen| seen.object.labels.get(ZONE).map(str::to_owned);
                if change.before.and_then(zone) != zone(change.now) {
                    for seen in view.all("services") {
                        wake.key(seen.object.key.clone());
                    }
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let view = context.view;
        let service = view.typed::<Service>(key)?;
        let deleted = self.deleted.remove(key);
        let existing = view.get("endpoints", &key.namespace, &key.name);
        let mut observed = slice::Observed {
            deleted,
            endpoints: existing.map(|seen| seen.object.typed::<EndpointsObject>()).transpose()?,
            ..slice::Observed::default()
        };
        let spec = service.as_ref().and_then(|s| s.spec.as_ref()).filter(|spec| is_selecting(spec));
        if let Some(spec) = spec {
            let selector = LabelSelector { match_labels: spec.selector.clone(), ..LabelSelector::default() };
            let mut nodes = HashSet::new();
            for seen in view.selected_pods(&key.namespace, &selector) {
                let pod = seen.object.typed::<Pod>()?;
                nodes.extend(pod::node(&pod).map(str::to_owned));
                observed.pods.push(pod);
            }
            observed.slices = managed_slices(view, key, slice::MANAGER)?;
            observed.zones = nodes.into_iter().filter_map(|node| zone_of(view, node)).collect::<BTreeMap<_, _>>();
        }
        observed.service = service;
        let plan = slice::plan(&observed).explain();
        if deleted && !plan.is_quiet() {
            self.deleted.insert(key.clone());
        }
        Ok(plan)
    }
}

impl Controller for EndpointsMirror {
    fn name(&self) -> &'static str {
        mirror::COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, _: &View, wake: &mut Wake) {
        let key = change.key();
        match change.resource() {
            "endpoints" => wake.key(key.clone()),
            "services" => wake.object("endpoints", &key.namespace, &key.name),
            slices::RESOURCE if manager(change.now) == Some(mirror::MANAGER) => {
                if let Some(service) = change.now.object.labels.get(endpoints::SERVICE_NAME) {
                    wake.object("endpoints", &key.namespace, service);
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let service = context.view.get("services", &key.namespace, &key.name);
        let observed = mirror::Observed {
            endpoints: context.view.typed(key)?,
            service: service.map(|seen| seen.object.typed()).transpose()?,
            slices: managed_slices(context.view, key, mirror::MANAGER)?,
        };
        Ok(mirror::plan(&observed).explain())
    }
}

fn manager(slice: &Seen) -> Option<&str> {
    slice.object.labels.get(SLICE_MANAGER)
}

fn managed_slices(
    view: &View,
    service: &ObjectKey,
    by: &str,
) -> Result<Vec<std::sync::Arc<EndpointSlice>>, DecodeError> {
    let owner = match by {
        slice::MANAGER => "services",
        _ => "endpoints",
    };
    let of_service = |seen: &&Seen| {
        seen.object.labels.get(endpoints::SERVICE_NAME) == Some(&*service.name) && manager(seen) == Some(by)
    };
    // By owner, so that a namespace full of slices is not scanned for each Service; orphaned ones go with their owner.
    match view.get(owner, &service.namespace, &service.name) {
        Some(owner) => view
            .owned_by(&owner.object.uid)
            .filter(|seen| seen.object.key.resource.as_str() == slices::RESOURCE)
            .filter(of_service)
            .map(|seen| seen.object.typed())
            .collect(),
        None => Ok(Vec::new()),
    }
}

fn zone_of(view: &View, node: String) -> Option<(String, String)> {
    let zone = view.get("nodes", "", &node)?.object.labels.get(ZONE)?.to_owned();
    Some((node, zone))
}

/// Services that select the pod, now or before, if the change is one that addresses tell of. Pods change often and most changes
/// concern no Service, so a pod is decoded only once one is found.
fn wake_services(change: &Change<'_>, view: &View, wake: &mut Wake) {
    let namespace = &change.key().namespace;
    let mut told_already = None;
    for seen in view.in_namespace("services", namespace) {
        let Ok(service) = seen.object.typed::<Service>() else { continue };
        let Some(spec) = service.spec.as_ref().filter(|spec| is_selecting(spec)) else { continue };
        let selects = |pod: &Seen| {
            let labels = &pod.object.labels;
            spec.selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
        };
        if selects(change.now) || change.before.is_some_and(selects) {
            if *told_already.get_or_insert_with(|| is_told_already(change)) {
                return;
            }
            wake.key(seen.object.key.clone());
        }
    }
}

/// Whether addresses say the same of the pod as before.
fn is_told_already(change: &Change<'_>) -> bool {
    change.before.is_some_and(|before| {
        before.object.labels == change.now.object.labels
            && match (change.now.object.typed::<Pod>(), before.object.typed::<Pod>()) {
                (Ok(now), Ok(old)) => told(&now) == told(&old),
                _ => false,
            }
    })
}

/// What of a pod its endpoints tell.
fn told(p: &Pod) -> impl PartialEq + '_ {
    let ips = p.status.as_ref().map(|s| (&s.pod_ip, &s.pod_ips));
    (ips, pod::node(p), pod::is_ready(p), pod::is_terminal(p), meta::is_deleting(&p.metadata))
}
