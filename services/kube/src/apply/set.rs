//! Sets of fields of an object, as `managedFields` keeps them (`FieldsV1`).
//!
//! A set is a tree. Its edges are path elements in the text form of `FieldsV1`: `f:name` for a field or map key,
//! `k:{"name":"web"}` for an item of a list with keys, `v:"a"` for an item of a list of scalars, `i:0` for an index. Keeping
//! the text spares a translation on every write, which decodes and encodes the sets of all managers of an object.

use serde_json::{Map, Value};

/// Fields, and the paths that lead to them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Set {
    /// Whether the place where this tree hangs is itself in the set (`.`).
    pub(crate) member: bool,
    /// Sorted by element. A list, not a map: sets are mostly made in order, from objects whose members are sorted.
    children: Vec<(String, Set)>,
}

/// The path element of a field.
pub(crate) fn field_element(name: &str) -> String {
    let mut element = String::with_capacity(name.len() + 2);
    element.push_str("f:");
    element.push_str(name);
    element
}

impl Set {
    pub(crate) const EMPTY: Set = Set { member: false, children: Vec::new() };

    pub(crate) fn leaf() -> Self {
        Self { member: true, children: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    fn place(&self, element: &str) -> Result<usize, usize> {
        self.children.binary_search_by(|(other, _)| other.as_str().cmp(element))
    }

    /// The subtree at an element.
    pub(crate) fn child(&self, element: &str) -> Option<&Set> {
        self.place(element).ok().map(|at| &self.children[at].1)
    }

    /// Adds a subtree; an empty one adds nothing.
    pub(crate) fn insert(&mut self, element: String, set: Set) {
        if set.is_empty() {
            return;
        }
        if self.children.last().is_none_or(|(last, _)| *last < element) {
            return self.children.push((element, set));
        }
        match self.place(&element) {
            Ok(at) => self.children[at].1.unite(set),
            Err(at) => self.children.insert(at, (element, set)),
        }
    }

    pub(crate) fn unite(&mut self, other: Set) {
        self.member |= other.member;
        if self.children.is_empty() {
            self.children = other.children;
            return;
        }
        for (element, set) in other.children {
            self.insert(element, set);
        }
    }

    /// Takes out what is in `other`.
    pub(crate) fn subtract(&mut self, other: &Set) {
        if other.member {
            self.member = false;
        }
        for (element, set) in &other.children {
            if let Ok(at) = self.place(element) {
                let child = &mut self.children[at].1;
                child.subtract(set);
                if child.is_empty() {
                    self.children.remove(at);
                }
            }
        }
    }

    pub(crate) fn intersection(&self, other: &Set) -> Set {
        let mut result = Set { member: self.member && other.member, children: Vec::new() };
        for (element, set) in &self.children {
            if let Some(theirs) = other.child(element) {
                result.insert(element.clone(), set.intersection(theirs));
            }
        }
        result
    }

    /// Takes out a whole subtree, by the path elements that lead to it.
    pub(crate) fn remove_path(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else {
            *self = Self::EMPTY;
            return;
        };
        if let Ok(at) = self.place(first) {
            let child = &mut self.children[at].1;
            child.remove_path(rest);
            if child.is_empty() {
                self.children.remove(at);
            }
        }
    }

    /// Takes out the place of an element, not what is below it.
    pub(crate) fn remove_member(&mut self, element: &str) {
        if let Ok(at) = self.place(element) {
            self.children[at].1.member = false;
            if self.children[at].1.is_empty() {
                self.children.remove(at);
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
        for (element, value) in fields.as_object().into_iter().flatten() {
            if element == "." {
                set.member = true;
                continue;
            }
            let mut child = Self::from_value(value);
            if child.is_empty() {
                child.member = true;
            }
            set.insert(element.clone(), child);
        }
        set
    }

    /// As `fieldsV1`.
    pub(crate) fn into_value(self) -> Value {
        let own = (self.member && !self.children.is_empty()).then(|| (".".to_owned(), Value::Object(Map::new())));
        let children = self.children.into_iter().map(|(element, child)| (element, child.into_value()));
        Value::Object(own.into_iter().chain(children).collect())
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
        assert_eq!(set.into_value(), fields);
    }

    #[test]
    fn sets_can_be_reckoned_with() {
        let a = Set::from_value(&json!({"f:a": {}, "f:b": {"f:c": {}, "f:d": {}}}));
        let b = Set::from_value(&json!({"f:b": {"f:c": {}}, "f:e": {}}));
        assert_eq!(a.intersection(&b).into_value(), json!({"f:b": {"f:c": {}}}));
        let mut difference = a.clone();
        difference.subtract(&b);
        assert_eq!(difference.into_value(), json!({"f:a": {}, "f:b": {"f:d": {}}}));
        let mut union = a;
        union.unite(b);
        assert_eq!(union.into_value(), json!({"f:a": {}, "f:b": {"f:c": {}, "f:d": {}}, "f:e": {}}));
    }
}
