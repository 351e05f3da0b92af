//! HTTP to the servers, and ConfigMaps from and to JSON.

use std::time::Duration;

use galley_history::{Selector, State};
use rand::Rng as _;
use rand::rngs::SmallRng;
use reqwest::{Certificate, Method, Response};
use serde_json::{Value, json};

/// A request that takes longer than this has an unknown outcome.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A server that does not even accept is not waited for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Objects of the workload are called so; others (`kube-root-ca.crt`) are somebody else's.
const PREFIXES: [&str; 2] = ["o-", "end-"];

/// The server to be checked.
#[derive(Debug, Clone)]
pub struct Target {
    /// Roots of the API, as `https://127.0.0.1:6443` or with a path prefix; several are replicas of one server.
    pub urls: Vec<String>,
    /// Bearer token; empty: none.
    pub token: String,
    /// The CA of the servers' certificates, in PEM. `None`: certificates are not checked.
    pub ca: Option<String>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// No URL.
    #[error("no server was named")]
    NoServer,
    /// The CA is no certificate, or TLS cannot be set up.
    #[error("the HTTP client cannot be made")]
    Client(#[source] reqwest::Error),
}

/// What came back.
#[derive(Debug)]
pub(crate) enum Answer {
    /// 2xx and its JSON.
    Ok(Value),
    /// Another status code, with its `Status`.
    Status { code: u16, status: Value },
    /// Nothing that can be read.
    Lost(String),
}

/// One client's access to all servers.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    urls: Vec<String>,
    token: String,
    namespace: String,
}

impl Client {
    pub fn new(target: &Target, namespace: &str) -> Result<Self, TargetError> {
        if target.urls.is_empty() {
            return Err(TargetError::NoServer);
        }
        let mut builder = reqwest::Client::builder()
            .http1_only()
            .tcp_nodelay(true)
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent("history-check");
        builder = match &target.ca {
            Some(pem) => {
                let certificate = Certificate::from_pem(pem.as_bytes()).map_err(TargetError::Client)?;
                builder.tls_built_in_root_certs(false).add_root_certificate(certificate)
            }
            None => builder.danger_accept_invalid_certs(true),
        };
        Ok(Self {
            http: builder.build().map_err(TargetError::Client)?,
            urls: target.urls.iter().map(|url| url.trim_end_matches('/').to_owned()).collect(),
            token: target.token.clone(),
            namespace: namespace.to_owned(),
        })
    }

    /// `/api/v1/namespaces/<namespace>/configmaps` and what follows.
    pub fn path(&self, rest: &str) -> String {
        format!("/api/v1/namespaces/{}/configmaps{rest}", self.namespace)
    }

    /// One request to one of the servers.
    pub async fn send(
        &self,
        rng: &mut SmallRng,
        method: Method,
        path: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Answer {
        let url = format!("{}{path}", self.urls[rng.random_range(0..self.urls.len())]);
        let mut request = self.http.request(method, url).timeout(TIMEOUT);
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some(body) = body {
            request = request.header("content-type", content_type).body(body.to_string());
        }
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return Answer::Lost(said(&error)),
        };
        let code = answer.status();
        match answer.bytes().await {
            Ok(bytes) => {
                let value = serde_json::from_slice(&bytes);
                match value {
                    Ok(value) if code.is_success() => Answer::Ok(value),
                    Ok(status) => Answer::Status { code: code.as_u16(), status },
                    Err(_) if code.is_success() => Answer::Lost("the answer is not JSON".into()),
                    Err(_) => Answer::Status { code: code.as_u16(), status: Value::Null },
                }
            }
            Err(error) => Answer::Lost(said(&error)),
        }
    }

    /// Opens a watch.
    pub async fn watch(&self, rng: &mut SmallRng, query: &str) -> Result<Response, Answer> {
        let root = &self.urls[rng.random_range(0..self.urls.len())];
        let mut request = self.http.get(format!("{root}{}", self.path(query)));
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        // The stream has its own, longer end.
        let opened = match tokio::time::timeout(TIMEOUT, request.send()).await {
            Ok(opened) => opened.map_err(|error| Answer::Lost(said(&error)))?,
            Err(_) => return Err(Answer::Lost("not opened in time".into())),
        };
        let code = opened.status();
        if code.is_success() {
            return Ok(opened);
        }
        let status = match tokio::time::timeout(TIMEOUT, opened.bytes()).await {
            Ok(Ok(bytes)) => serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            _ => Value::Null,
        };
        Err(Answer::Status { code: code.as_u16(), status })
    }

    /// Makes the namespace; one that is there will do.
    pub async fn namespace_create(&self, rng: &mut SmallRng) -> Answer {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}});
        self.send(rng, Method::POST, "/api/v1/namespaces", "application/json", Some(&body)).await
    }

    /// Deletes it with everything in it.
    pub async fn namespace_delete(&self, rng: &mut SmallRng) -> Answer {
        let path = format!("/api/v1/namespaces/{}", self.namespace);
        self.send(rng, Method::DELETE, &path, "application/json", None).await
    }
}

impl Answer {
    /// In a few words.
    pub fn tell(&self) -> String {
        match self {
            Self::Ok(_) => "ok".into(),
            Self::Status { code, status } => {
                format!("{code} {}", status["message"].as_str().unwrap_or_default())
            }
            Self::Lost(why) => why.clone(),
        }
    }

    /// 404 for this object, and not for something on the way to it.
    pub fn is_absent(&self, name: &str) -> bool {
        matches!(self, Self::Status { code: 404, status }
            if status["reason"] == "NotFound" && status["details"]["name"] == name)
    }
}

/// An error and its causes: reqwest's own text does not name them.
fn said(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// A resourceVersion.
pub(crate) fn version_of(value: &Value) -> Option<u64> {
    value["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

/// A ConfigMap of the workload.
pub(crate) fn state_of(object: &Value) -> Option<State> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    Some(State {
        name: text("/metadata/name")?,
        uid: text("/metadata/uid")?,
        version: version_of(object)?,
        value: text("/data/value").unwrap_or_default(),
        half: text("/metadata/labels/half").unwrap_or_default(),
    })
}

/// Whether an object is of the workload.
pub(crate) fn is_ours(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// A ConfigMap as it is sent.
pub(crate) fn config_map(name: &str, value: &str, half: &str, version: Option<u64>) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"half": half}}, "data": {"value": value},
    });
    if let Some(version) = version {
        object["metadata"]["resourceVersion"] = json!(version.to_string());
    }
    object
}

/// A selector as query parameters, each with a leading `&`.
pub(crate) fn selector_query(of: &Selector) -> String {
    let mut query = String::new();
    if let Some(half) = &of.half {
        query.push_str(&format!("&labelSelector=half%3D{half}"));
    }
    if let Some(name) = &of.name {
        query.push_str(&format!("&fieldSelector=metadata.name%3D{name}"));
    }
    query
}
