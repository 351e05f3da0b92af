//! A node on this machine, from nothing to running and back to nothing.
//!
//! ```text
//!            start                          kill (tests)
//!  (nothing) ─────► running ──────────────────────────► dead
//!      ▲              │ stop                              │ stop, start
//!      └── delete ── stopped ◄────────────────────────────┘
//! ```
//!
//! `start` makes what is not there and leaves alone what is, so it also repairs; `stop` finds what is there, however it came to
//! be, and takes it away: no process, mount, namespace, link or cgroup is left. The node's disk (images, the agent's certificate)
//! stays until `delete`, as a machine's does over a reboot.

mod containerd;

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::LocalCloud;
use crate::error::LocalError;
use crate::process::{self, Process};
use crate::{network, oci, remains};
use containerd::Paths;

/// How long the agent may take to end: it has nothing to wait for, containers go on without it.
const AGENT_GRACE: Duration = Duration::from_secs(5);
const CONTAINERD_GRACE: Duration = Duration::from_secs(5);
/// An agent with wrong arguments ends at once.
const AGENT_SETTLED: Duration = Duration::from_millis(300);
/// Addresses of nodes start here: those below are left for what else is on the bridge.
const FIRST_ADDRESS: u32 = 11;

/// Where images of one registry are fetched from instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryMirror {
    /// `docker.io`, `registry.k8s.io`; `_default` for all others.
    pub host: String,
    pub url: String,
}

impl std::str::FromStr for RegistryMirror {
    type Err = MirrorError;

    fn from_str(text: &str) -> Result<Self, MirrorError> {
        match text.split_once('=') {
            Some((host, url)) if !host.is_empty() && !host.contains('/') && url.contains("://") => {
                Ok(Self { host: host.into(), url: url.into() })
            }
            _ => Err(MirrorError { text: text.into() }),
        }
    }
}

/// The text is no mirror.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not HOST=URL")]
pub struct MirrorError {
    text: String,
}

/// What a node is started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// The name of its Node.
    pub name: String,
    /// The program `galley-node-agent`. `None` starts only containerd.
    pub agent: Option<PathBuf>,
    /// What the agent is told: `join --server … --token … --ca-hash …`. The node's own name, address and directories are added.
    pub agent_arguments: Vec<String>,
    pub registry_mirrors: Vec<RegistryMirror>,
    /// Image archives that the node has from the start, beside the pause image.
    pub images: Vec<PathBuf>,
}

/// What is remembered of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    spec: NodeSpec,
    address: Ipv4Addr,
    containerd: Option<Process>,
    agent: Option<Process>,
}

/// Whether a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    Running,
    /// Some of its processes run.
    Degraded,
    Stopped,
}

/// A node that was started.
#[derive(Debug, Clone)]
pub struct LocalNode {
    cloud: LocalCloud,
    record: Record,
}

impl LocalNode {
    /// Starts a node, or what is missing of it. A node that runs with another spec keeps running with it; the new one counts from
    /// the next start on.
    ///
    /// Returns when containerd answers and the agent runs; whether the agent could join is in its log, and in the cluster.
    pub fn start(cloud: &LocalCloud, spec: NodeSpec) -> Result<Self, LocalError> {
        if !rustix::process::geteuid().is_root() {
            return Err(LocalError::NotRoot);
        }
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if spec.name.is_empty() || spec.name.len() > 40 || !spec.name.bytes().all(good) {
            return Err(LocalError::Name { name: spec.name });
        }
        std::fs::create_dir_all(&cloud.state_dir).map_err(LocalError::file(&cloud.state_dir))?;
        // Two nodes that are started at one time must not choose the same address. Released when the file is closed.
        let lock_path = cloud.state_dir.join("lock");
        let lock = File::create(&lock_path).map_err(LocalError::file(&lock_path))?;
        lock.lock().map_err(LocalError::file(&lock_path))?;
        network::ensure_bridge(cloud)?;
        let record = match Self::open(cloud, &spec.name) {
            Ok(known) => Record { spec, ..known.record },
            Err(LocalError::Unknown { .. }) => {
                let address = free_address(cloud)?;
                Record { spec, address, containerd: None, agent: None }
            }
            Err(error) => return Err(error),
        };
        let mut node = Self { cloud: cloud.clone(), record };
        node.save()?;
        drop(lock);
        if node.state() == NodeState::Running {
            network::ensure_node(cloud, node.name(), node.address())?;
            return Ok(node);
        }
        if !node.containerd_runs() {
            // Shims of an earlier life would hold on to what the new containerd is about to make.
            node.clear()?;
        }
        network::ensure_node(cloud, node.name(), node.address())?;
        if !node.containerd_runs() {
            containerd::configure(&node.paths(), &node.record.spec.registry_mirrors)?;
            node.record.containerd = Some(containerd::start(&node)?);
            node.save()?;
        }
        node.import_image(&oci::pause_image())?;
        for image in node.record.spec.images.clone() {
            node.import_image_file(&image)?;
        }
        node.start_agent()?;
        Ok(node)
    }

    /// A node that was started before.
    pub fn open(cloud: &LocalCloud, name: &str) -> Result<Self, LocalError> {
        let path = cloud.node_dir(name).join("node.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(LocalError::Unknown { name: name.into() });
            }
            Err(source) => return Err(LocalError::File { path, source }),
        };
        let record = serde_json::from_slice(&text).map_err(|source| LocalError::Record { path, source })?;
        Ok(Self { cloud: cloud.clone(), record })
    }

    /// All nodes of a cloud.
    pub fn list(cloud: &LocalCloud) -> Result<Vec<Self>, LocalError> {
        cloud.nodes().iter().map(|name| Self::open(cloud, name)).collect()
    }

    pub fn name(&self) -> &str {
        &self.record.spec.name
    }

    /// Its InternalIP.
    pub fn address(&self) -> Ipv4Addr {
        self.record.address
    }

    /// The agent's log.
    pub fn agent_log(&self) -> PathBuf {
        self.dir().join("agent.log")
    }

    /// Where the agent keeps its certificate and pods' volumes.
    pub fn agent_data_dir(&self) -> PathBuf {
        self.dir().join("agent")
    }

    /// containerd's socket.
    pub fn containerd_socket(&self) -> PathBuf {
        self.paths().socket
    }

    pub fn state(&self) -> NodeState {
        let agent = self.record.spec.agent.is_none() || self.record.agent.is_some_and(Process::is_alive);
        match (self.containerd_runs(), agent) {
            (true, true) => NodeState::Running,
            (false, false) => NodeState::Stopped,
            (false, true) if self.record.spec.agent.is_none() => NodeState::Stopped,
            _ => NodeState::Degraded,
        }
    }

    /// A command line that runs `command` in the node's network: arguments for `nsenter`.
    pub fn enter<'a>(&self, command: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let namespace = network::namespace_path(&self.cloud, self.name());
        std::iter::once(format!("--net={}", namespace.display())).chain(command.into_iter().map(Into::into)).collect()
    }

    /// Puts an image archive into the node's containerd.
    pub fn import_image(&self, archive: &[u8]) -> Result<(), LocalError> {
        let path = self.dir().join("image.tar");
        std::fs::write(&path, archive).map_err(LocalError::file(&path))?;
        let imported = self.import_image_file(&path);
        let _ = std::fs::remove_file(&path);
        imported
    }

    /// Puts an image archive into the node's containerd.
    pub fn import_image_file(&self, archive: &Path) -> Result<(), LocalError> {
        let archive = archive.display().to_string();
        containerd::ctr(&self.paths(), &["images", "import", &archive]).map(drop)
    }

    /// Ends the agent and starts it again; containers go on.
    pub fn restart_agent(&mut self) -> Result<(), LocalError> {
        self.stop_agent()?;
        self.start_agent()
    }

    /// Ends the agent; containers go on.
    pub fn stop_agent(&mut self) -> Result<(), LocalError> {
        if let Some(agent) = self.record.agent.take() {
            agent.stop(self.name(), AGENT_GRACE)?;
        }
        self.save()
    }

    /// Starts the agent if it does not run.
    pub fn start_agent(&mut self) -> Result<(), LocalError> {
        let Some(program) = self.record.spec.agent.clone() else { return Ok(()) };
        if self.record.agent.is_some_and(Process::is_alive) {
            return Ok(());
        }
        let paths = self.paths();
        let data_dir = self.agent_data_dir();
        std::fs::create_dir_all(&data_dir).map_err(LocalError::file(&data_dir))?;
        let own = [
            ("--node-name", self.name().to_owned()),
            ("--node-ip", self.address().to_string()),
            ("--data-dir", data_dir.display().to_string()),
            ("--cri-socket", format!("unix://{}", paths.socket_text())),
            ("--cni-conf-dir", paths.cni_conf.display().to_string()),
            ("--cgroup-root", self.cloud.cgroup_root(self.name())),
            // The disk is the developer's, and imported images cannot be fetched again.
            ("--image-gc-high-threshold-percent", "100".to_owned()),
            ("--eviction-hard-nodefs-percent", "0".to_owned()),
        ];
        let program = program.display().to_string();
        let mut arguments = self.enter([program.as_str()]);
        arguments.extend(self.record.spec.agent_arguments.iter().cloned());
        arguments.extend(own.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
        let log = self.agent_log();
        let agent = process::start("nsenter", &arguments, &log)?;
        self.record.agent = Some(agent);
        self.save()?;
        std::thread::sleep(AGENT_SETTLED);
        if agent.is_alive() {
            return Ok(());
        }
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let last = text.lines().rev().take(3).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("; ");
        Err(LocalError::Agent { name: self.name().into(), log, last })
    }

    /// The node loses its power: everything in it dies at once, and nobody is told.
    pub fn kill(&self) -> Result<(), LocalError> {
        network::unplug(&self.cloud, self.address());
        self.kill_processes()
    }

    /// Stops the node and takes away what it made on this machine. Safe to repeat, and after any crash.
    pub fn stop(&mut self) -> Result<(), LocalError> {
        self.stop_agent()?;
        self.clear()?;
        network::remove_node(&self.cloud, self.name(), self.address());
        self.save()
    }

    /// Stops the node and deletes its disk. The next node of this name is a new one.
    pub fn delete(mut self) -> Result<(), LocalError> {
        self.stop()?;
        let dir = self.dir();
        std::fs::remove_dir_all(&dir).map_err(LocalError::file(dir))
    }

    fn dir(&self) -> PathBuf {
        self.cloud.node_dir(self.name())
    }

    fn run_dir(&self) -> PathBuf {
        self.cloud.node_run_dir(self.name())
    }

    fn paths(&self) -> Paths {
        Paths::new(&self.dir(), &self.run_dir())
    }

    fn containerd_runs(&self) -> bool {
        self.record.containerd.is_some_and(Process::is_alive)
    }

    /// Everything of this node that runs, also what no record knows.
    fn processes(&self) -> Vec<Process> {
        let socket = self.paths().socket_text();
        let config = self.paths().config.display().to_string();
        let data_dir = self.agent_data_dir().display().to_string();
        process::find(|words| {
            let program = words.first().and_then(|word| word.rsplit('/').next()).unwrap_or_default();
            match program {
                // Containers are children of their shims.
                program if program.starts_with("containerd-shim") => words.contains(&socket.as_str()),
                "containerd" => words.contains(&config.as_str()),
                "nsenter" | "setsid" => words.contains(&config.as_str()) || words.contains(&data_dir.as_str()),
                _ => words.contains(&"--data-dir") && words.contains(&data_dir.as_str()),
            }
        })
    }

    fn kill_processes(&self) -> Result<(), LocalError> {
        // A shim may be starting another process at this moment, so look until there is nothing.
        loop {
            let found = self.processes();
            if found.is_empty() {
                return Ok(());
            }
            found.iter().for_each(|process| process.kill());
            found.iter().try_for_each(|process| process.expect_end(self.name()))?;
        }
    }

    /// Ends everything that runs and removes its remains, but keeps the network and the disk.
    fn clear(&mut self) -> Result<(), LocalError> {
        if let Some(containerd) = self.record.containerd.take() {
            containerd.stop(self.name(), CONTAINERD_GRACE)?;
        }
        self.record.agent = None;
        self.kill_processes()?;
        remove_shim_sockets(&self.paths().state);
        remains::unmount_below(&self.run_dir());
        remains::unmount_below(&self.dir());
        remains::remove_cgroups(&self.cloud.cgroup_root(self.name()));
        let run_dir = self.run_dir();
        match std::fs::remove_dir_all(&run_dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(LocalError::File { path: run_dir, source: error });
            }
            _ => {}
        }
        // Refused while other nodes are there.
        let _ = std::fs::remove_dir(&self.cloud.run_dir);
        Ok(())
    }

    fn save(&self) -> Result<(), LocalError> {
        let path = self.dir().join("node.json");
        let text = serde_json::to_vec_pretty(&self.record)
            .map_err(|source| LocalError::Record { path: path.clone(), source })?;
        crate::file::write_atomically(&path, &text).map_err(LocalError::file(&path))
    }
}

/// Shims listen outside of the node's directory, under names that only their own files tell.
fn remove_shim_sockets(state: &Path) {
    let tasks = state.join("io.containerd.runtime.v2.task").join("k8s.io");
    for task in std::fs::read_dir(tasks).into_iter().flatten().filter_map(Result::ok) {
        let address = std::fs::read_to_string(task.path().join("address")).unwrap_or_default();
        if let Some(socket) = address.trim().strip_prefix("unix://") {
            let _ = std::fs::remove_file(socket);
        }
    }
}

fn free_address(cloud: &LocalCloud) -> Result<Ipv4Addr, LocalError> {
    let taken: Vec<Ipv4Addr> = LocalNode::list(cloud)?.iter().map(LocalNode::address).collect();
    let first = u32::from(cloud.subnet.network()).saturating_add(FIRST_ADDRESS);
    (first..u32::from(cloud.subnet.broadcast()))
        .map(Ipv4Addr::from)
        .find(|address| !taken.contains(address) && *address != cloud.gateway())
        .ok_or_else(|| LocalError::NoAddress { subnet: cloud.subnet.to_string() })
}

/// Stops all nodes of a cloud and removes its bridge; with `purge` also the nodes' disks.
pub fn stop_all(cloud: &LocalCloud, purge: bool) -> Result<(), LocalError> {
    for mut node in LocalNode::list(cloud)? {
        if purge { node.delete()? } else { node.stop()? }
    }
    network::remove_bridge(cloud);
    Ok(())
}
