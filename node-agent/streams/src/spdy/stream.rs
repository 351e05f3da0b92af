//! One stream of a connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::frame::{MAX_DATA_BYTES, Out, RST_CANCEL};
use super::headers::Headers;

/// What the connection delivers to a stream.
#[derive(Debug)]
pub(crate) enum In {
    Data(Bytes),
    /// FIN or RST: both read as the end.
    End,
}

/// A duplex byte stream. `shutdown` sends FIN; dropping a stream without it resets it, and may overtake what was written.
#[derive(Debug)]
pub struct SpdyStream {
    id: u32,
    headers: Headers,
    inbound: mpsc::Receiver<In>,
    unread: Bytes,
    ended: bool,
    outbound: PollSender<Out>,
    control: mpsc::UnboundedSender<Out>,
    fin_sent: bool,
    reset: Arc<AtomicBool>,
}

impl SpdyStream {
    pub(crate) fn new(
        id: u32,
        headers: Headers,
        inbound: mpsc::Receiver<In>,
        outbound: mpsc::Sender<Out>,
        control: mpsc::UnboundedSender<Out>,
        reset: Arc<AtomicBool>,
    ) -> Self {
        Self {
            id,
            headers,
            inbound,
            unread: Bytes::new(),
            ended: false,
            outbound: PollSender::new(outbound),
            control,
            fin_sent: false,
            reset,
        }
    }

    /// The headers it was opened with.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, frame: impl FnOnce(u32) -> Out) -> Poll<io::Result<()>> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        if self.reset.load(Ordering::Acquire) {
            return Poll::Ready(Err(gone()));
        }
        ready!(self.outbound.poll_reserve(cx)).map_err(|_| gone())?;
        Poll::Ready(self.outbound.send_item(frame(self.id)).map_err(|_| gone()))
    }
}

impl AsyncRead for SpdyStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.inbound.poll_recv(cx)) {
                Some(In::Data(bytes)) => self.unread = bytes,
                Some(In::End) => self.ended = true,
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            }
        }
        let n = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread[..n]);
        self.unread.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SpdyStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.fin_sent {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let n = buf.len().min(MAX_DATA_BYTES);
        let bytes = &buf[..n];
        ready!(self.poll_send(cx, |stream| Out::Data { stream, bytes: bytes.to_vec(), fin: false }))?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's writer flushes whenever it has nothing more to write.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.fin_sent {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_send(cx, |stream| Out::Data { stream, bytes: Vec::new(), fin: true }))?;
        self.fin_sent = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for SpdyStream {
    fn drop(&mut self) {
        if !self.fin_sent && !self.reset.load(Ordering::Acquire) {
            let _ = self.control.send(Out::Reset { stream: self.id, status: RST_CANCEL });
        }
    }
}
