//! The seam to `galley-kube`: which of its pure functions the pipeline calls at each stage.

use std::sync::Arc;

use galley_kube::schema::{self, Decoded};
use galley_kube::{FieldError, FieldValidation, Reason, Resource, Status, patch, validate};
use jiff::Timestamp;
use serde_json::Value;

use crate::api::{Body, PatchKind};
use crate::value::text;

/// The resources that an established CRD serves.
pub fn custom_resources(_crd: &Value) -> Vec<Arc<Resource>> {
    Vec::new()
}

/// Checks types, and drops fields that the resource's schema does not know: the warnings name them.
pub fn decode(resource: &Resource, body: Body, mode: FieldValidation) -> Result<Decoded, Status> {
    decode_kind(&resource.api_version(), &resource.kind, body, mode)
}

/// As [`decode`], for the kind of a subresource: `autoscaling/v1`, `Scale`.
pub fn decode_kind(api_version: &str, kind: &str, body: Body, mode: FieldValidation) -> Result<Decoded, Status> {
    if let Some(ty) = schema::kind(api_version, kind) {
        let body = match &body {
            Body::Bytes(bytes) => schema::Body::Bytes(bytes),
            Body::Value(value) => schema::Body::Value(value.clone()),
        };
        return schema::decode(ty, api_version, kind, body, mode);
    }
    let value = match body {
        Body::Value(value) => value,
        Body::Bytes(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
            Status::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {error}"))
        })?,
    };
    let (said_version, said_kind) = (text(&value, "/apiVersion"), text(&value, "/kind"));
    if said_version != api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({said_version}) does not match the expected API version ({api_version})"
        )));
    }
    if said_kind != kind {
        return Err(Status::bad_request(format!(
            "the kind in the data ({said_kind}) does not match the expected kind ({kind})"
        )));
    }
    Ok(Decoded { value, warnings: Vec::new() })
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

/// Server-side apply: the merged object with its managedFields, or the conflicts.
pub fn apply(
    _resource: &Resource,
    live: Option<&Value>,
    applied: &Value,
    _manager: &str,
    _subresource: &str,
    _force: bool,
    _now: Timestamp,
) -> Result<Value, Status> {
    let mut target = live.cloned().unwrap_or_default();
    patch::merge(&mut target, applied);
    Ok(target)
}

/// Rewrites `metadata.managedFields` of `new` for a create or update.
pub fn manage_fields(
    _resource: &Resource,
    _old: Option<&Value>,
    _new: &mut Value,
    _manager: &str,
    _subresource: &str,
    _now: Timestamp,
) {
}
