//! Debian packages that a machine needs, and whether it has them.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use galley_harness::postgres::is_root;

/// A file whose absence shows that the package is missing, and the package.
type Need = (&'static str, &'static str);

/// To build.
const BUILD: &[Need] = &[
    ("/usr/bin/protoc", "protobuf-compiler"),
    ("/usr/include/google/protobuf/descriptor.proto", "libprotobuf-dev"),
    ("/usr/bin/cc", "gcc"),
    ("/usr/lib/x86_64-linux-gnu/libc.a", "libc6-dev"),
];

/// To run the control plane.
const CONTROL_PLANE: &[Need] =
    &[("/usr/lib/postgresql", "postgresql"), ("/usr/bin/curl", "curl"), ("/usr/bin/unshare", "util-linux")];

/// To run nodes.
const NODES: &[Need] = &[
    ("/usr/bin/containerd", "containerd"),
    ("/usr/sbin/runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("/usr/sbin/nft", "nftables"),
    ("/usr/sbin/iptables", "iptables"),
    ("/usr/sbin/conntrack", "conntrack"),
    ("/usr/bin/ip", "iproute2"),
    ("/bin/busybox", "busybox-static"),
];

/// To measure against.
const BENCH: &[Need] = &[("/usr/bin/etcd", "etcd-server"), ("/usr/bin/etcdctl", "etcd-client")];

/// What for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// `up` with programs that are there.
    Binaries,
    /// `up` and `torture`.
    Running,
    /// `test` as well.
    Tests,
    /// `bench` as well.
    Benchmarks,
}

/// Installs what is missing, as root; otherwise says what to install.
pub fn ensure(purpose: For) -> Result<()> {
    let mut needs: Vec<Need> = CONTROL_PLANE.to_vec();
    if purpose != For::Binaries {
        needs.extend(BUILD);
    }
    if is_root() {
        needs.extend(NODES);
    }
    if purpose == For::Benchmarks {
        needs.extend(BENCH);
    }
    let mut missing: Vec<&str> =
        needs.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| *package).collect();
    if galley_harness::kubectl::newest().is_err() {
        missing.push("kubernetes-client");
    }
    // The tests' AWS emulator.
    if purpose == For::Tests && !galley_harness::emulator::python_is_complete() {
        missing.push("python3-venv");
    }
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        bail!("missing packages; run: sudo apt-get install {}", missing.join(" "));
    }
    println!("installing {}", missing.join(" "));
    let apt = |arguments: &[&str]| {
        super::run(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "-y"]).args(arguments))
    };
    apt(&["update"])?;
    apt(&[&["install", "--no-install-recommends"], missing.as_slice()].concat())
}
