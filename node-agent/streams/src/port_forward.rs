//! The server's end of port-forward.
//!
//! For each TCP connection that kubectl accepts it opens two streams with the same `requestID`: `error` first, then `data`,
//! both with the `port`. What goes wrong is a text on the error stream, which kubectl prints.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;

use http::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::Body;
use crate::command::Duplex;
use crate::spdy::{self, SpdyStream};
use crate::upgrade::{self, Upgrade};
use crate::websocket::{WebSocketBytes, port_forward_channels};

const SPDY_PROTOCOLS: [&str; 1] = ["portforward.k8s.io"];
const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";
const WEBSOCKET_PROTOCOLS: [&str; 2] = [TUNNELLED, "v4.channel.k8s.io"];
/// Half-open pairs a client may leave; more than that and it is not a client.
const MAX_UNPAIRED: usize = 256;

/// Answers a request for port-forward: with a refusal if it is none, else with the 101 to send; the rest happens in a task
/// after that. `dial` connects to a port of the pod; its error reaches the user.
pub fn serve_port_forward<B, D, R, E>(mut request: Request<B>, dial: D) -> Response<Body>
where
    D: Fn(u16) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Box<dyn Duplex>, E>> + Send + 'static,
    E: Display + Send + 'static,
{
    let chosen = match upgrade::choose(request.headers(), &SPDY_PROTOCOLS, &WEBSOCKET_PROTOCOLS) {
        Ok(chosen) => chosen,
        Err(refusal) => return refusal,
    };
    let ports = ports(request.uri().query().unwrap_or_default());
    let response = chosen.response();
    let upgraded = hyper::upgrade::on(&mut request);
    let dial = Arc::new(dial);
    tokio::spawn(async move {
        let io = match upgraded.await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(error) => return tracing::debug!(%error, "the client left before the upgrade"),
        };
        match chosen {
            Upgrade::Spdy { .. } => over_spdy(io, dial).await,
            Upgrade::WebSocket { protocol, .. } => {
                let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
                if protocol == TUNNELLED {
                    over_spdy(WebSocketBytes::new(socket), dial).await;
                } else {
                    over_channels(socket, ports, dial).await;
                }
            }
        }
    });
    response
}

/// The `ports` (or `port`) parameters of the request, which the channel protocol numbers its channels by.
fn ports(query: &str) -> Vec<u16> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(key, _)| matches!(*key, "ports" | "port"))
        .flat_map(|(_, value)| value.split([',']).map(str::to_owned).collect::<Vec<_>>())
        .flat_map(|value| value.split("%2C").map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|port| port.parse().ok())
        .collect()
}

async fn over_spdy<T, D, R, E>(io: T, dial: Arc<D>)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
    D: Fn(u16) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Box<dyn Duplex>, E>> + Send + 'static,
    E: Display + Send + 'static,
{
    let (connection, mut incoming) = spdy::Connection::start(io, spdy::Role::Server);
    let mut unpaired: HashMap<String, SpdyStream> = HashMap::new();
    while let Some(stream) = incoming.next().await {
        let headers = stream.headers();
        let kind = headers.get("streamType").unwrap_or_default().to_owned();
        let port = headers.get("port").and_then(|port| port.parse::<u16>().ok()).filter(|port| *port > 0);
        // Old clients send no request id, and open the pair one after the other.
        let request = headers.get("requestID").unwrap_or_default().to_owned();
        let Some(port) = port.filter(|_| matches!(&*kind, "data" | "error")) else {
            tracing::debug!(kind, request, "a port-forward stream without a kind or port");
            continue;
        };
        let Some(other) = unpaired.remove(&request) else {
            if unpaired.len() < MAX_UNPAIRED {
                unpaired.insert(request, stream);
            }
            continue;
        };
        let (data, error) = if kind == "data" { (stream, other) } else { (other, stream) };
        let dial = Arc::clone(&dial);
        tokio::spawn(async move { forward(data, error, port, dial(port)).await });
    }
    connection.close().await;
}

async fn forward<R, E>(mut data: SpdyStream, mut error: SpdyStream, port: u16, dial: R)
where
    R: Future<Output = Result<Box<dyn Duplex>, E>>,
    E: Display + Send + 'static,
{
    let trouble = match dial.await {
        Err(why) => Some(why.to_string()),
        Ok(mut pod) => tokio::io::copy_bidirectional(&mut data, &mut pod).await.err().map(|e| e.to_string()),
    };
    if let Some(why) = trouble {
        let text = format!("an error occurred forwarding port {port}: {why}");
        let _ = error.write_all(text.as_bytes()).await;
    }
    let _ = error.shutdown().await;
    let _ = data.shutdown().await;
}

async fn over_channels<T, D, R, E>(socket: WebSocketStream<T>, ports: Vec<u16>, dial: Arc<D>)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    D: Fn(u16) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Box<dyn Duplex>, E>> + Send + 'static,
    E: Display + Send + 'static,
{
    let mut channels = port_forward_channels(socket, ports.len());
    let mut forwards = Vec::new();
    for (n, port) in ports.into_iter().enumerate() {
        let (Ok(data), Ok(error)) = (u8::try_from(n * 2), u8::try_from(n * 2 + 1)) else { break };
        let Some(reader) = channels.reader(data) else { break };
        let (mut writer, mut error) = (channels.writer(data), channels.writer(error));
        let dial = Arc::clone(&dial);
        forwards.push(async move {
            let hello = port.to_le_bytes();
            let _ = writer.write_all(&hello).await;
            let _ = error.write_all(&hello).await;
            match dial(port).await {
                Ok(mut pod) => {
                    let mut client = tokio::io::join(reader, writer);
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut pod).await;
                }
                Err(why) => {
                    let text = format!("an error occurred forwarding port {port}: {why}");
                    let _ = error.write_all(text.as_bytes()).await;
                }
            }
        });
    }
    let gone = channels.gone.clone();
    tokio::select! {
        _ = futures::future::join_all(forwards) => channels.close().await,
        () = gone.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::ports;

    #[test]
    fn ports_are_read_from_repeated_or_joined_parameters() {
        assert_eq!(ports("ports=80&ports=443"), [80, 443]);
        assert_eq!(ports("ports=80,443&x=1"), [80, 443]);
        assert_eq!(ports("ports=80%2C443"), [80, 443]);
        assert!(ports("port=none").is_empty());
    }
}
