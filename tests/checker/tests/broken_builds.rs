//! The checker is checked: servers that break one promise each, now and then, under the same load as one that breaks none.
//! Each must be caught by the rule that is about it, and the good one must pass.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use galley_api_server::clusters::Clusters;
use galley_api_server::{FlowConfig, Gateway, GatewayConfig, installation, serve};
use galley_checker::{Config, Running, Target, file};
use galley_history::{Entry, Rule, Violation, check, explain};
use galley_kube::openapi::{CustomKind, OpenApiDocs};
use galley_store::Store;
use galley_store::testing::{Broken, Fault, Faults, MemoryDatabase, config};
use galley_types::{Clock, SystemClock};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

struct NoDocs;

impl OpenApiDocs for NoDocs {
    fn v2(&self, _: &[CustomKind<'_>]) -> Bytes {
        Bytes::from_static(b"{}")
    }

    fn v2_protobuf(&self, _: &[CustomKind<'_>]) -> Bytes {
        Bytes::new()
    }

    fn v3_index(&self, _: &[CustomKind<'_>]) -> Bytes {
        Bytes::from_static(b"{}")
    }

    fn v3(&self, _: &str, _: &[CustomKind<'_>]) -> Option<Bytes> {
        None
    }
}

/// The real API server over the real store, whose database is in memory.
struct Server {
    store: Store,
    target: Target,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(broken: Option<Arc<Broken>>, seed: u64) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let database = MemoryDatabase::new(clock.clone(), seed);
        let mut config = config("", "checked");
        config.broken = broken;
        config.progress = Duration::from_millis(300);
        let store = database.open(config, clock.clone()).await.expect("the store opens");
        let authority = Arc::new(installation::authority(&store, clock.now()).await.expect("a CA"));
        let ca = authority.pem().to_owned();
        let domain = "galley.test".to_owned();
        let clusters = Arc::new(Clusters::new(store.clone(), clock.clone(), domain.clone()).expect("clusters"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let gateway = GatewayConfig {
            domain,
            advertise: format!("https://{address}"),
            names: vec!["127.0.0.1".into()],
            // No node joins here.
            node_certificate_duration: Default::default(),
            flow: FlowConfig::default(),
        };
        let shutdown = CancellationToken::new();
        let gateway = Gateway::new(
            gateway,
            store.clone(),
            clusters.clone(),
            authority.clone(),
            Arc::new(NoDocs),
            clock,
            shutdown.clone(),
        );
        let serving = tokio::spawn(serve(vec![listener], Arc::new(gateway.expect("a gateway")), shutdown.clone()));

        let tenant = store.tenant_create("tenant").await.expect("a tenant");
        let owner = store.token_create(tenant.id, "test").await.expect("a token").secret;
        let certificate = reqwest::Certificate::from_pem(ca.as_bytes()).expect("a certificate");
        let http = reqwest::Client::builder().add_root_certificate(certificate).no_proxy().build().expect("a client");
        let created = http
            .post(format!("https://{address}/v1/clusters"))
            .bearer_auth(owner)
            .header("content-type", "application/json")
            .body(r#"{"name": "checked"}"#)
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .expect("a cluster");
        let created: serde_json::Value = created.json().await.expect("its description");
        let id = created["id"].as_str().expect("its id");
        let token = store.service_token_create("checker").await.expect("a token").secret;
        // Writes take a while to commit, so that batches gather.
        database.faults(Faults { latency: Duration::from_millis(8), ..Faults::default() });
        let target = Target { urls: vec![format!("https://{address}/clusters/{id}")], token, ca: Some(ca) };
        Self { store, target, shutdown, serving }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        let _ = self.serving.await;
        self.store.close().await;
    }
}

/// Runs the checker against a server until the fault was made often enough, or, on a good one, until much has happened.
async fn run(fault: Option<(Fault, u64, u64)>, seed: u64) -> (Vec<Entry>, u64) {
    let broken = fault.map(|(fault, every, _)| Broken::new(fault, every));
    let server = Server::start(broken.clone(), seed).await;
    let running = Running::start(Config {
        objects: 8,
        pace: Duration::from_millis(4),
        retention: Some(Duration::from_secs(3600)),
        // A watcher whose last event was dropped is not waited for long.
        patience: Duration::from_secs(if fault.is_some() { 5 } else { 60 }),
        ..Config::new(server.target.clone(), seed)
    });
    let running = running.await.expect("the checker starts");
    let made = || broken.as_ref().map_or(0, |broken| broken.made());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let wanted = fault.map_or(0, |(_, _, wanted)| wanted);
    while made() < wanted || running.recorder().len() < 3000 {
        assert!(tokio::time::Instant::now() < deadline, "{fault:?} was made {} times only", made());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let history = running.finish().await.expect("a history");
    server.stop().await;
    (history, made())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_broken_build_is_caught_and_the_good_one_passes() {
    let seed = 7;
    let (history, _) = run(None, seed).await;
    if let Err(violations) = check(&history) {
        let path = std::env::temp_dir().join("history-of-a-good-server.jsonl");
        file::write(&path, &history).expect("the history is written");
        let texts: Vec<String> = violations.iter().take(5).map(|violation| explain(&history, violation)).collect();
        panic!("a false alarm; the history is {}\n{}", path.display(), texts.concat());
    }
    // The fault, one in how many chances, how often, and the rules that are about it.
    let faults: [(Fault, u64, u64, &[Rule]); 10] = [
        (Fault::StaleRead, 9, 10, &[Rule::StaleRead]),
        (Fault::DroppedEvent, 40, 3, &[Rule::WatchGap]),
        (Fault::SwappedEvents, 40, 5, &[Rule::WatchOrder, Rule::WatchRepeat, Rule::WatchGap]),
        (Fault::RepeatedEvent, 40, 3, &[Rule::WatchRepeat]),
        (Fault::LostWrite, 20, 3, &[Rule::OneMeaning, Rule::LostWrite, Rule::WatchGap]),
        (Fault::TornList, 4, 10, &[Rule::ListAtRevision]),
        (Fault::TornPages, 2, 10, &[Rule::ListAtRevision, Rule::Pages]),
        (Fault::LostUpdate, 1, 20, &[Rule::LostUpdate]),
        (Fault::BookmarkAhead, 3, 5, &[Rule::Bookmark]),
        (Fault::EarlyGone, 3, 3, &[Rule::Gone]),
    ];
    let mut missed = Vec::new();
    println!("{:<16} {:>5}  {:<16} first seen as", "fault", "made", "caught by");
    for (fault, every, wanted, rules) in faults {
        let (history, made) = run(Some((fault, every, wanted)), seed).await;
        let violations: Vec<Violation> = check(&history).err().unwrap_or_default();
        let caught = violations.iter().find(|violation| rules.contains(&violation.rule));
        let (by, what) = caught.map_or(("NOT CAUGHT".to_owned(), ""), |violation| {
            (format!("{:?}", violation.rule), violation.what.as_str())
        });
        println!("{:<16} {made:>5}  {by:<16} {what}", format!("{fault:?}"));
        if caught.is_none() {
            missed.push(format!("{fault:?}: {violations:?}"));
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:#?}");
}
