//! What is allowed but rarely meant: texts for `Warning` headers, which kubectl prints above its answer.

use galley_types::names;
use serde_json::Value;

use super::resources::quantity;
use super::{Get, Path, node};
use crate::Resource;

/// The warnings of an object that is created or updated. `old` is there for updates: what was so before is not told again.
pub fn warnings(resource: &Resource, object: &Value, old: Option<&Value>) -> Vec<String> {
    let mut texts = Vec::new();
    // A pod cannot be changed into something else: it was warned of when it was created.
    if old.is_none() || resource.plural != "pods" {
        collect(&mut texts, resource, object);
    }
    if let Some(old) = old
        && !texts.is_empty()
    {
        let mut before = Vec::new();
        collect(&mut before, resource, old);
        texts.retain(|text| !before.contains(text));
    }
    texts
}

fn collect(texts: &mut Vec<String>, resource: &Resource, object: &Value) {
    let path = Path::root("spec");
    let name = object.at("metadata").text("name");
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => {
            dns_label(texts, name, "this is used in the Pod's hostname, which can result in surprising behavior");
            pod_spec(texts, object.at("spec"), &path);
        }
        ("", "replicationcontrollers") | ("apps", "deployments" | "replicasets" | "daemonsets") => {
            template(texts, object)
        }
        ("apps", "statefulsets") => {
            dns_label(texts, name, POD_NAMES);
            template(texts, object);
        }
        ("batch", "jobs") => {
            dns_label(texts, name, POD_NAMES);
            template(texts, object);
        }
        ("batch", "cronjobs") => {
            dns_label(texts, name, POD_NAMES);
            let path = path.field("jobTemplate");
            let path = path.field("spec");
            let path = path.field("template");
            let spec = node(object, &["spec", "jobTemplate", "spec", "template", "spec"]);
            pod_spec(texts, spec, &path.field("spec"));
        }
        ("networking.k8s.io", "ingresses")
            if node(object, &["metadata", "annotations", "kubernetes.io/ingress.class"]).is_string() =>
        {
            texts.push(
                "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"
                    .into(),
            );
        }
        ("", "endpoints") => {
            texts.push("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".into());
        }
        _ => {}
    }
}

const POD_NAMES: &str = "this is used in Pod names and hostnames, which can result in surprising behavior";

fn dns_label(texts: &mut Vec<String>, name: &str, why: &str) {
    let complaints = names::dns1123_label(name);
    if !name.is_empty() && !complaints.is_empty() {
        texts.push(format!("metadata.name: {why}; a DNS label is recommended: [{}]", complaints.join(" ")));
    }
}

fn template(texts: &mut Vec<String>, object: &Value) {
    let path = Path::root("spec");
    let path = path.field("template");
    pod_spec(texts, node(object, &["spec", "template", "spec"]), &path.field("spec"));
}

fn pod_spec(texts: &mut Vec<String>, spec: &Value, path: &Path<'_>) {
    for (old, new, since) in [
        ("beta.kubernetes.io/arch", "kubernetes.io/arch", "v1.14"),
        ("beta.kubernetes.io/os", "kubernetes.io/os", "v1.14"),
        ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region", "v1.17"),
        ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone", "v1.17"),
        ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type", "v1.17"),
    ] {
        if spec.at("nodeSelector").has(old) {
            let path = path.field("nodeSelector");
            texts.push(format!("{}: deprecated since {since}; use {new:?} instead", path.key(old)));
        }
    }
    let spread = path.field("topologySpreadConstraints");
    for (at, constraint) in spec.list("topologySpreadConstraints").iter().enumerate() {
        if !constraint.has("labelSelector") {
            let path = spread.index(at);
            texts.push(format!("{}: a null labelSelector results in matching no pod", path.field("labelSelector")));
        }
    }
    let secrets = path.field("imagePullSecrets");
    let list = spec.list("imagePullSecrets");
    for (at, secret) in list.iter().enumerate() {
        let (path, name) = (secrets.index(at), secret.text("name"));
        if !name.is_empty() && list[..at].iter().any(|other| other.text("name") == name) {
            texts.push(format!("{}: duplicate name {name:?}", path.field("name")));
        }
    }
    for list in ["initContainers", "containers"] {
        let path = path.field(list);
        for (at, container) in spec.list(list).iter().enumerate() {
            self::container(texts, container, &path.index(at));
        }
    }
    ports(texts, spec, path);
}

fn container(texts: &mut Vec<String>, container: &Value, path: &Path<'_>) {
    for kind in ["limits", "requests"] {
        for (name, amount) in container.at("resources").map(kind).into_iter().flatten() {
            if matches!(name.as_str(), "memory" | "ephemeral-storage") && !quantity(amount).is_whole() {
                let path = path.field("resources");
                let path = path.field(kind);
                texts
                    .push(format!("{}: fractional byte value {amount} is invalid, must be an integer", path.key(name)));
            }
        }
    }
    let env = container.list("env");
    let path = path.field("env");
    for (at, variable) in env.iter().enumerate() {
        let name = variable.text("name");
        if env[..at].iter().any(|other| other.text("name") == name) {
            texts.push(format!(
                "{}: hides previous definition of {name:?}, which may be dropped when using apply",
                path.index(at)
            ));
        }
    }
}

fn ports(texts: &mut Vec<String>, spec: &Value, path: &Path<'_>) {
    let mut seen: Vec<(&Value, String)> = Vec::new();
    for list in ["initContainers", "containers"] {
        let path = path.field(list);
        for (at, container) in spec.list(list).iter().enumerate() {
            // Only sidecars among the init containers run beside the others.
            if list == "initContainers" && container.text("restartPolicy") != "Always" {
                continue;
            }
            let path = path.index(at);
            let path = path.field("ports");
            for (at, port) in container.list("ports").iter().enumerate() {
                let place = path.index(at).to_string();
                let same = |other: &Value| {
                    ["containerPort", "protocol", "hostPort", "hostIP"].iter().all(|f| other.at(f) == port.at(f))
                };
                if let Some((_, first)) = seen.iter().find(|(other, _)| same(other)) {
                    texts.push(format!("{place}: duplicate port definition with {first}"));
                }
                seen.push((port, place));
            }
        }
    }
}
