//! TCP listeners.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use galley_cloud::Protocol;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{Settings, health::Health};

/// A node that does not answer so soon is passed over.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Out of file descriptors, mostly: some will be free soon.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Settings {
    pub fn allows(&self, client: IpAddr) -> bool {
        let ranges = &self.wanted.source_ranges;
        match client {
            IpAddr::V4(client) => ranges.is_empty() || ranges.iter().any(|range| range.contains(&client)),
            IpAddr::V6(_) => ranges.is_empty(),
        }
    }

    pub fn node_port(&self, protocol: Protocol, port: u16) -> Option<u16> {
        let listeners = self.wanted.listeners.iter();
        listeners
            .filter(|listener| (listener.protocol, listener.port) == (protocol, port))
            .map(|found| found.node_port)
            .next()
    }

    fn has_target(&self, address: Ipv4Addr) -> bool {
        self.wanted.targets.iter().any(|target| target.address == address)
    }
}

/// Accepts connections until it is aborted. Those that were made go on until they end, or are drained.
pub async fn serve(listener: TcpListener, settings: watch::Receiver<Settings>, health: Health, drain: Duration) {
    let Ok(SocketAddr::V4(own)) = listener.local_addr() else { return };
    loop {
        match listener.accept().await {
            Ok((client, address)) => {
                let current = settings.borrow().clone();
                if !current.allows(address.ip()) {
                    continue;
                }
                let Some(node_port) = current.node_port(Protocol::Tcp, own.port()) else { continue };
                tokio::spawn(carry(client, node_port, settings.clone(), health.order(), health.clone(), drain));
            }
            Err(error) => {
                tracing::debug!(%own, %error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn carry(
    mut client: TcpStream,
    node_port: u16,
    mut settings: watch::Receiver<Settings>,
    order: Vec<Ipv4Addr>,
    health: Health,
    drain: Duration,
) {
    let Some((target, mut node)) = connect(&order, node_port, &health).await else { return };
    // The health of nodes must not be kept by connections, which may live for days.
    drop(health);
    let _ = client.set_nodelay(true);
    let _ = node.set_nodelay(true);
    let drained = async {
        // Taken out, or the whole balancer is gone.
        while settings.borrow_and_update().has_target(target) && settings.changed().await.is_ok() {}
        tokio::time::sleep(drain).await;
    };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut node) => {}
        () = drained => {}
    }
}

async fn connect(order: &[Ipv4Addr], node_port: u16, health: &Health) -> Option<(Ipv4Addr, TcpStream)> {
    for target in order {
        match tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect((*target, node_port))).await {
            Ok(Ok(stream)) => return Some((*target, stream)),
            Ok(Err(_)) | Err(_) => health.failed(*target),
        }
    }
    None
}
