//! Replicas: any of them answers for any cluster, and nobody but they speak for clients.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use galley_api_server::pki::{ClientCredential, key_create};
use galley_tunnel::Header;
use galley_types::{Clock, SystemClock};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::SignedDuration;
use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::nodes::{connect, join, pod};
use super::support::{FrontDoor, TestCluster, eventually, front_doors, tls};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn config_map(name: &str, size: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"x": "x".repeat(size)}})
}

/// A cluster whose shard `owner` has.
async fn cluster_of<'a>(owner: &FrontDoor, door: &'a FrontDoor, token: &str) -> TestCluster<'a> {
    for _ in 0..200 {
        let cluster = door.cluster(token, &format!("c{}", rand::random::<u32>())).await;
        if owner.store.holds(cluster.info.shard) {
            return cluster;
        }
    }
    panic!("none of many fell to the replica");
}

/// The lines of a watch.
struct Lines {
    body: hyper::body::Incoming,
    rest: Vec<u8>,
}

impl Lines {
    /// `None`: it ended well, after a whole line.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).unwrap();
                if event["type"] != "BOOKMARK" {
                    return Some(event);
                }
                continue;
            }
            match tokio::time::timeout(Duration::from_secs(30), self.body.frame()).await.expect("in time") {
                Some(frame) => self.rest.extend_from_slice(&frame.expect("no broken stream").into_data().unwrap()),
                None => {
                    assert!(self.rest.is_empty(), "it ended within a line");
                    return None;
                }
            }
        }
    }
}

async fn watch(cluster: &TestCluster<'_>, from: &str) -> Lines {
    let answer = cluster.streamed(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={from}"), &[]).await;
    assert_eq!(answer.status(), 200);
    Lines { body: answer.into_body(), rest: Vec::new() }
}

fn version(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_replica_answers_for_any_cluster() {
    let doors = front_doors::<3>().await;
    let token = doors[0].tenant("acme").await;
    for (at, owner) in doors.iter().enumerate() {
        // Made at one replica, filled by its owner, used through all.
        let made = cluster_of(owner, &doors[at.wrapping_add(1) % 3], &token).await;
        let list = made.admin(Method::GET, CONFIG_MAPS, None).await;
        let mut watches = Vec::new();
        for door in &doors {
            watches.push(watch(&door.reach(&token, &made.id).await, &version(&list)).await);
        }
        for (number, door) in doors.iter().enumerate() {
            let cluster = door.reach(&token, &made.id).await;
            let created = cluster.admin(Method::POST, CONFIG_MAPS, Some(config_map(&format!("m{number}"), 10))).await;
            for watch in &mut watches {
                assert_eq!(watch.next().await.unwrap()["object"], created);
            }
            // Larger than what is kept to be sent again, and than a stream's window.
            let large =
                cluster.admin(Method::POST, CONFIG_MAPS, Some(config_map(&format!("l{number}"), 900_000))).await;
            for watch in &mut watches {
                assert_eq!(watch.next().await.unwrap()["object"], large);
            }
            let who = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
            let jane = cluster.credential("jane", "developers");
            let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
            let answer = cluster.api(Method::POST, path, None, Some(&jane), Some(who)).await;
            assert_eq!(answer.body["status"]["userInfo"]["username"], "jane", "{}", answer.text);
            assert_eq!(answer.body["status"]["userInfo"]["groups"], json!(["developers", "system:authenticated"]));
            let refused = cluster.api(Method::GET, CONFIG_MAPS, None, Some(&jane), None).await;
            assert_eq!((refused.code, &refused.body["reason"]), (StatusCode::FORBIDDEN, &json!("Forbidden")));
            assert_eq!(cluster.api(Method::GET, CONFIG_MAPS, Some("a.b.c"), None, None).await.code, 401);
            // A service account's token, and the path prefix of load balancers.
            let account =
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": format!("sa{number}")}});
            cluster.admin(Method::POST, "/api/v1/namespaces/default/serviceaccounts", Some(account)).await;
            let path = format!("/api/v1/namespaces/default/serviceaccounts/sa{number}/token");
            let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
            let issued = cluster.admin(Method::POST, &path, Some(request)).await;
            let issued = issued["status"]["token"].as_str().unwrap();
            let path = format!("/clusters/{}/api/v1/namespaces/default/pods", made.id);
            let answer = door.rest(Method::GET, &path, Some(issued), None).await;
            let message = answer.body["message"].as_str().unwrap();
            assert!(message.contains(&format!("system:serviceaccount:default:sa{number}")), "{message}");
            let (code, out, err) = cluster.run(&["get", "configmaps", "-o", "name"]).await;
            assert_eq!((code, &*err), (0, ""), "{out}");
        }
        // Deleted at a replica that does not own it: gone at all of them.
        let stranger = &doors[(at + 2) % 3];
        let path = format!("/v1/clusters/{}", made.id);
        assert_eq!(stranger.rest(Method::DELETE, &path, Some(&token), None).await.code, 204);
        for watch in &mut watches {
            assert_eq!(watch.next().await, None);
        }
        for door in &doors {
            let path = format!("/clusters/{}/api", made.id);
            assert_eq!(door.rest(Method::GET, &path, None, None).await.code, 404);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_cannot_say_what_only_replicas_may() {
    let doors = front_doors::<2>().await;
    let token = doors[0].tenant("acme").await;
    let made = cluster_of(&doors[0], &doors[0], &token).await;
    // {"known": {"username": "admin", "groups": ["system:masters"], ...}}
    let identity = json!({"known": {"username": "admin", "uid": "", "groups": ["system:masters"], "extra": {}}});
    let identity = base64_of(&identity.to_string());
    let forged = [
        ("galley-peer-identity", identity.as_str()),
        ("galley-peer-cluster", made.id.as_str()),
        ("galley-peer-errand", "removed"),
        ("galley-peer-method", "DELETE"),
        ("galley-peer-path", CONFIG_MAPS),
    ];
    for door in &doors {
        let cluster = door.reach(&token, &made.id).await;
        let mut request = Request::builder().uri(CONFIG_MAPS).header("host", cluster.host());
        for (name, value) in forged {
            request = request.header(name, value);
        }
        let stream = door.connect(&cluster.host(), cluster.authority.certificate(), None).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let answer =
            super::support::read(sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap())
                .await;
        assert_eq!(answer.code, 403, "{}", answer.text);
        assert!(answer.body["message"].as_str().unwrap().contains("system:anonymous"), "{}", answer.text);
        // Nor at the installation's own name.
        let answer = door.rest(Method::POST, "/", None, None).await;
        assert_eq!(answer.code, 404);
        // A good credential is what counts, whatever else is said.
        let answer = cluster.streamed(CONFIG_MAPS, &forged).await;
        assert_eq!(answer.status(), 200);
        assert!(doors[0].store.holds(cluster.info.shard));
    }
}

fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}

/// Whether a replica's listener answers who shows this certificate.
async fn is_let_in(door: &FrontDoor, client: Option<&ClientCredential>) -> bool {
    let tcp = TcpStream::connect(door.peers).await.unwrap();
    let mut config = Arc::unwrap_or_clone(tls(door.ca.certificate(), client));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("replica.galley.internal").unwrap();
    let Ok(stream) = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await else { return false };
    let Ok((mut sender, connection)) =
        hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await
    else {
        return false;
    };
    tokio::spawn(connection);
    let request = Request::post("https://replica.galley.internal/").header("galley-peer-errand", "look");
    sender.send_request(request.body(Full::default()).unwrap()).await.is_ok()
}

#[tokio::test]
async fn only_replicas_are_let_in_where_replicas_are() {
    let [door, _other] = front_doors::<2>().await;
    let token = door.tenant("acme").await;
    let cluster = door.cluster(&token, "shop").await;
    let now = SystemClock.now();
    let hour = SignedDuration::from_hours(1);
    let replica = door.ca.client_certificate("x", "galley:replicas", hour, now).unwrap();
    assert!(is_let_in(&door, Some(&replica)).await, "the test knows how to ask");
    assert!(!is_let_in(&door, None).await, "no certificate");
    let admin = cluster.credential("admin", "system:masters");
    assert!(!is_let_in(&door, Some(&admin)).await, "a cluster's administrator");
    let named = cluster.credential("replica.galley.internal", "galley:replicas");
    assert!(!is_let_in(&door, Some(&named)).await, "a cluster's CA is not the installation's");
    let other = door.ca.client_certificate("x", "galley:something", hour, now).unwrap();
    assert!(!is_let_in(&door, Some(&other)).await, "the installation's CA, for something else");
    let late = door.ca.client_certificate("x", "galley:replicas", SignedDuration::from_mins(-1), now).unwrap();
    assert!(!is_let_in(&door, Some(&late)).await, "expired");
    let key = key_create().unwrap();
    let server = door.ca.server_certificate(&key, &["replica.galley.internal".to_owned()], now).unwrap();
    let server = ClientCredential { certificate: pem_of(&server), key: key.serialize_pem() };
    assert!(!is_let_in(&door, Some(&server)).await, "a server's certificate");
}

fn pem_of(certificate: &rustls_pki_types::CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    assert_eq!(&rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap(), certificate);
    pem
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_streams_and_tunnels_pass_through_any_replica() {
    let doors = front_doors::<3>().await;
    let token = doors[0].tenant("acme").await;
    // The tunnel ends at the second replica, the cluster is the first one's, kubectl asks each.
    let cluster = cluster_of(&doors[0], &doors[1], &token).await;
    let node = join(&doors[2], &cluster, &token, "n1").await;
    pod(&cluster).await;
    let tunnel = connect(&cluster, &node).await;
    for door in &doors {
        let cluster = door.reach(&token, &cluster.id).await;
        assert_eq!(cluster.run(&["logs", "web"]).await, (0, "one line\n".into(), String::new()));
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
        let (code, _, err) = cluster.run(&["exec", "nobody", "--", "x"]).await;
        assert_eq!((code, &*err), (1, "Error from server (NotFound): pods \"nobody\" not found"));
        forwards_a_port(&cluster).await;
        let raw = "/api/v1/namespaces/default/pods/web/proxy/a/b?c=d";
        let (_, out, err) = cluster.run(&["get", "--raw", raw]).await;
        assert_eq!((&*out, &*err), ("10.244.0.7:8080 /a/b?c=d\n", ""));
    }
    // The shard moves: the node is told to come again, and finds the next owner through the same replica.
    doors[0].store.leave().await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), tunnel.ended()).await.expect("the tunnel ends with the move");
    let _tunnel = connect(&cluster, &node).await;
    for door in &doors {
        let cluster = door.reach(&token, &cluster.id).await;
        assert_eq!(cluster.run(&["logs", "web"]).await, (0, "one line\n".into(), String::new()));
    }
}

async fn forwards_a_port(cluster: &TestCluster<'_>) {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt};
    let mut child = cluster.kubectl(&["port-forward", "pod/web", ":8080"]).spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().expect("kubectl says where it listens");
    let port: u16 = line.split([':', ' ']).nth(3).unwrap().parse().unwrap();
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    tcp.write_all(b"hello").await.unwrap();
    tcp.shutdown().await.unwrap();
    let mut text = String::new();
    tcp.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "port 8080: hello");
    child.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_fails_no_request_and_watches_resume_from_where_they_ended() {
    let doors = front_doors::<3>().await;
    let token = doors[2].tenant("acme").await;
    let cluster = cluster_of(&doors[0], &doors[2], &token).await;
    let list = cluster.admin(Method::GET, CONFIG_MAPS, None).await;
    let mut lines = watch(&cluster, &version(&list)).await;
    let done = CancellationToken::new();
    let writing = async {
        for at in 0..120 {
            // Any failure fails the test.
            let name = format!("m{at}");
            cluster.admin(Method::POST, CONFIG_MAPS, Some(config_map(&name, 10))).await;
            let got = cluster.admin(Method::GET, &format!("{CONFIG_MAPS}/{name}"), None).await;
            assert_eq!(got["metadata"]["name"], json!(name));
            if at == 40 {
                doors[0].store.leave().await.unwrap();
            }
        }
        done.cancel();
    };
    let following = async {
        let mut seen = Vec::new();
        let mut last = version(&list);
        let mut ends = 0;
        while seen.len() < 120 {
            match lines.next().await {
                Some(event) => {
                    assert_eq!(event["type"], "ADDED");
                    last = version(&event["object"]);
                    seen.push(event["object"]["metadata"]["name"].as_str().unwrap().to_owned());
                }
                None => {
                    ends += 1;
                    lines = watch(&cluster, &last).await;
                }
            }
        }
        assert!(ends >= 1, "the watch was at the owner that left");
        assert_eq!(seen, (0..120).map(|at| format!("m{at}")).collect::<Vec<_>>(), "no gap, no duplicate");
    };
    tokio::join!(writing, following);
    assert!(!doors[0].store.holds(cluster.info.shard));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_reading_holds_up_nobody_else() {
    let [owner, gateway] = front_doors::<2>().await;
    let token = owner.tenant("acme").await;
    let cluster = cluster_of(&owner, &gateway, &token).await;
    for at in 0..8 {
        cluster.admin(Method::POST, CONFIG_MAPS, Some(config_map(&format!("m{at}"), 900_000))).await;
    }
    // More than a connection's window is by default, in answers that nobody reads.
    let mut unread = Vec::new();
    for _ in 0..16 {
        unread.push(cluster.streamed(CONFIG_MAPS, &[]).await);
    }
    for _ in 0..20 {
        let got = cluster.admin(Method::GET, &format!("{CONFIG_MAPS}/m0"), None).await;
        assert_eq!(got["metadata"]["name"], "m0");
    }
    // They are still good when they are read at last.
    for answer in unread {
        let whole = answer.into_body().collect().await.unwrap().to_bytes();
        let list: Value = serde_json::from_slice(&whole).unwrap();
        assert_eq!(list["items"].as_array().unwrap().iter().filter(|m| m["data"]["x"].is_string()).count(), 8);
    }
}

/// Tells when it is dropped.
struct Dropped(CancellationToken);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_ends_its_request_at_the_owner() {
    let [owner, gateway] = front_doors::<2>().await;
    let token = owner.tenant("acme").await;
    let cluster = cluster_of(&owner, &gateway, &token).await;
    let node = join(&gateway, &cluster, &token, "n1").await;
    pod(&cluster).await;
    let (_tunnel, mut incoming) = cluster.tunnel(&node).await.map_err(|answer| answer.text).unwrap();
    let dropped = CancellationToken::new();
    let ended = dropped.clone();
    tokio::spawn(async move {
        while let Some(inbound) = incoming.next().await {
            assert!(matches!(inbound.header.parse(), Ok(Header::Kubelet)));
            let ended = ended.clone();
            let service = service_fn(move |_: Request<hyper::body::Incoming>| {
                // A log that goes on for ever: its end is heard of.
                let guard = Dropped(ended.clone());
                let lines = futures::stream::unfold(guard, |guard| async move {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"line\n"))), guard))
                });
                async move { Ok::<_, Infallible>(Response::new(StreamBody::new(lines))) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(inbound.stream), service),
            );
        }
    });
    let mut answer = cluster.streamed("/api/v1/namespaces/default/pods/web/log?follow=true", &[]).await;
    assert_eq!(answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "line\n");
    assert!(!dropped.is_cancelled());
    drop(answer);
    tokio::time::timeout(Duration::from_secs(20), dropped.cancelled()).await.expect("the node hears of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_an_owner_is_unavailable_for_a_while_and_says_so() {
    let [owner, gateway] = front_doors::<2>().await;
    let token = owner.tenant("acme").await;
    let cluster = cluster_of(&owner, &gateway, &token).await;
    cluster.admin(Method::POST, CONFIG_MAPS, Some(config_map("m", 10))).await;
    let mut lines = watch(&cluster, "0").await;
    assert_eq!(lines.next().await.unwrap()["object"]["metadata"]["name"], "m");
    // Gone without a word: its lease is still there.
    owner.store.crash();
    owner.shutdown.cancel();
    assert_eq!(lines.next().await, None, "a watch ends between two lines");
    let admin = cluster.credential("admin", "system:masters");
    let answer = cluster.api(Method::GET, CONFIG_MAPS, None, Some(&admin), None).await;
    assert_eq!(answer.code, 503, "{}", answer.text);
    assert_eq!(answer.headers["retry-after"], "1");
    eventually("another owner when the lease ends", async || {
        cluster.api(Method::GET, CONFIG_MAPS, None, Some(&admin), None).await.code == 200
    })
    .await;
    assert!(gateway.store.holds(cluster.info.shard));
}
