//! One connection between a node and the control plane, with many streams in both directions.
//!
//! A node must need no inbound connection, yet logs, exec, port-forward and webhooks travel *to* it, and its own calls and
//! its pods' calls travel *from* it. So the agent opens one TLS connection, upgrades it, and both ends speak yamux over it:
//! either may open a stream at any time. A stream begins with one text line that says what it is for, then carries bytes.
//!
//! ```text
//!   agent                                   API server
//!   Session::client(io)                     Session::server(io)
//!   Opener::open("api")        ──stream──►  Incoming::next() -> ("api", stream)
//!   Incoming::next()           ◄──stream──  Opener::open("kubelet")
//! ```
//!
//! Guarantees:
//! - Back-pressure for each stream: a reader that stops reading stops its writer after the stream's window, and disturbs no
//!   other stream.
//! - A connection that has gone silent is noticed: each end pings every [`KEEPALIVE`], and gives up after [`SILENCE`]
//!   without a byte from the other. Without that, a node behind a dead NAT entry would look connected for hours.
//! - When the session ends, every stream of it fails or ends, [`Incoming::next`] answers `None`, and [`Opener::ended`] says
//!   why. Dropping [`Incoming`] ends the session.

mod driver;
mod header;
mod session;
mod stream;

pub use header::{Header, HeaderError, MAX_HEADER_BYTES, read_line, write_line};
pub use session::{Inbound, Incoming, OpenError, Opener, Session, SessionEnd};
pub use stream::TunnelStream;

use std::time::Duration;

/// How often each end pings. Also yamux' own interval, so that a shorter one would not ping more often.
pub const KEEPALIVE: Duration = Duration::from_secs(10);

/// Three lost pings and a slow network: the other end is gone. Shorter than the node lease's 40 s, so that a node is
/// reconnected before the cluster thinks it dead.
pub const SILENCE: Duration = Duration::from_secs(35);

/// Streams that one end may have open at a time. yamux answers more than its limit by ending the whole session, so the
/// opener waits instead.
pub const MAX_OUTBOUND_STREAMS: usize = 2048;
