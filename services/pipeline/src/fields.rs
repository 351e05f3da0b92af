//! Selectable fields: what `--field-selector` may name for each resource, beside `metadata.name` and
//! `metadata.namespace`. They are kept beside the encoded bytes so that a selector never decodes an object.

use std::borrow::Cow;

use galley_kube::Resource;
use galley_store::Fields;

use serde_json::Value;

use crate::value::at;

/// Field label, JSON pointer of its value, and what an absent value reads as.
type Row = (&'static str, &'static str, &'static str);

const PODS: &[Row] = &[
    ("spec.nodeName", "/spec/nodeName", ""),
    ("spec.restartPolicy", "/spec/restartPolicy", ""),
    ("spec.schedulerName", "/spec/schedulerName", ""),
    ("spec.serviceAccountName", "/spec/serviceAccountName", ""),
    ("spec.hostNetwork", "/spec/hostNetwork", "false"),
    ("status.phase", "/status/phase", ""),
    ("status.podIP", "/status/podIP", ""),
    ("status.nominatedNodeName", "/status/nominatedNodeName", ""),
];
const EVENTS: &[Row] = &[
    ("involvedObject.kind", "/involvedObject/kind", ""),
    ("involvedObject.namespace", "/involvedObject/namespace", ""),
    ("involvedObject.name", "/involvedObject/name", ""),
    ("involvedObject.uid", "/involvedObject/uid", ""),
    ("involvedObject.apiVersion", "/involvedObject/apiVersion", ""),
    ("involvedObject.resourceVersion", "/involvedObject/resourceVersion", ""),
    ("involvedObject.fieldPath", "/involvedObject/fieldPath", ""),
    ("reason", "/reason", ""),
    ("reportingComponent", "/reportingComponent", ""),
    ("source", "/source/component", ""),
    ("type", "/type", ""),
];

fn rows(resource: &str) -> &'static [Row] {
    match resource {
        "pods" => PODS,
        "events" => EVENTS,
        "secrets" => &[("type", "/type", "")],
        "namespaces" => &[("status.phase", "/status/phase", "")],
        "nodes" => &[("spec.unschedulable", "/spec/unschedulable", "false")],
        "services" => &[("spec.clusterIP", "/spec/clusterIP", ""), ("spec.type", "/spec/type", "")],
        "jobs.batch" => &[("status.successful", "/status/succeeded", "0")],
        "replicasets.apps" | "replicationcontrollers" => &[("status.replicas", "/status/replicas", "0")],
        "certificatesigningrequests.certificates.k8s.io" | "clustertrustbundles.certificates.k8s.io" => {
            &[("spec.signerName", "/spec/signerName", "")]
        }
        "podcertificaterequests.certificates.k8s.io" => &[
            ("spec.signerName", "/spec/signerName", ""),
            ("spec.podName", "/spec/podName", ""),
            ("spec.nodeName", "/spec/nodeName", ""),
        ],
        "resourceslices.resource.k8s.io" => {
            &[("spec.nodeName", "/spec/nodeName", ""), ("spec.driver", "/spec/driver", "")]
        }
        _ => &[],
    }
}

/// The selectable fields of an object; those that read as empty are left out.
pub fn of(resource: &Resource, value: &Value) -> Fields {
    let own: Vec<(&str, String, &str)> = custom(resource).map(|label| (label, pointer(label), "")).collect();
    let name = resource.name();
    let builtin = rows(name.as_str()).iter().map(|(label, pointer, absent)| (*label, *pointer, *absent));
    builtin
        .chain(own.iter().map(|(label, pointer, absent)| (*label, pointer.as_str(), *absent)))
        .filter_map(|(label, pointer, absent)| {
            let text = match at(value, pointer) {
                Some(Value::String(text)) => Cow::Borrowed(text.as_str()),
                Some(Value::Null) | None => Cow::Borrowed(absent),
                Some(other) => Cow::Owned(other.to_string()),
            };
            (!text.is_empty()).then_some((label, text))
        })
        .collect()
}

/// A CRD version's `selectableFields`, as labels: `.spec.color` is selected by `spec.color`.
fn custom(resource: &Resource) -> impl Iterator<Item = &str> {
    let paths = resource.custom.iter().flat_map(|custom| &custom.selectable_fields);
    paths.map(|path| path.trim_start_matches('.'))
}

fn pointer(label: &str) -> String {
    format!("/{}", label.replace('.', "/"))
}

/// The name under which a field label is kept, or `None` when the resource does not support it.
/// `events.k8s.io` names the same fields after its own schema.
pub fn canonical(resource: &Resource, label: &str) -> Option<String> {
    if matches!(label, "metadata.name" | "metadata.namespace") {
        return Some(label.to_owned());
    }
    let wanted = match (resource.plural.as_str(), label) {
        ("events", "reportingController") => "reportingComponent".to_owned(),
        ("events", label) => match label.strip_prefix("regarding.") {
            Some(rest) => format!("involvedObject.{rest}"),
            None => label.to_owned(),
        },
        ("namespaces", "name") => return Some("metadata.name".to_owned()),
        _ => label.to_owned(),
    };
    let name = resource.name();
    let known =
        rows(name.as_str()).iter().any(|(known, _, _)| *known == wanted) || custom(resource).any(|c| c == wanted);
    known.then_some(wanted)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::resource;

    #[test]
    fn absent_values_read_as_their_defaults() {
        let fields = of(&resource("", "nodes"), &json!({"spec": {}}));
        assert_eq!(fields.get("spec.unschedulable"), Some("false"));
        let fields = of(&resource("", "pods"), &json!({"spec": {"nodeName": "n"}, "status": {"phase": "Running"}}));
        assert_eq!(fields.get("spec.nodeName"), Some("n"));
        assert!(!fields.contains_key("status.podIP"));
    }

    #[test]
    fn labels_of_events_are_known_in_both_groups() {
        let events = resource("", "events");
        assert_eq!(canonical(&events, "regarding.name").as_deref(), Some("involvedObject.name"));
        assert_eq!(canonical(&events, "involvedObject.name").as_deref(), Some("involvedObject.name"));
        assert_eq!(canonical(&events, "spec.x"), None);
    }
}
