//! Cluster DNS, served by every node for its own pods: no pod to schedule first, and no packet leaves the node.
//!
//! ```text
//!  pod ──► 10.96.0.10:53 (UDP, TCP) ──► Zone: answer
//!                                  └──► not ours: the node's resolvers, as they are
//! ```

mod message;
mod upstream;

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use galley_node_plan::net::zone::Zone;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};

pub use upstream::Upstream;

/// Questions that wait for an upstream resolver at one time. When it is silent, more would only hold memory.
const WAITING: usize = 1024;
/// TCP connections at one time.
const CONNECTIONS: usize = 256;
/// A TCP client that asks nothing for so long is cut off (RFC 7766 asks for seconds).
const IDLE: Duration = Duration::from_secs(10);

/// What the server answers from.
pub type SharedZone = watch::Receiver<Option<Arc<Zone>>>;

#[derive(Clone)]
struct Resolver {
    zone: SharedZone,
    domain: Arc<str>,
    upstream: Arc<Upstream>,
    waiting: Arc<Semaphore>,
}

impl Resolver {
    /// `None` is 'say nothing': an answer that was sent to us, or noise.
    async fn answer(&self, request: &[u8], transport: upstream::Transport) -> Option<Vec<u8>> {
        let request = message::Request::parse(request)?;
        let zone = self.zone.borrow().clone();
        match message::resolve(&request, zone.as_deref(), &self.domain) {
            message::Resolution::Answer(answer) => answer.encode(transport),
            message::Resolution::Chase(mut answer, target) => {
                let _permit = self.waiting.acquire().await.ok()?;
                let found = self.upstream.resolve(&target, answer.record_type()).await;
                answer.add_chased(found);
                answer.encode(transport)
            }
            message::Resolution::Forward => {
                let Ok(_permit) = self.waiting.try_acquire() else { return request.server_failure() };
                match self.upstream.forward(request.bytes(), transport).await {
                    Some(answer) => Some(answer),
                    None => request.server_failure(),
                }
            }
        }
    }
}

/// Serves until it is dropped; gives the error when it cannot.
pub async fn serve(address: SocketAddrV4, zone: SharedZone, domain: Arc<str>, upstream: Arc<Upstream>) -> io::Error {
    let resolver = Resolver { zone, domain, upstream, waiting: Arc::new(Semaphore::new(WAITING)) };
    let udp = async {
        let socket = Arc::new(UdpSocket::bind(address).await?);
        serve_udp(socket, resolver.clone()).await
    };
    let tcp = async {
        let listener = TcpListener::bind(address).await?;
        serve_tcp(listener, resolver.clone()).await
    };
    let result: Result<(std::convert::Infallible, std::convert::Infallible), io::Error> = tokio::try_join!(udp, tcp);
    match result {
        Err(error) => error,
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, resolver: Resolver) -> io::Result<std::convert::Infallible> {
    // A question is at most an EDNS payload, and that is what we tell clients to send at most.
    let mut buffer = vec![0; 4096];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await?;
        let request = buffer[..length].to_vec();
        let (socket, resolver) = (socket.clone(), resolver.clone());
        tokio::spawn(async move {
            if let Some(answer) = resolver.answer(&request, upstream::Transport::Udp).await {
                send(&socket, &answer, client).await;
            }
        });
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(answer, client).await {
        tracing::debug!(%client, %error, "a DNS answer was not sent");
    }
}

async fn serve_tcp(listener: TcpListener, resolver: Resolver) -> io::Result<std::convert::Infallible> {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let (stream, _) = listener.accept().await?;
        let Ok(permit) = connections.clone().try_acquire_owned() else { continue };
        let resolver = resolver.clone();
        tokio::spawn(async move {
            let _permit = permit;
            // Clients close whenever they like.
            let _ = converse(stream, resolver).await;
        });
    }
}

async fn converse(mut stream: TcpStream, resolver: Resolver) -> io::Result<()> {
    loop {
        let length = tokio::time::timeout(IDLE, stream.read_u16()).await??;
        let mut request = vec![0; length.into()];
        tokio::time::timeout(IDLE, stream.read_exact(&mut request)).await??;
        let Some(answer) = resolver.answer(&request, upstream::Transport::Tcp).await else { return Ok(()) };
        let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
        stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await?;
    }
}
