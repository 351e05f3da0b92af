//! One HTTP/2 connection to each other replica, made when it is first needed and again when it is gone.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::replay::Replay;
use super::{CONNECTION_WINDOW, MAX_HEADERS, PING_EVERY, PING_TIMEOUT, STREAM_WINDOW};
use crate::pki::PEER_NAME;

/// A replica that does not accept in this time is asked for by another way: its lease runs out.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

type Slot = Arc<tokio::sync::Mutex<State>>;

#[derive(Debug, Default)]
struct State {
    sender: Option<SendRequest<Replay>>,
    /// Those who waited for an attempt that failed do not make another, one after the other.
    failed: Option<Instant>,
}

/// Why another replica could not be connected to. It was sent nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("replica at {address} cannot be reached")]
    Io {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("replica at {address} could not be reached a moment ago")]
    JustFailed { address: String },
    #[error("replica at {address} speaks no HTTP/2")]
    Http {
        address: String,
        #[source]
        source: hyper::Error,
    },
}

#[derive(Debug)]
pub(crate) struct Pool {
    tls: Arc<ClientConfig>,
    slots: Mutex<HashMap<String, Slot>>,
}

impl Pool {
    pub(crate) fn new(tls: Arc<ClientConfig>) -> Self {
        Self { tls, slots: Mutex::default() }
    }

    /// The connection to `address`. Of several who ask at once, one connects.
    pub(crate) async fn sender(&self, address: &str) -> Result<SendRequest<Replay>, ConnectError> {
        let slot = {
            let mut slots = self.slots.lock();
            if !slots.contains_key(address) {
                // Replicas come and go: those that are gone are forgotten when a new one is met.
                slots.retain(|_, slot| {
                    let is_open = |state: &State| state.sender.as_ref().is_some_and(|sender| !sender.is_closed());
                    slot.try_lock().map_or(true, |state| is_open(&state))
                });
            }
            Slot::clone(slots.entry(address.to_owned()).or_default())
        };
        let asked = Instant::now();
        let mut state = slot.lock().await;
        if let Some(sender) = state.sender.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        if state.failed.is_some_and(|failed| failed >= asked) {
            return Err(ConnectError::JustFailed { address: address.to_owned() });
        }
        match self.connect(address).await {
            Ok(sender) => {
                *state = State { sender: Some(sender.clone()), failed: None };
                Ok(sender)
            }
            Err(error) => {
                *state = State { sender: None, failed: Some(Instant::now()) };
                Err(error)
            }
        }
    }

    async fn connect(&self, address: &str) -> Result<SendRequest<Replay>, ConnectError> {
        let failed = |source| ConnectError::Io { address: address.to_owned(), source };
        let dialling = async {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from(PEER_NAME).map_err(io::Error::other)?;
            tokio_rustls::TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await
        };
        let timeout = |_| io::Error::from(io::ErrorKind::TimedOut);
        let stream =
            tokio::time::timeout(CONNECT_TIMEOUT, dialling).await.map_err(timeout).flatten().map_err(failed)?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADERS)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| ConnectError::Http { address: address.to_owned(), source })?;
        tracing::debug!(address, "connected to a replica");
        let address = address.to_owned();
        tokio::spawn(async move {
            match connection.await {
                Ok(()) => tracing::debug!(address, "the connection to a replica ended"),
                Err(error) => tracing::debug!(address, %error, "the connection to a replica broke"),
            }
        });
        Ok(sender)
    }
}
