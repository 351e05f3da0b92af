//! The listener for other replicas.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::wire::{self, Errand, Refusal};
use super::{CONNECTION_WINDOW, MAX_HEADERS, MAX_STREAMS, PING_EVERY, PING_TIMEOUT, STREAM_WINDOW};
use crate::body::Body;
use crate::gateway::{Connection, Gateway, Host};
use crate::identity;
use crate::listener::{self, Draining};
use crate::pki::PEER_GROUP;
use crate::tls::Peer;

/// A replica that does not finish its handshake in this time is not one.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves other replicas until `shutdown`, then lets requests finish.
pub async fn serve_replicas(listener: TcpListener, gateway: Arc<Gateway>, shutdown: CancellationToken) {
    let draining = Draining::default();
    listener::accept(listener, &draining, &shutdown, |tcp, _| replica(Arc::clone(&gateway), tcp, shutdown.clone()))
        .await;
    draining.end().await;
}

async fn replica(gateway: Arc<Gateway>, tcp: TcpStream, shutdown: CancellationToken) -> io::Result<()> {
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(gateway.peers().tls()));
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    // The CA vouches for the certificate; that it is a replica's is for the certificate to say.
    let certificates = stream.get_ref().1.peer_certificates();
    let actor = certificates.and_then(<[_]>::first).and_then(identity::of_certificate);
    if !actor.is_some_and(|actor| actor.groups.iter().any(|group| group == PEER_GROUP)) {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    let service = service_fn(move |request: Request<Incoming>| {
        let gateway = Arc::clone(&gateway);
        async move {
            let connection = Connection { host: Host::Replica, peer: Peer::Unknown };
            Ok::<_, Infallible>(gateway.handle(connection, request.map(Body::new)).await)
        }
    });
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADERS)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    result.map_err(io::Error::other)
}

/// What another replica sent.
pub(crate) enum Sent {
    /// A client's request.
    Request { cluster: String, client: Peer, request: Request<Body>, upgrades: bool },
    /// A request of its own.
    Errand { errand: Errand, cluster: Option<String> },
}

/// Reads what another replica sent; `None`: it is of a version that is not understood here.
pub(crate) fn read(mut request: Request<Body>) -> Option<Sent> {
    let text = |headers: &HeaderMap, name| Some(headers.get(name)?.to_str().ok()?.to_owned());
    let headers = request.headers();
    let cluster = text(headers, wire::CLUSTER);
    if let Some(errand) = headers.get(wire::ERRAND) {
        return Some(Sent::Errand { errand: Errand::of(errand)?, cluster });
    }
    let client = wire::identity_of(headers.get(wire::IDENTITY)?)?;
    let host = headers.get(wire::HOST).cloned();
    let protocol = headers.get(wire::UPGRADE).cloned();
    let upgrades = request.method() == Method::CONNECT;
    if upgrades {
        let method = text(headers, wire::METHOD)?.parse().ok()?;
        let path: Uri = text(headers, wire::PATH)?.parse().ok()?;
        *request.method_mut() = method;
        *request.uri_mut() = path;
    } else {
        let path = request.uri().path_and_query()?.clone();
        *request.uri_mut() = Uri::from(path);
    }
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    wire::strip(headers);
    headers.extend(host.map(|host| (HOST, host)));
    if let Some(protocol) = protocol {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, protocol);
    }
    Some(Sent::Request { cluster: cluster?, client, request, upgrades })
}

/// An answer in the form in which it travels.
pub(crate) fn sealed(mut response: Response<Body>, upgrades: bool) -> Response<Body> {
    let status = response.status();
    let protocol = response.headers().get(UPGRADE).cloned();
    wire::strip(response.headers_mut());
    if upgrades {
        response.headers_mut().insert(wire::STATUS, HeaderValue::from(status.as_u16()));
        if status == StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().extend(protocol.map(|protocol| (wire::UPGRADE, protocol)));
            *response.status_mut() = StatusCode::OK;
        } else {
            // A CONNECT that is not granted; anything that is no success lets its body through.
            *response.status_mut() = StatusCode::BAD_GATEWAY;
        }
    }
    response
}

/// Nothing was done.
pub(crate) fn refused(refusal: Refusal) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = match refusal {
        Refusal::NotOwner => StatusCode::MISDIRECTED_REQUEST,
        Refusal::Gone => StatusCode::NOT_FOUND,
    };
    response.headers_mut().insert(wire::REFUSED, refusal.value());
    response
}

/// A replica's own request was done, or not.
pub(crate) fn called(status: StatusCode, message: String) -> Response<Body> {
    let mut response = Response::new(Body::from(message));
    *response.status_mut() = status;
    response
}
