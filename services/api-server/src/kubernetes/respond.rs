//! Reading bodies and writing answers.

use bytes::Bytes;
use galley_kube::{Reason, Status, protobuf};
use galley_pipeline::Body as Input;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT, WARNING};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;

use super::negotiate::{self, Format};
use super::query::Query;
use crate::body::Body;

/// The largest request body: what Kubernetes takes.
const MAX_BODY: usize = 3 * 1024 * 1024;

/// A whole body, or 413.
pub async fn read(body: Body) -> Result<Bytes, Status> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => Err(Status::new(
            413,
            Reason::RequestEntityTooLarge,
            format!("Request entity too large: limit is {MAX_BODY}"),
        )),
        Err(error) => Err(Status::bad_request(format!("the body cannot be read: {error}"))),
    }
}

/// A body for the pipeline.
pub async fn input(request: Request<Body>) -> Result<Input, Status> {
    let format = negotiate::format(request.headers())?;
    let bytes = read(request.into_body()).await?;
    match format {
        _ if bytes.is_empty() => Ok(Input::Bytes(bytes)),
        Format::Json => Ok(Input::Bytes(bytes)),
        Format::Yaml => yaml(&bytes).map(Input::Value),
        Format::Protobuf => protobuf::decode(&bytes).map(|message| Input::Value(message.value)),
    }
}

/// A body as a tree.
pub async fn tree(request: Request<Body>) -> Result<Value, Status> {
    match input(request).await? {
        Input::Value(value) => Ok(value),
        Input::Bytes(bytes) if bytes.is_empty() => Ok(Value::Null),
        Input::Bytes(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| Status::bad_request(format!("couldn't get version/kind; json parse error: {error}"))),
    }
}

/// YAML as JSON.
pub fn yaml(bytes: &[u8]) -> Result<Value, Status> {
    serde_yaml_ng::from_slice(bytes).map_err(|error| Status::bad_request(format!("error decoding YAML: {error}")))
}

/// How an answer is written: indented for people.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    pretty: bool,
}

impl Style {
    /// By `?pretty`, and for clients that are people.
    pub fn of(query: &Query, headers: &HeaderMap) -> Self {
        let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let person = ["curl", "Wget", "Mozilla/5.0"].iter().any(|name| agent.starts_with(name));
        Self { pretty: query.optional_flag("pretty").unwrap_or(person) }
    }

    /// JSON that is encoded already.
    pub fn bytes(self, code: StatusCode, bytes: Bytes) -> Response<Body> {
        let bytes = if self.pretty {
            serde_json::from_slice::<Value>(&bytes)
                .and_then(|value| serde_json::to_vec_pretty(&value))
                .map(Bytes::from)
                .unwrap_or(bytes)
        } else {
            bytes
        };
        let mut response = Response::new(Body::from(bytes));
        *response.status_mut() = code;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    /// A tree.
    pub fn value(self, code: StatusCode, value: &Value) -> Response<Body> {
        let bytes = serde_json::to_vec(value).unwrap_or_default();
        self.bytes(code, bytes.into())
    }
}

/// Adds `Warning` headers, which kubectl prints.
pub fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let quoted: String = warning
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(|c| if matches!(c, '"' | '\\') { vec!['\\', c] } else { vec![c] })
            .collect();
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

/// A header as text.
pub fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// 404 for what no path names.
pub fn not_found() -> Status {
    Status::new(404, Reason::NotFound, "the server could not find the requested resource")
}

/// 405.
pub fn not_allowed() -> Status {
    Status::new(405, Reason::MethodNotAllowed, "the server does not allow this method on the requested resource")
}
