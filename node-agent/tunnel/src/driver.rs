//! The task that owns a session's connection. All progress of all streams happens here.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, timeout};
use tokio_util::compat::TokioAsyncReadCompatExt;
use tokio_util::sync::CancellationToken;

use crate::header::read_line;
use crate::session::{Inbound, OpenRequest, SessionEnd};
use crate::stream::TunnelStream;
use crate::{KEEPALIVE, MAX_OUTBOUND_STREAMS, SILENCE};

/// Closing waits for the other end to take what is still buffered; a dead one must not hold us.
const CLOSE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

fn config() -> yamux::Config {
    let mut config = yamux::Config::default();
    // Both directions' streams count, and a closed one counts until its end is processed: twice is not enough, thrice is.
    // The receive window is a limit, not an allocation, and must cover the streams' initial windows.
    let streams = MAX_OUTBOUND_STREAMS * 3;
    config.set_max_connection_receive_window(None);
    config.set_max_num_streams(streams);
    config.set_max_connection_receive_window(Some(streams * yamux::DEFAULT_CREDIT as usize));
    config
}

pub(crate) async fn run<T>(
    io: T,
    mode: yamux::Mode,
    mut requests: mpsc::Receiver<OpenRequest>,
    inbound: mpsc::Sender<Inbound>,
    close: CancellationToken,
    end: watch::Sender<Option<SessionEnd>>,
) where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let heard = Heard::new();
    let mut connection = yamux::Connection::new(Listening { io, heard: heard.clone() }.compat(), config(), mode);
    let mut ticks = tokio::time::interval(KEEPALIVE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waiting: Option<OpenRequest> = None;

    let why = loop {
        let turn = tokio::select! {
            biased;
            () = close.cancelled() => break SessionEnd::ClosedHere,
            turn = poll_fn(|cx| poll_turn(&mut connection, &mut requests, &mut waiting, &mut ticks, cx)) => turn,
        };
        match turn {
            Turn::Inbound(stream) => {
                let inbound = inbound.clone();
                tokio::spawn(read_header(stream, inbound));
            }
            // The poll after a tick is what makes yamux send its ping.
            Turn::Tick => {
                let silent = heard.silence();
                if silent >= SILENCE {
                    break SessionEnd::Silent(silent);
                }
            }
            Turn::End(why) => break why,
        }
    };
    if matches!(why, SessionEnd::ClosedHere) {
        let _ = timeout(CLOSE_TIMEOUT, poll_fn(|cx| connection.poll_close(cx))).await;
    }
    tracing::debug!(%why, "tunnel ended");
    let _ = end.send(Some(why));
}

enum Turn {
    Inbound(yamux::Stream),
    Tick,
    End(SessionEnd),
}

fn poll_turn<T>(
    connection: &mut yamux::Connection<T>,
    requests: &mut mpsc::Receiver<OpenRequest>,
    waiting: &mut Option<OpenRequest>,
    ticks: &mut Interval,
    cx: &mut Context<'_>,
) -> Poll<Turn>
where
    T: futures::AsyncRead + futures::AsyncWrite + Unpin,
{
    let failed = |error| match error {
        yamux::ConnectionError::Closed => Turn::End(SessionEnd::ClosedByPeer),
        // A write may notice the closed connection before its end is read.
        yamux::ConnectionError::Io(error) if is_closed(error.kind()) => Turn::End(SessionEnd::ClosedByPeer),
        other => Turn::End(SessionEnd::Failed(Arc::new(other))),
    };
    loop {
        if waiting.is_none()
            && let Poll::Ready(Some(request)) = requests.poll_recv(cx)
        {
            *waiting = Some(request);
        }
        if waiting.is_none() {
            break;
        }
        match connection.poll_new_outbound(cx) {
            Poll::Ready(Ok(stream)) => {
                // A caller that gave up drops the stream, which resets it.
                if let Some(request) = waiting.take() {
                    let _ = request.send(stream);
                }
            }
            Poll::Ready(Err(error)) => return Poll::Ready(failed(error)),
            Poll::Pending => break,
        }
    }
    match connection.poll_next_inbound(cx) {
        Poll::Ready(Some(Ok(stream))) => return Poll::Ready(Turn::Inbound(stream)),
        Poll::Ready(Some(Err(error))) => return Poll::Ready(failed(error)),
        Poll::Ready(None) => return Poll::Ready(Turn::End(SessionEnd::ClosedByPeer)),
        Poll::Pending => {}
    }
    ticks.poll_tick(cx).map(|_| Turn::Tick)
}

fn is_closed(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
}

/// Headers are read beside the driver: a stream whose header never comes must not hold up the others.
async fn read_header(stream: yamux::Stream, inbound: mpsc::Sender<Inbound>) {
    let mut stream = TunnelStream::new(stream, None);
    match timeout(SILENCE, read_line(&mut stream)).await {
        Ok(Ok(header)) => {
            let _ = inbound.send(Inbound { header, stream }).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "tunnel stream without a header"),
        Err(_) => tracing::debug!("tunnel stream without a header within the time limit"),
    }
}

/// When the last byte came in.
#[derive(Debug, Clone)]
struct Heard {
    start: Instant,
    millis: Arc<AtomicU64>,
}

impl Heard {
    fn new() -> Self {
        Self { start: Instant::now(), millis: Arc::default() }
    }

    fn now(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }

    fn silence(&self) -> std::time::Duration {
        self.start.elapsed().saturating_sub(std::time::Duration::from_millis(self.millis.load(Ordering::Relaxed)))
    }
}

/// A connection that notes when bytes come in.
struct Listening<T> {
    io: T,
    heard: Heard,
}

impl<T: AsyncRead + Unpin> AsyncRead for Listening<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.heard.now();
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Listening<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
