//! The client of a container runtime's streaming URLs (CRI `Exec`, `Attach`, `PortForward`).

use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, UPGRADE};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::command::{CommandOptions, Duplex, RemoteCommand, TerminalSize};
use crate::exit::Exit;
use crate::spdy::{Connection, Headers, Role, SpdyEnd, SpdyStream};
use crate::upgrade::{SPDY, STREAM_PROTOCOL};

const REMOTE_COMMAND: &str = "v4.channel.k8s.io";
const PORT_FORWARD: &str = "portforward.k8s.io";
/// The runtime is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A status is a few hundred bytes.
const MAX_STATUS_BYTES: u64 = 64 * 1024;

/// Why a streaming URL could not be used. The texts reach users of kubectl.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not `http://HOST:PORT/...`.
    #[error("the container runtime gave an unusable streaming URL {0:?}")]
    Url(String),
    /// No connection.
    #[error("cannot connect to the container runtime's streaming server at {address}: {source}")]
    Connect {
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No connection in time.
    #[error("the container runtime's streaming server at {0} does not answer")]
    Timeout(String),
    /// The HTTP exchange failed.
    #[error("the container runtime's streaming server failed: {0}")]
    Http(#[from] hyper::Error),
    /// It answered something else than 101.
    #[error("the container runtime refused the stream: {status}: {body}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// What it said.
        body: String,
    },
    /// The connection ended while streams were opened.
    #[error("the container runtime closed the stream: {0}")]
    Spdy(#[from] SpdyEnd),
}

/// Runs the command that `url` (the answer to CRI `Exec`) stands for. `options` must be those of the CRI call.
pub async fn exec(url: &str, options: CommandOptions) -> Result<RemoteCommand, ClientError> {
    let connection = connect(url, REMOTE_COMMAND).await?;
    let open = async |kind: &str| connection.open(Headers::new([("streamType", kind)])).await;
    let error = open("error").await?;
    let stdin = if options.stdin { Some(open("stdin").await?) } else { None };
    let stdout = if options.stdout { Some(open("stdout").await?) } else { None };
    let stderr = if options.stderr && !options.tty { Some(open("stderr").await?) } else { None };
    let resize = if options.tty { Some(resizer(open("resize").await?)) } else { None };
    Ok(RemoteCommand {
        stdin: stdin.map(|s| Box::new(s) as _),
        stdout: stdout.map(|s| Box::new(s) as _),
        stderr: stderr.map(|s| Box::new(s) as _),
        resize,
        exit: Box::pin(exit(error, connection)),
    })
}

/// Attaches to the container that `url` (the answer to CRI `Attach`) stands for.
pub async fn attach(url: &str, options: CommandOptions) -> Result<RemoteCommand, ClientError> {
    exec(url, options).await
}

/// Connects to `port` inside the sandbox that `url` (the answer to CRI `PortForward`) stands for. What the runtime finds wrong
/// (nobody listens there) is learnt only later, as the read error of the stream.
pub async fn port_forward(url: &str, port: u16) -> Result<Box<dyn Duplex>, ClientError> {
    let connection = connect(url, PORT_FORWARD).await?;
    let open = async |kind: &str| {
        let pairs = [("streamType", kind.to_owned()), ("port", port.to_string()), ("requestID", "0".to_owned())];
        connection.open(Headers::new(pairs)).await
    };
    let mut error = open("error").await?;
    let mut data = open("data").await?;
    let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let _ = error.shutdown().await;
        let mut said = Vec::new();
        let mut limited = error.take(MAX_STATUS_BYTES);
        let (copied, _) =
            tokio::join!(tokio::io::copy_bidirectional(&mut data, &mut theirs), limited.read_to_end(&mut said));
        if !said.is_empty() || copied.is_err() {
            tracing::debug!(port, said = %String::from_utf8_lossy(&said), "port-forward ended with an error");
        }
        connection.close().await;
    });
    Ok(Box::new(ours))
}

async fn exit(error: SpdyStream, connection: Connection) -> Exit {
    let mut said = Vec::new();
    let _ = error.take(MAX_STATUS_BYTES).read_to_end(&mut said).await;
    drop(connection);
    Exit::from_status(&said)
}

fn resizer(mut stream: SpdyStream) -> mpsc::Sender<TerminalSize> {
    let (tx, mut rx) = mpsc::channel::<TerminalSize>(4);
    tokio::spawn(async move {
        while let Some(size) = rx.recv().await {
            let Ok(text) = serde_json::to_vec(&size) else { return };
            if stream.write_all(&text).await.is_err() {
                return;
            }
        }
        let _ = stream.shutdown().await;
    });
    tx
}

async fn connect(url: &str, protocol: &'static str) -> Result<Connection, ClientError> {
    let unusable = || ClientError::Url(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| unusable())?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(unusable)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(80);
    let address = format!("{host}:{port}");
    let tcp = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port)))
        .await
        .map_err(|_| ClientError::Timeout(address.clone()))?
        .map_err(|source| ClientError::Connect { address: address.clone(), source })?;
    let _ = tcp.set_nodelay(true);
    let (mut sender, http) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
    tokio::spawn(async move {
        let _ = http.with_upgrades().await;
    });
    let mut request = Request::new(Empty::<bytes::Bytes>::new());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri.path_and_query().map_or("/", |p| p.as_str()).parse().map_err(|_| unusable())?;
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(&address).map_err(|_| unusable())?);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(SPDY));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    let response = tokio::time::timeout(CONNECT_TIMEOUT, sender.send_request(request))
        .await
        .map_err(|_| ClientError::Timeout(address))??;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status();
        let body = response.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        return Err(ClientError::Refused { status, body: String::from_utf8_lossy(&body).trim().to_owned() });
    }
    let upgraded = hyper::upgrade::on(response).await?;
    let (connection, _no_streams_come_from_a_server) = Connection::start(TokioIo::new(upgraded), Role::Client);
    Ok(connection)
}
