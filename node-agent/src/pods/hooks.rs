//! What hooks and probes do to a container: run a command in it, ask it over HTTP, gRPC or TCP.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use galley_node_plan::ObservedPod;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Container, GRPCAction, HTTPGetAction, LifecycleHandler, Pod, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::Host;
use crate::tls;

/// Hooks have no time limit of their own but the grace period; a probe's is its timeout.
const HOOK_LIMIT: Duration = Duration::from_secs(600);
/// Shown of an answer's body in a probe's message.
const BODY: usize = 10 * 1024;

static UNVERIFIED: LazyLock<Option<Arc<rustls::ClientConfig>>> = LazyLock::new(|| tls::unverified().ok());

/// The container that is meant, and how to reach it.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) container_id: String,
    pub(super) ip: Option<String>,
    ports: Vec<(String, i32)>,
}

impl Target {
    pub(super) fn new(pod: &Pod, container: &Container, observed: &ObservedPod, id: &str) -> Self {
        let host_network = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        let of_sandbox = observed.sandbox().and_then(|s| s.ips.first().cloned());
        let ports = container.ports.iter().flatten();
        Self {
            container_id: id.to_owned(),
            ip: if host_network { Some("127.0.0.1".into()) } else { of_sandbox },
            ports: ports.filter_map(|p| Some((p.name.clone()?, p.container_port))).collect(),
        }
    }

    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        let number = match port {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(name) => {
                let named = self.ports.iter().find(|(n, _)| n == name).map(|(_, p)| *p);
                named.or_else(|| name.parse().ok())
            }
        };
        number.and_then(|n| u16::try_from(n).ok()).ok_or_else(|| format!("couldn't find port: {port:?}"))
    }

    fn host(&self, own: Option<&String>) -> Result<String, String> {
        let given = own.filter(|h| !h.is_empty()).cloned();
        given.or_else(|| self.ip.clone()).ok_or_else(|| "failed to find networking container".to_owned())
    }
}

/// Runs a lifecycle hook.
pub(super) async fn run(host: &Host, target: &Target, hook: &LifecycleHandler) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        return command(host, target, exec.command.as_deref().unwrap_or_default(), HOOK_LIMIT).await.map(|_| ());
    }
    if let Some(get) = &hook.http_get {
        return http_get(target, get, HOOK_LIMIT).await.map(|_| ());
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
    }
    Ok(())
}

/// Runs a command in the container; its output, or why it failed.
pub(super) async fn command(host: &Host, target: &Target, words: &[String], limit: Duration) -> Result<String, String> {
    let result = host.cri.exec_sync(&target.container_id, words, limit).await.map_err(|e| e.message())?;
    let output = String::from_utf8_lossy(&result.output).into_owned();
    match result.exit_code {
        0 => Ok(output),
        _ if !output.is_empty() => Err(output),
        code => Err(format!("command exited with {code}")),
    }
}

async fn connect(host: &str, port: u16, limit: Duration) -> Result<TcpStream, String> {
    match tokio::time::timeout(limit, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            let why = match error.kind() {
                std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
                _ => error.to_string(),
            };
            Err(format!("dial tcp {host}:{port}: {why}"))
        }
        Err(_) => Err(format!("dial tcp {host}:{port}: i/o timeout")),
    }
}

/// A connection can be made.
pub(super) async fn tcp(target: &Target, socket: &TCPSocketAction, limit: Duration) -> Result<String, String> {
    connect(&target.host(socket.host.as_ref())?, target.port(&socket.port)?, limit).await.map(|_| String::new())
}

/// 200 to 399 is success.
pub(super) async fn http_get(target: &Target, get: &HTTPGetAction, limit: Duration) -> Result<String, String> {
    let host = target.host(get.host.as_ref())?;
    let port = target.port(&get.port)?;
    let https = get.scheme.as_deref() == Some("HTTPS");
    let path = get.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let shown = if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) { format!("[{host}]") } else { host.clone() };
    let url = format!("{}://{shown}:{port}{path}", if https { "https" } else { "http" });
    let asked = async {
        let stream = connect(&host, port, limit).await.map_err(|e| format!("Get \"{url}\": {e}"))?;
        if https {
            let config = UNVERIFIED.clone().ok_or("no TLS")?;
            let name = ServerName::try_from(host.clone()).map_err(|e| e.to_string())?;
            let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await;
            exchange(stream.map_err(|e| format!("Get \"{url}\": {e}"))?, get, &path, &shown, port).await
        } else {
            exchange(stream, get, &path, &shown, port).await
        }
        .map_err(|e| format!("Get \"{url}\": {e}"))
    };
    let timeout = format!("Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)");
    let (status, body) = tokio::time::timeout(limit, asked).await.map_err(|_| timeout)??;
    if (200..400).contains(&status) { Ok(body) } else { Err(format!("HTTP probe failed with statuscode: {status}")) }
}

async fn exchange<S>(stream: S, get: &HTTPGetAction, path: &str, host: &str, port: u16) -> Result<(u16, String), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let mut request = Request::get(path.parse::<Uri>().map_err(|e| e.to_string())?);
    let headers = get.http_headers.as_deref().unwrap_or_default();
    let given = |name: &str| headers.iter().any(|h| h.name.eq_ignore_ascii_case(name));
    for header in headers {
        request = request.header(header.name.as_str(), header.value.as_str());
    }
    if !given("host") {
        request = request.header("host", format!("{host}:{port}"));
    }
    if !given("user-agent") {
        request = request.header("user-agent", "kube-probe/1.36");
    }
    if !given("accept") {
        request = request.header("accept", "*/*");
    }
    let request = request.header("connection", "close").body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), BODY).collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// The gRPC health protocol: `grpc.health.v1.Health/Check` answers SERVING.
pub(super) async fn grpc(target: &Target, action: &GRPCAction, limit: Duration) -> Result<String, String> {
    let host = target.host(None)?;
    let port = u16::try_from(action.port).map_err(|e| e.to_string())?;
    let asked = async {
        let stream = connect(&host, port, limit).await?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let frame = health_request(action.service.as_deref().unwrap_or_default());
        let request = Request::post(format!("http://{host}:{port}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "kube-probe/1.36")
            .body(Full::new(Bytes::from(frame)))
            .map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        // A call that fails at once has its status in the header, and one that begins to answer in the trailer.
        let head = response.headers().clone();
        let answer = response.into_body().collect().await.map_err(|e| e.to_string())?;
        let rest = answer.trailers().cloned().unwrap_or_default();
        let said = |name: &str| {
            let value = rest.get(name).or_else(|| head.get(name))?;
            value.to_str().ok().map(str::to_owned)
        };
        let code = said("grpc-status").unwrap_or_default();
        let message = percent_decoded(&said("grpc-message").unwrap_or_default());
        health_answer(&code, &message, &answer.to_bytes())
    };
    let timeout = format!("timeout: failed to connect service \"{host}:{port}\" within {}s", limit.as_secs());
    tokio::time::timeout(limit, asked).await.map_err(|_| timeout)?
}

/// A gRPC frame with a HealthCheckRequest, which has one field: the service's name (1, length-delimited).
fn health_request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length > 0x7f {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(message);
    frame
}

/// `grpc-message` is sent percent-encoded.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// gRPC's status codes by number (gRPC, 'Status codes and their use').
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// What the call's status (a number, empty where the server sent none), its message and the frame with a HealthCheckResponse say, in
/// kubelet's words. The response has one field, the health (1, varint).
fn health_answer(code: &str, message: &str, frame: &[u8]) -> Result<String, String> {
    const NAMES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
    match code {
        "0" => {
            let health = match frame.get(5..) {
                Some([0x08, health, ..]) => *health,
                _ => 0,
            };
            let name = NAMES.get(usize::from(health)).copied().unwrap_or(NAMES[0]);
            if name == "SERVING" {
                Ok(String::new())
            } else {
                Err(format!("service unhealthy (responded with {name:?})"))
            }
        }
        "12" => {
            let service = "grpc.health.v1.Health";
            Err(format!("this server does not implement the grpc health protocol ({service}): {message}"))
        }
        code => {
            let name = code.parse().ok().and_then(|code: usize| CODES.get(code)).copied().unwrap_or("Unknown");
            Err(format!("health rpc probe failed: rpc error: code = {name} desc = {message}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    const LIMIT: Duration = Duration::from_secs(5);

    fn target() -> Target {
        Target { container_id: String::new(), ip: Some("127.0.0.1".into()), ports: Vec::new() }
    }

    /// Answers one HTTP request with a status line; what it was asked.
    async fn answering(status: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let n = stream.read(&mut asked).await.unwrap();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok");
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&asked[..n]).into_owned()
        });
        (port, task)
    }

    fn get(port: u16) -> HTTPGetAction {
        serde_json::from_value(serde_json::json!({"path": "health?x=1", "port": port,
            "httpHeaders": [{"name": "X-Own", "value": "v"}]}))
        .unwrap()
    }

    #[tokio::test]
    async fn an_http_probe_succeeds_below_400_and_says_who_asks() {
        let (port, asked) = answering("302 Found").await;
        assert_eq!(http_get(&target(), &get(port), LIMIT).await, Ok("ok".into()));
        let asked = asked.await.unwrap().to_lowercase();
        assert!(asked.starts_with("get /health?x=1 http/1.1\r\n"), "{asked}");
        assert!(asked.contains("user-agent: kube-probe/1.36") && asked.contains("x-own: v"), "{asked}");
        let (port, _) = answering("503 Service Unavailable").await;
        let failed = http_get(&target(), &get(port), LIMIT).await;
        assert_eq!(failed, Err("HTTP probe failed with statuscode: 503".into()));
    }

    #[tokio::test]
    async fn a_probe_of_a_closed_port_says_refused() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let socket = TCPSocketAction { host: None, port: IntOrString::Int(port.into()) };
        assert_eq!(tcp(&target(), &socket, LIMIT).await, Ok(String::new()));
        drop(listener);
        let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(tcp(&target(), &socket, LIMIT).await, Err(refused));
    }

    #[test]
    fn a_health_question_holds_the_services_name() {
        assert_eq!(health_request(""), [0, 0, 0, 0, 0]);
        assert_eq!(health_request("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = health_request(&"x".repeat(300));
        assert_eq!((&long[..8], long.len()), (&[0, 0, 0, 1, 0x2f, 0x0a, 0xac, 0x02][..], 5 + 3 + 300));
    }

    #[test]
    fn a_health_answer_says_why_it_is_none() {
        let frame = |health: u8| [0, 0, 0, 0, 2, 0x08, health];
        assert_eq!(health_answer("0", "", &frame(1)), Ok(String::new()));
        let unhealthy = |name: &str| Err(format!("service unhealthy (responded with {name:?})"));
        assert_eq!(health_answer("0", "", &frame(2)), unhealthy("NOT_SERVING"));
        // Protocol buffers leave out what is zero.
        assert_eq!(health_answer("0", "", &[0, 0, 0, 0, 0]), unhealthy("UNKNOWN"));
        assert_eq!(percent_decoded("unknown%20service%20%C3%A4 100% %zz"), "unknown service ä 100% %zz");
        assert!(health_answer("12", "unimplemented", &[]).unwrap_err().contains("does not implement"));
        let unknown = health_answer("5", "unknown service", &[]).unwrap_err();
        assert_eq!(unknown, "health rpc probe failed: rpc error: code = NotFound desc = unknown service");
    }

    #[test]
    fn ports_are_found_by_name() {
        let named = Target { ports: vec![("web".into(), 8080)], ..target() };
        assert_eq!(named.port(&IntOrString::String("web".into())), Ok(8080));
        assert_eq!(named.port(&IntOrString::Int(9)), Ok(9));
        assert!(named.port(&IntOrString::String("other".into())).is_err());
    }
}
