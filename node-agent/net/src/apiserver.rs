//! The `kubernetes` Service on this node: carries every connection to 10.96.0.1 (the Service's port and its endpoint's) over
//! the tunnel.
//!
//! TLS ends at the API server, so a pod sees the cluster's own certificate, and this node sees nothing.

use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::Dialer;

/// How long a pod waits for the tunnel: clients have longer limits of their own, and a closed connection tells them more.
const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// Accepts connections and carries them until it is dropped.
pub async fn serve<D: Dialer>(address: SocketAddrV4, dialer: Arc<D>) -> io::Error {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => return error,
    };
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(carry(stream, dialer.clone()));
                }
                Err(error) => return error,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry<D: Dialer>(mut pod: TcpStream, dialer: Arc<D>) {
    let mut server = match tokio::time::timeout(DIAL_LIMIT, dialer.dial()).await {
        Ok(Ok(server)) => server,
        Ok(Err(error)) => return tracing::debug!(%error, "a pod's connection to the API server cannot be carried"),
        Err(_) => return tracing::debug!("a pod's connection to the API server waited too long for the tunnel"),
    };
    let _ = pod.set_nodelay(true);
    // Either side may break off at any time; the other then sees the end.
    let _ = copy_bidirectional(&mut pod, &mut server).await;
}
