//! For the cloud controller: which clusters there are. It reaches each at `/clusters/<id>` with its own token.

use axum::Json;
use axum::extract::State as Extract;
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::CloudController;
use super::{Problem, State};

/// A cluster, as the cloud controller sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CloudCluster {
    /// 32 hex digits.
    id: String,
    /// As its tenant calls it.
    name: String,
    /// Whose it is, 32 hex digits.
    tenant: String,
}

/// Every tenant's clusters.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CloudClusterList {
    /// In no particular order.
    items: Vec<CloudCluster>,
}

/// Lists every cluster of the installation.
#[utoipa::path(
    get, path = "/v1/cloud/clusters", operation_id = "cloudClusterList", tag = "cloud", security(("cloud-controller" = [])),
    responses(
        (status = 200, description = "The clusters", body = CloudClusterList),
        (status = 401, description = "Not the cloud controller's token", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The store cannot be reached", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn clusters(
    Extract(state): Extract<State>,
    _: CloudController,
) -> Result<Json<CloudClusterList>, Problem> {
    let clusters = state.store.cluster_list_all().await?;
    let items = clusters
        .into_iter()
        .map(|c| CloudCluster { id: c.id.to_string(), name: c.name, tenant: c.tenant.to_string() })
        .collect();
    Ok(Json(CloudClusterList { items }))
}
