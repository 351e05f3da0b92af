//! Validation: what an object must be beyond having the right fields, and what may change in it, in the words kubectl shows.
//!
//! Pure and complete: all problems of an object are found in one pass, so a user fixes a manifest once. What depends on other
//! objects (quota, allocated ports, existing owners) is admission's. Defaults are applied before.
//!
//! Fields and texts follow the Kubernetes API reference and the messages of kube-apiserver 1.36; clients match on them.

mod admission;
mod config;
mod container;
mod custom;
mod job;
mod meta;
mod network;
mod pod;
mod pod_update;
mod policy;
mod probe;
mod rbac;
mod resources;
mod scheduling;
mod service;
mod storage;
mod support;
mod volume;
mod warnings;
mod workloads;

use serde_json::Value;

use crate::Resource;
use crate::status::FieldError;

pub use warnings::warnings;

pub(crate) use support::{Errors, Get, Path, node};

/// The port range that Services of type NodePort get their ports from, as the API server is started with.
pub const NODE_PORTS: std::ops::RangeInclusive<i64> = 30_000..=32_767;

/// The problems of an object about to be created; none for a valid one. `object` has its name, namespace and defaults.
pub fn create(resource: &Resource, object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    meta::create(&mut errors, resource, object);
    body(&mut errors, resource, object, None);
    schema(&mut errors, resource, object, None);
    errors.finish()
}

/// The problems of an update of the object itself, or of a subresource (`status`, `ephemeralcontainers`, `resize`).
pub fn update(resource: &Resource, subresource: Option<&str>, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    meta::update(&mut errors, new, old);
    match subresource {
        Some("status" | "approval" | "finalize") => {}
        Some(subresource) => pod_update::subresource(&mut errors, subresource, new, old),
        None => {
            meta::create(&mut errors, resource, new);
            body(&mut errors, resource, new, Some(old));
        }
    }
    schema(&mut errors, resource, new, Some(old));
    errors.finish()
}

/// What a custom resource's schema says. A problem that the old object had as well is not the update's: a definition may
/// have become stricter since.
fn schema(errors: &mut Errors, resource: &Resource, object: &Value, old: Option<&Value>) {
    let Some(custom) = &resource.custom else { return };
    let problems = crate::crd::validate(object, &custom.schema);
    if problems.is_empty() {
        return;
    }
    let known = old.map(|old| crate::crd::validate(old, &custom.schema)).unwrap_or_default();
    for problem in problems.into_iter().filter(|problem| !known.contains(problem)) {
        errors.push(problem);
    }
}

/// Everything below the metadata. `old` is there for updates.
fn body(errors: &mut Errors, resource: &Resource, object: &Value, old: Option<&Value>) {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => match old {
            None => pod::pod(errors, object),
            Some(old) => pod_update::update(errors, object, old),
        },
        ("", "podtemplates") => pod::template(errors, object, &Path::root("template"), None),
        ("", "replicationcontrollers") => workloads::replication_controller(errors, object),
        ("", "services") => service::service(errors, object, old),
        ("", "configmaps") => config::config_map(errors, object, old),
        ("", "secrets") => config::secret(errors, object, old),
        ("", "nodes") => config::node(errors, object, old),
        ("", "resourcequotas") => config::resource_quota(errors, object, old),
        ("", "limitranges") => config::limit_range(errors, object),
        ("", "persistentvolumes") => storage::persistent_volume(errors, object, old),
        ("", "persistentvolumeclaims") => storage::persistent_volume_claim(errors, object, old),
        ("", "endpoints") => network::endpoints(errors, object),
        ("", "events") => config::event(errors, object),
        ("apps", "deployments") => workloads::deployment(errors, object, old),
        ("apps", "replicasets") => workloads::replica_set(errors, object, old),
        ("apps", "statefulsets") => workloads::stateful_set(errors, object, old),
        ("apps", "daemonsets") => workloads::daemon_set(errors, object, old),
        ("apps", "controllerrevisions") => config::controller_revision(errors, object, old),
        ("batch", "jobs") => job::job(errors, object, old),
        ("batch", "cronjobs") => job::cron_job(errors, object),
        ("policy", "poddisruptionbudgets") => policy::disruption_budget(errors, object),
        ("autoscaling", "horizontalpodautoscalers") => policy::autoscaler(errors, object),
        ("scheduling.k8s.io", "priorityclasses") => policy::priority_class(errors, object, old),
        ("coordination.k8s.io", "leases") => policy::lease(errors, object),
        ("networking.k8s.io", "ingresses") => network::ingress(errors, object),
        ("networking.k8s.io", "ingressclasses") => network::ingress_class(errors, object, old),
        ("networking.k8s.io", "networkpolicies") => network::network_policy(errors, object),
        ("discovery.k8s.io", "endpointslices") => network::endpoint_slice(errors, object, old),
        ("rbac.authorization.k8s.io", "roles") => rbac::role(errors, object, true),
        ("rbac.authorization.k8s.io", "clusterroles") => rbac::role(errors, object, false),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            rbac::binding(errors, object, old, resource.namespaced);
        }
        ("storage.k8s.io", "storageclasses") => storage::storage_class(errors, object, old),
        ("storage.k8s.io", "csidrivers") => storage::csi_driver(errors, object, old),
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations") => {
            admission::webhooks(errors, object, false);
        }
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations") => admission::webhooks(errors, object, true),
        ("node.k8s.io", "runtimeclasses") => policy::runtime_class(errors, object, old),
        ("apiextensions.k8s.io", "customresourcedefinitions") => custom::definition(errors, object, old),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
