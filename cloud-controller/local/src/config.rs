//! What belongs to one local cloud, so that several can live on one machine without touching each other.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// Linux cuts link names at 15 bytes.
const LINK_NAME: usize = 15;

/// One local cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalCloud {
    /// Starts the names of everything that it makes: `galley` gives the bridge `galley0` and the namespaces `galley-<node>`.
    pub prefix: String,
    /// The bridge's address and range; nodes take addresses from it.
    pub subnet: Ipv4Net,
    /// Where LoadBalancer Services get their addresses. Outside of `subnet`.
    pub balancers: Ipv4Net,
    /// Disks of nodes, logs, and what is remembered of them.
    pub state_dir: PathBuf,
    /// Sockets and what need not outlive a boot. A short path: sockets' paths end at 107 bytes.
    pub run_dir: PathBuf,
}

impl LocalCloud {
    /// The defaults: `galley0`, 10.89.0.1/24, 10.89.255.0/24.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self::of_prefix("galley", 89, state_dir)
    }

    /// A cloud apart from others: names start with `prefix` (at most 8 bytes), addresses are 10.`network`.0.0/16.
    pub fn of_prefix(prefix: &str, network: u8, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            prefix: prefix.into(),
            subnet: Ipv4Net::new_assert(Ipv4Addr::new(10, network, 0, 1), 24),
            balancers: Ipv4Net::new_assert(Ipv4Addr::new(10, network, 255, 0), 24),
            state_dir: state_dir.into(),
            run_dir: Path::new("/run/galley").join(prefix),
        }
    }

    /// The arguments that tell `galley-cloud-controller` which cloud it is.
    pub fn arguments(&self) -> Vec<String> {
        let pairs = [
            ("--state-dir", self.state_dir.display().to_string()),
            ("--prefix", self.prefix.clone()),
            ("--subnet", self.subnet.to_string()),
            ("--balancers", self.balancers.to_string()),
        ];
        pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    /// The bridge on this machine.
    pub fn bridge(&self) -> String {
        let mut name = format!("{}0", self.prefix);
        name.truncate(LINK_NAME);
        name
    }

    /// This machine's address for the nodes.
    pub fn gateway(&self) -> Ipv4Addr {
        self.subnet.addr()
    }

    /// A node's network namespace, as `ip netns` calls it.
    pub fn namespace(&self, node: &str) -> String {
        format!("{}-{node}", self.prefix)
    }

    /// This machine's end of the link to the node with this address.
    pub(crate) fn link(&self, address: Ipv4Addr) -> String {
        let prefix: String = self.prefix.chars().take(8).collect();
        format!("{prefix}-{}", u32::from(address) & !u32::from(self.subnet.netmask()))
    }

    /// The cgroup that all containers of a node are in.
    pub fn cgroup_root(&self, node: &str) -> String {
        format!("/{}/{node}", self.prefix)
    }

    /// Where a node keeps everything that outlives its stop.
    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.state_dir.join("nodes").join(node)
    }

    pub(crate) fn node_run_dir(&self, node: &str) -> PathBuf {
        self.run_dir.join(node)
    }

    /// The nftables table on this machine.
    pub(crate) fn table(&self) -> String {
        format!("galley-local-{}", self.prefix)
    }

    /// The names of all nodes that were started and not deleted.
    pub fn nodes(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.state_dir.join("nodes")) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.path().join("node.json").exists())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }
}
