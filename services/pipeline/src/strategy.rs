//! What each built-in resource does to its own objects on create and update, beside defaults: which parts a client may not
//! set, what an object starts with, and when `metadata.generation` counts up.

use galley_authz::Actor;
use galley_kube::Resource;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::value::{at, map_at, metadata, object_mut, root, text};

/// Which part of an object a write is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// The object itself: everything but what its subresources own.
    Main,
    /// A subresource that shows the same kind: `status`, `finalize`, `approval`, `resize`, `ephemeralcontainers`.
    Sub(&'a str),
}

impl<'a> Part<'a> {
    /// From the request's subresource.
    pub fn of(subresource: Option<&'a str>) -> Self {
        subresource.map_or(Self::Main, Self::Sub)
    }
}

/// Whether clients reach `status` only through the subresource.
pub fn has_status(resource: &Resource) -> bool {
    resource.subresources.iter().any(|sub| sub.name == "status")
}

/// Whether objects of this resource count their generation.
pub fn has_generation(resource: &Resource) -> bool {
    match resource.group.as_str() {
        "" => matches!(resource.plural.as_str(), "pods" | "replicationcontrollers" | "podtemplates"),
        "apps" => resource.plural != "controllerrevisions",
        "batch" | "admissionregistration.k8s.io" | "flowcontrol.apiserver.k8s.io" | "discovery.k8s.io" => true,
        "policy" | "apiextensions.k8s.io" => true,
        "networking.k8s.io" => matches!(resource.plural.as_str(), "ingresses" | "networkpolicies" | "ingressclasses"),
        "scheduling.k8s.io" => resource.plural == "priorityclasses",
        _ => resource.custom.is_some(),
    }
}

/// Prepares a decoded body for its creation: drops what a client may not set and gives the object its start.
pub fn prepare_create(resource: &Resource, actor: &Actor, now: Timestamp, object: &mut Value) {
    // A kubelet registers its node with a status; nobody else's status is believed on create.
    if has_status(resource) && !(resource.group.is_empty() && resource.plural == "nodes") {
        root(object).remove("status");
        if let Some(status) = initial_status(resource) {
            root(object).insert("status".into(), status);
        }
    }
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "namespaces") => {
            let spec = map_at(object, &["spec"]);
            let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
            if let Value::Array(list) = finalizers
                && !list.iter().any(|f| f == "kubernetes")
            {
                list.push(json!("kubernetes"));
            }
            let name = text(object, "/metadata/name").to_owned();
            map_at(object, &["metadata", "labels"]).insert("kubernetes.io/metadata.name".into(), json!(name));
        }
        ("", "pods") => start_pod(object),
        ("batch", "jobs") => own_job_selector(object),
        ("apiextensions.k8s.io", "customresourcedefinitions") => galley_kube::crd::establish(object, now),
        ("certificates.k8s.io", "certificatesigningrequests") => {
            let spec = map_at(object, &["spec"]);
            spec.insert("username".into(), json!(actor.username));
            spec.insert("groups".into(), json!(actor.groups));
            spec.remove("uid");
            spec.remove("extra");
            if !actor.uid.is_empty() {
                spec.insert("uid".into(), json!(actor.uid));
            }
            if !actor.extra.is_empty() {
                spec.insert("extra".into(), json!(actor.extra));
            }
        }
        _ => {}
    }
}

fn initial_status(resource: &Resource) -> Option<Value> {
    Some(match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods" | "persistentvolumes" | "persistentvolumeclaims") => json!({"phase": "Pending"}),
        ("", "namespaces") => json!({"phase": "Active"}),
        ("", "services") | ("networking.k8s.io", "ingresses") => json!({"loadBalancer": {}}),
        ("", "replicationcontrollers") | ("apps", "replicasets") => json!({"replicas": 0}),
        ("apps", "statefulsets") => json!({"replicas": 0, "availableReplicas": 0}),
        ("apps", "daemonsets") => {
            json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0})
        }
        ("policy", "poddisruptionbudgets") => {
            json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0})
        }
        ("autoscaling", "horizontalpodautoscalers") => json!({"desiredReplicas": 0, "currentMetrics": null}),
        _ if resource.custom.is_none() => json!({}),
        _ => return None,
    })
}

fn start_pod(pod: &mut Value) {
    let class = qos_class(pod);
    let gated = at(pod, "/spec/schedulingGates").and_then(Value::as_array).is_some_and(|gates| !gates.is_empty());
    let status = map_at(pod, &["status"]);
    status.insert("qosClass".into(), json!(class));
    if gated {
        status.insert(
            "conditions".into(),
            json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null, "lastTransitionTime": null}]),
        );
    }
    let spec = map_at(pod, &["spec"]);
    spec.remove("ephemeralContainers");
}

/// The pod's quality of service, from requests and limits of cpu and memory (Kubernetes docs, "Pod QoS Classes").
pub fn qos_class(pod: &Value) -> &'static str {
    let containers = ["/spec/containers", "/spec/initContainers"]
        .iter()
        .flat_map(|path| at(pod, path).and_then(Value::as_array).into_iter().flatten());
    let (mut any, mut guaranteed) = (false, true);
    for container in containers {
        for resource in ["cpu", "memory"] {
            let limit = quantity(container, "limits", resource);
            let request = quantity(container, "requests", resource);
            any |= limit.is_some() || request.is_some();
            // Defaulting copies a limit into an absent request, so both are there in a guaranteed container.
            guaranteed &= limit.is_some() && request.as_ref().is_none_or(|request| Some(request) == limit.as_ref());
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn quantity<'a>(container: &'a Value, list: &str, resource: &str) -> Option<&'a Value> {
    let value = container.get("resources")?.get(list)?.get(resource)?;
    (value != "0" && value != &json!(0)).then_some(value)
}

/// A Job without `manualSelector` selects its pods by its own uid, so that two Jobs never fight over one pod.
fn own_job_selector(job: &mut Value) {
    if job.pointer("/spec/manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    let (uid, name) = (text(job, "/metadata/uid").to_owned(), text(job, "/metadata/name").to_owned());
    let labels = map_at(job, &["spec", "template", "metadata", "labels"]);
    for (key, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("job-name", &name),
    ] {
        labels.insert(key.into(), json!(value));
    }
    map_at(job, &["spec", "selector", "matchLabels"]).insert("batch.kubernetes.io/controller-uid".into(), json!(uid));
}

/// Prepares an update of `part`: everything that this part does not own is put back to what `old` has.
pub fn prepare_update(resource: &Resource, part: Part<'_>, old: &Value, now: Timestamp, new: &mut Value) {
    keep_system_metadata(old, new);
    match part {
        Part::Main => {
            if has_status(resource) {
                restore(new, old, "status");
            }
            if resource.group.is_empty() && resource.plural == "namespaces" {
                // Namespaces lose `spec.finalizers` through `/finalize` only.
                let spec = old.get("spec").cloned();
                set_or_remove(root(new), "spec", spec);
                let name = text(old, "/metadata/name").to_owned();
                map_at(new, &["metadata", "labels"]).insert("kubernetes.io/metadata.name".into(), json!(name));
            }
            if resource.group.is_empty() && resource.plural == "pods" {
                let ephemeral = old.pointer("/spec/ephemeralContainers").cloned();
                set_or_remove(map_at(new, &["spec"]), "ephemeralContainers", ephemeral);
            }
            if resource.group == "apiextensions.k8s.io" {
                // Served from the moment it is stored: there is no controller that would have to notice.
                galley_kube::crd::establish(new, now);
            }
            if resource.group == "certificates.k8s.io" && resource.plural == "certificatesigningrequests" {
                restore(new, old, "spec");
            }
        }
        Part::Sub("status") => {
            let status = new.get("status").cloned();
            let updated = std::mem::replace(new, old.clone());
            set_or_remove(root(new), "status", status);
            carry_metadata_of_status_write(resource, &updated, new);
        }
        Part::Sub("finalize") => {
            let finalizers = new.pointer("/spec/finalizers").cloned();
            let updated = std::mem::replace(new, old.clone());
            set_or_remove(map_at(new, &["spec"]), "finalizers", finalizers.filter(|f| !f.is_null()));
            carry_managed_fields(&updated, new);
        }
        Part::Sub("approval") => {
            let conditions = new.pointer("/status/conditions").cloned();
            let updated = std::mem::replace(new, old.clone());
            set_or_remove(map_at(new, &["status"]), "conditions", conditions);
            carry_managed_fields(&updated, new);
        }
        Part::Sub("ephemeralcontainers") => {
            let ephemeral = new.pointer("/spec/ephemeralContainers").cloned();
            let updated = std::mem::replace(new, old.clone());
            set_or_remove(map_at(new, &["spec"]), "ephemeralContainers", ephemeral);
            carry_managed_fields(&updated, new);
        }
        Part::Sub("resize") => {
            let updated = std::mem::replace(new, old.clone());
            resize_containers(&updated, new);
            carry_managed_fields(&updated, new);
        }
        Part::Sub(_) => {}
    }
    if has_generation(resource) && matches!(part, Part::Main | Part::Sub("resize" | "ephemeralcontainers")) {
        let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        let changed = spec_changed(resource, old, new);
        metadata(new).insert("generation".into(), json!(if changed { generation + 1 } else { generation.max(1) }));
    }
}

fn resize_containers(updated: &Value, pod: &mut Value) {
    for list in ["containers", "initContainers"] {
        let Some(wanted) = updated.pointer(&format!("/spec/{list}")).and_then(Value::as_array) else { continue };
        let Some(Value::Array(containers)) = pod.pointer_mut(&format!("/spec/{list}")) else { continue };
        for container in containers {
            let Some(wanted) = wanted.iter().find(|w| w.get("name") == container.get("name")) else { continue };
            for key in ["resources", "resizePolicy"] {
                set_or_remove(root(container), key, wanted.get(key).cloned());
            }
        }
    }
}

/// Fields of metadata that only the API server writes, whatever an update's body says.
fn keep_system_metadata(old: &Value, new: &mut Value) {
    let none = Map::new();
    let old = old.get("metadata").and_then(Value::as_object).unwrap_or(&none);
    let metadata = metadata(new);
    for key in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "resourceVersion",
    ] {
        set_or_remove(metadata, key, old.get(key).cloned());
    }
    metadata.remove("selfLink");
    for key in ["labels", "annotations"] {
        if metadata.get(key).is_some_and(|v| v.is_null() || v.as_object().is_some_and(Map::is_empty)) {
            metadata.remove(key);
        }
    }
    for key in ["finalizers", "ownerReferences", "managedFields"] {
        if metadata.get(key).is_some_and(|v| v.is_null() || v.as_array().is_some_and(Vec::is_empty)) {
            metadata.remove(key);
        }
    }
}

/// A write of `status` may also change metadata for core kinds (a kubelet annotates its node so); apps and custom
/// resources keep theirs.
fn carry_metadata_of_status_write(resource: &Resource, updated: &Value, new: &mut Value) {
    if resource.group.is_empty() {
        let mut carried = updated.get("metadata").cloned().unwrap_or_default();
        if resource.plural == "pods"
            && let (Value::Object(carried), Some(owners)) = (&mut carried, new.pointer("/metadata/ownerReferences"))
        {
            carried.insert("ownerReferences".into(), owners.clone());
        }
        root(new).insert("metadata".into(), carried);
    } else {
        carry_managed_fields(updated, new);
    }
}

fn carry_managed_fields(updated: &Value, new: &mut Value) {
    let managed = updated.pointer("/metadata/managedFields").cloned();
    set_or_remove(metadata(new), "managedFields", managed);
}

fn restore(new: &mut Value, old: &Value, key: &str) {
    set_or_remove(root(new), key, old.get(key).cloned());
}

fn set_or_remove(map: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    match value {
        Some(value) => map.insert(key.into(), value),
        None => map.remove(key),
    };
}

fn spec_changed(resource: &Resource, old: &Value, new: &Value) -> bool {
    let none = Map::new();
    let (old, new) = (old.as_object().unwrap_or(&none), new.as_object().unwrap_or(&none));
    let counts =
        |key: &str| !matches!(key, "metadata" | "apiVersion" | "kind") && (key != "status" || !has_status(resource));
    old.keys().chain(new.keys()).any(|key| counts(key) && old.get(key) != new.get(key))
}

/// Gives `object` a fresh `metadata` for its creation. `object_mut` keeps what the client may choose.
pub fn start_metadata(resource: &Resource, namespace: &str, name: &str, uid: &str, now: Timestamp, object: &mut Value) {
    let metadata = object_mut(root(object), "metadata");
    for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation", "resourceVersion"] {
        metadata.remove(key);
    }
    metadata.retain(|_, value| match value {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    });
    metadata.insert("name".into(), json!(name));
    if resource.namespaced {
        metadata.insert("namespace".into(), json!(namespace));
    } else {
        metadata.remove("namespace");
    }
    metadata.insert("uid".into(), json!(uid));
    metadata.insert("creationTimestamp".into(), json!(crate::time::seconds(now)));
    if has_generation(resource) {
        metadata.insert("generation".into(), json!(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"name": "a", "resources": resources}]}});
        for (resources, class) in [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed"),
            (json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}), "Burstable"),
            (json!({"limits": {"nvidia.com/gpu": 1}}), "BestEffort"),
        ] {
            assert_eq!(qos_class(&pod(resources.clone())), class, "{resources}");
        }
    }
}
