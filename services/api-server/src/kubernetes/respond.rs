//! Reading bodies and writing answers.

use std::time::Duration;

use bytes::Bytes;
use galley_kube::{Reason, Status, protobuf};
use galley_pipeline::Body as Input;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT, WARNING};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use serde_json::Value;

use super::negotiate::{self, Format};
use super::query::Query;
use crate::body::Body;
use crate::flow::Flow;

/// The largest request body: what Kubernetes takes.
const MAX_BODY: usize = 3 * 1024 * 1024;
/// A client that sends its body for longer is not sending it: Kubernetes' request timeout. What it holds is needed.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// A whole body, or 413; 429 if all bodies under way are too much together.
pub async fn read(flow: &Flow, mut body: Body) -> Result<Bytes, Status> {
    // One that says its length is counted before its first byte is read.
    let said = usize::try_from(body.size_hint().exact().unwrap_or(0)).unwrap_or(usize::MAX);
    check_size(said)?;
    flow.body(said)?;
    let read = async {
        let (mut counted, mut frames, mut size) = (said, Vec::new(), 0);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Status::bad_request(format!("the body cannot be read: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            size += data.len();
            check_size(size)?;
            if size > counted {
                flow.body(size - counted)?;
                counted = size;
            }
            frames.push(data);
        }
        Ok(match frames.as_slice() {
            [one] => one.clone(),
            _ => frames.concat().into(),
        })
    };
    tokio::time::timeout(BODY_TIMEOUT, read).await.unwrap_or_else(|_| {
        let text = format!("the request's body was not sent within {} seconds", BODY_TIMEOUT.as_secs());
        Err(Status::new(408, Reason::Timeout, text))
    })
}

fn check_size(size: usize) -> Result<(), Status> {
    if size <= MAX_BODY {
        return Ok(());
    }
    let text = format!("Request entity too large: limit is {MAX_BODY}");
    Err(Status::new(413, Reason::RequestEntityTooLarge, text))
}

/// A body for the pipeline.
pub async fn input(flow: &Flow, request: Request<Body>) -> Result<Input, Status> {
    let format = negotiate::format(request.headers())?;
    let bytes = read(flow, request.into_body()).await?;
    match format {
        _ if bytes.is_empty() => Ok(Input::Bytes(bytes)),
        Format::Json => Ok(Input::Bytes(bytes)),
        Format::Yaml => yaml(&bytes).map(Input::Value),
        Format::Protobuf => protobuf::decode(&bytes).map(|message| Input::Value(message.value)),
    }
}

/// A body as a tree.
pub async fn tree(flow: &Flow, request: Request<Body>) -> Result<Value, Status> {
    match input(flow, request).await? {
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
