use super::*;

fn resource(group: &str, plural: &str) -> Resource {
    Resource {
        group: group.into(),
        version: "v1".into(),
        kind: String::new(),
        plural: plural.into(),
        singular: String::new(),
        namespaced: true,
        verbs: vec![],
        short_names: vec![],
        categories: vec![],
        subresources: vec![],
        storage_version: "v1".into(),
        custom: None,
    }
}

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn cells(group: &str, plural: &str, object: &Value) -> Vec<Value> {
    let table = render(&resource(group, plural), None, &[object], IncludeObject::Metadata, json!({}), true, now());
    assert_eq!(
        table["columnDefinitions"].as_array().unwrap().len(),
        table["rows"][0]["cells"].as_array().unwrap().len(),
        "a cell for each column of {plural}"
    );
    table["rows"][0]["cells"].as_array().unwrap().clone()
}

fn pod(spec: Value, status: Value) -> Value {
    json!({"kind": "Pod", "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec, "status": status})
}

#[test]
fn a_pod_shows_one_word_for_what_it_does() {
    let one = json!({"containers": [{"name": "c"}]});
    let waiting = |reason: &str| json!([{"name": "c", "restartCount": 0, "state": {"waiting": {"reason": reason}}}]);
    let table = [
        (json!({"phase": "Pending"}), "0/1", "Pending"),
        (json!({"phase": "Pending", "containerStatuses": waiting("ContainerCreating")}), "0/1", "ContainerCreating"),
        (json!({"phase": "Pending", "containerStatuses": waiting("ImagePullBackOff")}), "0/1", "ImagePullBackOff"),
        (
            json!({"phase": "Running", "containerStatuses": [{"name": "c", "ready": true, "state": {"running": {}}}]}),
            "1/1",
            "Running",
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [{"name": "c", "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}]}),
            "0/1",
            "OOMKilled",
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 3}}}]}),
            "0/1",
            "ExitCode:3",
        ),
        (json!({"phase": "Failed", "reason": "Evicted"}), "0/1", "Evicted"),
        (
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
            "0/1",
            "SchedulingGated",
        ),
    ];
    for (status, ready, word) in table {
        let row = cells("", "pods", &pod(one.clone(), status));
        assert_eq!((&row[1], &row[2]), (&json!(ready), &json!(word)));
    }
}

#[test]
fn a_pod_waiting_for_init_containers_counts_them() {
    let spec = json!({
        "initContainers": [{"name": "a"}, {"name": "side", "restartPolicy": "Always"}],
        "containers": [{"name": "c"}],
    });
    let status = json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "a", "state": {"terminated": {"exitCode": 0}}},
        {"name": "side", "state": {"waiting": {"reason": "PodInitializing"}}},
    ]});
    let row = cells("", "pods", &pod(spec.clone(), status));
    assert_eq!((&row[1], &row[2]), (&json!("0/2"), &json!("Init:1/2")));
    let status = json!({"phase": "Running", "initContainerStatuses": [
        {"name": "a", "state": {"terminated": {"exitCode": 0}}},
        {"name": "side", "started": true, "ready": true, "state": {"running": {}}},
    ], "containerStatuses": [{"name": "c", "ready": true, "state": {"running": {}}}]});
    let row = cells("", "pods", &pod(spec, status));
    assert_eq!((&row[1], &row[2]), (&json!("2/2"), &json!("Running")));
}

#[test]
fn restarts_say_when_the_last_one_was() {
    let status = json!({"phase": "Running", "containerStatuses": [{
        "name": "c", "ready": true, "restartCount": 3, "state": {"running": {}},
        "lastState": {"terminated": {"finishedAt": "2026-01-01T00:08:30Z"}},
    }]});
    let row = cells("", "pods", &pod(json!({"containers": [{"name": "c"}]}), status));
    assert_eq!(row[3], "3 (90s ago)");
    assert_eq!(row[4], "10m");
}

#[test]
fn a_load_balancer_without_address_is_pending() {
    let mut service = json!({
        "metadata": {"name": "s", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
                 "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}], "selector": {"app": "web"}},
    });
    let row = cells("", "services", &service);
    assert_eq!(&row[1..5], [json!("LoadBalancer"), json!("10.96.0.7"), json!("<pending>"), json!("80:30080/TCP")]);
    assert_eq!(row[6], "app=web");
    service["status"] = json!({"loadBalancer": {"ingress": [{"hostname": "lb.example"}]}});
    assert_eq!(cells("", "services", &service)[3], "lb.example");
}

#[test]
fn every_kind_renders_an_empty_object_with_a_cell_for_each_column() {
    for (group, plural) in [
        ("", "nodes"),
        ("", "namespaces"),
        ("", "endpoints"),
        ("", "configmaps"),
        ("", "secrets"),
        ("", "serviceaccounts"),
        ("", "events"),
        ("", "persistentvolumes"),
        ("", "persistentvolumeclaims"),
        ("", "resourcequotas"),
        ("", "podtemplates"),
        ("", "replicationcontrollers"),
        ("apps", "deployments"),
        ("apps", "replicasets"),
        ("apps", "daemonsets"),
        ("apps", "statefulsets"),
        ("apps", "controllerrevisions"),
        ("batch", "jobs"),
        ("batch", "cronjobs"),
        ("autoscaling", "horizontalpodautoscalers"),
        ("policy", "poddisruptionbudgets"),
        ("networking.k8s.io", "ingresses"),
        ("networking.k8s.io", "ingressclasses"),
        ("networking.k8s.io", "networkpolicies"),
        ("discovery.k8s.io", "endpointslices"),
        ("coordination.k8s.io", "leases"),
        ("rbac.authorization.k8s.io", "rolebindings"),
        ("storage.k8s.io", "storageclasses"),
        ("scheduling.k8s.io", "priorityclasses"),
        ("certificates.k8s.io", "certificatesigningrequests"),
        ("apiregistration.k8s.io", "apiservices"),
        ("node.k8s.io", "runtimeclasses"),
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
        ("", "limitranges"),
    ] {
        cells(group, plural, &json!({"metadata": {"name": "x"}}));
    }
}

#[test]
fn a_custom_resource_shows_its_printer_columns_or_its_age() {
    let object = json!({"metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"size": 3}});
    let version = json!({"additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]});
    let columns = PrinterColumn::of_version(&version);
    let table =
        render(&resource("x.dev", "xs"), Some(&columns), &[&object], IncludeObject::None, json!({}), true, now());
    assert_eq!(table["rows"][0]["cells"], json!(["x", 3]));
    let age = PrinterColumn::of_version(&json!({}));
    let table = render(&resource("x.dev", "xs"), Some(&age), &[&object], IncludeObject::None, json!({}), true, now());
    assert_eq!(table["rows"][0]["cells"], json!(["x", "10m"]));
}
