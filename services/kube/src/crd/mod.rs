//! Custom resources: what a CustomResourceDefinition makes of the API.
//!
//! A definition's versions become [`Resource`]s like the built-in ones, with the schema beside them that decoding, defaults,
//! validation, patches and server-side apply walk instead of the built-in types. (Kubernetes' "Custom Resources",
//! "structural schemas".) CEL rules (`x-kubernetes-validations`) and conversion webhooks are not evaluated yet.

mod decode;
mod default;
mod schema;
mod validate;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::Resource;
use crate::resource::{Subresource, version_rank};
use crate::table::PrinterColumn;

pub use decode::decode;
pub use default::apply_defaults;
pub use schema::Schema;
pub(crate) use validate::validate;

/// One version of a custom resource, beyond its names.
#[derive(Debug)]
pub struct Version {
    /// What objects are.
    pub schema: Schema,
    /// What `kubectl get` shows.
    pub columns: Vec<PrinterColumn>,
    /// Where the Scale subresource's fields are.
    pub scale: Option<ScalePaths>,
    /// JSONPaths of `selectableFields`: `.spec.color`.
    pub selectable_fields: Vec<String>,
    /// `spec.versions[]`, of which all this is read: two are equal when these are.
    source: Value,
}

impl Version {
    /// `spec.versions[]`: for OpenAPI, which publishes the schema as it was written.
    pub fn source(&self) -> &Value {
        &self.source
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Version {}

/// JSON pointers of what a Scale shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    /// `/spec/replicas`.
    pub spec_replicas: String,
    /// `/status/replicas`.
    pub status_replicas: String,
    /// `/status/selector`.
    pub label_selector: Option<String>,
}

impl ScalePaths {
    fn parse(scale: &Value) -> Option<Self> {
        let pointer = |field: &str| scale.get(field).and_then(Value::as_str).map(|path| path.replace('.', "/"));
        Some(Self {
            spec_replicas: pointer("specReplicasPath")?,
            status_replicas: pointer("statusReplicasPath")?,
            label_selector: pointer("labelSelectorPath"),
        })
    }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn verbs(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("").to_owned()
}

/// The resources that a definition's served versions make, the most stable version first.
pub fn resources(definition: &Value) -> Vec<Arc<Resource>> {
    let versions = definition["spec"]["versions"].as_array().map_or(&[][..], Vec::as_slice);
    let storage = versions.iter().find(|v| v["storage"] == true).map(|v| text(&v["name"])).unwrap_or_default();
    let mut resources: Vec<Resource> = versions
        .iter()
        .filter(|version| version["served"] == true)
        .map(|version| resource(&definition["spec"], version, &storage))
        .collect();
    resources.sort_by_key(|r| std::cmp::Reverse(version_rank(&r.version)));
    resources.into_iter().map(Arc::new).collect()
}

fn resource(spec: &Value, version: &Value, storage: &str) -> Resource {
    let names = &spec["names"];
    let kind = text(&names["kind"]);
    let singular = text(&names["singular"]);
    let scale = ScalePaths::parse(&version["subresources"]["scale"]);
    let part = |name: &str, kind: &str, group_version| Subresource {
        name: name.into(),
        kind: kind.into(),
        group_version,
        verbs: verbs(&["get", "patch", "update"]),
    };
    let mut subresources = Vec::new();
    if scale.is_some() {
        subresources.push(part("scale", "Scale", Some(("autoscaling".to_owned(), "v1".to_owned()))));
    }
    if version["subresources"]["status"].is_object() {
        subresources.push(part("status", &kind, None));
    }
    Resource {
        group: text(&spec["group"]),
        version: text(&version["name"]),
        singular: if singular.is_empty() { kind.to_lowercase() } else { singular },
        kind,
        plural: text(&names["plural"]),
        namespaced: spec["scope"] == "Namespaced",
        verbs: verbs(&["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"]),
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        subresources,
        storage_version: storage.to_owned(),
        custom: Some(Arc::new(Version {
            schema: Schema::parse(&version["schema"]["openAPIV3Schema"]),
            columns: PrinterColumn::of_version(version),
            scale,
            selectable_fields: version["selectableFields"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|field| text(&field["jsonPath"]))
                .collect(),
            source: version.clone(),
        })),
    }
}

/// Fills in the `status` that says a definition is accepted and served.
pub fn establish(definition: &mut Value, now: jiff::Timestamp) {
    let spec = definition["spec"].clone();
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message});
    let mut stored = texts(&definition["status"]["storedVersions"]);
    for version in spec["versions"].as_array().into_iter().flatten().filter(|v| v["storage"] == true) {
        let name = text(&version["name"]);
        if !stored.contains(&name) {
            stored.push(name);
        }
    }
    let conditions = match &definition["status"]["conditions"] {
        Value::Array(conditions) if !conditions.is_empty() => conditions.clone(),
        _ => vec![
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
    };
    definition["status"] = json!({"conditions": conditions, "acceptedNames": spec["names"], "storedVersions": stored});
}

#[cfg(test)]
mod tests;
