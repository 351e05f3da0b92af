//! The node's own resolvers, for names that are not the cluster's.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use ipnet::Ipv4Net;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// How long one resolver may take: two of them must fit into the five seconds that a client waits.
const LIMIT: Duration = Duration::from_secs(2);
/// What libc's resolver also takes at most.
const SERVERS: usize = 3;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// The resolvers of resolv.conf, read for each question: it is short, and DHCP changes it.
#[derive(Debug)]
pub struct Upstream {
    resolv_conf: PathBuf,
    /// A resolver in here is this server itself.
    service_cidr: Ipv4Net,
    port: u16,
}

/// The usable resolvers: not this server, which would ask itself for ever.
fn servers(resolv_conf: &str, service_cidr: Ipv4Net, port: u16) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok())
        .filter(|ip| !matches!(ip, IpAddr::V4(ip) if service_cidr.contains(ip)))
        .take(SERVERS)
        .map(|ip| SocketAddr::new(ip, port))
        .collect()
}

impl Upstream {
    /// The resolvers of this file.
    pub fn new(resolv_conf: PathBuf, service_cidr: Ipv4Net) -> Self {
        Self { resolv_conf, service_cidr, port: 53 }
    }

    async fn servers(&self) -> Vec<SocketAddr> {
        let text = tokio::fs::read_to_string(&self.resolv_conf).await.unwrap_or_default();
        servers(&text, self.service_cidr, self.port)
    }

    /// Asks one resolver after the other; gives the first answer, with the question's id.
    pub async fn forward(&self, request: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let id = request.get(..2)?.to_vec();
        // An id of our own: the client's may be guessed by others.
        let mut question = request.to_vec();
        question.splice(..2, rand::random::<u16>().to_be_bytes());
        for server in self.servers().await {
            let asked = async {
                match transport {
                    Transport::Udp => ask_udp(server, &question).await,
                    Transport::Tcp => ask_tcp(server, &question).await,
                }
            };
            match tokio::time::timeout(LIMIT, asked).await {
                Ok(Ok(mut answer)) => {
                    answer.splice(..2, id);
                    return Some(answer);
                }
                Ok(Err(error)) => tracing::debug!(%server, %error, "a resolver cannot be asked"),
                Err(_) => tracing::debug!(%server, "a resolver is silent"),
            }
        }
        None
    }

    /// All records on the way from `name` to `record_type`.
    pub async fn resolve(&self, name: &Name, record_type: RecordType) -> Option<(ResponseCode, Vec<Record>)> {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name.clone(), record_type));
        let request = message.to_vec().ok()?;
        let mut answer = Message::from_vec(&self.forward(&request, Transport::Udp).await?).ok()?;
        if answer.metadata.truncation {
            answer = Message::from_vec(&self.forward(&request, Transport::Tcp).await?).ok()?;
        }
        Some((answer.metadata.response_code, answer.answers))
    }
}

async fn ask_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; 65_535];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Anything with another id is late or forged.
        if length >= 12 && buffer[..2] == question[..2] {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&[&length.to_be_bytes()[..], question].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    if answer.len() < 12 || answer[..2] != question[..2] {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_that_is_cluster_dns_itself_is_never_asked() {
        let text =
            "# made by hand\nsearch example.org\nnameserver 10.96.0.10\nnameserver 1.1.1.1 # one\nnameserver fd00::1\n";
        let servers = servers(text, "10.96.0.0/16".parse().unwrap(), 53);
        assert_eq!(servers, ["1.1.1.1:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()]);
    }
}
