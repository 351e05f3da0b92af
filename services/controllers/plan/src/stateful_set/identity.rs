//! What makes a pod of a StatefulSet this one and no other: its name, its volumes, its labels.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};

use crate::revisions::HASH_LABEL;
use crate::{meta, template};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The ordinal that a pod's name says, if it is a name of this set.
pub fn ordinal(set: &str, pod: &Pod) -> Option<i32> {
    let (parent, ordinal) = meta::name(&pod.metadata).rsplit_once('-')?;
    let canonical = ordinal == "0" || !ordinal.starts_with('0');
    (parent == set && canonical).then(|| ordinal.parse().ok()).flatten()
}

/// The name of a pod.
pub fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", meta::name(&set.metadata))
}

/// The names of the claims of a pod, by template.
pub fn claim_names(set: &StatefulSet, ordinal: i32) -> impl Iterator<Item = (&PersistentVolumeClaim, String)> {
    let templates = set.spec.iter().flat_map(|spec| spec.volume_claim_templates.iter().flatten());
    let name = pod_name(set, ordinal);
    templates.map(move |claim| (claim, format!("{}-{name}", meta::name(&claim.metadata))))
}

/// The claim of a template for a pod.
pub fn claim(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    claim: &PersistentVolumeClaim,
    name: &str,
    owner: Option<&OwnerReference>,
) -> Value {
    let mut labels = claim.metadata.labels.clone().unwrap_or_default();
    labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
    let mut body = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": meta::namespace(&set.metadata), "labels": labels},
        "spec": meta::to_value(&claim.spec),
    });
    if let Some(annotations) = &claim.metadata.annotations {
        body["metadata"]["annotations"] = json!(annotations);
    }
    if let Some(owner) = owner {
        body["metadata"]["ownerReferences"] = json!([owner]);
    }
    body
}

/// The pod of an ordinal.
pub fn pod(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    template: &PodTemplateSpec,
    revision: &str,
    ordinal: i32,
) -> Value {
    let reference = meta::controller_reference("apps/v1", "StatefulSet", &set.metadata);
    let mut pod = template::pod(template, meta::namespace(&set.metadata), &reference);
    let name = pod_name(set, ordinal);
    if let Some(metadata) = pod["metadata"].as_object_mut() {
        metadata.remove("generateName");
    }
    pod["metadata"]["name"] = json!(name);
    pod["metadata"]["labels"][POD_NAME] = json!(name);
    pod["metadata"]["labels"][POD_INDEX] = json!(ordinal.to_string());
    pod["metadata"]["labels"][HASH_LABEL] = json!(revision);
    pod["spec"]["hostname"] = json!(name);
    if let Some(service) = spec.service_name.as_deref().filter(|service| !service.is_empty()) {
        pod["spec"]["subdomain"] = json!(service);
    }
    let mut volumes: Vec<Value> = Vec::new();
    let claimed: Vec<String> =
        claim_names(set, ordinal).map(|(claim, _)| meta::name(&claim.metadata).to_owned()).collect();
    for (claim, name) in claim_names(set, ordinal) {
        volumes.push(json!({"name": meta::name(&claim.metadata), "persistentVolumeClaim": {"claimName": name}}));
    }
    // A claim takes the place of a volume of the template with its name.
    let others = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let others = others.filter(|volume| !claimed.iter().any(|name| volume["name"] == json!(name)));
    volumes.extend(others.cloned());
    if !volumes.is_empty() {
        pod["spec"]["volumes"] = json!(volumes);
    }
    pod
}
