//! Numbered channels: the first byte of a binary message says which stream the rest belongs to.
//!
//! Remote command (`v4.channel.k8s.io`, `v5.channel.k8s.io`): 0 stdin, 1 stdout, 2 stderr, 3 error, 4 resize; in v5 a message
//! on channel 255 ends the channel that its one byte names, which is how stdin gets its end of file.
//! Port-forward (`v4.channel.k8s.io`): 2n is the n-th port's data, 2n+1 its errors; each starts with the port's number.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::io::StreamReader;
use tokio_util::sync::{CancellationToken, PollSender};

const CLOSE_CHANNEL: u8 = 255;
/// Messages that wait for the writer, or for a channel's reader.
const QUEUE: usize = 8;
const CHUNK: usize = 32 * 1024;
/// How long the client may take to answer our close.
const LINGER: std::time::Duration = std::time::Duration::from_secs(5);

/// A WebSocket taken apart into channels.
pub(crate) struct Channels {
    outbound: mpsc::Sender<Message>,
    readers: HashMap<u8, mpsc::Receiver<Bytes>>,
    /// Cancelled when the client is gone.
    pub gone: CancellationToken,
    finished: CancellationToken,
}

/// What is read from one channel.
pub(crate) type ChannelReader = Box<dyn AsyncRead + Send + Unpin>;

impl Channels {
    /// Reads the `inbound` channels, writes any.
    fn start<T>(socket: WebSocketStream<T>, inbound: &[u8]) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sink, mut source) = socket.split();
        let (outbound, mut to_write) = mpsc::channel::<Message>(QUEUE);
        let gone = CancellationToken::new();
        let finished = CancellationToken::new();
        let mut writers = HashMap::new();
        let mut readers = HashMap::new();
        for channel in inbound {
            let (tx, rx) = mpsc::channel(QUEUE);
            writers.insert(*channel, tx);
            readers.insert(*channel, rx);
        }
        let (reader_gone, writer_done) = (gone.clone(), finished.clone());
        tokio::spawn(async move {
            while let Some(Ok(message)) = source.next().await {
                let Message::Binary(bytes) = message else {
                    if matches!(message, Message::Close(_)) {
                        break;
                    }
                    continue;
                };
                let Some((&channel, payload)) = bytes.split_first() else { continue };
                if channel == CLOSE_CHANNEL {
                    if let Some(closed) = payload.first() {
                        writers.remove(closed);
                    }
                } else if let Some(writer) = writers.get(&channel)
                    && !payload.is_empty()
                    && writer.send(bytes.slice(1..)).await.is_err()
                {
                    writers.remove(&channel);
                }
            }
            reader_gone.cancel();
        });
        let writer_gone = gone.clone();
        tokio::spawn(async move {
            while let Some(message) = to_write.recv().await {
                if sink.feed(message).await.is_err() {
                    break;
                }
                // One flush for whatever has gathered.
                if to_write.is_empty() && sink.flush().await.is_err() {
                    break;
                }
            }
            let _ = sink.flush().await;
            let _ = tokio::time::timeout(LINGER, writer_gone.cancelled()).await;
            writer_done.cancel();
        });
        Self { outbound, readers, gone, finished }
    }

    pub(crate) fn reader(&mut self, channel: u8) -> Option<ChannelReader> {
        let receiver = self.readers.remove(&channel)?;
        Some(Box::new(StreamReader::new(ReceiverStream(receiver))))
    }

    pub(crate) fn writer(&self, channel: u8) -> ChannelWriter {
        ChannelWriter { channel, sender: PollSender::new(self.outbound.clone()) }
    }

    /// Says goodbye after everything written so far, and waits until it is delivered.
    pub(crate) async fn close(self) {
        let goodbye = CloseFrame { code: CloseCode::Normal, reason: Default::default() };
        let _ = self.outbound.send(Message::Close(Some(goodbye))).await;
        drop((self.outbound, self.readers));
        self.finished.cancelled().await;
    }
}

/// The five channels of a remote command.
pub(crate) fn remote_command_channels<T>(socket: WebSocketStream<T>) -> Channels
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    Channels::start(socket, &[0, 4])
}

/// A data and an error channel for each of `ports`.
pub(crate) fn port_forward_channels<T>(socket: WebSocketStream<T>, ports: usize) -> Channels
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let data: Vec<u8> = (0..ports).filter_map(|n| u8::try_from(n * 2).ok()).collect();
    Channels::start(socket, &data)
}

struct ReceiverStream(mpsc::Receiver<Bytes>);

impl futures::Stream for ReceiverStream {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(Ok))
    }
}

/// Writes one channel. Its end is not told: channels from the server have no end of their own.
pub(crate) struct ChannelWriter {
    channel: u8,
    sender: PollSender<Message>,
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.sender.poll_reserve(cx)).map_err(|_| gone())?;
        let piece = &buf[..buf.len().min(CHUNK)];
        let mut message = Vec::with_capacity(piece.len() + 1);
        message.push(self.channel);
        message.extend_from_slice(piece);
        self.sender.send_item(Message::Binary(message.into())).map_err(|_| gone())?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
