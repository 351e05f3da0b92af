//! `quiet`: what a fleet costs that does nothing. Makes clusters over REST, gives each simulated nodes, and looks at the server and
//! at Postgres every few seconds: CPU, memory, rows, bytes on disk, bytes of write-ahead log. Nothing may grow.

mod picture;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use galley_cloud_local::LocalCloud;
use galley_harness::daemon::Daemon;
use galley_harness::{Installation, Kubectl, Options, wait};
use serde_json::Value;

use crate::{packages, usage};

/// Between two looks. Each costs Postgres one query over its own statistics.
const EVERY: Duration = Duration::from_secs(5);
/// Clusters that one simulating process serves: its connections stay below the usual limit of open files.
const CLUSTERS_EACH: usize = 250;

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many clusters.
    #[arg(long, default_value_t = 1000)]
    clusters: usize,
    /// How many nodes in each.
    #[arg(long, default_value_t = 2)]
    nodes: u32,
    /// How long.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Instead: make so many clusters without nodes, list them, leave them, delete them, and print what that costs.
    #[arg(long, value_name = "CLUSTERS")]
    idle: Option<usize>,
    /// Use these binaries instead of building optimised ones.
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
    /// Where the picture and the figures go; `docs/` of the checkout if left out.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// One look.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Since the nodes were there.
    pub seconds: f64,
    /// CPU seconds so far.
    pub server_cpu: f64,
    pub postgres_cpu: f64,
    /// MiB, Postgres' shared memory counted once.
    pub server_mib: f64,
    pub postgres_mib: f64,
    /// Rows that live in all tables.
    pub rows: f64,
    /// MiB of tables and indexes.
    pub database_mib: f64,
    /// MiB of write-ahead log written so far.
    pub wal_mib: f64,
    /// Transactions so far.
    pub transactions: f64,
}

/// What Postgres says of itself, in one line.
const LOOK: &str = "SELECT (SELECT coalesce(sum(n_live_tup), 0) FROM pg_stat_user_tables),
    pg_database_size(current_database()), pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0'),
    (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database())";

struct Fleet {
    galley: Installation,
    binaries: PathBuf,
    root: PathBuf,
    /// Of the tenant whose clusters they are.
    token: String,
}

/// Measures, and writes what it saw.
pub fn quiet(arguments: &Arguments) -> Result<()> {
    packages::ensure(packages::For::Benchmarks)?;
    let binaries = match &arguments.binaries {
        Some(directory) => directory.clone(),
        None => {
            let mut build = crate::cargo()?;
            build.args(["build", "--release", "--quiet"]);
            for package in ["galley-server", "galley-cli", "galley-node-agent", "galley-kbench"] {
                build.args(["--package", package]);
            }
            crate::run(&mut build)?;
            crate::target_directory()?.join("release")
        }
    };
    let root = crate::target_directory()?.join("quiet");
    let galley = Installation::new(Options {
        cloud: LocalCloud::of_prefix("quiet", 92, root.join("cloud")),
        binaries: binaries.clone(),
        port: 16092,
        database_url: None,
        mirrors: Vec::new(),
        server_arguments: Vec::new(),
        root: root.clone(),
    });
    // What an earlier run left that was killed.
    galley.stop(true)?;
    std::fs::create_dir_all(root.join("kubeconfigs"))?;
    let outcome = Fleet::start(galley.clone(), binaries, root).and_then(|fleet| match arguments.idle {
        Some(count) => fleet.idle(count),
        None => fleet.quiet(arguments),
    });
    galley.stop(true)?;
    outcome
}

impl Fleet {
    fn start(galley: Installation, binaries: PathBuf, root: PathBuf) -> Result<Self> {
        galley.database_start()?;
        galley.server_start()?;
        let token = galley.tenant_token()?;
        Ok(Self { galley, binaries, root, token })
    }

    /// One run of the load generator: its line.
    fn kbench(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(self.binaries.join("kbench"));
        command.args(["--server", &self.galley.url(), "--token", &self.token]);
        for (name, pid) in self.processes()? {
            command.arg("--process").arg(format!("{name}={pid}"));
        }
        let output = command.args(arguments).output()?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let line: Value = serde_json::from_slice(&output.stdout)?;
        anyhow::ensure!(line["errors"].as_u64().unwrap_or(0) == 0, "{arguments:?}: {line}");
        Ok(line)
    }

    fn processes(&self) -> Result<[(&'static str, u32); 2]> {
        let server = self.galley.server().pid().context("the server has died")?;
        let postgres = self.galley.postgres().daemon().pid().context("Postgres has died")?;
        Ok([("server", server), ("postgres", postgres)])
    }

    fn look(&self, since: Instant) -> Result<Sample> {
        let processes: Vec<_> =
            self.processes()?.iter().filter_map(|(name, pid)| usage::parse(&format!("{name}={pid}")).ok()).collect();
        let cost = usage::read(&processes);
        let [(_, server_cpu, server_kib), (_, postgres_cpu, postgres_kib)] = &cost[..] else {
            anyhow::bail!("two processes are looked at");
        };
        let line = self.galley.postgres().query(LOOK)?;
        let figures: Vec<f64> = line.trim().split('|').map(str::parse).collect::<Result<_, _>>()?;
        let &[rows, database, wal, transactions] = &figures[..] else { anyhow::bail!("four figures, not {line:?}") };
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        Ok(Sample {
            seconds: since.elapsed().as_secs_f64(),
            server_cpu: *server_cpu,
            postgres_cpu: *postgres_cpu,
            server_mib: *server_kib as f64 / 1024.0,
            postgres_mib: *postgres_kib as f64 / 1024.0,
            rows,
            database_mib: mib(database),
            wal_mib: mib(wal),
            transactions,
        })
    }

    fn quiet(&self, arguments: &Arguments) -> Result<()> {
        let kubeconfigs = self.root.join("kubeconfigs");
        let count = arguments.clusters.to_string();
        let made = self.kbench(&[
            "create-clusters",
            "--prefix=quiet",
            "--count",
            &count,
            "--kubeconfigs",
            &kubeconfigs.to_string_lossy(),
        ])?;
        println!("{} clusters in {:.0} s", made["ops"], made["s"].as_f64().unwrap_or(0.0));
        let agents = self.simulated(&kubeconfigs, arguments)?;
        for agent in &agents {
            registered(agent)?;
        }
        println!("{} nodes each; looking for {} minutes", arguments.nodes, arguments.minutes);
        let since = Instant::now();
        let mut samples = vec![self.look(since)?];
        while since.elapsed() < Duration::from_secs(arguments.minutes * 60) {
            std::thread::sleep(EVERY);
            for agent in &agents {
                agent.check()?;
            }
            samples.push(self.look(since)?);
        }
        self.all_ready(arguments)?;
        println!("{}", self.galley.postgres().query(BUSIEST)?.trim());
        let output = match &arguments.output {
            Some(directory) => directory.clone(),
            None => crate::root()?.join("docs"),
        };
        std::fs::create_dir_all(&output)?;
        std::fs::write(output.join("quiet-fleet.csv"), csv(&samples))?;
        let title = format!("{} clusters with {} nodes each, doing nothing", arguments.clusters, arguments.nodes);
        std::fs::write(output.join("quiet-fleet.svg"), picture::draw(&title, &samples))?;
        println!("{}", summary(&samples));
        Ok(())
    }

    /// Fails unless the nodes are ready to the last, in some clusters of all processes: a fleet that lost its nodes is quieter than
    /// one that works.
    fn all_ready(&self, arguments: &Arguments) -> Result<()> {
        const SOME: usize = 40;
        let (mut clusters, mut n) = (0, 0);
        while n < arguments.clusters {
            let directory = self.root.join(format!("kubeconfigs-{}", n / CLUSTERS_EACH));
            let files = sorted(&directory)?;
            let file = files.get(n % CLUSTERS_EACH).context("a kubeconfig is missing")?;
            let nodes = Kubectl::new(file)?.get(&["nodes"])?;
            let ready = nodes["items"].as_array().into_iter().flatten().filter(|node| is_ready(node)).count();
            anyhow::ensure!(ready == arguments.nodes as usize, "{}: {ready} nodes are ready", file.display());
            clusters += 1;
            n += arguments.clusters.div_ceil(SOME);
        }
        println!("all nodes are ready in the {clusters} clusters that were asked");
        Ok(())
    }

    /// Starts the nodes of all clusters.
    fn simulated(&self, kubeconfigs: &Path, arguments: &Arguments) -> Result<Vec<Daemon>> {
        let mut agents = Vec::new();
        for (n, some) in sorted(kubeconfigs)?.chunks(CLUSTERS_EACH).enumerate() {
            let directory = self.root.join(format!("kubeconfigs-{n}"));
            std::fs::create_dir_all(&directory)?;
            for file in some {
                std::fs::rename(file, directory.join(file.file_name().context("a file's name")?))?;
            }
            let agent = Daemon::new(&self.root.join("run"), &format!("simulated-{n}"));
            let mut command = Command::new(self.binaries.join("galley-node-agent"));
            command.args(["simulated", "--count", &arguments.nodes.to_string(), "--parallel=8", "--kubeconfigs"]);
            command.arg(&directory);
            agent.start(command)?;
            agents.push(agent);
        }
        Ok(agents)
    }

    /// Clusters that nobody uses, made, listed, left and deleted.
    fn idle(&self, count: usize) -> Result<()> {
        println!(
            "| step | seconds | each ms p50 | p99 | server CPU s | Postgres CPU s | server MiB | rows | database MiB |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        let since = Instant::now();
        let mut before = self.look(since)?;
        let mut step = |label: &str, line: Option<&Value>, start: Instant| -> Result<()> {
            let now = self.look(since)?;
            let text = |field: &str| {
                line.and_then(|line| line[field].as_f64()).map_or_else(String::new, |value| format!("{value:.1}"))
            };
            println!(
                "| {label} | {:.1} | {} | {} | {:.1} | {:.1} | {:.0} | {:.0} | {:.0} |",
                start.elapsed().as_secs_f64(),
                text("p50"),
                text("p99"),
                now.server_cpu - before.server_cpu,
                now.postgres_cpu - before.postgres_cpu,
                now.server_mib,
                self.rows()?,
                now.database_mib
            );
            before = now;
            Ok(())
        };
        let start = Instant::now();
        step("before", None, start)?;
        let made = self.kbench(&["create-clusters", "--prefix=idle", "--count", &count.to_string()])?;
        step(&format!("create {count} clusters"), Some(&made), start)?;
        let start = Instant::now();
        let listed = self.kbench(&["list-clusters"])?;
        anyhow::ensure!(listed["clusters"].as_u64() == Some(count as u64), "{count} clusters, not {listed}");
        step("list them, by pages", Some(&listed), start)?;
        let start = Instant::now();
        std::thread::sleep(Duration::from_secs(60));
        step("leave them for a minute", None, start)?;
        let start = Instant::now();
        let deleted = self.kbench(&["delete-clusters"])?;
        step("delete them", Some(&deleted), start)?;
        // Once a second only: what is asked of Postgres is in the figures too.
        let end = Instant::now() + Duration::from_secs(1800);
        while self.galley.postgres().query("SELECT count(*) FROM clusters")? != "0" {
            anyhow::ensure!(Instant::now() < end, "rows of deleted clusters are still there after half an hour");
            std::thread::sleep(Duration::from_secs(1));
        }
        step("until their rows are gone", None, start)
    }

    /// Counted, not estimated.
    fn rows(&self) -> Result<f64> {
        let count = self.galley.postgres().query(
            "SELECT (SELECT count(*) FROM objects) + (SELECT count(*) FROM changes) + (SELECT count(*) FROM clusters)
                + (SELECT count(*) FROM cluster_progress) + (SELECT count(*) FROM changes_compacted)",
        )?;
        Ok(count.trim().parse()?)
    }
}

/// Which tables are written to, and how many of the updates touched no index.
const BUSIEST: &str = "SELECT relname || ': ' || n_tup_ins || ' inserted, ' || n_tup_upd || ' updated, of these ' ||
    n_tup_hot_upd || ' in place, ' || n_tup_del || ' deleted' FROM pg_stat_user_tables
    WHERE n_tup_ins + n_tup_upd + n_tup_del > 0 ORDER BY n_tup_ins + n_tup_upd + n_tup_del DESC LIMIT 5";

fn sorted(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)?.map(|file| Ok(file?.path())).collect::<Result<_>>()?;
    files.sort_unstable();
    Ok(files)
}

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn registered(agent: &Daemon) -> Result<()> {
    wait::until("simulated nodes to register", Duration::from_secs(600), || {
        agent.check()?;
        let log = std::fs::read_to_string(agent.log()).unwrap_or_default();
        Ok(log.contains("simulated nodes are registered").then_some(()))
    })
}

fn csv(samples: &[Sample]) -> String {
    let mut text =
        "seconds,server_cpu_s,postgres_cpu_s,server_mib,postgres_mib,rows,database_mib,wal_mib,transactions\n"
            .to_owned();
    for s in samples {
        let _ = writeln!(
            text,
            "{:.1},{:.2},{:.2},{:.1},{:.1},{:.0},{:.2},{:.2},{:.0}",
            s.seconds,
            s.server_cpu,
            s.postgres_cpu,
            s.server_mib,
            s.postgres_mib,
            s.rows,
            s.database_mib,
            s.wal_mib,
            s.transactions
        );
    }
    text
}

/// The first and the last third beside each other: what grows is seen there.
fn summary(samples: &[Sample]) -> String {
    let third = samples.len() / 3;
    let (Some(first), Some(early), Some(late), Some(last)) =
        (samples.first(), samples.get(third), samples.get(samples.len() - 1 - third), samples.last())
    else {
        return "too few samples".into();
    };
    let rate = |of: fn(&Sample) -> f64, from: &Sample, to: &Sample| {
        (of(to) - of(from)) / (to.seconds - from.seconds).max(f64::EPSILON)
    };
    let mut text = "| | first third | last third |\n|---|---|---|\n".to_owned();
    let mut line = |label: &str, of: fn(&Sample) -> f64| {
        let _ = writeln!(text, "| {label} | {:.3} | {:.3} |", rate(of, first, early), rate(of, late, last));
    };
    line("server, cores", |s| s.server_cpu);
    line("Postgres, cores", |s| s.postgres_cpu);
    line("write-ahead log, MiB/s", |s| s.wal_mib);
    line("transactions/s", |s| s.transactions);
    line("rows/s", |s| s.rows);
    line("database, MiB/s", |s| s.database_mib);
    let _ = writeln!(text, "| server MiB, at the end | {:.0} | {:.0} |", early.server_mib, last.server_mib);
    let _ = writeln!(text, "| Postgres MiB, at the end | {:.0} | {:.0} |", early.postgres_mib, last.postgres_mib);
    text
}
