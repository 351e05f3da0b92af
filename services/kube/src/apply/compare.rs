//! Which fields an object has, and which differ between two.

use std::collections::BTreeMap;

use serde_json::Value;

use super::set::{Set, field_element};
use super::shape::{Merge, Shape, keyed_element, value_element};

/// Fields of objects that Go keeps by value, not by reference: they are there before anybody sets them, so nobody owns them
/// for having made them.
const ALWAYS_THERE: [&str; 9] =
    ["metadata", "spec", "status", "strategy", "updateStrategy", "template", "jobTemplate", "containers", "rules"];

/// What a writer of `value` owns.
pub(super) fn fields_of(value: &Value, shape: Shape<'_>) -> Set {
    let mut set = Set::default();
    match (shape.merge(value), value) {
        (Merge::Members, Value::Object(members)) => {
            if members.is_empty() {
                return Set::leaf();
            }
            for (name, member) in members {
                let mut child = fields_of(member, shape.member(name));
                child.member |= shape.is_map();
                set.insert(field_element(name), child);
            }
        }
        (Merge::Set, Value::Array(items)) => {
            if items.is_empty() {
                return Set::leaf();
            }
            for item in items {
                set.insert(value_element(item), Set::leaf());
            }
        }
        (Merge::Keyed(keys, item_shape), Value::Array(items)) => {
            if items.is_empty() {
                return Set::leaf();
            }
            for item in items {
                let mut child = fields_of(item, item_shape);
                child.member = true;
                set.insert(keyed_element(item, &keys, item_shape), child);
            }
        }
        _ => return Set::leaf(),
    }
    set
}

/// As [`fields_of`], for something that was not there: whoever adds a list or map owns that it exists, too.
fn added_fields(name: &str, value: &Value, shape: Shape<'_>) -> Set {
    let mut set = Set::default();
    match (shape.merge(value), value) {
        (Merge::Members, Value::Object(members)) => {
            for (name, member) in members {
                set.insert(field_element(name), added_fields(name, member, shape.member(name)));
            }
            set.member = members.is_empty() || !ALWAYS_THERE.contains(&name);
        }
        (Merge::Keyed(keys, item_shape), Value::Array(items)) => {
            for item in items {
                let mut child = added_fields("", item, item_shape);
                child.member = true;
                set.insert(keyed_element(item, &keys, item_shape), child);
            }
            set.member = items.is_empty() || !ALWAYS_THERE.contains(&name);
        }
        (Merge::Set, Value::Array(_)) => {
            set = fields_of(value, shape);
            set.member = true;
        }
        _ => return Set::leaf(),
    }
    set
}

/// What differs between two versions of an object.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Added or given another value.
    pub(super) changed: Set,
    /// Gone.
    pub(super) removed: Set,
}

impl Difference {
    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }

    fn insert(&mut self, element: impl Fn() -> String, inner: Difference) {
        if !inner.changed.is_empty() {
            self.changed.insert(element(), inner.changed);
        }
        if !inner.removed.is_empty() {
            self.removed.insert(element(), inner.removed);
        }
    }
}

/// What differs between `old` and `new`.
pub(super) fn compare(old: &Value, new: &Value, shape: Shape<'_>) -> Difference {
    let mut difference = Difference::default();
    match (shape.merge(new), old, new) {
        (Merge::Members, Value::Object(old), Value::Object(new)) => {
            for (name, value) in new {
                let element = || field_element(name);
                match old.get(name) {
                    Some(was) if was == value => {}
                    Some(was) => difference.insert(element, compare(was, value, shape.member(name))),
                    None => {
                        difference.changed.insert(element(), added_fields(name, value, shape.member(name)));
                    }
                }
            }
            for (name, was) in old.iter().filter(|(name, _)| !new.contains_key(*name)) {
                difference.removed.insert(field_element(name), with_itself(fields_of(was, shape.member(name))));
            }
        }
        (Merge::Set, Value::Array(old), Value::Array(new)) => {
            for item in new.iter().filter(|item| !old.contains(item)) {
                difference.changed.insert(value_element(item), Set::leaf());
            }
            for item in old.iter().filter(|item| !new.contains(item)) {
                difference.removed.insert(value_element(item), Set::leaf());
            }
        }
        (Merge::Keyed(keys, item_shape), Value::Array(old), Value::Array(new)) => {
            let old: BTreeMap<String, &Value> =
                old.iter().map(|item| (keyed_element(item, &keys, item_shape), item)).collect();
            let new: BTreeMap<String, &Value> =
                new.iter().map(|item| (keyed_element(item, &keys, item_shape), item)).collect();
            for (element, item) in &new {
                match old.get(element) {
                    Some(was) if was == item => {}
                    Some(was) => difference.insert(|| element.clone(), compare(was, item, item_shape)),
                    None => {
                        let added = added_fields("", item, item_shape);
                        difference.changed.insert(element.clone(), with_itself(added));
                    }
                }
            }
            for (element, was) in old.iter().filter(|(element, _)| !new.contains_key(*element)) {
                difference.removed.insert(element.clone(), with_itself(fields_of(was, item_shape)));
            }
        }
        _ => {
            if old != new {
                difference.changed = Set::leaf();
            }
        }
    }
    difference
}

fn with_itself(mut set: Set) -> Set {
    set.member = true;
    set
}
