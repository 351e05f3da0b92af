//! Real kubectl against a server that knows one pod, whose processes are processes of this machine, reached (as on a node)
//! through a second SPDY connection in the manner of a container runtime.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use galley_streams::{
    Body, CommandOptions, Duplex, Exit, RemoteCommand, client, serve_port_forward, serve_remote_command,
};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

/// kubectl 1.33 speaks WebSocket first, and SPDY when told so.
fn kubectl() -> PathBuf {
    let versions = (27..=40).rev().map(|minor| format!("/usr/lib/google-cloud-sdk/bin/kubectl.1.{minor}"));
    versions.map(PathBuf::from).find(|path| path.exists()).unwrap_or_else(|| "kubectl".into())
}

fn pod() -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default", "uid": "1"},
        "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "x", "ports": [{"containerPort": 80}]}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

/// A process of this machine as a remote command. `tty` is only reported, not given.
fn local_process(options: CommandOptions, argv: &[String]) -> Result<RemoteCommand, std::io::Error> {
    let pipe = |wanted: bool| if wanted { Stdio::piped() } else { Stdio::null() };
    let mut child = Command::new(&argv[0])
        .args(&argv[1..])
        .stdin(pipe(options.stdin))
        .stdout(pipe(options.stdout))
        .stderr(pipe(options.stderr))
        .kill_on_drop(true)
        .spawn()?;
    Ok(RemoteCommand {
        stdin: child.stdin.take().map(|s| Box::new(s) as _),
        stdout: child.stdout.take().map(|s| Box::new(s) as _),
        stderr: child.stderr.take().map(|s| Box::new(s) as _),
        resize: None,
        exit: Box::pin(async move {
            match child.wait().await {
                Ok(status) if status.success() => Exit::Success,
                Ok(status) => Exit::Code(status.code().unwrap_or(137)),
                Err(error) => Exit::Failed(error.to_string()),
            }
        }),
    })
}

fn arguments(query: &str) -> Vec<String> {
    let decode = |text: &str| {
        let mut bytes = Vec::new();
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'+' => b' ',
                b'%' => {
                    let hex = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap()
                }
                other => other,
            });
        }
        String::from_utf8(bytes).unwrap()
    };
    query.split('&').filter_map(|pair| pair.strip_prefix("command=")).map(decode).collect()
}

fn translate(query: &str) -> String {
    query
        .split('&')
        .map(|pair| {
            pair.replacen("stdin=", "input=", 1).replacen("stdout=", "output=", 1).replacen("stderr=", "error=", 1)
        })
        .collect::<Vec<_>>()
        .join("&")
}

async fn answer(request: Request<Incoming>, runtime: Option<SocketAddr>, echo: SocketAddr) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let options = CommandOptions::from_query(&translate(&query));
    let path = request.uri().path().to_owned();
    if path.ends_with("/exec") {
        return match runtime {
            // The node's side: joins the client to the container runtime.
            Some(runtime) => serve_remote_command(request, options, move |options| async move {
                client::exec(&format!("http://{runtime}/exec?{query}"), options).await
            }),
            // The container runtime's side.
            None => serve_remote_command(request, options, move |options| async move {
                local_process(options, &arguments(&query)).map_err(|e| format!("cannot run it: {e}"))
            }),
        };
    }
    if path.ends_with("/portforward") {
        return serve_port_forward(request, move |port| async move {
            if port != 80 {
                return Err("connection refused");
            }
            let tcp = TcpStream::connect(echo).await.map_err(|_| "no echo")?;
            Ok(Box::new(tcp) as Box<dyn Duplex>)
        });
    }
    match &*path {
        "/api" => json(&serde_json::json!({"kind": "APIVersions", "versions": ["v1"]})),
        "/apis" => json(&serde_json::json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})),
        "/api/v1" => json(&serde_json::json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
            {"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": ["get", "list"]}]})),
        _ => json(&pod()),
    }
}

async fn serve(runtime: Option<SocketAddr>, echo: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let service =
                service_fn(move |request| async move { Ok::<_, Infallible>(answer(request, runtime, echo).await) });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service).with_upgrades(),
            );
        }
    });
    address
}

async fn servers() -> SocketAddr {
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let echo_address = echo.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut r, mut w) = tcp.split();
                let _ = tokio::io::copy(&mut r, &mut w).await;
                let _ = w.shutdown().await;
            });
        }
    });
    let runtime = serve(None, echo_address).await;
    serve(Some(runtime), echo_address).await
}

struct Kubectl {
    server: SocketAddr,
    websocket: bool,
    home: tempfile::TempDir,
}

impl Kubectl {
    async fn new(websocket: bool) -> Self {
        Self { server: servers().await, websocket, home: tempfile::tempdir().unwrap() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(kubectl());
        command
            .arg(format!("--server=http://{}", self.server))
            .args(arguments)
            .env("KUBECONFIG", self.home.path().join("none"))
            .env("HOME", self.home.path())
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", self.websocket.to_string())
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", self.websocket.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &[&str], input: &[u8]) -> (i32, String, String) {
        let mut child = self.command(arguments).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        tokio::spawn(async move {
            let _ = stdin.write_all(&input).await;
        });
        let output = child.wait_with_output().await.unwrap();
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }
}

async fn commands_run(websocket: bool) {
    let kubectl = Kubectl::new(websocket).await;
    let (code, out, err) = kubectl.run(&["exec", "web", "--", "sh", "-c", "echo out; echo err >&2"], b"").await;
    assert_eq!((code, &*out, &*err), (0, "out\n", "err\n"));

    // End of file on stdin reaches the process, and nothing of a large output is lost.
    let input = "0123456789abcde\n".repeat(100_000);
    let (code, out, err) = kubectl.run(&["exec", "-i", "web", "--", "cat"], input.as_bytes()).await;
    assert_eq!((code, &*err), (0, ""));
    assert_eq!(out.len(), input.len());
    assert!(out == input);

    let (code, _, err) = kubectl.run(&["exec", "web", "--", "sh", "-c", "exit 3"], b"").await;
    assert_eq!(code, 3);
    assert!(err.contains("command terminated with exit code 3"), "{err}");

    let (code, _, err) = kubectl.run(&["exec", "web", "--", "/no/such/command"], b"").await;
    assert_eq!(code, 1);
    assert!(err.contains("cannot run it: No such file"), "{err}");
}

#[tokio::test]
async fn kubectl_execs_over_spdy() {
    commands_run(false).await;
}

#[tokio::test]
async fn kubectl_execs_over_websocket() {
    commands_run(true).await;
}

async fn ports_forward(websocket: bool) {
    let kubectl = Kubectl::new(websocket).await;
    let mut child = kubectl.command(&["port-forward", "pod/web", ":80", ":81"]).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut said = String::new();
    let port_of = |said: &str, remote: &str| {
        let line = said.lines().find(|l| l.starts_with("Forwarding from 127.0.0.1") && l.ends_with(remote))?;
        line.split([':', ' ']).nth(3)?.parse::<u16>().ok()
    };
    while port_of(&said, "-> 81").is_none() || !said.ends_with('\n') {
        let mut buffer = [0; 512];
        let n = stdout.read(&mut buffer).await.unwrap();
        assert!(n > 0, "kubectl ended: {said}");
        said.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    let port = port_of(&said, "-> 80").unwrap();
    let mut tasks = Vec::new();
    for n in 0..10u8 {
        tasks.push(tokio::spawn(async move {
            let mut tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let sent = vec![n; 200_000];
            let (mut r, mut w) = tcp.split();
            let write = async {
                w.write_all(&sent).await.unwrap();
                w.shutdown().await.unwrap();
            };
            let mut got = Vec::new();
            let (_, read) = tokio::join!(write, r.read_to_end(&mut got));
            read.unwrap();
            assert!(got == sent, "{n}: {} bytes", got.len());
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    // A port where nobody listens: the connection ends and kubectl says why.
    let refused = port_of(&said, "-> 81").unwrap();
    let mut tcp = TcpStream::connect(("127.0.0.1", refused)).await.unwrap();
    let _ = tcp.read(&mut [0; 8]).await;
    let mut stderr = child.stderr.take().unwrap();
    let mut text = String::new();
    while !text.contains("connection refused") {
        let mut buffer = [0; 512];
        let n = stderr.read(&mut buffer).await.unwrap();
        assert!(n > 0, "kubectl said only: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    child.kill().await.unwrap();
}

#[tokio::test]
async fn kubectl_forwards_ports_over_spdy() {
    ports_forward(false).await;
}

#[tokio::test]
async fn kubectl_forwards_ports_over_spdy_in_websocket() {
    ports_forward(true).await;
}
