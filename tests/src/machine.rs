//! A machine that nobody but its owner set up: what a user has who wants to join a server of one's own.
//!
//! ```text
//!   bridge of the local cloud ── veth ── namespaces: network, mounts, host name, processes
//!                                          /etc /var/lib /run of its own, containerd with its default paths
//! ```
//!
//! Nothing of the local cloud's way to start nodes is used here. Processes and mounts are of namespaces that end with their
//! first process, so a machine cannot leave any behind.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use galley_cloud_local::{oci, remove_cgroups};
use galley_harness::wait;

use crate::{World, binaries};

/// Large enough for the tests' images, small enough to be filled.
const DISK: &str = "256m";

const CONTAINERD: &str = r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "PAUSE"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
"#;

/// A running machine.
pub struct Machine {
    name: String,
    namespace: String,
    link: String,
    /// Holds its namespaces' first process.
    keeper: Child,
    /// Of that process, as this machine counts.
    first: u32,
    directory: PathBuf,
}

impl Machine {
    /// Starts one on the bridge of `world`, with the agent's program on its PATH and `images` in its containerd.
    pub fn start(world: &World, name: &str, last_byte: u8, images: &[PathBuf]) -> Result<Self> {
        let cloud = &world.galley.options().cloud;
        let directory = world.directory.join(format!("machine-{name}"));
        let bin = directory.join("bin");
        fs::create_dir_all(&bin)?;
        symlink(binaries()?.join("galley-node-agent"), bin.join("galley-node-agent"))?;
        fs::write(directory.join("config.toml"), CONTAINERD.replace("PAUSE", oci::PAUSE_IMAGE))?;
        fs::write(directory.join("pause.tar"), oci::pause_image())?;

        let namespace = format!("{}-{name}", cloud.prefix);
        let link = format!("{}-{name}", cloud.prefix);
        remove_network(&namespace, &link);
        let [a, b, c, _] = cloud.gateway().octets();
        let (address, bridge) = (Ipv4Addr::new(a, b, c, last_byte), cloud.bridge());
        for words in [
            format!("netns add {namespace}"),
            format!("link add {link} type veth peer name eth0 netns {namespace}"),
            format!("link set {link} master {bridge} up"),
            format!("-n {namespace} link set lo up"),
            format!("-n {namespace} addr add {address}/{} dev eth0", cloud.subnet.prefix_len()),
            format!("-n {namespace} link set eth0 up"),
            format!("-n {namespace} route add default via {}", cloud.gateway()),
        ] {
            ip(&words)?;
        }
        let boot = directory.join("boot.sh");
        fs::write(&boot, boot_script(name, &directory))?;
        let log = fs::File::create(directory.join("containerd.log"))?;
        // It dies with this test, however that ends.
        let keeper = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "nsenter"])
            .arg(format!("--net=/run/netns/{namespace}"))
            .args(["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh"])
            .arg(&boot)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut machine = Self { name: name.to_owned(), namespace, link, keeper, first: 0, directory };
        machine.first = wait::until("the machine's first process", Duration::from_secs(10), || machine.find_first())?;
        wait::until("containerd to answer", Duration::from_secs(60), || {
            if machine.keeper.try_wait()?.is_some() {
                bail!("{}", fs::read_to_string(machine.directory.join("containerd.log"))?);
            }
            let plugins = machine.run("ctr plugins ls")?;
            Ok(plugins.lines().any(|line| line.contains(" cri ") && line.trim_end().ends_with("ok")).then_some(()))
        })?;
        for image in std::iter::once(&machine.directory.join("pause.tar")).chain(images) {
            machine.run(&format!("ctr --namespace k8s.io images import {}", image.display()))?;
        }
        Ok(machine)
    }

    /// The child of `unshare`, which `setpriv` and `nsenter` became.
    fn find_first(&self) -> Result<Option<u32>> {
        let pid = self.keeper.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        Ok(children.split_whitespace().next().and_then(|child| child.parse().ok()))
    }

    /// Its name, as `hostname` prints it on it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command line that root types on the machine.
    pub fn command(&self, line: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.first.to_string(), "--mount", "--uts", "--net", "--pid", "sh", "-c", line])
            .env("PATH", format!("{}:{path}", self.directory.join("bin").display()))
            .stdin(Stdio::null());
        command
    }

    /// Types it and waits for its end.
    pub fn output(&self, line: &str) -> Result<Output> {
        Ok(self.command(line).output()?)
    }

    /// What it printed; fails when it fails.
    pub fn run(&self, line: &str) -> Result<String> {
        let output = self.output(line)?;
        ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Types it, and lets it run; it writes to `log`.
    pub fn spawn(&self, line: &str, log: &Path) -> Result<()> {
        let log = fs::File::create(log)?;
        // It ends with the machine's namespaces, and is waited for here so that no zombie stays.
        let mut child = self.command(line).stdout(log.try_clone()?).stderr(log).spawn()?;
        std::thread::spawn(move || child.wait());
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        remove_network(&self.namespace, &self.link);
        // The agent's default root.
        for class in ["/galley/besteffort", "/galley/burstable"] {
            remove_cgroups(class);
        }
    }
}

fn boot_script(name: &str, directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "set -e\n\
         hostname {name}\n\
         cp -a /etc {directory}/etc\n\
         mount --bind {directory}/etc /etc\n\
         mount -t tmpfs -o size={DISK} tmpfs /var/lib\n\
         mount -t tmpfs tmpfs /run\n\
         mkdir -p /etc/containerd /etc/cni/net.d\n\
         rm -f /etc/cni/net.d/*\n\
         cp {directory}/config.toml /etc/containerd/config.toml\n\
         exec containerd\n"
    )
}

fn ip(words: &str) -> Result<()> {
    let output = Command::new("ip").args(words.split_whitespace()).output().context("ip")?;
    ensure!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn remove_network(namespace: &str, link: &str) {
    let _ = ip(&format!("link del {link}"));
    let _ = ip(&format!("netns del {namespace}"));
}
