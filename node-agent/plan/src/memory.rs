//! What the agent remembers about a pod between two plans and may lose in a restart: failures that left no container behind,
//! probe verdicts, kills under way. Losing it costs a repeated attempt, never a container.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

/// The agent's memory of one pod.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Container name -> why its last start did not lead to a running container.
    pub failures: BTreeMap<String, Failure>,
    /// Why the last sandbox could not be made.
    pub sandbox_failure: Option<Failure>,
    /// Container id -> what its probes say. No entry: nothing known, so not started and not ready if it has probes.
    pub probes: BTreeMap<String, ProbeVerdict>,
    /// Ids of containers whose postStart hook has not returned yet.
    pub in_post_start: BTreeSet<String>,
    /// Ids of containers that are being stopped, with the time at which their grace period ends.
    pub killing: BTreeMap<String, Timestamp>,
    /// Ids of sandboxes that are being stopped.
    pub stopping_sandboxes: BTreeSet<String>,
    /// Whether the pod's volumes are mounted.
    pub volumes: VolumesState,
    /// Set when the node itself ends the pod (deadline, eviction, preemption): it stays ended.
    pub ending: Option<Ending>,
    /// The pod is gone from the API server: everything of it is to go, now.
    pub removed: bool,
    /// When this node first saw the pod; the status' startTime.
    pub seen_at: Option<Timestamp>,
}

/// Volumes come before containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum VolumesState {
    /// Not tried yet, or being mounted.
    #[default]
    Pending,
    Mounted,
    /// The last attempt's error and the time of the next one.
    Failed {
        message: String,
        retry_at: Timestamp,
    },
}

/// Why a start did not lead to a running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub reason: WaitingReason,
    pub message: String,
    /// When it failed.
    pub at: Timestamp,
    /// How often in a row.
    pub count: u32,
    /// Not before.
    pub retry_at: Timestamp,
}

/// `state.waiting.reason` for a start that failed, as kubectl users know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WaitingReason {
    ErrImagePull,
    ErrImageNeverPull,
    InvalidImageName,
    CreateContainerConfigError,
    CreateContainerError,
    RunContainerError,
    PostStartHookError,
    /// For a sandbox; containers show `ContainerCreating`.
    CreatePodSandboxError,
}

impl WaitingReason {
    /// The text in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ErrImagePull => "ErrImagePull",
            Self::ErrImageNeverPull => "ErrImageNeverPull",
            Self::InvalidImageName => "InvalidImageName",
            Self::CreateContainerConfigError => "CreateContainerConfigError",
            Self::CreateContainerError => "CreateContainerError",
            Self::RunContainerError => "RunContainerError",
            Self::PostStartHookError => "PostStartHookError",
            Self::CreatePodSandboxError => "CreatePodSandboxError",
        }
    }
}

/// What a running container's probes add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProbeVerdict {
    /// The startup probe succeeded, or there is none.
    pub started: bool,
    /// The readiness probe's last verdict, or true where there is none.
    pub ready: bool,
    /// A liveness or startup probe failed for good: the message for the kill event.
    pub failed: Option<String>,
}

/// Why the node ends a pod by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// `status.reason`: `DeadlineExceeded`, `Evicted`.
    pub reason: String,
    pub message: String,
    /// Overrides the pod's own grace period, in seconds.
    pub grace: Option<i64>,
    pub at: Timestamp,
}
