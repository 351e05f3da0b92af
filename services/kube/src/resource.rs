//! What a resource is: names, versions, scope, verbs. Built-in ones come from the 1.36 discovery facts; CRDs add theirs.

use std::sync::Arc;

use galley_types::ResourceName;

/// One resource in one served version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// `""` for the core group.
    pub group: String,
    /// `v1`.
    pub version: String,
    /// `Deployment`.
    pub kind: String,
    /// `deployments`.
    pub plural: String,
    /// `deployment`.
    pub singular: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// `create`, `get`, ...
    pub verbs: Vec<String>,
    /// `deploy`.
    pub short_names: Vec<String>,
    /// `all`.
    pub categories: Vec<String>,
    /// `status`, `scale`, ...
    pub subresources: Vec<Subresource>,
    /// The version objects are stored in (may be another than `version`).
    pub storage_version: String,
}

/// `pods/log`, `deployments/scale`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    /// `scale`.
    pub name: String,
    /// Kind of the body: `Scale`.
    pub kind: String,
    /// Group and version of that kind where they differ from the resource's (`autoscaling`, `v1`).
    pub group_version: Option<(String, String)>,
    /// `get`, `patch`, ...
    pub verbs: Vec<String>,
}

impl Resource {
    /// The store's key: `deployments.apps`.
    pub fn name(&self) -> ResourceName {
        ResourceName::new(&self.plural, &self.group)
    }

    /// `apps/v1`, `v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// A resource shared between requests.
pub type ResourceRef = Arc<Resource>;
