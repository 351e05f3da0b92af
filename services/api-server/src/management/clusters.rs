//! `/v1/clusters`: a tenant's clusters.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State as Extract};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use galley_store::{Cluster, ClusterKeys, ClusterNetwork, ClusterPage, ClusterState, NewCluster};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::Tenant;
use super::{Problem, State};
use crate::pki::{authority_create, key_create};

/// What to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CreateCluster {
    /// Unique among the tenant's clusters: lower-case letters, digits and hyphens, starting with a letter, at most 40
    /// characters.
    #[schema(example = "shop", pattern = "^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length = 40)]
    name: String,
    /// The Kubernetes version; this installation serves one.
    #[schema(example = "1.36")]
    version: Option<String>,
}

/// A cluster.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ClusterBody {
    /// 32 hex digits.
    #[schema(example = "0d9f8a4be1f94f1ba3dfc1cf8c5e93f4")]
    id: String,
    /// As it was created.
    #[schema(example = "shop")]
    name: String,
    /// Where it is in its life.
    state: StateBody,
    /// The Kubernetes version that it serves.
    #[schema(example = "1.36")]
    version: String,
    /// Its Kubernetes API, behind HTTP load balancers that know no SNI.
    #[schema(example = "https://galley.example.com/clusters/0d9f8a4be1f94f1ba3dfc1cf8c5e93f4")]
    endpoint: String,
    /// Its host name: the `tls-server-name` of its kubeconfigs.
    #[schema(example = "shop-0d9f8a4b.galley.example.com")]
    host: String,
    /// The certificate that its API server's certificate is signed with, PEM.
    certificate_authority: String,
    /// Its addresses.
    network: NetworkBody,
    /// When it was created, RFC 3339.
    created_at: String,
}

/// Where a cluster is in its life.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum StateBody {
    /// Its API answers.
    Ready,
    /// It is being removed.
    Deleting,
}

/// A cluster's addresses.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NetworkBody {
    /// Pods' addresses; each node gets a part.
    #[schema(example = "10.244.0.0/16")]
    pod_cidr: String,
    /// Services' addresses.
    #[schema(example = "10.96.0.0/16")]
    service_cidr: String,
    /// Cluster DNS.
    #[schema(example = "10.96.0.10")]
    cluster_dns: String,
    /// The suffix of Services' names.
    #[schema(example = "cluster.local")]
    cluster_domain: String,
}

/// Some of a tenant's clusters.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClusterList {
    /// Oldest first.
    items: Vec<ClusterBody>,
    /// There may be more: ask again with this.
    #[serde(rename = "continue", skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Which clusters to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// At most so many, and never more than 500, which is also what is answered if this is left out.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// What an earlier page's `continue` said: those after it.
    r#continue: Option<String>,
    /// Only the cluster of this name.
    name: Option<String>,
}

/// Clusters of a page: some hundreds of kilobytes, some milliseconds of Postgres.
const PAGE: usize = 500;

const VERSION: &str = "1.36";
/// With the short id and the hyphen before it, the host name's label stays below DNS' 63 characters.
const NAME_LIMIT: usize = 40;

impl ClusterBody {
    fn of(cluster: &Cluster, state: &State) -> Self {
        Self {
            id: cluster.id.to_string(),
            name: cluster.name.clone(),
            state: match cluster.state {
                ClusterState::Active => StateBody::Ready,
                ClusterState::Deleting => StateBody::Deleting,
            },
            version: VERSION.into(),
            endpoint: format!("{}/clusters/{}", state.advertise, cluster.id),
            host: format!("{}.{}", cluster.host_label, state.domain),
            certificate_authority: cluster.ca_certificate.clone(),
            network: NetworkBody {
                pod_cidr: cluster.network.pod_cidr.clone(),
                service_cidr: cluster.network.service_cidr.clone(),
                cluster_dns: cluster.network.cluster_dns.clone(),
                cluster_domain: cluster.network.cluster_domain.clone(),
            },
            created_at: cluster.created.to_string(),
        }
    }
}

fn check(request: &CreateCluster) -> Result<(), Problem> {
    let name = &request.name;
    let inner = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if name.len() > NAME_LIMIT || !inner || !name.starts_with(|c: char| c.is_ascii_lowercase()) || name.ends_with('-') {
        return Err(Problem::invalid(
            "/name",
            format!(
                "{name:?} is not a cluster name: lower-case letters, digits and hyphens, starting with a letter, not ending \
                 with a hyphen, at most {NAME_LIMIT} characters"
            ),
        ));
    }
    match request.version.as_deref() {
        None | Some(VERSION) => Ok(()),
        Some(other) => Err(Problem::invalid(
            "/version",
            format!("version {other:?} is not served here; use {VERSION:?} or leave it out"),
        )),
    }
}

/// Creates a cluster. When this answers, its API is ready.
#[utoipa::path(
    post, path = "/v1/clusters", operation_id = "clusterCreate", tag = "clusters", request_body = CreateCluster, security(("tenant" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "A second request with the same key answers the first one's cluster.")),
    responses(
        (status = 201, description = "Created and ready", body = ClusterBody, headers(("Location" = String, description = "The cluster's path"))),
        (status = 400, description = "The body is not JSON of this shape", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No token, or an unknown one", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The tenant has a cluster of this name", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A field does not hold what it must", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The store cannot be reached", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn create(
    Extract(state): Extract<State>,
    tenant: Tenant,
    headers: HeaderMap,
    body: Result<Json<CreateCluster>, JsonRejection>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<ClusterBody>), Problem> {
    let Json(request) = body.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    check(&request)?;
    let idempotency_key = match headers.get("idempotency-key") {
        None => None,
        Some(key) => {
            let key = key.to_str().ok().filter(|key| key.len() <= 255);
            Some(
                key.ok_or_else(|| Problem::bad_request("Idempotency-Key must be at most 255 ASCII characters"))?
                    .to_owned(),
            )
        }
    };
    let authority = authority_create(&request.name, state.clock.now())?;
    let service_account_key = key_create()?.serialize_pem();
    let cluster = state
        .store
        .cluster_create(NewCluster {
            tenant: tenant.0,
            name: request.name,
            idempotency_key,
            ca_certificate: authority.certificate,
            keys: ClusterKeys { ca_key: authority.key, service_account_key },
            network: ClusterNetwork::default(),
        })
        .await?;
    state.clusters.bootstrap(&cluster).await?;
    let location = format!("/v1/clusters/{}", cluster.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(ClusterBody::of(&cluster, &state))))
}

/// Lists the tenant's clusters, page by page.
#[utoipa::path(
    get, path = "/v1/clusters", operation_id = "clusterList", tag = "clusters", security(("tenant" = [])),
    params(ListQuery),
    responses(
        (status = 200, description = "The clusters", body = ClusterList),
        (status = 400, description = "The query is not of this shape", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No token, or an unknown one", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The store cannot be reached", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(
    Extract(state): Extract<State>,
    tenant: Tenant,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<ClusterList>, Problem> {
    let Query(query) = query.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    let page = match &query.name {
        Some(name) => {
            let found = state.store.cluster_by_name(tenant.0, name).await?;
            ClusterPage { clusters: found.into_iter().collect(), next: None }
        }
        None => {
            let limit = query.limit.unwrap_or(PAGE);
            if !(1..=PAGE).contains(&limit) {
                return Err(Problem::bad_request(format!("limit must be between 1 and {PAGE}, not {limit}")));
            }
            state.store.cluster_page(tenant.0, query.r#continue.as_deref(), limit).await?
        }
    };
    Ok(Json(ClusterList { items: page.clusters.iter().map(|c| ClusterBody::of(c, &state)).collect(), next: page.next }))
}

/// One cluster.
#[utoipa::path(
    get, path = "/v1/clusters/{id}", operation_id = "clusterGet", tag = "clusters", security(("tenant" = [])),
    params(("id" = String, Path, description = "The cluster's id")),
    responses(
        (status = 200, description = "The cluster", body = ClusterBody),
        (status = 401, description = "No token, or an unknown one", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The tenant has no such cluster", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The store cannot be reached", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn get(
    Extract(state): Extract<State>,
    tenant: Tenant,
    Path(id): Path<String>,
) -> Result<Json<ClusterBody>, Problem> {
    let cluster = find(&state, tenant, &id).await?;
    Ok(Json(ClusterBody::of(&cluster, &state)))
}

pub(super) async fn find(state: &State, tenant: Tenant, id: &str) -> Result<Cluster, Problem> {
    state.store.cluster_get(tenant.0, id).await?.ok_or_else(|| Problem::cluster_not_found(id))
}

/// Deletes a cluster and everything in it. Its keys are destroyed when this answers; its rows are removed in the
/// background.
#[utoipa::path(
    delete, path = "/v1/clusters/{id}", operation_id = "clusterDelete", tag = "clusters", security(("tenant" = [])),
    params(("id" = String, Path, description = "The cluster's id")),
    responses(
        (status = 204, description = "Deleted"),
        (status = 401, description = "No token, or an unknown one", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The tenant has no such cluster", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The store cannot be reached", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn delete(
    Extract(state): Extract<State>,
    tenant: Tenant,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let cluster = find(&state, tenant, &id).await?;
    if !state.store.cluster_delete(tenant.0, &id).await? {
        return Err(Problem::cluster_not_found(&id));
    }
    state.clusters.removed(&cluster).await;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_name_is_a_dns_label_that_starts_with_a_letter() {
        for (name, good) in [
            ("shop", true),
            ("a", true),
            ("a-1", true),
            ("", false),
            ("1a", false),
            ("-a", false),
            ("a-", false),
            ("A", false),
            ("a.b", false),
            (&"a".repeat(41), false),
        ] {
            let request = CreateCluster { name: name.into(), version: None };
            assert_eq!(check(&request).is_ok(), good, "{name:?}");
        }
    }

    #[test]
    fn a_version_that_is_not_served_is_named_with_its_field() {
        let problem = check(&CreateCluster { name: "a".into(), version: Some("1.2".into()) }).unwrap_err();
        assert_eq!((problem.status, problem.pointer.as_deref()), (422, Some("/version")));
    }
}
