//! What every hop does that passes requests on: to nodes through their tunnels, to other replicas.

use http::HeaderMap;
use http::header::{CONNECTION, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

/// Joins two upgraded connections until one ends. Nothing is buffered but one read in each direction.
pub(crate) async fn join(client: OnUpgrade, target: OnUpgrade) {
    match tokio::try_join!(client, target) {
        Ok((client, target)) => {
            let (mut client, mut target) = (TokioIo::new(client), TokioIo::new(target));
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut target).await {
                tracing::debug!(%error, "an upgraded connection ended");
            }
        }
        Err(error) => tracing::debug!(%error, "an upgrade failed"),
    }
}

/// Headers that are about one connection only (RFC 9110, section 7.6.1).
pub(crate) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [CONNECTION, UPGRADE, TE, TRAILER, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "proxy-authorization"] {
        headers.remove(name);
    }
}
