//! What the runtime says about one pod, in words of this crate: the agent fills it from CRI answers.

use jiff::Timestamp;

/// All sandboxes and containers that carry the pod's uid, dead ones too.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ObservedPod {
    /// Newest first (by attempt, then by creation).
    pub sandboxes: Vec<Sandbox>,
    /// In any order; use [`ObservedPod::latest`].
    pub containers: Vec<Container>,
}

/// The pod's shared namespaces.
#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    /// The runtime's id.
    pub id: String,
    /// 0 for the first sandbox of the pod.
    pub attempt: u32,
    /// Whether containers can be started in it.
    pub ready: bool,
    /// When the runtime made it.
    pub created_at: Timestamp,
    /// The pod's addresses; empty for pods in the node's network.
    pub ips: Vec<String>,
}

/// Where a container is in its life. `Created` has not run yet; `Unknown` is lost to the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    Created,
    Running,
    Exited,
    Unknown,
}

/// One container instance (one attempt of a container of the spec).
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// The runtime's id.
    pub id: String,
    /// The sandbox it was made in.
    pub sandbox_id: String,
    /// The name in the pod's spec.
    pub name: String,
    /// 0 for the first instance; the API's restartCount.
    pub attempt: u32,
    pub state: ContainerState,
    /// The image as the spec named it.
    pub image: String,
    /// The image as the runtime resolved it (a digest reference when it knows one).
    pub image_id: String,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit_code: i32,
    /// The runtime's reason (`Completed`, `Error`, `OOMKilled`, `StartError`).
    pub reason: String,
    /// The termination message, or the runtime's.
    pub message: String,
    /// [`crate::spec_hash`] of the container that this instance was made from.
    pub spec_hash: u64,
    /// Seconds to wait after this instance ends, before the next one starts. Kept on the instance, so that a restart of the
    /// agent does not forget a crash loop.
    pub restart_delay: u32,
    /// The log file on the node.
    pub log_path: String,
}

impl Container {
    /// Whether a process of this instance may exist.
    pub fn is_alive(&self) -> bool {
        match self.state {
            ContainerState::Created | ContainerState::Running | ContainerState::Unknown => true,
            ContainerState::Exited => false,
        }
    }
}

impl ObservedPod {
    /// The sandbox that counts: the newest one.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first()
    }

    /// The newest instance of a container, in any sandbox.
    pub fn latest(&self, name: &str) -> Option<&Container> {
        self.instances(name).into_iter().next()
    }

    /// The newest instance of a container in one sandbox.
    pub fn latest_in(&self, sandbox_id: &str, name: &str) -> Option<&Container> {
        self.instances(name).into_iter().find(|c| c.sandbox_id == sandbox_id)
    }

    /// All instances of a container, newest first.
    pub fn instances(&self, name: &str) -> Vec<&Container> {
        let mut found: Vec<&Container> = self.containers.iter().filter(|c| c.name == name).collect();
        found.sort_by(|a, b| (b.attempt, b.created_at, &b.id).cmp(&(a.attempt, a.created_at, &a.id)));
        found
    }

    /// Whether any process may exist.
    pub fn anything_alive(&self) -> bool {
        self.containers.iter().any(Container::is_alive)
    }
}
