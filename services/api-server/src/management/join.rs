//! How a machine becomes a node: a one-time token buys a certificate for that node only, the certificate renews itself.

use axum::Extension;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State as Extract};
use axum::http::StatusCode;
use galley_authz::Actor;
use galley_store::{BootstrapUse, Cluster};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::Tenant;
use super::clusters::find;
use super::{BOOTSTRAP_TOKEN_LONGEST, BOOTSTRAP_TOKEN_VALIDITY, Problem, State};
use crate::pki::{Authority, PkiError, check_request};

/// A one-time token and what to type on the machine.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BootstrapTokenBody {
    /// Shown once.
    token: String,
    /// Useless from then on, RFC 3339.
    expires_at: String,
    /// Where the machine connects to.
    server: String,
    /// `sha256:` and the hash of the public key that the machine must find at the server.
    ca_hash: String,
    /// To be run as root on the machine.
    join_command: String,
}

/// How the token is to be.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct BootstrapTokenRequest {
    /// For how many seconds the token is good; an hour if left out, a day at the most.
    #[schema(minimum = 1, maximum = 86400, example = 600)]
    ttl_seconds: Option<i64>,
}

/// Makes a token that one machine may join the cluster with, once.
#[utoipa::path(
    post, path = "/v1/clusters/{id}/bootstrap-tokens", operation_id = "bootstrapTokenCreate", tag = "nodes", security(("tenant" = [])),
    params(("id" = String, Path, description = "The cluster's id")), request_body = Option<BootstrapTokenRequest>,
    responses(
        (status = 201, description = "The token", body = BootstrapTokenBody),
        (status = 401, description = "No token, or an unknown one", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The tenant has no such cluster", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The token would live too long or not at all", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The store cannot be reached", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn token_create(
    Extract(state): Extract<State>,
    tenant: Tenant,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, Json<BootstrapTokenBody>), Problem> {
    // No body is a token like any other, whatever its type is said to be.
    let asked: BootstrapTokenRequest = match body.is_empty() {
        true => BootstrapTokenRequest::default(),
        false => serde_json::from_slice(&body).map_err(|error| Problem::bad_request(error.to_string()))?,
    };
    let cluster = find(&state, tenant, &id).await?;
    let validity = asked.ttl_seconds.map_or(BOOTSTRAP_TOKEN_VALIDITY, SignedDuration::from_secs);
    if !(SignedDuration::from_secs(1)..=BOOTSTRAP_TOKEN_LONGEST).contains(&validity) {
        let longest = BOOTSTRAP_TOKEN_LONGEST.as_secs();
        return Err(Problem::invalid("/ttlSeconds", format!("must be between 1 and {longest}, inclusive")));
    }
    let expires = state.clock.now() + validity;
    let token = state.store.bootstrap_token_create(&cluster, expires).await?.secret;
    let ca_hash = state.ca.hash();
    let join_command =
        format!("galley-node-agent join --server {} --ca-hash {ca_hash} --token {token}", state.advertise);
    let body = BootstrapTokenBody {
        token,
        expires_at: expires.to_string(),
        server: state.advertise.clone(),
        ca_hash,
        join_command,
    };
    Ok((StatusCode::CREATED, Json(body)))
}

/// A machine's request to join.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct JoinRequest {
    /// The one-time token.
    token: String,
    /// The name that the node is to have in the cluster.
    #[schema(example = "node-1")]
    node_name: String,
    /// A certificate signing request, PEM. Its key is what counts; the subject is set by the server.
    csr: String,
}

/// What a node needs to know.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct JoinBody {
    /// The cluster's id.
    cluster_id: String,
    /// The cluster's name.
    cluster_name: String,
    /// Where to connect to.
    server: String,
    /// The host name to ask for (SNI) and to check in the server's certificate.
    server_name: String,
    /// The node's certificate, PEM.
    certificate: String,
    /// The cluster's CA, PEM.
    ca: String,
    /// Services' addresses.
    service_cidr: String,
    /// Cluster DNS.
    cluster_dns: String,
    /// The suffix of Services' names.
    cluster_domain: String,
}

/// Joins: uses the token up and answers with the node's certificate.
#[utoipa::path(
    post, path = "/v1/join", operation_id = "nodeJoin", tag = "nodes", request_body = JoinRequest,
    responses(
        (status = 200, description = "Welcome", body = JoinBody),
        (status = 400, description = "The body is not JSON of this shape", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The token was used, has expired or never was: `type` and `detail` say which", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The node name or the signing request is not valid", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The store cannot be reached", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn join(
    Extract(state): Extract<State>,
    body: Result<Json<JoinRequest>, JsonRejection>,
) -> Result<Json<JoinBody>, Problem> {
    let Json(request) = body.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    // Everything that can be refused is refused before the token is used up.
    if let Some(error) = galley_types::names::dns1123_subdomain(&request.node_name).first() {
        return Err(Problem::invalid("/nodeName", format!("{:?} is not a node name: {error}", request.node_name)));
    }
    check_request(&request.csr).map_err(refused)?;
    let refused = |problem: Problem| {
        tracing::info!(node = request.node_name, why = problem.detail, "a machine may not join");
        problem
    };
    let token = match state.store.bootstrap_token_consume(&request.token, &request.node_name).await? {
        BootstrapUse::Granted(token) => token,
        BootstrapUse::Used { at, by } => return Err(refused(Problem::join_token_used(at, &by))),
        BootstrapUse::Expired { at } => return Err(refused(Problem::join_token_expired(at))),
        BootstrapUse::Unknown => return Err(refused(Problem::join_token_unknown())),
    };
    let cluster = state.store.cluster_get(token.tenant, &token.cluster.to_string()).await?;
    let cluster = cluster.ok_or_else(|| refused(Problem::join_token_unknown()))?;
    tracing::info!(node = request.node_name, cluster = %cluster.id, token = %token.id, "a machine joins");
    answer(&state, &cluster, &request.node_name, &request.csr).await
}

/// A node's request for a new certificate.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RenewRequest {
    /// A certificate signing request, PEM.
    csr: String,
}

/// The node that a connection's certificate names, put there by the listener.
#[derive(Debug, Clone)]
pub(crate) struct NodeCaller {
    /// The cluster whose CA signed it.
    pub cluster: Cluster,
    /// `system:node:<name>`.
    pub actor: Actor,
}

/// Renews: a node that shows a certificate that is still valid gets another one. To be asked at the cluster's host name.
#[utoipa::path(
    post, path = "/v1/renew", operation_id = "nodeRenew", tag = "nodes", request_body = RenewRequest,
    responses(
        (status = 200, description = "The new certificate, and the cluster as it is now", body = JoinBody),
        (status = 400, description = "The body is not JSON of this shape", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "The connection shows no certificate of a node", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The signing request is not valid", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The store cannot be reached", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn renew(
    Extract(state): Extract<State>,
    caller: Option<Extension<NodeCaller>>,
    body: Result<Json<RenewRequest>, JsonRejection>,
) -> Result<Json<JoinBody>, Problem> {
    let Some(Extension(caller)) = caller else { return Err(Problem::unauthorized()) };
    let node = caller.actor.username.strip_prefix("system:node:").ok_or_else(Problem::unauthorized)?;
    let Json(request) = body.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    answer(&state, &caller.cluster, node, &request.csr).await
}

fn refused(error: PkiError) -> Problem {
    match error {
        PkiError::Request(_) => {
            Problem::invalid("/csr", "not a certificate signing request in PEM, or its signature is wrong")
        }
        other => other.into(),
    }
}

async fn answer(state: &State, cluster: &Cluster, node: &str, csr: &str) -> Result<Json<JoinBody>, Problem> {
    let keys = state.store.cluster_keys(cluster.id).await?;
    let user = format!("system:node:{node}");
    let certificate = Authority::open(&cluster.ca_certificate, &keys.ca_key)?
        .sign_request(csr, &user, "system:nodes", state.node_certificate_duration, state.clock.now())
        .map_err(refused)?;
    Ok(Json(JoinBody {
        cluster_id: cluster.id.to_string(),
        cluster_name: cluster.name.clone(),
        server: state.advertise.clone(),
        server_name: format!("{}.{}", cluster.host_label, state.domain),
        certificate,
        ca: cluster.ca_certificate.clone(),
        service_cidr: cluster.network.service_cidr.clone(),
        cluster_dns: cluster.network.cluster_dns.clone(),
        cluster_domain: cluster.network.cluster_domain.clone(),
    }))
}
