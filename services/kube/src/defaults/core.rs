//! Defaults of the core, networking and discovery groups.

use serde_json::{Map, Value, json};

use super::{child, get, items, set, text};
use base64::Engine as _;

type Object = Map<String, Value>;

pub(super) fn service(object: &mut Object) {
    let spec = child(object, "spec");
    set(spec, "sessionAffinity", "None");
    match text(spec, "sessionAffinity") {
        "None" => drop(spec.remove("sessionAffinityConfig")),
        "ClientIP" => {
            const THREE_HOURS: i32 = 10_800;
            set(child(child(spec, "sessionAffinityConfig"), "clientIP"), "timeoutSeconds", THREE_HOURS);
        }
        _ => {}
    }
    set(spec, "type", "ClusterIP");
    for port in items(spec, "ports") {
        set(port, "protocol", "TCP");
        if matches!(port.get("targetPort"), None | Some(Value::Null))
            || port["targetPort"] == json!(0)
            || port["targetPort"] == json!("")
        {
            let number = port.get("port").cloned().unwrap_or(json!(0));
            port.insert("targetPort".into(), number);
        }
    }
    let kind = text(spec, "type").to_owned();
    let external_ips = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
    let from_outside = matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && external_ips);
    if from_outside {
        set(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        set(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", true);
    }
    child(child(object, "status"), "loadBalancer");
}

/// `stringData` is written into `data`, and is never read back.
pub(super) fn secret(object: &mut Object) {
    set(object, "type", "Opaque");
    if let Some(Value::Object(texts)) = object.remove("stringData") {
        let data = child(object, "data");
        for (key, value) in texts {
            let bytes = value.as_str().unwrap_or_default();
            data.insert(key, base64::engine::general_purpose::STANDARD.encode(bytes).into());
        }
    }
}

pub(super) fn namespace(object: &mut Object) {
    child(object, "spec");
    set(child(object, "status"), "phase", "Active");
    let metadata = child(object, "metadata");
    let name = text(metadata, "name").to_owned();
    if !name.is_empty() {
        child(metadata, "labels").insert("kubernetes.io/metadata.name".into(), name.into());
    }
}

pub(super) fn node(object: &mut Object) {
    child(object, "spec");
    let status = child(object, "status");
    if let Some(capacity) = status.get("capacity").cloned() {
        set(status, "allocatable", capacity);
    }
}

pub(super) fn endpoints(object: &mut Object) {
    for subset in items(object, "subsets") {
        for port in items(subset, "ports") {
            set(port, "protocol", "TCP");
        }
    }
}

pub(super) fn endpoint_slice(object: &mut Object) {
    for port in items(object, "ports") {
        set(port, "name", "");
        set(port, "protocol", "TCP");
    }
}

pub(super) fn limit_range(object: &mut Object) {
    let spec = child(object, "spec");
    for limit in items(spec, "limits") {
        if text(limit, "type") != "Container" {
            continue;
        }
        for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
            if let Some(amounts) = get(limit, from).cloned() {
                let target = child(limit, to);
                for (name, amount) in amounts {
                    target.entry(name).or_insert(amount);
                }
            }
        }
    }
}

pub(super) fn network_policy(object: &mut Object) {
    let spec = child(object, "spec");
    child(spec, "podSelector");
    for direction in ["ingress", "egress"] {
        for rule in items(spec, direction) {
            for port in items(rule, "ports") {
                set(port, "protocol", "TCP");
            }
        }
    }
    if !spec.contains_key("policyTypes") {
        let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
        let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        spec.insert("policyTypes".into(), types);
    }
}

pub(super) fn ingress(object: &mut Object) {
    child(object, "spec");
    child(child(object, "status"), "loadBalancer");
}

pub(super) fn ingress_class(object: &mut Object) {
    if let Some(parameters) = get(child(object, "spec"), "parameters") {
        set(parameters, "scope", "Cluster");
    }
}
