//! UDP listeners: each client has one node, as long as it keeps talking.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use galley_cloud::Protocol;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Settings, health::Health};

/// What conntrack also gives a UDP flow that both sides talk in.
const IDLE: Duration = Duration::from_secs(120);
/// Clients at one time: each holds a socket.
const CLIENTS: usize = 4096;
const DATAGRAM: usize = 65_535;

struct Flow {
    node: Arc<UdpSocket>,
    answers: tokio::task::AbortHandle,
    used: Instant,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

/// Passes datagrams on until it is aborted.
pub async fn serve(socket: Arc<UdpSocket>, mut settings: watch::Receiver<Settings>, health: Health) {
    let Ok(own) = socket.local_addr() else { return };
    let mut flows: HashMap<SocketAddr, Flow> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM];
    let mut tidy = tokio::time::interval(IDLE / 4);
    loop {
        let (length, client) = tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // An ICMP error for an earlier answer.
                Err(_) => continue,
            },
            _ = tidy.tick() => {
                flows.retain(|_, flow| flow.used.elapsed() < IDLE);
                continue;
            }
            changed = settings.changed() => {
                if changed.is_err() {
                    return;
                }
                // Nodes may have gone; clients notice nothing but another node.
                flows.clear();
                continue;
            }
        };
        let current = settings.borrow().clone();
        let Some(node_port) = current.node_port(Protocol::Udp, own.port()) else { continue };
        if !current.allows(client.ip()) {
            continue;
        }
        if !flows.contains_key(&client) {
            if flows.len() >= CLIENTS {
                continue;
            }
            let Some(flow) = open(&socket, client, node_port, &health).await else { continue };
            flows.insert(client, flow);
        }
        if let Some(flow) = flows.get_mut(&client) {
            flow.used = Instant::now();
            // Datagrams may be lost; senders know.
            let _ = flow.node.send(&buffer[..length]).await;
        }
    }
}

async fn open(socket: &Arc<UdpSocket>, client: SocketAddr, node_port: u16, health: &Health) -> Option<Flow> {
    let target = *health.order().first()?;
    let node = Arc::new(UdpSocket::bind("0.0.0.0:0").await.ok()?);
    node.connect((target, node_port)).await.ok()?;
    let (from, to) = (node.clone(), socket.clone());
    let answers = tokio::spawn(async move {
        let mut buffer = vec![0; DATAGRAM];
        while let Ok(length) = from.recv(&mut buffer).await {
            let _ = to.send_to(&buffer[..length], client).await;
        }
    });
    Some(Flow { node, answers: answers.abort_handle(), used: Instant::now() })
}
