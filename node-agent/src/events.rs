//! Events on pods and nodes, as `kubectl describe` shows them. What repeats is counted on the first event instead of made again.

use std::collections::HashMap;
use std::sync::Arc;

use galley_types::{Clock, SystemClock};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;

/// Waiting events; more are dropped: events must never hold up pods.
const QUEUE: usize = 1000;
/// Different events remembered for counting.
const REMEMBERED: usize = 4096;

#[derive(Debug)]
struct Said {
    about: ObjectReference,
    warning: bool,
    reason: &'static str,
    message: String,
}

/// Tells events.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    queue: mpsc::Sender<Said>,
}

impl Events {
    pub(crate) fn start(client: kube::Client, node: String) -> Self {
        let (queue, said) = mpsc::channel(QUEUE);
        tokio::spawn(write(client, node, said));
        Self { queue }
    }

    /// An event about a pod, or about one of its containers.
    pub(crate) fn pod(&self, pod: &Pod, container: Option<&str>, warning: bool, reason: &'static str, message: String) {
        let meta = &pod.metadata;
        let spec = pod.spec.as_ref();
        let field = container.map(|name| {
            let init = spec.is_some_and(|s| s.init_containers.iter().flatten().any(|c| c.name == name));
            let list = if init { "initContainers" } else { "containers" };
            format!("spec.{list}{{{name}}}")
        });
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: field,
        };
        self.send(Said { about, warning, reason, message });
    }

    /// An event about the node itself.
    pub(crate) fn node(&self, node: &str, warning: bool, reason: &'static str, message: String) {
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(node.into()),
            uid: Some(node.into()),
            ..ObjectReference::default()
        };
        self.send(Said { about, warning, reason, message });
    }

    fn send(&self, said: Said) {
        if self.queue.try_send(said).is_err() {
            tracing::debug!("an event was dropped: too many wait");
        }
    }
}

async fn write(client: kube::Client, node: String, mut said: mpsc::Receiver<Said>) {
    let mut known: HashMap<String, (String, i32)> = HashMap::new();
    let node: Arc<str> = node.into();
    while let Some(event) = said.recv().await {
        let namespace = event.about.namespace.clone().unwrap_or_else(|| "default".into());
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let key = format!("{:?}/{:?}/{}/{}", event.about.uid, event.about.field_path, event.reason, event.message);
        let now = Time(SystemClock.now());
        if let Some((name, count)) = known.get_mut(&key) {
            *count += 1;
            let patch = serde_json::json!({"count": count, "lastTimestamp": now});
            if api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.is_ok() {
                continue;
            }
        }
        let name = format!("{}.{:x}", event.about.name.as_deref().unwrap_or_default(), rand::random::<u64>());
        let object = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: event.about,
            type_: Some(if event.warning { "Warning" } else { "Normal" }.into()),
            reason: Some(event.reason.into()),
            message: Some(event.message),
            source: Some(EventSource { component: Some("kubelet".into()), host: Some(node.to_string()) }),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(node.to_string()),
            ..Event::default()
        };
        if known.len() >= REMEMBERED {
            known.clear();
        }
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => {
                known.insert(key, (name, 1));
            }
            Err(error) => tracing::debug!(%error, "an event is lost"),
        }
    }
}
