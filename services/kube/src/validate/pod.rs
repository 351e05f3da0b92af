//! Pods and pod templates.

use galley_types::names;
use serde_json::Value;

use super::container::{self, Kind, Pod};
use super::{Errors, Get, Path, meta, node, scheduling, volume};

/// A pod about to be created.
pub(super) fn pod(errors: &mut Errors, object: &Value) {
    let path = Path::root("spec");
    spec(errors, object.at("spec"), &path);
    if !object.at("spec").list("ephemeralContainers").is_empty() {
        errors.forbidden(&path.field("ephemeralContainers"), "cannot be set on create");
    }
}

/// A template. `restart_policies`: those that the workload can live with.
pub(super) fn template(errors: &mut Errors, owner: &Value, path: &Path<'_>, restart_policies: Option<&[&str]>) {
    let template = owner.at("template");
    // The API server's paths leave `metadata` out here.
    meta::labels_and_annotations(errors, template.at("metadata"), path);
    let spec_path = path.field("spec");
    spec(errors, template.at("spec"), &spec_path);
    if !template.at("spec").list("ephemeralContainers").is_empty() {
        errors.forbidden(&spec_path.field("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
    let policy = node(template, &["spec", "restartPolicy"]).as_str().unwrap_or("");
    if let Some(supported) = restart_policies
        && !supported.contains(&policy)
    {
        errors.not_supported(&spec_path.field("restartPolicy"), policy, supported);
    }
}

/// `spec` of a pod.
pub(super) fn spec(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let volumes = volume::volumes(errors, spec.list("volumes"), &path.field("volumes"));
    let pod = Pod { spec, volumes: &volumes };
    let mut seen: Vec<&str> = Vec::new();
    let list = spec.list("containers");
    if list.is_empty() {
        errors.required(&path.field("containers"), "");
    }
    container::containers(errors, &pod, list, Kind::Main, &mut seen, &path.field("containers"));
    let init = spec.list("initContainers");
    container::containers(errors, &pod, init, Kind::Init, &mut seen, &path.field("initContainers"));
    let debug = spec.list("ephemeralContainers");
    container::containers(errors, &pod, debug, Kind::Ephemeral, &mut seen, &path.field("ephemeralContainers"));

    errors.one_of(&path.field("restartPolicy"), spec.text("restartPolicy"), &["Always", "OnFailure", "Never"]);
    errors.one_of(
        &path.field("dnsPolicy"),
        spec.text("dnsPolicy"),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    container::pod_security_context(errors, spec, &path.field("securityContext"));
    dns(errors, spec, path);
    scheduling::scheduling(errors, spec, path);
    let secrets = path.field("imagePullSecrets");
    for (at, secret) in spec.list("imagePullSecrets").iter().enumerate() {
        if secret.text("name").is_empty() {
            errors.required(&secrets.index(at).field("name"), "");
        }
    }
    let gates = path.field("readinessGates");
    for (at, gate) in spec.list("readinessGates").iter().enumerate() {
        let kind = gate.text("conditionType");
        errors.named(&gates.index(at).field("conditionType"), kind, names::qualified_name(kind));
    }
    for (field, rule) in [
        ("serviceAccountName", names::dns1123_subdomain as fn(&str) -> Vec<String>),
        ("nodeName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
        ("priorityClassName", names::dns1123_subdomain),
        ("runtimeClassName", names::dns1123_subdomain),
        ("schedulerName", names::qualified_name),
    ] {
        let value = spec.text(field);
        if !value.is_empty() {
            errors.named(&path.field(field), value, rule(value));
        }
    }
    if let Some(seconds) = spec.int("activeDeadlineSeconds") {
        errors.in_range(&path.field("activeDeadlineSeconds"), seconds, 1, i64::from(i32::MAX));
    }
    errors.non_negative(&path.field("terminationGracePeriodSeconds"), spec.int("terminationGracePeriodSeconds"));
    errors.maybe_one_of(
        &path.field("preemptionPolicy"),
        spec.text("preemptionPolicy"),
        &["PreemptLowerPriority", "Never"],
    );
    if spec.has("os") {
        errors.one_of(&path.field("os").field("name"), spec.at("os").text("name"), &["linux", "windows"]);
    }
    host_namespaces(errors, spec, path);
    host_aliases(errors, spec.list("hostAliases"), &path.field("hostAliases"));
}

fn host_namespaces(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    if spec.flag("shareProcessNamespace") && spec.flag("hostPID") {
        let path = path.field("securityContext");
        errors.invalid(
            &path.field("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    if spec.at("hostUsers") == &Value::Bool(false) {
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            if spec.flag(field) {
                errors.forbidden(
                    &path.field("hostUsers"),
                    &format!("when `hostUsers` is false, `{field}` must be false"),
                );
            }
        }
    }
}

fn host_aliases(errors: &mut Errors, aliases: &[Value], path: &Path<'_>) {
    for (at, alias) in aliases.iter().enumerate() {
        let path = path.index(at);
        let ip = alias.text("ip");
        if ip.parse::<std::net::IpAddr>().is_err() {
            errors.invalid(&path.field("ip"), ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
        let hosts = path.field("hostnames");
        for (at, host) in alias.list("hostnames").iter().enumerate() {
            let host = host.as_str().unwrap_or("");
            errors.named(&hosts.index(at), host, names::dns1123_subdomain(host));
        }
    }
}

fn dns(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    const SERVERS_MAX: usize = 3;
    const SEARCHES_MAX: usize = 32;
    let (config, path) = (spec.at("dnsConfig"), path.field("dnsConfig"));
    if spec.text("dnsPolicy") == "None" {
        if config.is_null() {
            return errors.required(&path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if config.list("nameservers").is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return errors.required(&path.field("nameservers"), detail);
        }
    }
    let servers = config.list("nameservers");
    let servers_path = path.field("nameservers");
    if servers.len() > SERVERS_MAX {
        let detail = format!("must not have more than {SERVERS_MAX} nameservers");
        errors.invalid(&servers_path, servers.to_vec(), &detail);
    }
    for (at, server) in servers.iter().enumerate() {
        let ip = server.as_str().unwrap_or("");
        if ip.parse::<std::net::IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.invalid(&servers_path.index(at), ip, detail);
        }
    }
    if config.list("searches").len() > SEARCHES_MAX {
        let detail = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.invalid(&path.field("searches"), config.list("searches").to_vec(), &detail);
    }
    let options = path.field("options");
    for (at, option) in config.list("options").iter().enumerate() {
        if option.text("name").is_empty() {
            errors.required(&options.index(at), "must not be empty");
        }
    }
}
