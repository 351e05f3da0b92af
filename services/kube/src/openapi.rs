//! What the API server needs of OpenAPI documents, without building them: the documents (with descriptions of every field)
//! live in a crate of their own, because they are large to compile and exist once for all clusters.

use bytes::Bytes;
use serde_json::Value;

use crate::resource::Resource;

/// A custom resource and the schema that its CRD gives this version.
#[derive(Debug, Clone, Copy)]
pub struct CustomKind<'a> {
    /// The served version.
    pub resource: &'a Resource,
    /// `openAPIV3Schema`.
    pub schema: Option<&'a Value>,
}

/// The documents under `/openapi`. `custom` are the CRDs of the cluster that is asked.
pub trait OpenApiDocs: Send + Sync {
    /// `/openapi/v2`, as JSON.
    fn v2(&self, custom: &[CustomKind<'_>]) -> Bytes;
    /// `/openapi/v2`, as gnostic's protobuf.
    fn v2_protobuf(&self, custom: &[CustomKind<'_>]) -> Bytes;
    /// `/openapi/v3`: where the document of each group version is.
    fn v3_index(&self, custom: &[CustomKind<'_>]) -> Bytes;
    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/apps/v1`: the document of `v1`, `apps/v1`.
    fn v3(&self, group_version: &str, custom: &[CustomKind<'_>]) -> Option<Bytes>;
}
