//! What one replica tells another beside the request itself. All of it is in headers of one prefix, which are taken off every
//! request of a client: only a replica, whose certificate says so, can set them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use galley_authz::Actor;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::tls::Peer;

const PREFIX: &str = "galley-peer-";
/// The cluster's id.
pub(crate) const CLUSTER: HeaderName = HeaderName::from_static("galley-peer-cluster");
/// What the client's certificate said.
pub(crate) const IDENTITY: HeaderName = HeaderName::from_static("galley-peer-identity");
/// The client's `Host`: HTTP/2 has a place of its own for it, which names the replica.
pub(crate) const HOST: HeaderName = HeaderName::from_static("galley-peer-host");
/// A request of the replica itself: [`Errand`].
pub(crate) const ERRAND: HeaderName = HeaderName::from_static("galley-peer-errand");
/// A request to upgrade travels as CONNECT, the only HTTP/2 request that turns into a stream of bytes: its method,
pub(crate) const METHOD: HeaderName = HeaderName::from_static("galley-peer-method");
/// its path and query,
pub(crate) const PATH: HeaderName = HeaderName::from_static("galley-peer-path");
/// the protocol (also in the answer),
pub(crate) const UPGRADE: HeaderName = HeaderName::from_static("galley-peer-upgrade");
/// and the answer's real status.
pub(crate) const STATUS: HeaderName = HeaderName::from_static("galley-peer-status");
/// In an answer: [`Refusal`].
pub(crate) const REFUSED: HeaderName = HeaderName::from_static("galley-peer-refused");

/// What replicas ask of each other for themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Errand {
    /// Look at the lease rows: something was handed over.
    Look,
    /// Fill a new cluster with what every cluster has.
    Bootstrap,
    /// A cluster was deleted.
    Removed,
}

/// Why a replica did not answer a request that was passed on to it. Nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The cluster's shard is another's.
    NotOwner,
    /// There is no such cluster (any more).
    Gone,
}

macro_rules! words {
    ($type:ty { $($variant:ident = $word:literal),* $(,)? }) => {
        impl $type {
            pub(crate) fn value(self) -> HeaderValue {
                HeaderValue::from_static(match self { $(Self::$variant => $word),* })
            }

            pub(crate) fn of(value: &HeaderValue) -> Option<Self> {
                match value.as_bytes() {
                    $(word if word == $word.as_bytes() => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}
words!(Errand { Look = "look", Bootstrap = "bootstrap", Removed = "removed" });
words!(Refusal { NotOwner = "not-owner", Gone = "gone" });

/// Takes off all that only replicas may say.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let ours: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(PREFIX)).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

/// [`Peer`] as text.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Identity {
    Unknown,
    Invalid,
    Known { username: String, uid: String, groups: Vec<String>, extra: BTreeMap<String, Vec<String>> },
}

/// Who the gateway found at the other end of the client's connection.
pub(crate) fn identity_value(peer: &Peer) -> Option<HeaderValue> {
    let identity = match peer {
        Peer::Unknown => Identity::Unknown,
        Peer::Invalid => Identity::Invalid,
        Peer::Known(actor) => {
            let Actor { username, uid, groups, extra } = Actor::clone(actor);
            Identity::Known { username, uid, groups, extra }
        }
    };
    let text = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&identity).ok()?);
    HeaderValue::from_str(&text).ok()
}

/// The other way round; `None`: garbage.
pub(crate) fn identity_of(value: &HeaderValue) -> Option<Peer> {
    let bytes = URL_SAFE_NO_PAD.decode(value.as_bytes()).ok()?;
    Some(match serde_json::from_slice(&bytes).ok()? {
        Identity::Unknown => Peer::Unknown,
        Identity::Invalid => Peer::Invalid,
        Identity::Known { username, uid, groups, extra } => {
            Peer::Known(Arc::new(Actor { username, uid, groups, extra }))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_arrives_as_it_was_sent() {
        let actor = Actor {
            username: "jane \u{e9}".into(),
            uid: "u".into(),
            groups: vec!["a".into(), "system:authenticated".into()],
            extra: BTreeMap::from([("k".to_owned(), vec!["v".to_owned()])]),
        };
        let sent = identity_value(&Peer::Known(Arc::new(actor.clone()))).unwrap();
        let Some(Peer::Known(arrived)) = identity_of(&sent) else { panic!("known") };
        assert_eq!(*arrived, actor);
        assert!(matches!(identity_of(&identity_value(&Peer::Invalid).unwrap()), Some(Peer::Invalid)));
        assert!(matches!(identity_of(&identity_value(&Peer::Unknown).unwrap()), Some(Peer::Unknown)));
        assert!(identity_of(&HeaderValue::from_static("e30")).is_none());
        assert!(identity_of(&HeaderValue::from_static("{}")).is_none());
    }

    #[test]
    fn clients_cannot_say_what_only_replicas_may() {
        let mut headers = HeaderMap::new();
        headers.insert("Galley-Peer-Identity", HeaderValue::from_static("x"));
        headers.append("galley-peer-errand", HeaderValue::from_static("removed"));
        headers.append("galley-peer-errand", HeaderValue::from_static("look"));
        headers.insert("galley-peers", HeaderValue::from_static("kept"));
        strip(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["galley-peers"]);
    }
}
