//! Sets of fields of an object, as `managedFields` keeps them (`FieldsV1`).
//!
//! A set is a tree. Its edges are path elements in the text form of `FieldsV1`: `f:name` for a field or map key,
//! `k:{"name":"web"}` for an item of a list with keys, `v:"a"` for an item of a list of scalars, `i:0` for an index. Keeping
//! the text spares a translation on every write, which decodes and encodes the sets of all managers of an object.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Fields, and the paths that lead to them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Set {
    /// Whether the place where this tree hangs is itself in the set (`.`).
    pub(crate) member: bool,
    pub(crate) children: BTreeMap<String, Set>,
}

impl Set {
    pub(crate) fn leaf() -> Self {
        Self { member: true, children: BTreeMap::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// Adds a subtree; an empty one adds nothing.
    pub(crate) fn insert(&mut self, element: String, set: Set) {
        if !set.is_empty() {
            self.children.entry(element).or_default().unite(set);
        }
    }

    pub(crate) fn unite(&mut self, other: Set) {
        self.member |= other.member;
        for (element, set) in other.children {
            match self.children.entry(element) {
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(set);
                }
                std::collections::btree_map::Entry::Occupied(mut entry) => entry.get_mut().unite(set),
            }
        }
    }

    /// Takes out what is in `other`.
    pub(crate) fn subtract(&mut self, other: &Set) {
        if other.member {
            self.member = false;
        }
        for (element, set) in &other.children {
            if let Some(child) = self.children.get_mut(element) {
                child.subtract(set);
                if child.is_empty() {
                    self.children.remove(element);
                }
            }
        }
    }

    pub(crate) fn intersection(&self, other: &Set) -> Set {
        let mut result = Set { member: self.member && other.member, children: BTreeMap::new() };
        for (element, set) in &self.children {
            if let Some(theirs) = other.children.get(element) {
                result.insert(element.clone(), set.intersection(theirs));
            }
        }
        result
    }

    /// Takes out a whole subtree: `["metadata", "name"]`.
    pub(crate) fn remove_field(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else {
            *self = Set::default();
            return;
        };
        let element = format!("f:{first}");
        if let Some(child) = self.children.get_mut(&element) {
            child.remove_field(rest);
            if child.is_empty() {
                self.children.remove(&element);
            }
        }
    }

    /// The members as users see paths: `.spec.containers[name="web"].image`.
    pub(crate) fn paths(&self) -> Vec<String> {
        fn walk(set: &Set, path: &mut String, paths: &mut Vec<String>) {
            if set.member {
                paths.push(path.clone());
            }
            for (element, child) in &set.children {
                let length = path.len();
                push_element(path, element);
                walk(child, path, paths);
                path.truncate(length);
            }
        }
        let (mut path, mut paths) = (String::new(), Vec::new());
        walk(self, &mut path, &mut paths);
        paths
    }

    /// From `fieldsV1`.
    pub(crate) fn from_value(fields: &Value) -> Self {
        let mut set = Self::default();
        let Some(members) = fields.as_object() else { return set };
        for (element, value) in members {
            if element == "." {
                set.member = true;
                continue;
            }
            let mut child = Self::from_value(value);
            if child.is_empty() {
                child.member = true;
            }
            set.children.insert(element.clone(), child);
        }
        set
    }

    /// As `fieldsV1`.
    pub(crate) fn to_value(&self) -> Value {
        let mut members = Map::new();
        if self.member && !self.children.is_empty() {
            members.insert(".".into(), Value::Object(Map::new()));
        }
        for (element, child) in &self.children {
            members.insert(element.clone(), child.to_value());
        }
        Value::Object(members)
    }
}

fn push_element(path: &mut String, element: &str) {
    let (kind, text) = element.split_at(element.len().min(2));
    match kind {
        "f:" => {
            path.push('.');
            path.push_str(text);
        }
        "k:" => {
            let keys: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            path.push_str(&format!("[{}]", keys.join(",")));
        }
        "v:" => path.push_str(&format!("[={text}]")),
        _ => path.push_str(&format!("[{text}]")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sets_survive_their_encoding() {
        let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}}, "f:replicas": {}}});
        let set = Set::from_value(&fields);
        assert_eq!(set.to_value(), fields);
        assert_eq!(
            set.paths(),
            [
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.containers[name=\"web\"]",
                ".spec.containers[name=\"web\"].image",
                ".spec.replicas"
            ]
        );
    }

    #[test]
    fn sets_can_be_reckoned_with() {
        let a = Set::from_value(&json!({"f:a": {}, "f:b": {"f:c": {}, "f:d": {}}}));
        let b = Set::from_value(&json!({"f:b": {"f:c": {}}, "f:e": {}}));
        assert_eq!(a.intersection(&b).to_value(), json!({"f:b": {"f:c": {}}}));
        let mut difference = a.clone();
        difference.subtract(&b);
        assert_eq!(difference.to_value(), json!({"f:a": {}, "f:b": {"f:d": {}}}));
        let mut union = a;
        union.unite(b);
        assert_eq!(union.to_value(), json!({"f:a": {}, "f:b": {"f:c": {}, "f:d": {}}, "f:e": {}}));
    }
}
