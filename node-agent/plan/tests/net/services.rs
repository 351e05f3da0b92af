//! From Services to rules, and from rules to other rules.

use std::collections::BTreeSet;

use galley_node_plan::net::conntrack::{Destination, Stale, stale_flows, udp_services};
use galley_node_plan::net::frontends::{Frontend, Protocol, TrafficPolicy, health_checks};
use galley_node_plan::net::nftables::{Applied, Ruleset, Scripts, diff};
use galley_node_plan::net::proxy::{ProxyOptions, ruleset};
use proptest::prelude::*;
use serde_json::json;

use crate::world::{Kernel, endpoint, seen_by_a, service, slice};

fn options() -> ProxyOptions {
    ProxyOptions {
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        pod_cidrs: ["10.244.1.0/24".parse().unwrap(), "10.244.2.0/24".parse().unwrap()].into(),
        own_pod_cidr: Some("10.244.1.0/24".parse().unwrap()),
    }
}

fn kernel(frontends: &[Frontend]) -> (Kernel, Ruleset) {
    let rules = ruleset(frontends, &options());
    let mut kernel = Kernel::default();
    kernel.apply(&diff(&rules, &Applied::default()));
    (kernel, rules)
}

#[test]
fn ready_endpoints_are_asked_and_serving_ones_only_when_there_is_no_other() {
    let (ready, stopping, dead) = (
        json!({ "ready": true }),
        json!({ "ready": false, "serving": true, "terminating": true }),
        json!({ "ready": false, "serving": false, "terminating": true }),
    );
    let unsaid = json!({});
    let unready = json!({ "ready": false, "serving": true, "terminating": false });
    let cases = [
        (vec![("10.244.1.2", &ready), ("10.244.1.3", &stopping)], vec!["10.244.1.2:8080"]),
        (vec![("10.244.1.3", &stopping), ("10.244.1.4", &dead)], vec!["10.244.1.3:8080"]),
        (vec![("10.244.1.4", &dead), ("10.244.1.5", &unready)], vec![]),
        (vec![("10.244.1.2", &unsaid), ("10.244.1.2", &unsaid)], vec!["10.244.1.2:8080"]),
    ];
    for (endpoints, expected) in cases {
        let endpoints: Vec<_> = endpoints.iter().map(|(ip, state)| endpoint(ip, "a", (*state).clone())).collect();
        let found = seen_by_a(&[service("web", json!({}))], &[slice("web", &endpoints)]);
        let found: Vec<_> = found[0].endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{endpoints:?}");
    }
}

#[test]
fn services_that_are_not_proxied_get_no_frontend() {
    let others = [
        json!({ "spec": { "clusterIP": "None" } }),
        json!({ "spec": { "type": "ExternalName", "clusterIP": null, "externalName": "example.org" } }),
        json!({ "metadata": { "labels": { "service.kubernetes.io/service-proxy-name": "other" } } }),
        json!({ "spec": { "clusterIP": "10.96.0.1" } }),
        json!({ "spec": { "clusterIP": "10.96.0.10" } }),
    ];
    for patch in others {
        assert_eq!(seen_by_a(&[service("web", patch.clone())], &[]), [], "{patch}");
    }
}

#[test]
fn a_service_without_endpoints_refuses_and_one_with_only_far_endpoints_stays_silent() {
    let exposed = json!({ "spec": {
        "type": "NodePort", "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080 }],
        "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local",
    } });
    let far = slice("web", &[endpoint("10.244.2.2", "b", json!({}))]);
    let near = slice("web", &[endpoint("10.244.1.2", "a", json!({}))]);
    let (nobody, _) = kernel(&seen_by_a(&[service("web", exposed.clone())], &[]));
    assert_eq!(nobody.verdict("no-endpoint-ips", "10.96.1.1 . tcp . 80"), Some("goto refuse"));
    assert_eq!(nobody.verdict("no-endpoint-nodeports", "tcp . 30080"), Some("goto refuse"));
    assert_eq!(nobody.verdict("service-ips", "10.96.1.1 . tcp . 80"), None);

    let (far, _) = kernel(&seen_by_a(&[service("web", exposed.clone())], &[far]));
    assert_eq!(far.verdict("no-endpoint-ips", "10.96.1.1 . tcp . 80"), Some("drop"));
    assert_eq!(far.verdict("no-endpoint-nodeports", "tcp . 30080"), Some("drop"));
    assert!(
        far.verdict("service-nodeports", "tcp . 30080").is_some(),
        "the node itself and its pods still get through"
    );

    let (near, _) = kernel(&seen_by_a(&[service("web", exposed)], &[near]));
    assert_eq!(near.verdict("no-endpoint-ips", "10.96.1.1 . tcp . 80"), None);
    let rules = near.chain(near.verdict("service-ips", "10.96.1.1 . tcp . 80").unwrap());
    assert!(rules[0].starts_with("meta l4proto tcp dnat to 10.244.1.2:8080"), "{rules:?}");
}

#[test]
fn load_balancer_addresses_are_taken_unless_the_balancer_is_a_proxy() {
    let status = |mode: &str| {
        json!({
            "spec": { "type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/25", "192.0.2.128/25"] },
            "status": { "loadBalancer": { "ingress": [{ "ip": "198.51.100.1", "ipMode": mode }] } },
        })
    };
    let endpoints = slice("web", &[endpoint("10.244.1.2", "a", json!({}))]);
    let (vip, _) = kernel(&seen_by_a(&[service("web", status("VIP"))], std::slice::from_ref(&endpoints)));
    let key = "198.51.100.1 . tcp . 80";
    let external = vip.chain(vip.verdict("service-ips", key).unwrap());
    assert!(external[0].starts_with("meta mark set"), "the client's address is replaced: {external:?}");
    let firewall = vip.chain(vip.verdict("firewall-ips", key).unwrap());
    assert!(firewall[0].starts_with("ip saddr != { 192.0.2.0/24 } drop"), "{firewall:?}");
    let (proxy, _) = kernel(&seen_by_a(&[service("web", status("Proxy"))], &[endpoints]));
    assert_eq!(proxy.verdict("service-ips", key), None);
}

#[test]
fn a_changed_endpoint_rewrites_one_chain() {
    let many = |changed: &str| {
        let services: Vec<_> = (0..100)
            .map(|number| {
                let ip = format!("10.96.2.{number}");
                service(&format!("web-{number}"), json!({ "spec": { "clusterIP": ip } }))
            })
            .collect();
        let slices: Vec<_> = (0..100)
            .map(|number| {
                let second = if number == 7 { changed } else { "10.244.2.9" };
                let endpoints = ["10.244.2.8", second].map(|ip| endpoint(ip, "b", json!({})));
                slice(&format!("web-{number}"), &endpoints)
            })
            .collect();
        ruleset(&seen_by_a(&services, &slices), &options())
    };
    let scripts = diff(&many("10.244.2.10"), &Applied::of(&many("10.244.2.9")));
    let lines: Vec<_> = scripts.change.lines().collect();
    assert!(
        matches!(lines.as_slice(), [flush, add] if flush.starts_with("flush chain") && add.starts_with("add rule")),
        "{lines:?}"
    );
    assert_eq!(scripts.remove, "");
}

#[test]
fn what_nftables_prints_is_understood() {
    // As `nft -j list table` of nftables 1.0.6 prints the start of a table that an agent made.
    let rules = {
        let mut rules = Ruleset::new("galley-proxy");
        rules.collection(galley_node_plan::net::nftables::CollectionKind::Map, "service-ips", "");
        rules.element("service-ips", "10.96.0.7 . tcp . 80".into(), "goto one".into());
        rules.element("service-ips", "10.96.0.8 . udp . 53".into(), "drop".into());
        rules.chain("one", vec!["accept".into()]);
        rules
    };
    let script = diff(&rules, &Applied::default()).change;
    let comment = script.split('"').nth(1).unwrap();
    let printed = json!({ "nftables": [
        { "metainfo": { "version": "1.0.6" } },
        { "table": { "family": "ip", "name": "galley-proxy", "handle": 1 } },
        { "map": { "family": "ip", "name": "service-ips", "type": ["ipv4_addr", "inet_proto", "inet_service"], "map": "verdict", "elem": [
            [{ "concat": ["10.96.0.7", "tcp", 80] }, { "goto": { "target": "one" } }],
            [{ "concat": ["10.96.0.8", "udp", 53] }, { "drop": null }],
        ] } },
        { "chain": { "family": "ip", "table": "galley-proxy", "name": "one" } },
        { "chain": { "family": "ip", "table": "galley-proxy", "name": "schema-1" } },
        { "rule": { "family": "ip", "chain": "one", "comment": comment, "expr": [{ "accept": null }] } },
    ] });
    assert_eq!(diff(&rules, &Applied::parse(&printed)), Scripts::default());

    let mut foreign = printed.clone();
    foreign["nftables"][5]["rule"]["comment"] = json!(null);
    let scripts = diff(&rules, &Applied::parse(&foreign));
    assert!(scripts.change.starts_with("flush chain ip galley-proxy one"), "a rule of somebody else goes: {scripts:?}");
}

#[test]
fn udp_flows_are_forgotten_when_their_endpoint_goes_or_the_first_one_comes() {
    let frontend = |endpoints: &[&str]| {
        let mut frontend = any_frontend(0);
        frontend.protocol = Protocol::Udp;
        frontend.endpoints = endpoints.iter().map(|text| text.parse().unwrap()).collect();
        udp_services(&[frontend])
    };
    let (none, one, other) = (frontend(&[]), frontend(&["10.244.1.2:53"]), frontend(&["10.244.1.3:53"]));
    let destination = Destination::Address("10.96.3.0".parse().unwrap(), 80);
    let (first, second) = ("10.244.1.2:53".parse().unwrap(), "10.244.1.3:53".parse().unwrap());
    let cases = [
        (&none, &one, vec![Stale::Untranslated(destination)]),
        (&one, &other, vec![Stale::Translated(destination, first)]),
        (&other, &none, vec![Stale::Translated(destination, second)]),
        (&one, &one, vec![]),
    ];
    for (before, after, expected) in cases {
        assert_eq!(stale_flows(before, after), expected.into_iter().collect::<BTreeSet<_>>());
    }
}

#[test]
fn health_ports_count_pods_not_ports() {
    let spec = json!({ "spec": {
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31999,
        "ports": [{ "name": "http", "port": 80 }, { "name": "other", "port": 81 }],
    } });
    let endpoints = [("10.244.1.2", "a"), ("10.244.1.3", "a"), ("10.244.2.2", "b")];
    let endpoints = endpoints.map(|(ip, node)| endpoint(ip, node, json!({})));
    let health = health_checks(&seen_by_a(&[service("web", spec)], &[slice("web", &endpoints)]));
    assert_eq!(health[&31999].local_endpoints, 2);
}

fn any_frontend(number: u8) -> Frontend {
    Frontend {
        namespace: "default".into(),
        service: format!("s{number}"),
        port_name: String::new(),
        protocol: Protocol::Tcp,
        port: 80,
        cluster_ip: [10, 96, 3, number].into(),
        node_port: None,
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        external_ips: Vec::new(),
        external_policy: TrafficPolicy::Cluster,
        internal_policy: TrafficPolicy::Cluster,
        affinity_seconds: None,
        health_check_node_port: None,
        endpoints: BTreeSet::new(),
        local_endpoints: BTreeSet::new(),
    }
}

prop_compose! {
    fn frontend(number: u8)(
        endpoints in 0..4_u8,
        near in 0..3_u8,
        node_port in any::<bool>(),
        balanced in any::<bool>(),
        fenced in any::<bool>(),
        affinity in prop_oneof![Just(None), Just(Some(60)), Just(Some(90))],
        policies in any::<(bool, bool)>(),
    ) -> Frontend {
        let policy = |local| if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
        let addresses = |count: u8| (0..count).map(|pod| format!("10.244.1.{}:8080", pod + 2).parse().unwrap()).collect();
        Frontend {
            node_port: node_port.then_some(30_000 + u16::from(number)),
            load_balancer_ips: if balanced { vec![[198, 51, 100, number].into()] } else { Vec::new() },
            source_ranges: if fenced { vec!["192.0.2.0/24".parse().unwrap()] } else { Vec::new() },
            external_policy: policy(policies.0),
            internal_policy: policy(policies.1),
            affinity_seconds: affinity,
            endpoints: addresses(endpoints),
            local_endpoints: addresses(near.min(endpoints)),
            ..any_frontend(number)
        }
    }
}

fn world() -> impl Strategy<Value = Vec<Frontend>> {
    let all: Vec<_> = (0..6).map(frontend).collect();
    (all, proptest::collection::vec(any::<bool>(), 6)).prop_map(|(all, there)| {
        all.into_iter().zip(there).filter(|(_, there)| *there).map(|(frontend, _)| frontend).collect()
    })
}

proptest! {
    #[test]
    fn any_change_leads_to_what_is_wanted_and_then_there_is_nothing_to_do(worlds in proptest::collection::vec(world(), 1..5)) {
        let mut kernel = Kernel::default();
        let mut applied = Applied::default();
        for world in worlds {
            let rules = ruleset(&world, &options());
            kernel.apply(&diff(&rules, &applied));
            prop_assert!(kernel.is(&rules));
            applied = Applied::of(&rules);
            prop_assert!(diff(&rules, &applied).is_empty());
        }
    }
}
