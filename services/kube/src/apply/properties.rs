//! Whatever is applied: applying it again changes nothing, and nobody's fields are lost.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Writer, apply, update};
use crate::resource::builtin;

/// A ConfigMap's data and a template's containers, of a few names so that writers meet.
fn configuration() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let labels = prop::collection::btree_map(name.clone(), "[x-z]", 0..3);
    let containers = prop::collection::btree_map(name, "[x-z]", 0..3);
    (labels, containers, prop::option::of(0..3)).prop_map(|(labels, containers, replicas)| {
        let containers: Vec<Value> =
            containers.into_iter().map(|(name, image)| json!({"name": name, "image": image})).collect();
        let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x", "namespace": "d"},
            "spec": {"template": {"metadata": {"labels": labels}, "spec": {"containers": containers}}}});
        if let Some(replicas) = replicas {
            object["spec"]["replicas"] = json!(replicas);
        }
        object
    })
}

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, subresource: "", now: "2026-01-01T00:00:00Z".parse().expect("a time") }
}

fn includes(object: &Value, part: &Value) -> bool {
    match (object, part) {
        (Value::Object(object), Value::Object(part)) => {
            part.iter().all(|(key, value)| object.get(key).is_some_and(|other| includes(other, value)))
        }
        (Value::Array(items), Value::Array(part)) => {
            part.iter().all(|wanted| items.iter().any(|item| includes(item, wanted)))
        }
        (object, part) => object == part,
    }
}

proptest! {
    #[test]
    fn applying_again_changes_nothing(first in configuration(), second in configuration()) {
        let resource = builtin().storage("deployments.apps").expect("deployments");
        let live = apply(resource, None, &first, &writer("alice"), false).expect("no conflict with nobody");
        let live = apply(resource, Some(&live), &second, &writer("bob"), true).expect("forced");
        prop_assert!(includes(&live, &second));
        let again = apply(resource, Some(&live), &second, &writer("bob"), false).expect("own fields");
        prop_assert_eq!(&again, &live);
        let withdrawn = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x", "namespace": "d"}});
        let rest = apply(resource, Some(&live), &withdrawn, &writer("bob"), false).expect("removing is no conflict");
        let untouched = apply(resource, Some(&rest), &withdrawn, &writer("bob"), false).expect("nothing to do");
        prop_assert_eq!(untouched, rest);
    }

    #[test]
    fn an_update_is_owned_by_its_writer_alone(first in configuration(), second in configuration()) {
        let resource = builtin().storage("deployments.apps").expect("deployments");
        let live = apply(resource, None, &first, &writer("alice"), false).expect("no conflict with nobody");
        let mut new = second.clone();
        update(resource, Some(&live), &mut new, &writer("bob"));
        let mut same = new.clone();
        update(resource, Some(&new), &mut same, &writer("carol"));
        prop_assert_eq!(same, new, "who changes nothing owns nothing");
    }
}
