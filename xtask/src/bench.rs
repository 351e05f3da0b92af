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
    /// Another tenant's.
    noisy: Access,
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
        let noisy = Access::new(&galley.as_tenant("noisy"), "noisy")?;
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
        Ok(Self { galley, etcd, binaries, main, placing, noisy })
    }

    /// One run of the load generator: its line.
    fn kbench(&self, arguments: &[&str]) -> Result<Value> {
        if arguments[0] == "etcd-put" {
            let mut command = Command::new(self.binaries.join("kbench"));
            command.args(["--server", "http://127.0.0.1:16379"]);
            command.arg("--process").arg(format!("server={}", self.etcd.pid().context("etcd has died")?));
            return measured(command.args(arguments));
        }
        let access = if arguments[0] == "schedule" { &self.placing } else { &self.main };
        self.kbench_at(&access.server, &access.token, arguments)
    }

    fn kbench_at(&self, server: &str, token: &str, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(self.binaries.join("kbench"));
        command.args(["--server", server, "--token", token]);
        let server = self.galley.server().pid().context("the server has died")?;
        command.arg("--process").arg(format!("server={server}"));
        if let Some(postgres) = self.galley.postgres().daemon().pid() {
            command.arg("--process").arg(format!("postgres={postgres}"));
        }
        measured(command.args(arguments))
    }

    fn run(&self, quick: bool) -> Result<()> {
        let many = |full: &str, short: &str| if quick { short.to_owned() } else { full.to_owned() };
        let (writes, pods, reads) = (many("20000", "2000"), many("10000", "2000"), many("50000", "5000"));
        println!(
            "| work | rate | beside etcd | p50 ms | p99 ms | CPU s per 1,000: server | Postgres | both | server MiB | goal | met |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|");
        let etcd = self.kbench(&["etcd-put", "--count", &writes])?;
        let base = etcd["per_s"].as_f64().unwrap_or(0.0);
        let no_goal = Goal::default();
        row("etcd put of a ConfigMap, 64 connections", &etcd, "per_s", "ops", base, &no_goal);
        let work = |label: &str, rate: &str, per: &str, arguments: &[&str], goal: &Goal| -> Result<()> {
            row(label, &self.kbench(arguments)?, rate, per, base, goal);
            Ok(())
        };
        work(
            "create ConfigMaps, 64 connections",
            "per_s",
            "ops",
            &["create", "--kind", "configmap", "--count", &writes],
            &Goal { rate: Some(6600.0), cpu: Some(0.15), ..no_goal },
        )?;
        // Before there are pods: those that wait for a node have the scheduler write, and a lone write waits for such a batch.
        let one = many("2000", "300");
        work(
            "create ConfigMaps, 1 connection",
            "per_s",
            "ops",
            &["create", "--kind", "configmap", "--count", &one, "--connections", "1"],
            &Goal { p50: Some(2.0), ..no_goal },
        )?;
        let etcd_one = self.kbench(&["etcd-put", "--count", &one, "--connections", "1"])?;
        row("etcd put, 1 connection", &etcd_one, "per_s", "ops", base, &no_goal);
        work(
            "create Pods, 64 connections",
            "per_s",
            "ops",
            &["create", "--kind", "pod", "--count", &pods],
            &Goal { rate: Some(6700.0), cpu: Some(0.22), ..no_goal },
        )?;
        let object = ["get", "--path", "/api/v1/namespaces/default", "--count", &reads];
        let goal = Goal { rate: Some(14_500.0), cpu: Some(0.075), ..no_goal };
        work("GET one object, 64 connections", "per_s", "ops", &object, &goal)?;
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
        // The goals are of 10,000 Pods; they grow and shrink with the number.
        let share = pods.parse::<f64>()? / 10_000.0;
        row(
            &format!("LIST {pods} Pods ({:.0} MB/s)", num(&lists, "mb_per_s")),
            &lists,
            "per_s",
            "ops",
            base,
            &Goal { cpu: Some(50.0 * share), megabytes: Some(600.0), ..no_goal },
        );
        let watched = self.kbench(&["watch", "--writes", &many("2000", "500")])?;
        row(
            &format!("100 watchers, events (lag p50 {:.0} ms)", num(&watched, "lag_p50")),
            &watched,
            "events_per_s",
            "events",
            base,
            &Goal { rate: Some(310_000.0), lag: Some(10.0), ..no_goal },
        );
        let goal = Goal { rate: Some(3334.0), ..no_goal };
        work("Deployment of 1,000 replicas, pods", "per_s", "pods", &["rollout"], &goal)?;
        let goal = Goal { rate: Some(960.0), cpu: Some(1.3), ..no_goal };
        work("5,000 Pods on 1,000 nodes, bound", "bound_per_s", "bound", &["schedule"], &goal)?;
        work(
            "500 Pods with anti-affinity, bound",
            "bound_per_s",
            "bound",
            &["schedule", "--pods", "500", "--shape", "antiaffinity"],
            &Goal { rate: Some(2600.0), ..no_goal },
        )?;
        self.noisy_tenant(if quick { "5" } else { "15" })?;
        self.idle_clusters(if quick { 50 } else { 1000 })
    }

    /// What one tenant's noise costs another.
    fn noisy_tenant(&self, seconds: &str) -> Result<()> {
        let Access { server, token } = &self.noisy;
        let arguments = ["noisy", "--seconds", seconds, "--noisy-server", server, "--noisy-token", token];
        let line = self.kbench(&arguments)?;
        let storm = |what: &str| num(&line["storm"], what);
        println!(
            "\nA quiet tenant beside another's fifty clients ({:.0} lists of 5,000 objects, {:.1} objects of 1 MiB and {:.0} \
             small ones written a second, 10 slow watches; the goal is a p99 of 1.5 times what it was):\n",
            storm("lists_per_s"),
            storm("large_per_s"),
            storm("creates_per_s")
        );
        println!("| request | p50 alone, ms | p50 beside | p99 alone | p99 beside | p99 beside / alone |");
        println!("|---|---|---|---|---|---|");
        for (operation, label) in [("get", "GET"), ("create", "create"), ("list", "list of 50")] {
            let of = |field: &str| num(&line[operation], field);
            let (p50, p99) = ((of("alone_p50"), of("p50")), (of("alone_p99"), of("p99")));
            println!("| {label} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |", p50.0, p50.1, p99.0, p99.1, of("ratio"));
        }
        Ok(())
    }

    /// What one more cluster that nobody uses costs: in memory while it was only just created, and after it has left.
    fn idle_clusters(&self, count: u64) -> Result<()> {
        // A new process: an old one has memory to spare, in which clusters would not show.
        self.galley.server().stop(Duration::from_secs(30))?;
        self.galley.server_start()?;
        let empty = self.resting()?;
        let some = count.min(JUST_CREATED);
        self.clusters(some)?;
        let loaded = self.memory()?.saturating_sub(empty);
        let line = self.clusters(count)?;
        let left = self.resting()?.saturating_sub(empty);
        let thousand = num(&line, "ops").max(1.0) / 1000.0;
        let (created, resting) = (loaded / some, left / (count + some));
        let met = |good: bool| if good { "met" } else { "missed" };
        println!(
            "\n{count} clusters created over REST by 4 connections, each until its own API answers: {:.0}/s, p50 {:.1} ms, p99 \
             {:.1} ms (goal 50 ms: {}), {:.1} + {:.1} CPU s per 1,000 (server, Postgres).\n\n\
             A cluster that was only just created takes {created} KiB (of {some}; goal 256 KiB: {}). {} clusters that were left \
             alone take {resting} KiB each (goal: 10,000 in 4 GiB, 419 KiB each: {}). The server without any takes {} MiB.",
            num(&line, "per_s"),
            num(&line, "p50"),
            num(&line, "p99"),
            met(num(&line, "p50") <= 50.0),
            num(&line, "server_cpu_s") / thousand,
            num(&line, "postgres_cpu_s") / thousand,
            met(created <= 256),
            count + some,
            met(resting <= 419),
            empty / 1024,
        );
        Ok(())
    }

    /// Creates clusters over the management API.
    fn clusters(&self, count: u64) -> Result<Value> {
        let count = count.to_string();
        self.kbench_at(&self.galley.url(), &self.galley.tenant_token()?, &["clusters", "--count", &count])
    }

    /// The server's resident memory in KiB.
    fn memory(&self) -> Result<u64> {
        let pid = self.galley.server().pid().context("the server has died")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
    }

    /// The same once it has stopped falling: clusters leave some seconds after their last use.
    fn resting(&self) -> Result<u64> {
        let (mut least, mut since) = (self.memory()?, Instant::now());
        wait::until("the server's memory to rest", Duration::from_secs(300), || {
            let now = self.memory()?;
            if now < least - least / 100 {
                (least, since) = (now, Instant::now());
            }
            Ok((since.elapsed() > RESTING).then_some(now.min(least)))
        })
    }
}

/// Clusters whose memory is looked at before any of them is idle for long enough to leave.
const JUST_CREATED: u64 = 200;
/// Longer than a cluster that was only just created stays in memory.
const RESTING: Duration = Duration::from_secs(20);

/// What DESIGN wants of a figure; what it says nothing of is `None`.
#[derive(Debug, Default, Clone, Copy)]
struct Goal {
    /// At least so many a second.
    rate: Option<f64>,
    /// At most so many CPU seconds for 1,000, the server's and Postgres' together.
    cpu: Option<f64>,
    /// At most so many milliseconds.
    p50: Option<f64>,
    /// At most so many milliseconds from a write to its event, p99.
    lag: Option<f64>,
    /// At least so many MB/s.
    megabytes: Option<f64>,
}

impl Goal {
    /// The goals as text, and which of them are missed.
    fn judge(&self, rate: f64, cpu: f64, line: &Value) -> (String, String) {
        let checks = [
            (self.rate.map(|goal| (format!("{goal:.0}/s"), rate >= goal)), "rate"),
            (self.cpu.map(|goal| (format!("{goal} CPU s"), cpu <= goal)), "CPU"),
            (self.p50.map(|goal| (format!("p50 {goal} ms"), num(line, "p50") <= goal)), "p50"),
            (self.lag.map(|goal| (format!("lag p99 {goal} ms"), num(line, "lag_p99") <= goal)), "lag"),
            (self.megabytes.map(|goal| (format!("{goal} MB/s"), num(line, "mb_per_s") >= goal)), "MB/s"),
        ];
        let stated: Vec<_> = checks.iter().filter_map(|(check, name)| check.as_ref().map(|c| (c, *name))).collect();
        let goals: Vec<&str> = stated.iter().map(|((text, _), _)| text.as_str()).collect();
        let missed: Vec<&str> = stated.iter().filter(|((_, met), _)| !met).map(|(_, name)| *name).collect();
        let met = match (goals.is_empty(), missed.is_empty()) {
            (true, _) => String::new(),
            (false, true) => "yes".to_owned(),
            (false, false) => format!("no: {}", missed.join(", ")),
        };
        (goals.join(", "), met)
    }
}

/// Runs the load generator: its line.
fn measured(command: &mut Command) -> Result<Value> {
    let output = command.output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line: Value = serde_json::from_slice(&output.stdout)?;
    anyhow::ensure!(line["errors"].as_u64().unwrap_or(0) == 0, "{command:?}: {line}");
    Ok(line)
}

fn num(line: &Value, field: &str) -> f64 {
    line[field].as_f64().unwrap_or(0.0)
}

fn row(label: &str, line: &Value, rate: &str, per: &str, base: f64, goal: &Goal) {
    let thousand = num(line, per).max(1.0) / 1000.0;
    let (server, postgres) = (num(line, "server_cpu_s") / thousand, num(line, "postgres_cpu_s") / thousand);
    let (goals, met) = goal.judge(num(line, rate), server + postgres, line);
    println!(
        "| {label} | {:.0}/s | {:.2} | {:.2} | {:.2} | {server:.3} | {postgres:.3} | {:.3} | {} | {goals} | {met} |",
        num(line, rate),
        num(line, rate) / base,
        num(line, "p50"),
        num(line, if line["lag_p99"].is_null() { "p99" } else { "lag_p99" }),
        server + postgres,
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
