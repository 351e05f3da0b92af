//! HTTPS to the management API. A refusal's problem document becomes the error's text.

use std::path::Path;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No `--ca`, so nothing to check the server with.
    #[error("name the certificate that the installation's is signed with: --ca FILE or GALLEY_CA")]
    NoCa,
    /// The file is missing or no certificate.
    #[error("cannot use the certificate file {path:?}")]
    Ca {
        /// As given.
        path: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// `--server` is no URL.
    #[error("{url:?} is not a URL")]
    Url {
        /// As built.
        url: String,
        /// Why.
        #[source]
        source: http::Error,
    },
    /// No connection, or it broke.
    #[error("no answer from {server}")]
    Connect {
        /// As given.
        server: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server refused.
    #[error("{detail} ({status})")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// The problem's detail.
        detail: String,
    },
    /// The server's answer is not what the API promises.
    #[error("the answer is not JSON")]
    Answer(#[source] serde_json::Error),
    /// Neither an id nor a name.
    #[error("there is no cluster {0:?}")]
    NoCluster(String),
}

/// A connection to one installation, as one tenant.
pub struct Client {
    http: hyper_util::client::legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    server: String,
    token: String,
}

impl Client {
    /// Nothing is sent yet.
    pub fn new(server: &str, token: &str, ca: Option<&Path>) -> Result<Self, Error> {
        let ca = ca.ok_or(Error::NoCa)?;
        let unusable = |source| Error::Ca { path: ca.display().to_string(), source };
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca).map_err(|e| unusable(e.into()))? {
            let certificate = certificate.map_err(|e| unusable(e.into()))?;
            roots.add(certificate).map_err(|e| unusable(e.into()))?;
        }
        let tls = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|e| unusable(e.into()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector =
            hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { http, server: server.trim_end_matches('/').to_owned(), token: token.to_owned() })
    }

    /// The answer's body.
    pub async fn text(&self, method: Method, path: &str, body: Option<&Value>) -> Result<String, Error> {
        let url = format!("{}{path}", self.server);
        let body = body.map_or_else(Bytes::new, |b| b.to_string().into());
        let request = Request::builder()
            .method(method)
            .uri(&url)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|source| Error::Url { url, source })?;
        let lost = |source| Error::Connect { server: self.server.clone(), source };
        let answer = self.http.request(request).await.map_err(|e| lost(e.into()))?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await.map_err(|e| lost(e.into()))?.to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if status.is_success() {
            return Ok(text);
        }
        let problem: Value = serde_json::from_str(&text).unwrap_or_default();
        let detail = problem["detail"].as_str().map_or_else(|| text.trim().to_owned(), str::to_owned);
        Err(Error::Refused { status, detail })
    }

    /// The answer's body, as JSON.
    pub async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Error> {
        serde_json::from_str(&self.text(method, path, body).await?).map_err(Error::Answer)
    }
}
