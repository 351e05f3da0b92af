//! Between rows and objects: labels and fields as one text, Secrets' bodies through the cluster's data key.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use galley_types::{ClusterId, ResourceName, Revision};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::backend::{BackendError, ChangeRow, ObjectRow};
use crate::cache;
use crate::crypto::{DataKey, KeyError};
use crate::error::StoreError;
use crate::object::{Fields, Labels, Object, ObjectKey};
use crate::watch::{Event, EventKind};

#[derive(Serialize)]
struct MetaRef<'a> {
    #[serde(rename = "l", skip_serializing_if = "Labels::is_empty")]
    labels: &'a Labels,
    #[serde(rename = "f", skip_serializing_if = "Fields::is_empty")]
    fields: &'a Fields,
}

#[derive(Deserialize, Default)]
struct Meta {
    #[serde(rename = "l", default)]
    labels: Labels,
    #[serde(rename = "f", default)]
    fields: Fields,
}

pub(crate) fn encode_meta(object: &Object) -> Arc<str> {
    if object.labels.is_empty() && object.fields.is_empty() {
        return "".into();
    }
    let meta = MetaRef { labels: &object.labels, fields: &object.fields };
    serde_json::to_string(&meta).expect("maps of strings encode").into()
}

fn decode_meta(text: &str) -> Result<Meta, serde_json::Error> {
    if text.is_empty() { Ok(Meta::default()) } else { serde_json::from_str(text) }
}

/// Resources whose bodies are encrypted at rest.
pub(crate) fn is_sealed(resource: &ResourceName) -> bool {
    resource.as_str() == "secrets"
}

/// Resources that renew so often that their changes are not worth logging: node heartbeats and leader elections. A watch of
/// them resumes from memory only; older revisions are answered 410, and the client lists the few Leases again. This halves
/// what a heartbeat costs Postgres, and keeps the log of a quiet fleet small.
pub(crate) fn is_logged(resource: &ResourceName) -> bool {
    !matches!(resource.as_str(), "leases.coordination.k8s.io" | cache::EVERYTHING)
}

/// Resources that go after a time to live.
pub(crate) fn is_event(resource: &ResourceName) -> bool {
    matches!(resource.as_str(), "events" | "events.events.k8s.io")
}

pub(crate) fn seal(key: &DataKey, object: &Object) -> Result<Bytes, KeyError> {
    if is_sealed(&object.key.resource) { key.seal_object(&object.key, &object.body) } else { Ok(object.body.clone()) }
}

fn unseal(key: &DataKey, place: &ObjectKey, body: Bytes) -> Result<Bytes, KeyError> {
    if is_sealed(&place.resource) { key.open_object(place, &body) } else { Ok(body) }
}

fn restore(
    cluster: ClusterId,
    data_key: &DataKey,
    key: ObjectKey,
    uid: Arc<str>,
    revision: Revision,
    meta: &str,
    body: Bytes,
    revision_at: u32,
    written: Timestamp,
) -> Result<Object, StoreError> {
    let meta = decode_meta(meta).map_err(|_| BackendError::Corrupt { what: "labels", cluster })?;
    let body = unseal(data_key, &key, body)?;
    if revision_at as usize >= body.len() {
        return Err(BackendError::Corrupt { what: "body", cluster }.into());
    }
    Ok(Object::restore(key, uid, revision, meta.labels, meta.fields, body, revision_at, written))
}

pub(crate) fn object_from(cluster: ClusterId, key: &DataKey, row: ObjectRow) -> Result<Object, StoreError> {
    restore(cluster, key, row.key, row.uid, row.revision, &row.meta, row.body, row.revision_at, row.at)
}

/// The event that a logged change was.
pub(crate) fn event_from(key: &DataKey, row: ChangeRow) -> Result<Event, StoreError> {
    let cluster = row.cluster;
    let corrupt = || BackendError::Corrupt { what: "change", cluster };
    // When it was written matters for times to live, which `objects` keeps.
    let written = Timestamp::UNIX_EPOCH;
    let previous = match row.previous {
        None => None,
        Some(previous) => {
            let body = previous.body.ok_or_else(corrupt)?;
            let (place, uid) = (row.key.clone(), row.uid.clone());
            let object = restore(
                cluster,
                key,
                place,
                uid,
                previous.revision,
                &previous.meta,
                body,
                previous.revision_at,
                written,
            )?;
            Some(Arc::new(object))
        }
    };
    let object = match (row.kind, &previous) {
        (EventKind::Deleted, Some(last)) => last.deleted_by(row.revision, written),
        (EventKind::Deleted, None) => return Err(corrupt().into()),
        (EventKind::Added | EventKind::Modified, _) => {
            let body = row.body.ok_or_else(corrupt)?;
            restore(cluster, key, row.key, row.uid, row.revision, &row.meta, body, row.revision_at, written)?
        }
    };
    Ok(Event { kind: row.kind, object: Arc::new(object), previous, line: OnceLock::new() })
}
