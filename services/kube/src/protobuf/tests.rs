use serde_json::json;

use super::*;

fn tag(number: u8, wire: u8) -> u8 {
    number << 3 | wire
}

/// A field with bytes; lengths here fit into one byte.
fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag(number, 2), u8::try_from(content.len()).unwrap()];
    out.extend(content);
    out
}

fn number(number: u8, value: u8) -> Vec<u8> {
    vec![tag(number, 0), value]
}

fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let type_meta = join(&[bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())]);
    join(&[PREFIX.to_vec(), bytes(1, &type_meta), bytes(2, raw)])
}

#[test]
fn a_pod_becomes_the_tree_that_its_json_would_be() {
    let labels = bytes(11, &join(&[bytes(1, b"app"), bytes(2, b"web")]));
    let created = bytes(8, b"");
    let metadata = bytes(1, &join(&[bytes(1, b"p"), labels, created]));
    let volume = bytes(1, &join(&[bytes(1, b"v"), bytes(2, &bytes(2, b""))]));
    let limits = bytes(1, &join(&[bytes(1, b"cpu"), bytes(2, &bytes(1, b"100m"))]));
    let http = bytes(2, &join(&[bytes(1, b"/"), bytes(2, &join(&[number(1, 0), number(2, 80)]))]));
    let probe = bytes(10, &join(&[bytes(1, &http), number(3, 5)]));
    let container = bytes(2, &join(&[bytes(1, b"c"), bytes(2, b"nginx"), bytes(8, &limits), probe]));
    let spec = bytes(2, &join(&[volume, container, number(11, 1)]));
    let decoded = decode(&envelope("v1", "Pod", &join(&[metadata, spec]))).unwrap();
    assert_eq!(
        decoded.value,
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "labels": {"app": "web"}, "creationTimestamp": null},
            "spec": {
                "volumes": [{"name": "v", "emptyDir": {}}],
                "containers": [{"name": "c", "image": "nginx", "resources": {"limits": {"cpu": "100m"}},
                    "livenessProbe": {"httpGet": {"path": "/", "port": 80}, "timeoutSeconds": 5}}],
                "hostNetwork": true,
            },
        })
    );
}

#[test]
fn options_are_known_in_every_group() {
    let decoded = decode(&envelope("apps/v1", "DeleteOptions", &number(1, 5))).unwrap();
    assert_eq!(decoded.value["gracePeriodSeconds"], 5);
}

#[test]
fn what_is_no_message_is_refused() {
    assert_eq!(decode(b"{}").unwrap_err().code, 400);
    assert_eq!(decode(b"k8s\0\xff").unwrap_err().code, 400);
    assert_eq!(decode(&envelope("v1", "Pod", b"\xff\xff")).unwrap_err().code, 400);
    assert_eq!(decode(&envelope("example.com/v1", "Widget", b"")).unwrap_err().code, 415);
}

#[test]
fn every_number_is_of_a_field_of_the_schema() {
    for ty in schema::types() {
        for entry in TABLES.get(ty.short_name()).into_iter().flat_map(HashMap::values) {
            match entry {
                Entry::Named(name) => assert!(ty.field(name).is_some(), "{}.{name}", ty.short_name()),
                Entry::Embedded(name) => assert!(TABLES.contains_key(name), "{name}"),
            }
        }
    }
}
