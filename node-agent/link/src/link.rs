//! The connection that everything goes through, made again whenever it ends.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use galley_node_net::Dialer;
use galley_tunnel::{Header, Inbound, Incoming, Opener, Session, TunnelStream};
use galley_types::Clock;
use http::uri::{Parts, Scheme};
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::identity::Identity;
use crate::join::renew;
use crate::tls::{self, TlsError};

const PATH: &str = "/galley/v1/tunnel";
const PROTOCOL: &str = "galley-tunnel";
/// Connecting, with TLS and the upgrade.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// Between attempts: at first short, because most ends are restarts of the server; then long, because thousands of nodes come back.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_LAST: Duration = Duration::from_secs(10);
/// How long a stream waits for a connection. Shorter than the limits of those who wait for its bytes.
const OPEN_LIMIT: Duration = Duration::from_secs(15);
/// The longest time between looks whether the certificate must be renewed: clocks are set, and machines sleep.
const RENEWAL_LOOK: Duration = Duration::from_secs(600);
/// The shortest: after a renewal that failed, or one that a clock that is wrong finds due again at once.
const RENEWAL_PAUSE: Duration = Duration::from_secs(10);

/// Whether the node is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    Connected,
    /// Not (any more), because of this.
    Disconnected(String),
}

#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the request for a tunnel failed")]
    Http(#[source] hyper::Error),
    #[error("the control plane refuses a tunnel: {0}")]
    Refused(StatusCode),
    #[error("the control plane did not answer in {} s", CONNECT_LIMIT.as_secs())]
    Slow,
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

/// The way to the control plane. Cheap to clone; the connection lives until [`Link::run`] is dropped.
#[derive(Debug, Clone)]
pub struct Link {
    opener: watch::Receiver<Option<Opener>>,
    state: watch::Receiver<LinkState>,
}

/// What keeps the connection: run it as one task.
pub struct Driver {
    identity: Identity,
    data_dir: PathBuf,
    clock: Arc<dyn Clock>,
    opener: watch::Sender<Option<Opener>>,
    state: watch::Sender<LinkState>,
    inbound: mpsc::Sender<Inbound>,
}

impl Link {
    /// The link of a node that has joined, what keeps it, and the streams that the control plane opens.
    pub fn new(
        identity: Identity,
        data_dir: PathBuf,
        clock: Arc<dyn Clock>,
    ) -> (Self, Driver, mpsc::Receiver<Inbound>) {
        let (opener, opener_reader) = watch::channel(None);
        let (state, state_reader) = watch::channel(LinkState::Disconnected("not connected yet".into()));
        let (inbound, inbound_reader) = mpsc::channel(64);
        let driver = Driver { identity, data_dir, clock, opener, state, inbound };
        (Self { opener: opener_reader, state: state_reader }, driver, inbound_reader)
    }

    /// Whether there is a connection now.
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
    }

    /// Opens a stream; waits a while for a connection when there is none.
    pub async fn open(&self, header: Header) -> io::Result<TunnelStream> {
        let header = header.to_string();
        let open = async {
            let mut reader = self.opener.clone();
            loop {
                let opener = match reader.wait_for(Option::is_some).await {
                    Ok(opener) => opener.clone(),
                    Err(_) => return Err(io::Error::new(io::ErrorKind::NotConnected, "the node is stopping")),
                };
                let Some(opener) = opener else { continue };
                match opener.open(&header).await {
                    Ok(stream) => return Ok(stream),
                    // It ended at this moment; the next one will come.
                    Err(_) if opener.is_ended() => tokio::time::sleep(BACKOFF_FIRST).await,
                    Err(error) => return Err(io::Error::other(error)),
                }
            }
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, "there is no connection to the control plane");
        tokio::time::timeout(OPEN_LIMIT, open).await.unwrap_or_else(|_| Err(late()))
    }

    /// A client of the cluster's API, as this node. Each request that runs has a stream of its own: a watch holds up no other.
    pub fn client(&self) -> kube::Client {
        let link = self.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let link = link.clone();
            Box::pin(async move { link.open(Header::Api).await.map(|stream| TokioIo::new(ApiStream(stream))) })
        });
        let http = HttpClient::builder(TokioExecutor::new()).build::<_, Body>(connector);
        let service = tower::service_fn(move |mut request: Request<Body>| {
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            absolute(&mut parts);
            if let Ok(uri) = Uri::from_parts(parts) {
                *request.uri_mut() = uri;
            }
            http.request(request)
        });
        kube::Client::new(service, "default")
    }
}

/// The authority is never looked up; it becomes the Host header.
fn absolute(parts: &mut Parts) {
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(http::uri::Authority::from_static("kubernetes.default.svc"));
}

/// Pods' connections to the `kubernetes` Service.
impl Dialer for Link {
    type Stream = TunnelStream;

    async fn dial(&self) -> io::Result<TunnelStream> {
        self.open(Header::Kubernetes).await
    }
}

impl Driver {
    /// Connects, and connects again, until it is dropped. Renews the certificate in time.
    pub async fn run(self) {
        let mut identity = self.identity.clone();
        let mut backoff = BACKOFF_FIRST;
        loop {
            self.renew_if_due(&mut identity).await;
            let why = match connect(&identity).await {
                Ok((opener, incoming)) => {
                    backoff = BACKOFF_FIRST;
                    self.opener.send_replace(Some(opener.clone()));
                    self.tell(LinkState::Connected);
                    let why = self.carry(&mut identity, incoming).await;
                    self.opener.send_replace(None);
                    opener.close();
                    why
                }
                Err(error) => chain(&error),
            };
            self.tell(LinkState::Disconnected(why));
            // Nodes that lost one server must not come back all at once.
            tokio::time::sleep(backoff.mul_f64(rand::random_range(0.5..1.0))).await;
            backoff = (backoff * 2).min(BACKOFF_LAST);
        }
    }

    fn tell(&self, state: LinkState) {
        self.state.send_if_modified(|before| {
            if *before == state {
                return false;
            }
            match &state {
                LinkState::Connected => tracing::info!("stage 4: connected to the control plane"),
                LinkState::Disconnected(why) => tracing::warn!(%why, "not connected to the control plane"),
            }
            *before = state;
            true
        });
    }

    /// Passes on what the control plane opens, until the session ends; says why it did.
    async fn carry(&self, identity: &mut Identity, mut incoming: Incoming) -> String {
        let mut look = Instant::now() + self.until_renewal(identity);
        loop {
            tokio::select! {
                // By the clock and not by silence: a node that is always asked for something is renewed as well.
                () = tokio::time::sleep_until(look) => {
                    self.renew_if_due(identity).await;
                    look = Instant::now() + self.until_renewal(identity).max(RENEWAL_PAUSE);
                }
                inbound = incoming.next() => match inbound {
                    // Nobody listens any more when the agent stops.
                    Some(inbound) => drop(self.inbound.send(inbound).await),
                    None => return chain(&incoming.ended().await),
                },
            }
        }
    }

    fn until_renewal(&self, identity: &Identity) -> Duration {
        let left = identity.renewal().map(|due| due.duration_since(self.clock.now()));
        let left = left.and_then(|left| Duration::try_from(left).ok()).unwrap_or_default();
        left.min(RENEWAL_LOOK)
    }

    /// The session goes on with the old certificate; the next one takes the new.
    async fn renew_if_due(&self, identity: &mut Identity) {
        if identity.renewal().is_some_and(|due| due > self.clock.now()) {
            return;
        }
        match renew(identity).await {
            Ok(renewed) => {
                if let Err(error) = renewed.save(&self.data_dir) {
                    tracing::warn!(error = chain(&error), "a new certificate cannot be kept");
                }
                let until = renewed.validity().map(|(_, until)| until.to_string());
                tracing::info!(until, "the node has a new certificate");
                *identity = renewed;
            }
            Err(error) => tracing::warn!(error = chain(&error), "the node's certificate is not renewed; trying on"),
        }
    }
}

async fn connect(identity: &Identity) -> Result<(Opener, Incoming), ConnectError> {
    let connect = async {
        let (address, _) = tls::address(&identity.server)?;
        let stream = tls::connect(tls::mutual(identity)?, &address, &identity.server_name).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(ConnectError::Http)?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(PATH);
        let headers = request.headers_mut();
        if let Ok(host) = HeaderValue::from_str(&identity.server_name) {
            headers.insert(header::HOST, host);
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
        let response = sender.send_request(request).await.map_err(ConnectError::Http)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(ConnectError::Refused(response.status()));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(ConnectError::Http)?;
        Ok(Session::client(TokioIo::new(upgraded)))
    };
    tokio::time::timeout(CONNECT_LIMIT, connect).await.unwrap_or(Err(ConnectError::Slow))
}

/// A stream, as the HTTP client wants its connections.
struct ApiStream(TunnelStream);

impl Connection for ApiStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for ApiStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for ApiStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
