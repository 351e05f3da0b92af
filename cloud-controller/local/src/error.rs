//! What can go wrong with a local node.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

/// Why a local node could not be started, stopped or looked at.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Network namespaces, mounts and cgroups are root's.
    #[error("nodes on this machine need root")]
    NotRoot,
    /// The name cannot be one of a Node.
    #[error("`{name}` cannot be the name of a node: use lower-case letters, digits and hyphens, at most 40")]
    Name { name: String },
    /// No such node was started.
    #[error("there is no node `{name}`")]
    Unknown { name: String },
    /// The subnet is used up.
    #[error("the subnet {subnet} has no address left")]
    NoAddress { subnet: String },
    /// A file could not be read or written.
    #[error("{} cannot be used", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// What is remembered of a node cannot be read.
    #[error("{} is damaged", path.display())]
    Record {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// A program is not installed, or cannot be run.
    #[error("`{program}` cannot be started; is it installed?")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("`{command}` failed: {stderr}")]
    Command { command: String, stderr: String },
    /// containerd ended or did not answer in time.
    #[error("containerd of node `{name}` did not become ready in {limit:?}; its log is {}", log.display())]
    Containerd { name: String, limit: Duration, log: PathBuf },
    /// The agent ended at once.
    #[error("the agent of node `{name}` ended at once; its log is {} and ends with: {last}", log.display())]
    Agent { name: String, log: PathBuf, last: String },
    /// A process does not go, even killed.
    #[error("process {pid} of node `{name}` does not end")]
    Stuck { name: String, pid: i32 },
    /// A load balancer's listener cannot be opened.
    #[error("a load balancer cannot listen on {address}:{port}")]
    Listen {
        address: Ipv4Addr,
        port: u16,
        #[source]
        source: io::Error,
    },
}

impl LocalError {
    /// For `map_err` on a file's operations.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::File { path, source }
    }
}
