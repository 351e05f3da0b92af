//! `scale`: replicas of deployments, replicasets, statefulsets, replicationcontrollers and custom resources, as one kind.

use galley_authz::Actor;
use galley_kube::crd::ScalePaths;
use galley_kube::{FieldError, Resource, Status};
use galley_store::Object;
use galley_types::LabelSelector;
use serde_json::{Map, Value, json};

use crate::api::{Body, ClusterApi, MODIFIED, Patch, WriteOptions, Written};
use crate::create::ManagedFields;
use crate::rules;
use crate::strategy::Part;
use crate::update::{Change, Failure};
use crate::value::{int, map_at, text};

/// The Scale of an object.
pub fn of(resource: &Resource, object: &Value) -> Value {
    let mut metadata = Map::new();
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.pointer(&format!("/metadata/{key}")) {
            metadata.insert(key.into(), value.clone());
        }
    }
    let paths = custom_paths(resource);
    let pointer = |custom: Option<&str>, builtin: &'static str| int(object, custom.unwrap_or(builtin)).unwrap_or(0);
    let mut spec = Map::new();
    let replicas = pointer(paths.map(|paths| paths.spec_replicas.as_str()), "/spec/replicas");
    if replicas != 0 {
        spec.insert("replicas".into(), json!(replicas));
    }
    let mut status = Map::new();
    let current = pointer(paths.map(|paths| paths.status_replicas.as_str()), "/status/replicas");
    status.insert("replicas".into(), json!(current));
    let selector = match paths {
        Some(paths) => paths.label_selector.as_ref().map(|path| text(object, path).to_owned()).unwrap_or_default(),
        None => selector(resource, object),
    };
    if !selector.is_empty() {
        status.insert("selector".into(), json!(selector));
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// Where a custom resource keeps what a Scale shows.
fn custom_paths(resource: &Resource) -> Option<&ScalePaths> {
    resource.custom.as_ref()?.scale.as_ref()
}

/// The text form of `spec.selector`: labels for a ReplicationController, a LabelSelector for the others.
fn selector(resource: &Resource, object: &Value) -> String {
    let Some(selector) = object.pointer("/spec/selector") else { return String::new() };
    if resource.group.is_empty() {
        let labels = selector.as_object().into_iter().flatten();
        let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        return LabelSelector::from_labels(labels).to_string();
    }
    LabelSelector::from_value(selector).map(|selector| selector.to_string()).unwrap_or_default()
}

/// `old` with the replicas that a patch of its Scale asks for.
pub(crate) fn patched(resource: &Resource, old: &Value, patch: &Patch) -> Result<Value, Status> {
    let scale = of(resource, old);
    let patched = rules::patch("autoscaling/v1", "Scale", patch.kind, &scale, &patch.body)?;
    scaled(resource, old, &patched)
}

fn scaled(resource: &Resource, old: &Value, scale: &Value) -> Result<Value, Status> {
    let replicas = int(scale, "/spec/replicas").unwrap_or(0);
    if replicas < 0 {
        return Err(Status::invalid(
            "autoscaling",
            "Scale",
            text(old, "/metadata/name"),
            &[FieldError {
                field: "spec.replicas".into(),
                reason: "FieldValueInvalid",
                message: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
            }],
        ));
    }
    let version = text(scale, "/metadata/resourceVersion");
    if !matches!(version, "" | "0") && version != text(old, "/metadata/resourceVersion") {
        return Err(Status::conflict(&resource.group, &resource.plural, text(old, "/metadata/name"), MODIFIED));
    }
    let mut new = old.clone();
    let path = custom_paths(resource).map_or("/spec/replicas", |paths| paths.spec_replicas.as_str());
    let mut keys: Vec<&str> = path.split('/').skip(1).collect();
    if let Some(last) = keys.pop() {
        map_at(&mut new, &keys).insert(last.into(), json!(replicas));
    }
    Ok(new)
}

impl ClusterApi {
    /// `PUT .../scale`. The answer is the scaled object; [`of`] makes its Scale.
    pub(crate) async fn update_scale(
        &self,
        actor: &Actor,
        resource: &Resource,
        namespace: &str,
        name: &str,
        body: Body,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let decoded = rules::decode_kind("autoscaling/v1", "Scale", body, options.field_validation)?;
        let (body, warnings) = (decoded.value, decoded.warnings);
        let has_version = !matches!(text(&body, "/metadata/resourceVersion"), "" | "0");
        loop {
            let stored = self.get(resource, namespace, name)?;
            let old = stored.value().map_err(Status::internal)?;
            let new = scaled(resource, &old, &body)?;
            let change = Change { actor, resource, namespace, name, part: Part::Main, recorded: "scale", options };
            match self.replace(&change, &stored, &old, new, ManagedFields::OfThisWrite).await {
                Ok(object) => return Ok(Written { object, warnings }),
                Err(Failure::Refused(status)) => return Err(status),
                Err(Failure::Lost) if has_version => {
                    return Err(Status::conflict(&resource.group, &resource.plural, name, MODIFIED));
                }
                Err(Failure::Lost) => {}
            }
        }
    }

    /// The Scale of a stored object.
    pub fn scale(&self, resource: &Resource, object: &Object) -> Result<Value, Status> {
        Ok(of(resource, &object.value().map_err(Status::internal)?))
    }
}
