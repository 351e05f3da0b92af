//! A request's body that can be sent again from the start, as long as little of it was sent.
//!
//! A replica that refuses a request reads nothing of its body, so that no more than a stream's window was sent when the
//! refusal comes. That much is kept; a larger body flows on without being kept.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;

use crate::body::Body;

/// The window of a stream, and what may wait in buffers before it.
const KEEP: usize = super::STREAM_WINDOW as usize + 128 * 1024;

/// Why a body ends early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    /// The client's body failed.
    #[error("the client's body failed")]
    Client(#[source] axum::Error),
    /// It is being sent to another replica.
    #[error("the body is sent elsewhere")]
    Elsewhere,
}

#[derive(Debug)]
struct Shared {
    kept: Vec<Bytes>,
    bytes: usize,
    /// More was sent than is kept.
    spent: bool,
    rest: Body,
    turn: u64,
}

/// The body, in the hands of the router.
#[derive(Debug)]
pub(crate) struct Original(Arc<Mutex<Shared>>);

/// The body, in the hands of one attempt. An older attempt's ends when a newer one begins.
#[derive(Debug)]
pub(crate) struct Replay {
    shared: Arc<Mutex<Shared>>,
    turn: u64,
    at: usize,
}

impl Original {
    pub(crate) fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(Shared { kept: Vec::new(), bytes: 0, spent: false, rest: body, turn: 0 })))
    }

    /// The body from its start; `None`: too much is gone.
    pub(crate) fn again(&self) -> Option<Replay> {
        let mut shared = self.0.lock();
        shared.turn += 1;
        (!shared.spent).then(|| Replay { shared: Arc::clone(&self.0), turn: shared.turn, at: 0 })
    }
}

impl Replay {
    /// Nothing.
    pub(crate) fn empty() -> Self {
        let shared = Shared { kept: Vec::new(), bytes: 0, spent: false, rest: Body::empty(), turn: 0 };
        Self { shared: Arc::new(Mutex::new(shared)), turn: 0, at: 0 }
    }
}

impl http_body::Body for Replay {
    type Data = Bytes;
    type Error = ReplayError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplayError>>> {
        let shared = Arc::clone(&self.shared);
        let mut shared = shared.lock();
        if shared.turn != self.turn {
            return Poll::Ready(Some(Err(ReplayError::Elsewhere)));
        }
        if let Some(kept) = shared.kept.get(self.at).cloned() {
            self.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(kept))));
        }
        let frame = std::task::ready!(Pin::new(&mut shared.rest).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && !shared.spent
        {
            shared.bytes += data.len();
            if shared.bytes > KEEP {
                shared.spent = true;
                shared.kept = Vec::new();
            } else {
                shared.kept.push(data.clone());
                self.at += 1;
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(ReplayError::Client)))
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.shared.lock();
        self.at >= shared.kept.len() && shared.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let shared = self.shared.lock();
        if shared.bytes == 0 { shared.rest.size_hint() } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Body as _;
    use http_body_util::BodyExt as _;

    fn original(chunks: usize, size: usize) -> Original {
        let chunks = (0..chunks).map(move |at| Ok::<_, std::io::Error>(Bytes::from(vec![at as u8; size])));
        Original::new(Body::from_stream(futures::stream::iter(chunks)))
    }

    #[tokio::test]
    async fn a_small_body_is_sent_again_from_its_start() {
        let original = original(3, 10);
        let mut first = original.again().unwrap();
        first.frame().await.unwrap().unwrap();
        let second = original.again().unwrap();
        assert!(matches!(first.frame().await, Some(Err(ReplayError::Elsewhere))));
        let whole = second.collect().await.unwrap().to_bytes();
        assert_eq!(whole.len(), 30);
        assert_eq!(original.again().unwrap().collect().await.unwrap().to_bytes(), whole);
    }

    #[tokio::test]
    async fn a_large_body_flows_on_and_is_not_kept() {
        let original = original(10, 100 * 1024);
        let first = original.again().unwrap();
        assert_eq!(first.collect().await.unwrap().to_bytes().len(), 1000 * 1024);
        assert!(original.again().is_none());
        assert!(original.0.lock().kept.is_empty());
    }

    #[test]
    fn no_body_is_known_to_be_none() {
        let original = Original::new(Body::empty());
        assert!(original.again().unwrap().is_end_stream());
    }
}
