//! Bodies and answers that every part of the server makes.

use galley_kube::Status;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

/// A request's or response's body.
pub type Body = axum::body::Body;

/// JSON with this status code.
pub fn json_response<T: Serialize>(code: StatusCode, value: &T) -> Response<Body> {
    typed_response(code, "application/json", value)
}

pub(crate) fn typed_response<T: Serialize>(code: StatusCode, content_type: &'static str, value: &T) -> Response<Body> {
    // Everything that is answered so is a struct of strings and numbers.
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A failed request of the Kubernetes API.
pub fn status_response(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(code, &status.to_value());
    if status.retry_after_seconds > 0 {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(status.retry_after_seconds));
    }
    response
}
