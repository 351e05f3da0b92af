//! What the controller writes into a cluster: finalizers, addresses and events of Services.

use galley_cloud::Address;
use galley_cloud_plan::FINALIZER;
use galley_types::{Clock, SystemClock};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

/// The name under which Kubernetes' own controller of Services speaks.
const COMPONENT: &str = "service-controller";

/// The cluster refused a write.
#[derive(Debug, thiserror::Error)]
#[error("the cluster refused to {operation} of Service {namespace}/{name}")]
pub struct ApiError {
    operation: &'static str,
    namespace: String,
    name: String,
    #[source]
    source: Box<kube::Error>,
}

impl ApiError {
    /// Somebody else wrote in between, or the object is gone: what to do is decided anew.
    pub fn is_conflict(&self) -> bool {
        matches!(&*self.source, kube::Error::Api(status) if status.code == 409 || status.code == 404)
    }
}

/// How much an event matters.
#[derive(Clone, Copy)]
pub enum Level {
    Normal,
    Warning,
}

/// Writes about Services of one cluster.
pub struct ServiceApi {
    client: Client,
}

impl ServiceApi {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    fn api(&self, service: &Service) -> Api<Service> {
        Api::namespaced(self.client.clone(), &service.namespace().unwrap_or_default())
    }

    fn error(service: &Service, operation: &'static str) -> impl FnOnce(kube::Error) -> ApiError {
        let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
        move |source| ApiError { operation, namespace, name, source: Box::new(source) }
    }

    async fn finalizers(&self, service: &Service, operation: &'static str, list: Vec<&str>) -> Result<(), ApiError> {
        // The version makes sure that no finalizer of somebody else is lost.
        let patch =
            Patch::Merge(json!({ "metadata": { "resourceVersion": service.resource_version(), "finalizers": list } }));
        let patched = self.api(service).patch(&service.name_any(), &PatchParams::default(), &patch).await;
        patched.map(drop).map_err(Self::error(service, operation))
    }

    /// Adds the finalizer.
    pub async fn finalizer_add(&self, service: &Service) -> Result<(), ApiError> {
        let list = service.finalizers().iter().map(String::as_str).chain([FINALIZER]).collect();
        self.finalizers(service, "add the finalizer", list).await
    }

    /// Removes the finalizer.
    pub async fn finalizer_remove(&self, service: &Service) -> Result<(), ApiError> {
        let list = service.finalizers().iter().map(String::as_str).filter(|name| *name != FINALIZER).collect();
        match self.finalizers(service, "remove the finalizer", list).await {
            Err(error) if matches!(&*error.source, kube::Error::Api(status) if status.code == 404) => Ok(()),
            other => other,
        }
    }

    /// Writes the address, or that there is none.
    pub async fn status_set(&self, service: &Service, address: Option<Address>) -> Result<(), ApiError> {
        // VIP: nodes may answer the address themselves, it is a plain one and connections are passed through.
        let ingress = address.map(|address| json!([{ "ip": address.ip, "ipMode": "VIP" }]));
        let patch =
            Patch::Merge(json!({ "status": { "loadBalancer": { "ingress": ingress.unwrap_or(Value::Null) } } }));
        let patched = self.api(service).patch_status(&service.name_any(), &PatchParams::default(), &patch).await;
        patched.map(drop).map_err(Self::error(service, "write the status"))
    }

    /// Tells users what happened. An event that is lost changes nothing, so a failure is only logged.
    pub async fn event(&self, service: &Service, level: Level, reason: &str, message: &str) {
        let namespace = service.namespace().unwrap_or_default();
        let now = Some(Time(SystemClock.now()));
        let event = Event {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}.", service.name_any())),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Service".into()),
                namespace: Some(namespace.clone()),
                name: service.metadata.name.clone(),
                uid: service.uid(),
                resource_version: service.resource_version(),
                ..ObjectReference::default()
            },
            type_: Some(match level {
                Level::Normal => "Normal".into(),
                Level::Warning => "Warning".into(),
            }),
            reason: Some(reason.into()),
            message: Some(message.into()),
            source: Some(EventSource { component: Some(COMPONENT.into()), host: None }),
            first_timestamp: now.clone(),
            last_timestamp: now,
            count: Some(1),
            ..Event::default()
        };
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        if let Err(error) = events.create(&PostParams::default(), &event).await {
            tracing::debug!(%error, reason, "an event was not written");
        }
    }
}
