//! The verbs of one cluster's API.

use std::sync::Arc;

use bytes::Bytes;
use galley_authz::Actor;
use galley_kube::{Resource, Status};
use galley_store::{ClusterStore, Object};
use galley_types::Clock;
use serde_json::Value;

/// What a write may say besides its body.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// `dryRun=All`: everything but the commit.
    pub dry_run: bool,
    /// `fieldManager`; empty: derived from the user agent or actor.
    pub field_manager: String,
    /// `force` of server-side apply.
    pub force: bool,
    /// Unknown and duplicate fields are errors (`Strict`), warnings (`Warn`) or ignored.
    pub field_validation: FieldValidation,
}

/// `fieldValidation`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop silently.
    Ignore,
    /// Drop with a `Warning` header.
    #[default]
    Warn,
    /// 400.
    Strict,
}

/// Which patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// `application/json-patch+json`
    Json,
    /// `application/merge-patch+json`
    Merge,
    /// `application/strategic-merge-patch+json`
    Strategic,
    /// `application/apply-patch+yaml` (already parsed to JSON)
    Apply,
}

/// A patch and its kind.
#[derive(Debug, Clone)]
pub struct Patch {
    /// How to read it.
    pub kind: PatchKind,
    /// The patch.
    pub body: Value,
}

/// `DeleteOptions.preconditions`.
#[derive(Debug, Clone, Default)]
pub struct Preconditions {
    /// Must equal `metadata.uid`.
    pub uid: Option<String>,
    /// Must equal `metadata.resourceVersion`.
    pub resource_version: Option<String>,
}

/// `DeleteOptions.propagationPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Dependents stay.
    Orphan,
    /// Dependents go afterwards.
    Background,
    /// Dependents go first.
    Foreground,
}

/// `DeleteOptions`.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// `gracePeriodSeconds`.
    pub grace_period_seconds: Option<i64>,
    /// `preconditions`.
    pub preconditions: Preconditions,
    /// `propagationPolicy`.
    pub propagation: Option<Propagation>,
    /// `dryRun=All`.
    pub dry_run: bool,
}

/// A written object and the `Warning`s that go with it.
#[derive(Debug, Clone)]
pub struct Written {
    /// The state after the write (what would be stored, for a dry run).
    pub object: Arc<Object>,
    /// Texts for `Warning: 299` headers.
    pub warnings: Vec<String>,
}

/// One cluster's API, behind authentication. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ClusterApi {
    store: Arc<ClusterStore>,
    clock: Arc<dyn Clock>,
}

impl ClusterApi {
    /// The API over a loaded cluster.
    pub fn new(store: Arc<ClusterStore>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    /// Reads and watches that need no pipeline.
    pub fn store(&self) -> &Arc<ClusterStore> {
        &self.store
    }

    /// The time, as this cluster sees it.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// A served resource by the name users type, in its storage version: `pods`, `deployments.apps`.
    pub fn resource(&self, _name: &str) -> Option<Arc<Resource>> {
        None
    }

    /// Creates. `subresource`: `None`, or `binding`, `eviction`, `token` of the object that `name` names.
    pub async fn create(
        &self,
        _actor: &Actor,
        resource: &Resource,
        namespace: &str,
        _body: Value,
        _options: &WriteOptions,
    ) -> Result<Written, Status> {
        Err(Status::not_found(&resource.group, &resource.plural, namespace))
    }

    /// Replaces the object (or its `status`, `scale`). A body without resourceVersion overwrites.
    pub async fn update(
        &self,
        _actor: &Actor,
        resource: &Resource,
        namespace: &str,
        _name: &str,
        _subresource: Option<&str>,
        _body: Value,
        _options: &WriteOptions,
    ) -> Result<Written, Status> {
        Err(Status::not_found(&resource.group, &resource.plural, namespace))
    }

    /// Patches, and retries when somebody else wrote in between.
    pub async fn patch(
        &self,
        _actor: &Actor,
        resource: &Resource,
        namespace: &str,
        _name: &str,
        _subresource: Option<&str>,
        _patch: Patch,
        _options: &WriteOptions,
    ) -> Result<Written, Status> {
        Err(Status::not_found(&resource.group, &resource.plural, namespace))
    }

    /// Deletes, or marks for deletion where finalizers or a grace period ask for it. The answer is the object as it is then.
    pub async fn delete(
        &self,
        _actor: &Actor,
        resource: &Resource,
        namespace: &str,
        _name: &str,
        _options: &DeleteOptions,
    ) -> Result<Written, Status> {
        Err(Status::not_found(&resource.group, &resource.plural, namespace))
    }

    /// The encoded body of an object in the version that `resource` serves.
    pub fn encode(&self, object: &Object, _resource: &Resource) -> Result<Bytes, Status> {
        Ok(object.body.clone())
    }
}
