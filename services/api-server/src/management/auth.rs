//! Who asks: a tenant, by its API token, or a part of the installation, by its service token.

use axum::extract::FromRequestParts;
use axum::http::{header, request::Parts};
use galley_types::TenantId;
use utoipa::Modify;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};

use super::{Problem, State};

/// The tenant whose token the request carries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tenant(pub TenantId);

/// The cloud controller of this installation.
#[derive(Debug, Clone, Copy)]
pub(super) struct CloudController;

/// The service name of [`CloudController`]'s tokens.
pub(crate) const CLOUD_CONTROLLER: &str = "cloud-controller-manager";

/// The token after `Authorization: Bearer`.
pub(crate) fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

impl FromRequestParts<State> for Tenant {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self, Problem> {
        let token = bearer(parts).ok_or_else(Problem::unauthorized)?;
        let row = state.store.token_lookup(token).await?.ok_or_else(Problem::unauthorized)?;
        Ok(Self(row.tenant))
    }
}

impl FromRequestParts<State> for CloudController {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self, Problem> {
        let token = bearer(parts).ok_or_else(Problem::unauthorized)?;
        let row = state.store.service_token_lookup(token).await?.ok_or_else(Problem::unauthorized)?;
        if row.service == CLOUD_CONTROLLER { Ok(Self) } else { Err(Problem::unauthorized()) }
    }
}

/// Adds the two token kinds to the OpenAPI document.
pub(super) struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        for (name, description) in [
            ("tenant", "An API token of a tenant."),
            ("cloud-controller", "The service token of the installation's cloud controller."),
        ] {
            let mut scheme = Http::new(HttpAuthScheme::Bearer);
            scheme.description = Some(description.into());
            components.add_security_scheme(name, SecurityScheme::Http(scheme));
        }
    }
}
