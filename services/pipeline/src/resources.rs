//! Which resources a cluster serves: the built-in ones, which every cluster shares, and those of its CRDs.
//!
//! CRDs are objects of the cluster like any other, so the catalogue is derived from them whenever they have changed; a
//! lookup of a built-in resource never looks at the store.

use std::sync::Arc;

use galley_kube::resource::{Catalog, ResourceRef, builtin};
use galley_store::{ClusterStore, Scope};
use galley_types::{ResourceName, Revision};
use parking_lot::RwLock;

const CRDS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// The custom resources of one cluster, kept until a CRD changes.
#[derive(Debug, Default)]
pub(crate) struct Custom {
    kept: RwLock<Option<Kept>>,
}

#[derive(Debug, Clone)]
struct Kept {
    count: usize,
    newest: Revision,
    /// The CRDs' resources alone.
    custom: Arc<Catalog>,
    /// Built-in and custom ones; made when discovery asks.
    all: Arc<Catalog>,
}

impl Custom {
    /// The resources of the CRDs as they are now.
    pub(crate) fn catalog(&self, store: &ClusterStore) -> Arc<Catalog> {
        self.current(store).custom
    }

    /// The built-in resources and those of the CRDs.
    pub(crate) fn all(&self, store: &ClusterStore) -> Arc<Catalog> {
        self.current(store).all
    }

    fn current(&self, store: &ClusterStore) -> Kept {
        let crds = store.list(&Scope { resource: ResourceName::from(CRDS), namespace: None }).objects;
        let newest = crds.iter().map(|crd| crd.revision).max().unwrap_or_default();
        if let Some(kept) = &*self.kept.read()
            && kept.count == crds.len()
            && kept.newest == newest
        {
            return kept.clone();
        }
        let mut resources: Vec<ResourceRef> = Vec::new();
        for crd in &crds {
            match crd.value() {
                Ok(value) => resources.extend(galley_kube::crd::resources(&value)),
                Err(error) => tracing::error!(crd = ?crd.key, error = %error, "a stored CRD does not decode"),
            }
        }
        let kept = Kept {
            count: crds.len(),
            newest,
            all: Arc::new(builtin().with(resources.iter().cloned())),
            custom: Arc::new(resources.into_iter().collect()),
        };
        *self.kept.write() = Some(kept.clone());
        kept
    }
}
