//! What users of a session hold: the two ends of it, and why it ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::header::write_line;
use crate::stream::TunnelStream;
use crate::{MAX_OUTBOUND_STREAMS, driver};

/// Why a session ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SessionEnd {
    /// The other end closed the connection.
    #[error("the other end closed the tunnel")]
    ClosedByPeer,
    /// [`Opener::close`] was called or [`Incoming`] was dropped.
    #[error("the tunnel was closed at this end")]
    ClosedHere,
    /// Nothing was heard, not even answers to pings.
    #[error("nothing was heard from the other end of the tunnel for {} s", .0.as_secs())]
    Silent(Duration),
    /// The connection failed or the other end broke the protocol.
    #[error("the tunnel failed")]
    Failed(#[source] Arc<yamux::ConnectionError>),
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no session any more.
    #[error("the tunnel has ended")]
    Ended(#[source] SessionEnd),
    /// The header line of the new stream could not be sent.
    #[error("the stream failed while its header {header:?} was sent")]
    Header {
        /// The line.
        header: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A stream that the other end opened, its header line already read.
#[derive(Debug)]
pub struct Inbound {
    /// The line without its end. Parse it as [`crate::Header`].
    pub header: String,
    /// What follows.
    pub stream: TunnelStream,
}

/// Starts sessions.
#[derive(Debug)]
pub struct Session;

impl Session {
    /// The end that opened the connection: the agent.
    pub fn client<T>(io: T) -> (Opener, Incoming)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        start(io, yamux::Mode::Client)
    }

    /// The end that accepted the connection: the API server.
    pub fn server<T>(io: T) -> (Opener, Incoming)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        start(io, yamux::Mode::Server)
    }
}

fn start<T>(io: T, mode: yamux::Mode) -> (Opener, Incoming)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    // Small: a request waits in the channel only until the driver's next turn.
    let (open_tx, open_rx) = mpsc::channel(16);
    let (inbound_tx, inbound_rx) = mpsc::channel(64);
    let (end_tx, end_rx) = watch::channel(None);
    let close = CancellationToken::new();
    tokio::spawn(driver::run(io, mode, open_rx, inbound_tx, close.clone(), end_tx));
    let opener = Opener {
        requests: open_tx,
        permits: Arc::new(Semaphore::new(MAX_OUTBOUND_STREAMS)),
        close: close.clone(),
        end: end_rx.clone(),
    };
    (opener, Incoming { streams: inbound_rx, end: end_rx, _close_on_drop: close.drop_guard() })
}

pub(crate) type OpenRequest = oneshot::Sender<yamux::Stream>;

/// Opens streams to the other end. Cheap to clone; holding one does not keep the session alive.
#[derive(Debug, Clone)]
pub struct Opener {
    requests: mpsc::Sender<OpenRequest>,
    permits: Arc<Semaphore>,
    close: CancellationToken,
    end: watch::Receiver<Option<SessionEnd>>,
}

impl Opener {
    /// Opens a stream for the purpose that `header` names. Waits while [`MAX_OUTBOUND_STREAMS`] are open.
    pub async fn open(&self, header: &str) -> Result<TunnelStream, OpenError> {
        let permit = tokio::select! {
            permit = Arc::clone(&self.permits).acquire_owned() => permit.ok(),
            end = self.ended() => return Err(OpenError::Ended(end)),
        };
        let (reply, answer) = oneshot::channel();
        if self.requests.send(reply).await.is_err() {
            return Err(OpenError::Ended(self.ended().await));
        }
        let Ok(stream) = answer.await else {
            return Err(OpenError::Ended(self.ended().await));
        };
        let mut stream = TunnelStream::new(stream, permit);
        write_line(&mut stream, header)
            .await
            .map_err(|source| OpenError::Header { header: header.to_owned(), source })?;
        Ok(stream)
    }

    /// Waits for the session's end, and says why it ended.
    pub async fn ended(&self) -> SessionEnd {
        wait_for_end(self.end.clone()).await
    }

    /// Whether the session is over.
    pub fn is_ended(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// Ends the session: the other end is told, open streams end.
    pub fn close(&self) {
        self.close.cancel();
    }
}

/// Streams that the other end opens. Dropping it ends the session.
#[derive(Debug)]
pub struct Incoming {
    streams: mpsc::Receiver<Inbound>,
    end: watch::Receiver<Option<SessionEnd>>,
    _close_on_drop: DropGuard,
}

impl Incoming {
    /// The next stream; `None` when the session has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Inbound> {
        self.streams.recv().await
    }

    /// Waits for the session's end, and says why it ended.
    pub async fn ended(&self) -> SessionEnd {
        wait_for_end(self.end.clone()).await
    }
}

async fn wait_for_end(mut end: watch::Receiver<Option<SessionEnd>>) -> SessionEnd {
    // The driver sends an end before it drops the sender; a runtime that shuts down may drop it without.
    match end.wait_for(Option::is_some).await {
        Ok(seen) => seen.clone().unwrap_or(SessionEnd::ClosedHere),
        Err(_) => SessionEnd::ClosedHere,
    }
}
