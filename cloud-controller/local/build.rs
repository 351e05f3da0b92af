//! Builds the pause program, static, to be put into an image: Cargo cannot build a dependency's binary with flags of its own.

use std::path::Path;
use std::process::Command;

fn main() {
    let source = "../../node-agent/pause/src/main.rs";
    println!("cargo::rerun-if-changed={source}");
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name| std::env::var(name).unwrap_or_else(|_| panic!("Cargo sets {name}"));
    let target = variable("TARGET");
    let output = Path::new(&variable("OUT_DIR")).join("pause");
    let status = Command::new(variable("RUSTC"))
        .args([source, "--edition=2024", "--crate-name=pause", "--crate-type=bin", "--target", &target])
        .args(["-Copt-level=z", "-Cpanic=abort", "-Cstrip=symbols", "-Ctarget-feature=+crt-static"])
        .arg("-o")
        .arg(&output)
        .status();
    match status {
        Ok(status) if status.success() => {}
        other => panic!("the pause program cannot be built ({other:?}); on Debian it needs the package libc6-dev"),
    }
}
