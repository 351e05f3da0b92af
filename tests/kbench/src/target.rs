//! The server under load, and the objects that are sent to it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, bail};
use bytes::Bytes;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

/// Where requests go, and as whom.
#[derive(Clone)]
pub struct Target(Arc<Inner>);

struct Inner {
    http: Client,
    root: String,
    token: String,
    namespace: String,
}

impl Target {
    /// Certificates are not checked: what is measured is on this machine.
    pub fn new(server: &str, token: &str, namespace: &str, address: Option<SocketAddr>) -> Result<Self> {
        let mut builder = Client::builder()
            .danger_accept_invalid_certs(true)
            .http1_only()
            .pool_max_idle_per_host(4096)
            .tcp_nodelay(true)
            .no_proxy();
        if let Some(address) = address {
            let host = server.split("://").nth(1).unwrap_or(server).split(['/', ':']).next().unwrap_or_default();
            builder = builder.resolve(host, address);
        }
        Ok(Self(Arc::new(Inner {
            http: builder.build()?,
            root: server.trim_end_matches('/').into(),
            token: token.into(),
            namespace: namespace.into(),
        })))
    }

    /// A request to a path.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.anonymous(method, path);
        if self.0.token.is_empty() { request } else { request.bearer_auth(&self.0.token) }
    }

    /// A request without a token.
    pub fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.0.http.request(method, format!("{}{path}", self.0.root))
    }

    /// `/api/v1/namespaces/<namespace>/<resource>`.
    pub fn core(&self, resource: &str) -> String {
        format!("/api/v1/namespaces/{}/{resource}", self.0.namespace)
    }

    /// `/apis/apps/v1/namespaces/<namespace>/<resource>`.
    pub fn apps(&self, resource: &str) -> String {
        format!("/apis/apps/v1/namespaces/{}/{resource}", self.0.namespace)
    }

    /// Sends a body; fails on anything but success.
    pub async fn send(&self, method: Method, path: &str, kind: &str, body: &Value) -> Result<()> {
        self.exchange(method, path, kind, body).await.map(drop)
    }

    async fn exchange(&self, method: Method, path: &str, kind: &str, body: &Value) -> Result<Bytes> {
        let request = self.request(method, path).header("content-type", kind).body(body.to_string());
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.bytes().await?;
        if !status.is_success() {
            bail!("{status} {}", String::from_utf8_lossy(&text[..text.len().min(300)]));
        }
        Ok(text)
    }

    /// Creates; the answer.
    pub async fn make(&self, path: &str, body: &Value) -> Result<Value> {
        Ok(serde_json::from_slice(&self.exchange(Method::POST, path, "application/json", body).await?)?)
    }

    /// Creates.
    pub async fn post(&self, path: &str, body: &Value) -> Result<()> {
        self.send(Method::POST, path, "application/json", body).await
    }

    /// The body of a GET.
    pub async fn get(&self, path: &str) -> Result<Value> {
        Ok(self.request(Method::GET, path).send().await?.json().await?)
    }

    /// The resourceVersion of a list.
    pub async fn revision(&self, path: &str) -> Result<String> {
        let list = self.get(&format!("{path}?limit=1")).await?;
        Ok(list["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned())
    }
}

/// A small pod, in one of 50 groups.
pub fn pod(name: &str, shape: &str, number: usize) -> Value {
    let group = format!("g{}", number % 50);
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "bench", "g": group}},
        "spec": {"tolerations": [{"operator": "Exists"}], "containers": [{
            "name": "c", "image": "galley.dev/pause:1", "resources": {"requests": {"cpu": "10m", "memory": "10Mi"}},
        }]},
    });
    if shape == "antiaffinity" {
        pod["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
            "labelSelector": {"matchLabels": {"g": group}}, "topologyKey": "kubernetes.io/hostname",
        }]}});
    }
    pod
}

/// A ConfigMap of about a third of a KiB that says when it was written.
pub fn config_map(name: &str, microseconds: u64) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "annotations": {"t": microseconds.to_string()}}, "data": {"k": "v".repeat(256)},
    })
}

/// A node with room for 110 pods, in one of three zones.
pub fn node(name: &str, number: usize) -> Value {
    let capacity = json!({"cpu": "32", "memory": "64Gi", "pods": "110"});
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("z{}", number % 3),
        }},
        "status": {"allocatable": capacity, "capacity": capacity, "conditions": [{"type": "Ready", "status": "True"}]},
    })
}
