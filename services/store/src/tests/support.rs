//! What the tests share.

use std::sync::Arc;

use galley_types::Revision;
use serde_json::json;

use crate::testing::{PATIENCE, TokioClock};
use crate::*;

pub fn clock() -> Arc<TokioClock> {
    Arc::new(TokioClock::default())
}

pub fn scope(resource: &str, namespace: Option<&str>) -> Scope {
    Scope { resource: resource.into(), namespace: namespace.map(Into::into) }
}

/// An object with a value to tell versions apart.
pub fn draft(resource: &str, namespace: &str, name: &str, value: &str) -> Draft {
    let object = json!({
        "metadata": {"name": name, "namespace": namespace, "uid": format!("uid-of-{name}"), "labels": {"value": value}},
        "data": {"value": value, "resourceVersion": "7"},
    });
    testing::draft(resource, &object, &[("spec.value", value)])
}

pub fn create(resource: &str, namespace: &str, name: &str, value: &str) -> Write {
    Write::Create(draft(resource, namespace, name, value))
}

pub fn update(resource: &str, namespace: &str, name: &str, value: &str, expected: Revision) -> Write {
    Write::Update { draft: draft(resource, namespace, name, value), expected }
}

pub fn delete(resource: &str, namespace: &str, name: &str, expected: Revision) -> Write {
    Write::Delete { key: ObjectKey::new(&resource.into(), namespace, name), expected }
}

/// `ADDED name=value@revision`.
pub fn tell(event: &Event) -> String {
    let object = &event.object;
    format!("{:?} {}={}@{}", event.kind, object.key.name, value_of(object), object.revision)
}

pub fn value_of(object: &Object) -> String {
    let value = object.value().expect("JSON");
    assert_eq!(value["metadata"]["resourceVersion"], object.revision.to_string(), "the body has its revision");
    assert_eq!(value["data"]["resourceVersion"], "7", "and only there");
    assert_eq!(object.labels.get("value"), value["data"]["value"].as_str(), "labels go with the body");
    assert_eq!(object.fields.get("spec.value"), value["data"]["value"].as_str(), "fields go with the body");
    value["data"]["value"].as_str().expect("text").to_owned()
}

pub async fn next(watch: &mut Watch) -> Result<WatchItem, WatchEnd> {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("a watch answers in time")
}

/// The next event; progress is passed over.
pub async fn next_event(watch: &mut Watch) -> Arc<Event> {
    loop {
        if let WatchItem::Event(event) = next(watch).await.expect("the watch goes on") {
            return event;
        }
    }
}

pub async fn events(watch: &mut Watch, count: usize) -> Vec<String> {
    let mut told = Vec::new();
    for _ in 0..count {
        told.push(tell(&*next_event(watch).await));
    }
    told
}

pub fn names(listing: &Listing) -> Vec<String> {
    listing.objects.iter().map(|object| format!("{}={}", object.key.name, value_of(object))).collect()
}
