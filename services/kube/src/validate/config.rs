//! ConfigMaps, Secrets, nodes, quotas, limits, events, revisions.

use base64::Engine as _;
use galley_types::names;
use serde_json::Value;

use super::resources::quantity;
use super::{Errors, Get, Path, node as at_path};
use crate::status::FieldError;

/// The most that the values of a ConfigMap or Secret may have together.
const DATA_MAX: usize = 1024 * 1024;

pub(super) fn config_map(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    let mut size = 0;
    let (text_path, binary_path) = (Path::root("data"), Path::root("binaryData"));
    let binary = object.map("binaryData");
    for (key, value) in object.map("data").into_iter().flatten() {
        errors.named(&text_path.key(key), key, names::config_map_key(key));
        if binary.is_some_and(|b| b.contains_key(key)) {
            errors.invalid(&text_path.key(key), key.as_str(), "duplicate of key present in binaryData");
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in binary.into_iter().flatten() {
        errors.named(&binary_path.key(key), key, names::config_map_key(key));
        size += decoded_length(value);
    }
    if size > DATA_MAX {
        errors.push(FieldError::too_long(Path::root(""), DATA_MAX));
    }
    if let Some(old) = old.filter(|old| old.flag("immutable")) {
        still_immutable(errors, object);
        for field in ["data", "binaryData"] {
            if object.at(field) != old.at(field) {
                errors.forbidden(&Path::root(field), "field is immutable when `immutable` is set");
            }
        }
    }
}

fn still_immutable(errors: &mut Errors, object: &Value) {
    if !object.flag("immutable") {
        errors.forbidden(&Path::root("immutable"), "field is immutable when `immutable` is set");
    }
}

fn decoded_length(value: &Value) -> usize {
    let text = value.as_str().unwrap_or("");
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

pub(super) fn secret(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    let path = Path::root("data");
    let mut size = 0;
    for (key, value) in object.map("data").into_iter().flatten() {
        errors.named(&path.key(key), key, names::config_map_key(key));
        size += decoded_length(value);
    }
    if size > DATA_MAX {
        errors.push(FieldError::too_long(path, DATA_MAX));
    }
    let data = object.at("data");
    match object.text("type") {
        "kubernetes.io/service-account-token" => {
            let account = at_path(object, &["metadata", "annotations", "kubernetes.io/service-account.name"]);
            if account.as_str().unwrap_or("").is_empty() {
                let path = Path::root("metadata");
                let path = path.field("annotations");
                errors.required(&path.key("kubernetes.io/service-account.name"), "");
            }
        }
        "kubernetes.io/dockercfg" => json_key(errors, data, ".dockercfg", &path),
        "kubernetes.io/dockerconfigjson" => json_key(errors, data, ".dockerconfigjson", &path),
        "kubernetes.io/basic-auth" if !data.has("username") && !data.has("password") => {
            errors.required(&path.key("username"), "");
            errors.required(&path.key("password"), "");
        }
        "kubernetes.io/ssh-auth" if data.text("ssh-privatekey").is_empty() => {
            errors.required(&path.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !data.has(key) {
                    errors.required(&path.key(key), "");
                }
            }
        }
        _ => {}
    }
    if let Some(old) = old {
        errors.immutable(&Path::root("type"), object.at("type"), old.at("type"));
        if old.flag("immutable") {
            still_immutable(errors, object);
            if data != old.at("data") {
                errors.forbidden(&path, "field is immutable when `immutable` is set");
            }
        }
    }
}

fn json_key(errors: &mut Errors, data: &Value, key: &str, path: &Path<'_>) {
    if !data.has(key) {
        return errors.required(&path.key(key), "");
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(data.text(key)).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<Value>(&bytes) {
        errors.invalid(&path.key(key), "<secret contents redacted>", &error.to_string());
    }
}

pub(super) fn node(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    let (spec, path) = (object.at("spec"), Path::root("spec"));
    let taints = path.field("taints");
    let list = spec.list("taints");
    for (at, taint) in list.iter().enumerate() {
        let path = taints.index(at);
        let (key, value, effect) = (taint.text("key"), taint.text("value"), taint.text("effect"));
        errors.named(&path.field("key"), key, names::qualified_name(key));
        errors.named(&path.field("value"), value, names::label_value(value));
        errors.one_of(&path.field("effect"), effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        if list[..at].iter().any(|t| t.text("key") == key && t.text("effect") == effect) {
            errors.push(FieldError::duplicate(path, taint));
        }
    }
    let cidrs = path.field("podCIDRs");
    for (at, cidr) in spec.list("podCIDRs").iter().enumerate() {
        let cidr = cidr.as_str().unwrap_or("");
        if cidr.parse::<ipnet::IpNet>().is_err() {
            errors.invalid(&cidrs.index(at), cidr, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        }
    }
    if let Some(old) = old {
        let was = old.at("spec");
        if was.has("podCIDR") && spec.at("podCIDR") != was.at("podCIDR") {
            errors.forbidden(&path.field("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid");
        }
        if was.has("providerID") && spec.at("providerID") != was.at("providerID") {
            errors.forbidden(
                &path.field("providerID"),
                "node updates may not change providerID except from \"\" to valid",
            );
        }
    }
}

/// Names that a quota may count.
fn is_quota_resource(name: &str) -> bool {
    const STANDARD: [&str; 22] = [
        "cpu",
        "memory",
        "ephemeral-storage",
        "requests.cpu",
        "requests.memory",
        "requests.storage",
        "requests.ephemeral-storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "persistentvolumeclaims",
        "configmaps",
        "services.nodeports",
        "services.loadbalancers",
        "services.clusterips",
        "storage",
        "persistentvolumes",
    ];
    STANDARD.contains(&name) || name.starts_with("hugepages-") || name.starts_with("requests.hugepages-")
}

pub(super) fn resource_quota(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    let (spec, path) = (object.at("spec"), Path::root("spec"));
    let hard = path.field("hard");
    for (name, amount) in spec.map("hard").into_iter().flatten() {
        let path = hard.key(name);
        errors.named(&path, name, names::qualified_name(name));
        if !name.contains('/') && !is_quota_resource(name) {
            errors.invalid(&path, name.as_str(), "must be a standard resource type or fully qualified");
            errors.invalid(&path, name.as_str(), "must be a standard resource for quota");
        }
        if quantity(amount).is_negative() {
            errors.invalid(&path, amount.clone(), "must be greater than or equal to 0");
        }
    }
    let scopes = path.field("scopes");
    for scope in spec.list("scopes").iter().filter_map(Value::as_str) {
        let known = [
            "Terminating",
            "NotTerminating",
            "BestEffort",
            "NotBestEffort",
            "PriorityClass",
            "CrossNamespacePodAffinity",
            "VolumeAttributesClass",
        ];
        if !known.contains(&scope) {
            errors.invalid(&scopes, scope, "unsupported scope");
        }
    }
    if let Some(old) = old
        && spec.at("scopes") != old.at("spec").at("scopes")
    {
        errors.push(FieldError::immutable(scopes, spec.at("scopes")));
    }
}

pub(super) fn limit_range(errors: &mut Errors, object: &Value) {
    let path = Path::root("spec");
    let path = path.field("limits");
    let limits = object.at("spec").list("limits");
    for (at, limit) in limits.iter().enumerate() {
        let path = path.index(at);
        let kind = limit.text("type");
        if limits[..at].iter().any(|other| other.text("type") == kind) {
            errors.duplicate(&path.field("type"), kind);
        }
        if kind == "Pod" {
            for field in ["default", "defaultRequest"] {
                if limit.map(field).is_some_and(|m| !m.is_empty()) {
                    errors.forbidden(&path.field(field), "may not be specified when `type` is 'Pod'");
                }
            }
        }
        let order = [
            ("min", "max"),
            ("min", "defaultRequest"),
            ("min", "default"),
            ("defaultRequest", "default"),
            ("defaultRequest", "max"),
            ("default", "max"),
        ];
        for (low, high) in order {
            for (name, amount) in limit.map(low).into_iter().flatten() {
                if let Some(other) = limit.at(high).get(name)
                    && quantity(amount) > quantity(other)
                {
                    let word = |field: &str| match field {
                        "defaultRequest" => "default request".to_owned(),
                        other => other.to_owned(),
                    };
                    let detail = format!(
                        "{} value {} is greater than {} value {}",
                        word(low),
                        quantity(amount),
                        word(high),
                        quantity(other)
                    );
                    errors.invalid(&path.field(low).key(name), amount.clone(), &detail);
                }
            }
        }
    }
}

pub(super) fn event(errors: &mut Errors, object: &Value) {
    let regarding = object.at("involvedObject").text("namespace");
    let namespace = object.at("metadata").text("namespace");
    let path = Path::root("involvedObject");
    if regarding.is_empty() {
        // Events about things without a namespace are kept in one of two.
        if !matches!(namespace, "" | "default" | "kube-system") {
            errors.invalid(&path.field("namespace"), regarding, "does not match event.namespace");
        }
    } else if regarding != namespace {
        errors.invalid(&path.field("namespace"), regarding, "does not match event.namespace");
    }
}

pub(super) fn controller_revision(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    errors.non_negative(&Path::root("revision"), object.int("revision"));
    match old {
        Some(old) => errors.immutable(&Path::root("data"), object.at("data"), old.at("data")),
        None if object.at("data").is_null() => errors.required(&Path::root("data"), "data is mandatory"),
        None => {}
    }
}
