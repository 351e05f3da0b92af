//! An object as the store keeps it: its encoded JSON, beside the few fields that selectors need.
//!
//! The bytes are spliced into lists and watch events without being decoded, so `metadata.resourceVersion` must already be
//! in them. The writer learns the revision only at commit: a [`Draft`] therefore carries the JSON in two halves, around the
//! place where the revision's digits go.

use std::any::Any;
use std::borrow::Cow;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use galley_types::{Pairs, ResourceName, Revision};
use jiff::Timestamp;
use memchr::memmem;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use crate::views;

/// Labels of an object.
pub type Labels = Pairs;
/// Selectable fields beside name and namespace, by path: `spec.nodeName`, `status.phase`.
pub type Fields = Pairs;

/// Which object: resource, namespace (empty for cluster-scoped ones), name. Ordered as lists are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// `pods`, `deployments.apps`.
    pub resource: ResourceName,
    /// Empty for cluster-scoped resources.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// A key from its parts.
    pub fn new(resource: &ResourceName, namespace: &str, name: &str) -> Self {
        Self { resource: resource.clone(), namespace: namespace.into(), name: name.into() }
    }
}

/// An object about to be written. `head ++ revision digits ++ tail` is the JSON.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Where it goes.
    pub key: ObjectKey,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// Selectable fields.
    pub fields: Fields,
    /// JSON up to and including the quote that opens the value of `metadata.resourceVersion`.
    pub head: Bytes,
    /// JSON from the quote that closes it.
    pub tail: Bytes,
}

/// A committed version of an object. Immutable; shared by every list, watch and controller that sees it.
pub struct Object {
    /// Where it is.
    pub key: ObjectKey,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// The revision that wrote this version: `metadata.resourceVersion`.
    pub revision: Revision,
    /// `metadata.labels`.
    pub labels: Labels,
    /// Selectable fields.
    pub fields: Fields,
    /// The whole object as JSON in its storage version, `resourceVersion` included.
    pub body: Bytes,
    /// Where the digits of `metadata.resourceVersion` start in `body`: a deletion puts its own revision there.
    revision_at: u32,
    /// When this version was committed: what times to live count from, in `objects` and in event logs.
    written: Timestamp,
    /// The last decoded view, while it is held somewhere.
    view: Mutex<Weak<dyn Any + Send + Sync>>,
}

/// A stored object that does not decode as the type asked for.
#[derive(Debug, thiserror::Error)]
#[error("stored object {key:?} does not decode as {wanted}")]
pub struct DecodeError {
    /// The object.
    pub key: ObjectKey,
    /// The Rust type.
    pub wanted: &'static str,
    /// Why.
    #[source]
    pub source: serde_json::Error,
}

impl Object {
    /// The version of `draft` that `revision` commits.
    pub fn commit(draft: Draft, revision: Revision) -> Self {
        Self::commit_at(draft, revision, Timestamp::UNIX_EPOCH)
    }

    pub(crate) fn commit_at(draft: Draft, revision: Revision, written: Timestamp) -> Self {
        let body = splice(&draft.head, revision, &draft.tail);
        let revision_at = offset(draft.head.len());
        Self::restore(draft.key, draft.uid, revision, draft.labels, draft.fields, body, revision_at, written)
    }

    /// An object whose encoded form is at hand. The place of its resourceVersion is looked for in `body`.
    pub fn load(
        key: ObjectKey,
        uid: Arc<str>,
        revision: Revision,
        labels: Labels,
        fields: Fields,
        body: Bytes,
    ) -> Self {
        let pattern = format!("\"resourceVersion\":\"{revision}\"");
        let found = body.windows(pattern.len()).position(|window| window == pattern.as_bytes());
        let revision_at = offset(found.map_or(0, |at| at + "\"resourceVersion\":\"".len()));
        Self::restore(key, uid, revision, labels, fields, body, revision_at, Timestamp::UNIX_EPOCH)
    }

    pub(crate) fn restore(
        key: ObjectKey,
        uid: Arc<str>,
        revision: Revision,
        labels: Labels,
        fields: Fields,
        body: Bytes,
        revision_at: u32,
        written: Timestamp,
    ) -> Self {
        let view: Weak<()> = Weak::new();
        Self { key, uid, revision, labels, fields, body, revision_at, written, view: Mutex::new(view) }
    }

    pub(crate) fn revision_at(&self) -> u32 {
        self.revision_at
    }

    pub(crate) fn written(&self) -> Timestamp {
        self.written
    }

    /// The last state of an object that `revision` deletes: the same bytes, with the deletion's resourceVersion.
    pub(crate) fn deleted_by(&self, revision: Revision, written: Timestamp) -> Self {
        let at = self.revision_at as usize;
        let body = if at == 0 {
            self.body.clone()
        } else {
            let digits = self.body[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            splice(&self.body[..at], revision, &self.body[at + digits..])
        };
        Self::restore(
            self.key.clone(),
            self.uid.clone(),
            revision,
            self.labels.clone(),
            self.fields.clone(),
            body,
            self.revision_at,
            written,
        )
    }

    /// About how much memory this version takes, in bytes.
    pub(crate) fn footprint(&self) -> usize {
        // The struct, its reference counts, its slot in the ordered map and the allocator's rounding.
        const FIXED: usize = 400;
        FIXED + self.body.len() + self.labels.footprint() + self.fields.footprint()
    }

    /// The object decoded as `T` (a `k8s-openapi` type), without `metadata.managedFields`: nobody who reads objects so asks for
    /// them, and they are a third of most. What is read again soon is decoded once (see [`views`]).
    pub fn typed<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<Arc<T>, DecodeError> {
        let held = self.view.lock().upgrade();
        let is_other = held.is_some();
        if let Some(view) = held.and_then(|held| held.downcast::<T>().ok()) {
            return Ok(view);
        }
        let read = self.without_managed_fields();
        let decoded: Arc<T> = Arc::new(serde_json::from_slice(&read).map_err(|source| DecodeError {
            key: self.key.clone(),
            wanted: std::any::type_name::<T>(),
            source,
        })?);
        // Whoever looks at it as another type now and then does not take it from those who work with it.
        if !is_other {
            let view: views::View = decoded.clone();
            *self.view.lock() = Arc::downgrade(&view);
            views::hold(view, read.len());
        }
        Ok(decoded)
    }

    /// The body, without `managedFields` where they are as the pipeline writes them: right before the resourceVersion.
    fn without_managed_fields(&self) -> Cow<'_, [u8]> {
        const KEY: &[u8] = b",\"managedFields\":[";
        const NEXT: &[u8] = b",\"resourceVersion\":\"";
        let at = self.revision_at as usize;
        let Some(end) = at.checked_sub(NEXT.len()).filter(|end| self.body[*end..at] == *NEXT) else {
            return Cow::Borrowed(&self.body);
        };
        // No text of JSON has unescaped quotes, and no other member of metadata has this name.
        match memmem::find(&self.body[..end], KEY) {
            Some(start) if self.body[end - 1] == b']' => {
                let mut rest = Vec::with_capacity(self.body.len() - (end - start));
                rest.extend_from_slice(&self.body[..start]);
                rest.extend_from_slice(&self.body[end..]);
                Cow::Owned(rest)
            }
            _ => Cow::Borrowed(&self.body),
        }
    }

    /// Whether a member of this name may be somewhere in the body: a cheap look before it is decoded.
    pub fn may_have(&self, member: &str) -> bool {
        memmem::find(&self.body, member.as_bytes()).is_some()
    }

    /// The body after the resourceVersion's digits: what is not metadata, in the pipeline's encoding.
    pub fn rest(&self) -> &[u8] {
        let rest = &self.body[self.revision_at as usize..];
        &rest[rest.iter().take_while(|byte| byte.is_ascii_digit()).count()..]
    }

    /// The object as a JSON tree.
    pub fn value(&self) -> Result<serde_json::Value, DecodeError> {
        serde_json::from_slice(&self.body).map_err(|source| DecodeError {
            key: self.key.clone(),
            wanted: "JSON",
            source,
        })
    }
}

fn splice(head: &[u8], revision: Revision, tail: &[u8]) -> Bytes {
    let digits = revision.to_string();
    let mut body = Vec::with_capacity(head.len() + digits.len() + tail.len());
    body.extend_from_slice(head);
    body.extend_from_slice(digits.as_bytes());
    body.extend_from_slice(tail);
    body.into()
}

/// Request bodies end at 3 MiB, so an offset fits.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(0)
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object").field("key", &self.key).field("revision", &self.revision).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(head: &'static str) -> Object {
        let key = ObjectKey::new(&"pods".into(), "n", "x");
        let (labels, fields) = (Labels::new(), Fields::new());
        let tail = r#""},"spec":{"a":1}}"#.into();
        Object::commit(Draft { key, uid: "u".into(), labels, fields, head: head.into(), tail }, Revision(12))
    }

    #[test]
    fn a_view_has_everything_but_managed_fields() {
        for (head, metadata) in [
            (
                r#"{"kind":"Pod","metadata":{"name":"x","managedFields":[{"manager":"m"},{"f":["]"]}],"resourceVersion":""#,
                json!({"name": "x", "resourceVersion": "12"}),
            ),
            // Where they are not where they are expected, they stay.
            (
                r#"{"kind":"Pod","metadata":{"managedFields":[{"manager":"m"}],"name":"x","resourceVersion":""#,
                json!({"name": "x", "managedFields": [{"manager": "m"}], "resourceVersion": "12"}),
            ),
            (
                r#"{"kind":"Pod","metadata":{"annotations":{"a":",\"managedFields\":["},"finalizers":["f"],"resourceVersion":""#,
                json!({"annotations": {"a": ",\"managedFields\":["}, "finalizers": ["f"], "resourceVersion": "12"}),
            ),
            (r#"{"kind":"Pod","metadata":{"resourceVersion":""#, json!({"resourceVersion": "12"})),
        ] {
            let seen = object(head).typed::<Value>().unwrap();
            assert_eq!(*seen, json!({"kind": "Pod", "metadata": metadata, "spec": {"a": 1}}), "{head}");
        }
    }

    #[test]
    fn an_object_is_decoded_once_for_those_who_look_at_it_together() {
        let object = object(r#"{"metadata":{"resourceVersion":""#);
        let (one, other) = (object.typed::<Value>().unwrap(), object.typed::<Value>().unwrap());
        assert!(Arc::ptr_eq(&one, &other));
        assert!(object.typed::<Vec<Value>>().is_err(), "another type is decoded anew");
    }
}
