//! `bench`: Galley beside etcd, on this machine, in one run. Prints the tables of BENCHMARKS.md.
//!
//! etcd is what everybody can install and compare with: a PUT of the same bytes over HTTP, synced to the same disk. Ratios
//! to it in one run hold when the machine is slow or busy; absolute figures do not.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use galley_cloud_local::LocalCloud;
use galley_harness::daemon::Daemon;
use galley_harness::{Installation, Kubectl, Options, wait};
use serde_json::Value;

use crate::packages;

struct Bench {
    galley: Installation,
    etcd: Daemon,
    binaries: PathBuf,
    /// Where most work goes.
    main: Access,
    /// Placing pods has a cluster of its own: pods of other work would be placed as well as soon as there are nodes.
    placing: Access,
}

/// A cluster's API and a token with every right.
struct Access {
    server: String,
    token: String,
}

/// Measures and prints.
pub fn bench(quick: bool) -> Result<()> {
    packages::ensure(packages::For::Benchmarks)?;
    let mut build = crate::cargo()?;
    build.args(["build", "--release", "--quiet"]);
    for package in ["galley-server", "galley-cli", "galley-kbench"] {
        build.args(["--package", package]);
    }
    crate::run(&mut build)?;
    // On the disk that holds the checkout, not in a tmpfs: commits are what is measured.
    let root = crate::target_directory()?.join("bench");
    let _ = std::fs::remove_dir_all(&root);
    std::fs::create_dir_all(&root)?;
    let binaries = crate::target_directory()?.join("release");
    let galley = Installation::new(Options {
        cloud: LocalCloud::of_prefix("bench", 88, root.join("cloud")),
        binaries: binaries.clone(),
        port: 16088,
        database_url: None,
        mirrors: Vec::new(),
        server_arguments: Vec::new(),
        root: root.clone(),
    });
    let etcd = Daemon::new(&root.join("run"), "etcd");
    let outcome = Bench::start(galley.clone(), etcd.clone(), binaries, &root).and_then(|bench| bench.run(quick));
    etcd.stop(Duration::from_secs(5))?;
    galley.stop(true)?;
    outcome
}

impl Bench {
    fn start(galley: Installation, etcd: Daemon, binaries: PathBuf, root: &Path) -> Result<Self> {
        galley.database_start()?;
        galley.server_start()?;
        let main = Access::new(&galley, "bench")?;
        let placing = Access::new(&galley, "placing")?;
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(root.join("etcd")).args([
            "--listen-client-urls=http://127.0.0.1:16379",
            "--advertise-client-urls=http://127.0.0.1:16379",
            "--listen-peer-urls=http://127.0.0.1:16380",
            "--log-level=error",
        ]);
        etcd.start(command)?;
        wait::until("etcd to answer", Duration::from_secs(30), || {
            etcd.check()?;
            let output = Command::new("curl").args(["-sf", "http://127.0.0.1:16379/health"]).output()?;
            Ok(output.status.success().then_some(()))
        })?;
        Ok(Self { galley, etcd, binaries, main, placing })
    }

    /// One run of the load generator: its line.
    fn kbench(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(self.binaries.join("kbench"));
        if arguments[0] == "etcd-put" {
            command.args(["--server", "http://127.0.0.1:16379"]);
            command.arg("--process").arg(format!("server={}", self.etcd.pid().context("etcd has died")?));
        } else {
            let access = if arguments[0] == "schedule" { &self.placing } else { &self.main };
            command.args(["--server", &access.server, "--token", &access.token]);
            let server = self.galley.server().pid().context("the server has died")?;
            command.arg("--process").arg(format!("server={server}"));
            if let Some(postgres) = self.galley.postgres().daemon().pid() {
                command.arg("--process").arg(format!("postgres={postgres}"));
            }
        }
        let output = command.args(arguments).output()?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let line: Value = serde_json::from_slice(&output.stdout)?;
        anyhow::ensure!(line["errors"].as_u64().unwrap_or(0) == 0, "{arguments:?}: {line}");
        Ok(line)
    }

    fn run(&self, quick: bool) -> Result<()> {
        let many = |full: &str, short: &str| if quick { short.to_owned() } else { full.to_owned() };
        let (writes, reads) = (many("20000", "2000"), many("50000", "5000"));
        println!(
            "| work | rate | beside etcd | p50 ms | p99 ms | server CPU s per 1,000 | Postgres CPU s per 1,000 | server MiB |"
        );
        println!("|---|---|---|---|---|---|---|---|");
        let etcd = self.kbench(&["etcd-put", "--count", &writes])?;
        let base = etcd["per_s"].as_f64().unwrap_or(0.0);
        row("etcd put of a ConfigMap, 64 connections", &etcd, "per_s", "ops", base);
        let work = |label: &str, rate: &str, per: &str, arguments: &[&str]| -> Result<()> {
            row(label, &self.kbench(arguments)?, rate, per, base);
            Ok(())
        };
        work(
            "create ConfigMaps, 64 connections",
            "per_s",
            "ops",
            &["create", "--kind", "configmap", "--count", &writes],
        )?;
        work("create Pods, 64 connections", "per_s", "ops", &["create", "--kind", "pod", "--count", &writes])?;
        let one = many("2000", "300");
        work(
            "create ConfigMaps, 1 connection",
            "per_s",
            "ops",
            &["create", "--kind", "configmap", "--count", &one, "--connections", "1"],
        )?;
        let etcd_one = self.kbench(&["etcd-put", "--count", &one, "--connections", "1"])?;
        row("etcd put, 1 connection", &etcd_one, "per_s", "ops", base);
        let object = ["get", "--path", "/api/v1/namespaces/default", "--count", &reads];
        work("GET one object, 64 connections", "per_s", "ops", &object)?;
        let list = [
            "get",
            "--path",
            "/api/v1/namespaces/default/pods?resourceVersion=0",
            "--count",
            "20",
            "--connections",
            "4",
        ];
        let lists = self.kbench(&list)?;
        row(
            &format!("LIST {writes} Pods ({:.0} MB/s)", lists["mb_per_s"].as_f64().unwrap_or(0.0)),
            &lists,
            "per_s",
            "ops",
            base,
        );
        let watched = self.kbench(&["watch", "--writes", &many("2000", "500")])?;
        row(
            &format!(
                "100 watchers, events (lag p50 {:.0} ms, p99 {:.0} ms)",
                num(&watched, "lag_p50"),
                num(&watched, "lag_p99")
            ),
            &watched,
            "events_per_s",
            "events",
            base,
        );
        work("Deployment of 1,000 replicas, pods", "per_s", "pods", &["rollout"])?;
        work("5,000 Pods on 1,000 nodes, bound", "bound_per_s", "bound", &["schedule"])?;
        work(
            "500 Pods with anti-affinity, bound",
            "bound_per_s",
            "bound",
            &["schedule", "--pods", "500", "--shape", "antiaffinity"],
        )?;
        self.idle_clusters(if quick { 50 } else { 1000 })
    }

    /// What one more cluster that nobody uses costs.
    fn idle_clusters(&self, count: u32) -> Result<()> {
        let memory = || -> Result<u64> {
            let pid = self.galley.server().pid().context("the server has died")?;
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
            Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
        };
        let (before, start) = (memory()?, Instant::now());
        for number in 0..count {
            self.galley.galley(&["cluster", "create", &format!("idle-{number}")])?;
        }
        let each = start.elapsed() / count;
        let grown = memory()?.saturating_sub(before);
        println!(
            "\n{count} clusters created, {} ms each (the `galley` process included); the server grew by {} KiB for each.",
            each.as_millis(),
            grown / u64::from(count)
        );
        Ok(())
    }
}

fn num(line: &Value, field: &str) -> f64 {
    line[field].as_f64().unwrap_or(0.0)
}

fn row(label: &str, line: &Value, rate: &str, per: &str, base: f64) {
    let thousand = num(line, per).max(1.0) / 1000.0;
    let cpu = |who: &str| match line[format!("{who}_cpu_s")].as_f64() {
        Some(seconds) => format!("{:.2}", seconds / thousand),
        None => String::new(),
    };
    println!(
        "| {label} | {:.0}/s | {:.2} | {:.2} | {:.2} | {} | {} | {} |",
        num(line, rate),
        num(line, rate) / base,
        num(line, "p50"),
        num(line, "p99"),
        cpu("server"),
        cpu("postgres"),
        line["server_rss_mb"]
    );
}

impl Access {
    fn new(galley: &Installation, name: &str) -> Result<Self> {
        let kubectl = galley.cluster(name)?;
        let cluster: Value = serde_json::from_str(&galley.galley(&["cluster", "get", name, "-o", "json"])?)?;
        let server = format!("{}/clusters/{}", galley.url(), cluster["id"].as_str().context("id")?);
        Ok(Self { server, token: token(&kubectl)? })
    }
}

/// A token with every right, long enough for the run.
fn token(kubectl: &Kubectl) -> Result<String> {
    kubectl.run(&["create", "serviceaccount", "bench", "--namespace=kube-system"])?;
    let binding =
        ["create", "clusterrolebinding", "bench", "--clusterrole=cluster-admin", "--serviceaccount=kube-system:bench"];
    kubectl.run(&binding)?;
    Ok(kubectl.run(&["create", "token", "bench", "--namespace=kube-system", "--duration=4h"])?.trim().to_owned())
}
