//! Answers that say why a node could not be reached or refused, in the shapes that kubectl prints well.

use galley_kube::{Reason, Status};
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde_json::json;

use super::forward::ForwardError;
use crate::body::{Body, json_response, status_response};

/// A kubelet's refusal is a line of text.
const MAX_REFUSAL_BYTES: usize = 16 * 1024;

pub(crate) fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

pub(crate) fn redirect(location: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// A 500 without a reason: kubectl prints `Error from server: error dialing backend: ...`.
pub(crate) fn dialing_failed(error: &ForwardError) -> Response<Body> {
    json_response(
        StatusCode::INTERNAL_SERVER_ERROR,
        &json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": format!("error dialing backend: {error}"), "code": 500,
        }),
    )
}

/// Turns a kubelet's refusal in plain text into a `Status`.
pub(crate) async fn with_status_errors(response: Response<Body>) -> Response<Body> {
    let status = response.status();
    if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
        return response;
    }
    let is_json = response.headers().get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/json"));
    if is_json {
        return response;
    }
    let text = match Limited::new(response.into_body(), MAX_REFUSAL_BYTES).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Err(_) => String::new(),
    };
    let text = if text.is_empty() { format!("the node answered {status}") } else { text };
    status_response(&match status {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::NOT_FOUND => Status::new(404, Reason::NotFound, text),
        _ => Status::internal(text),
    })
}
