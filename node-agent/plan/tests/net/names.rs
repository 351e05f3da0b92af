//! Cluster DNS.

use galley_node_plan::net::zone::{Data, Kind, Lookup, Record, Zone};
use serde_json::json;

use crate::world::{service, slice};

fn zone() -> Zone {
    let headless = json!({ "spec": { "clusterIP": "None" } });
    let external = json!({ "spec": { "type": "ExternalName", "clusterIP": null, "externalName": "Example.ORG." } });
    let pods = [
        json!({ "addresses": ["10.244.1.2"], "hostname": "db-0", "conditions": { "ready": true } }),
        json!({ "addresses": ["10.244.2.2"], "conditions": { "ready": true } }),
        json!({ "addresses": ["10.244.2.3"], "conditions": { "ready": false } }),
    ];
    Zone::new(
        "cluster.local",
        "10.96.0.10".parse().unwrap(),
        "10.96.0.0/16".parse().unwrap(),
        &[service("web", json!({})), service("db", headless), service("away", external)],
        &[slice("db", &pods), slice("web", &pods)],
    )
}

/// Answers as text; `-` is no such name, `>` is not ours, nothing is no record of this type.
fn ask(name: &str, kind: Kind) -> Vec<String> {
    let text = |record: Record| match record.data {
        Data::A(ip) => ip.to_string(),
        Data::Cname(name) => format!("alias {name}"),
        Data::Ns(name) => format!("server {name}"),
        Data::Ptr(name) => name,
        Data::Srv { port, target } => format!("{target}:{port}"),
        Data::Txt(text) => text,
    };
    match zone().lookup(name, kind) {
        Lookup::Forward => vec![">".into()],
        Lookup::NoName => vec!["-".into()],
        Lookup::Found { answers, .. } => answers.into_iter().map(text).collect(),
    }
}

#[test]
fn each_name_is_answered_as_the_specification_says() {
    let svc = |name: &str| format!("{name}.default.svc.cluster.local");
    let cases: [(String, Kind, &[&str]); 24] = [
        (svc("web"), Kind::A, &["10.96.1.1"]),
        (svc("web"), Kind::Other, &[]),
        (svc("db"), Kind::A, &["10.244.1.2", "10.244.2.2"]),
        (svc("db-0.db"), Kind::A, &["10.244.1.2"]),
        (svc("10-244-2-2.db"), Kind::A, &["10.244.2.2"]),
        (svc("10-244-2-3.db"), Kind::A, &["-"]),
        (svc("10-244-1-2.web"), Kind::A, &["-"]),
        (svc("away"), Kind::A, &["alias example.org"]),
        (svc("nobody"), Kind::A, &["-"]),
        (svc("_http._tcp.web"), Kind::Srv, &["web.default.svc.cluster.local:80"]),
        (
            svc("_http._tcp.db"),
            Kind::Srv,
            &["10-244-2-2.db.default.svc.cluster.local:8080", "db-0.db.default.svc.cluster.local:8080"],
        ),
        (svc("_http._udp.web"), Kind::Srv, &["-"]),
        (svc("_tcp.web"), Kind::A, &[]),
        ("default.svc.cluster.local".into(), Kind::A, &[]),
        ("nowhere.svc.cluster.local".into(), Kind::A, &["-"]),
        ("svc.cluster.local".into(), Kind::A, &[]),
        ("cluster.local".into(), Kind::Ns, &["server ns.dns.cluster.local"]),
        ("ns.dns.cluster.local".into(), Kind::A, &["10.96.0.10"]),
        ("dns-version.cluster.local".into(), Kind::Txt, &["1.1.0"]),
        ("10-244-9-9.default.pod.cluster.local".into(), Kind::A, &["10.244.9.9"]),
        ("other.default.pod.cluster.local".into(), Kind::A, &["-"]),
        ("1.1.96.10.in-addr.arpa".into(), Kind::Ptr, &["web.default.svc.cluster.local"]),
        ("2.1.96.10.in-addr.arpa".into(), Kind::Ptr, &["-"]),
        ("2.1.244.10.in-addr.arpa".into(), Kind::Ptr, &["db-0.db.default.svc.cluster.local"]),
    ];
    for (name, kind, expected) in cases {
        assert_eq!(ask(&name, kind), expected, "{kind:?} {name}");
    }
    for name in ["example.org", "notcluster.local", "8.8.8.8.in-addr.arpa", "9.9.244.10.in-addr.arpa", ""] {
        assert_eq!(ask(name, Kind::Ptr), [">"], "{name}");
    }
}

#[test]
fn addresses_come_with_the_ports_that_lead_to_them() {
    let Lookup::Found { additional, .. } = zone().lookup("_http._tcp.db.default.svc.cluster.local", Kind::Srv) else {
        panic!("no such name")
    };
    let addresses: Vec<_> = additional.into_iter().map(|record| record.data).collect();
    assert_eq!(addresses, [Data::A("10.244.2.2".parse().unwrap()), Data::A("10.244.1.2".parse().unwrap())]);
}
