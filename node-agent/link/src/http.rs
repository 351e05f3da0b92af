//! One request on a connection of its own, with JSON both ways: what joining and renewing need.

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

/// No answer to these requests is longer.
const ANSWER_BYTES: usize = 1 << 20;

/// Why a request was not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The connection failed.
    #[error("the connection broke")]
    Connection(#[source] hyper::Error),
    /// The answer's body broke off, or is too long.
    #[error("the answer cannot be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server says no; its words.
    #[error("the server refuses ({status}): {detail}")]
    Refused { status: StatusCode, detail: String },
    /// The answer is not what was asked for.
    #[error("the server's answer is not understood")]
    Shape(#[source] serde_json::Error),
}

/// Posts `body` to `path`.
pub async fn post<T, B, A>(io: T, host: &str, path: &str, body: &B) -> Result<A, HttpError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: Serialize,
    A: DeserializeOwned,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(HttpError::Connection)?;
    let body = serde_json::to_vec(body).map_err(HttpError::Shape)?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(body)));
    let Ok(request) = request else { unreachable!("constant parts and a host from a URL make a request") };
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(HttpError::Connection)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await.map_err(HttpError::Body)?.to_bytes();
    drop(sender);
    connection.abort();
    if !status.is_success() {
        return Err(HttpError::Refused { status, detail: detail(&body) });
    }
    serde_json::from_slice(&body).map_err(HttpError::Shape)
}

/// A problem document's words (RFC 9457), or the text as it is.
fn detail(body: &[u8]) -> String {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let words = ["detail", "title", "message"].iter().find_map(|key| problem.get(key)?.as_str());
    words.map_or_else(|| String::from_utf8_lossy(body).chars().take(200).collect(), str::to_owned)
}
