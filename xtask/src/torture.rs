//! `torture`: faults at random moments under the checker's load. What is slow about it is the waiting, so it is a program of its
//! own, which this builds and runs.

use std::process::Command;

use anyhow::Result;

use crate::packages;

#[derive(clap::Args)]
pub struct Arguments {
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
    /// Build with optimisations.
    #[arg(long)]
    release: bool,
}

/// Builds what is needed and torments it.
pub fn torture(arguments: &Arguments) -> Result<()> {
    packages::ensure(packages::For::Running)?;
    let mut build = crate::cargo()?;
    build.args(["build", "--quiet", "--package", "galley-server", "--package", "galley-checker", "--bins"]);
    if arguments.release {
        build.arg("--release");
    }
    crate::run(&mut build)?;
    let target = crate::target_directory()?;
    let binaries = target.join(if arguments.release { "release" } else { "debug" });
    let mut torture = Command::new(binaries.join("galley-torture"));
    torture.arg("--binaries").arg(&binaries).arg("--directory").arg(target.join("torture"));
    torture.args(["--cycles", &arguments.cycles.to_string(), "--seconds", &arguments.seconds.to_string()]);
    torture.args(["--replicas", &arguments.replicas.to_string()]);
    if let Some(seed) = arguments.seed {
        torture.args(["--seed", &seed.to_string()]);
    }
    crate::run(&mut torture)
}
