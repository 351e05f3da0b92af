//! The verbs, over the real pipeline and the in-memory store.

use galley_authz::Actor;
use galley_kube::Reason;
use serde_json::{Value, json};

use crate::testing::TestCluster;
use crate::*;

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "busybox"}]}})
}

fn user(name: &str) -> Actor {
    Actor { username: name.into(), groups: vec!["system:authenticated".into()], ..Actor::default() }
}

fn merge(body: Value) -> Patch {
    Patch { kind: PatchKind::Merge, body }
}

#[tokio::test]
async fn a_created_pod_has_what_the_server_gives_it() {
    let cluster = TestCluster::new().await;
    let pod = cluster.create("pods", "default", pod("a")).await.unwrap();
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(pod["status"]["qosClass"], "BestEffort");
    assert_eq!(pod["spec"]["serviceAccountName"], "default");
    assert_eq!(pod["spec"]["priority"], 0);
    assert_eq!(pod["spec"]["tolerations"].as_array().map(Vec::len), Some(2));
    assert_eq!(pod["metadata"]["namespace"], "default");
    assert_eq!(pod["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(pod["metadata"]["generation"], 1);
    assert!(!pod["metadata"]["uid"].as_str().unwrap().is_empty());
    assert!(pod["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > 0);
}

#[tokio::test]
async fn a_name_is_taken_once_and_generated_names_differ() {
    let cluster = TestCluster::new().await;
    cluster.create("pods", "default", pod("a")).await.unwrap();
    let taken = cluster.create("pods", "default", pod("a")).await.unwrap_err();
    assert_eq!((taken.reason, taken.message.as_str()), (Reason::AlreadyExists, "pods \"a\" already exists"));
    let mut generated = pod("");
    generated["metadata"] = json!({"generateName": "web-"});
    let names: Vec<Value> = [
        cluster.create("pods", "default", generated.clone()).await.unwrap(),
        cluster.create("pods", "default", generated).await.unwrap(),
    ]
    .map(|pod| pod["metadata"]["name"].clone())
    .into();
    assert_ne!(names[0], names[1]);
}

#[tokio::test]
async fn an_object_needs_a_living_namespace() {
    let cluster = TestCluster::new().await;
    let missing = cluster.create("pods", "nowhere", pod("a")).await.unwrap_err();
    assert_eq!(missing.message, "namespaces \"nowhere\" not found");
    cluster.create("namespaces", "", json!({"metadata": {"name": "x"}})).await.unwrap();
    let namespaces = cluster.resource("namespaces");
    let deleted = cluster.api.delete(&cluster.admin, &namespaces, "", "x", &DeleteOptions::default()).await.unwrap();
    assert_eq!(deleted.object.value().unwrap()["status"]["phase"], "Terminating");
    let refused = cluster.create("configmaps", "x", json!({"metadata": {"name": "c"}})).await.unwrap_err();
    assert_eq!(
        refused.message,
        "configmaps \"c\" is forbidden: unable to create new content in namespace x because it is being terminated"
    );
    let finalized =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}, "spec": {"finalizers": []}});
    cluster
        .api
        .update(&cluster.admin, &namespaces, "", "x", Some("finalize"), finalized, &WriteOptions::default())
        .await
        .unwrap();
    assert_eq!(cluster.get("namespaces", "", "x").unwrap_err().code, 404);
}

#[tokio::test]
async fn a_stale_update_conflicts_and_a_blind_one_overwrites() {
    let cluster = TestCluster::new().await;
    let created =
        cluster.create("configmaps", "default", json!({"metadata": {"name": "c"}, "data": {"a": "1"}})).await.unwrap();
    let maps = cluster.resource("configmaps");
    let options = WriteOptions::default();
    let mut first = created.clone();
    first["data"]["a"] = json!("2");
    cluster.api.update(&cluster.admin, &maps, "default", "c", None, first.clone(), &options).await.unwrap();
    let stale =
        cluster.api.update(&cluster.admin, &maps, "default", "c", None, first.clone(), &options).await.unwrap_err();
    assert_eq!(
        stale.message,
        "Operation cannot be fulfilled on configmaps \"c\": the object has been modified; please apply your changes to the \
         latest version and try again"
    );
    first["metadata"]["resourceVersion"] = json!("");
    first["data"]["a"] = json!("3");
    let third = cluster.api.update(&cluster.admin, &maps, "default", "c", None, first.clone(), &options).await.unwrap();
    let same = cluster.api.update(&cluster.admin, &maps, "default", "c", None, first, &options).await.unwrap();
    assert_eq!(third.object.revision, same.object.revision, "what changes nothing writes nothing");
}

#[tokio::test]
async fn status_and_spec_have_writers_of_their_own() {
    let cluster = TestCluster::new().await;
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
        "status": {"replicas": 9}});
    let created = cluster.create("deployments.apps", "default", deployment).await.unwrap();
    assert_eq!(created.pointer("/status/replicas"), None);
    let deployments = cluster.resource("deployments.apps");
    let options = WriteOptions::default();
    let api = &cluster.api;
    let patch = merge(json!({"spec": {"replicas": 3}, "status": {"replicas": 7}}));
    let status =
        api.patch(&cluster.admin, &deployments, "default", "d", Some("status"), patch.clone(), &options).await.unwrap();
    let status = status.object.value().unwrap();
    assert_eq!((&status["spec"]["replicas"], &status["status"]["replicas"]), (&json!(1), &json!(7)));
    assert_eq!(status["metadata"]["generation"], 1);
    let spec = api.patch(&cluster.admin, &deployments, "default", "d", None, patch, &options).await.unwrap();
    let spec = spec.object.value().unwrap();
    assert_eq!((&spec["spec"]["replicas"], &spec["metadata"]["generation"]), (&json!(3), &json!(2)));
    let scaled = api
        .patch(
            &cluster.admin,
            &deployments,
            "default",
            "d",
            Some("scale"),
            merge(json!({"spec": {"replicas": 5}})),
            &options,
        )
        .await
        .unwrap();
    let scale = api.scale(&deployments, &scaled.object).unwrap();
    assert_eq!(scale["spec"]["replicas"], 5);
    assert_eq!(scale["status"], json!({"replicas": 7, "selector": "a=b"}));
}

#[tokio::test]
async fn the_last_finalizer_out_deletes() {
    let cluster = TestCluster::new().await;
    let map = json!({"metadata": {"name": "c", "finalizers": ["x/y"]}});
    cluster.create("configmaps", "default", map).await.unwrap();
    let maps = cluster.resource("configmaps");
    let (marked, gone) =
        cluster.api.delete_object(&cluster.admin, &maps, "default", "c", &DeleteOptions::default()).await.unwrap();
    assert!(!gone);
    assert!(marked.object.value().unwrap()["metadata"]["deletionTimestamp"].is_string());
    let patch = merge(json!({"metadata": {"finalizers": null}}));
    cluster.api.patch(&cluster.admin, &maps, "default", "c", None, patch, &WriteOptions::default()).await.unwrap();
    assert_eq!(cluster.get("configmaps", "default", "c").unwrap_err().code, 404);
}

#[tokio::test]
async fn a_dry_run_shows_and_writes_nothing() {
    let cluster = TestCluster::new().await;
    let options = WriteOptions { dry_run: true, ..WriteOptions::default() };
    let pods = cluster.resource("pods");
    let shown = cluster.api.create(&cluster.admin, &pods, "default", pod("a"), &options).await.unwrap();
    assert_eq!(shown.object.value().unwrap()["status"]["phase"], "Pending");
    assert_eq!(cluster.get("pods", "default", "a").unwrap_err().code, 404);
}

#[tokio::test]
async fn pods_are_bound_in_a_batch_and_then_end_gracefully() {
    let cluster = TestCluster::new().await;
    for name in ["a", "b"] {
        cluster.create("pods", "default", pod(name)).await.unwrap();
    }
    let binding =
        |pod: &str| Binding { namespace: "default".into(), pod: pod.into(), node: "n".into(), ..Binding::default() };
    let answers = cluster
        .api
        .bind_all(&cluster.admin, vec![binding("a"), binding("gone"), binding("b")], &WriteOptions::default())
        .await;
    assert!(answers[0].is_ok() && answers[2].is_ok());
    assert_eq!(answers[1].as_ref().unwrap_err().code, 404);
    let pods = cluster.resource("pods");
    let (marked, gone) =
        cluster.api.delete_object(&cluster.admin, &pods, "default", "a", &DeleteOptions::default()).await.unwrap();
    assert!(!gone);
    assert_eq!(marked.object.value().unwrap()["metadata"]["deletionGracePeriodSeconds"], 30);
    let force = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    let (_, gone) = cluster.api.delete_object(&cluster.admin, &pods, "default", "a", &force).await.unwrap();
    assert!(gone);
}

#[tokio::test]
async fn concurrent_services_get_addresses_of_their_own() {
    let cluster = TestCluster::new().await;
    let create = |index: usize| {
        let service =
            json!({"metadata": {"name": format!("s{index}")}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        cluster.create("services", "default", service)
    };
    let services: Vec<Value> =
        futures::future::join_all((0..20).map(create)).await.into_iter().map(Result::unwrap).collect();
    let distinct = |pointer: &str| {
        let mut values: Vec<String> = services.iter().map(|s| s.pointer(pointer).unwrap().to_string()).collect();
        values.sort();
        values.dedup();
        values.len()
    };
    assert_eq!(distinct("/spec/clusterIP"), 20);
    assert_eq!(distinct("/spec/ports/0/nodePort"), 20);
}

#[tokio::test]
async fn a_quota_holds_against_concurrent_creates() {
    let cluster = TestCluster::new().await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "3"}}});
    cluster.create("resourcequotas", "default", quota).await.unwrap();
    let create =
        |index: usize| cluster.create("configmaps", "default", json!({"metadata": {"name": format!("c{index}")}}));
    let answers = futures::future::join_all((0..8).map(create)).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 3);
    let refused = answers.into_iter().find_map(Result::err).unwrap();
    assert!(
        refused.message.contains("exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=3"),
        "{refused}"
    );
}

#[tokio::test]
async fn concurrent_patches_all_land() {
    let cluster = TestCluster::new().await;
    cluster.create("configmaps", "default", json!({"metadata": {"name": "c"}})).await.unwrap();
    let maps = cluster.resource("configmaps");
    let options = WriteOptions::default();
    let patch = |index: usize| {
        let body = json!({"data": {format!("k{index}"): "v"}});
        cluster.api.patch(&cluster.admin, &maps, "default", "c", None, merge(body), &options)
    };
    for answer in futures::future::join_all((0..10).map(patch)).await {
        answer.unwrap();
    }
    assert_eq!(cluster.get("configmaps", "default", "c").unwrap()["data"].as_object().unwrap().len(), 10);
}

#[tokio::test]
async fn a_user_grants_only_what_he_has() {
    let cluster = TestCluster::new().await;
    let bind = |name: &str, role: &str| {
        json!({"metadata": {"name": name}, "subjects": [{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}})
    };
    cluster.create("rolebindings.rbac.authorization.k8s.io", "default", bind("jane", "admin")).await.unwrap();
    let bindings = cluster.resource("rolebindings.rbac.authorization.k8s.io");
    let options = WriteOptions::default();
    let jane = user("jane");
    cluster.api.create(&jane, &bindings, "default", bind("view", "view"), &options).await.unwrap();
    let refused =
        cluster.api.create(&jane, &bindings, "default", bind("all", "cluster-admin"), &options).await.unwrap_err();
    assert_eq!(refused.code, 403);
    assert!(refused.message.contains("is attempting to grant RBAC permissions not currently held"), "{refused}");
}

#[tokio::test]
async fn a_token_is_for_an_account_that_exists() {
    let cluster = TestCluster::new().await;
    let request = json!({"spec": {"audiences": ["a"], "expirationSeconds": 600}});
    let options = WriteOptions::default();
    let answer =
        cluster.api.create_token(&cluster.admin, "default", "default", request.clone(), &options).await.unwrap();
    assert_eq!(answer["status"]["token"], "token-of-default/default");
    assert_eq!(answer["status"]["expirationTimestamp"], "2026-01-01T00:10:00Z");
    let missing = cluster.api.create_token(&cluster.admin, "default", "nobody", request, &options).await.unwrap_err();
    assert_eq!(missing.code, 404);
}

#[tokio::test]
async fn an_eviction_respects_the_budget() {
    let cluster = TestCluster::new().await;
    cluster.create("pods", "default", pod("a")).await.unwrap();
    let budget =
        json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}});
    cluster.create("poddisruptionbudgets.policy", "default", budget).await.unwrap();
    let options = WriteOptions::default();
    let pods = cluster.resource("pods");
    let running = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    cluster.api.patch(&cluster.admin, &pods, "default", "a", Some("status"), merge(running), &options).await.unwrap();
    let refused = cluster.api.evict(&cluster.admin, "default", "a", &DeleteOptions::default()).await.unwrap_err();
    assert_eq!(refused.message, "Cannot evict pod as it would violate the pod's disruption budget.");
    let budgets = cluster.resource("poddisruptionbudgets.policy");
    let allowed =
        json!({"status": {"disruptionsAllowed": 1, "observedGeneration": 1, "currentHealthy": 2, "desiredHealthy": 1}});
    cluster
        .api
        .patch(&cluster.admin, &budgets, "default", "b", Some("status"), merge(allowed), &options)
        .await
        .unwrap();
    cluster.api.evict(&cluster.admin, "default", "a", &DeleteOptions::default()).await.unwrap();
    assert_eq!(cluster.get("pods", "default", "a").unwrap_err().code, 404);
    let spent = cluster.get("poddisruptionbudgets.policy", "default", "b").unwrap();
    assert_eq!(spent["status"]["disruptionsAllowed"], 0);
}

#[tokio::test]
async fn server_side_apply_creates_owns_and_conflicts() {
    let cluster = TestCluster::new().await;
    let maps = cluster.resource("configmaps");
    let apply = |manager: &'static str, data: Value, force: bool| {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data});
        let options = WriteOptions { field_manager: manager.into(), force, ..WriteOptions::default() };
        let (cluster, maps) = (&cluster, &maps);
        async move {
            let patch = Patch { kind: PatchKind::Apply, body };
            let written = cluster.api.patch(&cluster.admin, maps, "default", "c", None, patch, &options).await?;
            written.object.value().map_err(galley_kube::Status::internal)
        }
    };
    let first = apply("one", json!({"a": "1", "b": "1"}), false).await.unwrap();
    assert_eq!(first["metadata"]["managedFields"][0]["manager"], "one");
    let same = apply("one", json!({"a": "1", "b": "1"}), false).await.unwrap();
    assert_eq!(same["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let conflict = apply("two", json!({"a": "2"}), false).await.unwrap_err();
    assert_eq!(conflict.code, 409);
    let forced = apply("two", json!({"a": "2"}), true).await.unwrap();
    assert_eq!(forced["data"], json!({"a": "2", "b": "1"}));
    let dropped = apply("one", json!({}), false).await.unwrap();
    assert_eq!(dropped["data"], json!({"a": "2"}));
}

#[tokio::test]
async fn a_definition_serves_its_objects_at_once_and_takes_them_with_it() {
    let cluster = TestCluster::new().await;
    let definition = json!({"metadata": {"name": "ships.sea.example"}, "spec": {"group": "sea.example", "scope": "Namespaced",
        "names": {"plural": "ships", "singular": "ship", "kind": "Ship", "listKind": "ShipList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {},
            "scale": {"specReplicasPath": ".spec.crew", "statusReplicasPath": ".status.crew"}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {"crew": {"type": "integer", "default": 3, "minimum": 1}}},
                "status": {"type": "object", "properties": {"crew": {"type": "integer"}}}}}}}]}});
    let definitions = "customresourcedefinitions.apiextensions.k8s.io";
    let stored = cluster.create(definitions, "", definition).await.unwrap();
    assert_eq!(stored["status"]["conditions"][1]["type"], "Established");
    let ship = |crew: Value| json!({"apiVersion": "sea.example/v1", "kind": "Ship", "metadata": {"name": "s"}, "spec": crew, "x": 1});
    let created = cluster.create("ships.sea.example", "default", ship(json!({}))).await.unwrap();
    assert_eq!((&created["spec"]["crew"], created.get("x")), (&json!(3), None));
    let ships = cluster.resource("ships.sea.example");
    let options = WriteOptions::default();
    let patch = |body: Value| Patch { kind: PatchKind::Merge, body };
    let refused = cluster
        .api
        .patch(&cluster.admin, &ships, "default", "s", None, patch(json!({"spec": {"crew": 0}})), &options)
        .await
        .unwrap_err();
    assert_eq!(refused.code, 422);
    let scaled = cluster
        .api
        .patch(&cluster.admin, &ships, "default", "s", Some("scale"), patch(json!({"spec": {"replicas": 7}})), &options)
        .await
        .unwrap();
    assert_eq!(scaled.object.value().unwrap()["spec"]["crew"], 7);
    assert_eq!(scaled.object.value().unwrap()["metadata"]["generation"], 2);
    let crds = cluster.resource(definitions);
    cluster.api.delete(&cluster.admin, &crds, "", "ships.sea.example", &DeleteOptions::default()).await.unwrap();
    assert!(cluster.api.resource("ships.sea.example").is_none());
    assert_eq!(cluster.api.get(&ships, "default", "s").unwrap_err().code, 404);
}

#[tokio::test]
async fn a_new_cluster_says_where_its_api_server_is() {
    let cluster = TestCluster::new().await;
    let service = cluster.get("services", "default", "kubernetes").unwrap();
    let endpoints = cluster.get("endpoints", "default", "kubernetes").unwrap();
    let slice = cluster.get("endpointslices.discovery.k8s.io", "default", "kubernetes").unwrap();
    let port = &service["spec"]["ports"][0];
    assert_eq!(endpoints["subsets"][0]["ports"][0]["port"], port["targetPort"]);
    assert_eq!(slice["ports"][0]["port"], port["targetPort"]);
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], service["spec"]["clusterIP"]);
    assert_eq!(slice["endpoints"][0]["addresses"], json!([service["spec"]["clusterIP"]]));
}

#[tokio::test]
async fn events_of_a_batch_are_what_each_would_be_by_itself() {
    let cluster = TestCluster::new().await;
    let recorder = Actor::controller("event-recorder");
    let event = |name: &str, about: Value| {
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": "default"},
            "involvedObject": about, "reason": "FailedScheduling", "message": "0/0 nodes", "type": "Warning",
            "source": {"component": "default-scheduler"}, "reportingComponent": "default-scheduler",
            "reportingInstance": "", "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z",
            "count": 1})
    };
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "name": "a", "namespace": "default", "uid": "u"});
    let bodies =
        || [event("one", pod.clone()), event("two", pod.clone()), event("three", json!({"kind": "Node", "name": "n"}))];
    let mut alone = Vec::new();
    let events = cluster.resource("events");
    for body in bodies() {
        let written = cluster.api.create(&recorder, &events, "default", body, &WriteOptions::default()).await.unwrap();
        alone.push(written.object);
    }
    for object in &alone {
        cluster.api.delete(&recorder, &events, "default", &object.key.name, &DeleteOptions::default()).await.unwrap();
    }
    let together = cluster.api.create_events(&recorder, bodies().into()).await;
    for (alone, together) in alone.iter().zip(together) {
        let together = together.unwrap();
        let (mut one, mut other) = (alone.value().unwrap(), together.value().unwrap());
        for tree in [&mut one, &mut other] {
            tree["metadata"]["uid"] = json!(null);
            tree["metadata"]["resourceVersion"] = json!(null);
        }
        assert_eq!(one, other);
        assert_eq!((&alone.key, &alone.fields, &alone.labels), (&together.key, &together.fields, &together.labels));
    }
    let again = cluster.api.create_events(&recorder, bodies().into()).await;
    assert!(again.iter().all(|again| again.as_ref().is_err_and(|status| status.reason == Reason::AlreadyExists)));
    let nowhere = json!({"metadata": {"name": "e", "namespace": "nowhere"}});
    assert_eq!(cluster.api.create_events(&recorder, vec![nowhere]).await[0].as_ref().unwrap_err().code, 404);
}
