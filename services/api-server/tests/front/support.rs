//! A whole front door on loopback over the in-memory store, and a node that dials in.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use galley_api_server::clusters::Clusters;
use galley_api_server::pki::{Authority, ClientCredential};
use galley_api_server::{FlowConfig, FlowControl, Gateway, GatewayConfig, installation, serve, serve_replicas};
use galley_kube::openapi::{CustomKind, OpenApiDocs};
use galley_store::testing::{MemoryDatabase, config};
use galley_store::{Cluster, Store};
use galley_tunnel::{Incoming, Opener, Session};
use galley_types::{Clock, SystemClock};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use jiff::SignedDuration;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

pub const DOMAIN: &str = "galley.test";

struct NoDocs;

impl OpenApiDocs for NoDocs {
    fn v2(&self, _: &[CustomKind<'_>]) -> Bytes {
        Bytes::from_static(b"{}")
    }

    fn v2_protobuf(&self, _custom: &[CustomKind<'_>]) -> Bytes {
        Bytes::new()
    }

    fn v3_index(&self, _: &[CustomKind<'_>]) -> Bytes {
        Bytes::from_static(b"{}")
    }

    fn v3(&self, _: &str, _: &[CustomKind<'_>]) -> Option<Bytes> {
        None
    }
}

pub struct FrontDoor {
    pub address: SocketAddr,
    /// Of its listener for replicas.
    pub peers: SocketAddr,
    pub store: Store,
    pub flow: Arc<FlowControl>,
    pub shutdown: CancellationToken,
    pub serving: tokio::task::JoinHandle<()>,
    pub ca: Arc<Authority>,
    authority: CertificateDer<'static>,
    home: tempfile::TempDir,
}

pub struct Answer {
    pub code: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Value,
    pub text: String,
}

pub async fn front_door() -> FrontDoor {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let database = MemoryDatabase::new(Arc::clone(&clock), 0);
    open(&database, "test", clock).await
}

/// Replicas on one database.
pub async fn front_doors<const COUNT: usize>() -> [FrontDoor; COUNT] {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let database = MemoryDatabase::new(Arc::clone(&clock), 0);
    let mut doors = Vec::new();
    for at in 0..COUNT {
        doors.push(open(&database, &format!("replica-{at}"), Arc::clone(&clock)).await);
    }
    // Until each has its share.
    let even = |door: &FrontDoor| door.store.shards().len() == 12 / COUNT;
    eventually("even shares", async || doors.iter().all(even)).await;
    doors.try_into().map_err(|_| "count").unwrap()
}

/// Waits until it is so.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("in time: {what}"));
}

async fn open(database: &MemoryDatabase, holder: &str, clock: Arc<dyn Clock>) -> FrontDoor {
    let peer_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = config("", holder);
    settings.address = peer_listener.local_addr().unwrap().to_string();
    settings.lease_renewal = Duration::from_millis(100);
    settings.settle = Duration::ZERO;
    let peers = peer_listener.local_addr().unwrap();
    let store = database.open(settings, Arc::clone(&clock)).await.unwrap();
    let authority = Arc::new(installation::authority(&store, clock.now()).await.unwrap());
    let certificate = authority.certificate().clone();
    let clusters = Arc::new(Clusters::new(store.clone(), Arc::clone(&clock), DOMAIN.into()).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = GatewayConfig {
        domain: DOMAIN.into(),
        advertise: format!("https://{address}"),
        names: vec!["127.0.0.1".into(), "localhost".into()],
        node_certificate_duration: jiff::SignedDuration::from_hours(1),
        flow: FlowConfig::default(),
    };
    let shutdown = CancellationToken::new();
    let ca = Arc::clone(&authority);
    let gateway = Arc::new(
        Gateway::new(config, store.clone(), clusters, authority, Arc::new(NoDocs), clock, shutdown.clone()).unwrap(),
    );
    let flow = Arc::clone(gateway.flow());
    tokio::spawn(serve_replicas(peer_listener, Arc::clone(&gateway), shutdown.clone()));
    let serving = tokio::spawn(serve(vec![listener], gateway, shutdown.clone()));
    let home = tempfile::tempdir().unwrap();
    FrontDoor { address, peers, store, flow, shutdown, serving, ca, authority: certificate, home }
}

pub fn tls(roots: &CertificateDer<'static>, client: Option<&ClientCredential>) -> Arc<ClientConfig> {
    let mut store = RootCertStore::empty();
    store.add(roots.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some(client) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(client.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(client.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    Arc::new(config)
}

impl FrontDoor {
    /// A tenant and its token.
    pub async fn tenant(&self, name: &str) -> String {
        let tenant = self.store.tenant_create(name).await.unwrap();
        self.store.token_create(tenant.id, "test").await.unwrap().secret
    }

    /// A request to the management API.
    pub async fn rest(&self, method: Method, path: &str, token: Option<&str>, body: Option<Value>) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        self.send("localhost", &self.authority, None, request.body(Full::from(body)).unwrap()).await
    }

    pub async fn connect(
        &self,
        name: &str,
        roots: &CertificateDer<'static>,
        client: Option<&ClientCredential>,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        self.connect_as(name, tls(roots, client)).await
    }

    /// As a client that keeps its configuration, and in it what sessions it may resume.
    pub async fn connect_as(
        &self,
        name: &str,
        client: Arc<ClientConfig>,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        tokio_rustls::TlsConnector::from(client).connect(name, tcp).await
    }

    async fn send(
        &self,
        name: &str,
        roots: &CertificateDer<'static>,
        client: Option<&ClientCredential>,
        request: Request<Full<Bytes>>,
    ) -> Answer {
        send_on(self.connect(name, roots, client).await.unwrap(), request).await
    }

    /// A request under a name that no cluster has.
    pub async fn unknown_host(&self, path: &str) -> Answer {
        let name = format!("nobody-00000000.{DOMAIN}");
        let request = Request::builder().uri(path).header("host", &name).body(Full::default()).unwrap();
        self.send(&name, &self.authority, None, request).await
    }

    /// Creates a cluster for the tenant of `token`.
    pub async fn cluster(&self, token: &str, name: &str) -> TestCluster<'_> {
        let created = self.rest(Method::POST, "/v1/clusters", Some(token), Some(json!({"name": name}))).await;
        assert_eq!(created.code, StatusCode::CREATED, "{}", created.text);
        self.reach(token, created.body["id"].as_str().unwrap()).await
    }

    /// A cluster that is there, through this door.
    pub async fn reach(&self, token: &str, id: &str) -> TestCluster<'_> {
        let id = id.to_owned();
        let info = self.store.cluster_by_id(&id).await.unwrap().unwrap();
        let keys = self.store.cluster_keys(info.id).await.unwrap();
        let authority = Authority::open(&info.ca_certificate, &keys.ca_key).unwrap();
        let path = self.home.path().join(format!("{id}.kubeconfig"));
        let answer = self.rest(Method::GET, &format!("/v1/clusters/{id}/kubeconfig"), Some(token), None).await;
        std::fs::write(&path, answer.text).unwrap();
        TestCluster { door: self, id, info, authority, kubeconfig: path }
    }
}

/// A request on a connection of its own.
pub async fn send_on(stream: tokio_rustls::client::TlsStream<TcpStream>, request: Request<Full<Bytes>>) -> Answer {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    read(sender.send_request(request).await.unwrap()).await
}

pub async fn read<B: http_body::Body>(response: Response<B>) -> Answer
where
    B::Error: std::fmt::Debug,
{
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Answer {
        code: parts.status,
        headers: parts.headers,
        body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        text,
    }
}

pub struct TestCluster<'a> {
    pub door: &'a FrontDoor,
    pub id: String,
    pub info: Cluster,
    pub authority: Authority,
    pub kubeconfig: PathBuf,
}

/// The newest kubectl of this machine.
fn kubectl() -> PathBuf {
    let versions = (27..=40).rev().map(|minor| format!("/usr/lib/google-cloud-sdk/bin/kubectl.1.{minor}"));
    versions.map(PathBuf::from).find(|path| path.exists()).unwrap_or_else(|| "kubectl".into())
}

impl TestCluster<'_> {
    pub fn host(&self) -> String {
        format!("{}.{DOMAIN}", self.info.host_label)
    }

    pub fn credential(&self, user: &str, group: &str) -> ClientCredential {
        let now = SystemClock.now();
        self.authority.client_certificate(user, group, SignedDuration::from_hours(1), now).unwrap()
    }

    /// A request to the cluster's API at its host name.
    pub async fn api(
        &self,
        method: Method,
        path: &str,
        bearer: Option<&str>,
        client: Option<&ClientCredential>,
        body: Option<Value>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", self.host());
        if let Some(bearer) = bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        let request = request.body(Full::from(body)).unwrap();
        self.door.send(&self.host(), self.authority.certificate(), client, request).await
    }

    /// A request as the administrator whose answer is read bit by bit; extra headers.
    pub async fn streamed(&self, path: &str, headers: &[(&str, &str)]) -> Response<hyper::body::Incoming> {
        let admin = self.credential("admin", "system:masters");
        let stream = self.door.connect(&self.host(), self.authority.certificate(), Some(&admin)).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().uri(path).header("host", self.host());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap()
    }

    /// As administrator; must succeed.
    pub async fn admin(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let admin = self.credential("admin", "system:masters");
        let answer = self.api(method, path, None, Some(&admin), body).await;
        assert!(answer.code.is_success(), "{path}: {}", answer.text);
        answer.body
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(kubectl());
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.door.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Exit code, standard output, standard error without the warning about versions.
    pub async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.kubectl(arguments).output().await.unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        let errors: Vec<&str> = errors.lines().filter(|line| !line.starts_with("WARNING: version")).collect();
        (output.status.code().unwrap_or(-1), String::from_utf8(output.stdout).unwrap(), errors.join("\n"))
    }

    /// Opens a node's tunnel.
    pub async fn tunnel(&self, node: &ClientCredential) -> Result<(Opener, Incoming), Answer> {
        let stream = self.door.connect(&self.host(), self.authority.certificate(), Some(node)).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let request = Request::builder()
            .method(Method::POST)
            .uri("/galley/v1/tunnel")
            .header("host", self.host())
            .header("connection", "Upgrade")
            .header("upgrade", "galley-tunnel")
            .body(Full::<Bytes>::default())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(read(response).await);
        }
        let upgraded = hyper::upgrade::on(response).await.unwrap();
        Ok(Session::client(TokioIo::new(upgraded)))
    }
}
