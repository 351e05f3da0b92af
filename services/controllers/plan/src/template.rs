//! Pods and hashes from pod templates.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::Serialize;
use serde_json::{Value, json};

use crate::meta;

/// How the API server's generated names end: five characters; a prefix may be this long.
/// Source: Kubernetes API conventions, `generateName`.
const MAX_GENERATED_PREFIX: usize = 58;

/// The alphabet of hashes and generated names: no vowels, so no words.
const SAFE: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A pod as the template says, owned by `owner`, named `<owner>-xxxxx` by the API server.
pub fn pod(template: &PodTemplateSpec, namespace: &str, owner: &OwnerReference) -> Value {
    let metadata = template.metadata.clone().unwrap_or_default();
    let prefix: String = format!("{}-", owner.name).chars().take(MAX_GENERATED_PREFIX).collect();
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": prefix, "namespace": namespace, "ownerReferences": [owner]},
        "spec": meta::to_value(&template.spec),
    });
    if let Some(labels) = metadata.labels {
        pod["metadata"]["labels"] = json!(labels);
    }
    if let Some(annotations) = metadata.annotations {
        pod["metadata"]["annotations"] = json!(annotations);
    }
    if let Some(finalizers) = metadata.finalizers {
        pod["metadata"]["finalizers"] = json!(finalizers);
    }
    pod
}

/// The hash of a template (with a collision count), in the alphabet of generated names. Stable: names of ReplicaSets and
/// revisions are made of it, so a change of this function would roll out every Deployment again.
pub fn hash<T: Serialize>(content: &T, collision_count: Option<i32>) -> String {
    let mut hash = fnv(0x811c_9dc5, &serde_json::to_vec(&meta::to_value(content)).unwrap_or_default());
    if let Some(count) = collision_count {
        hash = fnv(hash, &count.to_le_bytes());
    }
    safe(&hash.to_string())
}

fn fnv(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// `text` in the alphabet of generated names.
pub fn safe(text: &str) -> String {
    text.bytes().map(|byte| char::from(SAFE[usize::from(byte) % SAFE.len()])).collect()
}
