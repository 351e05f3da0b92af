//! What is written on sandboxes and containers. The first four are Kubernetes' own, known to `crictl` and log collectors.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Whose it is.
pub const NODE: &str = "galley.dev/node";

/// [`galley_node_plan::spec_hash`] of what the container was made from, in hex.
pub const SPEC_HASH: &str = "galley.dev/spec-hash";
/// [`galley_node_plan::Container::restart_delay`].
pub const RESTART_DELAY: &str = "galley.dev/restart-delay";
/// The file on the node that the container sees as its termination message path.
pub const TERMINATION_FILE: &str = "galley.dev/termination-message-file";
/// `File` or `FallbackToLogsOnError`.
pub const TERMINATION_POLICY: &str = "galley.dev/termination-message-policy";

/// The labels of a pod's sandbox.
pub fn of_pod(pod: &Pod, node: &str) -> HashMap<String, String> {
    let meta = &pod.metadata;
    let mut labels: HashMap<String, String> =
        meta.labels.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    for (key, value) in [
        (POD_NAME, meta.name.as_deref().unwrap_or_default()),
        (POD_NAMESPACE, meta.namespace.as_deref().unwrap_or_default()),
        (POD_UID, meta.uid.as_deref().unwrap_or_default()),
        (NODE, node),
    ] {
        labels.insert(key.into(), value.into());
    }
    labels
}

/// The labels of a container of the pod.
pub fn of_container(pod: &Pod, container: &str, node: &str) -> HashMap<String, String> {
    let mut labels = of_pod(pod, node);
    labels.retain(|key, _| [POD_NAME, POD_NAMESPACE, POD_UID, NODE].contains(&key.as_str()));
    labels.insert(CONTAINER_NAME.into(), container.into());
    labels
}
