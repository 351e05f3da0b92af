//! A connection: one task reads frames and hands them to streams, one writes what streams send.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};

use super::frame::{
    FLAG_FIN, FrameError, GOAWAY, HEAD_BYTES, HEADERS, Head, MAX_DATA_BYTES, Out, PING, RST_PROTOCOL_ERROR,
    RST_REFUSED, RST_STREAM, SYN_REPLY, SYN_STREAM, number,
};
use super::headers::{Deflate, Headers, Inflate};
use super::stream::{In, SpdyStream};

/// Streams at a time. A port-forward with a busy browser behind it has dozens.
const MAX_STREAMS: usize = 1024;
/// Pieces of data (up to [`MAX_DATA_BYTES`] each) that wait for a stream's reader before the connection stops being read.
const INBOUND_PIECES: usize = 8;
/// Frames that wait for the writer.
const OUTBOUND_FRAMES: usize = 8;
/// How long the other end may take to close after we did.
const LINGER: Duration = Duration::from_secs(5);

/// Which end this is: it decides who uses odd ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The end that asked for the upgrade; opens odd streams.
    Client,
    /// The end that answered it; opens even streams.
    Server,
}

/// Why a connection ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SpdyEnd {
    /// The other end closed it.
    #[error("the connection was closed")]
    Closed,
    /// Its bytes make no sense, or it failed.
    #[error("the SPDY connection failed")]
    Failed(#[source] Arc<FrameError>),
}

struct Slot {
    to_stream: mpsc::Sender<In>,
    reset: Arc<AtomicBool>,
}

type Slots = Arc<Mutex<HashMap<u32, Slot>>>;

/// Opens streams. Cheap to clone. When all clones and streams are dropped, the connection closes.
#[derive(Clone)]
pub struct Connection {
    outbound: mpsc::Sender<Out>,
    control: mpsc::UnboundedSender<Out>,
    slots: Slots,
    next: Arc<AtomicU32>,
    end: watch::Receiver<Option<SpdyEnd>>,
}

/// Streams that the other end opens.
#[derive(Debug)]
pub struct Incoming {
    streams: mpsc::Receiver<SpdyStream>,
}

impl Incoming {
    /// The next stream, already answered; `None` when the connection has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<SpdyStream> {
        self.streams.recv().await
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    /// Speaks SPDY/3.1 over `io`, on which the HTTP upgrade has been done.
    pub fn start<T>(io: T, role: Role) -> (Self, Incoming)
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (outbound, outbound_rx) = mpsc::channel(OUTBOUND_FRAMES);
        let (control, control_rx) = mpsc::unbounded_channel();
        let (accept, streams) = mpsc::channel(16);
        let (end_tx, end) = watch::channel(None);
        let (written_tx, written) = watch::channel(false);
        let slots = Slots::default();
        let (read, write) = tokio::io::split(io);
        let reader = Reader {
            read: BufReader::with_capacity(MAX_DATA_BYTES, read),
            role,
            inflate: Inflate::new(),
            slots: Arc::clone(&slots),
            // Weak: the reader alone must not keep the writer, and with it the connection, alive.
            outbound: outbound.downgrade(),
            control: control.downgrade(),
            accept,
        };
        tokio::spawn(async move {
            let end = reader.run(written).await;
            let _ = end_tx.send(Some(end));
        });
        tokio::spawn(async move {
            let _ = write_frames(write, outbound_rx, control_rx).await;
            let _ = written_tx.send(true);
        });
        let first = if role == Role::Client { 1 } else { 2 };
        (Self { outbound, control, slots, next: Arc::new(AtomicU32::new(first)), end }, Incoming { streams })
    }

    /// Opens a stream; does not wait for the answer, as no peer refuses one.
    pub async fn open(&self, headers: Headers) -> Result<SpdyStream, SpdyEnd> {
        let id = self.next.fetch_add(2, Ordering::Relaxed);
        let (stream, slot) = channel(id, headers.clone(), self.outbound.clone(), self.control.clone());
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).insert(id, slot);
        if self.outbound.send(Out::Syn { stream: id, headers }).await.is_err() {
            return Err(self.end.borrow().clone().unwrap_or(SpdyEnd::Closed));
        }
        Ok(stream)
    }

    /// Waits for the connection's end.
    pub async fn ended(&self) -> SpdyEnd {
        let mut end = self.end.clone();
        match end.wait_for(Option::is_some).await {
            Ok(seen) => seen.clone().unwrap_or(SpdyEnd::Closed),
            Err(_) => SpdyEnd::Closed,
        }
    }

    /// Sends everything written so far, says GOAWAY and closes; waits until the other end has closed too, but not for long.
    pub async fn close(self) {
        let _ = self.outbound.send(Out::Close { last: 0 }).await;
        self.ended().await;
    }
}

fn channel(
    id: u32,
    headers: Headers,
    outbound: mpsc::Sender<Out>,
    control: mpsc::UnboundedSender<Out>,
) -> (SpdyStream, Slot) {
    let (to_stream, inbound) = mpsc::channel(INBOUND_PIECES);
    let reset = Arc::new(AtomicBool::new(false));
    let stream = SpdyStream::new(id, headers, inbound, outbound, control, Arc::clone(&reset));
    (stream, Slot { to_stream, reset })
}

struct Reader<T> {
    read: BufReader<ReadHalf<T>>,
    role: Role,
    inflate: Inflate,
    slots: Slots,
    outbound: mpsc::WeakSender<Out>,
    control: mpsc::WeakUnboundedSender<Out>,
    accept: mpsc::Sender<SpdyStream>,
}

impl<T: AsyncRead + AsyncWrite> Reader<T> {
    async fn run(mut self, mut written: watch::Receiver<bool>) -> SpdyEnd {
        let our_end = async {
            let _ = written.wait_for(|done| *done).await;
            tokio::time::sleep(LINGER).await;
        };
        let end = tokio::select! {
            result = self.read_frames() => match result {
                Ok(()) => SpdyEnd::Closed,
                Err(error) => SpdyEnd::Failed(Arc::new(error)),
            },
            () = our_end => SpdyEnd::Closed,
        };
        // Readers of open streams learn that their connection is gone, writers that nobody listens.
        for (_, slot) in self.slots.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            slot.reset.store(true, Ordering::Release);
        }
        self.send(Out::Close { last: 0 });
        end
    }

    /// Until end of file.
    async fn read_frames(&mut self) -> Result<(), FrameError> {
        loop {
            let mut head = [0; HEAD_BYTES];
            match self.read.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            match Head::parse(head)? {
                Head::Data { stream, flags, length } => self.data(stream, flags, length).await?,
                Head::Control { kind, flags, length } => {
                    let mut body = vec![0; length];
                    self.read.read_exact(&mut body).await?;
                    self.control(kind, flags, &body).await?;
                }
            }
        }
    }

    /// A frame's data is handed on as it comes in: what a peer announces is not what we allocate.
    async fn data(&mut self, id: u32, flags: u8, mut length: usize) -> Result<(), FrameError> {
        while length > 0 {
            let mut piece = BytesMut::zeroed(length.min(MAX_DATA_BYTES));
            let n = self.read.read(&mut piece).await?;
            if n == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
            piece.truncate(n);
            length -= n;
            self.deliver(id, In::Data(piece.freeze())).await;
        }
        if flags & FLAG_FIN != 0 {
            self.finish(id).await;
        }
        Ok(())
    }

    async fn control(&mut self, kind: u16, flags: u8, body: &[u8]) -> Result<(), FrameError> {
        match kind {
            SYN_STREAM => {
                let id = number(body, 0, kind)?;
                let headers = self.inflate.headers(body.get(10..).ok_or(FrameError::Short(kind))?)?;
                self.accept(id, headers, flags & FLAG_FIN != 0).await;
            }
            SYN_REPLY | HEADERS => {
                let id = number(body, 0, kind)?;
                // Read for the zlib stream's sake.
                self.inflate.headers(body.get(4..).ok_or(FrameError::Short(kind))?)?;
                if flags & FLAG_FIN != 0 {
                    self.finish(id).await;
                }
            }
            RST_STREAM => {
                let id = number(body, 0, kind)?;
                if let Some(slot) = self.take(id) {
                    slot.reset.store(true, Ordering::Release);
                    let _ = slot.to_stream.send(In::End).await;
                }
            }
            PING => {
                let id =
                    u32::from_be_bytes(body.get(..4).and_then(|b| b.try_into().ok()).ok_or(FrameError::Short(kind))?);
                // Ours would have our parity; we send none.
                let theirs = u32::from(self.role == Role::Server);
                if id % 2 == theirs {
                    self.send(Out::Ping(id));
                }
            }
            // The peer opens no more streams; those that are open go on until it closes.
            GOAWAY => {}
            // SETTINGS, WINDOW_UPDATE and what we do not know: nothing depends on them (see the module).
            _ => {}
        }
        Ok(())
    }

    async fn accept(&mut self, id: u32, headers: Headers, fin: bool) {
        let theirs = u32::from(self.role == Role::Server);
        let taken = {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            if slots.len() >= MAX_STREAMS {
                Some(RST_REFUSED)
            } else {
                slots.contains_key(&id).then_some(RST_PROTOCOL_ERROR)
            }
        };
        let refusal = if id % 2 == theirs { taken } else { Some(RST_PROTOCOL_ERROR) };
        if let Some(status) = refusal {
            return self.send(Out::Reset { stream: id, status });
        }
        let (Some(outbound), Some(control)) = (self.outbound.upgrade(), self.control.upgrade()) else { return };
        // Before the stream can be written to: peers drop data that comes before the reply.
        self.send(Out::Reply { stream: id });
        let (stream, slot) = channel(id, headers, outbound, control);
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).insert(id, slot);
        if fin {
            self.finish(id).await;
        }
        // An acceptor that is gone drops the stream, which resets it.
        let _ = self.accept.send(stream).await;
    }

    async fn deliver(&mut self, id: u32, item: In) {
        let to_stream =
            self.slots.lock().unwrap_or_else(PoisonError::into_inner).get(&id).map(|slot| slot.to_stream.clone());
        if let Some(to_stream) = to_stream
            && to_stream.send(item).await.is_err()
        {
            self.take(id);
        }
    }

    async fn finish(&mut self, id: u32) {
        if let Some(slot) = self.take(id) {
            let _ = slot.to_stream.send(In::End).await;
        }
    }

    fn take(&self, id: u32) -> Option<Slot> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }

    fn send(&self, frame: Out) {
        if let Some(control) = self.control.upgrade() {
            let _ = control.send(frame);
        }
    }
}

/// Writes until told to close or until nobody is left who could say more. Control frames go first: a reply must overtake
/// the data of other streams.
async fn write_frames<T: AsyncRead + AsyncWrite>(
    mut write: WriteHalf<T>,
    mut outbound: mpsc::Receiver<Out>,
    mut control: mpsc::UnboundedReceiver<Out>,
) -> std::io::Result<()> {
    let mut deflate = Deflate::new();
    let mut bytes = Vec::with_capacity(MAX_DATA_BYTES + HEAD_BYTES);
    loop {
        let next = match control.try_recv().ok().or_else(|| outbound.try_recv().ok()) {
            Some(frame) => Some(frame),
            None => {
                write.flush().await?;
                tokio::select! {
                    biased;
                    Some(frame) = control.recv() => Some(frame),
                    frame = outbound.recv() => frame,
                }
            }
        };
        let frame = next.unwrap_or(Out::Close { last: 0 });
        bytes.clear();
        frame.encode(&mut deflate, &mut bytes);
        write.write_all(&bytes).await?;
        if matches!(frame, Out::Close { .. }) {
            write.flush().await?;
            return write.shutdown().await;
        }
    }
}
