//! Replicas among themselves: any of them takes a request for any cluster, and passes it on to the owner of its shard.
//!
//! ```text
//!  client ── TLS, its certificate ──► gateway ── one HTTP/2 connection a replica, mutual TLS ──► owner of the shard
//!                                        │   the request, and what the certificate said              │
//!                                        │ ◄── 421: not the owner (any more); nothing was done ──────┤
//!                                        └─► reads the lease rows again, waits a little, asks again  └─► answers
//! ```
//!
//! - A replica is believed what it says about a client because its own certificate, of the installation's CA and for this
//!   purpose only, says that it is a replica. The headers for it are taken off what clients send.
//! - A request is passed on once: an owner never passes it on.
//! - Streams are bounded one by one: a reader who stops reading holds up to a stream's window, and no other stream.
//! - A client that goes away resets its stream, which drops the request at the owner.

mod forward;
mod pool;
mod replay;
mod serve;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use galley_store::Store;
use jiff::Timestamp;
use rustls::ServerConfig;

use crate::pki::Authority;
use crate::tls::{self, TlsError};
use pool::Pool;

pub(crate) use forward::{Asked, Parcel, Unasked};
pub use serve::serve_replicas;
pub(crate) use serve::{Sent, called, read, refused, sealed};
pub(crate) use wire::{Errand, Refusal};

/// What may be under way on one stream, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
/// On the whole connection. As good as no limit: with one, enough readers who stop reading would stop all others. What can be
/// under way is bounded by the streams, and those by the clients' connections.
const CONNECTION_WINDOW: u32 = 1 << 30;
/// Streams on one connection: a gateway's watches.
const MAX_STREAMS: u32 = 1 << 20;
/// Tokens and certificates' subjects travel in headers; clients' own limits are stricter.
const MAX_HEADERS: u32 = 1 << 20;
/// A replica that is frozen or cut off is noticed in at most the sum of these.
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// The way to the other replicas, and from them.
#[derive(Debug)]
pub(crate) struct Peers {
    store: Store,
    pool: Pool,
    tls: Arc<ServerConfig>,
}

impl Peers {
    pub(crate) fn new(store: Store, authority: &Authority, now: Timestamp) -> Result<Self, TlsError> {
        let (tls, client) = tls::replicas(authority, now)?;
        Ok(Self { store, pool: Pool::new(client), tls })
    }

    pub(crate) fn tls(&self) -> &Arc<ServerConfig> {
        &self.tls
    }

    /// Tells replicas to which shards were handed over. For one task, until the store is closed.
    pub(crate) async fn tell_heirs(&self) {
        let mut heirs = self.store.heirs();
        while let Some(heir) = heirs.recv().await {
            if let Err(error) = self.tell(&heir.address, Errand::Look).await {
                // It looks by itself, a little later.
                tracing::debug!(heir = heir.holder, error = &error as &dyn std::error::Error, "an heir was not told");
            }
        }
    }
}
