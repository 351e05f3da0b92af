//! `/v1/clusters/{id}/kubeconfig`: how kubectl reaches the cluster, as its administrator.

use axum::extract::{Path, State as Extract};
use axum::http::{HeaderName, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use super::auth::Tenant;
use super::clusters::find;
use super::{KUBECONFIG_VALIDITY, Problem, State};
use crate::pki::Authority;

/// A kubeconfig with a client certificate of the cluster's administrator, valid for a day.
#[utoipa::path(
    get, path = "/v1/clusters/{id}/kubeconfig", operation_id = "kubeconfigGet", tag = "clusters", security(("tenant" = [])),
    params(("id" = String, Path, description = "The cluster's id")),
    responses(
        (status = 200, description = "The kubeconfig", body = String, content_type = "application/yaml"),
        (status = 401, description = "No token, or an unknown one", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The tenant has no such cluster", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The store cannot be reached", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn get(
    Extract(state): Extract<State>,
    tenant: Tenant,
    Path(id): Path<String>,
) -> Result<([(HeaderName, &'static str); 1], String), Problem> {
    let cluster = find(&state, tenant, &id).await?;
    let keys = state.store.cluster_keys(cluster.id).await?;
    let issued = Authority::open(&cluster.ca_certificate, &keys.ca_key)?.client_certificate(
        "galley:admin",
        "system:masters",
        KUBECONFIG_VALIDITY,
        state.clock.now(),
    )?;
    let encode = |pem: &str| BASE64_STANDARD.encode(pem);
    let name = &cluster.name;
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {
            "server": state.advertise,
            "tls-server-name": format!("{}.{}", cluster.host_label, state.domain),
            "certificate-authority-data": encode(&cluster.ca_certificate),
        }}],
        "users": [{"name": format!("{name}-admin"), "user": {
            "client-certificate-data": encode(&issued.certificate),
            "client-key-data": encode(&issued.key),
        }}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": format!("{name}-admin")}}],
        "current-context": name,
    });
    let text = serde_yaml_ng::to_string(&config).map_err(|_| Problem::bad_request("kubeconfig"))?;
    Ok(([(header::CONTENT_TYPE, "application/yaml")], text))
}
