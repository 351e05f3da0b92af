use serde_json::json;

use super::*;
use crate::resource::builtin;

fn defaulted(name: &str, mut object: Value) -> Value {
    let resource = builtin().storage(name).expect(name);
    apply(resource, &mut object);
    let once = object.clone();
    apply(resource, &mut object);
    assert_eq!(object, once, "defaults of {name} are stable");
    object
}

#[test]
fn a_pod_gets_what_kubectl_shows() {
    let pod = defaulted(
        "pods",
        json!({"metadata": {"name": "web"}, "spec": {
            "serviceAccountName": "builder",
            "containers": [{
                "name": "web", "image": "nginx",
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}},
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "livenessProbe": {"httpGet": {"port": 80}},
            }],
            "initContainers": [{"name": "init", "image": "busybox:1.36"}],
            "volumes": [{"name": "scratch"}, {"name": "conf", "configMap": {"name": "c"}},
                {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
        }}),
    );
    assert_eq!(
        pod["spec"],
        json!({
            "containers": [{
                "name": "web", "image": "nginx", "imagePullPolicy": "Always",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}},
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}],
                "livenessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            }],
            "initContainers": [{"name": "init", "image": "busybox:1.36", "imagePullPolicy": "IfNotPresent", "resources": {},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "volumes": [{"name": "scratch", "emptyDir": {}}, {"name": "conf", "configMap": {"name": "c", "defaultMode": 420}},
                {"name": "token", "projected": {"defaultMode": 420,
                    "sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}]}}],
            "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always", "securityContext": {},
            "schedulerName": "default-scheduler", "serviceAccount": "builder", "serviceAccountName": "builder",
            "terminationGracePeriodSeconds": 30,
        })
    );
}

#[test]
fn the_pull_policy_depends_on_the_tag() {
    for (image, policy) in [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.27", "IfNotPresent"),
        ("localhost:5000/nginx", "Always"),
        ("localhost:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:0123", "IfNotPresent"),
    ] {
        assert_eq!(image_pull_policy(image), policy, "{image}");
    }
}

#[test]
fn workloads_get_their_strategies() {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}});
    let deployment = defaulted("deployments.apps", json!({"spec": {"template": template}}));
    assert_eq!(
        deployment["spec"]["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
    );
    assert_eq!(deployment["spec"]["progressDeadlineSeconds"], 600);
    assert!(deployment["spec"]["template"]["spec"].get("enableServiceLinks").is_none());
    let recreate =
        defaulted("deployments.apps", json!({"spec": {"strategy": {"type": "Recreate"}, "template": template}}));
    assert_eq!(recreate["spec"]["strategy"], json!({"type": "Recreate"}));
    let job = defaulted("jobs.batch", json!({"spec": {"template": template}}));
    assert_eq!(job["metadata"]["labels"], json!({"a": "b"}));
    assert_eq!((&job["spec"]["completions"], &job["spec"]["backoffLimit"]), (&json!(1), &json!(6)));
    let daemons = defaulted("daemonsets.apps", json!({"spec": {"template": template}}));
    assert_eq!(daemons["spec"]["updateStrategy"]["rollingUpdate"], json!({"maxUnavailable": 1, "maxSurge": 0}));
    let stateful = defaulted(
        "statefulsets.apps",
        json!({"spec": {"template": template, "volumeClaimTemplates": [{"metadata": {"name": "d"}}]}}),
    );
    assert_eq!(stateful["spec"]["volumeClaimTemplates"][0]["spec"]["volumeMode"], "Filesystem");
}

#[test]
fn services_differ_by_type() {
    let service = |spec: Value| defaulted("services", json!({"spec": spec}))["spec"].clone();
    assert_eq!(
        service(json!({"ports": [{"port": 80}]})),
        json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "sessionAffinity": "None", "type": "ClusterIP",
            "internalTrafficPolicy": "Cluster"})
    );
    assert_eq!(service(json!({"type": "LoadBalancer"}))["allocateLoadBalancerNodePorts"], true);
    assert_eq!(service(json!({"type": "NodePort"}))["externalTrafficPolicy"], "Cluster");
    assert!(service(json!({"type": "ExternalName"})).get("internalTrafficPolicy").is_none());
}

#[test]
fn small_kinds_get_theirs() {
    assert_eq!(
        defaulted("secrets", json!({"stringData": {"a": "hi"}})),
        json!({"type": "Opaque", "data": {"a": "aGk="}})
    );
    assert_eq!(
        defaulted("namespaces", json!({"metadata": {"name": "x"}}))["metadata"]["labels"],
        json!({"kubernetes.io/metadata.name": "x"})
    );
    assert_eq!(
        defaulted(
            "rolebindings.rbac.authorization.k8s.io",
            json!({"subjects": [{"kind": "User", "name": "x"}, {"kind": "ServiceAccount"}]})
        ),
        json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io"},
            "subjects": [{"kind": "User", "name": "x", "apiGroup": "rbac.authorization.k8s.io"}, {"kind": "ServiceAccount"}]})
    );
    assert_eq!(
        defaulted("networkpolicies.networking.k8s.io", json!({"spec": {}}))["spec"]["policyTypes"],
        json!(["Ingress"])
    );
    assert_eq!(
        defaulted("customresourcedefinitions.apiextensions.k8s.io", json!({"spec": {"names": {"kind": "Foo"}}}))["spec"]
            ["names"],
        json!({"kind": "Foo", "singular": "foo", "listKind": "FooList"})
    );
}
