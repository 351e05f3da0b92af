//! Passing a request on: who is asked, when again, and what becomes of the answer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use galley_store::Pass;
use galley_types::{ClusterId, ShardId};
use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Frame;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::replay::{Original, Replay};
use super::wire::{self, Errand, Refusal};
use super::{Peers, pool};
use crate::body::Body;
use crate::pki::PEER_NAME;
use crate::relay;
use crate::tls::Peer;
use crate::tunnel;

/// How long a request waits for an owner: a hand-over takes a fraction of it. A replica that died is replaced when its lease
/// ends, which is longer than a request should hang.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two attempts, growing.
const PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Where the owner turned out to be.
pub(crate) enum Asked {
    /// Here, by now.
    Here(Pass),
    /// There, and this is what it says.
    There(Response<Incoming>),
    /// There is no such cluster (any more).
    Gone,
}

/// Why nobody answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unasked {
    /// No owner in time. Nothing was done.
    #[error("shard {} has no owner now", .0.0)]
    NoOwner(ShardId),
    /// The owner may have done it.
    #[error("the owner did not answer")]
    Unknown(#[source] hyper::Error),
    /// The owner changed while much of the body was on its way. Nothing was done.
    #[error("the body cannot be sent again")]
    Spent,
    /// Not a request that can be passed on.
    #[error("the request cannot be passed on")]
    Malformed(#[from] http::Error),
}

/// A client's request on its way.
pub(crate) struct Parcel {
    parts: Parts,
    body: Original,
    upgrade: Option<OnUpgrade>,
}

impl Parcel {
    pub(crate) fn new(request: Request<Body>) -> Self {
        let (mut parts, body) = request.into_parts();
        let upgrade = parts.extensions.remove::<OnUpgrade>();
        Self { parts, body: Original::new(body), upgrade }
    }

    /// The request as it came.
    pub(crate) fn open(self) -> Option<Request<Body>> {
        let mut parts = self.parts;
        if let Some(upgrade) = self.upgrade {
            parts.extensions.insert(upgrade);
        }
        Some(Request::from_parts(parts, Body::new(self.body.again()?)))
    }

    fn protocol(&self) -> Option<&HeaderValue> {
        self.upgrade.as_ref().and(self.parts.headers.get(UPGRADE))
    }

    fn is_safe(&self) -> bool {
        self.protocol().is_none() && matches!(self.parts.method, Method::GET | Method::HEAD | Method::OPTIONS)
    }

    /// The request as the owner gets it. `None`: too much of the body is gone.
    fn request(&self, cluster: ClusterId, client: &Peer) -> Result<Option<Request<Replay>>, http::Error> {
        let Some(body) = self.body.again() else { return Ok(None) };
        let mut headers = self.parts.headers.clone();
        relay::strip(&mut headers);
        wire::strip(&mut headers);
        let mut set = |name: HeaderName, value: Option<HeaderValue>| {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        };
        let text = |text: &str| HeaderValue::from_str(text).map(Some).map_err(http::Error::from);
        set(wire::CLUSTER, text(&cluster.to_string())?);
        set(wire::IDENTITY, wire::identity_value(client));
        set(wire::HOST, self.parts.headers.get(http::header::HOST).cloned());
        let path = self.parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let request = match self.protocol() {
            Some(protocol) => {
                set(wire::METHOD, text(self.parts.method.as_str())?);
                set(wire::PATH, text(path)?);
                set(wire::UPGRADE, Some(protocol.clone()));
                Request::connect(format!("{PEER_NAME}:443"))
            }
            None => Request::builder().method(&self.parts.method).uri(format!("https://{PEER_NAME}{path}")),
        };
        headers.remove(http::header::HOST);
        if self.protocol().is_some() {
            headers.remove(http::header::CONTENT_LENGTH);
        }
        let mut request = request.version(Version::HTTP_2).body(body)?;
        *request.headers_mut() = headers;
        Ok(Some(request))
    }

    /// The owner's answer as the client gets it.
    pub(crate) fn answer(self, response: Response<Incoming>, shutdown: &CancellationToken) -> Response<Body> {
        let is_upgrade = self.protocol().is_some();
        let upgraded = response.headers().get(wire::UPGRADE).cloned();
        let status =
            response.headers().get(wire::STATUS).and_then(|value| StatusCode::from_bytes(value.as_bytes()).ok());
        let mut response = response;
        let owner = (is_upgrade && response.status() == StatusCode::OK).then(|| hyper::upgrade::on(&mut response));
        wire::strip(response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        if let (Some(owner), Some(client)) = (owner, self.upgrade) {
            let ends = upgraded.as_ref().is_some_and(|name| name.as_bytes() == tunnel::PROTOCOL.as_bytes());
            let shutdown = shutdown.clone();
            tokio::spawn(async move {
                let joined = relay::join(client, owner);
                if ends {
                    // A node comes back through another replica at once.
                    shutdown.run_until_cancelled(joined).await;
                } else {
                    joined.await;
                }
            });
            let mut response = response.map(|_| Body::empty());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            response.headers_mut().extend(upgraded.map(|protocol| (UPGRADE, protocol)));
            return response;
        }
        if let Some(status) = status.filter(|_| is_upgrade) {
            *response.status_mut() = status;
        }
        relay::strip(response.headers_mut());
        if is_watch(&self.parts.uri) && response.status().is_success() {
            let ends = Box::pin(shutdown.clone().cancelled_owned());
            return response.map(|body| Body::new(WatchBody { body, ends, at_line: true }));
        }
        response.map(Body::new)
    }
}

/// Whether the answer may end anywhere between two lines.
fn is_watch(uri: &Uri) -> bool {
    let asked = |pair: &str| matches!(pair.split_once('='), Some(("watch", "true" | "1")));
    uri.query().is_some_and(|query| query.split('&').any(asked))
}

/// A watch that is passed on. If its owner dies or this process stops, it ends as watches do, between two events: the client
/// resumes from the last.
struct WatchBody {
    body: Incoming,
    ends: Pin<Box<WaitForCancellationFutureOwned>>,
    at_line: bool,
}

impl http_body::Body for WatchBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.at_line && self.ends.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(last) = frame.data_ref().and_then(|data| data.last()) {
                    self.at_line = *last == b'\n';
                }
            }
            Some(Err(error)) if self.at_line => {
                tracing::debug!(%error, "a watch lost its owner");
                return Poll::Ready(None);
            }
            Some(Err(_)) | None => {}
        }
        Poll::Ready(frame)
    }
}

impl Peers {
    /// Passes a client's request on.
    pub(crate) async fn pass_on(
        &self,
        shard: ShardId,
        cluster: ClusterId,
        client: &Peer,
        parcel: &Parcel,
    ) -> Result<Asked, Unasked> {
        self.ask(shard, parcel.is_safe(), || parcel.request(cluster, client)).await
    }

    /// Asks the owner to do something for this replica.
    pub(crate) async fn call(&self, shard: ShardId, cluster: ClusterId, errand: Errand) -> Result<Asked, Unasked> {
        let request = || {
            let mut request = errand_request(errand)?;
            let id = HeaderValue::from_str(&cluster.to_string()).map_err(http::Error::from)?;
            request.headers_mut().insert(wire::CLUSTER, id);
            Ok(Some(request))
        };
        // Each is safe to repeat.
        self.ask(shard, true, request).await
    }

    /// Asks a replica, once.
    pub(super) async fn tell(&self, address: &str, errand: Errand) -> Result<(), TellError> {
        let mut sender = self.pool.sender(address).await?;
        let response = sender.send_request(errand_request(errand)?).await?;
        if response.status().is_success() { Ok(()) } else { Err(TellError::Refused(response.status())) }
    }

    async fn ask(
        &self,
        shard: ShardId,
        repeatable: bool,
        request: impl Fn() -> Result<Option<Request<Replay>>, http::Error>,
    ) -> Result<Asked, Unasked> {
        let until = Instant::now() + PATIENCE;
        let mut pause = PAUSE;
        loop {
            if let Some(pass) = self.store.enter(shard) {
                return Ok(Asked::Here(pass));
            }
            if let Some(owner) = self.store.owner(shard) {
                match self.pool.sender(&owner.address).await {
                    Ok(mut sender) => {
                        let request = request()?.ok_or(Unasked::Spent)?;
                        match sender.try_send_request(request).await {
                            Ok(response) => match refusal(response.headers()) {
                                None => return Ok(Asked::There(response)),
                                Some(Refusal::Gone) => return Ok(Asked::Gone),
                                Some(Refusal::NotOwner) => {}
                            },
                            Err(mut error) => {
                                let unsent = error.take_message().is_some();
                                let error = error.into_error();
                                tracing::debug!(owner = owner.holder, %error, unsent, "the owner did not answer");
                                if !unsent && !repeatable {
                                    return Err(Unasked::Unknown(error));
                                }
                            }
                        }
                    }
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::debug!(owner = owner.holder, error, "the owner cannot be reached");
                    }
                }
            }
            if Instant::now() + pause >= until {
                return Err(Unasked::NoOwner(shard));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            match tokio::time::timeout_at(until, self.store.owners_refresh()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "who owns what cannot be read");
                }
                Err(_) => return Err(Unasked::NoOwner(shard)),
            }
        }
    }
}

fn refusal(headers: &HeaderMap) -> Option<Refusal> {
    headers.get(wire::REFUSED).and_then(Refusal::of)
}

fn errand_request(errand: Errand) -> Result<Request<Replay>, http::Error> {
    let request = Request::post(format!("https://{PEER_NAME}/")).version(Version::HTTP_2);
    request.header(wire::ERRAND, errand.value()).body(Replay::empty())
}

/// Why a replica was not told something.
#[derive(Debug, thiserror::Error)]
pub(super) enum TellError {
    #[error("it cannot be reached")]
    Connect(#[from] pool::ConnectError),
    #[error("it did not answer")]
    Answer(#[from] hyper::Error),
    #[error("it answered {0}")]
    Refused(StatusCode),
    #[error("the request cannot be made")]
    Request(#[from] http::Error),
}

#[cfg(test)]
mod tests {
    use super::is_watch;

    #[test]
    fn a_watch_is_known_by_its_query() {
        let watch = |text: &str| is_watch(&text.parse().unwrap());
        assert!(watch("/api/v1/pods?watch=true") && watch("/api/v1/pods?a=b&watch=1"));
        assert!(!watch("/api/v1/pods") && !watch("/api/v1/pods?watch=false") && !watch("/api/v1/pods?x=watch=true"));
    }
}
