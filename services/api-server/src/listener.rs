//! Connections: TLS by the name that the client asks for, then HTTP/1.1 or HTTP/2.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use galley_authz::Actor;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::gateway::{Connection, Gateway, Host};
use crate::served::ServedCluster;
use crate::tls::Peer;

/// A client that does not finish its handshake in this time is not one.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// An HTTP/1.1 client that sends no whole request head in this time is not one. The pause between two requests counts too, so
/// it is longer than Go's and Rust's clients keep an idle connection (90 s): they should be the ones that close it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
/// Requests at a time on one HTTP/2 connection; client-go's informers hold one each (the API server's default is 100).
const STREAMS: u32 = 1000;
/// A dead HTTP/2 client is noticed after this and its time limit.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// Enough for a list of a few hundred objects without waiting for the client's window updates.
const WINDOW: u32 = 1 << 20;
/// How long requests may take to end after a shutdown has begun.
const DRAIN: Duration = Duration::from_secs(15);
/// Accepting fails for want of file descriptors: some will be closed soon.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that are served, and have a while to end in.
#[derive(Default)]
pub(crate) struct Draining(TaskTracker);

impl Draining {
    pub(crate) async fn end(self) {
        self.0.close();
        if tokio::time::timeout(DRAIN, self.0.wait()).await.is_err() {
            tracing::warn!(connections = self.0.len(), "connections did not end in time");
        }
    }
}

/// Serves until `shutdown`, then lets requests finish.
pub async fn serve(listeners: Vec<TcpListener>, gateway: Arc<Gateway>, shutdown: CancellationToken) {
    let background = tokio::spawn(Arc::clone(&gateway).background());
    let draining = Draining::default();
    let accepting = listeners.into_iter().map(|listener| {
        accept(listener, &draining, &shutdown, |tcp, remote| {
            connection(Arc::clone(&gateway), tcp, Some(remote), shutdown.clone())
        })
    });
    futures::future::join_all(accepting).await;
    // Without a listener there is nothing else to wait for.
    shutdown.cancelled().await;
    gateway.close_tunnels();
    draining.end().await;
    background.abort();
}

/// Accepts until `shutdown`.
pub(crate) async fn accept<F>(
    listener: TcpListener,
    draining: &Draining,
    shutdown: &CancellationToken,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        match accepted {
            Ok((tcp, remote)) => {
                let _ = tcp.set_nodelay(true);
                let serving = serve(tcp, remote);
                draining.0.spawn(async move {
                    if let Err(error) = serving.await {
                        tracing::debug!(%remote, %error, "a connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn timely<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(HANDSHAKE_TIMEOUT, future).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn connection<T>(
    gateway: Arc<Gateway>,
    io: T,
    remote: Option<SocketAddr>,
    shutdown: CancellationToken,
) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let start = timely(LazyConfigAcceptor::new(Acceptor::default(), io)).await?;
    let Some(host) = gateway.host(start.client_hello().server_name()).await else {
        return Err(io::Error::other("the cluster cannot be served"));
    };
    let (stream, peer) = match &host {
        Host::Cluster(cluster) => {
            let stream = timely(start.into_stream(Arc::clone(&cluster.tls))).await?;
            let peer = peer(&gateway, cluster, &stream);
            (stream, peer)
        }
        Host::Management | Host::Unknown | Host::Replica => {
            (timely(start.into_stream(Arc::clone(gateway.management_tls()))).await?, Peer::Unknown)
        }
    };
    http(gateway, TokioIo::new(stream), Connection { host, peer }, remote, shutdown).await;
    Ok(())
}

fn peer<T>(gateway: &Gateway, cluster: &ServedCluster, stream: &TlsStream<T>) -> Peer {
    cluster.verifier.peer(stream.get_ref().1.peer_certificates(), gateway.clock().now())
}

/// A stream of a tunnel that carries a pod's connection to the `kubernetes` Service.
pub(crate) async fn cluster_tls<T>(gateway: Arc<Gateway>, cluster: Arc<ServedCluster>, io: T)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&cluster.tls));
    match timely(acceptor.accept(io)).await {
        Ok(stream) => {
            let peer = peer(&gateway, &cluster, &stream);
            let connection = Connection { host: Host::Cluster(cluster), peer };
            http(gateway, TokioIo::new(stream), connection, None, CancellationToken::new()).await;
        }
        Err(error) => tracing::debug!(%error, "a pod's connection ended"),
    }
}

/// A stream of a tunnel that carries the agent's own requests.
pub(crate) async fn trusted<T>(gateway: Arc<Gateway>, cluster: Arc<ServedCluster>, actor: Arc<Actor>, io: T)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let connection = Connection { host: Host::Cluster(cluster), peer: Peer::Known(actor) };
    http(gateway, TokioIo::new(io), connection, None, CancellationToken::new()).await;
}

async fn http<T>(
    gateway: Arc<Gateway>,
    io: TokioIo<T>,
    connection: Connection,
    remote: Option<SocketAddr>,
    shutdown: CancellationToken,
) where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (gateway, connection) = (Arc::clone(&gateway), connection.clone());
        let mut request = request.map(Body::new);
        if let Some(remote) = remote {
            request.extensions_mut().insert(remote);
        }
        async move { Ok::<_, Infallible>(gateway.handle(connection, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * 4)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    let mut serving = std::pin::pin!(builder.serve_connection_with_upgrades(io, service));
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = shutdown.cancelled() => {
            // HTTP/2 clients get GOAWAY, HTTP/1.1 clients `Connection: close`; what is under way is answered.
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(?remote, %error, "a connection ended");
    }
}
