//! The pod of a DaemonSet on a node.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod, PodTemplateSpec, Toleration};
use serde_json::{Value, json};

use crate::revisions::HASH_LABEL;
use crate::{meta, node_fit, pod, template};

/// Taints that pods of a DaemonSet tolerate, with their effects: they run where other pods may not.
const TOLERATED: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const NETWORK_UNAVAILABLE: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// The template with what every pod of a DaemonSet tolerates.
pub fn tolerant(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let spec = template.spec.get_or_insert_default();
    let host_network = (spec.host_network == Some(true)).then_some(&NETWORK_UNAVAILABLE);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.iter().chain(host_network) {
        let toleration = Toleration {
            key: Some((*key).into()),
            operator: Some("Exists".into()),
            effect: Some((*effect).into()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    template
}

/// Whether a node gets a pod, and whether one that it has may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// Make one.
    pub run: bool,
    /// Keep one.
    pub stay: bool,
}

/// Judges a node. `template` is [`tolerant`].
pub fn fit(template: &PodTemplateSpec, node: &Node) -> Fit {
    let Some(spec) = &template.spec else { return Fit { run: false, stay: false } };
    if !node_fit::is_selected(spec, node) {
        return Fit { run: false, stay: false };
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let run = node_fit::untolerated(node, tolerations, &["NoSchedule", "NoExecute"]).is_none();
    Fit { run, stay: run || node_fit::untolerated(node, tolerations, &["NoExecute"]).is_none() }
}

/// The node that a pod is on or is meant for.
pub fn node_of(of: &Pod) -> Option<&str> {
    if let Some(node) = pod::node(of) {
        return Some(node);
    }
    let affinity = of.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let mut names = fields.filter(|field| field.key == "metadata.name").flat_map(|field| field.values.iter().flatten());
    names.next().map(String::as_str)
}

/// The pod for a node. The scheduler binds it: the node is named by affinity, in place of what the template requires (which
/// the node fulfils).
pub fn new(set: &DaemonSet, template: &PodTemplateSpec, hash: &str, node: &str) -> Value {
    let reference = meta::controller_reference("apps/v1", "DaemonSet", &set.metadata);
    let mut pod = template::pod(template, meta::namespace(&set.metadata), &reference);
    pod["metadata"]["labels"][HASH_LABEL] = json!(hash);
    if let Some(generation) = meta::annotation(&set.metadata, "deprecated.daemonset.template.generation") {
        pod["metadata"]["labels"]["pod-template-generation"] = json!(generation);
    }
    pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!({
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]
    });
    pod
}
