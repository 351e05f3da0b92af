//! Joining a cluster, and staying in it: what is asked of the control plane outside of the tunnel.
//!
//! ```text
//! stage 1  connect          is anybody there, and is it the one whose key the command names?
//! stage 2  ask              is the token good? It is used up from here on
//! stage 3  keep             the certificate is on disk
//! stage 4  (the link)       the connection that stays; then the Node says for itself why it is not ready
//! ```
//! Each is logged, and an error names its stage: who runs the command on a machine sees nothing else of the cluster.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};

use crate::http::{HttpError, post};
use crate::identity::{Identity, IdentityError};
use crate::tls::{self, CaHash, TlsError};

/// From connecting to the answer. Signing takes the server a millisecond.
const LIMIT: Duration = Duration::from_secs(30);

/// What joining needs.
#[derive(Debug, Clone)]
pub struct JoinOptions {
    /// `https://HOST:PORT`.
    pub server: String,
    /// The one-time token; not needed by a machine that has joined.
    pub token: Option<String>,
    /// Whom to believe before anything is known.
    pub ca_hash: CaHash,
    pub node_name: String,
    /// Where the identity is kept.
    pub data_dir: PathBuf,
}

/// Why the machine is not in the cluster. Each says which step failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The identity cannot be read.
    #[error("the node's identity")]
    Identity(#[from] IdentityError),
    /// The identity cannot be kept. The token is used up all the same.
    #[error("stage 3, keeping the certificate, failed")]
    Keep(#[source] IdentityError),
    /// This machine is another node already.
    #[error("this machine is the node `{found}` already; give that name, or another data directory")]
    OtherNode { found: String },
    /// There is no identity, and no token to get one.
    #[error("this machine has not joined yet: a token is needed (galley node join-command)")]
    NoToken,
    /// The certificate ran out while the machine was off.
    #[error("the node's certificate is expired: a new token is needed (galley node join-command)")]
    Expired,
    /// No key could be made.
    #[error("a key cannot be made")]
    Key(#[source] rcgen::Error),
    /// The control plane cannot be reached, or is not the one that is meant.
    #[error("stage 1, connecting to the control plane {server}, failed")]
    Connect {
        server: String,
        #[source]
        source: TlsError,
    },
    /// The control plane refuses.
    #[error("stage 2, asking {server} for a certificate for the node `{node}`, failed")]
    Ask {
        server: String,
        node: String,
        #[source]
        source: HttpError,
    },
    /// It took too long.
    #[error("{server} did not answer in {} s", LIMIT.as_secs())]
    Slow { server: String },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JoinRequest<'a> {
    token: &'a str,
    node_name: &'a str,
    csr: String,
}

#[derive(Serialize)]
struct RenewRequest {
    csr: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JoinAnswer {
    cluster_id: String,
    cluster_name: String,
    server: String,
    server_name: String,
    certificate: String,
    ca: String,
    service_cidr: String,
    cluster_dns: String,
    cluster_domain: String,
}

/// A new key, and the request for a certificate for it.
fn request(node_name: &str) -> Result<(String, String), JoinError> {
    let key = KeyPair::generate().map_err(JoinError::Key)?;
    let mut params = CertificateParams::new(Vec::new()).map_err(JoinError::Key)?;
    // The server decides what the certificate says; this is for whoever reads its log.
    let mut name = DistinguishedName::new();
    name.push(rcgen::DnType::OrganizationName, "system:nodes");
    name.push(rcgen::DnType::CommonName, format!("system:node:{node_name}"));
    params.distinguished_name = name;
    let csr = params.serialize_request(&key).and_then(|request| request.pem()).map_err(JoinError::Key)?;
    Ok((key.serialize_pem(), csr))
}

fn identity(node_name: &str, server: &str, key: String, answer: JoinAnswer) -> Identity {
    Identity {
        node_name: node_name.into(),
        cluster_id: answer.cluster_id,
        cluster_name: answer.cluster_name,
        // Where the node reached the server, it will reach it again; the server's own idea may be of another network.
        server: if server.is_empty() { answer.server } else { server.into() },
        server_name: answer.server_name,
        service_cidr: answer.service_cidr,
        cluster_dns: answer.cluster_dns,
        cluster_domain: answer.cluster_domain,
        ca: answer.ca,
        certificate: answer.certificate,
        key,
    }
}

/// Who is asked what, and for which node.
struct Question<'a> {
    server: &'a str,
    node: &'a str,
    /// What the server's certificate must be for.
    name: &'a str,
    path: &'a str,
}

impl Question<'_> {
    /// Asks, on a connection of its own.
    async fn ask<B: Serialize>(
        &self,
        config: Result<Arc<ClientConfig>, TlsError>,
        body: &B,
    ) -> Result<JoinAnswer, JoinError> {
        let server = || self.server.to_owned();
        let connect = async {
            let (address, _) = tls::address(self.server)?;
            tls::connect(config?, &address, self.name).await
        };
        let asked = async {
            let stream = connect.await.map_err(|source| JoinError::Connect { server: server(), source })?;
            tracing::info!(server = self.server, node = self.node, "stage 2: asking for a certificate");
            post(stream, self.name, self.path, body).await.map_err(|source| JoinError::Ask {
                server: server(),
                node: self.node.to_owned(),
                source,
            })
        };
        tokio::time::timeout(LIMIT, asked).await.unwrap_or_else(|_| Err(JoinError::Slow { server: server() }))
    }
}

/// The machine's identity: the one it has, or a new one for the token. The token is used up by the first success, so it is asked for
/// only when it is needed.
pub async fn join(options: &JoinOptions, now: Timestamp) -> Result<Identity, JoinError> {
    let saved = Identity::load(&options.data_dir)?;
    if let Some(mut saved) = saved {
        if saved.node_name != options.node_name {
            return Err(JoinError::OtherNode { found: saved.node_name });
        }
        if !saved.is_expired(now) {
            tracing::info!(node = saved.node_name, cluster = saved.cluster_name, "this machine has joined before");
            // The control plane may have moved.
            saved.server.clone_from(&options.server);
            return Ok(saved);
        }
        if options.token.is_none() {
            return Err(JoinError::Expired);
        }
    }
    let token = options.token.as_deref().filter(|token| !token.is_empty()).ok_or(JoinError::NoToken)?;
    let (server, node) = (options.server.as_str(), options.node_name.as_str());
    let wrong = |source| JoinError::Connect { server: server.to_owned(), source };
    let (_, host) = tls::address(server).map_err(wrong)?;
    let (key, csr) = request(node)?;
    tracing::info!(server, ca_hash = ?options.ca_hash, "stage 1: connecting to the control plane");
    let question = Question { server, node, name: &host, path: "/v1/join" };
    let answer = question.ask(tls::pinned(options.ca_hash), &JoinRequest { token, node_name: node, csr }).await?;
    let identity = identity(node, server, key, answer);
    identity.save(&options.data_dir).map_err(JoinError::Keep)?;
    let Identity { cluster_name, cluster_id, .. } = &identity;
    tracing::info!(node, cluster = cluster_name, id = cluster_id, "stage 3: this machine has joined the cluster");
    Ok(identity)
}

/// A new certificate, for a new key.
pub(crate) async fn renew(old: &Identity) -> Result<Identity, JoinError> {
    let (key, csr) = request(&old.node_name)?;
    let question = Question { server: &old.server, node: &old.node_name, name: &old.server_name, path: "/v1/renew" };
    let answer = question.ask(tls::mutual(old), &RenewRequest { csr }).await?;
    Ok(identity(&old.node_name, &old.server, key, answer))
}
