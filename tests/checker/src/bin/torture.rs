//! `galley-torture`: faults at random moments under the checker's load, on a control plane of its own. `cargo xtask torture`
//! builds and runs it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use galley_checker::plant::{Blueprint, Plant};
use galley_checker::torture::{Plan, torture};

#[derive(Debug, Parser)]
struct Arguments {
    /// Where `galley-server` is.
    #[arg(long)]
    binaries: PathBuf,
    /// Where the control plane's files go while it runs, and the history of a broken promise stays.
    #[arg(long)]
    directory: PathBuf,
    /// How many faults.
    #[arg(long, default_value_t = 200)]
    cycles: u32,
    /// The longest quiet before each, in seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Decides what is killed and when, and what the clients do; a random one if left out.
    #[arg(long)]
    seed: Option<u64>,
    /// Servers on one database.
    #[arg(long, default_value_t = 1)]
    replicas: usize,
    /// The servers' lease, in seconds.
    #[arg(long, default_value_t = 3)]
    lease_seconds: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> Result<()> {
    let seed = arguments.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let lease = Duration::from_secs(arguments.lease_seconds.max(1));
    let plant = Plant::start(Blueprint {
        root: arguments.directory.join("plant"),
        binaries: arguments.binaries,
        replicas: arguments.replicas,
        lease,
        arguments: Vec::new(),
    })
    .await?;
    let plan = Plan {
        cycles: arguments.cycles,
        quiet: Duration::from_secs_f64(arguments.seconds.max(0.1)),
        seed,
        lease,
        histories: arguments.directory,
        progress: true,
    };
    let summary = torture(&plant, &plan).await?;
    println!("\n{summary}");
    Ok(())
}
