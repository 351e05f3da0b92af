//! Defaults: what the API server fills in before an object is admitted, validated and stored, so that every reader sees the
//! same complete object. Applying them twice changes nothing.
//!
//! Source: the Kubernetes API reference ("Defaults to ..."), and what `kubectl get -o yaml` shows of an object that left the
//! fields out. What depends on other objects (service accounts, priority, cluster IPs) is admission's.

mod admission;
mod autoscaling;
mod core;
mod pod;
mod rbac;
mod storage;
mod workloads;

use serde_json::{Map, Value};

use crate::Resource;

pub use pod::{image_pull_policy, pod_template};

/// Fills in the defaults of an object in the version that `resource` names. Those of custom resources are in
/// their schema.
pub fn apply(resource: &Resource, object: &mut Value) {
    if let Some(custom) = &resource.custom {
        return crate::crd::apply_defaults(object, &custom.schema);
    }
    let Value::Object(members) = object else { return };
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pod::pod(members),
        ("", "podtemplates") => pod_template(members),
        ("", "replicationcontrollers") => workloads::replication_controller(members),
        ("", "services") => core::service(members),
        ("", "secrets") => core::secret(members),
        ("", "namespaces") => core::namespace(members),
        ("", "nodes") => core::node(members),
        ("", "endpoints") => core::endpoints(members),
        ("", "limitranges") => core::limit_range(members),
        ("", "persistentvolumes") => storage::persistent_volume(members),
        ("", "persistentvolumeclaims") => storage::persistent_volume_claim(members),
        ("apps", "deployments") => workloads::deployment(members),
        ("apps", "replicasets") => workloads::replica_set(members),
        ("apps", "statefulsets") => workloads::stateful_set(members),
        ("apps", "daemonsets") => workloads::daemon_set(members),
        ("batch", "jobs") => workloads::job(members),
        ("batch", "cronjobs") => workloads::cron_job(members),
        ("autoscaling", "horizontalpodautoscalers") => autoscaling::autoscaler(resource, members),
        ("policy", "poddisruptionbudgets") => workloads::disruption_budget(members),
        ("discovery.k8s.io", "endpointslices") => core::endpoint_slice(members),
        ("networking.k8s.io", "networkpolicies") => core::network_policy(members),
        ("networking.k8s.io", "ingresses") => core::ingress(members),
        ("networking.k8s.io", "ingressclasses") => core::ingress_class(members),
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") => rbac::role(members),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => rbac::binding(members),
        ("storage.k8s.io", "storageclasses") => storage::storage_class(members),
        ("storage.k8s.io", "csidrivers") => storage::csi_driver(members),
        ("scheduling.k8s.io", "priorityclasses") => set(members, "preemptionPolicy", "PreemptLowerPriority"),
        ("apiextensions.k8s.io", "customresourcedefinitions") => admission::custom_resource_definition(members),
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations") => admission::webhooks(members, false),
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations") => admission::webhooks(members, true),
        ("admissionregistration.k8s.io", "validatingadmissionpolicies" | "mutatingadmissionpolicies") => {
            admission::policy(members);
        }
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => set(child(members, "spec"), "matchingPrecedence", 1000),
        ("authentication.k8s.io", "tokenrequests") => set(child(members, "spec"), "expirationSeconds", 3600),
        _ => {}
    }
}

/// Sets a field that is absent.
fn set(object: &mut Map<String, Value>, key: &str, default: impl Into<Value>) {
    if !object.contains_key(key) {
        object.insert(key.to_owned(), default.into());
    }
}

/// The object in a field, made where it is absent.
fn child<'v>(object: &'v mut Map<String, Value>, key: &str) -> &'v mut Map<String, Value> {
    as_object(object.entry(key).or_insert_with(|| Value::Object(Map::new())))
}

fn as_object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(members) => members,
        _ => unreachable!("made an object just above"),
    }
}

/// The object in a field, if it is there.
fn get<'v>(object: &'v mut Map<String, Value>, key: &str) -> Option<&'v mut Map<String, Value>> {
    object.get_mut(key).and_then(Value::as_object_mut)
}

/// The objects in a list field; none when it is absent.
fn items<'v>(object: &'v mut Map<String, Value>, key: &str) -> impl Iterator<Item = &'v mut Map<String, Value>> {
    object.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

fn text<'v>(object: &'v Map<String, Value>, key: &str) -> &'v str {
    object.get(key).and_then(Value::as_str).unwrap_or("")
}

fn empty() -> Value {
    Value::Object(Map::new())
}

#[cfg(test)]
mod tests;
