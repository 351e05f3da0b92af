//! Services.

use std::net::IpAddr;

use galley_types::names;
use serde_json::{Value, json};

use super::{Errors, Get, NODE_PORTS, Path};
use crate::status::FieldError;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

pub(super) fn service(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    let (spec, path) = (object.at("spec"), Path::root("spec"));
    let kind = spec.text("type");
    let headless = spec.text("clusterIP") == "None";
    if spec.list("ports").is_empty() && !headless && kind != "ExternalName" {
        errors.required(&path.field("ports"), "");
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let what = if kind == "NodePort" { "NodePort" } else { "LoadBalancer" };
            let detail = format!("may not be set to 'None' for {what} services");
            errors.invalid(&path.field("clusterIPs").index(0), "None", &detail);
        }
        "ExternalName" => {
            for field in ["clusterIPs", "ipFamilies"] {
                if !spec.list(field).is_empty() {
                    errors.forbidden(&path.field(field), "may not be set for ExternalName services");
                }
            }
            let name = spec.text("externalName");
            if name.is_empty() {
                errors.required(&path.field("externalName"), "");
            } else {
                let complaints = names::dns1123_subdomain(name.strip_suffix('.').unwrap_or(name));
                errors.named(&path.field("externalName"), name, complaints);
            }
        }
        _ => {}
    }
    ports(errors, spec, &path);
    errors.labels(&path.field("selector"), spec.at("selector"));
    if spec.text("sessionAffinity").is_empty() {
        errors.required(&path.field("sessionAffinity"), "");
    } else {
        errors.one_of(&path.field("sessionAffinity"), spec.text("sessionAffinity"), &["ClientIP", "None"]);
    }
    affinity_timeout(errors, spec, &path);
    ips(errors, spec, &path);
    if kind.is_empty() {
        errors.required(&path.field("type"), "");
    } else {
        errors.one_of(&path.field("type"), kind, &TYPES);
    }
    traffic(errors, spec, kind, &path);
    if let Some(old) = old {
        update(errors, spec, old.at("spec"), &path);
    }
}

fn ports(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let list = spec.list("ports");
    let kind = spec.text("type");
    let path = path.field("ports");
    let mut names_seen: Vec<&str> = Vec::new();
    for (at, port) in list.iter().enumerate() {
        let path = path.index(at);
        let name = port.text("name");
        if name.is_empty() {
            if list.len() > 1 {
                errors.required(&path.field("name"), "");
            }
        } else {
            errors.named(&path.field("name"), name, names::dns1123_label(name));
            if names_seen.contains(&name) {
                errors.duplicate(&path.field("name"), name);
            }
            names_seen.push(name);
        }
        errors.in_range(&path.field("port"), port.int("port").unwrap_or(0), 1, 65535);
        errors.one_of(&path.field("protocol"), port.text("protocol"), &["SCTP", "TCP", "UDP"]);
        errors.port(&path.field("targetPort"), port.at("targetPort"));
        if let Some(protocol) = port.at("appProtocol").as_str() {
            errors.named(&path.field("appProtocol"), protocol, names::qualified_name(protocol));
        }
        // A headless Service's targetPort has no effect where it differs from the port; v1 tolerates it.
        if let Some(node_port) = port.int("nodePort").filter(|p| *p != 0) {
            if matches!(kind, "ClusterIP" | "ExternalName") {
                let detail = format!("may not be used when `type` is '{kind}'");
                errors.forbidden(&path.field("nodePort"), &detail);
            } else if !NODE_PORTS.contains(&node_port) {
                let detail = format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    NODE_PORTS.start(),
                    NODE_PORTS.end()
                );
                errors.invalid(&path.field("nodePort"), node_port, &detail);
            }
            let same = |other: &Value| {
                other.int("nodePort") == Some(node_port) && other.text("protocol") == port.text("protocol")
            };
            if list[..at].iter().any(same) {
                errors.duplicate(&path.field("nodePort"), node_port);
            }
        }
        let same = |other: &Value| other.at("port") == port.at("port") && other.at("protocol") == port.at("protocol");
        if list[..at].iter().any(same) {
            errors.duplicate(&path, json!({"protocol": port.text("protocol"), "port": port.at("port")}));
        }
    }
}

fn affinity_timeout(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    const DAY: i64 = 86_400;
    let path = path.field("sessionAffinityConfig");
    let timeout = spec.at("sessionAffinityConfig").at("clientIP").int("timeoutSeconds");
    match (spec.text("sessionAffinity"), timeout) {
        ("ClientIP", Some(seconds)) if !(1..=DAY).contains(&seconds) => {
            let path = path.field("clientIP");
            let detail = format!("must be greater than 0 and less than {DAY}");
            errors.invalid(&path.field("timeoutSeconds"), seconds, &detail);
        }
        ("None", _) if spec.has("sessionAffinityConfig") => {
            let detail = "must not be set when session affinity is None";
            errors.forbidden(&path, detail);
        }
        _ => {}
    }
}

const IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

fn ips(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let list = path.field("clusterIPs");
    for (at, ip) in spec.list("clusterIPs").iter().enumerate() {
        let ip = ip.as_str().unwrap_or("");
        if ip != "None" && ip.parse::<IpAddr>().is_err() {
            errors.invalid(&list.index(at), ip, IP);
        }
    }
    let cluster_ip = spec.text("clusterIP");
    if spec.list("clusterIPs").is_empty() && !matches!(cluster_ip, "" | "None") && cluster_ip.parse::<IpAddr>().is_err()
    {
        errors.invalid(&list.index(0), cluster_ip, IP);
    }
    if let Some(first) = spec.list("clusterIPs").first().and_then(Value::as_str)
        && !cluster_ip.is_empty()
        && first != cluster_ip
    {
        let detail = "first value must match `clusterIP`";
        errors.invalid(&list, spec.list("clusterIPs").to_vec(), detail);
    }
    let external = path.field("externalIPs");
    for (at, ip) in spec.list("externalIPs").iter().enumerate() {
        let ip = ip.as_str().unwrap_or("");
        match ip.parse::<IpAddr>() {
            Err(_) => errors.invalid(&external.index(at), ip, IP),
            Ok(ip) if ip.is_loopback() => {
                errors.invalid(
                    &external.index(at),
                    ip.to_string(),
                    "may not be in the loopback range (127.0.0.0/8, ::1/128)",
                );
            }
            Ok(_) => {}
        }
    }
    let families = path.field("ipFamilies");
    for (at, family) in spec.list("ipFamilies").iter().enumerate() {
        errors.one_of(&families.index(at), family.as_str().unwrap_or(""), &["IPv4", "IPv6"]);
    }
    errors.maybe_one_of(
        &path.field("ipFamilyPolicy"),
        spec.text("ipFamilyPolicy"),
        &["SingleStack", "PreferDualStack", "RequireDualStack"],
    );
}

fn traffic(errors: &mut Errors, spec: &Value, kind: &str, path: &Path<'_>) {
    let external = spec.text("externalTrafficPolicy");
    let from_outside = matches!(kind, "NodePort" | "LoadBalancer") || !spec.list("externalIPs").is_empty();
    let external_path = path.field("externalTrafficPolicy");
    if from_outside {
        errors.one_of(&external_path, external, &["Cluster", "Local"]);
    } else if !external.is_empty() {
        errors.invalid(&external_path, external, "may only be set for externally-accessible services");
    }
    errors.maybe_one_of(
        &path.field("internalTrafficPolicy"),
        spec.text("internalTrafficPolicy"),
        &["Cluster", "Local"],
    );
    for field in ["loadBalancerClass", "allocateLoadBalancerNodePorts"] {
        if spec.has(field) && kind != "LoadBalancer" {
            errors.forbidden(&path.field(field), "may only be used when `type` is 'LoadBalancer'");
        }
    }
    let ranges = spec.list("loadBalancerSourceRanges");
    let path = path.field("loadBalancerSourceRanges");
    if !ranges.is_empty() && kind != "LoadBalancer" {
        errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
    }
    for (at, range) in ranges.iter().enumerate() {
        let range = range.as_str().unwrap_or("").trim();
        if range.parse::<ipnet::IpNet>().is_err() {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.invalid(&path.index(at), range, detail);
        }
    }
}

fn update(errors: &mut Errors, new: &Value, old: &Value, path: &Path<'_>) {
    // A Service without a cluster IP may get one, and one that becomes an ExternalName loses it.
    let was = old.text("clusterIP");
    if old.text("type") == "ExternalName" || new.text("type") == "ExternalName" || was.is_empty() {
        return;
    }
    if new.text("clusterIP") != was {
        let shown = new.at("clusterIPs").as_array().cloned().unwrap_or_default();
        let list = path.field("clusterIPs");
        errors.push(FieldError::invalid(list.index(0), &json!(shown), "may not change once set"));
    }
}
