//! `torture`: faults at random moments under the checker's load. What is slow about it is the waiting, so it is a program of its
//! own, which this builds and runs.

use std::process::Command;

use anyhow::Result;

use crate::packages;

#[derive(clap::Args)]
pub struct Arguments {
    /// Build with optimisations. Comes first.
    #[arg(long)]
    release: bool,
    /// Of `galley-torture`: `--cycles`, `--seconds`, `--seed`, `--replicas`, `--lease-seconds`; `-- --help` tells them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
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
    torture.args(&arguments.options);
    crate::run(&mut torture)
}
