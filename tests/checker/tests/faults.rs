//! Real servers on a real PostgreSQL that die, freeze and come back under the checker's load.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use galley_checker::plant::{Blueprint, Plant};
use galley_checker::torture::{Plan, torture};
use galley_checker::{Config, Running, file};
use galley_history::{Entry, check, explain};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(3);

/// Where cargo puts the product's binaries: beside this test's `deps` directory.
fn binaries() -> PathBuf {
    let test = std::env::current_exe().expect("this test");
    let deps = test.parent().expect("its directory");
    deps.parent().expect("the target directory").to_owned()
}

async fn plant(name: &str, replicas: usize, arguments: &[&str]) -> Plant {
    let blueprint = Blueprint {
        root: std::env::temp_dir().join(format!("galley-checker-{name}")),
        binaries: binaries(),
        replicas,
        lease: LEASE,
        arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
    };
    Plant::start(blueprint).await.unwrap_or_else(|error| panic!("{error:#}"))
}

fn good(plant: &Plant, history: &[Entry]) {
    if let Err(violations) = check(history) {
        let path = std::env::temp_dir().join("history-of-broken-promises.jsonl");
        file::write(&path, history).expect("the history is written");
        let texts: Vec<String> = violations.iter().take(5).map(|violation| explain(history, violation)).collect();
        panic!("{}the history is {}\n{}", texts.concat(), path.display(), plant.logs());
    }
}

/// Asks until it is so.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_is_kept_while_servers_and_postgres_die() {
    let plant = plant("torture", 1, &[]).await;
    let plan = Plan {
        cycles: 5,
        quiet: Duration::from_millis(1500),
        seed: 11,
        lease: LEASE,
        histories: std::env::temp_dir(),
        progress: false,
    };
    let summary = torture(&plant, &plan).await.unwrap_or_else(|error| panic!("{error:#}"));
    println!("{summary}");
    assert!(summary.counts.written > 100, "it was under load");
    assert!(summary.counts.resumed > 5, "watches were resumed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_epoch_stops_an_owner_that_slept_past_its_lease() {
    let plant = plant("paused", 2, &[]).await;
    let running = Running::start(Config {
        retention: Some(Duration::from_secs(3600)),
        // Many writers: some write is always under way when the owner stops.
        writers: 10,
        pace: Duration::from_millis(2),
        ..Config::new(plant.target(), 21)
    });
    let running = running.await.expect("the checker starts");
    // An owner that was about to hand the shard over anyway would not be surprised.
    until("even shares", || async { plant.is_even().expect("the lease rows").then_some(()) }).await;
    let first = until("an owner", || async { plant.owner().expect("the lease row") }).await;
    let second = 1 - first;
    let recorder = running.recorder().clone();
    let from = recorder.len();
    until("load", || async { (recorder.len() > from + 300).then_some(()) }).await;

    plant.server(first).signal("STOP").expect("stopped");
    recorder.note("the owner sleeps");
    // Sent to the sleeper: it finds them in its sockets when it wakes.
    let object = |name: &str| json!({"metadata": {"name": name, "namespace": "default"}, "data": {"value": name}});
    let write = plant
        .api(first, Method::POST, "/api/v1/namespaces/default/configmaps")
        .header("content-type", "application/json")
        .body(object("sleeper").to_string())
        .timeout(PATIENCE);
    let read = plant.api(first, Method::GET, "/api/v1/namespaces/default/configmaps").timeout(PATIENCE);
    let (write, read) = (tokio::spawn(write.send()), tokio::spawn(read.send()));
    let taken = until("the other server to take over", || async {
        let create = plant
            .api(second, Method::POST, "/api/v1/namespaces/default/configmaps")
            .header("content-type", "application/json")
            .body(object("taker").to_string());
        let answer = create.send().await.ok()?;
        answer.status().is_success().then_some(answer)
    })
    .await;
    let taken: Value = taken.json().await.expect("the object");
    let version: u64 = taken["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()).expect("a version");

    plant.server(first).signal("CONT").expect("woken");
    recorder.note("the owner wakes");
    // What it answers now is either nothing, or from the new owner: never from its own old state.
    let read = read.await.expect("asked");
    if let Ok(read) = read
        && read.status().is_success()
    {
        let list: Value = read.json().await.expect("a list");
        let of: u64 = list["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()).expect("a version");
        assert!(of >= version, "a list of {of}, after {version} was acknowledged elsewhere");
    }
    let written = write.await.expect("asked");
    let acknowledged = written.is_ok_and(|answer| answer.status().is_success());
    let found = until("an answer", || async {
        let get = plant.api(second, Method::GET, "/api/v1/namespaces/default/configmaps/sleeper");
        let status = get.send().await.ok()?.status();
        (status == StatusCode::OK || status == StatusCode::NOT_FOUND).then_some(status)
    })
    .await;
    assert_eq!(acknowledged, found == StatusCode::OK, "what was acknowledged is there, and nothing else");
    let fenced = until("the old owner to see that it is none", || async {
        let log = std::fs::read_to_string(plant.server(first).log()).unwrap_or_default();
        log.lines().find(|line| line.contains("shard lost")).map(str::to_owned)
    });
    println!("the old owner: {}", fenced.await);
    let at = recorder.len();
    until("load on the new owner", || async { (recorder.len() > at + 300).then_some(()) }).await;
    let history = running.finish().await.unwrap_or_else(|error| panic!("{error:#}\n{}", plant.logs()));
    good(&plant, &history);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_postgres_fails_closed_and_costs_no_node_and_no_pod() {
    // Nodes renew their leases every 10 s: with the outage, they are silent for longer than this.
    let plant = plant("outage", 1, &["--node-monitor-grace-period", "18s"]).await;
    let kubeconfig = plant.kubeconfig().await.expect("a kubeconfig");
    let nodes = plant.daemon("simulated");
    let mut command = Command::new(plant.binary("galley-node-agent"));
    command.args(["simulated", "--count", "3", "--prefix", "sim", "--kubeconfig"]).arg(kubeconfig);
    nodes.start(command).expect("simulated nodes start");
    let get = async |path: &str| -> Option<Value> {
        let answer = plant.api(0, Method::GET, path).send().await.ok()?.error_for_status().ok()?;
        answer.json().await.ok()
    };
    let status_of = |object: &Value, kind: &str| {
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().find(|condition| condition["type"] == kind).map(|condition| condition["status"].clone())
    };
    let all = |list: &Value, count: usize| {
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.len() == count && items.iter().all(|item| status_of(item, "Ready") == Some(json!("True")))
    };
    until("ready nodes", || async { get("/api/v1/nodes").await.filter(|list| all(list, 3)) }).await;
    for number in 0..6 {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p-{number}")},
            "spec": {"containers": [{"name": "c", "image": "galley.dev/busybox:1"}],
                // Evicted at once from a node that is tainted.
                "tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
                    "tolerationSeconds": 0}]}});
        until("a pod", || async {
            let create = plant.api(0, Method::POST, "/api/v1/namespaces/default/pods");
            let create = create.header("content-type", "application/json").body(pod.to_string());
            create.send().await.ok()?.error_for_status().ok()
        })
        .await;
    }
    let pods = "/api/v1/namespaces/default/pods";
    let before = until("running pods", || async { get(pods).await.filter(|list| all(list, 6)) }).await;
    let from = before["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();

    plant.postgres_kill().expect("stopped");
    let stopped = Instant::now();
    // Past the lease: what may be old is served, the rest fails closed and says when to come back.
    until("consistent reads to fail", || async {
        let answer = plant.api(0, Method::GET, pods).send().await.ok()?;
        (answer.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(())
    })
    .await;
    assert!(stopped.elapsed() < LEASE + Duration::from_secs(6), "{:?}", stopped.elapsed());
    for path in [pods.to_owned(), format!("{pods}/p-0")] {
        let answer = plant.api(0, Method::GET, &path).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(answer.headers().contains_key("retry-after"), "{path}");
        let stale = plant.api(0, Method::GET, &format!("{path}?resourceVersion=0")).send().await.expect("an answer");
        assert_eq!(stale.status(), StatusCode::OK, "{path}");
    }
    let delete = plant.api(0, Method::DELETE, &format!("{pods}/p-0")).send().await.expect("an answer");
    assert_eq!(delete.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(delete.headers().contains_key("retry-after"));
    let watch = plant.api(0, Method::GET, &format!("{pods}?watch=true&resourceVersion={from}")).send().await;
    assert_eq!(watch.expect("an answer").status(), StatusCode::OK);
    // Long enough that every node has been silent for its grace period: 10 s between beats, and this.
    until("the outage to be long", || async { (stopped.elapsed() > Duration::from_secs(19)).then_some(()) }).await;

    let started = Instant::now();
    tokio::task::block_in_place(|| plant.postgres().start()).expect("started");
    let back = Instant::now();
    until("a write", || async {
        let body = json!({"metadata": {"name": "back"}, "data": {"value": "x"}});
        let create = plant.api(0, Method::POST, "/api/v1/namespaces/default/configmaps");
        let create = create.header("content-type", "application/json").body(body.to_string());
        create.send().await.ok()?.error_for_status().ok()
    })
    .await;
    println!("PostgreSQL was back after {:?}, writes {:?} later", back - started, back.elapsed());
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    // Every node is heard of again; nothing happened to any of them or to their pods since before the outage.
    let renewed = |list: &Value, since: &Value| {
        let time = |list: &Value| -> Vec<String> {
            let items = list["items"].as_array().cloned().unwrap_or_default();
            items.iter().map(|lease| lease["spec"]["renewTime"].as_str().unwrap_or_default().to_owned()).collect()
        };
        let (now, then) = (time(list), time(since));
        now.len() == 3 && now.iter().zip(&then).all(|(now, then)| now > then)
    };
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let old = until("leases", || get(leases)).await;
    until("heartbeats", || async { get(leases).await.filter(|list| renewed(list, &old)) }).await;
    let after = until("pods", || get(pods)).await;
    let identity = |list: &Value| -> Vec<(String, String)> {
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        items.iter().map(|pod| (text(&pod["metadata"]["uid"]), text(&pod["metadata"]["resourceVersion"]))).collect()
    };
    assert_eq!(identity(&after), identity(&before), "no pod was touched");
    let now = until("nodes", || get("/api/v1/nodes")).await;
    assert!(all(&now, 3), "every node is ready");
    let events = until("events", || get("/api/v1/events")).await;
    let reasons: Vec<&str> =
        events["items"].as_array().into_iter().flatten().filter_map(|event| event["reason"].as_str()).collect();
    assert!(!reasons.contains(&"NodeNotReady"), "{reasons:?}");
}
