//! For tests of this and other crates: a bootstrapped cluster over the in-memory store.

use std::sync::Arc;

use galley_authz::Actor;
use galley_kube::{Resource, Status};
use galley_store::Store;
use galley_store::testing::TokioClock;
use galley_types::ResourceName;
use serde_json::Value;

use crate::{ClusterApi, TokenClaims, TokenSigner, WriteOptions};

/// A cluster and the store that it lives in.
#[derive(Debug, Clone)]
pub struct TestCluster {
    /// Keeps the cluster's shard.
    pub store: Store,
    /// Its API.
    pub api: ClusterApi,
    /// Moves time.
    pub clock: Arc<TokioClock>,
    /// In `system:masters`.
    pub admin: Actor,
}

impl TestCluster {
    /// A new cluster with what every cluster starts with. Call it inside a runtime.
    pub async fn new() -> Self {
        let clock = Arc::new(TokioClock::at("2026-01-01T00:00:00Z".parse().expect("a time")));
        let store = Store::open_in_memory(clock.clone()).await.expect("a store in memory");
        let cluster = store.cluster_for_test("test").await.expect("a cluster in memory");
        let api = ClusterApi::new(cluster, clock.clone()).with_signer(Arc::new(PlainSigner));
        api.bootstrap().await.expect("bootstrap objects");
        let admin = Actor {
            username: "admin".into(),
            groups: vec!["system:masters".into(), "system:authenticated".into()],
            ..Actor::default()
        };
        Self { store, api, clock, admin }
    }

    /// A resource by the name users type.
    pub fn resource(&self, name: &str) -> Arc<Resource> {
        self.api.resource(name).expect("a served resource")
    }

    /// Creates an object as the administrator.
    pub async fn create(&self, resource: &str, namespace: &str, body: Value) -> Result<Value, Status> {
        let resource = self.resource(resource);
        let written = self.api.create(&self.admin, &resource, namespace, body, &WriteOptions::default()).await?;
        written.object.value().map_err(Status::internal)
    }

    /// An object as it is stored.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Result<Value, Status> {
        self.api.get(&self.resource(resource), namespace, name)?.value().map_err(Status::internal)
    }
}

/// Tokens that anybody can read and make.
#[derive(Debug)]
struct PlainSigner;

impl TokenSigner for PlainSigner {
    fn sign(&self, claims: &TokenClaims) -> Result<String, Status> {
        Ok(format!("token-of-{}/{}", claims.namespace, claims.service_account))
    }

    fn default_audiences(&self) -> Vec<String> {
        vec!["https://kubernetes.default.svc".into()]
    }
}

/// A built-in resource as far as decisions look at it.
pub fn resource(group: &str, plural: &str) -> Resource {
    let name = ResourceName::new(plural, group);
    let found = galley_kube::resource::builtin().storage(name.as_str()).expect("a built-in resource");
    Resource::clone(found)
}
