//! A node's own containerd: nothing of it is shared with the machine's, if it has one.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{LocalNode, RegistryMirror};
use crate::command::run;
use crate::error::LocalError;
use crate::oci::PAUSE_IMAGE;
use crate::process::{self, Process};

/// Its first start on a busy machine takes some seconds.
const READY_LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// Where Debian, containerd's own packages and the CNI project put the plugins.
const CNI_PLUGIN_DIRS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// Paths of one node's containerd.
#[derive(Debug, Clone)]
pub struct Paths {
    pub root: PathBuf,
    pub state: PathBuf,
    pub socket: PathBuf,
    pub config: PathBuf,
    pub log: PathBuf,
    certs: PathBuf,
    pub cni_conf: PathBuf,
    runc: PathBuf,
}

impl Paths {
    pub fn new(node_dir: &Path, run_dir: &Path) -> Self {
        let base = node_dir.join("containerd");
        Self {
            root: base.join("root"),
            state: run_dir.join("containerd"),
            socket: run_dir.join("containerd.sock"),
            config: base.join("config.toml"),
            log: node_dir.join("containerd.log"),
            certs: base.join("certs.d"),
            cni_conf: node_dir.join("cni"),
            runc: run_dir.join("runc"),
        }
    }

    pub fn socket_text(&self) -> String {
        self.socket.display().to_string()
    }
}

fn cni_plugins() -> &'static str {
    let found = CNI_PLUGIN_DIRS.into_iter().find(|directory| Path::new(directory).join("bridge").exists());
    found.unwrap_or(CNI_PLUGIN_DIRS[0])
}

/// The configuration, in version 2, which containerd 1.6 to 2.x read.
fn configuration(paths: &Paths) -> String {
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    format!(
        r#"version = 2
root = {root}
state = {state}

[grpc]
  address = {socket}

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # A node inside a container or a user namespace may not lower scores.
  restrict_oom_score_adj = true
  # Pods' namespaces are mounts below our own directory, so that they are found when everything was killed.
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = {cni_conf}

  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = {certs}

  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = {runc}
"#,
        root = quoted(&paths.root),
        state = quoted(&paths.state),
        socket = quoted(&paths.socket),
        cni = cni_plugins(),
        cni_conf = quoted(&paths.cni_conf),
        certs = quoted(&paths.certs),
        runc = quoted(&paths.runc),
    )
}

fn create_dir(path: &Path) -> Result<(), LocalError> {
    std::fs::create_dir_all(path).map_err(LocalError::file(path))
}

fn write(path: &Path, text: &str) -> Result<(), LocalError> {
    if let Some(parent) = path.parent() {
        create_dir(parent)?;
    }
    std::fs::write(path, text).map_err(LocalError::file(path))
}

/// Writes the configuration; replaces the mirrors by these.
pub fn configure(paths: &Paths, mirrors: &[RegistryMirror]) -> Result<(), LocalError> {
    for directory in [&paths.root, &paths.state, &paths.cni_conf, &paths.runc] {
        create_dir(directory)?;
    }
    write(&paths.config, &configuration(paths))?;
    let _ = std::fs::remove_dir_all(&paths.certs);
    create_dir(&paths.certs)?;
    for mirror in mirrors {
        let text = format!(
            "server = \"https://{}\"\n\n[host.\"{}\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
            mirror.host, mirror.url
        );
        write(&paths.certs.join(&mirror.host).join("hosts.toml"), &text)?;
    }
    Ok(())
}

/// Starts it in the node's network and waits until it answers.
pub fn start(node: &LocalNode) -> Result<Process, LocalError> {
    let paths = node.paths();
    let arguments = node.enter(["containerd", "--config", &paths.config.display().to_string()]);
    let process = process::start("nsenter", &arguments, &paths.log)?;
    let begun = Instant::now();
    // The CRI plugin is the last to be loaded, and the socket is there before.
    while !is_ready(&paths) {
        if !process.is_alive() || begun.elapsed() > READY_LIMIT {
            process.kill();
            return Err(LocalError::Containerd { name: node.name().into(), limit: READY_LIMIT, log: paths.log });
        }
        std::thread::sleep(LOOK);
    }
    Ok(process)
}

fn is_ready(paths: &Paths) -> bool {
    let plugins = ctr(paths, &["plugins", "ls"]).unwrap_or_default();
    plugins.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(1) == Some(&"cri") && words.last() == Some(&"ok")
    })
}

/// `ctr` in the namespace of Kubernetes' images.
pub fn ctr(paths: &Paths, arguments: &[&str]) -> Result<String, LocalError> {
    let socket = paths.socket_text();
    run("ctr", &[&["--address", &socket, "--namespace", "k8s.io"], arguments].concat())
}
