use serde_json::{Value, json};

use super::*;
use crate::resource::builtin;
use crate::{defaults, patch};

fn prepared(name: &str, mut object: Value) -> Value {
    let resource = builtin().storage(name).expect(name);
    let mut metadata = json!({"name": "x"});
    if resource.namespaced {
        metadata["namespace"] = json!("default");
    }
    if let Some(given) = object.get("metadata") {
        patch::merge(&mut metadata, given);
    }
    object["metadata"] = metadata;
    defaults::apply(resource, &mut object);
    object
}

fn created(name: &str, object: Value) -> Vec<String> {
    let resource = builtin().storage(name).expect(name);
    texts(create(resource, &prepared(name, object)))
}

fn updated(name: &str, old: Value, change: Value) -> Vec<String> {
    let resource = builtin().storage(name).expect(name);
    let old = prepared(name, old);
    let mut new = old.clone();
    patch::merge(&mut new, &change);
    defaults::apply(resource, &mut new);
    texts(update(resource, None, &new, &old))
}

fn texts(errors: Vec<crate::FieldError>) -> Vec<String> {
    errors.into_iter().map(|e| format!("{}: {}", e.field, e.message)).collect()
}

fn container() -> Value {
    json!({"name": "web", "image": "nginx"})
}

fn pod_with(change: Value) -> Value {
    let mut pod = json!({"metadata": {}, "spec": {"containers": [container()]}});
    patch::merge(&mut pod["spec"], &change);
    pod
}

fn container_with(change: Value) -> Value {
    let mut one = container();
    patch::merge(&mut one, &change);
    pod_with(json!({"containers": [one]}))
}

#[test]
fn valid_objects_have_no_problems() {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container()]}});
    let never =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Never", "containers": [container()]}});
    let selector = json!({"matchLabels": {"a": "b"}});
    for (name, object) in [
        ("pods", pod_with(json!({}))),
        (
            "pods",
            container_with(json!({
                "ports": [{"containerPort": 80, "name": "http"}],
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['x']"}}},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1", "nvidia.com/gpu": 1}},
                "livenessProbe": {"httpGet": {"port": "http"}},
                "readinessProbe": {"exec": {"command": ["true"]}, "successThreshold": 3},
                "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
            })),
        ),
        ("deployments.apps", json!({"spec": {"selector": selector, "template": template}})),
        ("replicasets.apps", json!({"spec": {"selector": selector, "template": template}})),
        ("daemonsets.apps", json!({"spec": {"selector": selector, "template": template}})),
        ("statefulsets.apps", json!({"spec": {"selector": selector, "serviceName": "s", "template": template}})),
        ("jobs.batch", json!({"spec": {"selector": selector, "template": never}})),
        ("cronjobs.batch", json!({"spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": never}}}})),
        ("services", json!({"spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}})),
        ("services", json!({"spec": {"clusterIP": "None", "selector": {"a": "b"}}})),
        ("services", json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}})),
        ("configmaps", json!({"data": {"a.conf": "x"}})),
        ("secrets", json!({"stringData": {"password": "x"}})),
        ("namespaces", json!({})),
        (
            "ingresses.networking.k8s.io",
            json!({"spec": {"rules": [{"host": "a.b", "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]}}),
        ),
        (
            "networkpolicies.networking.k8s.io",
            json!({"spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}}),
        ),
        ("poddisruptionbudgets.policy", json!({"spec": {"minAvailable": "50%", "selector": selector}})),
        (
            "roles.rbac.authorization.k8s.io",
            json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}),
        ),
        (
            "persistentvolumeclaims",
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
        ),
        (
            "horizontalpodautoscalers.autoscaling",
            json!({"spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "x"}}}),
        ),
    ] {
        assert_eq!(created(name, object.clone()), Vec::<String>::new(), "{name} {object}");
    }
}

#[test]
fn a_pods_problems_are_named_as_kubectl_shows_them() {
    for (pod, text) in [
        (pod_with(json!({"containers": []})), "spec.containers: Required value"),
        (container_with(json!({"image": null})), "spec.containers[0].image: Required value"),
        (container_with(json!({"name": null})), "spec.containers[0].name: Required value"),
        (
            container_with(json!({"imagePullPolicy": "Sometimes"})),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
             \"IfNotPresent\", \"Never\"",
        ),
        (
            container_with(json!({"ports": [{"containerPort": 70000}]})),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            container_with(json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]})),
            "spec.containers[0].volumeMounts[0].name: Not found: \"data\"",
        ),
        (
            container_with(json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}})),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            container_with(json!({"livenessProbe": {"periodSeconds": 3}})),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            container_with(json!({"livenessProbe": {"tcpSocket": {"port": 1}, "successThreshold": 2}})),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            pod_with(json!({"restartPolicy": "Sometimes"})),
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            pod_with(json!({"volumes": [{"name": "a", "emptyDir": {}, "hostPath": {"path": "/x"}}]})),
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        (
            pod_with(
                json!({"initContainers": [{"name": "i", "image": "i", "readinessProbe": {"tcpSocket": {"port": 1}}}]}),
            ),
            "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ),
        (pod_with(json!({"initContainers": [container()]})), "spec.initContainers[0].name: Duplicate value: \"web\""),
        (
            pod_with(json!({"ephemeralContainers": [{"name": "d", "image": "d"}]})),
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ),
        (
            json!({"metadata": {"labels": {"a": "-"}}, "spec": {"containers": [container()]}}),
            "metadata.labels: Invalid value: \"-\": a valid label must be an empty string or consist of alphanumeric \
             characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or \
             'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        ),
    ] {
        assert_eq!(created("pods", pod.clone()), [text], "{pod}");
    }
}

#[test]
fn workloads_problems_are_named_as_kubectl_shows_them() {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container()]}});
    for (name, spec, text) in [
        ("deployments.apps", json!({"template": template}), "spec.selector: Required value"),
        (
            "deployments.apps",
            json!({"template": template, "selector": {"matchLabels": {"a": "c"}}}),
            "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
        ),
        (
            "deployments.apps",
            json!({"template": template, "selector": {}}),
            "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
        ),
        (
            "deployments.apps",
            json!({"template": template, "selector": {"matchLabels": {"a": "b"}}, "replicas": -1}),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "deployments.apps",
            json!({"template": template, "selector": {"matchLabels": {"a": "b"}},
                "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}}),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
        ),
        (
            "jobs.batch",
            json!({"template": template, "selector": {"matchLabels": {"a": "b"}}}),
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
        ),
        ("services", json!({}), "spec.ports: Required value"),
        (
            "services",
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}),
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports \
             is 30000-32767",
        ),
        (
            "services",
            json!({"type": "Fancy", "ports": [{"port": 80}]}),
            "spec.type: Unsupported value: \"Fancy\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \
             \"NodePort\"",
        ),
    ] {
        assert_eq!(created(name, json!({"metadata": {}, "spec": spec})), [text], "{spec}");
    }
}

#[test]
fn what_must_not_change_is_refused() {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container()]}});
    let deployment = json!({"metadata": {}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    assert_eq!(
        updated(
            "deployments.apps",
            deployment.clone(),
            json!({"spec": {"selector": {"matchLabels": {"c": "d"}}, "template": {"metadata": {"labels": {"c": "d"}}}}})
        ),
        ["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"c\":\"d\"}}: field is immutable"]
    );
    assert!(updated("deployments.apps", deployment.clone(), json!({"spec": {"replicas": 3}})).is_empty());
    assert_eq!(
        updated("statefulsets.apps", deployment, json!({"spec": {"serviceName": "other"}})),
        ["spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
          'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"]
    );
    let pod = pod_with(json!({}));
    let image = json!({"spec": {"containers": [{"name": "web", "image": "nginx:2", "imagePullPolicy": "Always", "resources": {},
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}]}});
    assert!(updated("pods", pod.clone(), image).is_empty());
    let toleration = json!({"spec": {"tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute"}]}});
    assert!(updated("pods", pod.clone(), toleration).is_empty());
    let errors = updated("pods", pod, json!({"spec": {"hostname": "other"}}));
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0].starts_with(
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
             `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
             tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"
        ),
        "{}",
        errors[0]
    );
    assert_eq!(
        updated("configmaps", json!({"immutable": true, "data": {"a": "b"}}), json!({"data": {"a": "c"}})),
        ["data: Forbidden: field is immutable when `immutable` is set"]
    );
    assert_eq!(
        updated("secrets", json!({}), json!({"type": "kubernetes.io/basic-auth"})).last().unwrap(),
        "type: Invalid value: \"kubernetes.io/basic-auth\": field is immutable"
    );
    let role = json!({"roleRef": {"kind": "ClusterRole", "name": "a"}});
    let changed = updated("clusterrolebindings.rbac.authorization.k8s.io", role, json!({"roleRef": {"name": "b"}}));
    assert!(
        changed[0].starts_with("roleRef: Invalid value: ") && changed[0].ends_with(": cannot change roleRef"),
        "{changed:?}"
    );
}

#[test]
fn names_and_namespaces_follow_their_kind() {
    let service = created("services", json!({"metadata": {"name": "1a"}, "spec": {"ports": [{"port": 1}]}}));
    assert!(service[0].starts_with("metadata.name: Invalid value: \"1a\": a DNS-1035 label must"), "{service:?}");
    let node = created("nodes", json!({"metadata": {"name": "n", "namespace": "x"}}));
    assert_eq!(node, ["metadata.namespace: Forbidden: not allowed on this type"]);
    let long = created("configmaps", json!({"metadata": {"annotations": {"a": "x".repeat(300_000)}}}));
    assert_eq!(long, ["metadata.annotations: Too long: may not be more than 262144 bytes"]);
    assert!(created("clusterroles.rbac.authorization.k8s.io", json!({"metadata": {"name": "system:x"}})).is_empty());
}

fn crd_with(change: Value) -> Value {
    let mut definition = json!({"metadata": {"name": "widgets.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
    }});
    patch::merge(&mut definition, &change);
    definition
}

fn crd_with_schema(schema: Value) -> Value {
    crd_with(
        json!({"spec": {"versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}}),
    )
}

#[test]
fn definitions_problems_are_named_as_kubectl_shows_them() {
    const SCHEMA: &str = "spec.versions[0].schema.openAPIV3Schema";
    for (definition, text) in [
        (crd_with(json!({})), None),
        (
            crd_with_schema(
                json!({"type": "object", "properties": {"spec": {"type": "array", "items": {"type": "string"},
                "default": ["a"]}}}),
            ),
            None,
        ),
        (
            crd_with(json!({"metadata": {"name": "gadgets.example.com"}})),
            Some(
                "metadata.name: Invalid value: \"gadgets.example.com\": must be spec.names.plural+\".\"+spec.group"
                    .into(),
            ),
        ),
        (
            crd_with_schema(json!({"type": "object", "properties": {"spec": {}}})),
            Some(format!(
                "{SCHEMA}.properties[spec].type: Required value: must not be empty for specified object fields"
            )),
        ),
        (crd_with_schema(json!({})), Some(format!("{SCHEMA}.type: Required value: must not be empty at the root"))),
        (
            crd_with_schema(json!({"type": "object", "properties": {"spec": {"type": "array"}}})),
            Some(format!("{SCHEMA}.properties[spec].items: Required value: must be specified")),
        ),
        (
            crd_with_schema(json!({"type": "object", "properties": {"n": {"type": "integer", "default": "x"}}})),
            Some(format!(
                "{SCHEMA}.properties[n].default: Invalid value: \"string\":  in body must be of type integer: \"string\""
            )),
        ),
        (
            crd_with(json!({"spec": {"scope": "Galaxy"}})),
            Some("spec.scope: Unsupported value: \"Galaxy\": supported values: \"Cluster\", \"Namespaced\"".into()),
        ),
    ] {
        let errors = created("customresourcedefinitions.apiextensions.k8s.io", definition.clone());
        assert_eq!(errors, text.into_iter().collect::<Vec<String>>(), "{definition}");
    }
}

#[test]
fn what_is_rarely_meant_is_warned_of_once() {
    let pods = builtin().storage("pods").unwrap();
    let pod = prepared(
        "pods",
        json!({"metadata": {"name": "a.b"}, "spec": {"containers": [{"name": "a", "image": "a",
            "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}],
            "ports": [{"containerPort": 80}, {"containerPort": 80, "name": "http"}],
            "resources": {"requests": {"memory": "100m"}}}]}}),
    );
    assert_eq!(
        warnings(pods, &pod, None),
        [
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is \
             recommended: [must not contain dots]",
            "spec.containers[0].resources.requests[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
            "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
        ]
    );
    assert!(warnings(pods, &pod, Some(&pod)).is_empty());
}

#[test]
fn webhook_configurations_are_complete() {
    const NAME: &str = "validatingwebhookconfigurations.admissionregistration.k8s.io";
    let webhook = json!({"name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {"name": "a", "namespace": "b"}},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
    assert!(created(NAME, json!({"webhooks": [webhook]})).is_empty());
    let mut broken = webhook;
    patch::merge(
        &mut broken,
        &json!({"name": "a", "sideEffects": null, "admissionReviewVersions": ["v2"], "timeoutSeconds": 99, "clientConfig": null}),
    );
    assert_eq!(
        created(NAME, json!({"webhooks": [broken]})),
        [
            "webhooks[0].name: Invalid value: \"a\": should be a domain with at least three segments separated by dots",
            "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
            "webhooks[0].timeoutSeconds: Invalid value: 99: the timeout value must be between 1 and 30 seconds",
            "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
        ]
    );
}
