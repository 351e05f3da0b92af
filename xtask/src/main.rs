//! Chores of the project: run it, test it, measure it.

mod bench;
mod layers;
mod packages;
mod quiet;
mod test;
mod torture;
mod up;
// The load generator's own, so that both count alike.
#[path = "../../tests/kbench/src/usage.rs"]
mod usage;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use galley_cloud_local::RegistryMirror;

/// Run, test and measure Galley.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing, build, and start everything with a first cluster of two nodes. Safe to repeat.
    Up(UpArguments),
    /// Stop what `up` started.
    Down {
        /// Delete the data as well.
        #[arg(long)]
        purge: bool,
        /// Where `up` keeps everything.
        #[arg(long)]
        data_dir: Option<PathBuf>,
    },
    /// Run every check and every test.
    Test {
        /// Leave out the tests that need root and containers.
        #[arg(long)]
        fast: bool,
    },
    /// Kill servers and PostgreSQL at random moments under load, and check that every promise is kept.
    Torture(torture::Arguments),
    /// Check which crate imports what.
    Layers,
    /// Measure: Galley beside etcd on this machine; writes BENCHMARKS.md's figures to standard output.
    Bench {
        /// Fewer operations: a minute instead of ten.
        #[arg(long)]
        quick: bool,
    },
    /// Measure what a fleet costs that does nothing: a picture and figures in docs/.
    Quiet(quiet::Arguments),
}

#[derive(clap::Args)]
struct UpArguments {
    /// Where everything is kept.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// How many nodes the first cluster gets.
    #[arg(long, default_value_t = 2)]
    nodes: u32,
    /// Fetch images of HOST from URL instead; may be repeated.
    #[arg(long = "registry-mirror", value_name = "HOST=URL")]
    registry_mirrors: Vec<RegistryMirror>,
    /// The server's port.
    #[arg(long, default_value_t = 6443)]
    port: u16,
    /// Build with optimisations.
    #[arg(long)]
    release: bool,
    /// Run the programs in this directory instead of building them.
    #[arg(long, conflicts_with = "release")]
    binaries: Option<PathBuf>,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Up(arguments) => up::up(&arguments),
        Command::Down { purge, data_dir } => up::down(data_dir, purge),
        Command::Test { fast } => test::test(fast),
        Command::Torture(arguments) => torture::torture(&arguments),
        Command::Layers => layers::check(),
        Command::Bench { quick } => bench::bench(quick),
        Command::Quiet(arguments) => quiet::quiet(&arguments),
    }
}

/// The workspace's root, of the checkout that is being run: several may share a target directory, and with it this binary.
fn root() -> Result<PathBuf> {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    Ok(here.parent().context("the workspace's root")?.to_owned())
}

/// Where cargo puts binaries.
fn target_directory() -> Result<PathBuf> {
    Ok(std::env::var_os("CARGO_TARGET_DIR").map_or(root()?.join("target"), PathBuf::from))
}

/// Runs a command and fails with its name when it fails.
fn run(command: &mut std::process::Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {:?}", command.get_program()))?;
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    anyhow::ensure!(status.success(), "{:?} {} failed", command.get_program(), arguments.join(" "));
    Ok(())
}

/// `cargo`, in the workspace.
fn cargo() -> Result<std::process::Command> {
    let mut cargo = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root()?);
    Ok(cargo)
}
