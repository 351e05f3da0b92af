//! Service addresses: ClusterIPs and NodePorts, each given to one Service at a time.
//!
//! What is taken is read from the Services themselves, under a lock that is held until the commit, so there is no second
//! record that could disagree with them.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use galley_kube::{FieldError, Resource, Status};
use k8s_openapi::api::core::v1::Service;
use rand::Rng;
use serde_json::{Value, json};

use crate::admission::Request;
use crate::settings::Settings;
use crate::value::{array, array_mut, map_at, text};

/// Whether objects of this resource have addresses.
pub fn is_service(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.plural == "services"
}

/// What other Services hold.
#[derive(Debug, Default)]
struct Taken {
    ips: HashSet<Ipv4Addr>,
    /// Port and protocol: one number may serve TCP in one Service and UDP in another.
    ports: HashSet<(u16, String)>,
}

impl Taken {
    fn add(&mut self, service: &Service) {
        let Some(spec) = &service.spec else { return };
        let ips = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        self.ips.extend(ips.filter_map(|ip| ip.parse::<Ipv4Addr>().ok()));
        for port in spec.ports.iter().flatten() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            self.ports.extend(port.node_port.and_then(node_port).map(|number| (number, protocol.to_owned())));
        }
        self.ports.extend(spec.health_check_node_port.and_then(node_port).map(|number| (number, "TCP".to_owned())));
    }
}

fn node_port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

fn protocol(port: &Value) -> String {
    match text(port, "/protocol") {
        "" => "TCP".into(),
        protocol => protocol.into(),
    }
}

/// Gives a Service the addresses that its type needs, and takes back those it does not need any more. The caller holds the
/// cluster's Service lock until the commit.
pub(crate) fn allocate(request: &Request<'_>, old: Option<&Value>, new: &mut Value) -> Result<(), Status> {
    let mut taken = Taken::default();
    for service in request.list("services", "") {
        if *service.key.namespace != *request.namespace || *service.key.name != *request.name {
            // Controllers decode Services as this type too, so it is there already.
            taken.add(&*service.typed::<Service>().map_err(Status::internal)?);
        }
    }
    let errors = request.api.store.entropy().draw(|mut rng| assign(&request.api.settings, &taken, old, new, &mut rng));
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid("", "Service", request.name, &errors))
}

fn assign(
    settings: &Settings,
    taken: &Taken,
    old: Option<&Value>,
    new: &mut Value,
    rng: &mut impl Rng,
) -> Vec<FieldError> {
    let kind = match text(new, "/spec/type") {
        "" => "ClusterIP".to_owned(),
        kind => kind.to_owned(),
    };
    let mut errors = Vec::new();
    if kind == "ExternalName" {
        let spec = map_at(new, &["spec"]);
        let changed = old.is_some_and(|old| text(old, "/spec/type") != "ExternalName");
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if changed || spec.get(key).is_some_and(|v| v.is_null() || v == "" || v == &json!([])) {
                spec.remove(key);
            }
        }
        drop_node_ports(new, old);
        return errors;
    }
    if let Some(old) = old {
        keep_addresses(old, new, &kind);
    }
    cluster_ip(settings, taken, new, rng, &mut errors);
    if kind == "NodePort"
        || (kind == "LoadBalancer" && new.pointer("/spec/allocateLoadBalancerNodePorts") != Some(&json!(false)))
    {
        node_ports(settings, taken, new, rng, &mut errors);
    } else if kind == "ClusterIP" {
        drop_node_ports(new, old);
    }
    health_check_port(settings, taken, new, rng, &kind);
    errors
}

/// An update that does not mention an address keeps it: `kubectl replace` of a manifest must not move a Service.
fn keep_addresses(old: &Value, new: &mut Value, kind: &str) {
    if text(old, "/spec/type") != "ExternalName" && text(new, "/spec/clusterIP").is_empty() {
        for key in ["clusterIP", "clusterIPs"] {
            if let Some(value) = old.pointer(&format!("/spec/{key}")) {
                map_at(new, &["spec"]).insert(key.into(), value.clone());
            }
        }
    }
    for key in ["ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy", "sessionAffinity"] {
        let absent = new.pointer(&format!("/spec/{key}")).is_none_or(Value::is_null);
        if let (true, Some(value)) = (absent, old.pointer(&format!("/spec/{key}"))) {
            map_at(new, &["spec"]).insert(key.into(), value.clone());
        }
    }
    if !matches!(kind, "NodePort" | "LoadBalancer") {
        return;
    }
    let before = array(old, "/spec/ports").to_vec();
    let ports = array_mut(map_at(new, &["spec"]), "ports");
    let used: HashSet<u64> =
        ports.iter().filter_map(|p| p.get("nodePort").and_then(Value::as_u64)).filter(|n| *n != 0).collect();
    for port in ports {
        if port.get("nodePort").and_then(Value::as_u64).unwrap_or(0) != 0 {
            continue;
        }
        let same = |other: &&Value| other.get("port") == port.get("port") && protocol(other) == protocol(port);
        let kept = before
            .iter()
            .find(same)
            .and_then(|other| other.get("nodePort"))
            .filter(|n| n.as_u64().is_some_and(|n| !used.contains(&n)));
        if let (Some(kept), Value::Object(port)) = (kept, port) {
            port.insert("nodePort".into(), kept.clone());
        }
    }
}

fn cluster_ip(settings: &Settings, taken: &Taken, new: &mut Value, rng: &mut impl Rng, errors: &mut Vec<FieldError>) {
    let asked = match text(new, "/spec/clusterIP") {
        "" => array(new, "/spec/clusterIPs").first().and_then(Value::as_str).unwrap_or("").to_owned(),
        asked => asked.to_owned(),
    };
    let ip = if asked == "None" {
        asked
    } else if asked.is_empty() {
        let Some(ip) = free_ip(settings, taken, rng) else {
            errors.push(FieldError {
                field: "spec.clusterIPs".into(),
                reason: "InternalError",
                message: "Internal error: failed to allocate a serviceIP: range is full".into(),
            });
            return;
        };
        ip.to_string()
    } else {
        let why = match asked.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) if !settings.service_cidr.contains(&ip) => Some(format!(
                "failed to allocate IP {asked}: the provided IP ({asked}) is not in the valid range. The range of valid IPs is {}",
                settings.service_cidr
            )),
            Ok(IpAddr::V4(ip)) if taken.ips.contains(&ip) => {
                Some(format!("failed to allocate IP {asked}: provided IP is already allocated"))
            }
            Ok(IpAddr::V4(_)) => None,
            Ok(IpAddr::V6(_)) => Some(format!("failed to allocate IP {asked}: this cluster has no IPv6 range")),
            // Validation says what is wrong with a text that is no address.
            Err(_) => return,
        };
        if let Some(why) = why {
            errors.push(FieldError {
                field: "spec.clusterIPs".into(),
                reason: "FieldValueInvalid",
                message: format!("Invalid value: {}: {why}", json!([asked])),
            });
            return;
        }
        asked
    };
    let spec = map_at(new, &["spec"]);
    spec.insert("clusterIP".into(), json!(ip));
    spec.insert("clusterIPs".into(), json!([ip]));
    spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
    spec.entry("ipFamilyPolicy").or_insert_with(|| json!("SingleStack"));
}

fn free_ip(settings: &Settings, taken: &Taken, rng: &mut impl Rng) -> Option<Ipv4Addr> {
    let (first, last) = (u32::from(settings.service_cidr.network()), u32::from(settings.service_cidr.broadcast()));
    let reserved = [settings.kubernetes_ip(), settings.cluster_dns];
    // The lower part stays for addresses that people choose by hand, as long as there are others.
    let lower = first + 1 + ((last - first) / 16).clamp(16, 256).min(last - first - 1);
    let usable = |ip: &u32| {
        let ip = Ipv4Addr::from(*ip);
        !taken.ips.contains(&ip) && !reserved.contains(&ip)
    };
    let drawn = (0..8).map(|_| rng.random_range(lower..last)).find(usable);
    drawn.or_else(|| (lower..last).find(usable)).or_else(|| (first + 1..lower).find(usable)).map(Ipv4Addr::from)
}

fn node_ports(settings: &Settings, taken: &Taken, new: &mut Value, rng: &mut impl Rng, errors: &mut Vec<FieldError>) {
    let mut mine: HashSet<(u16, String)> = HashSet::new();
    let ports = array_mut(map_at(new, &["spec"]), "ports");
    for (index, port) in ports.iter().enumerate() {
        let asked = port.get("nodePort").and_then(Value::as_u64).unwrap_or(0);
        if asked == 0 {
            continue;
        }
        let number = u16::try_from(asked).unwrap_or(0);
        let key = (number, protocol(port));
        let why = if !settings.node_ports.contains(&number) {
            format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                settings.node_ports.start(),
                settings.node_ports.end()
            )
        } else if taken.ports.contains(&key) || mine.contains(&key) {
            "provided port is already allocated".to_owned()
        } else {
            mine.insert(key);
            continue;
        };
        errors.push(FieldError {
            field: format!("spec.ports[{index}].nodePort"),
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {asked}: {why}"),
        });
    }
    // One number serves both protocols of a port that is listed twice (DNS over UDP and TCP).
    let mut chosen: Vec<(Option<Value>, String, u16)> = Vec::new();
    for port in ports.iter_mut() {
        let number = port.get("nodePort").and_then(Value::as_u64).unwrap_or(0);
        let (target, protocol) = (port.get("port").cloned(), protocol(port));
        if let Ok(number) = u16::try_from(number)
            && number != 0
        {
            chosen.push((target, protocol, number));
            continue;
        }
        let free = |number: &u16| {
            let key = (*number, protocol.clone());
            !taken.ports.contains(&key) && !mine.contains(&key)
        };
        let shared = chosen.iter().find(|(t, p, n)| *t == target && *p != protocol && free(n)).map(|(_, _, n)| *n);
        let drawn = shared.or_else(|| (0..16).map(|_| rng.random_range(settings.node_ports.clone())).find(free));
        let Some(number) = drawn.or_else(|| settings.node_ports.clone().find(free)) else {
            errors.push(FieldError {
                field: "spec.ports".into(),
                reason: "InternalError",
                message: "Internal error: failed to allocate a nodePort: range is full".into(),
            });
            return;
        };
        mine.insert((number, protocol.clone()));
        chosen.push((target, protocol, number));
        if let Value::Object(port) = port {
            port.insert("nodePort".into(), json!(number));
        }
    }
}

/// A Service that is not reached from outside any more gives its NodePorts back, unless the update itself names new ones
/// (validation refuses those).
fn drop_node_ports(new: &mut Value, old: Option<&Value>) {
    let Some(old) = old else { return };
    if !matches!(text(old, "/spec/type"), "NodePort" | "LoadBalancer") {
        return;
    }
    let before: Vec<Value> = array(old, "/spec/ports").iter().filter_map(|p| p.get("nodePort").cloned()).collect();
    for port in array_mut(map_at(new, &["spec"]), "ports") {
        if let Value::Object(port) = port
            && port.get("nodePort").is_some_and(|number| before.contains(number))
        {
            port.remove("nodePort");
        }
    }
}

fn health_check_port(settings: &Settings, taken: &Taken, new: &mut Value, rng: &mut impl Rng, kind: &str) {
    let needed = kind == "LoadBalancer" && text(new, "/spec/externalTrafficPolicy") == "Local";
    let has = new.pointer("/spec/healthCheckNodePort").and_then(Value::as_u64).is_some_and(|port| port != 0);
    if !needed {
        map_at(new, &["spec"]).remove("healthCheckNodePort");
        return;
    }
    if has {
        return;
    }
    let mine: Vec<u64> = array(new, "/spec/ports").iter().filter_map(|p| p.get("nodePort")?.as_u64()).collect();
    let free =
        |number: &u16| !taken.ports.contains(&(*number, "TCP".to_owned())) && !mine.contains(&u64::from(*number));
    let drawn = (0..16).map(|_| rng.random_range(settings.node_ports.clone())).find(free);
    if let Some(number) = drawn.or_else(|| settings.node_ports.clone().find(free)) {
        map_at(new, &["spec"]).insert("healthCheckNodePort".into(), json!(number));
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn assigned(taken: &[Value], old: Option<&Value>, mut new: Value) -> Result<Value, Vec<FieldError>> {
        let mut held = Taken::default();
        for service in taken {
            held.add(&serde_json::from_value(service.clone()).unwrap());
        }
        let mut rng = rand::rngs::StdRng::seed_from_u64(7);
        let errors = assign(&Settings::default(), &held, old, &mut new, &mut rng);
        if errors.is_empty() { Ok(new) } else { Err(errors) }
    }

    #[test]
    fn a_node_port_service_gets_an_address_and_a_port() {
        let service = assigned(&[], None, json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}})).unwrap();
        let ip: Ipv4Addr = text(&service, "/spec/clusterIP").parse().unwrap();
        assert!(Settings::default().service_cidr.contains(&ip));
        let port = service.pointer("/spec/ports/0/nodePort").and_then(Value::as_u64).unwrap();
        assert!((30000..=32767).contains(&port));
    }

    #[test]
    fn an_address_is_given_once() {
        let other = json!({"spec": {"clusterIP": "10.96.0.50", "ports": [{"port": 1, "nodePort": 30007}]}});
        let new = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.50", "ports": [{"port": 80, "nodePort": 30007}]}});
        let errors = assigned(std::slice::from_ref(&other), None, new).unwrap_err();
        assert_eq!(
            errors[0].message,
            "Invalid value: [\"10.96.0.50\"]: failed to allocate IP 10.96.0.50: provided IP is already allocated"
        );
        assert_eq!(errors[1].message, "Invalid value: 30007: provided port is already allocated");
    }

    #[test]
    fn headless_and_external_services_have_no_address() {
        let headless = assigned(&[], None, json!({"spec": {"clusterIP": "None", "ports": [{"port": 80}]}})).unwrap();
        assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
        let external = assigned(&[], None, json!({"spec": {"type": "ExternalName", "externalName": "x"}})).unwrap();
        assert_eq!(external["spec"].get("clusterIP"), None);
    }

    #[test]
    fn an_update_keeps_addresses_and_a_narrower_type_gives_ports_back() {
        let old = assigned(&[], None, json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}})).unwrap();
        let new = assigned(&[], Some(&old), json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}})).unwrap();
        assert_eq!(new["spec"]["clusterIP"], old["spec"]["clusterIP"]);
        assert_eq!(new["spec"]["ports"], old["spec"]["ports"]);
        let mut narrowed = old.clone();
        narrowed["spec"]["type"] = json!("ClusterIP");
        let narrowed = assigned(&[], Some(&old), narrowed).unwrap();
        assert_eq!(narrowed["spec"]["ports"], json!([{"port": 80}]));
    }
}
