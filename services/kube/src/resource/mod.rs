//! What a resource is: names, versions, scope, verbs. Built-in ones come from the 1.36 discovery facts; CRDs add theirs.

mod catalog;
mod discovery;

use std::sync::Arc;

use galley_types::ResourceName;

use crate::crd::Version;

pub(crate) use catalog::version_rank;
pub use catalog::{Catalog, builtin};
pub use discovery::{aggregated, api_group, api_group_list, api_resource_list, api_versions};

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
    /// For custom resources: schema, columns, scale.
    pub custom: Option<Arc<Version>>,
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
    /// The store's key: `deployments.apps`. Events are one collection that two groups serve; they are kept as `events`.
    pub fn name(&self) -> ResourceName {
        if self.is_new_event() { ResourceName::new("events", "") } else { ResourceName::new(&self.plural, &self.group) }
    }

    /// `apiVersion` of stored objects.
    pub fn storage_api_version(&self) -> String {
        if self.group.is_empty() || self.is_new_event() {
            self.storage_version.clone()
        } else {
            format!("{}/{}", self.group, self.storage_version)
        }
    }

    /// Whether objects must be converted between the stored form and this version.
    pub fn is_storage_version(&self) -> bool {
        self.version == self.storage_version && !self.is_new_event()
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether a verb is served.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    fn is_new_event(&self) -> bool {
        self.group == "events.k8s.io" && self.plural == "events"
    }

    /// `apps/v1`, `v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// A resource shared between requests.
pub type ResourceRef = Arc<Resource>;
