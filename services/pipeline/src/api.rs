//! One cluster's API: what its verbs take and answer, and what they share. The verbs are in the modules of their names.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use galley_kube::resource::{Catalog, builtin};
use galley_kube::{FieldValidation, Resource, Status};
use galley_store::{ClusterStore, CommitError, Object, ObjectKey};
use galley_types::Clock;
use parking_lot::Mutex;
use serde_json::Value;

use crate::authorize::KnownGrants;
use crate::convert;
use crate::resources::Custom;
use crate::settings::Settings;
use crate::tokens::TokenSigner;

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

/// The body of a write.
#[derive(Debug, Clone)]
pub enum Body {
    /// JSON text: the only form in which duplicate fields are noticed.
    Bytes(Bytes),
    /// A tree, from a controller or from YAML.
    Value(Value),
}

impl From<Value> for Body {
    fn from(value: Value) -> Self {
        Self::Value(value)
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
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

/// One cluster's API, behind authentication. Cheap to make and to clone: what must be shared (the locks that keep Service
/// addresses unique and quotas exact) lives beside the loaded cluster.
#[derive(Debug, Clone)]
pub struct ClusterApi {
    pub(crate) store: Arc<ClusterStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) signer: Option<Arc<dyn TokenSigner>>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) shared: Arc<Shared>,
}

/// What all APIs over one loaded cluster share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) custom: Custom,
    pub(crate) grants: Mutex<KnownGrants>,
    /// Held from choosing a Service's addresses until they are committed.
    pub(crate) services: tokio::sync::Mutex<()>,
    /// By namespace: held from checking a quota until the object that uses it is committed.
    quotas: Mutex<HashMap<Arc<str>, Arc<tokio::sync::Mutex<()>>>>,
}

impl Shared {
    pub(crate) fn quota(&self, namespace: &str) -> Arc<tokio::sync::Mutex<()>> {
        self.quotas.lock().entry(namespace.into()).or_default().clone()
    }
}

impl ClusterApi {
    /// The API over a loaded cluster.
    pub fn new(store: Arc<ClusterStore>, clock: Arc<dyn Clock>) -> Self {
        let shared = store.extension();
        Self { store, clock, signer: None, settings: Arc::default(), shared }
    }

    /// With what signs service account tokens.
    #[must_use]
    pub fn with_signer(mut self, signer: Arc<dyn TokenSigner>) -> Self {
        self.signer = Some(signer);
        self
    }

    /// With other address ranges than the defaults.
    #[must_use]
    pub fn with_settings(mut self, settings: Settings) -> Self {
        self.settings = Arc::new(settings);
        self
    }

    /// Reads and watches that need no pipeline.
    pub fn store(&self) -> &Arc<ClusterStore> {
        &self.store
    }

    /// The time, as this cluster sees it.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// What was decided when the cluster was made.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// A served resource by the name users type, in its storage version: `pods`, `deployments.apps`.
    pub fn resource(&self, name: &str) -> Option<Arc<Resource>> {
        builtin().storage(name).cloned().or_else(|| self.custom_resources().storage(name).cloned())
    }

    /// A served resource by group, version and plural.
    pub fn find_resource(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        let builtin = builtin().find(group, version, plural).cloned();
        builtin.or_else(|| self.custom_resources().find(group, version, plural).cloned())
    }

    /// A served resource by an object's apiVersion and kind.
    pub fn find_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        let builtin = builtin().by_kind(api_version, kind).cloned();
        builtin.or_else(|| self.custom_resources().by_kind(api_version, kind).cloned())
    }

    /// The resources that this cluster's CRDs serve.
    pub fn custom_resources(&self) -> Arc<Catalog> {
        self.shared.custom.catalog(&self.store)
    }

    /// Every resource that this cluster serves.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.shared.custom.all(&self.store)
    }

    /// The key under which the store keeps an object of a resource.
    pub fn key(&self, resource: &Resource, namespace: &str, name: &str) -> ObjectKey {
        ObjectKey::new(&resource.name(), if resource.namespaced { namespace } else { "" }, name)
    }

    /// One object as it is stored, or 404.
    pub fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
        self.store
            .get(&self.key(resource, namespace, name))
            .ok_or_else(|| Status::not_found(&resource.group, &resource.plural, name))
    }

    /// The encoded body of an object in the version that `resource` serves.
    pub fn encode(&self, object: &Object, resource: &Resource) -> Result<Bytes, Status> {
        if convert::is_identity(resource, &object.body) {
            return Ok(object.body.clone());
        }
        let mut value = object.value().map_err(Status::internal)?;
        convert::from_storage(resource, &mut value);
        serde_json::to_vec(&value).map(Bytes::from).map_err(Status::internal)
    }

    /// The object as a tree in the version that `resource` serves.
    pub fn decode(&self, object: &Object, resource: &Resource) -> Result<Value, Status> {
        let mut value = object.value().map_err(Status::internal)?;
        if !convert::is_identity(resource, &object.body) {
            convert::from_storage(resource, &mut value);
        }
        Ok(value)
    }
}

/// The text of a lost race, which clients match on.
pub(crate) const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// A refused commit as the answer to the request that asked for it.
pub(crate) fn commit_status(resource: &Resource, name: &str, error: CommitError) -> Status {
    match error {
        CommitError::Exists(_) => Status::already_exists(&resource.group, &resource.plural, name),
        CommitError::NotFound(_) => Status::not_found(&resource.group, &resource.plural, name),
        CommitError::Conflict { .. } => Status::conflict(&resource.group, &resource.plural, name, MODIFIED),
        CommitError::NoRoom { requested, used, limit, .. } => {
            let why = format!(
                "exceeded quota: cluster-storage, requested: bytes={requested}, used: bytes={used}, limited: bytes={limit}; \
                 delete objects of this cluster, or ask for a larger quota"
            );
            Status::forbidden(&resource.group, &resource.plural, name, &why)
        }
        CommitError::Unavailable(why) => {
            tracing::warn!(why, "a write found the store unavailable");
            let mut status = Status::new(
                503,
                galley_kube::Reason::ServiceUnavailable,
                "the storage of this cluster is unavailable, please try again later",
            );
            status.retry_after_seconds = 1;
            status
        }
    }
}
