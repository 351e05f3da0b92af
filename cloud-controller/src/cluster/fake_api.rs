//! A stand-in for a cluster's API: Services and Nodes with list, watch and merge patch, and Events to be read by tests. It refuses what
//! the API server refuses: a patch with an old version, an object that is not there.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

type Answer = Response<BoxBody<Bytes, Infallible>>;

#[derive(Default)]
struct World {
    /// By resource and `namespace/name`.
    objects: BTreeMap<(String, String), Value>,
    /// All changes; the index plus one is the version.
    log: Vec<(String, &'static str, Value)>,
    events: Vec<(String, String)>,
}

/// The cluster.
#[derive(Clone)]
pub struct FakeApi {
    world: Arc<watch::Sender<World>>,
}

fn answer(status: StatusCode, body: &Value) -> Answer {
    Response::builder().status(status).body(Full::from(body.to_string()).boxed()).unwrap()
}

fn refusal(status: StatusCode, reason: &str) -> Answer {
    let body =
        json!({ "kind": "Status", "status": "Failure", "reason": reason, "message": reason, "code": status.as_u16() });
    answer(status, &body)
}

fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    into.remove(&key);
                } else {
                    merge(into.entry(key).or_insert(json!({})), value);
                }
            }
        }
        (into, patch) => *into = patch,
    }
}

impl FakeApi {
    pub fn new() -> Self {
        Self { world: Arc::new(watch::Sender::new(World::default())) }
    }

    pub fn client(&self) -> Client {
        let this = self.clone();
        Client::new(tower::service_fn(move |request| this.clone().serve(request)), "default")
    }

    /// Creates or replaces an object.
    pub fn put(&self, resource: &str, key: &str, object: Value) {
        self.world.send_modify(|world| world.write(resource, key, object));
    }

    /// Changes an object by a merge patch.
    pub fn patch(&self, key: &str, patch: Value) {
        let mut object = self.service(key).unwrap();
        merge(&mut object, patch);
        self.put("services", key, object);
    }

    pub fn service(&self, key: &str) -> Option<Value> {
        self.world.borrow().objects.get(&("services".into(), key.into())).cloned()
    }

    /// Reasons and messages, in order.
    pub fn events(&self) -> Vec<(String, String)> {
        self.world.borrow().events.clone()
    }

    /// Waits until a Service is as `check` wants.
    pub async fn until(&self, what: &str, key: &str, check: impl Fn(Option<&Value>) -> bool) {
        let key = ("services".to_owned(), key.to_owned());
        let mut reader = self.world.subscribe();
        let wait = reader.wait_for(|world| check(world.objects.get(&key)));
        let waited = tokio::time::timeout(std::time::Duration::from_secs(20), wait).await;
        assert!(waited.is_ok(), "never: {what}; {:?}", self.world.borrow().objects.get(&key));
    }

    async fn serve(self, request: Request<Body>) -> Result<Answer, Infallible> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
        let query = parts.uri.query().unwrap_or_default();
        Ok(match (&parts.method, path.as_slice()) {
            (&Method::GET, ["api", "v1", resource]) if query.contains("watch=") => self.watch(resource, query),
            (&Method::GET, ["api", "v1", resource]) => self.list(resource),
            (&Method::POST, ["api", "v1", "namespaces", _, "events"]) => {
                let text = |key: &str| body[key].as_str().unwrap().to_owned();
                self.world.send_modify(|world| world.events.push((text("reason"), text("message"))));
                answer(StatusCode::CREATED, &body)
            }
            (&Method::PATCH, ["api", "v1", "namespaces", namespace, "services", name, ..]) => {
                self.patched(&format!("{namespace}/{name}"), body)
            }
            other => panic!("the controller asked for {other:?}"),
        })
    }

    fn list(&self, resource: &str) -> Answer {
        let world = self.world.borrow();
        let items: Vec<&Value> =
            world.objects.iter().filter(|((found, _), _)| found == resource).map(|(_, object)| object).collect();
        let metadata = json!({ "resourceVersion": world.log.len().to_string() });
        answer(StatusCode::OK, &json!({ "metadata": metadata, "items": items }))
    }

    fn watch(&self, resource: &str, query: &str) -> Answer {
        let from = query.split('&').find_map(|part| part.strip_prefix("resourceVersion=")).unwrap();
        let (resource, from): (String, usize) = (resource.into(), from.parse().unwrap());
        let events = futures::stream::unfold((self.world.subscribe(), from), move |(mut reader, from)| {
            let resource = resource.clone();
            async move {
                reader.wait_for(|world| world.log.len() > from).await.ok()?;
                let (to, lines) = {
                    let world = reader.borrow();
                    let new = world.log[from..].iter().filter(|(found, _, _)| *found == resource);
                    let lines = new.map(|(_, kind, object)| format!("{}\n", json!({ "type": kind, "object": object })));
                    (world.log.len(), lines.collect::<String>())
                };
                Some((lines, (reader, to)))
            }
        });
        let frames = events.map(|lines| Ok(http_body::Frame::data(Bytes::from(lines))));
        Response::new(BodyExt::boxed(StreamBody::new(SyncStream::new(frames))))
    }

    fn patched(&self, key: &str, patch: Value) -> Answer {
        let Some(mut object) = self.service(key) else { return refusal(StatusCode::NOT_FOUND, "NotFound") };
        let wanted = patch.pointer("/metadata/resourceVersion");
        if wanted.is_some_and(|version| *version != object["metadata"]["resourceVersion"]) {
            return refusal(StatusCode::CONFLICT, "Conflict");
        }
        merge(&mut object, patch);
        self.put("services", key, object.clone());
        answer(StatusCode::OK, &object)
    }
}

impl World {
    fn write(&mut self, resource: &str, key: &str, mut object: Value) {
        let version = (self.log.len() + 1).to_string();
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        merge(&mut object, json!({ "metadata": { "name": name, "resourceVersion": version, "uid": key } }));
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        let id = (resource.to_owned(), key.to_owned());
        let meta = &object["metadata"];
        let held = meta["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty());
        let kind = if meta["deletionTimestamp"].is_string() && !held {
            self.objects.remove(&id);
            "DELETED"
        } else if self.objects.insert(id, object.clone()).is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        self.log.push((resource.into(), kind, object));
    }
}

/// `BoxBody` wants `Sync`; only one task ever polls it.
struct SyncStream<S>(parking_lot::Mutex<std::pin::Pin<Box<S>>>);

impl<S> SyncStream<S> {
    fn new(stream: S) -> Self {
        Self(parking_lot::Mutex::new(Box::pin(stream)))
    }
}

impl<S: futures::Stream> futures::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        self.0.lock().as_mut().poll_next(context)
    }
}
