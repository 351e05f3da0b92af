//! The resources that a cluster serves, found by each of the ways that requests and objects name them.
//!
//! The built-in ones exist once for all clusters. A cluster with CRDs has a catalog of its own that shares them.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use super::{Resource, ResourceRef, Subresource};

static BUILTIN: LazyLock<Catalog> =
    LazyLock::new(|| include_str!("../../data/resources.txt").lines().filter_map(parse).map(Arc::new).collect());

/// The resources of Kubernetes 1.36.
pub fn builtin() -> &'static Catalog {
    &BUILTIN
}

/// Resources in discovery order: groups by priority, within a group the preferred version first.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    all: Vec<ResourceRef>,
    by_plural: HashMap<String, Vec<usize>>,
}

impl FromIterator<ResourceRef> for Catalog {
    fn from_iter<I: IntoIterator<Item = ResourceRef>>(resources: I) -> Self {
        let mut catalog = Self::default();
        catalog.extend(resources);
        catalog
    }
}

impl Extend<ResourceRef> for Catalog {
    fn extend<I: IntoIterator<Item = ResourceRef>>(&mut self, resources: I) {
        for resource in resources {
            self.by_plural.entry(resource.plural.clone()).or_default().push(self.all.len());
            self.all.push(resource);
        }
    }
}

impl Catalog {
    /// This catalog and more resources (those of CRDs) after it.
    #[must_use]
    pub fn with(&self, more: impl IntoIterator<Item = ResourceRef>) -> Self {
        let mut catalog = self.clone();
        catalog.extend(more);
        catalog
    }

    /// All resources in all versions.
    pub fn iter(&self) -> impl Iterator<Item = &ResourceRef> {
        self.all.iter()
    }

    /// What a request path names. Group `""` is the core group.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&ResourceRef> {
        self.candidates(plural).find(|r| r.version == version && r.group == group)
    }

    /// The resource in the version its objects are stored in, by the store's key: `pods`, `deployments.apps`.
    pub fn storage(&self, name: &str) -> Option<&ResourceRef> {
        let (plural, group) = name.split_once('.').unwrap_or((name, ""));
        self.candidates(plural).find(|r| r.group == group && r.is_storage_version())
    }

    /// What an object's apiVersion and kind name: `apps/v1`, `Deployment`.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<&ResourceRef> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.all.iter().find(|r| r.kind == kind && r.version == version && r.group == group)
    }

    /// The preferred version of a kind of a group, whatever version an owner reference or scale target names.
    pub fn by_group_kind(&self, group: &str, kind: &str) -> Option<&ResourceRef> {
        self.all.iter().find(|r| r.kind == kind && r.group == group)
    }

    /// Whether any resource of a group is served.
    pub fn has_group(&self, group: &str) -> bool {
        self.all.iter().any(|r| r.group == group)
    }

    /// Whether any resource of a group and version is served.
    pub fn has_version(&self, group: &str, version: &str) -> bool {
        self.all.iter().any(|r| r.version == version && r.group == group)
    }

    /// The group names, the core group left out, in discovery order.
    pub fn groups(&self) -> Vec<&str> {
        let mut groups: Vec<&str> = Vec::new();
        for resource in &self.all {
            if !resource.group.is_empty() && !groups.contains(&resource.group.as_str()) {
                groups.push(&resource.group);
            }
        }
        groups
    }

    /// The versions of a group, the preferred one first.
    pub fn versions(&self, group: &str) -> Vec<&str> {
        let mut versions: Vec<&str> = Vec::new();
        for resource in self.all.iter().filter(|r| r.group == group) {
            if !versions.contains(&resource.version.as_str()) {
                versions.push(&resource.version);
            }
        }
        versions.sort_by_key(|v| std::cmp::Reverse(version_rank(v)));
        versions
    }

    fn candidates(&self, plural: &str) -> impl Iterator<Item = &ResourceRef> {
        self.by_plural.get(plural).into_iter().flatten().map(|&at| &self.all[at])
    }
}

/// Orders versions as Kubernetes does ("Version priority" of CRDs): `v2 > v1 > v1beta2 > v1beta1 > v1alpha1 > others`.
pub(crate) fn version_rank(version: &str) -> (u8, u32, u32, std::cmp::Reverse<String>) {
    let parsed = (|| {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u32 = rest[..digits].parse().ok()?;
        let (stability, minor) = match &rest[digits..] {
            "" => (3, "0"),
            rest => match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
                (Some(minor), _) => (2, minor),
                (_, Some(minor)) => (1, minor),
                _ => return None,
            },
        };
        Some((stability, major, minor.parse().ok()?))
    })();
    match parsed {
        Some((stability, major, minor)) => (stability, major, minor, std::cmp::Reverse(String::new())),
        None => (0, 0, 0, std::cmp::Reverse(version.to_owned())),
    }
}

fn list(text: &str) -> Vec<String> {
    match text {
        "-" => Vec::new(),
        "*" => ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
            .map(str::to_owned)
            .to_vec(),
        _ => text.split(',').map(str::to_owned).collect(),
    }
}

/// A line of the data file, whose header says the form.
fn parse(line: &str) -> Option<Resource> {
    let mut words = line.split(' ').filter(|w| !w.is_empty());
    let group = words.next().filter(|w| !w.starts_with('#'))?;
    let mut word = || words.next().unwrap_or("-");
    let (version, plural, singular, kind, scope) = (word(), word(), word(), word(), word());
    let (short_names, categories, verbs) = (list(word()), list(word()), list(word()));
    Some(Resource {
        group: if group == "-" { String::new() } else { group.into() },
        version: version.into(),
        kind: kind.into(),
        plural: plural.into(),
        singular: singular.into(),
        namespaced: scope == "N",
        verbs,
        short_names,
        categories,
        subresources: words.map(subresource).collect(),
        storage_version: if group == "autoscaling" { "v2".into() } else { version.into() },
        custom: None,
    })
}

fn subresource(word: &str) -> Subresource {
    let mut parts = word.split(':');
    let mut part = || parts.next().unwrap_or("");
    let (name, kind, verbs, group_version) = (part(), part(), part(), part());
    Subresource {
        name: name.into(),
        kind: kind.into(),
        group_version: group_version.split_once('/').map(|(g, v)| (g.into(), v.into())),
        verbs: list(verbs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builtin_resources_are_found_by_every_name() {
        let deployments = builtin().find("apps", "v1", "deployments").unwrap();
        assert_eq!((deployments.kind.as_str(), deployments.namespaced), ("Deployment", true));
        assert_eq!(deployments.short_names, ["deploy"]);
        assert_eq!(deployments.name().as_str(), "deployments.apps");
        assert_eq!(deployments.subresource("scale").unwrap().group_version, Some(("autoscaling".into(), "v1".into())));
        assert!(Arc::ptr_eq(builtin().storage("deployments.apps").unwrap(), deployments));
        assert!(Arc::ptr_eq(builtin().by_kind("apps/v1", "Deployment").unwrap(), deployments));
        assert!(builtin().find("apps", "v1", "pods").is_none());
        assert!(builtin().find("", "v1", "pods").unwrap().allows("deletecollection"));
        assert!(!builtin().find("", "v1", "nodes").unwrap().namespaced);
    }

    #[test]
    fn events_and_autoscalers_are_stored_once() {
        let new = builtin().find("events.k8s.io", "v1", "events").unwrap();
        assert_eq!(new.name().as_str(), "events");
        assert_eq!(new.storage_api_version(), "v1");
        assert!(!new.is_storage_version());
        assert_eq!(builtin().storage("events").unwrap().group, "");
        let v1 = builtin().find("autoscaling", "v1", "horizontalpodautoscalers").unwrap();
        assert_eq!(v1.storage_api_version(), "autoscaling/v2");
        assert_eq!(builtin().storage("horizontalpodautoscalers.autoscaling").unwrap().version, "v2");
    }

    #[test]
    fn versions_are_ordered_by_stability_and_age() {
        let mut versions = vec!["v1alpha1", "foo", "v1", "v10", "v1beta2", "v2", "v1beta1", "v11alpha2"];
        versions.sort_by_key(|v| std::cmp::Reverse(version_rank(v)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v11alpha2", "v1alpha1", "foo"]);
        assert_eq!(builtin().versions("autoscaling"), ["v2", "v1"]);
    }
}
