//! The server's end of exec and attach.

use std::fmt::Display;
use std::time::Duration;

use http::{Request, Response};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::Body;
use crate::command::{CommandOptions, CommandReader, RemoteCommand, TerminalSize};
use crate::exit::Exit;
use crate::join::{ClientStreams, join};
use crate::spdy::{self, SpdyStream};
use crate::upgrade::{self, Upgrade};
use crate::websocket::remote_command_channels;

/// In the order of our preference. v5 exists for WebSocket only.
const SPDY_PROTOCOLS: [&str; 3] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io"];
const WEBSOCKET_PROTOCOLS: [&str; 3] = ["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"];

/// How long a client may take to open its streams (the kubelet's own limit).
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);

/// Answers a request for exec or attach: with a refusal if it is none, else with the 101 to send; the rest happens in a task
/// after that. The process is started by `start` when the client is connected; an error of it reaches the user in
/// the way kubectl prints.
///
/// The task ends when the process has ended and its output is delivered, or when the client is gone, which drops the
/// [`RemoteCommand`].
pub fn serve_remote_command<B, F, R, E>(mut request: Request<B>, options: CommandOptions, start: F) -> Response<Body>
where
    F: FnOnce(CommandOptions) -> R + Send + 'static,
    R: Future<Output = Result<RemoteCommand, E>> + Send + 'static,
    E: Display + Send + 'static,
{
    if !(options.stdin || options.stdout || options.stderr) {
        return upgrade::refuse(http::StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr");
    }
    let chosen = match upgrade::choose(request.headers(), &SPDY_PROTOCOLS, &WEBSOCKET_PROTOCOLS) {
        Ok(chosen) => chosen,
        Err(refusal) => return refusal,
    };
    let response = chosen.response();
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let io = match upgraded.await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(error) => return tracing::debug!(%error, "the client left before the upgrade"),
        };
        match chosen {
            Upgrade::Spdy { protocol } => over_spdy(io, protocol, options, start).await,
            Upgrade::WebSocket { protocol, .. } => over_websocket(io, protocol, options, start).await,
        }
    });
    response
}

async fn run<F, R, E>(streams: ClientStreams, options: CommandOptions, start: F) -> Exit
where
    F: FnOnce(CommandOptions) -> R,
    R: Future<Output = Result<RemoteCommand, E>>,
    E: Display + Send + 'static,
{
    match start(options).await {
        Ok(command) => join(streams, command).await,
        Err(error) => Exit::Failed(error.to_string()),
    }
}

async fn over_spdy<F, R, E>(io: TokioIo<Upgraded>, protocol: &str, options: CommandOptions, start: F)
where
    F: FnOnce(CommandOptions) -> R,
    R: Future<Output = Result<RemoteCommand, E>>,
    E: Display + Send + 'static,
{
    let (connection, mut incoming) = spdy::Connection::start(io, spdy::Role::Server);
    let resizable = options.tty && protocol != "v2.channel.k8s.io";
    let Ok(Some(mut streams)) =
        tokio::time::timeout(STREAMS_TIMEOUT, SpdyStreams::collect(&mut incoming, options, resizable)).await
    else {
        return tracing::debug!("the client did not open the streams it asked for");
    };
    let client = ClientStreams {
        stdin: streams.stdin.map(|s| Box::new(s) as _),
        stdout: streams.stdout.map(|s| Box::new(s) as _),
        stderr: streams.stderr.map(|s| Box::new(s) as _),
        resize: streams.resize.map(|s| sizes(Box::new(s))),
    };
    let exit = tokio::select! {
        exit = run(client, options, start) => exit,
        end = connection.ended() => return tracing::debug!(%end, "the client left"),
    };
    let report = match protocol {
        "v4.channel.k8s.io" => exit.to_status().to_string(),
        _ => exit.text(),
    };
    let _ = streams.error.write_all(report.as_bytes()).await;
    let _ = streams.error.shutdown().await;
    connection.close().await;
}

struct SpdyStreams {
    error: SpdyStream,
    stdin: Option<SpdyStream>,
    stdout: Option<SpdyStream>,
    stderr: Option<SpdyStream>,
    resize: Option<SpdyStream>,
}

impl SpdyStreams {
    /// Waits for the streams that the request announced, in whatever order. `None`: the client left.
    async fn collect(incoming: &mut spdy::Incoming, options: CommandOptions, resizable: bool) -> Option<Self> {
        let (mut error, mut stdin, mut stdout, mut stderr, mut resize) = (None, None, None, None, None);
        loop {
            let complete = error.is_some()
                && stdin.is_some() == options.stdin
                && stdout.is_some() == options.stdout
                && stderr.is_some() == options.stderr
                && resize.is_some() == resizable;
            if complete {
                return Some(Self { error: error?, stdin, stdout, stderr, resize });
            }
            let stream = incoming.next().await?;
            // What was not asked for, or comes twice, is dropped, which resets it.
            match stream.headers().get("streamType") {
                Some("error") => error = Some(stream),
                Some("stdin") if options.stdin => stdin = Some(stream),
                Some("stdout") if options.stdout => stdout = Some(stream),
                Some("stderr") if options.stderr => stderr = Some(stream),
                Some("resize") if resizable => resize = Some(stream),
                other => tracing::debug!(stream = ?other, "the client opened a stream that it had not asked for"),
            }
        }
    }
}

async fn over_websocket<F, R, E>(io: TokioIo<Upgraded>, protocol: &str, options: CommandOptions, start: F)
where
    F: FnOnce(CommandOptions) -> R,
    R: Future<Output = Result<RemoteCommand, E>>,
    E: Display + Send + 'static,
{
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
    let mut channels = remote_command_channels(socket);
    let stdin = channels.reader(0);
    let resize = channels.reader(4);
    let client = ClientStreams {
        stdin: stdin.filter(|_| options.stdin),
        stdout: options.stdout.then(|| Box::new(channels.writer(1)) as _),
        stderr: options.stderr.then(|| Box::new(channels.writer(2)) as _),
        resize: resize.filter(|_| options.tty).map(sizes),
    };
    let mut error = channels.writer(3);
    // An empty message tells the client that the connection stands.
    let first = if options.stdout {
        1
    } else if options.stderr {
        2
    } else {
        3
    };
    let _ = channels.writer(first).write(&[]).await;
    let gone = channels.gone.clone();
    let exit = tokio::select! {
        exit = run(client, options, start) => exit,
        () = gone.cancelled() => return tracing::debug!("the client left"),
    };
    let report = match protocol {
        "channel.k8s.io" => exit.text(),
        _ => exit.to_status().to_string(),
    };
    let _ = error.write_all(report.as_bytes()).await;
    drop(error);
    channels.close().await;
}

/// Terminal sizes come as JSON objects, one after the other.
fn sizes(mut from: CommandReader) -> mpsc::Receiver<TerminalSize> {
    let (tx, rx) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut unread = Vec::new();
        let mut buffer = [0; 256];
        while let Ok(n @ 1..) = read_some(&mut from, &mut buffer).await {
            unread.extend_from_slice(&buffer[..n]);
            let mut parser = serde_json::Deserializer::from_slice(&unread).into_iter::<TerminalSize>();
            let mut used = 0;
            while let Some(Ok(size)) = parser.next() {
                used = parser.byte_offset();
                if tx.send(size).await.is_err() {
                    return;
                }
            }
            unread.drain(..used);
            // Not sizes: an honest one is some thirty bytes.
            if unread.len() > 1024 {
                return;
            }
        }
    });
    rx
}

async fn read_some<R: AsyncRead + Unpin>(from: &mut R, buffer: &mut [u8]) -> std::io::Result<usize> {
    from.read(buffer).await
}
