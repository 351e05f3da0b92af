//! Label and node selectors, compiled so that they can be compared, hashed and matched without allocation.
//!
//! Compared and hashed, because two pods with equal terms share one counter (see `counters`).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

/// Labels, as the API has them.
pub type Labels = BTreeMap<String, String>;

/// One condition on a label (or on a node's field).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Requirement {
    In(Arc<str>, Vec<Arc<str>>),
    NotIn(Arc<str>, Vec<Arc<str>>),
    Exists(Arc<str>),
    DoesNotExist(Arc<str>),
    Gt(Arc<str>, i64),
    Lt(Arc<str>, i64),
    /// What cannot be understood matches nothing.
    Never,
}

impl Requirement {
    fn new(key: &str, operator: &str, values: &[String]) -> Self {
        let sorted = || {
            let mut values: Vec<Arc<str>> = values.iter().map(|v| v.as_str().into()).collect();
            values.sort();
            values.dedup();
            values
        };
        let number = || match values {
            [one] => one.parse::<i64>().ok(),
            _ => None,
        };
        match operator {
            "In" => Self::In(key.into(), sorted()),
            "NotIn" => Self::NotIn(key.into(), sorted()),
            "Exists" => Self::Exists(key.into()),
            "DoesNotExist" => Self::DoesNotExist(key.into()),
            "Gt" => number().map_or(Self::Never, |n| Self::Gt(key.into(), n)),
            "Lt" => number().map_or(Self::Never, |n| Self::Lt(key.into(), n)),
            _ => Self::Never,
        }
    }

    fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        let number = |key: &str| get(key).and_then(|v| v.parse::<i64>().ok());
        match self {
            Self::In(key, values) => get(key).is_some_and(|v| values.iter().any(|x| **x == *v)),
            Self::NotIn(key, values) => get(key).is_none_or(|v| values.iter().all(|x| **x != *v)),
            Self::Exists(key) => get(key).is_some(),
            Self::DoesNotExist(key) => get(key).is_none(),
            Self::Gt(key, bound) => number(key).is_some_and(|n| n > *bound),
            Self::Lt(key, bound) => number(key).is_some_and(|n| n < *bound),
            Self::Never => false,
        }
    }
}

/// `LabelSelector`: absent matches nothing, empty matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

impl Selector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self { requirements: Vec::new() }
    }

    /// Matches no object.
    pub fn nothing() -> Self {
        Self { requirements: vec![Requirement::Never] }
    }

    /// Compiles the API's selector.
    pub fn new(selector: Option<&meta::LabelSelector>) -> Self {
        let Some(selector) = selector else { return Self::nothing() };
        let mut all = Self::equal_to(selector.match_labels.iter().flatten());
        for e in selector.match_expressions.iter().flatten() {
            all.requirements.push(Requirement::new(&e.key, &e.operator, e.values.as_deref().unwrap_or_default()));
        }
        all.normalized()
    }

    /// Every one of these labels, with these values.
    pub fn equal_to<'a>(labels: impl Iterator<Item = (&'a String, &'a String)>) -> Self {
        let requirements = labels.map(|(k, v)| Requirement::In(k.as_str().into(), vec![v.as_str().into()])).collect();
        Self { requirements }
    }

    /// Both must match.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.requirements.extend(other.requirements);
        self.normalized()
    }

    /// With `key` equal to this pod's own value, for each key it has (`matchLabelKeys`), or different from it
    /// (`mismatchLabelKeys`).
    pub(crate) fn with_own(mut self, labels: &Labels, same: &[String], different: &[String]) -> Self {
        for (keys, equal) in [(same, true), (different, false)] {
            for key in keys {
                let Some(value) = labels.get(key) else { continue };
                let (key, value): (Arc<str>, Vec<Arc<str>>) = (key.as_str().into(), vec![value.as_str().into()]);
                self.requirements.push(if equal {
                    Requirement::In(key, value)
                } else {
                    Requirement::NotIn(key, value)
                });
            }
        }
        self.normalized()
    }

    fn normalized(mut self) -> Self {
        self.requirements.sort();
        self.requirements.dedup();
        self
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|r| r.matches(|key| labels.get(key).map(String::as_str)))
    }
}

/// One term of a node selector: all of it must match; an empty one matches nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct NodeTerm {
    expressions: Vec<Requirement>,
    /// Only `metadata.name` is selectable.
    fields: Vec<Requirement>,
}

impl NodeTerm {
    pub(crate) fn new(term: &core::NodeSelectorTerm) -> Self {
        let compile = |list: &Option<Vec<core::NodeSelectorRequirement>>| -> Vec<Requirement> {
            list.iter()
                .flatten()
                .map(|r| Requirement::new(&r.key, &r.operator, r.values.as_deref().unwrap_or_default()))
                .collect()
        };
        Self { expressions: compile(&term.match_expressions), fields: compile(&term.match_fields) }
    }

    pub(crate) fn matches(&self, name: &str, labels: &Labels) -> bool {
        if self.expressions.is_empty() && self.fields.is_empty() {
            return false;
        }
        self.expressions.iter().all(|r| r.matches(|key| labels.get(key).map(String::as_str)))
            && self.fields.iter().all(|r| r.matches(|key| (key == "metadata.name").then_some(name)))
    }

    /// The only nodes this term can match, when it names them.
    fn names(&self) -> Option<&[Arc<str>]> {
        self.fields.iter().find_map(|r| match r {
            Requirement::In(key, values) if **key == *"metadata.name" => Some(values.as_slice()),
            _ => None,
        })
    }
}

/// Terms of which one must match.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct NodeSelector {
    terms: Vec<NodeTerm>,
}

impl NodeSelector {
    pub(crate) fn new(selector: &core::NodeSelector) -> Self {
        Self { terms: selector.node_selector_terms.iter().map(NodeTerm::new).collect() }
    }

    pub(crate) fn matches(&self, name: &str, labels: &Labels) -> bool {
        self.terms.iter().any(|t| t.matches(name, labels))
    }

    /// The only nodes that can match, when every term names its nodes (a DaemonSet's pods do).
    pub(crate) fn names(&self) -> Option<Vec<Arc<str>>> {
        let mut all = Vec::new();
        for term in &self.terms {
            all.extend_from_slice(term.names()?);
        }
        (!self.terms.is_empty()).then_some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn each_operator_selects_what_the_api_reference_says() {
        let here = labels(&[("a", "1"), ("n", "7")]);
        for (key, op, values, want) in [
            ("a", "In", vec!["1", "2"], true),
            ("a", "In", vec!["2"], false),
            ("b", "In", vec!["1"], false),
            ("a", "NotIn", vec!["1"], false),
            ("b", "NotIn", vec!["1"], true),
            ("a", "Exists", vec![], true),
            ("b", "Exists", vec![], false),
            ("b", "DoesNotExist", vec![], true),
            ("a", "DoesNotExist", vec![], false),
            ("n", "Gt", vec!["6"], true),
            ("n", "Gt", vec!["7"], false),
            ("n", "Lt", vec!["8"], true),
            ("b", "Lt", vec!["8"], false),
            ("n", "Gt", vec!["x"], false),
            ("n", "Like", vec!["7"], false),
        ] {
            let values: Vec<String> = values.into_iter().map(String::from).collect();
            let r = Requirement::new(key, op, &values);
            assert_eq!(r.matches(|k| here.get(k).map(String::as_str)), want, "{key} {op} {values:?}");
        }
    }

    #[test]
    fn an_absent_selector_matches_nothing_and_an_empty_one_everything() {
        assert!(!Selector::new(None).matches(&labels(&[])));
        assert!(Selector::new(Some(&meta::LabelSelector::default())).matches(&labels(&[("a", "b")])));
    }

    #[test]
    fn equal_selectors_written_differently_are_equal() {
        let by_labels =
            meta::LabelSelector { match_labels: Some(labels(&[("a", "1"), ("b", "2")])), ..Default::default() };
        let expression = |key: &str, value: &str| meta::LabelSelectorRequirement {
            key: key.into(),
            operator: "In".into(),
            values: Some(vec![value.into()]),
        };
        let by_expressions = meta::LabelSelector {
            match_expressions: Some(vec![expression("b", "2"), expression("a", "1")]),
            ..Default::default()
        };
        assert_eq!(Selector::new(Some(&by_labels)), Selector::new(Some(&by_expressions)));
    }
}
