//! A small container image for tests and first steps, made from this machine's static busybox: no registry is needed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The image's name.
pub const BUSYBOX: &str = "galley.dev/busybox:1";

/// Imports an OCI archive into a node's containerd.
pub fn import(containerd_socket: &Path, archive: &Path) -> Result<()> {
    let output = Command::new("ctr")
        .arg("--address")
        .arg(containerd_socket)
        .args(["--namespace", "k8s.io", "images", "import"])
        .arg(archive)
        .output()
        .context("run ctr")?;
    if !output.status.success() {
        bail!("import {}: {}", archive.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The static busybox of Debian's package busybox-static.
pub fn busybox() -> Result<PathBuf> {
    let path = PathBuf::from("/bin/busybox");
    path.is_file().then_some(path).context("no /bin/busybox (package busybox-static)")
}
