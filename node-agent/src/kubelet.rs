//! What the API server asks of this node, over streams that it opens: the kubelet's own paths, HTTP/1.1.
//!
//! Whoever can open such a stream has been authorized by the API server; nothing listens on a port.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use galley_node_cri::logs::{self, LogOptions};
use galley_node_cri::messages::{AttachRequest, ExecRequest};
use galley_node_plan::{Container, ContainerState, ObservedPod};
use galley_streams::{CommandOptions, Duplex, RemoteCommand, serve_port_forward, serve_remote_command};
use galley_tunnel::TunnelStream;
use galley_types::{Clock, SystemClock};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::pods::{Host, PodEntry, PodTable};

type Body = UnsyncBoxBody<Bytes, Infallible>;

const DIAL: Duration = Duration::from_secs(10);

/// A refusal with its text, which kubectl prints.
struct Refused(StatusCode, String);

pub(crate) struct Kubelet {
    host: Arc<Host>,
    table: PodTable,
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json_answer(value: &Value) -> Response<Body> {
    let mut response = text(StatusCode::OK, value.to_string());
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

impl Kubelet {
    pub(crate) fn new(host: Arc<Host>, table: PodTable) -> Self {
        Self { host, table }
    }

    /// Answers the requests of one stream.
    pub(crate) async fn serve(self: Arc<Self>, stream: TunnelStream) {
        let service = hyper::service::service_fn(move |request| {
            let this = Arc::clone(&self);
            async move { Ok::<_, Infallible>(this.answer(request).await) }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a kubelet stream ended");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let result = match (request.method(), parts.as_slice()) {
            (&Method::GET, ["healthz" | "livez" | "readyz"]) => Ok(text(StatusCode::OK, "ok")),
            (&Method::GET, ["pods"]) => Ok(self.pods()),
            (&Method::GET, ["stats", "summary"]) => self.summary().await,
            (&Method::GET, ["containerLogs", namespace, pod, container]) => {
                self.logs(namespace, pod, container, request.uri().query().unwrap_or_default()).await
            }
            (_, ["exec", namespace, pod, container]) => self.exec(namespace, pod, container, request),
            (_, ["attach", namespace, pod, container]) => self.attach(namespace, pod, container, request),
            (_, ["portForward", namespace, pod]) => self.port_forward(namespace, pod, request),
            _ => Err(Refused(StatusCode::NOT_FOUND, "404 page not found\n".into())),
        };
        result.unwrap_or_else(|Refused(status, message)| text(status, message))
    }

    fn pod(&self, namespace: &str, pod: &str) -> Result<PodEntry, Refused> {
        let missing = || Refused(StatusCode::NOT_FOUND, format!("pod \"{pod}_{namespace}\" not found\n"));
        self.table.find(namespace, pod).ok_or_else(missing)
    }

    fn running(&self, namespace: &str, pod: &str, container: &str) -> Result<Container, Refused> {
        let entry = self.pod(namespace, pod)?;
        let found = entry.observed.latest(container).filter(|c| c.state == ContainerState::Running).cloned();
        found.ok_or_else(|| Refused(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")\n")))
    }

    fn exec(
        &self,
        ns: &str,
        pod: &str,
        container: &str,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refused> {
        let container = self.running(ns, pod, container)?;
        let query = request.uri().query().unwrap_or_default().to_owned();
        let options = CommandOptions::from_query(&query);
        let command: Vec<String> = pairs(&query).filter(|(k, _)| k == "command").map(|(_, v)| v).collect();
        let cri = self.host.cri.clone();
        let start = move |options: CommandOptions| async move {
            let request = ExecRequest {
                container_id: container.id,
                cmd: command,
                tty: options.tty,
                stdin: options.stdin,
                stdout: options.stdout,
                stderr: options.stderr && !options.tty,
            };
            let url = cri.exec_url(request).await.map_err(|e| e.message())?;
            galley_streams::client::exec(&url, options).await.map_err(|e| e.to_string())
        };
        Ok(serve_remote_command(request, options, start).map(|b| b.boxed_unsync()))
    }

    fn attach(
        &self,
        ns: &str,
        pod: &str,
        container: &str,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refused> {
        let entry = self.pod(ns, pod)?;
        let instance = self.running(ns, pod, container)?;
        let mut options = CommandOptions::from_query(request.uri().query().unwrap_or_default());
        // The terminal is the container's own: it has one or it has not.
        let spec = entry.pod.spec.clone().unwrap_or_default();
        let all = galley_node_plan::all_containers(&spec);
        options.tty = all.iter().any(|c| c.spec.name == container && c.spec.tty == Some(true));
        let cri = self.host.cri.clone();
        let start = move |options: CommandOptions| async move {
            let request = AttachRequest {
                container_id: instance.id,
                stdin: options.stdin,
                tty: options.tty,
                stdout: options.stdout,
                stderr: options.stderr && !options.tty,
            };
            let url = cri.attach_url(request).await.map_err(|e| e.message())?;
            let attached: Result<RemoteCommand, String> =
                galley_streams::client::attach(&url, options).await.map_err(|e| e.to_string());
            attached
        };
        Ok(serve_remote_command(request, options, start).map(|b| b.boxed_unsync()))
    }

    fn port_forward(&self, ns: &str, pod: &str, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
        let entry = self.pod(ns, pod)?;
        let sandbox = entry.observed.sandbox().filter(|s| s.ready).map(|s| s.id.clone());
        let missing = || Refused(StatusCode::NOT_FOUND, format!("pod \"{pod}_{ns}\" does not run\n"));
        let sandbox = sandbox.ok_or_else(missing)?;
        let host_network = entry.pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        let ip = entry.observed.sandbox().and_then(|s| s.ips.first().cloned());
        let cri = self.host.cri.clone();
        let dial = move |port: u16| {
            let (cri, sandbox, ip) = (cri.clone(), sandbox.clone(), ip.clone());
            async move { dial_pod(&cri, &sandbox, ip, host_network, port).await }
        };
        Ok(serve_port_forward(request, dial).map(|b| b.boxed_unsync()))
    }

    async fn logs(&self, ns: &str, pod: &str, container: &str, query: &str) -> Result<Response<Body>, Refused> {
        let bad = |m: String| Refused(StatusCode::BAD_REQUEST, m);
        let entry = self.pod(ns, pod)?;
        let get = |name: &str| pairs(query).find(|(k, _)| k == name).map(|(_, v)| v).filter(|v| !v.is_empty());
        let flag = |name: &str| matches!(get(name).as_deref(), Some("true" | "1"));
        let number = |name: &str| get(name).map(|v| v.parse::<u64>()).transpose();
        let now = SystemClock.now();
        let since_seconds = number("sinceSeconds").map_err(|e| bad(format!("sinceSeconds: {e}\n")))?;
        let since_time = get("sinceTime").map(|t| t.parse::<jiff::Timestamp>()).transpose();
        let since_time = since_time.map_err(|e| bad(format!("sinceTime: {e}\n")))?;
        let options = LogOptions {
            follow: flag("follow"),
            timestamps: flag("timestamps"),
            tail_lines: number("tailLines").map_err(|e| bad(format!("tailLines: {e}\n")))?,
            since: match since_seconds {
                Some(s) => now.checked_sub(SignedDuration::from_secs(i64::try_from(s).unwrap_or(i64::MAX))).ok(),
                None => since_time,
            },
            limit_bytes: number("limitBytes").map_err(|e| bad(format!("limitBytes: {e}\n")))?,
            stream: get("stream").filter(|s| s != "All"),
        };
        // What the worker knows may be half a second old: a container that was just started counts.
        let uid = entry.pod.metadata.uid.clone().unwrap_or_default();
        let observed = self.host.cri.observe(&uid).await.unwrap_or(entry.observed);
        let reported = reported(&entry.pod, container);
        let instance = if flag("previous") {
            let missing = || bad(format!("previous terminated container \"{container}\" in pod \"{pod}\" not found"));
            previous(&observed, reported, container).cloned().ok_or_else(missing)?
        } else {
            let waiting = || bad(why_no_log(reported, container, pod));
            observed.latest(container).cloned().ok_or_else(waiting)?
        };
        let (tx, mut rx) = mpsc::channel::<Bytes>(16);
        let cri = self.host.cri.clone();
        let (path, id, sandbox) = (instance.log_path.clone(), instance.id.clone(), instance.sandbox_id.clone());
        tokio::spawn(async move {
            let running = || async {
                let state = cri.container(&id, &sandbox).await.ok().flatten();
                state.is_some_and(|c| matches!(c.state, ContainerState::Running | ContainerState::Created))
            };
            if let Err(error) = logs::read(path.as_ref(), options, tx, running).await {
                tracing::debug!(%error, path, "a log cannot be read");
            }
        });
        let stream = futures::stream::poll_fn(move |context| {
            rx.poll_recv(context).map(|chunk| chunk.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes))))
        });
        let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain"));
        Ok(response)
    }

    fn pods(&self) -> Response<Body> {
        let items: Vec<Value> = self.table.all().iter().filter_map(|e| serde_json::to_value(&*e.pod).ok()).collect();
        json_answer(&json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items}))
    }

    /// The basics of the summary API: CPU and memory of containers, pods and the node.
    async fn summary(&self) -> Result<Response<Body>, Refused> {
        let usage = self.host.cri.usage().await;
        let usage = usage.map_err(|e| Refused(StatusCode::INTERNAL_SERVER_ERROR, e.message()))?;
        let now = SystemClock.now();
        let mut pods: std::collections::BTreeMap<(String, String, String), Vec<Value>> = Default::default();
        let (mut cpu, mut memory) = (0, 0);
        for sample in usage {
            cpu += sample.cpu_nanoseconds;
            memory += sample.working_set_bytes;
            let at = jiff::Timestamp::from_nanosecond(sample.at.into()).unwrap_or(now);
            pods.entry((sample.pod_namespace, sample.pod_name, sample.pod_uid)).or_default().push(json!({
                "name": sample.container, "startTime": at,
                "cpu": {"time": at, "usageCoreNanoSeconds": sample.cpu_nanoseconds},
                "memory": {"time": at, "workingSetBytes": sample.working_set_bytes},
                "rootfs": {"time": at, "usedBytes": sample.writable_layer_bytes},
            }));
        }
        let pods: Vec<Value> = pods
            .into_iter()
            .map(|((namespace, name, uid), containers)| {
                json!({"podRef": {"name": name, "namespace": namespace, "uid": uid}, "containers": containers})
            })
            .collect();
        Ok(json_answer(&json!({
            "node": {"nodeName": self.host.node, "cpu": {"time": now, "usageCoreNanoSeconds": cpu},
                "memory": {"time": now, "workingSetBytes": memory}},
            "pods": pods,
        })))
    }
}

/// What the API server was told of a container.
fn reported<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|c| c.name == container)
}

/// The instance of the status' last state: while a container waits to be restarted, that is the newest one.
fn previous<'a>(
    observed: &'a ObservedPod,
    reported: Option<&ContainerStatus>,
    container: &str,
) -> Option<&'a Container> {
    let instances = observed.instances(container);
    let waits = reported.and_then(|r| r.state.as_ref()).is_some_and(|s| s.waiting.is_some());
    let newest = instances.first()?;
    if waits && newest.state == ContainerState::Exited { Some(newest) } else { instances.get(1).copied() }
}

/// Why a container has no log yet, in kubelet's words.
fn why_no_log(reported: Option<&ContainerStatus>, container: &str, pod: &str) -> String {
    let reason = reported.and_then(|r| r.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
    let why = match reason {
        Some("ErrImagePull" | "ImagePullBackOff") => "trying and failing to pull image",
        Some("ErrImageNeverPull") => "image can't be pulled",
        Some(reason) => reason,
        None => "ContainerCreating",
    };
    format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {why}")
}

/// Connects to a port of a pod as a process of the pod would: what listens on its loopback is reached too.
async fn dial_pod(
    cri: &galley_node_cri::Cri,
    sandbox: &str,
    ip: Option<String>,
    host_network: bool,
    port: u16,
) -> Result<Box<dyn Duplex>, String> {
    if !host_network && let Some(pid) = cri.sandbox_pid(sandbox).await.map_err(|e| e.message())? {
        let stream = tokio::task::spawn_blocking(move || in_namespace(pid, port)).await.map_err(|e| e.to_string())?;
        let stream = stream.map_err(|e| refused(port, &e))?;
        stream.set_nonblocking(true).map_err(|e| e.to_string())?;
        return Ok(Box::new(TcpStream::from_std(stream).map_err(|e| e.to_string())?));
    }
    let host = if host_network { "127.0.0.1".to_owned() } else { ip.ok_or("the pod has no address")? };
    let connected = tokio::time::timeout(DIAL, TcpStream::connect((host.as_str(), port))).await;
    let stream =
        connected.map_err(|_| format!("dial tcp {host}:{port}: i/o timeout"))?.map_err(|e| refused(port, &e))?;
    Ok(Box::new(stream))
}

fn refused(port: u16, error: &std::io::Error) -> String {
    let why = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        _ => error.to_string(),
    };
    format!("failed to connect to localhost:{port} inside namespace: dial tcp4 127.0.0.1:{port}: {why}")
}

/// A thread of its own enters the namespace, connects, and ends: no thread of the runtime may ever be in another namespace.
fn in_namespace(pid: u32, port: u16) -> std::io::Result<std::net::TcpStream> {
    let connect = move || {
        let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net"))?;
        rustix::thread::move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&namespace),
            Some(rustix::thread::LinkNameSpaceType::Network),
        )?;
        let v4 = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        std::net::TcpStream::connect_timeout(&v4, DIAL).or_else(|error| {
            let v6 = std::net::SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
            std::net::TcpStream::connect_timeout(&v6, DIAL).map_err(|_| error)
        })
    };
    let thread = std::thread::Builder::new().name("port-forward".into()).spawn(connect)?;
    thread.join().map_err(|_| std::io::Error::other("the thread panicked"))?
}

/// The pairs of a query string, decoded.
fn pairs(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    query.split('&').filter(|p| !p.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key), decode(value))
    })
}

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_taken_from_the_query_in_order() {
        let query = "command=sh&command=-c&command=echo+%22a%26b%22&input=1";
        let command: Vec<String> = pairs(query).filter(|(k, _)| k == "command").map(|(_, v)| v).collect();
        assert_eq!(command, ["sh", "-c", "echo \"a&b\""]);
    }

    fn status(state: Value) -> ContainerStatus {
        serde_json::from_value(json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 1,
            "state": state}))
        .unwrap()
    }

    fn instance(attempt: u32, state: ContainerState) -> Container {
        Container {
            id: format!("c-{attempt}"),
            sandbox_id: String::new(),
            name: "c".into(),
            attempt,
            state,
            image: String::new(),
            image_id: String::new(),
            created_at: jiff::Timestamp::UNIX_EPOCH,
            started_at: None,
            finished_at: None,
            exit_code: 1,
            reason: String::new(),
            message: String::new(),
            spec_hash: 0,
            restart_delay: 0,
            log_path: String::new(),
        }
    }

    #[test]
    fn previous_logs_are_of_the_last_state() {
        let crashed = ObservedPod {
            sandboxes: Vec::new(),
            containers: vec![instance(0, ContainerState::Exited), instance(1, ContainerState::Exited)],
        };
        let of =
            |observed: &ObservedPod, state: Value| previous(observed, Some(&status(state)), "c").map(|c| c.attempt);
        assert_eq!(of(&crashed, json!({"waiting": {"reason": "CrashLoopBackOff"}})), Some(1));
        assert_eq!(of(&crashed, json!({"terminated": {"exitCode": 1}})), Some(0));
        let first = ObservedPod { sandboxes: Vec::new(), containers: vec![instance(0, ContainerState::Running)] };
        assert_eq!(of(&first, json!({"running": {}})), None);
    }

    #[test]
    fn a_container_without_a_log_says_what_it_waits_for() {
        let text = why_no_log(Some(&status(json!({"waiting": {"reason": "ImagePullBackOff"}}))), "c", "p");
        assert_eq!(text, "container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image");
        let text = why_no_log(Some(&status(json!({"waiting": {"reason": "PodInitializing"}}))), "c", "p");
        assert_eq!(text, "container \"c\" in pod \"p\" is waiting to start: PodInitializing");
    }
}
