//! Create, update, patch, delete and deletecollection.

use std::sync::Arc;

use galley_kube::{FieldError, Resource, Status};
use galley_pipeline::{Binding, Body as Input, DeleteOptions, Patch, PatchKind, Preconditions, WriteOptions, Written};
use galley_store::Object;
use http::header::USER_AGENT;
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};

use super::negotiate::{self, View};
use super::path::ResourcePath;
use super::query::{self, Query};
use super::respond::{self, Style, header, warn};
use super::{Call, list, view};
use crate::body::Body;

/// A request that writes.
pub struct WriteRequest<'a> {
    pub call: &'a Call,
    pub resource: &'a Arc<Resource>,
    pub path: &'a ResourcePath,
    pub query: &'a Query,
    pub form: View,
    pub style: Style,
}

impl WriteRequest<'_> {
    fn subresource(&self) -> Option<&str> {
        (!self.path.subresource.is_empty()).then_some(self.path.subresource.as_str())
    }

    fn options(&self, kind: &str, request: &Request<Body>) -> Result<WriteOptions, Status> {
        self.query.write_options(kind, header(request.headers(), &USER_AGENT))
    }

    /// The written object (or its Scale) in the form asked for.
    fn written(&self, code: StatusCode, written: &Written) -> Result<Response<Body>, Status> {
        let body = if self.subresource() == Some("scale") {
            view::encode(&self.call.api.scale(self.resource, &written.object)?)?
        } else {
            view::one(&self.call.api, self.resource, &written.object, self.form)?
        };
        let mut response = self.style.bytes(code, body);
        warn(&mut response, &written.warnings);
        Ok(response)
    }

    /// `POST` to a collection, or to a subresource that is an action.
    pub async fn create(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let options = self.options("CreateOptions", &request)?;
        let Call { api, actor, .. } = self.call;
        let (namespace, name) = (self.path.namespace.as_str(), self.path.name.as_str());
        match (self.resource.plural.as_str(), self.path.subresource.as_str()) {
            ("bindings", "") => {
                let body = respond::tree(&self.call.flow, request).await?;
                let name = galley_pipeline::value::text(&body, "/metadata/name").to_owned();
                self.bind(&name, &body, &options).await
            }
            ("pods", "binding") => {
                let body = respond::tree(&self.call.flow, request).await?;
                self.bind(name, &body, &options).await
            }
            ("pods", "eviction") => {
                let body = respond::tree(&self.call.flow, request).await?;
                let mut deletion = delete_options(body.get("deleteOptions").unwrap_or(&Value::Null))?;
                deletion.dry_run |= options.dry_run;
                api.evict(actor, namespace, name, &deletion).await?;
                Ok(self.style.value(StatusCode::CREATED, &success(json!({}))))
            }
            ("serviceaccounts", "token") => {
                let body = respond::tree(&self.call.flow, request).await?;
                let token = api.create_token(actor, namespace, name, body, &options).await?;
                Ok(self.style.value(StatusCode::CREATED, &token))
            }
            (_, "") if name.is_empty() => {
                let body = respond::input(&self.call.flow, request).await?;
                let written = api.create(actor, self.resource, namespace, body, &options).await?;
                self.written(StatusCode::CREATED, &written)
            }
            _ => Err(respond::not_allowed()),
        }
    }

    async fn bind(&self, pod: &str, body: &Value, options: &WriteOptions) -> Result<Response<Body>, Status> {
        let binding = Binding::from_body(&self.path.namespace, pod, body)?;
        self.call.api.bind(&self.call.actor, binding, options).await?;
        Ok(self.style.value(StatusCode::CREATED, &success(json!({}))))
    }

    /// `PUT`
    pub async fn update(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let options = self.options("UpdateOptions", &request)?;
        let body = respond::input(&self.call.flow, request).await?;
        let Call { api, actor, .. } = self.call;
        let ResourcePath { namespace, name, .. } = self.path;
        let written = api.update(actor, self.resource, namespace, name, self.subresource(), body, &options).await?;
        self.written(StatusCode::OK, &written)
    }

    /// `PATCH`
    pub async fn patch(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let options = self.options("PatchOptions", &request)?;
        let kind = negotiate::patch_kind(request.headers())?;
        self.check_patch_options(kind)?;
        let bytes = respond::read(&self.call.flow, request.into_body()).await?;
        let body = if kind == PatchKind::Apply {
            respond::yaml(&bytes)?
        } else {
            serde_json::from_slice(&bytes)
                .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?
        };
        let Call { api, actor, .. } = self.call;
        let ResourcePath { namespace, name, .. } = self.path;
        let existed = kind != PatchKind::Apply || api.get(self.resource, namespace, name).is_ok();
        let patch = Patch { kind, body };
        let written = api.patch(actor, self.resource, namespace, name, self.subresource(), patch, &options).await?;
        self.written(if existed { StatusCode::OK } else { StatusCode::CREATED }, &written)
    }

    fn check_patch_options(&self, kind: PatchKind) -> Result<(), Status> {
        let invalid = |field: &str, reason: &'static str, message: &str| {
            let error = FieldError { field: field.into(), reason, message: message.into() };
            Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &[error]))
        };
        if kind == PatchKind::Apply && self.query.text("fieldManager").is_empty() {
            return invalid("fieldManager", "FieldValueRequired", "Required value: is required for apply patch");
        }
        if kind != PatchKind::Apply && self.query.optional_flag("force").is_some() {
            return invalid("force", "FieldValueForbidden", "Forbidden: may not be specified for non-apply patch");
        }
        Ok(())
    }

    /// `DELETE` of one object.
    pub async fn delete(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let options = self.deletion(request).await?;
        let Call { api, actor, .. } = self.call;
        let ResourcePath { namespace, name, .. } = self.path;
        let (written, gone) = api.delete_object(actor, self.resource, namespace, name, &options).await?;
        if !gone || returns_deleted(self.resource) {
            return self.written(StatusCode::OK, &written);
        }
        let details = json!({"name": name, "group": self.resource.group, "kind": self.resource.plural,
            "uid": &*written.object.uid});
        let mut response = self.style.value(StatusCode::OK, &success(details));
        warn(&mut response, &written.warnings);
        Ok(response)
    }

    /// `DELETE` of a collection: everything that the selectors choose.
    pub async fn delete_collection(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let options = self.deletion(request).await?;
        let Call { api, actor, .. } = self.call;
        let objects: Vec<Arc<Object>> = list::all(self.call, self.resource, &self.path.namespace, self.query).await?;
        let deletions = objects.iter().map(|object| {
            let key = &object.key;
            api.delete(actor, self.resource, &key.namespace, &key.name, &options)
        });
        for answer in futures::future::join_all(deletions).await {
            match answer {
                Ok(_) => {}
                // Somebody else was faster.
                Err(status) if status.code == 404 => {}
                Err(status) => return Err(status),
            }
        }
        let items = objects.iter().map(|object| api.decode(object, self.resource)).collect::<Result<Vec<_>, _>>()?;
        let list = json!({"kind": format!("{}List", self.resource.kind), "apiVersion": self.resource.api_version(),
            "metadata": {"resourceVersion": api.store().revision().to_string()}, "items": items});
        Ok(self.style.value(StatusCode::OK, &list))
    }

    async fn deletion(&self, request: Request<Body>) -> Result<DeleteOptions, Status> {
        let body = match respond::input(&self.call.flow, request).await? {
            Input::Bytes(bytes) if bytes.is_empty() => Value::Null,
            Input::Bytes(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                Status::bad_request(format!("couldn't get version/kind; json parse error: {error}"))
            })?,
            Input::Value(value) => value,
        };
        let mut options = delete_options(&body)?;
        self.query.delete_options(&mut options)?;
        Ok(options)
    }
}

/// `DeleteOptions` from a body.
fn delete_options(body: &Value) -> Result<DeleteOptions, Status> {
    let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let dry_run = body.get("dryRun").and_then(Value::as_array).is_some_and(|list| list.iter().any(|x| x == "All"));
    Ok(DeleteOptions {
        grace_period_seconds: body.get("gracePeriodSeconds").and_then(Value::as_i64),
        preconditions: Preconditions {
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
        },
        propagation: query::propagation(
            text("/propagationPolicy").as_deref().unwrap_or_default(),
            body.get("orphanDependents").and_then(Value::as_bool),
        )?,
        dry_run,
    })
}

/// Resources whose deletion answers with the object rather than a Status, as Kubernetes has it.
fn returns_deleted(resource: &Resource) -> bool {
    match resource.group.as_str() {
        "" => matches!(
            resource.plural.as_str(),
            "pods"
                | "services"
                | "serviceaccounts"
                | "persistentvolumes"
                | "persistentvolumeclaims"
                | "podtemplates"
                | "resourcequotas"
        ),
        "storage.k8s.io" => true,
        _ => false,
    }
}

/// A `Status` of success.
pub fn success(details: Value) -> Value {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if details.as_object().is_some_and(|details| !details.is_empty()) {
        status["details"] = details;
        if let Some(details) = status["details"].as_object_mut() {
            details.retain(|_, value| value != "");
        }
    } else {
        status["code"] = json!(201);
    }
    status
}
