//! How fast the store is on this machine: `cargo run --release -p galley-store --features testing --example store-bench`.
//!
//! A private Postgres with fsync on; rates are of the whole machine, CPU is told for this process and for Postgres apart.

use std::sync::Arc;
use std::time::{Duration, Instant};

use galley_store::testing::{Postgres, config, draft, new_cluster};
use galley_store::{ClusterStore, ObjectKey, Scope, Store, WatchItem, Write};
use galley_types::SystemClock;
use serde_json::json;

const OBJECT_BYTES: usize = 1024;
const RUN: Duration = Duration::from_secs(5);
const CLUSTERS: usize = 1000;

fn pod(name: &str) -> galley_store::Draft {
    let labels = json!({"app": "bench", "pod-template-hash": "5d4f8c7b9"});
    let metadata = json!({"name": name, "namespace": "default", "uid": name, "labels": labels});
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"fill": "x".repeat(OBJECT_BYTES - 250)}});
    draft("pods", &object, &[("spec.nodeName", "node-1"), ("status.phase", "Running")])
}

fn scope() -> Scope {
    Scope { resource: "pods".into(), namespace: None }
}

/// CPU seconds of a process and, for Postgres, of its children that live and that have ended.
fn cpu_seconds(pid: u32, children: bool) -> f64 {
    const TICKS: f64 = 100.0;
    let ticks = |pid: &str, with_ended: bool| -> (f64, u32) {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return (0.0, 0) };
        let after_name = stat.rsplit(") ").next().unwrap_or_default();
        let fields: Vec<f64> = after_name.split(' ').map(|field| field.parse().unwrap_or_default()).collect();
        let own = fields[11] + fields[12];
        let ended = if with_ended { fields[13] + fields[14] } else { 0.0 };
        (own + ended, fields[1] as u32)
    };
    let mut total = ticks(&pid.to_string(), children).0;
    if children {
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.parse::<u32>().is_ok() {
                let (own, parent) = ticks(&name, false);
                total += if parent == pid { own } else { 0.0 };
            }
        }
    }
    total / TICKS
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or_default()
}

struct Cpu<'a> {
    postgres: &'a Postgres,
    own: f64,
    database: f64,
}

impl<'a> Cpu<'a> {
    fn start(postgres: &'a Postgres) -> Self {
        let (own, database) = (cpu_seconds(std::process::id(), false), cpu_seconds(postgres.pid(), true));
        Self { postgres, own, database }
    }

    fn per_1000(&self, operations: usize) -> String {
        let now = Self::start(self.postgres);
        let per = |seconds: f64| seconds * 1000.0 / operations as f64;
        format!(
            "CPU-s per 1,000: store {:.4}, Postgres {:.4}",
            per(now.own - self.own),
            per(now.database - self.database)
        )
    }
}

async fn writers(postgres: &Postgres, cluster: &Arc<ClusterStore>, count: usize, prefix: &str) {
    let cpu = Cpu::start(postgres);
    let start = Instant::now();
    let tasks: Vec<_> = (0..count)
        .map(|writer| {
            let (cluster, prefix) = (cluster.clone(), prefix.to_owned());
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while start.elapsed() < RUN {
                    let sent = Instant::now();
                    let name = format!("{prefix}-{writer}-{}", latencies.len());
                    cluster.commit(Write::Create(pod(&name))).await.expect("written");
                    latencies.push(sent.elapsed());
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("joins"));
    }
    let elapsed = start.elapsed().as_secs_f64();
    latencies.sort();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    println!(
        "create, {count} writers: {:.0}/s, p50 {:?}, p99 {:?}; {}",
        latencies.len() as f64 / elapsed,
        at(0.5),
        at(0.99),
        cpu.per_1000(latencies.len())
    );
}

async fn watchers(postgres: &Postgres, cluster: &Arc<ClusterStore>, count: usize) {
    let from = cluster.revision();
    let tasks: Vec<_> = (0..count)
        .map(|_| {
            let cluster = cluster.clone();
            tokio::spawn(async move {
                let mut watch = cluster.watch(scope(), from).await.expect("watch");
                let mut seen = 0_usize;
                loop {
                    match watch.next().await.expect("keeps up") {
                        WatchItem::Event(event) => {
                            seen += 1;
                            if &*event.object.key.name == "end" {
                                return seen;
                            }
                        }
                        WatchItem::Progress(_) => {}
                    }
                }
            })
        })
        .collect();
    let start = Instant::now();
    writers(postgres, cluster, 64, "watched").await;
    cluster.commit(Write::Create(pod("end"))).await.expect("written");
    let mut events = 0;
    for task in tasks {
        events += task.await.expect("joins");
    }
    println!("  watched by {count}: {:.0} events/s in all", events as f64 / start.elapsed().as_secs_f64());
}

fn reads(cluster: &ClusterStore) {
    let key = ObjectKey::new(&"pods".into(), "default", "single-0-0");
    let start = Instant::now();
    let mut count = 0_u64;
    while start.elapsed() < Duration::from_secs(1) {
        for _ in 0..1000 {
            assert!(cluster.get(&key).is_some());
        }
        count += 1000;
    }
    println!("get, 1 thread: {:.0}/s", count as f64 / start.elapsed().as_secs_f64());
    let (start, mut lists, mut objects, mut bytes) = (Instant::now(), 0_u32, 0, 0);
    while start.elapsed() < Duration::from_secs(1) {
        let listing = cluster.list(&scope());
        objects = listing.objects.len();
        bytes = listing.objects.iter().map(|object| object.body.len()).sum::<usize>();
        lists += 1;
    }
    let each = start.elapsed() / lists;
    println!(
        "list of {objects} objects, {bytes} bytes: {each:?} each, {:.0} objects/s",
        objects as f64 / each.as_secs_f64()
    );
}

async fn clusters(store: &Store) {
    let tenant = store.tenant_create("many").await.expect("tenant");
    let before = resident_kib();
    let start = Instant::now();
    let mut ids = Vec::new();
    for i in 0..CLUSTERS {
        let info = store.cluster_create(new_cluster(tenant.id, &format!("c{i}"))).await.expect("cluster");
        ids.push(info.id);
    }
    println!(
        "create a cluster: {:?} each; {CLUSTERS} unloaded take {} KiB",
        start.elapsed() / CLUSTERS as u32,
        resident_kib().saturating_sub(before)
    );
    // What bootstrap puts into a cluster, about.
    let start = Instant::now();
    for id in &ids {
        let cluster = store.cluster(*id).await.expect("loads");
        let writes = (0..30).map(|i| Write::Create(pod(&format!("o{i}")))).collect();
        assert!(cluster.commit_all(writes).await.iter().all(Result::is_ok));
        cluster.settled(cluster.revision(), None);
    }
    let rows = start.elapsed();
    println!("  fill it with 30 objects: {:?} each", rows / CLUSTERS as u32);
    store.housekeep().await.expect("keeps house");
    let (loaded, counted) = (resident_kib(), store.cache_bytes());
    println!(
        "{CLUSTERS} loaded with 30 objects just written each: {} KiB resident, {} KiB counted",
        loaded.saturating_sub(before),
        counted / 1024
    );
    tokio::time::sleep(Duration::from_millis(1100)).await;
    store.evict().await;
    println!(
        "  {} are still loaded when idle: {} KiB resident",
        store.loaded().len(),
        resident_kib().saturating_sub(before)
    );
    let start = Instant::now();
    for id in &ids {
        drop(store.cluster(*id).await.expect("loads"));
    }
    println!(
        "  loaded again: {:?} each, {} KiB resident",
        start.elapsed() / CLUSTERS as u32,
        resident_kib().saturating_sub(before)
    );
}

#[tokio::main]
async fn main() {
    let postgres = Postgres::start().expect("Postgres");
    let mut config = config(&postgres.url(), "bench");
    config.cache.idle = Duration::from_secs(1);
    let store = Store::open(config, Arc::new(SystemClock)).await.expect("opens");
    // First: what it frees would hide what others take.
    clusters(&store).await;
    let cluster = store.cluster_for_test("bench").await.expect("cluster");
    writers(&postgres, &cluster, 1, "single").await;
    writers(&postgres, &cluster, 64, "many").await;
    writers(&postgres, &cluster, 256, "crowd").await;
    reads(&cluster);
    watchers(&postgres, &cluster, 100).await;
    store.close().await;
}
