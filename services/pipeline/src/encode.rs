//! From a JSON tree to what the store keeps: the encoded halves around the resourceVersion, labels, selectable fields.
//!
//! The writer assigns the revision at commit, so the JSON is cut at the place where its digits go. `metadata` is written
//! with `resourceVersion` last, its value left open.

use std::sync::Arc;

use bytes::Bytes;
use galley_kube::{Resource, Status};
use galley_store::{Draft, Labels, Object, ObjectKey};
use galley_types::Revision;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::fields;
use crate::members::Members;
use crate::value::at;

/// What the store needs to commit `value`.
pub fn draft(resource: &Resource, key: ObjectKey, value: &Value) -> Result<Draft, Status> {
    let (head, tail) = halves(value)?;
    Ok(Draft {
        uid: Arc::from(crate::value::text(value, "/metadata/uid")),
        labels: labels(value),
        fields: fields::of(resource, value),
        key,
        head,
        tail,
    })
}

/// An object that is not stored: what a dry run would have written. `resourceVersion` stays as the body has it.
pub fn unstored(resource: &Resource, key: ObjectKey, value: &Value) -> Result<Object, Status> {
    let body = serde_json::to_vec(value).map_err(Status::internal)?;
    let revision = crate::value::text(value, "/metadata/resourceVersion").parse().unwrap_or_default();
    Ok(Object::load(
        key.clone(),
        Arc::from(crate::value::text(value, "/metadata/uid")),
        Revision(revision),
        labels(value),
        fields::of(resource, value),
        body.into(),
    ))
}

/// `metadata.labels`.
pub fn labels(value: &Value) -> Labels {
    let Some(Value::Object(labels)) = at(value, "/metadata/labels") else { return Labels::new() };
    labels.iter().filter_map(|(key, value)| Some((key, value.as_str()?))).collect()
}

fn halves(value: &Value) -> Result<(Bytes, Bytes), Status> {
    let empty = Map::new();
    let root = value.as_object().unwrap_or(&empty);
    let metadata = root.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    cut(
        root.iter().map(|(key, value)| (key.as_str(), value)),
        metadata.iter().map(|(key, value)| (key.as_str(), value)),
    )
}

/// A member of a body: as a tree, or as the text that it is.
#[derive(Clone, Copy)]
enum Member<'a> {
    Tree(&'a Value),
    Text(&'a RawValue),
}

impl Serialize for Member<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Tree(value) => value.serialize(serializer),
            Self::Text(text) => text.serialize(serializer),
        }
    }
}

/// The halves of a body that has no `managedFields` yet, with these.
pub fn halves_managed(value: &Value, managed: &RawValue) -> Result<(Bytes, Bytes), Status> {
    let empty = Map::new();
    let root = value.as_object().unwrap_or(&empty);
    let metadata = root.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let tree = |(key, value)| (String::as_str(key), Member::Tree(value));
    let managed = std::iter::once(("managedFields", Member::Text(managed)));
    cut(root.iter().map(tree), metadata.iter().map(tree).chain(managed))
}

/// The halves of a body whose members are texts.
pub fn halves_of(root: &Members<'_>) -> Result<(Bytes, Bytes), Status> {
    let metadata = root.members("metadata")?;
    halves_with(root, &metadata)
}

/// As [`halves_of`], with other metadata than the body's.
pub fn halves_with(root: &Members<'_>, metadata: &Members<'_>) -> Result<(Bytes, Bytes), Status> {
    cut(root.iter(), metadata.iter())
}

/// Puts a body together, cut where the resourceVersion's digits go. Members come ordered by name.
fn cut<'a, V: Serialize + 'a>(
    root: impl Iterator<Item = (&'a str, V)> + Clone,
    metadata: impl Iterator<Item = (&'a str, V)> + Clone,
) -> Result<(Bytes, Bytes), Status> {
    let mut out = Vec::with_capacity(2048);
    out.push(b'{');
    // apiVersion and kind lead, so that a reader of raw bytes knows early what follows.
    for (key, value) in root.clone().filter(|(key, _)| matches!(*key, "apiVersion" | "kind")) {
        member(&mut out, key, &value)?;
    }
    separator(&mut out);
    out.extend_from_slice(b"\"metadata\":{");
    let fields = |(key, _): &(&str, V)| *key == "managedFields";
    for (key, value) in metadata.clone().filter(|member| member.0 != "resourceVersion" && !fields(member)) {
        member(&mut out, key, &value)?;
    }
    // Last but one: whoever decodes without them knows where they end.
    for (key, value) in metadata.filter(fields) {
        member(&mut out, key, &value)?;
    }
    separator(&mut out);
    out.extend_from_slice(b"\"resourceVersion\":\"");
    let mut tail = Vec::with_capacity(2048);
    tail.extend_from_slice(b"\"}");
    for (key, value) in root.filter(|(key, _)| !matches!(*key, "apiVersion" | "kind" | "metadata")) {
        member(&mut tail, key, &value)?;
    }
    tail.push(b'}');
    Ok((out.into(), tail.into()))
}

fn separator(out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
}

fn member(out: &mut Vec<u8>, key: &str, value: &impl Serialize) -> Result<(), Status> {
    separator(out);
    serde_json::to_writer(&mut *out, key).map_err(Status::internal)?;
    out.push(b':');
    serde_json::to_writer(&mut *out, value).map_err(Status::internal)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_committed_draft_is_the_value_with_its_revision() {
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "\"}"}, "immutable": true,
            "metadata": {"name": "x", "namespace": "y", "uid": "u", "labels": {"l": "v"}, "resourceVersion": "3"}});
        let maps = crate::testing::resource("", "configmaps");
        let key = ObjectKey::new(&maps.name(), "y", "x");
        let object = Object::commit(draft(&maps, key, &value).unwrap(), Revision(77));
        let mut expected = value;
        expected["metadata"]["resourceVersion"] = json!("77");
        assert_eq!(object.value().unwrap(), expected);
        assert_eq!(object.labels.get("l"), Some("v"));
        assert_eq!(&*object.uid, "u");
    }

    #[test]
    fn a_body_with_nothing_but_metadata_encodes() {
        let maps = crate::testing::resource("", "configmaps");
        let key = ObjectKey::new(&maps.name(), "y", "x");
        let object = Object::commit(draft(&maps, key, &json!({})).unwrap(), Revision(1));
        assert_eq!(object.value().unwrap(), json!({"metadata": {"resourceVersion": "1"}}));
    }
}
