//! The OpenAPI documents of the Kubernetes API: what `kubectl explain`, `kubectl apply` and client generators read.
//!
//! Built-in types are the same in every cluster, so their definitions and documents exist once in the process. Custom
//! kinds are merged in when a cluster that has some is asked; nothing of that is kept for a cluster at rest.

mod facts;
mod gnostic;
mod kinds;
mod paths;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use galley_kube::Resource;
use galley_kube::openapi::{CustomKind, OpenApiDocs};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Documents for the built-in resources.
pub struct Documents {
    resources: Vec<Arc<Resource>>,
    definitions: Map<String, Value>,
    /// Kind to definition name, by `group/version/Kind`.
    names: BTreeMap<String, String>,
    v2: OnceLock<Bytes>,
    v2_protobuf: OnceLock<Bytes>,
    v3: Mutex<BTreeMap<String, Bytes>>,
}

impl std::fmt::Debug for Documents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Documents").field("definitions", &self.definitions.len()).finish_non_exhaustive()
    }
}

impl Documents {
    /// Documents for the resources of every cluster.
    pub fn builtin() -> Self {
        let resources: Vec<Arc<Resource>> = galley_kube::resource::builtin().iter().cloned().collect();
        let mut definitions = kinds::definitions();
        facts::annotate(&mut definitions);
        let names = facts::names();
        for resource in &resources {
            if let Some(name) = names.get(&gvk(resource)) {
                definitions.insert(format!("{name}List"), list_definition(resource, name));
            }
        }
        Self { resources, definitions, names, v2: OnceLock::new(), v2_protobuf: OnceLock::new(), v3: Mutex::default() }
    }

    fn name_of(&self, resource: &Resource) -> Option<String> {
        self.names.get(&gvk(resource)).cloned()
    }

    fn build_v3(&self, group_version: &str, custom: &[CustomKind<'_>]) -> Option<Value> {
        let served = |r: &Resource| r.api_version() == group_version;
        let mut all: Vec<(&Resource, String)> =
            self.resources.iter().filter(|r| served(r)).filter_map(|r| Some((r.as_ref(), self.name_of(r)?))).collect();
        let mut extra = Map::new();
        for kind in custom.iter().filter(|k| served(k.resource)) {
            let name = custom_name(kind.resource);
            extra.insert(name.clone(), custom_definition(kind));
            extra.insert(format!("{name}List"), list_definition(kind.resource, &name));
            all.push((kind.resource, name));
        }
        if all.is_empty() {
            return None;
        }
        let mut paths = Map::new();
        let mut wanted = BTreeSet::new();
        for (resource, name) in &all {
            paths::add(&mut paths, resource, name);
            wanted.insert(name.clone());
            wanted.insert(format!("{name}List"));
        }
        for helper in ["DeleteOptions", "Status", "APIResourceList"] {
            wanted.insert(format!("{META}.{helper}"));
        }
        wanted.extend(paths::SUBRESOURCE_KINDS.iter().map(|(_, name)| (*name).to_owned()));
        let schemas = self.closure(wanted, &extra);
        Some(json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": "v1.36.0"},
            "paths": paths,
            "components": {"schemas": schemas},
        }))
    }

    /// The wanted definitions and all that they refer to.
    fn closure(&self, wanted: BTreeSet<String>, extra: &Map<String, Value>) -> Map<String, Value> {
        let mut todo: Vec<String> = wanted.into_iter().collect();
        let mut found = Map::new();
        while let Some(name) = todo.pop() {
            if found.contains_key(&name) {
                continue;
            }
            let Some(definition) = extra.get(&name).or_else(|| self.definitions.get(&name)) else { continue };
            references(definition, &mut todo);
            found.insert(name, definition.clone());
        }
        found
    }

    fn build_v2(&self, custom: &[CustomKind<'_>]) -> Value {
        let mut paths = Map::new();
        let mut definitions = self.definitions.clone();
        for resource in &self.resources {
            if let Some(name) = self.name_of(resource) {
                paths::add(&mut paths, resource, &name);
            }
        }
        for kind in custom {
            let name = custom_name(kind.resource);
            paths::add(&mut paths, kind.resource, &name);
            definitions.insert(name.clone(), custom_definition(kind));
            definitions.insert(format!("{name}List"), list_definition(kind.resource, &name));
        }
        let mut definitions = Value::Object(definitions);
        facts::downgrade(&mut definitions);
        json!({
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": "v1.36.0"},
            "paths": paths::downgrade(paths),
            "definitions": definitions,
        })
    }

    fn builtin_v3(&self, group_version: &str) -> Option<Bytes> {
        let mut kept = self.v3.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(document) = kept.get(group_version) {
            return Some(document.clone());
        }
        let document = encode(&self.build_v3(group_version, &[])?);
        kept.insert(group_version.to_owned(), document.clone());
        Some(document)
    }
}

impl OpenApiDocs for Documents {
    fn v2(&self, custom: &[CustomKind<'_>]) -> Bytes {
        if custom.is_empty() {
            return self.v2.get_or_init(|| encode(&self.build_v2(&[]))).clone();
        }
        encode(&self.build_v2(custom))
    }

    fn v2_protobuf(&self, custom: &[CustomKind<'_>]) -> Bytes {
        if custom.is_empty() {
            return self.v2_protobuf.get_or_init(|| gnostic::encode(&self.build_v2(&[])).into()).clone();
        }
        gnostic::encode(&self.build_v2(custom)).into()
    }

    fn v3_index(&self, custom: &[CustomKind<'_>]) -> Bytes {
        let mut versions: BTreeSet<String> = self.resources.iter().map(|r| r.api_version()).collect();
        versions.extend(custom.iter().map(|k| k.resource.api_version()));
        let mut paths = Map::new();
        for version in versions {
            let root = if version.contains('/') { "apis" } else { "api" };
            // Clients cache by this hash: it must change when, and only when, the document does.
            let hash = match custom.iter().any(|k| k.resource.api_version() == version) {
                true => self.v3(&version, custom),
                false => None,
            }
            .map_or_else(|| concat!(env!("CARGO_PKG_VERSION"), "-builtin").to_owned(), |d| hash(&d));
            let url = format!("/openapi/v3/{root}/{version}?hash={hash}");
            paths.insert(format!("{root}/{version}"), json!({"serverRelativeURL": url}));
        }
        encode(&json!({"paths": paths}))
    }

    fn v3(&self, group_version: &str, custom: &[CustomKind<'_>]) -> Option<Bytes> {
        if custom.iter().any(|k| k.resource.api_version() == group_version) {
            return self.build_v3(group_version, custom).map(|d| encode(&d));
        }
        self.builtin_v3(group_version)
    }
}

pub(crate) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

fn gvk(resource: &Resource) -> String {
    format!("{}/{}", resource.api_version(), resource.kind)
}

fn encode(value: &Value) -> Bytes {
    value.to_string().into()
}

fn hash(document: &[u8]) -> String {
    Sha256::digest(document).iter().take(16).map(|byte| format!("{byte:02X}")).collect()
}

fn references(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|r| r.rsplit_once('/')) {
                into.push(name.1.to_owned());
            }
            map.values().for_each(|v| references(v, into));
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, into)),
        _ => {}
    }
}

/// `dev.galley.v1.NodeGroup` for `galley.dev/v1`.
fn custom_name(resource: &Resource) -> String {
    let mut parts: Vec<&str> = resource.group.split('.').rev().collect();
    parts.push(&resource.version);
    parts.push(&resource.kind);
    parts.join(".")
}

fn reference(name: &str) -> Value {
    json!({"allOf": [{"$ref": format!("#/components/schemas/{name}")}]})
}

fn group_version_kind(resource: &Resource, kind: &str) -> Value {
    json!([{"group": resource.group, "version": resource.version, "kind": kind}])
}

fn custom_definition(kind: &CustomKind<'_>) -> Value {
    let mut definition = kind.schema.cloned().unwrap_or_else(|| json!({"type": "object"}));
    if definition["properties"].is_object() {
        let text = |description: &str| json!({"type": "string", "description": description});
        let properties = &mut definition["properties"];
        properties["apiVersion"] = text("The version of the API that this object is written in.");
        properties["kind"] = text("The kind of this object.");
        let mut metadata = reference(&format!("{META}.ObjectMeta"));
        metadata["description"] = json!("Standard object's metadata.");
        properties["metadata"] = metadata;
    }
    definition["x-kubernetes-group-version-kind"] = group_version_kind(kind.resource, &kind.resource.kind);
    definition
}

fn list_definition(resource: &Resource, name: &str) -> Value {
    let list = format!("{}List", resource.kind);
    json!({
        "description": format!("{list} is a list of {}.", resource.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": "The version of the API that this list is written in."},
            "kind": {"type": "string", "description": "The kind of this list."},
            "items": {"type": "array", "items": reference(name), "description": "The objects."},
            "metadata": reference(&format!("{META}.ListMeta")),
        },
        "x-kubernetes-group-version-kind": group_version_kind(resource, &list),
    })
}

#[cfg(test)]
mod tests;
