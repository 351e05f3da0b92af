use serde_json::json;

use super::*;
use crate::apply::Writer;
use crate::schema::{Body, FieldValidation};
use crate::{apply, defaults, validate};

fn definition() -> Value {
    json!({
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList", "shortNames": ["wd"]},
            "versions": [
                {"name": "v1alpha1", "served": false, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}},
                {"name": "v1", "served": true, "storage": true,
                 "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                 "schema": {"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {
                    "spec": {"type": "object", "required": ["size"], "properties": {
                        "size": {"type": "string", "enum": ["s", "m"]},
                        "replicas": {"type": "integer", "minimum": 1, "default": 1},
                        "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
                        "port": {"x-kubernetes-int-or-string": true},
                        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                        "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                            "items": {"type": "object", "properties": {"id": {"type": "string"}, "n": {"type": "integer"}}}},
                    }},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                 }}}},
            ],
        },
    })
}

fn widgets() -> Arc<Resource> {
    resources(&definition()).remove(0)
}

fn widget(spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w", "namespace": "default"}, "spec": spec})
}

#[test]
fn served_versions_become_resources() {
    let all = resources(&definition());
    assert_eq!(all.len(), 1);
    let widgets = &all[0];
    assert_eq!(widgets.name().as_str(), "widgets.example.com");
    assert_eq!((widgets.api_version().as_str(), widgets.namespaced), ("example.com/v1", true));
    assert!(widgets.subresource("status").is_some() && widgets.subresource("scale").is_some());
    assert_eq!(widgets.custom.as_ref().unwrap().scale.as_ref().unwrap().spec_replicas, "/spec/replicas");
}

#[test]
fn unknown_fields_are_dropped_and_told_of() {
    let body = br#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"w","nmae":"x"},
        "spec":{"size":"s","size":"m","colour":"red","free":{"any":1},"labels":{"a":"b"},"parts":[{"id":"x","y":1}]}}"#;
    let decoded = decode(&widgets(), Body::Bytes(body), FieldValidation::Warn).unwrap();
    assert_eq!(
        decoded.warnings,
        [
            "duplicate field \"spec.size\"",
            "unknown field \"metadata.nmae\"",
            "unknown field \"spec.colour\"",
            "unknown field \"spec.parts[0].y\""
        ]
    );
    assert_eq!(
        decoded.value["spec"],
        json!({"size": "m", "free": {"any": 1}, "labels": {"a": "b"}, "parts": [{"id": "x"}]})
    );
    let strict = decode(&widgets(), Body::Bytes(body), FieldValidation::Strict).unwrap_err();
    assert!(
        strict.message.starts_with(
            "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: duplicate field \"spec.size\", "
        ),
        "{}",
        strict.message
    );
}

#[test]
fn the_schema_gives_defaults() {
    let mut object = widget(json!({"size": "s"}));
    defaults::apply(&widgets(), &mut object);
    assert_eq!(object["spec"]["replicas"], 1);
}

#[test]
fn problems_are_named_as_kubectl_shows_them() {
    for (spec, text) in [
        (json!({"size": "s"}), None),
        (json!({"size": "s", "port": "http"}), None),
        (json!({}), Some("spec.size: Required value")),
        (json!({"size": "xl"}), Some("spec.size: Unsupported value: \"xl\": supported values: \"s\", \"m\"")),
        (
            json!({"size": "s", "replicas": "two"}),
            Some("spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\""),
        ),
        (
            json!({"size": "s", "replicas": 0}),
            Some("spec.replicas: Invalid value: 0: spec.replicas in body should be greater than or equal to 1"),
        ),
        (
            json!({"size": "s", "name": "A"}),
            Some("spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z]+$'"),
        ),
        (json!({"size": "s", "name": "abcdef"}), Some("spec.name: Too long: may not be more than 5 bytes")),
        (
            json!({"size": "s", "port": true}),
            Some(
                "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
            ),
        ),
        (
            json!({"size": "s", "parts": [{"id": "a"}, {"id": "a"}]}),
            Some("spec.parts[1]: Duplicate value: {\"id\":\"a\"}"),
        ),
    ] {
        let errors: Vec<String> = validate::create(&widgets(), &widget(spec.clone()))
            .into_iter()
            .map(|e| format!("{}: {}", e.field, e.message))
            .collect();
        assert_eq!(errors, text.into_iter().collect::<Vec<_>>(), "{spec}");
    }
}

#[test]
fn server_side_apply_merges_by_the_schema() {
    let widgets = widgets();
    let writer = |manager| Writer { manager, subresource: "", now: "2026-01-01T00:00:00Z".parse().unwrap() };
    let one = widget(json!({"size": "s", "parts": [{"id": "a", "n": 1}]}));
    let two = widget(json!({"parts": [{"id": "b", "n": 2}]}));
    let live = apply::apply(&widgets, None, &one, &writer("alice"), false).unwrap();
    let live = apply::apply(&widgets, Some(&live), &two, &writer("bob"), false).unwrap();
    assert_eq!(live["spec"]["parts"], json!([{"id": "a", "n": 1}, {"id": "b", "n": 2}]));
    let gone = apply::apply(&widgets, Some(&live), &widget(json!({"size": "s"})), &writer("alice"), false).unwrap();
    assert_eq!(gone["spec"]["parts"], json!([{"id": "b", "n": 2}]));
}

#[test]
fn an_accepted_definition_says_so() {
    let mut definition = definition();
    establish(&mut definition, "2026-01-01T00:00:00Z".parse().unwrap());
    assert_eq!(definition["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(definition["status"]["acceptedNames"]["kind"], "Widget");
    assert_eq!(definition["status"]["conditions"][1]["type"], "Established");
}

#[test]
fn metadata_of_custom_objects_merges_as_that_of_all_objects() {
    let widgets = widgets();
    let writer = |manager| Writer { manager, subresource: "", now: "2026-01-01T00:00:00Z".parse().unwrap() };
    let with = |finalizer: &str| {
        let mut object = widget(json!({"size": "s"}));
        object["metadata"]["finalizers"] = json!([finalizer]);
        object
    };
    let live = apply::apply(&widgets, None, &with("a.b/c"), &writer("alice"), false).unwrap();
    let live = apply::apply(&widgets, Some(&live), &with("d.e/f"), &writer("bob"), false).unwrap();
    assert_eq!(live["metadata"]["finalizers"], json!(["a.b/c", "d.e/f"]));
}

#[test]
fn an_update_is_not_blamed_for_what_was_wrong_before() {
    let old = widget(json!({"size": "xl"}));
    let mut new = old.clone();
    new["spec"]["replicas"] = json!(2);
    assert!(validate::update(&widgets(), None, &new, &old).is_empty());
    new["spec"]["size"] = json!("xxl");
    assert_eq!(validate::update(&widgets(), None, &new, &old).len(), 1);
}
