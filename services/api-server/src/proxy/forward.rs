//! Sending a request through a tunnel, and joining what it is upgraded to.

use galley_tunnel::{Header, HeaderError, OpenError, TunnelStream, read_line};
use galley_types::ClusterId;
use http::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

use super::target::{Target, Via};
use crate::body::Body;
use crate::relay;
use crate::tls;
use crate::tunnel::TunnelHub;

/// A node that is there answers at once; its own dialling takes longer.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a request did not reach its target. The texts reach users of kubectl, after `error dialing backend: `.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error("node {0:?} is not connected to the control plane")]
    NoTunnel(String),
    #[error("the connection to node {node:?} failed: {source}")]
    Tunnel {
        node: String,
        #[source]
        source: OpenError,
    },
    #[error("node {node:?} did not answer")]
    Silent { node: String },
    #[error("the connection to node {node:?} failed: {source}")]
    Answer {
        node: String,
        #[source]
        source: HeaderError,
    },
    #[error("dial tcp {address}: {why}")]
    Refused { address: String, why: String },
    #[error("tls to {address}: {source}")]
    Tls {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the node's answer is unusable: {0}")]
    Http(#[from] hyper::Error),
}

/// Sends `request` to `target`; its answer may be a 101, whose bytes are then joined to the client's.
pub(crate) async fn send(
    hub: &TunnelHub,
    cluster: ClusterId,
    target: Target,
    request: Request<Body>,
) -> Result<Response<Body>, ForwardError> {
    let node = target.node.clone();
    let opener = hub.opener(cluster, &node).ok_or_else(|| ForwardError::NoTunnel(node.clone()))?;
    let open = async |header: Header| {
        tokio::time::timeout(DIAL_TIMEOUT, opener.open(&header.to_string()))
            .await
            .map_err(|_| ForwardError::Silent { node: node.clone() })?
            .map_err(|source| ForwardError::Tunnel { node: node.clone(), source })
    };
    match target.via {
        Via::Kubelet => {
            let stream = open(Header::Kubelet).await?;
            exchange(stream, target.path, HeaderValue::from_static("kubelet"), request).await
        }
        Via::Address { host, port, tls } => {
            let address = format!("{host}:{port}");
            let mut stream = open(Header::Dial { host: host.clone(), port }).await?;
            dialled(&mut stream, &node, &address).await?;
            let authority = HeaderValue::from_str(&address).unwrap_or_else(|_| HeaderValue::from_static("pod"));
            if tls {
                let stream = over_tls(stream, &host, &address).await?;
                exchange(stream, target.path, authority, request).await
            } else {
                exchange(stream, target.path, authority, request).await
            }
        }
    }
}

/// The node says whether it could connect.
async fn dialled(stream: &mut TunnelStream, node: &str, address: &str) -> Result<(), ForwardError> {
    let line = tokio::time::timeout(DIAL_TIMEOUT, read_line(stream))
        .await
        .map_err(|_| ForwardError::Silent { node: node.to_owned() })?
        .map_err(|source| ForwardError::Answer { node: node.to_owned(), source })?;
    match line.strip_prefix("error: ") {
        _ if line == "ok" => Ok(()),
        why => Err(ForwardError::Refused { address: address.to_owned(), why: why.unwrap_or(&line).to_owned() }),
    }
}

/// Pods' certificates are their own affair: the API server does not verify them either.
async fn over_tls(
    stream: TunnelStream,
    host: &str,
    address: &str,
) -> Result<tokio_rustls::client::TlsStream<TunnelStream>, ForwardError> {
    let failed = |source| ForwardError::Tls { address: address.to_owned(), source };
    let config: Arc<ClientConfig> = tls::unverified_client().map_err(|e| failed(std::io::Error::other(e)))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|e| failed(std::io::Error::other(e)))?;
    tokio_rustls::TlsConnector::from(config).connect(name, stream).await.map_err(failed)
}

async fn exchange<T>(
    stream: T,
    path: http::uri::PathAndQuery,
    host: HeaderValue,
    request: Request<Body>,
) -> Result<Response<Body>, ForwardError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to a node ended");
        }
    });
    let (mut parts, body) = request.into_parts();
    let client = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let upgrade = parts.headers.get(UPGRADE).cloned();
    relay::strip(&mut parts.headers);
    parts.headers.remove(AUTHORIZATION);
    parts.headers.insert(HOST, host);
    if let Some(upgrade) = upgrade {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.insert(UPGRADE, upgrade);
    }
    parts.uri = Uri::from(path);
    parts.version = Version::HTTP_11;
    parts.extensions = http::Extensions::new();
    let mut response = sender.send_request(Request::from_parts(parts, body)).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = client
    {
        let node = hyper::upgrade::on(&mut response);
        tokio::spawn(relay::join(client, node));
        return Ok(response.map(|_| Body::empty()));
    }
    relay::strip(response.headers_mut());
    Ok(response.map(Body::new))
}
