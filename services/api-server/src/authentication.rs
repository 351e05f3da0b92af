//! Who makes a request to a cluster: by client certificate, service account token, or a service credential of the
//! installation.
//!
//! As in Kubernetes, the first means that succeeds decides; a credential that is shown and is not good is 401, even where
//! nobody would need one; no credential is `system:anonymous`.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use galley_authz::Actor;
use galley_kube::{Reason, Status};
use galley_store::{ClusterStore, Store};
use galley_types::Clock;
use http::HeaderMap;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::identity::{AUTHENTICATED, anonymous};
use crate::service_account::{ServiceAccountKey, TokenError};
use crate::tls::Peer;

/// A service credential that was revoked is still accepted so long.
const SERVICE_TOKEN_CACHE: SignedDuration = SignedDuration::from_secs(60);
const SERVICE_TOKEN_PREFIX: &str = "galley-service_";
/// How browsers send a token with a WebSocket request (Kubernetes' subprotocol).
const WEBSOCKET_BEARER: &str = "base64url.bearer.authorization.k8s.io.";

/// 401 as the API server says it.
pub(crate) fn unauthorized() -> Status {
    Status::new(401, Reason::Unauthorized, "Unauthorized")
}

/// Checks tokens of one cluster: for requests and for TokenReviews.
#[derive(Debug, Clone)]
pub struct ClusterTokens {
    pub(crate) key: Arc<ServiceAccountKey>,
    pub(crate) store: Arc<ClusterStore>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl ClusterTokens {
    /// Whose token it is, and which of `audiences` it is for. Empty `audiences`: the API server's own.
    pub fn authenticate(&self, token: &str, audiences: &[String]) -> Result<(Actor, Vec<String>), TokenError> {
        self.key.authenticate(token, audiences, &self.store, self.clock.now())
    }
}

/// Bearer tokens of other parts of the installation, looked up in the store now and then.
#[derive(Debug)]
pub(crate) struct ServiceTokens {
    store: Store,
    clock: Arc<dyn Clock>,
    known: Mutex<HashMap<[u8; 32], (Timestamp, Arc<Actor>)>>,
}

impl ServiceTokens {
    pub(crate) fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, known: Mutex::default() }
    }

    async fn lookup(&self, token: &str) -> Result<Arc<Actor>, Status> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let now = self.clock.now();
        if let Some((until, actor)) = self.known.lock().get(&digest)
            && now < *until
        {
            return Ok(Arc::clone(actor));
        }
        let found = self.store.service_token_lookup(token).await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "a service token cannot be looked up");
            Status::new(503, Reason::ServiceUnavailable, "credentials cannot be checked, please try again later")
        })?;
        let mut known = self.known.lock();
        known.retain(|_, (until, _)| now < *until);
        let Some(service) = found else { return Err(unauthorized()) };
        let actor = Arc::new(Actor {
            username: format!("system:{}", service.service),
            groups: vec!["system:masters".to_owned(), AUTHENTICATED.to_owned()],
            ..Actor::default()
        });
        known.insert(digest, (now + SERVICE_TOKEN_CACHE, Arc::clone(&actor)));
        Ok(actor)
    }
}

/// The caller of a request, or 401.
pub(crate) async fn authenticate(
    peer: &Peer,
    headers: &HeaderMap,
    tokens: &ClusterTokens,
    services: &ServiceTokens,
) -> Result<Arc<Actor>, Status> {
    if let Peer::Known(actor) = peer {
        return Ok(Arc::clone(actor));
    }
    if let Some(token) = bearer(headers) {
        if token.starts_with(SERVICE_TOKEN_PREFIX) {
            return services.lookup(&token).await;
        }
        return match tokens.authenticate(&token, &[]) {
            Ok((actor, _)) => Ok(Arc::new(actor)),
            Err(error) => {
                tracing::debug!(%error, "bearer token refused");
                Err(unauthorized())
            }
        };
    }
    match peer {
        Peer::Invalid => Err(unauthorized()),
        Peer::Unknown | Peer::Known(_) => Ok(Arc::new(anonymous())),
    }
}

/// The bearer token of a request, from its header or its WebSocket subprotocols.
fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let text = value.to_str().ok()?;
        let (scheme, token) = text.trim().split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    let encoded = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|protocol| protocol.trim().strip_prefix(WEBSOCKET_BEARER))?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_bearer_token_comes_from_the_header_or_a_subprotocol() {
        let mut headers = HeaderMap::new();
        assert_eq!(bearer(&headers), None);
        headers.insert(
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static("v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj"),
        );
        assert_eq!(bearer(&headers).as_deref(), Some("abc"));
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer  x.y.z"));
        assert_eq!(bearer(&headers).as_deref(), Some("x.y.z"));
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Basic Zm9v"));
        assert_eq!(bearer(&headers), None);
    }
}
