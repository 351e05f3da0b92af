//! Cycles of faults under the checker's load: what is killed and when is decided by a seed.
//!
//! After each fault the same must happen: writes are acknowledged again, and the history as a whole keeps every promise. A
//! 410 counts as a broken one: nobody may have to list again because something died.

use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use galley_history::{Counts, Entry, Outcome, check, explain};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::plant::Plant;
use crate::run::{Config, Running};
use crate::{Recorder, file};

/// Longest that a plant may need to write again: Postgres replays its log, and a lease may have to run out.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// Cycles in one history: a history is judged whole, and kept in memory until then.
const CYCLES_PER_HISTORY: u32 = 5;

/// What is done in a cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` of a server, and its start.
    ServerKilled(usize),
    /// `pg_ctl stop -m immediate`, and its start.
    PostgresKilled,
    /// Both at once.
    BothKilled(usize),
    /// A server is stopped past its lease and wakes up (only where there is another).
    ServerPaused(usize),
}

impl Fault {
    fn some(rng: &mut SmallRng, replicas: usize) -> Self {
        let server = rng.random_range(0..replicas);
        match rng.random_range(0..if replicas > 1 { 4 } else { 3 }) {
            0 => Self::ServerKilled(server),
            1 => Self::PostgresKilled,
            2 => Self::BothKilled(server),
            _ => Self::ServerPaused(server),
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::ServerKilled(_) => "kill -9 of a server",
            Self::PostgresKilled => "immediate stop of PostgreSQL",
            Self::BothKilled(_) => "both at once",
            Self::ServerPaused(_) => "a server stopped past its lease",
        }
    }
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many faults.
    pub cycles: u32,
    /// The longest quiet before each.
    pub quiet: Duration,
    /// Decides everything.
    pub seed: u64,
    /// The servers' lease.
    pub lease: Duration,
    /// Where the history of a broken promise goes.
    pub histories: PathBuf,
    /// Says how it goes.
    pub progress: bool,
}

/// How long a fault lasted after everything was told to start again.
#[derive(Debug, Clone, Copy)]
pub struct Recovery {
    /// Until PostgreSQL, if it was stopped, answered again: its own recovery from its log.
    pub database: Duration,
    /// From then until a write that was sent after the fault's end was acknowledged.
    pub back: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Which fault, and how it was got over.
    pub cycles: Vec<(&'static str, Recovery)>,
    /// Everything that was judged.
    pub counts: Counts,
    /// Changes of objects that anybody saw.
    pub changes: usize,
}

/// Torments a plant. An error is a broken promise, told with its history, or a plant that did not come back.
pub async fn torture(plant: &Plant, plan: &Plan) -> Result<Summary> {
    let mut rng = SmallRng::seed_from_u64(plan.seed);
    let mut summary = Summary::default();
    let mut left = plan.cycles;
    while left > 0 {
        let cycles = left.min(CYCLES_PER_HISTORY);
        let seed = rng.random();
        let running =
            Running::start(Config { retention: Some(Duration::from_secs(3600)), ..Config::new(plant.target(), seed) });
        let running = running.await.with_context(|| plant.logs())?;
        for _ in 0..cycles {
            let fault = Fault::some(&mut rng, plant.replicas());
            let quiet = plan.quiet.mul_f64(rng.random_range(0.2..1.0));
            tokio::time::sleep(quiet).await;
            let pause = Duration::from_millis(rng.random_range(0..1500));
            let recovery = cycle(plant, plan, running.recorder(), fault, pause).await;
            let recovery =
                recovery.with_context(|| format!("{} (seed {})\n{}", fault.label(), plan.seed, plant.logs()))?;
            summary.cycles.push((fault.label(), recovery));
            if plan.progress {
                let (done, all) = (summary.cycles.len(), plan.cycles);
                let database = match recovery.database {
                    Duration::ZERO => String::new(),
                    database => format!(" (PostgreSQL took {:.2} s to start)", database.as_secs_f64()),
                };
                let back = recovery.back.as_secs_f64();
                println!("{done:>4}/{all}  {:<32} back after {back:>5.2} s{database}", fault.label());
            }
        }
        let history = running.finish().await.with_context(|| plant.logs())?;
        judge(&history, plan, &mut summary).with_context(|| plant.logs())?;
        left -= cycles;
    }
    Ok(summary)
}

/// One fault, and how it was got over.
async fn cycle(plant: &Plant, plan: &Plan, recorder: &Recorder, fault: Fault, pause: Duration) -> Result<Recovery> {
    recorder.note(fault.label());
    match fault {
        Fault::ServerKilled(server) => {
            tokio::task::block_in_place(|| plant.server_kill(server))?;
            tokio::time::sleep(pause / 4).await;
        }
        Fault::PostgresKilled => {
            tokio::task::block_in_place(|| plant.postgres_kill())?;
            tokio::time::sleep(pause).await;
        }
        Fault::BothKilled(server) => {
            tokio::task::block_in_place(|| plant.postgres_kill())?;
            tokio::task::block_in_place(|| plant.server_kill(server))?;
            tokio::time::sleep(pause / 4).await;
        }
        Fault::ServerPaused(server) => {
            plant.server(server).signal("STOP")?;
            tokio::time::sleep(plan.lease + Duration::from_secs(1) + pause).await;
        }
    }
    let since = (recorder.now(), recorder.len());
    recorder.note("everything is started again");
    let mut database = Duration::ZERO;
    if matches!(fault, Fault::PostgresKilled | Fault::BothKilled(_)) {
        let starting = Instant::now();
        tokio::task::block_in_place(|| plant.postgres().start())?;
        database = starting.elapsed();
    }
    let started = Instant::now();
    match fault {
        Fault::PostgresKilled => {}
        Fault::ServerKilled(server) | Fault::BothKilled(server) => plant.server_start(server)?,
        Fault::ServerPaused(server) => plant.server(server).signal("CONT")?,
    }
    let (after, from) = since;
    let is_acknowledged = |entry: &Entry| match entry {
        Entry::Write(write) => {
            write.start >= after && matches!(write.outcome, Outcome::Done(_) | Outcome::Deleted { .. })
        }
        _ => false,
    };
    while !recorder.any_since(from, is_acknowledged) {
        if started.elapsed() > BACK_WITHIN {
            bail!("no write was acknowledged within {} s", BACK_WITHIN.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let back = started.elapsed();
    for server in 0..plant.replicas() {
        plant.server_wait(server).await?;
    }
    Ok(Recovery { database, back })
}

fn judge(history: &[Entry], plan: &Plan, summary: &mut Summary) -> Result<()> {
    let failed = |what: String| -> Result<()> {
        std::fs::create_dir_all(&plan.histories)?;
        let path = plan.histories.join(format!("history-{:x}-{}.jsonl", plan.seed, summary.cycles.len()));
        file::write(&path, history)?;
        bail!("{what}\nseed {}; the history is {}", plan.seed, path.display())
    };
    match check(history) {
        Ok(report) if report.counts.gone > 0 => {
            failed(format!("{} times 410: somebody had to list again", report.counts.gone))
        }
        Ok(report) => {
            summary.changes += report.changes;
            summary.counts.add(&report.counts);
            Ok(())
        }
        Err(violations) => {
            let mut text = format!("{} broken promises\n", violations.len());
            for violation in violations.iter().take(5) {
                text.push_str(&explain(history, violation));
            }
            failed(text)
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        writeln!(text, "| fault | cycles | back after, median s | longest s | PostgreSQL's own start, median s |")?;
        writeln!(text, "|---|---|---|---|---|")?;
        let mut labels: Vec<&str> = self.cycles.iter().map(|(label, _)| *label).collect();
        labels.sort_unstable();
        labels.dedup();
        for label in labels {
            let of = |part: fn(&Recovery) -> Duration| {
                let cycles = self.cycles.iter().filter(|(of, _)| *of == label);
                let mut times: Vec<f64> = cycles.map(|(_, recovery)| part(recovery).as_secs_f64()).collect();
                times.sort_unstable_by(f64::total_cmp);
                times
            };
            let (back, database) = (of(|recovery| recovery.back), of(|recovery| recovery.database));
            let (middle, last) = (back.len() / 2, back.len() - 1);
            let (median, longest, own) = (back[middle], back[last], database[middle]);
            writeln!(text, "| {label} | {} | {median:.2} | {longest:.2} | {own:.2} |", back.len())?;
        }
        let counts = &self.counts;
        writeln!(
            text,
            "\n{} writes acknowledged, {} refused, {} of unknown outcome; {} gets, {} lists ({} in pages)",
            counts.written, counts.refused, counts.unknown, counts.gets, counts.lists, counts.paginated
        )?;
        writeln!(
            text,
            "{} watches, {} of them resumed, {} broken off; {} events, {} bookmarks; {} times 410",
            counts.watches, counts.resumed, counts.broken, counts.events, counts.bookmarks, counts.gone
        )?;
        write!(text, "every promise was kept")?;
        f.write_str(&text)
    }
}
