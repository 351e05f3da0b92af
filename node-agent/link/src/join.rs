//! Joining a cluster, and staying in it: what is asked of the control plane outside of the tunnel.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
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
    /// The identity cannot be kept.
    #[error("the node's identity")]
    Identity(#[from] IdentityError),
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
    #[error("connect to the control plane")]
    Connect(#[source] TlsError),
    /// The control plane refuses.
    #[error("ask the control plane for a certificate")]
    Ask(#[source] HttpError),
    /// It took too long.
    #[error("the control plane did not answer in {} s", LIMIT.as_secs())]
    Slow,
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

async fn limited<T>(work: impl Future<Output = Result<T, JoinError>>) -> Result<T, JoinError> {
    tokio::time::timeout(LIMIT, work).await.unwrap_or(Err(JoinError::Slow))
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
            // The control plane may have moved.
            saved.server.clone_from(&options.server);
            return Ok(saved);
        }
        if options.token.is_none() {
            return Err(JoinError::Expired);
        }
    }
    let token = options.token.as_deref().filter(|token| !token.is_empty()).ok_or(JoinError::NoToken)?;
    let (address, host) = tls::address(&options.server).map_err(JoinError::Connect)?;
    let (key, csr) = request(&options.node_name)?;
    let answer: JoinAnswer = limited(async {
        let config = tls::pinned(options.ca_hash).map_err(JoinError::Connect)?;
        let stream = tls::connect(config, &address, &host).await.map_err(JoinError::Connect)?;
        let body = JoinRequest { token, node_name: &options.node_name, csr };
        post(stream, &address, "/v1/join", &body).await.map_err(JoinError::Ask)
    })
    .await?;
    let identity = identity(&options.node_name, &options.server, key, answer);
    identity.save(&options.data_dir)?;
    Ok(identity)
}

/// A new certificate, for a new key.
pub(crate) async fn renew(old: &Identity) -> Result<Identity, JoinError> {
    let (address, _) = tls::address(&old.server).map_err(JoinError::Connect)?;
    let (key, csr) = request(&old.node_name)?;
    let answer: JoinAnswer = limited(async {
        let config = tls::mutual(old).map_err(JoinError::Connect)?;
        let stream = tls::connect(config, &address, &old.server_name).await.map_err(JoinError::Connect)?;
        post(stream, &old.server_name, "/v1/renew", &RenewRequest { csr }).await.map_err(JoinError::Ask)
    })
    .await?;
    Ok(identity(&old.node_name, &old.server, key, answer))
}
