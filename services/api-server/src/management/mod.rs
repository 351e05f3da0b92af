//! The management API under `/v1`: clusters over REST, kubeconfigs, joining of nodes.
//!
//! Each file holds one endpoint group: its bodies, errors, docs, handlers. The OpenAPI document is generated from them and
//! checked in as `openapi/galley.json`.
//!
//! A tenant is found from the bearer token, and every lookup carries it: another tenant's cluster is 404, as one that never
//! was.

mod auth;
mod cloud;
mod clusters;
mod join;
mod kubeconfig;
mod problem;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use futures::future::BoxFuture;
use galley_store::{Cluster, Store, StoreError};
use galley_types::Clock;
use jiff::SignedDuration;
use utoipa::OpenApi;

pub(crate) use join::NodeCaller;
pub use problem::Problem;

use crate::pki::Authority;
use auth::Security;

/// What the management API needs of the rest of the server.
#[derive(Clone)]
pub struct State {
    /// Tenants, clusters, tokens.
    pub store: Arc<Store>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Signs the management certificate; nodes pin it when they join.
    pub ca: Arc<Authority>,
    /// Clusters are `<label>.<domain>`.
    pub domain: String,
    /// `https://host:port` at which clients and nodes reach this installation.
    pub advertise: String,
    /// For how long a node's certificate is valid.
    pub node_certificate_duration: SignedDuration,
    /// Fills a new cluster with what every cluster has, and the like.
    pub clusters: Arc<dyn ClusterLife>,
}

/// What happens inside a cluster when the management API makes or removes it.
pub trait ClusterLife: Send + Sync {
    /// Namespaces, RBAC, the `kubernetes` Service: after this the cluster is ready. Safe to repeat.
    fn bootstrap<'a>(&'a self, cluster: &'a Cluster) -> BoxFuture<'a, Result<(), LifeError>>;
    /// The cluster is gone: its owner lets go of it, and connections to it end.
    fn removed<'a>(&'a self, cluster: &'a Cluster) -> BoxFuture<'a, ()>;
}

/// A cluster that could not be brought to life.
#[derive(Debug, thiserror::Error)]
pub enum LifeError {
    /// The store could not load or write it.
    #[error("the cluster's store is not available")]
    Store(#[from] StoreError),
    /// The objects that every cluster has were refused.
    #[error("bootstrap objects were not written: {0}")]
    Bootstrap(String),
    /// The replica that owns the cluster's shard cannot be asked now.
    #[error("the owner of the cluster cannot be asked now: {0}")]
    Owner(String),
}

/// Client certificates in downloaded kubeconfigs.
const KUBECONFIG_VALIDITY: SignedDuration = SignedDuration::from_hours(24);
/// Long enough for an instance to boot, short enough to be worthless in a log.
const BOOTSTRAP_TOKEN_VALIDITY: SignedDuration = SignedDuration::from_hours(1);
/// For who writes the command down today and goes to the machine room tomorrow.
const BOOTSTRAP_TOKEN_LONGEST: SignedDuration = SignedDuration::from_hours(24);

/// All endpoints.
pub fn router(state: State) -> Router {
    Router::new()
        .route("/v1/clusters", get(clusters::list).post(clusters::create))
        .route("/v1/clusters/{id}", get(clusters::get).delete(clusters::delete))
        .route("/v1/clusters/{id}/kubeconfig", get(kubeconfig::get))
        .route("/v1/clusters/{id}/bootstrap-tokens", post(join::token_create))
        .route("/v1/join", post(join::join))
        .route("/v1/renew", post(join::renew))
        .route("/v1/cloud/clusters", get(cloud::clusters))
        .route("/v1/openapi.json", get(openapi))
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .fallback(|| async { Problem::not_found("there is nothing at this path") })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .with_state(state)
}

async fn ready(state: axum::extract::State<State>) -> Result<&'static str, Problem> {
    // A lookup that finds nothing needs the database as one that finds something does.
    state.store.tenant_by_name("").await?;
    Ok("ok")
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Galley management API",
        description = "Kubernetes clusters as a service: create one, download its kubeconfig, join nodes. Each cluster's own API is the Kubernetes API.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(
        clusters::create, clusters::list, clusters::get, clusters::delete,
        kubeconfig::get, join::token_create, join::join, join::renew, cloud::clusters,
    ),
    modifiers(&Security),
    tags(
        (name = "clusters", description = "A tenant's clusters"),
        (name = "nodes", description = "Machines joining a cluster"),
        (name = "cloud", description = "For the cloud controller of the installation"),
    ),
)]
struct Document;

/// The OpenAPI 3.1 document, as checked in.
pub fn openapi_document() -> String {
    let mut text = Document::openapi().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

async fn openapi() -> ([(axum::http::HeaderName, &'static str); 1], String) {
    ([(axum::http::header::CONTENT_TYPE, "application/json")], openapi_document())
}

#[cfg(test)]
mod tests {
    /// Refresh with `galley-server openapi > openapi/galley.json`.
    #[test]
    fn the_document_that_is_checked_in_is_the_one_that_the_code_makes() {
        let kept = include_str!("../../../../openapi/galley.json");
        assert_eq!(kept, super::openapi_document(), "run: galley-server openapi > openapi/galley.json");
    }
}
