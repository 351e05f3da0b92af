//! Nodes: joining, the tunnel, and what travels through it to the node and from it.

use std::convert::Infallible;

use super::support::{FrontDoor, TestCluster, front_door, read};
use bytes::Bytes;
use galley_api_server::pki::{ClientCredential, key_create};
use galley_streams::{Body, CommandOptions, Duplex, Exit, RemoteCommand, serve_port_forward, serve_remote_command};
use galley_tunnel::{Header, Incoming, Opener, write_line};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::CertificateParams;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Joins as the agent does.
pub async fn join(door: &FrontDoor, cluster: &TestCluster<'_>, token: &str, node: &str) -> ClientCredential {
    let path = format!("/v1/clusters/{}/bootstrap-tokens", cluster.id);
    let made = door.rest(Method::POST, &path, Some(token), None).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let key = key_create().unwrap();
    let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let body = json!({"token": made.body["token"], "nodeName": node, "csr": csr});
    let joined = door.rest(Method::POST, "/v1/join", None, Some(body.clone())).await;
    assert_eq!(joined.code, 200, "{}", joined.text);
    assert_eq!(joined.body["serverName"], json!(cluster.host()));
    // Once only.
    let again = door.rest(Method::POST, "/v1/join", None, Some(body)).await;
    assert_eq!(again.code, 403, "{}", again.text);
    assert_eq!(again.body["type"], "urn:galley:problem:join-token-used");
    let detail = again.body["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("this token was used 2") && detail.contains(&format!("by the node \"{node}\"")),
        "{detail}"
    );
    ClientCredential { certificate: joined.body["certificate"].as_str().unwrap().to_owned(), key: key.serialize_pem() }
}

async fn kubelet(request: Request<hyper::body::Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    Ok(match &*path {
        "/containerLogs/default/web/main" if query.contains("previous=true") => {
            let mut refusal = Response::new(Body::from("previous terminated container \"main\" not found\n"));
            *refusal.status_mut() = StatusCode::BAD_REQUEST;
            refusal
        }
        "/containerLogs/default/web/main" => Response::new(Body::from("one line\n")),
        "/exec/default/web/main" => {
            serve_remote_command(request, CommandOptions::from_query(&query), |options| async move {
                let (stdin, mut process_in) = tokio::io::duplex(1024);
                let (mut process_out, stdout) = tokio::io::duplex(1024);
                let exit = Box::pin(async move {
                    let mut text = String::new();
                    let _ = process_in.read_to_string(&mut text).await;
                    let _ = process_out.write_all(text.to_uppercase().as_bytes()).await;
                    Exit::Code(7)
                });
                let stdin = options.stdin.then(|| Box::new(stdin) as _);
                Ok::<_, Infallible>(RemoteCommand {
                    stdin,
                    stdout: Some(Box::new(stdout)),
                    stderr: None,
                    resize: None,
                    exit,
                })
            })
        }
        "/portForward/default/web" => serve_port_forward(request, |port| async move {
            let (ours, theirs) = tokio::io::duplex(1024);
            let (mut read, mut write) = tokio::io::split(theirs);
            tokio::spawn(async move {
                let _ = write.write_all(format!("port {port}: ").as_bytes()).await;
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
            Ok::<_, Infallible>(Box::new(ours) as Box<dyn Duplex>)
        }),
        other => Response::new(Body::from(format!("the kubelet at {other}\n"))),
    })
}

/// A node: a kubelet for some streams, an HTTP server behind every dialled address.
async fn serve_node(mut incoming: Incoming) {
    while let Some(mut inbound) = incoming.next().await {
        tokio::spawn(async move {
            match inbound.header.parse().unwrap() {
                Header::Kubelet => {
                    let io = TokioIo::new(inbound.stream);
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(io, service_fn(kubelet))
                        .with_upgrades()
                        .await;
                }
                Header::Dial { port: 81, .. } => {
                    write_line(&mut inbound.stream, "error: connect: connection refused").await.unwrap();
                }
                Header::Dial { host, port } => {
                    write_line(&mut inbound.stream, "ok").await.unwrap();
                    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                        let text = format!("{host}:{port} {}\n", request.uri());
                        async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text)))) }
                    });
                    let io = TokioIo::new(inbound.stream);
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                }
                other => panic!("a server does not open {other}"),
            }
        });
    }
}

pub async fn pod(cluster: &TestCluster<'_>) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    cluster.admin(Method::POST, "/api/v1/nodes", Some(node)).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let admin = cluster.credential("admin", "system:masters");
    // There are no controllers here to make it.
    cluster.api(Method::POST, accounts, None, Some(&admin), Some(json!({"metadata": {"name": "default"}}))).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"nodeName": "n1",
        "containers": [{"name": "main", "image": "x", "ports": [{"containerPort": 8080}]}]}});
    cluster.admin(Method::POST, "/api/v1/namespaces/default/pods", Some(pod)).await;
    let status = json!({"status": {"phase": "Running", "podIP": "10.244.0.7", "podIPs": [{"ip": "10.244.0.7"}]}});
    let request = cluster.admin(Method::GET, "/api/v1/namespaces/default/pods/web", None).await;
    let mut whole = request;
    whole["status"] = status["status"].clone();
    cluster.admin(Method::PUT, "/api/v1/namespaces/default/pods/web/status", Some(whole)).await;
}

pub async fn connect(cluster: &TestCluster<'_>, node: &ClientCredential) -> Opener {
    let (opener, incoming) = cluster.tunnel(node).await.map_err(|answer| answer.text).unwrap();
    tokio::spawn(serve_node(incoming));
    opener
}

#[tokio::test]
async fn kubectl_reaches_a_pod_through_its_nodes_tunnel() {
    let door = front_door().await;
    let token = door.tenant("acme").await;
    let cluster = door.cluster(&token, "shop").await;
    let node = join(&door, &cluster, &token, "n1").await;
    pod(&cluster).await;

    let (code, _, err) = cluster.run(&["logs", "web"]).await;
    assert_eq!(code, 1);
    assert!(err.starts_with("Error from server: error dialing backend: node \"n1\" is not connected"), "{err}");

    let _tunnel = connect(&cluster, &node).await;
    assert_eq!(cluster.run(&["logs", "web"]).await, (0, "one line\n".into(), String::new()));
    let (code, _, err) = cluster.run(&["logs", "web", "-p"]).await;
    assert_eq!(code, 1);
    assert_eq!(err, "Error from server (BadRequest): previous terminated container \"main\" not found");

    for websocket in ["true", "false"] {
        let mut command = cluster.kubectl(&["exec", "-i", "web", "--", "upper"]);
        command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websocket).stdin(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"hello").await.unwrap();
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        assert_eq!(output.stdout, b"HELLO", "{websocket}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(7));
    }

    let raw = |path: &str| format!("/api/v1/namespaces/default/pods/{path}");
    let (_, out, err) = cluster.run(&["get", "--raw", &raw("web/proxy/a/b?c=d")]).await;
    assert_eq!((&*out, &*err), ("10.244.0.7:8080 /a/b?c=d\n", ""));
    let (_, out, _) = cluster.run(&["get", "--raw", &raw("http:web:9/proxy/")]).await;
    assert_eq!(out, "10.244.0.7:9 /\n");
    let (_, _, err) = cluster.run(&["get", "--raw", &raw("web:81/proxy/")]).await;
    assert!(err.contains("error dialing backend: dial tcp 10.244.0.7:81: connect: connection refused"), "{err}");
    let (_, out, _) = cluster.run(&["get", "--raw", "/api/v1/nodes/n1/proxy/healthz"]).await;
    assert_eq!(out, "the kubelet at /healthz\n");
}

#[tokio::test]
async fn kubectl_forwards_a_port_through_a_nodes_tunnel() {
    let door = front_door().await;
    let token = door.tenant("acme").await;
    let cluster = door.cluster(&token, "shop").await;
    let node = join(&door, &cluster, &token, "n1").await;
    pod(&cluster).await;
    let _tunnel = connect(&cluster, &node).await;
    for websocket in ["true", "false"] {
        let mut command = cluster.kubectl(&["port-forward", "pod/web", ":8080"]);
        let mut child = command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websocket).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().expect("kubectl says where it listens");
        let port: u16 = line.split([':', ' ']).nth(3).unwrap().parse().unwrap();
        let mut tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        tcp.write_all(b"hello").await.unwrap();
        tcp.shutdown().await.unwrap();
        let mut text = String::new();
        tcp.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "port 8080: hello", "websocket: {websocket}");
        child.kill().await.unwrap();
    }
}

#[tokio::test]
async fn a_nodes_own_requests_travel_through_its_tunnel() {
    let door = front_door().await;
    let token = door.tenant("acme").await;
    let cluster = door.cluster(&token, "shop").await;
    let node = join(&door, &cluster, &token, "n1").await;
    let tunnel = connect(&cluster, &node).await;

    let stream = tunnel.open(&Header::Api.to_string()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    let request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("host", "kubernetes")
        .header("content-type", "application/json")
        .body(Full::<Bytes>::from(body))
        .unwrap();
    let answer = read(sender.send_request(request).await.unwrap()).await;
    assert_eq!(answer.body["status"]["userInfo"]["username"], "system:node:n1", "{}", answer.text);

    let key = key_create().unwrap();
    let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let renewed = cluster.api(Method::POST, "/v1/renew", None, Some(&node), Some(json!({"csr": csr}))).await;
    assert_eq!(renewed.code, 200, "{}", renewed.text);
    let admin = cluster.credential("admin", "system:masters");
    let refused = cluster.api(Method::POST, "/v1/renew", None, Some(&admin), Some(json!({"csr": csr}))).await;
    assert_eq!(refused.code, 401, "{}", refused.text);
}

#[tokio::test]
async fn a_tunnel_needs_a_nodes_certificate_and_a_newer_one_replaces_it() {
    let door = front_door().await;
    let token = door.tenant("acme").await;
    let cluster = door.cluster(&token, "shop").await;
    let admin = cluster.credential("admin", "system:masters");
    assert_eq!(cluster.tunnel(&admin).await.unwrap_err().code, 403);
    let stranger = cluster.credential("system:node:n1", "somebody");
    assert_eq!(cluster.tunnel(&stranger).await.unwrap_err().code, 403);
    let node = join(&door, &cluster, &token, "n1").await;
    let first = connect(&cluster, &node).await;
    let second = connect(&cluster, &node).await;
    first.ended().await;
    // Deleting the cluster ends what is left.
    let path = format!("/v1/clusters/{}", cluster.id);
    door.rest(Method::DELETE, &path, Some(&token), None).await;
    second.ended().await;
}
