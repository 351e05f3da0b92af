//! Endpoints, EndpointSlices, Ingresses, NetworkPolicies.

use std::net::IpAddr;

use galley_types::names;
use serde_json::Value;

use super::{Errors, Get, Path};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// An address that traffic can be sent to.
fn endpoint_ip(errors: &mut Errors, ip: &str, path: &Path<'_>) {
    let Ok(address) = ip.parse::<IpAddr>() else { return errors.invalid(path, ip, IP) };
    if address.is_unspecified() {
        errors.invalid(path, ip, &format!("may not be unspecified ({address})"));
    }
    if address.is_loopback() {
        errors.invalid(path, ip, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if link_local {
        errors.invalid(path, ip, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
}

pub(super) fn endpoints(errors: &mut Errors, object: &Value) {
    let path = Path::root("subsets");
    for (at, subset) in object.list("subsets").iter().enumerate() {
        let path = path.index(at);
        let ready = subset.list("addresses");
        let not_ready = subset.list("notReadyAddresses");
        if ready.is_empty() && not_ready.is_empty() {
            errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for (field, list) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
            let path = path.field(field);
            for (at, address) in list.iter().enumerate() {
                let path = path.index(at);
                endpoint_ip(errors, address.text("ip"), &path.field("ip"));
                let host = address.text("hostname");
                if !host.is_empty() {
                    errors.named(&path.field("hostname"), host, names::dns1123_label(host));
                }
            }
        }
        let ports = subset.list("ports");
        let path = path.field("ports");
        for (at, port) in ports.iter().enumerate() {
            let path = path.index(at);
            if port.text("name").is_empty() && ports.len() > 1 {
                errors.required(&path.field("name"), "");
            }
            errors.in_range(&path.field("port"), port.int("port").unwrap_or(0), 1, 65535);
            errors.one_of(&path.field("protocol"), port.text("protocol"), &PROTOCOLS);
        }
    }
}

pub(super) fn endpoint_slice(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    let kind = object.text("addressType");
    errors.one_of(&Path::root("addressType"), kind, &["FQDN", "IPv4", "IPv6"]);
    let path = Path::root("endpoints");
    for (at, endpoint) in object.list("endpoints").iter().enumerate() {
        let path = path.index(at);
        let addresses = path.field("addresses");
        if endpoint.list("addresses").is_empty() {
            errors.required(&addresses, "must contain at least 1 address");
        }
        for (at, address) in endpoint.list("addresses").iter().enumerate() {
            let (path, address) = (addresses.index(at), address.as_str().unwrap_or(""));
            match (kind, address.parse::<IpAddr>()) {
                ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) => endpoint_ip(errors, address, &path),
                ("IPv4", _) => errors.invalid(&path, address, "must be a valid IPv4 address"),
                ("IPv6", _) => errors.invalid(&path, address, "must be a valid IPv6 address"),
                _ => errors.named(&path, address, names::dns1123_subdomain(address)),
            }
        }
        if let Some(host) = endpoint.at("hostname").as_str() {
            errors.named(&path.field("hostname"), host, names::dns1123_label(host));
        }
    }
    let path = Path::root("ports");
    let ports = object.list("ports");
    for (at, port) in ports.iter().enumerate() {
        let path = path.index(at);
        let name = port.text("name");
        if !name.is_empty() {
            errors.named(&path.field("name"), name, names::dns1123_label(name));
        }
        if ports[..at].iter().any(|other| other.text("name") == name) {
            errors.duplicate(&path.field("name"), name);
        }
        errors.one_of(&path.field("protocol"), port.text("protocol"), &PROTOCOLS);
    }
    if let Some(old) = old {
        errors.immutable(&Path::root("addressType"), object.at("addressType"), old.at("addressType"));
    }
}

pub(super) fn ingress(errors: &mut Errors, object: &Value) {
    let (spec, path) = (object.at("spec"), Path::root("spec"));
    if spec.list("rules").is_empty() && !spec.has("defaultBackend") {
        errors.invalid(&path, spec.list("rules").to_vec(), "either `defaultBackend` or `rules` must be specified");
    }
    if spec.has("defaultBackend") {
        backend(errors, spec.at("defaultBackend"), &path.field("defaultBackend"));
    }
    if let Some(class) = spec.at("ingressClassName").as_str() {
        errors.named(&path.field("ingressClassName"), class, names::dns1123_subdomain(class));
    }
    let tls = path.field("tls");
    for (at, entry) in spec.list("tls").iter().enumerate() {
        let path = tls.index(at);
        let hosts = path.field("hosts");
        for (at, name) in entry.list("hosts").iter().enumerate() {
            host(errors, name.as_str().unwrap_or(""), &hosts.index(at));
        }
    }
    let rules = path.field("rules");
    for (at, rule) in spec.list("rules").iter().enumerate() {
        let path = rules.index(at);
        let name = rule.text("host");
        if !name.is_empty() {
            if name.parse::<IpAddr>().is_ok() {
                errors.invalid(&path.field("host"), name, "must be a DNS name, not an IP address");
            } else {
                host(errors, name, &path.field("host"));
            }
        }
        if !rule.has("http") {
            continue;
        }
        let path = path.field("http");
        let path = path.field("paths");
        if rule.at("http").list("paths").is_empty() {
            errors.required(&path, "");
        }
        for (at, route) in rule.at("http").list("paths").iter().enumerate() {
            route_path(errors, route, &path.index(at));
        }
    }
}

fn host(errors: &mut Errors, name: &str, path: &Path<'_>) {
    let complaints =
        if name.contains('*') { names::wildcard_dns1123_subdomain(name) } else { names::dns1123_subdomain(name) };
    errors.named(path, name, complaints);
}

fn route_path(errors: &mut Errors, route: &Value, path: &Path<'_>) {
    let local = route.text("path");
    match route.text("pathType") {
        "" => errors.required(&path.field("pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !local.starts_with('/') {
                errors.invalid(&path.field("path"), local, "must be an absolute path");
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if local.contains(bad) {
                    errors.invalid(&path.field("path"), local, &format!("must not contain '{bad}'"));
                }
            }
            for bad in ["/..", "/."] {
                if local.ends_with(bad) {
                    errors.invalid(&path.field("path"), local, &format!("cannot end with '{bad}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !local.is_empty() && !local.starts_with('/') {
                errors.invalid(&path.field("path"), local, "must be an absolute path");
            }
        }
        other => {
            errors.not_supported(&path.field("pathType"), other, &["Exact", "ImplementationSpecific", "Prefix"]);
        }
    }
    backend(errors, route.at("backend"), &path.field("backend"));
}

fn backend(errors: &mut Errors, backend: &Value, path: &Path<'_>) {
    match (backend.has("service"), backend.has("resource")) {
        (true, true) => {
            errors.invalid(path, "", "cannot set both resource and service backends");
        }
        (false, false) => errors.required(path, "port name or number is required"),
        (true, false) => {
            let (service, path) = (backend.at("service"), path.field("service"));
            errors.required_name(&path.field("name"), service.text("name"), names::dns1035_label);
            let (port, path) = (service.at("port"), path.field("port"));
            match (port.text("name"), port.int("number").unwrap_or(0)) {
                ("", 0) => errors.required(&path, "port name or number is required"),
                ("", number) => errors.in_range(&path.field("number"), number, 1, 65535),
                (name, 0) => errors.named(&path.field("name"), name, names::port_name(name)),
                _ => errors.invalid(&path, "", "cannot set both port name & port number"),
            }
        }
        (false, true) => {
            let (resource, path) = (backend.at("resource"), path.field("resource"));
            errors.required_text(&path.field("kind"), resource.text("kind"));
            errors.required_text(&path.field("name"), resource.text("name"));
        }
    }
}

pub(super) fn ingress_class(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    let (spec, path) = (object.at("spec"), Path::root("spec"));
    let controller = spec.text("controller");
    if controller.len() > 250 {
        errors.push(crate::FieldError::too_long(path.field("controller"), 250));
    } else if !controller.contains('/') {
        errors.invalid(
            &path.field("controller"),
            controller,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        );
    }
    if let Some(old) = old {
        errors.immutable(&path.field("controller"), spec.at("controller"), old.at("spec").at("controller"));
    }
}

pub(super) fn network_policy(errors: &mut Errors, object: &Value) {
    let (spec, path) = (object.at("spec"), Path::root("spec"));
    errors.selector(&path.field("podSelector"), spec.at("podSelector"));
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let rules = path.field(direction);
        for (at, rule) in spec.list(direction).iter().enumerate() {
            let path = rules.index(at);
            let ports = path.field("ports");
            for (at, port) in rule.list("ports").iter().enumerate() {
                policy_port(errors, port, &ports.index(at));
            }
            let peers_path = path.field(peers);
            for (at, peer) in rule.list(peers).iter().enumerate() {
                policy_peer(errors, peer, &peers_path.index(at));
            }
        }
    }
    let types = spec.list("policyTypes");
    let path = path.field("policyTypes");
    if types.len() > 2 {
        return errors.invalid(&path, types.to_vec(), "may not specify more than two policyTypes");
    }
    for (at, kind) in types.iter().enumerate() {
        let kind = kind.as_str().unwrap_or("");
        if !matches!(kind, "Ingress" | "Egress") {
            errors.not_supported(&path.index(at), kind, &["Egress", "Ingress"]);
        }
    }
}

fn policy_port(errors: &mut Errors, port: &Value, path: &Path<'_>) {
    let protocol = port.text("protocol");
    if !protocol.is_empty() && !PROTOCOLS.contains(&protocol) {
        errors.not_supported(&path.field("protocol"), protocol, &PROTOCOLS);
    }
    if port.has("port") {
        errors.port(&path.field("port"), port.at("port"));
    }
    if let Some(end) = port.int("endPort") {
        match port.int("port") {
            None if port.at("port").is_string() => {
                let detail = "may not be specified when `port` is non-numeric";
                errors.invalid(&path.field("endPort"), end, detail);
            }
            None => errors.required(&path.field("port"), "must be specified when `endPort` is set"),
            Some(start) if end < start => {
                errors.invalid(&path.field("endPort"), end, "must be greater than or equal to `port`");
            }
            Some(_) => {}
        }
    }
}

fn policy_peer(errors: &mut Errors, peer: &Value, path: &Path<'_>) {
    for selector in ["podSelector", "namespaceSelector"] {
        errors.selector(&path.field(selector), peer.at(selector));
    }
    let block_path = path.field("ipBlock");
    if peer.has("ipBlock") {
        if peer.has("podSelector") || peer.has("namespaceSelector") {
            return errors.forbidden(path, "may not specify both ipBlock and another peer");
        }
        let block = peer.at("ipBlock");
        let cidr = block.text("cidr");
        let Ok(network) = cidr.parse::<ipnet::IpNet>() else {
            let path = block_path.field("cidr");
            return if cidr.is_empty() {
                errors.required(&path, "")
            } else {
                errors.invalid(&path, cidr, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
            };
        };
        let except = block_path.field("except");
        for (at, hole) in block.list("except").iter().enumerate() {
            let (path, hole) = (except.index(at), hole.as_str().unwrap_or(""));
            match hole.parse::<ipnet::IpNet>() {
                Ok(inner) if network.contains(&inner) && inner != network => {}
                Ok(_) => errors.invalid(&path, hole, "must be a strict subset of `cidr`"),
                Err(_) => {
                    errors.invalid(&path, hole, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
                }
            }
        }
    } else if !peer.has("podSelector") && !peer.has("namespaceSelector") {
        errors.required(path, "must specify a peer");
    }
}
