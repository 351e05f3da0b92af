//! Errors of the management API: RFC 9457 problem documents.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use galley_store::StoreError;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::LifeError;
use crate::pki::PkiError;

/// What went wrong, for people and programs (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// Which problem: a URN that does not change.
    #[serde(rename = "type")]
    #[schema(example = "urn:galley:problem:name-taken")]
    pub kind: String,
    /// The problem in a few words, the same for all of its kind.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened this time, and where.
    pub detail: String,
    /// The field of the request body that is at fault, as a JSON pointer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/name")]
    pub pointer: Option<String>,
}

impl Problem {
    fn new(status: StatusCode, kind: &str, title: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:galley:problem:{kind}"),
            title: title.into(),
            status: status.as_u16(),
            detail: detail.into(),
            pointer: None,
        }
    }

    /// 401: no token, or none that is known.
    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "Unauthorized",
            "send a valid token as 'Authorization: Bearer <token>'",
        )
    }

    /// 404.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    /// 404 for a cluster: also when it is another tenant's.
    pub fn cluster_not_found(id: &str) -> Self {
        Self::not_found(format!("there is no cluster {id:?}"))
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", "see /v1/openapi.json")
    }

    /// 400: the body cannot be read at all.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", "Bad request", detail)
    }

    /// 422: a field does not hold what it must.
    pub fn invalid(pointer: &str, detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-field", "Invalid field", detail);
        Self { pointer: Some(pointer.into()), ..problem }
    }

    fn conflict(kind: &str, title: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, kind, title, detail)
    }

    /// 403: the join token was good for one machine, and that was another one (or this one, before).
    pub fn join_token_used(at: Timestamp, by: &str) -> Self {
        let detail = format!("this token was used {at} by the node {by:?}: each machine needs its own");
        Self::join_refused("join-token-used", detail)
    }

    /// 403: the join token was not used in time.
    pub fn join_token_expired(at: Timestamp) -> Self {
        Self::join_refused("join-token-expired", format!("this token expired {at}: make another one"))
    }

    /// 403: nobody made the join token, or its cluster is gone.
    pub fn join_token_unknown() -> Self {
        let detail = "there is no such token, or its cluster was deleted: make another one";
        Self::join_refused("join-token-unknown", detail)
    }

    fn join_refused(kind: &str, detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::FORBIDDEN, kind, "Join refused", detail);
        Self { pointer: Some("/token".into()), ..problem }
    }

    /// 500, with nothing of the inside in it.
    fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Internal error",
            "the server failed to answer; its log says why",
        )
    }

    fn unavailable() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "Unavailable",
            "the store cannot be reached; nothing was changed; try again",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::ClusterNameTaken { name, .. } => {
                Self::conflict("name-taken", "Name taken", format!("a cluster named {name:?} already exists"))
            }
            StoreError::TenantNameTaken(name) => {
                Self::conflict("name-taken", "Name taken", format!("a tenant named {name:?} already exists"))
            }
            StoreError::ClusterNotFound(id) => Self::cluster_not_found(&id.to_string()),
            StoreError::BadContinuation(_) => Self::bad_request(error.to_string()),
            StoreError::TenantNotFound(_) => Self::unauthorized(),
            StoreError::Unavailable(_)
            | StoreError::NotOwner { .. }
            | StoreError::NoRoom { .. }
            | StoreError::Closed => {
                tracing::warn!(error = &error as &dyn std::error::Error, "management request failed");
                Self::unavailable()
            }
            StoreError::Key(_) => {
                tracing::error!(error = &error as &dyn std::error::Error, "management request failed");
                Self::internal()
            }
        }
    }
}

impl From<LifeError> for Problem {
    fn from(error: LifeError) -> Self {
        match error {
            LifeError::Store(error) => error.into(),
            LifeError::Owner(_) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "management request failed");
                Self::unavailable()
            }
            LifeError::Bootstrap(_) => {
                tracing::error!(error = &error as &dyn std::error::Error, "management request failed");
                Self::internal()
            }
        }
    }
}

impl From<PkiError> for Problem {
    fn from(error: PkiError) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "management request failed");
        Self::internal()
    }
}
