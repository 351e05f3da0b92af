//! Objects in the form that the client asked for.

use bytes::Bytes;
use galley_kube::table::{self, IncludeObject};
use galley_kube::{Resource, Status};
use galley_pipeline::ClusterApi;
use galley_store::Object;
use serde_json::{Value, json};

use super::negotiate::View;

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
    let custom = resource.custom.as_ref().map(|custom| custom.columns.as_slice());
    table::render(resource, custom, objects, include, metadata, with_columns, api.clock().now())
}

/// A tree as bytes.
pub fn encode(value: &Value) -> Result<Bytes, Status> {
    serde_json::to_vec(value).map(Bytes::from).map_err(Status::internal)
}
