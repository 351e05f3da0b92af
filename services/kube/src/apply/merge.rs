//! Merging an applied configuration into an object, and taking out what is no longer applied.

use serde_json::{Map, Value};

use super::set::{Set, field_element};
use super::shape::{Merge, Shape, keyed_element, value_element};

/// `live` with everything that `applied` says.
pub(super) fn merge(live: Value, applied: &Value, shape: Shape<'_>) -> Value {
    match (shape.merge(applied), live, applied) {
        (Merge::Members, Value::Object(mut live), Value::Object(applied)) => {
            for (name, value) in applied {
                let merged = match live.remove(name) {
                    Some(was) => merge(was, value, shape.member(name)),
                    None => value.clone(),
                };
                live.insert(name.clone(), merged);
            }
            Value::Object(live)
        }
        (Merge::Set, Value::Array(live), Value::Array(applied)) => {
            let applied = applied.iter().map(|item| (value_element(item), item.clone())).collect();
            let live = live.into_iter().map(|item| (value_element(&item), item)).collect();
            Value::Array(interleave(live, applied))
        }
        (Merge::Keyed(keys, item_shape), Value::Array(live), Value::Array(applied)) => {
            let mut live: Vec<(String, Value)> =
                live.into_iter().map(|item| (keyed_element(&item, &keys, item_shape), item)).collect();
            let applied = applied
                .iter()
                .map(|item| {
                    let element = keyed_element(item, &keys, item_shape);
                    let merged = match live.iter_mut().find(|(other, _)| *other == element) {
                        Some((_, was)) => merge(was.take(), item, item_shape),
                        None => item.clone(),
                    };
                    (element, merged)
                })
                .collect();
            Value::Array(interleave(live, applied))
        }
        (_, _, applied) => applied.clone(),
    }
}

/// The applied items in their order; those that only the live list has stay behind the ones that they were behind.
fn interleave(live: Vec<(String, Value)>, applied: Vec<(String, Value)>) -> Vec<Value> {
    let order: Vec<String> = live.iter().map(|(element, _)| element.clone()).collect();
    let place = |element: &String| order.iter().position(|o| o == element);
    let mut result = Vec::with_capacity(live.len() + applied.len());
    let is_applied: Vec<bool> =
        live.iter().map(|(element, _)| applied.iter().any(|(other, _)| other == element)).collect();
    let mut applied = std::collections::VecDeque::from(applied);
    for (at, (_, item)) in live.into_iter().enumerate() {
        if is_applied[at] {
            continue;
        }
        let before = applied.iter().rposition(|(element, _)| place(element).is_some_and(|ours| ours < at));
        result.extend(applied.drain(..before.map_or(0, |last| last + 1)).map(|(_, item)| item));
        result.push(item);
    }
    result.extend(applied.into_iter().map(|(_, item)| item));
    result
}

/// Takes the members of `gone` out of `value`, except where `kept` has something at or below them.
pub(super) fn remove(value: &mut Value, gone: &Set, kept: &Set, shape: Shape<'_>) {
    match (shape.merge(value), value) {
        (Merge::Members, Value::Object(members)) => remove_members(members, gone, kept, shape),
        (Merge::Set, Value::Array(items)) => {
            items.retain(|item| {
                let element = value_element(item);
                gone.child(&element).is_none() || kept.child(&element).is_some()
            });
        }
        (Merge::Keyed(keys, item_shape), Value::Array(items)) => {
            items.retain_mut(|item| {
                let element = keyed_element(item, &keys, item_shape);
                keep(item, &element, gone, kept, item_shape)
            });
        }
        _ => {}
    }
}

fn remove_members(members: &mut Map<String, Value>, gone: &Set, kept: &Set, shape: Shape<'_>) {
    members.retain(|name, member| {
        let element = field_element(name);
        keep(member, &element, gone, kept, shape.member(name))
    });
}

/// Whether a member or item stays; what is below it may go.
fn keep(value: &mut Value, element: &str, gone: &Set, kept: &Set, shape: Shape<'_>) -> bool {
    let Some(gone) = gone.child(element) else { return true };
    let owned = kept.child(element);
    if gone.member && owned.is_none_or(Set::is_empty) {
        return false;
    }
    let was_empty = is_empty(value);
    remove(value, gone, owned.unwrap_or(&Set::EMPTY), shape);
    // A list or map that lost its last item to us, and that nobody else holds, goes too.
    was_empty || !is_empty(value) || owned.is_some_and(|set| !set.is_empty())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}
