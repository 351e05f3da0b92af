//! SPDY/3.1, as far as Kubernetes' streaming uses it.
//!
//! Peers (kubectl, client-go, containerd) build on the same Go library, whose habits count as part of the protocol here: it
//! sends no SETTINGS, keeps no flow-control windows in either direction, drops data that arrives before SYN_REPLY, and ends
//! streams that are over with RST_STREAM as often as with FIN. So: every SYN_STREAM is answered at once, WINDOW_UPDATE is
//! neither sent nor awaited, back-pressure is the transport's (a stream that is not read holds up its connection), and a
//! reset reads as end of file.

mod connection;
mod frame;
mod headers;
mod stream;

pub use connection::{Connection, Incoming, Role, SpdyEnd};
pub use frame::FrameError;
pub use headers::{HeaderBlockError, Headers};
pub use stream::SpdyStream;
