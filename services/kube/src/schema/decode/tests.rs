use serde_json::json;

use super::*;
use crate::schema;

fn strict(api_version: &str, kind: &str, body: &str) -> Result<Value, String> {
    let ty = schema::kind(api_version, kind).expect(kind);
    decode(ty, api_version, kind, Body::Bytes(body.as_bytes()), FieldValidation::Strict)
        .map(|d| d.value)
        .map_err(|s| s.message)
}

#[test]
fn a_wrong_type_says_what_go_would() {
    for (api_version, kind, body, message) in [
        (
            "apps/v1",
            "Deployment",
            r#"{"spec":{"replicas":"two"}}"#,
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct \
             field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "apps/v1",
            "Deployment",
            r#"{"spec":{"template":{"spec":{"containers":[{"ports":[{"containerPort":"x"}]}]}}}}"#,
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct \
             field ContainerPort.spec.template.spec.containers.ports.containerPort of type int32",
        ),
        (
            "v1",
            "Pod",
            r#"{"spec":{"containers":[{"env":[{"name":"A","value":1}]}]}}"#,
            "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field \
             EnvVar.spec.containers.env.value of type string",
        ),
        (
            "v1",
            "Pod",
            r#"{"spec":[]}"#,
            "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal array into Go struct field Pod.spec \
             of type v1.PodSpec",
        ),
        (
            "v1",
            "Pod",
            r#"{"metadata":{"labels":{"a":true}}}"#,
            "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal bool into Go struct field \
             ObjectMeta.metadata.labels of type string",
        ),
        (
            "v1",
            "Pod",
            r#"{"spec":{"containers":{"name":"x"}}}"#,
            "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal object into Go struct field \
             PodSpec.spec.containers of type []v1.Container",
        ),
        (
            "v1",
            "Pod",
            r#"{"spec":{"terminationGracePeriodSeconds":1.5}}"#,
            "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal number 1.5 into Go struct field \
             PodSpec.spec.terminationGracePeriodSeconds of type int64",
        ),
        (
            "v1",
            "Pod",
            r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"lots"}}}]}}"#,
            "Pod in version \"v1\" cannot be handled as a Pod: quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            "v1",
            "Secret",
            r#"{"data":{"a":"not base64"}}"#,
            "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 3",
        ),
        (
            "v1",
            "Pod",
            r#"{"apiVersion":"v2"}"#,
            "the API version in the data (v2) does not match the expected API version (v1)",
        ),
    ] {
        assert_eq!(strict(api_version, kind, body).unwrap_err(), message);
    }
}

#[test]
fn unknown_and_duplicate_fields_are_errors_or_warnings() {
    let body = r#"{"spec":{"foo":1,"containers":[{"name":"a","name":"b","imagee":"x"}]},"metadata":{"labels":{"a":"1","a":"2"}}}"#;
    assert_eq!(
        strict("v1", "Pod", body).unwrap_err(),
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.foo\", duplicate \
         field \"spec.containers[0].name\", unknown field \"spec.containers[0].imagee\", duplicate field \
         \"metadata.labels.a\""
    );
    let ty = schema::kind("v1", "Pod").unwrap();
    let lenient = decode(ty, "v1", "Pod", Body::Bytes(body.as_bytes()), FieldValidation::Warn).unwrap();
    assert_eq!(lenient.warnings.len(), 4);
    assert_eq!(
        lenient.value,
        json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "b"}]}, "metadata": {"labels": {"a": "2"}}})
    );
    let ignored = decode(ty, "v1", "Pod", Body::Bytes(body.as_bytes()), FieldValidation::Ignore).unwrap();
    assert!(ignored.warnings.is_empty());
}

#[test]
fn values_get_their_canonical_form_and_zero_values_go() {
    let pod = strict(
        "v1",
        "Pod",
        r#"{"metadata":{"creationTimestamp":null,"annotations":{}},"spec":{"hostNetwork":false,"nodeName":"","volumes":[],
            "containers":[{"name":"a","env":[{"name":"E","value":""}],"resources":{"limits":{"cpu":"0.5","memory":1024}},
            "readinessProbe":{"timeoutSeconds":0,"grpc":{"port":1,"service":""}},"stdin":false}],
            "securityContext":{},"automountServiceAccountToken":false}}"#,
    )
    .unwrap();
    assert_eq!(
        pod,
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {},
            "spec": {
                "containers": [{"name": "a", "env": [{"name": "E"}], "resources": {"limits": {"cpu": "500m", "memory": "1024"}},
                    "readinessProbe": {"grpc": {"port": 1, "service": ""}}}],
                "securityContext": {}, "automountServiceAccountToken": false,
            },
        })
    );
}

#[test]
fn a_tree_decodes_as_its_text_does() {
    let tree = json!({"spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "oops": 1}});
    let ty = schema::kind("apps/v1", "Deployment").unwrap();
    let decoded = decode(ty, "apps/v1", "Deployment", Body::Value(tree), FieldValidation::Warn).unwrap();
    assert_eq!(decoded.warnings, ["unknown field \"spec.oops\""]);
    assert_eq!(decoded.value["spec"]["replicas"], 2);
}

#[test]
fn broken_json_is_a_bad_request() {
    let message = strict("v1", "Pod", r#"{"spec":"#).unwrap_err();
    assert!(message.contains("json parse error: unexpected end of JSON input"), "{message}");
    assert!(strict("v1", "Pod", "[]").is_err());
}

#[test]
fn a_crd_schema_keeps_its_nested_schemas() {
    let crd = strict(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        r#"{"spec":{"versions":[{"name":"v1","schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"array",
            "items":{"type":"object","additionalProperties":true,"default":{"a":null}}}}}}}]}}"#,
    )
    .unwrap();
    let items = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["items"];
    assert_eq!(items, &json!({"type": "object", "additionalProperties": true, "default": {"a": null}}));
}
