//! `history-check`: does a Kubernetes API server keep Kubernetes' promises of consistency?
//!
//! Exit codes: 0 it did, 1 it did not, 2 the check could not be made.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use galley_checker::{Config, Running, Target, file};
use galley_history::{Entry, check, explain};

/// Drives a Kubernetes API server with concurrent writers, readers and watchers on ConfigMaps of a namespace of its own, and
/// checks what they saw: linearizable writes and reads, ordered, complete and unique watch events, lists that are the state
/// at their revision.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The API's root, as https://127.0.0.1:6443; a path prefix is kept. Several are replicas of one server.
    #[arg(long = "server", required_unless_present = "check")]
    servers: Vec<String>,
    /// Bearer token of somebody who may make namespaces and ConfigMaps.
    #[arg(long, env = "HISTORY_CHECK_TOKEN", default_value = "", hide_env_values = true)]
    token: String,
    /// The servers' CA, in PEM. Without it certificates are not checked.
    #[arg(long)]
    ca_file: Option<PathBuf>,
    /// Namespace; made, and deleted at the end.
    #[arg(long)]
    namespace: Option<String>,
    /// How long to drive it.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Decides what the clients do; a random one if left out.
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, default_value_t = 6)]
    writers: usize,
    #[arg(long, default_value_t = 3)]
    readers: usize,
    #[arg(long, default_value_t = 7)]
    watchers: usize,
    /// Names that the writers share.
    #[arg(long, default_value_t = 24)]
    objects: usize,
    /// Milliseconds between two requests of a client, on average.
    #[arg(long, default_value_t = 10)]
    pace: u64,
    /// For how many seconds the server promises that revisions can be watched and listed: 410 before that is a violation.
    #[arg(long)]
    retention_seconds: Option<u64>,
    /// Where the history goes; if left out, to a temporary file when it breaks a promise.
    #[arg(long)]
    history: Option<PathBuf>,
    /// Check a recorded history instead.
    #[arg(long, conflicts_with = "servers")]
    check: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime.context("start").and_then(|runtime| runtime.block_on(run(arguments))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(arguments: Arguments) -> Result<bool> {
    if let Some(path) = &arguments.check {
        return judge(&file::read(path)?, Some(path), 0);
    }
    let seed = arguments.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let ca = arguments.ca_file.as_ref().map(std::fs::read_to_string).transpose().context("read the CA")?;
    let target = Target { urls: arguments.servers.clone(), token: arguments.token.clone(), ca };
    let defaults = Config::new(target, seed);
    let config = Config {
        namespace: arguments.namespace.clone().unwrap_or(defaults.namespace),
        writers: arguments.writers,
        readers: arguments.readers,
        watchers: arguments.watchers,
        objects: arguments.objects.clamp(1, 1000),
        pace: Duration::from_millis(arguments.pace),
        retention: arguments.retention_seconds.map(Duration::from_secs),
        ..Config::new(defaults.target, seed)
    };
    let running = Running::start(config).await?;
    tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
    let history = running.finish().await?;
    if let Some(path) = &arguments.history {
        file::write(path, &history)?;
    }
    judge(&history, arguments.history.as_deref(), seed)
}

/// Says what is wrong with a history, and where it is.
fn judge(history: &[Entry], written: Option<&std::path::Path>, seed: u64) -> Result<bool> {
    match check(history) {
        Ok(report) => {
            println!("{}", serde_json::to_string_pretty(&report.counts)?);
            println!("{} changes: every promise was kept", report.changes);
            Ok(true)
        }
        Err(violations) => {
            for violation in violations.iter().take(10) {
                println!("{}", explain(history, violation));
            }
            let path = match written {
                Some(path) => path.to_owned(),
                None => {
                    let path = std::env::temp_dir().join(format!("history-{seed:x}.jsonl"));
                    file::write(&path, history)?;
                    path
                }
            };
            println!("{} violations; the history is {}", violations.len(), path.display());
            Ok(false)
        }
    }
}
