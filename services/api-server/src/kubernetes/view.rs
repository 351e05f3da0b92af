//! Objects in the form that the client asked for.

use bytes::Bytes;
use galley_kube::table::{self, IncludeObject, PrinterColumn};
use galley_kube::{Resource, Status};
use galley_pipeline::ClusterApi;
use galley_store::{Object, ObjectKey};
use galley_types::ResourceName;
use serde_json::{Value, json};

use super::negotiate::View;

/// Columns of a custom resource's version, from its CRD.
pub fn custom_columns(api: &ClusterApi, resource: &Resource) -> Option<Vec<PrinterColumn>> {
    if galley_kube::resource::builtin().find(&resource.group, &resource.version, &resource.plural).is_some() {
        return None;
    }
    let name = format!("{}.{}", resource.plural, resource.group);
    let key = ObjectKey::new(&ResourceName::new("customresourcedefinitions", "apiextensions.k8s.io"), "", &name);
    let crd = api.store().get(&key)?.value().ok()?;
    let versions = crd.pointer("/spec/versions")?.as_array()?;
    let version = versions.iter().find(|version| version["name"] == resource.version.as_str())?;
    Some(PrinterColumn::of_version(version))
}

/// `PartialObjectMetadata` of an object.
pub fn metadata_of(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// One object, encoded.
pub fn one(api: &ClusterApi, resource: &Resource, object: &Object, view: View) -> Result<Bytes, Status> {
    match view {
        View::Object => api.encode(object, resource),
        View::Metadata => encode(&metadata_of(&api.decode(object, resource)?)),
        View::Table(include) => {
            let value = api.decode(object, resource)?;
            let metadata = json!({"resourceVersion": object.revision.to_string()});
            encode(&table_of(api, resource, &[&value], include, metadata, true))
        }
    }
}

/// A Table of objects.
pub fn table_of(
    api: &ClusterApi,
    resource: &Resource,
    objects: &[&Value],
    include: IncludeObject,
    metadata: Value,
    with_columns: bool,
) -> Value {
    let custom = custom_columns(api, resource);
    table::render(resource, custom.as_deref(), objects, include, metadata, with_columns, api.clock().now())
}

/// A tree as bytes.
pub fn encode(value: &Value) -> Result<Bytes, Status> {
    serde_json::to_vec(value).map(Bytes::from).map_err(Status::internal)
}
