//! The seam to `galley-kube`: which of its pure functions the pipeline calls at each stage.

use galley_kube::apply::Writer;
use galley_kube::schema::{self, Decoded};
use galley_kube::{FieldError, FieldValidation, Reason, Resource, Status, apply, crd, patch, validate};
use serde_json::Value;

use crate::api::{Body, PatchKind};
use crate::convert;
use crate::value::metadata;

/// Checks types, and drops fields that the resource's schema does not know: the warnings name them.
pub fn decode(resource: &Resource, body: Body, mode: FieldValidation) -> Result<Decoded, Status> {
    if resource.custom.is_none() {
        return decode_kind(&resource.api_version(), &resource.kind, body, mode);
    }
    match body {
        Body::Bytes(bytes) => crd::decode(resource, schema::Body::Bytes(&bytes), mode),
        Body::Value(value) => crd::decode(resource, schema::Body::Value(value), mode),
    }
}

/// As [`decode`], for the kind of a subresource: `autoscaling/v1`, `Scale`.
pub fn decode_kind(api_version: &str, kind: &str, body: Body, mode: FieldValidation) -> Result<Decoded, Status> {
    let Some(ty) = schema::kind(api_version, kind) else {
        return Err(Status::internal(format!("no schema for {api_version} {kind}")));
    };
    match body {
        Body::Bytes(bytes) => schema::decode(ty, api_version, kind, schema::Body::Bytes(&bytes), mode),
        Body::Value(value) => schema::decode(ty, api_version, kind, schema::Body::Value(value), mode),
    }
}

/// Fills in defaults.
pub fn default(resource: &Resource, object: &mut Value) {
    galley_kube::defaults::apply(resource, object);
}

/// What is wrong with an object about to be created.
pub fn validate_create(resource: &Resource, object: &Value) -> Vec<FieldError> {
    validate::create(resource, object)
}

/// What is wrong with an update.
pub fn validate_update(resource: &Resource, subresource: Option<&str>, new: &Value, old: &Value) -> Vec<FieldError> {
    validate::update(resource, subresource, new, old)
}

/// Applies a JSON, merge or strategic merge patch. Custom resources have no strategic one.
pub fn patch(
    api_version: &str,
    kind: &str,
    patch_kind: PatchKind,
    target: &Value,
    patch: &Value,
) -> Result<Value, Status> {
    match patch_kind {
        PatchKind::Json => patch::json(target.clone(), patch),
        PatchKind::Merge | PatchKind::Apply => {
            let mut target = target.clone();
            patch::merge(&mut target, patch);
            Ok(target)
        }
        PatchKind::Strategic => match schema::kind(api_version, kind) {
            Some(ty) => patch::strategic(target.clone(), patch.clone(), ty),
            None => Err(Status::new(
                415,
                Reason::UnsupportedMediaType,
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            )),
        },
    }
}

/// Server-side apply in the version that `resource` serves: the merged object with its managedFields, or the conflicts.
pub fn apply(
    resource: &Resource,
    live: Option<&Value>,
    applied: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, Status> {
    apply::apply(resource, live, applied, writer, force)
}

/// Rewrites `metadata.managedFields` of `new` for a create or update. Both are in the storage version; fields are named as
/// the version that was written to names them.
pub fn manage_fields(resource: &Resource, old: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    if resource.is_storage_version() {
        return apply::update(resource, old, new, writer);
    }
    let shown = |value: &Value| {
        let mut value = value.clone();
        convert::from_storage(resource, &mut value);
        value
    };
    let mut written = shown(new);
    apply::update(resource, old.map(shown).as_ref(), &mut written, writer);
    if let Some(fields) = written.pointer("/metadata/managedFields") {
        metadata(new).insert("managedFields".into(), fields.clone());
    }
}
