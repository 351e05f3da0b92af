//! Health-check node ports: how a load balancer learns which nodes have endpoints of a Service with
//! `externalTrafficPolicy: Local`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use galley_node_plan::net::frontends::ServiceHealth;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// A probe is one short request; anything slower is not one.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
const REQUEST_BYTES: usize = 8192;
const REBIND_PAUSE: Duration = Duration::from_secs(1);

struct Listening {
    health: watch::Sender<ServiceHealth>,
    task: AbortHandle,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The ports that are listened on.
#[derive(Default)]
pub struct HealthPorts {
    ports: BTreeMap<u16, Listening>,
}

impl HealthPorts {
    /// Listens on exactly these.
    pub fn sync(&mut self, wanted: BTreeMap<u16, ServiceHealth>) {
        self.ports.retain(|port, _| wanted.contains_key(port));
        for (port, health) in wanted {
            match self.ports.get(&port) {
                Some(listening) => {
                    listening.health.send_replace(health);
                }
                None => {
                    let (sender, receiver) = watch::channel(health);
                    let task = tokio::spawn(serve(port, receiver)).abort_handle();
                    self.ports.insert(port, Listening { health: sender, task });
                }
            }
        }
    }
}

async fn serve(port: u16, health: watch::Receiver<ServiceHealth>) {
    loop {
        match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await {
            Ok(listener) => accept(listener, &health).await,
            Err(error) => tracing::warn!(port, %error, "a health-check node port cannot be listened on"),
        }
        tokio::time::sleep(REBIND_PAUSE).await;
    }
}

async fn accept(listener: TcpListener, health: &watch::Receiver<ServiceHealth>) {
    while let Ok((stream, _)) = listener.accept().await {
        let answer = answer(&health.borrow());
        tokio::spawn(tokio::time::timeout(REQUEST_LIMIT, respond(stream, answer)));
    }
}

/// The answer has the shape that cloud providers' probes know from kube-proxy.
fn answer(health: &ServiceHealth) -> String {
    let status = if health.local_endpoints > 0 { "200 OK" } else { "503 Service Unavailable" };
    let body = serde_json::json!({
        "service": { "namespace": health.namespace, "name": health.service },
        "localEndpoints": health.local_endpoints,
        "serviceProxyHealthy": true,
    })
    .to_string();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
         X-Load-Balancing-Endpoint-Weight: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        health.local_endpoints,
        body.len()
    )
}

/// Reads to the end of the request's head, whatever it asks for, and answers.
async fn respond(mut stream: TcpStream, answer: String) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|window| window == b"\r\n\r\n") && head.len() < REQUEST_BYTES {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
