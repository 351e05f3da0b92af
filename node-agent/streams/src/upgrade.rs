//! Recognising and answering requests to upgrade.

use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::Body;

pub(crate) const SPDY: &str = "SPDY/3.1";
pub(crate) const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// What the client wants to speak, and in which of the subprotocols that we know.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Upgrade {
    Spdy { protocol: &'static str },
    WebSocket { protocol: &'static str, accept: String },
}

/// Chooses the first of `spdy` or `websocket` (our preference first) that the client offers.
pub(crate) fn choose(
    headers: &HeaderMap,
    spdy: &[&'static str],
    websocket: &[&'static str],
) -> Result<Upgrade, Response<Body>> {
    let wants = |name: &str| listed(headers, &UPGRADE).any(|value| value.eq_ignore_ascii_case(name));
    if !listed(headers, &CONNECTION).any(|value| value.eq_ignore_ascii_case("upgrade")) {
        return Err(refuse(StatusCode::BAD_REQUEST, "unable to upgrade: missing upgrade headers in request"));
    }
    if wants("websocket") {
        let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
            return Err(refuse(StatusCode::BAD_REQUEST, "missing Sec-WebSocket-Key"));
        };
        let Some(protocol) = pick(websocket, listed(headers, &SEC_WEBSOCKET_PROTOCOL)) else {
            return Err(refuse(StatusCode::BAD_REQUEST, "none of the WebSocket subprotocols is supported"));
        };
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        return Ok(Upgrade::WebSocket { protocol, accept });
    }
    if wants(SPDY) {
        return match pick(spdy, listed(headers, &STREAM_PROTOCOL)) {
            Some(protocol) => Ok(Upgrade::Spdy { protocol }),
            None => {
                let mut refusal = refuse(
                    StatusCode::FORBIDDEN,
                    "unable to upgrade: unable to negotiate protocol: none of the client's protocols is supported",
                );
                for known in spdy {
                    refusal.headers_mut().append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(known));
                }
                Err(refusal)
            }
        };
    }
    Err(refuse(StatusCode::BAD_REQUEST, "unable to upgrade: only SPDY/3.1 and websocket are supported"))
}

impl Upgrade {
    /// The 101 that accepts it.
    pub(crate) fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        match self {
            Self::Spdy { protocol } => {
                headers.insert(UPGRADE, HeaderValue::from_static(SPDY));
                headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
            }
            Self::WebSocket { protocol, accept } => {
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
                if let Ok(accept) = HeaderValue::from_str(accept) {
                    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
                }
            }
        }
        response
    }
}

pub(crate) fn refuse(status: StatusCode, why: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{why}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A header's values, those of one line separated by commas.
fn listed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).into_iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim)
}

fn pick<'a>(known: &[&'static str], offered: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    let offered: Vec<&str> = offered.collect();
    known.iter().copied().find(|known| offered.contains(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn our_preference_decides_among_what_the_client_offers() {
        let asked = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v2.channel.k8s.io, v3.channel.k8s.io"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ]);
        let chosen = choose(&asked, &["v4.channel.k8s.io", "v3.channel.k8s.io"], &[]).unwrap();
        assert_eq!(chosen, Upgrade::Spdy { protocol: "v4.channel.k8s.io" });
    }

    #[test]
    fn the_websocket_key_is_answered_as_rfc_6455_says() {
        let asked = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "v5.channel.k8s.io"),
        ]);
        let chosen = choose(&asked, &[], &["v5.channel.k8s.io"]).unwrap();
        let answer = chosen.response();
        assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_request_that_cannot_be_upgraded_is_told_why() {
        let plain = choose(&headers(&[]), &["a"], &["b"]).unwrap_err();
        assert_eq!(plain.status(), StatusCode::BAD_REQUEST);
        let unknown =
            headers(&[("connection", "upgrade"), ("upgrade", "spdy/3.1"), ("x-stream-protocol-version", "v9")]);
        let refusal = choose(&unknown, &["v4.channel.k8s.io"], &[]).unwrap_err();
        assert_eq!(refusal.status(), StatusCode::FORBIDDEN);
        assert_eq!(refusal.headers()[&ACCEPTED_PROTOCOLS], "v4.channel.k8s.io");
    }
}
