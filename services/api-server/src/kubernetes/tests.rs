//! The HTTP API, over the real pipeline and the in-memory store.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use galley_authz::Actor;
use galley_kube::openapi::{CustomKind, OpenApiDocs};
use galley_pipeline::ClusterApi;
use galley_pipeline::testing::TestCluster;
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Call, handle};
use crate::authentication::ClusterTokens;
use crate::body::Body;
use crate::flow::{Flow, FlowConfig, FlowControl};
use crate::proxy::{Connect, NodeProxy};
use crate::service_account::ServiceAccountKey;

/// Says where it was asked to connect.
#[derive(Debug)]
struct Echo;

impl NodeProxy for Echo {
    fn connect(&self, _api: ClusterApi, to: Connect, _request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move { Response::new(Body::from(format!("{to:?}"))) })
    }
}

struct NoDocs;

impl OpenApiDocs for NoDocs {
    fn v2(&self, _custom: &[CustomKind<'_>]) -> Bytes {
        Bytes::from_static(b"{}")
    }

    fn v2_protobuf(&self, _custom: &[CustomKind<'_>]) -> Bytes {
        Bytes::new()
    }

    fn v3_index(&self, _custom: &[CustomKind<'_>]) -> Bytes {
        Bytes::from_static(b"{}")
    }

    fn v3(&self, _group_version: &str, _custom: &[CustomKind<'_>]) -> Option<Bytes> {
        None
    }
}

struct Server {
    cluster: TestCluster,
    call: Call,
}

fn flow_of(control: &Arc<FlowControl>, api: &ClusterApi, actor: &Actor) -> Arc<Flow> {
    control.of(api.store().info().tenant, api.store().id(), actor, "/api")
}

/// An answer that was read whole.
struct Answer {
    code: u16,
    headers: http::HeaderMap,
    body: Value,
}

impl Server {
    async fn new() -> Self {
        let cluster = TestCluster::new().await;
        let pem = rcgen::KeyPair::generate().expect("a key").serialize_pem();
        let key = ServiceAccountKey::open(&pem, "https://kubernetes.default.svc".into()).expect("a P-256 key");
        let call = Call {
            api: cluster.api.clone(),
            actor: cluster.admin.clone(),
            proxy: Arc::new(Echo),
            tokens: ClusterTokens {
                key: Arc::new(key),
                store: cluster.api.store().clone(),
                clock: cluster.api.clock().clone(),
            },
            openapi: Arc::new(NoDocs),
            flow: flow_of(&FlowControl::new(FlowConfig::default()), &cluster.api, &cluster.admin),
            shutdown: CancellationToken::new(),
        };
        Self { cluster, call }
    }

    fn user(&self, name: &str) -> Call {
        let actor = Actor { username: name.into(), groups: vec!["system:authenticated".into()], ..Actor::default() };
        Call { actor, ..self.call.clone() }
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        read(handle(self.call.clone(), request.body(body.into()).expect("a request")).await).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], Body::empty()).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }
}

async fn read(response: Response<Body>) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.expect("a body").to_bytes();
    let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
    Answer { code: parts.status.as_u16(), headers: parts.headers, body }
}

/// The lines of a watch, one by one.
struct Lines {
    stream: axum::body::BodyDataStream,
    buffer: Vec<u8>,
}

impl Lines {
    async fn open(call: Call, path: &str) -> Self {
        let request = Request::builder().uri(path).body(Body::empty()).expect("a request");
        let response = handle(call, request).await;
        assert_eq!(response.status(), 200);
        Self { stream: response.into_body().into_data_stream(), buffer: Vec::new() }
    }

    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("JSON"));
            }
            let next = tokio::time::timeout(galley_store::testing::PATIENCE, self.stream.next()).await;
            self.buffer.extend_from_slice(&next.expect("an event in time")?.expect("a frame"));
        }
    }

    async fn told(&mut self) -> String {
        let event = self.next().await.expect("an event");
        let object = &event["object"];
        format!("{} {}", event["type"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap_or("-"))
    }
}

fn map(name: &str, label: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": label}}, "data": {"k": "v"}})
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn an_object_is_created_read_patched_and_deleted() {
    let server = Server::new().await;
    let created = server.post(MAPS, map("a", "x")).await;
    assert_eq!((created.code, &created.body["metadata"]["name"]), (201, &json!("a")));
    let read = server.get(&format!("{MAPS}/a")).await;
    assert_eq!((read.code, &read.body), (200, &created.body));
    let taken = server.post(MAPS, map("a", "x")).await;
    assert_eq!((taken.code, &taken.body["reason"]), (409, &json!("AlreadyExists")));
    let patch = |kind: &'static str, body: Value| {
        let body = body.to_string();
        let server = &server;
        async move { server.send("PATCH", &format!("{MAPS}/a"), &[("content-type", kind)], body).await }
    };
    let merged = patch("application/merge-patch+json", json!({"data": {"m": "1"}})).await;
    assert_eq!(merged.body["data"], json!({"k": "v", "m": "1"}));
    let strategic = patch("application/strategic-merge-patch+json", json!({"data": {"k": null}})).await;
    assert_eq!(strategic.body["data"], json!({"m": "1"}));
    let operations = json!([{"op": "replace", "path": "/data/m", "value": "2"}]);
    assert_eq!(patch("application/json-patch+json", operations).await.body["data"], json!({"m": "2"}));
    assert_eq!(patch("text/plain", json!({})).await.code, 415);
    let deleted = server.send("DELETE", &format!("{MAPS}/a"), &[], Body::empty()).await;
    assert_eq!((deleted.code, &deleted.body["status"]), (200, &json!("Success")));
    assert_eq!(deleted.body["details"]["kind"], "configmaps");
    let missing = server.get(&format!("{MAPS}/a")).await;
    assert_eq!((missing.code, &missing.body["message"]), (404, &json!("configmaps \"a\" not found")));
}

#[tokio::test]
async fn yaml_is_read_and_other_forms_are_refused() {
    let server = Server::new().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\ndata:\n  a: b\n";
    let created = server.send("POST", MAPS, &[("content-type", "application/yaml")], yaml).await;
    assert_eq!((created.code, &created.body["data"]["a"]), (201, &json!("b")));
    let protobuf = [("content-type", "application/vnd.kubernetes.protobuf")];
    let message: &[u8] = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x05\x0a\x03\x0a\x01p";
    let created = server.send("POST", MAPS, &protobuf, message).await;
    assert_eq!((created.code, &created.body["metadata"]["name"]), (201, &json!("p")), "{}", created.body);
    assert_eq!(server.send("POST", MAPS, &protobuf, "k8s").await.code, 400);
    let unknown = server.send("POST", MAPS, &[("content-type", "text/plain")], "k8s").await;
    assert_eq!((unknown.code, &unknown.body["reason"]), (415, &json!("UnsupportedMediaType")));
    let broken = server.send("POST", MAPS, &[("content-type", "application/json")], "{").await;
    assert_eq!(broken.code, 400);
    let large =
        server.send("POST", MAPS, &[("content-type", "application/json")], vec![b' '; 3 * 1024 * 1024 + 1]).await;
    assert_eq!((large.code, &large.body["reason"]), (413, &json!("RequestEntityTooLarge")));
    let accept = [("accept", "application/vnd.kubernetes.protobuf")];
    assert_eq!(server.send("GET", MAPS, &accept, Body::empty()).await.code, 406);
    assert_eq!(server.send("PUT", MAPS, &[], Body::empty()).await.code, 405);
    assert_eq!(server.get("/api/v1/nonsense").await.code, 404);
}

#[tokio::test]
async fn unknown_fields_are_warnings_or_errors_as_the_client_asks() {
    let server = Server::new().await;
    let mut odd = map("a", "x");
    odd["dta"] = json!({});
    let strict = server.post(&format!("{MAPS}?fieldValidation=Strict"), odd.clone()).await;
    assert_eq!(strict.code, 400);
    assert!(
        strict.body["message"].as_str().unwrap().contains("strict decoding error: unknown field \"dta\""),
        "{}",
        strict.body
    );
    let warned = server.post(MAPS, odd).await;
    assert_eq!(warned.code, 201);
    assert_eq!(warned.headers.get("warning").unwrap(), "299 - \"unknown field \\\"dta\\\"\"");
}

#[tokio::test]
async fn a_list_is_selected_and_chunked_at_one_revision() {
    let server = Server::new().await;
    for (name, label) in [("a", "x"), ("b", "y"), ("c", "x"), ("d", "x")] {
        assert_eq!(server.post(MAPS, map(name, label)).await.code, 201);
    }
    let names = |answer: &Answer| -> Vec<String> {
        let items = answer.body["items"].as_array().unwrap();
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let all = server.get(MAPS).await;
    assert_eq!(
        (names(&all), &all.body["kind"]),
        (vec!["a".into(), "b".into(), "c".into(), "d".into()], &json!("ConfigMapList"))
    );
    assert_eq!(names(&server.get(&format!("{MAPS}?labelSelector=app%3Dx")).await), ["a", "c", "d"]);
    assert_eq!(names(&server.get(&format!("{MAPS}?fieldSelector=metadata.name%3Db")).await), ["b"]);
    let unsupported = server.get(&format!("{MAPS}?fieldSelector=data.k%3Dv")).await;
    assert_eq!((unsupported.code, &unsupported.body["message"]), (400, &json!("field label not supported: data.k")));
    let first = server.get(&format!("{MAPS}?limit=3")).await;
    assert_eq!(names(&first), ["a", "b", "c"]);
    assert_eq!(first.body["metadata"]["remainingItemCount"], 1);
    // What happens in between is not seen: the second chunk is of the first one's moment.
    server.send("DELETE", &format!("{MAPS}/d"), &[], Body::empty()).await;
    server.post(MAPS, map("e", "x")).await;
    let token = first.body["metadata"]["continue"].as_str().unwrap();
    let second = server.get(&format!("{MAPS}?limit=3&continue={token}")).await;
    assert_eq!(names(&second), ["d"]);
    assert_eq!(second.body["metadata"]["resourceVersion"], first.body["metadata"]["resourceVersion"]);
    assert!(second.body["metadata"].get("continue").is_none());
    let everywhere = server.get("/api/v1/configmaps").await;
    assert_eq!(names(&everywhere), ["a", "b", "c", "e"]);
    let removed = server.send("DELETE", &format!("{MAPS}?labelSelector=app%3Dx"), &[], Body::empty()).await;
    assert_eq!(removed.code, 200);
    assert_eq!(names(&server.get(MAPS).await), ["b"]);
}

#[tokio::test]
async fn tables_and_metadata_are_views() {
    let server = Server::new().await;
    server.post(MAPS, map("a", "x")).await;
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")];
    let answer = server.send("GET", MAPS, &table, Body::empty()).await;
    assert_eq!(answer.body["kind"], "Table");
    assert_eq!(answer.body["columnDefinitions"][0]["name"], "Name");
    assert_eq!(answer.body["rows"][0]["cells"][0], "a");
    assert_eq!(answer.body["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let metadata = [("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")];
    let answer = server.send("GET", MAPS, &metadata, Body::empty()).await;
    assert_eq!(answer.body["items"][0]["metadata"]["name"], "a");
    assert!(answer.body["items"][0].get("data").is_none());
}

#[tokio::test]
async fn a_watch_tells_every_change_in_order() {
    let server = Server::new().await;
    server.post(MAPS, map("a", "x")).await;
    let list = server.get(MAPS).await;
    let version = list.body["metadata"]["resourceVersion"].as_str().unwrap();
    let mut fresh = Lines::open(server.call.clone(), &format!("{MAPS}?watch=true")).await;
    let mut resumed = Lines::open(server.call.clone(), &format!("{MAPS}?watch=1&resourceVersion={version}")).await;
    assert_eq!(fresh.told().await, "ADDED a");
    server.post(MAPS, map("b", "x")).await;
    server.send("DELETE", &format!("{MAPS}/a"), &[], Body::empty()).await;
    for lines in [&mut fresh, &mut resumed] {
        assert_eq!(lines.told().await, "ADDED b");
        assert_eq!(lines.told().await, "DELETED a");
    }
}

#[tokio::test]
async fn a_selected_watch_sees_objects_come_and_go() {
    let server = Server::new().await;
    let mut lines = Lines::open(server.call.clone(), &format!("{MAPS}?watch=true&labelSelector=app%3Dx")).await;
    server.post(MAPS, map("a", "y")).await;
    let label = |value: &str| json!({"metadata": {"labels": {"app": value}}}).to_string();
    let headers = [("content-type", "application/merge-patch+json")];
    server.send("PATCH", &format!("{MAPS}/a"), &headers, label("x")).await;
    assert_eq!(lines.told().await, "ADDED a");
    let changed = server.send("PATCH", &format!("{MAPS}/a"), &headers, label("z")).await;
    let event = lines.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    assert_eq!(event["object"]["metadata"]["labels"]["app"], "x");
    assert_eq!(event["object"]["metadata"]["resourceVersion"], changed.body["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let server = Server::new().await;
    server.post(MAPS, map("a", "x")).await;
    let query = "watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut lines = Lines::open(server.call.clone(), &format!("{MAPS}?{query}")).await;
    assert_eq!(lines.told().await, "ADDED a");
    let bookmark = lines.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let refused = server.get(&format!("{MAPS}?watch=true&sendInitialEvents=true")).await;
    assert_eq!(refused.code, 422);
}

#[tokio::test]
async fn a_watch_ends_when_the_server_stops() {
    let server = Server::new().await;
    let mut lines = Lines::open(server.call.clone(), &format!("{MAPS}?watch=true")).await;
    server.call.shutdown.cancel();
    assert!(lines.next().await.is_none());
}

#[tokio::test]
async fn nobody_does_what_no_rule_allows() {
    let server = Server::new().await;
    let ask = |call: Call, path: &'static str| async move {
        read(handle(call, Request::builder().uri(path).body(Body::empty()).unwrap()).await).await
    };
    let refused = ask(server.user("x"), "/api/v1/namespaces/default/pods").await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.body["message"],
        "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let refused = ask(server.user("x"), "/apis/apps/v1/deployments").await;
    assert_eq!(
        refused.body["message"],
        "deployments.apps is forbidden: User \"x\" cannot list resource \"deployments\" in API group \"apps\" at the cluster scope"
    );
    assert_eq!(ask(server.user("x"), "/version").await.code, 200);
    assert_eq!(ask(server.user("x"), "/metrics").await.code, 403);
}

#[tokio::test]
async fn reviews_answer_for_the_caller_and_for_others() {
    let server = Server::new().await;
    let review = |user: Option<&str>| {
        let mut spec = json!({"resourceAttributes": {"namespace": "default", "verb": "list", "resource": "pods"}});
        if let Some(user) = user {
            spec["user"] = json!(user);
        }
        json!({"spec": spec})
    };
    let own = server.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review(None)).await;
    assert_eq!((own.code, &own.body["status"]["allowed"]), (201, &json!(true)));
    let other = server.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review(Some("x"))).await;
    assert_eq!(other.body["status"]["allowed"], false);
    let whoami = server.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({})).await;
    assert_eq!(whoami.body["status"]["userInfo"]["username"], "admin");
    let impersonated = server
        .send(
            "POST",
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            &[("content-type", "application/json"), ("impersonate-user", "jane")],
            "{}",
        )
        .await;
    assert_eq!(impersonated.body["status"]["userInfo"]["username"], "jane");
    let token = server.post("/apis/authentication.k8s.io/v1/tokenreviews", json!({"spec": {"token": "x"}})).await;
    assert_eq!(token.code, 201);
    assert_ne!(token.body["status"]["authenticated"], true);
}

#[tokio::test]
async fn pods_are_bound_and_evicted_and_their_logs_are_the_nodes() {
    let server = Server::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(server.post(pods, pod).await.code, 201);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let bound = server.post(&format!("{pods}/p/binding"), binding).await;
    assert_eq!((bound.code, &bound.body["status"]), (201, &json!("Success")));
    let log = server.get(&format!("{pods}/p/log?follow=true")).await;
    assert_eq!(log.body, json!("Log { namespace: \"default\", name: \"p\" }"));
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    assert_eq!(server.post(&format!("{pods}/p/eviction"), eviction).await.code, 201);
    assert_eq!(server.get(&format!("{pods}/p")).await.body["metadata"]["deletionGracePeriodSeconds"], 30);
    let force = server.send("DELETE", &format!("{pods}/p?gracePeriodSeconds=0"), &[], Body::empty()).await;
    assert_eq!((force.code, &force.body["kind"]), (200, &json!("Pod")));
    assert_eq!(server.get(&format!("{pods}/p")).await.code, 404);
}

#[tokio::test]
async fn scale_is_a_kind_of_its_own() {
    let server = Server::new().await;
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    assert_eq!(server.post(deployments, deployment).await.code, 201);
    let mut scale = server.get(&format!("{deployments}/d/scale")).await.body;
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    scale["spec"]["replicas"] = json!(4);
    let headers = [("content-type", "application/json")];
    let scaled = server.send("PUT", &format!("{deployments}/d/scale"), &headers, scale.to_string()).await;
    assert_eq!((scaled.code, &scaled.body["spec"]["replicas"]), (200, &json!(4)));
    assert_eq!(server.cluster.get("deployments.apps", "default", "d").unwrap()["spec"]["replicas"], 4);
}

#[tokio::test]
async fn discovery_version_and_health_answer() {
    let server = Server::new().await;
    assert_eq!(server.get("/version").await.body["major"], "1");
    assert_eq!(server.get("/readyz").await.body, json!("ok"));
    assert_eq!(server.get("/api").await.body["versions"], json!(["v1"]));
    let groups = server.get("/apis").await.body;
    assert!(groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == "apps"));
    assert_eq!(server.get("/apis/apps/v1").await.body["groupVersion"], "apps/v1");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                  application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    let aggregated = server.send("GET", "/apis", &[("accept", accept)], Body::empty()).await;
    assert_eq!(aggregated.body["kind"], "APIGroupDiscoveryList");
    assert_eq!(server.get("/nonsense").await.code, 404);
}

#[tokio::test]
async fn events_are_one_collection_in_two_groups() {
    let server = Server::new().await;
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "message": "m", "reason": "R",
        "type": "Normal", "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}});
    let created = server.post("/api/v1/namespaces/default/events", event).await;
    assert_eq!(created.code, 201, "{}", created.body);
    let other = server.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await;
    assert_eq!((&other.body["note"], &other.body["apiVersion"]), (&json!("m"), &json!("events.k8s.io/v1")));
    let selected = server.get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp").await;
    assert_eq!(selected.body["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn large_objects_are_listed_out_of_the_caches_own_memory() {
    let server = Server::new().await;
    let store = server.call.api.store();
    for name in ["a", "b", "c", "d"] {
        let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "namespace": "default"},
            "data": {"k": "v".repeat(if name == "b" { 10 } else { 200_000 })}});
        let draft = galley_store::testing::draft("configmaps", &object, &[]);
        store.commit(galley_store::Write::Create(draft)).await.expect("written");
    }
    let request = Request::builder().uri(MAPS).body(Body::empty()).expect("a request");
    let mut frames = handle(server.call.clone(), request).await.into_body().into_data_stream();
    let (mut pieces, mut whole) = (Vec::new(), Vec::new());
    while let Some(frame) = frames.next().await {
        let frame = frame.expect("a frame");
        whole.extend_from_slice(&frame);
        pieces.push(frame);
    }
    let list: Value = serde_json::from_slice(&whole).expect("JSON");
    let names: Vec<&str> =
        list["items"].as_array().unwrap().iter().filter_map(|item| item["metadata"]["name"].as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    let scope = galley_store::Scope { resource: "configmaps".into(), namespace: Some("default".into()) };
    for object in store.list(&scope).objects.iter().filter(|object| *object.key.name != *"b") {
        assert!(pieces.iter().any(|piece| piece.as_ptr() == object.body.as_ptr()), "{} was copied", object.key.name);
    }
}
