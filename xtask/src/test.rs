//! `test`: everything that decides whether a change lands.

use std::process::Command;

use anyhow::{Result, bail};
use galley_harness::postgres::is_root;

use crate::{layers, packages, run};

/// Format, lints, layers, then all tests. `fast` leaves out those of the package `galley-tests`, which need root.
pub fn test(fast: bool) -> Result<()> {
    if !fast && !is_root() {
        bail!("the end-to-end tests run containers and need root; `cargo xtask test --fast` runs the others");
    }
    packages::ensure(packages::For::Tests)?;
    galley_harness::emulator::ensure()?;
    run(crate::cargo()?.args(["fmt", "--all", "--check"]))?;
    layers::check()?;
    run(crate::cargo()?.args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    // The end-to-end tests run the binaries, which no test depends on for cargo.
    run(crate::cargo()?.args(["build", "--quiet", "--workspace", "--bins"]))?;
    let nextest = Command::new("cargo-nextest").arg("--version").output().is_ok_and(|o| o.status.success());
    let mut tests = crate::cargo()?;
    if nextest {
        tests.args(["nextest", "run", "--workspace", "--no-fail-fast"]);
    } else {
        tests.args(["test", "--workspace", "--no-fail-fast"]);
    }
    if fast {
        tests.args(["--exclude", "galley-tests"]);
    }
    run(&mut tests)
}
