//! Machines of a cloud that are to become nodes.
//!
//! A machine is asked for under a claim: a name that is stored before the cloud hears of it, and that is both the call's idempotency
//! token and a tag of the machine. So an answer that was lost is asked for again, and gives the same machine; and a machine that
//! exists without a claim is known to be nobody's.

use std::fmt;
use std::future::Future;

use serde::{Deserialize, Serialize};

use crate::CloudError;

/// The node group of a cluster that a machine is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceOwner {
    /// As the management API prints it.
    pub cluster: String,
    /// The name of the NodeGroup.
    pub group: String,
}

impl fmt::Display for InstanceOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.group)
    }
}

/// How a machine is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capacity {
    OnDemand,
    /// Cheaper; the cloud takes it back when it likes.
    Spot,
}

/// A machine as it should be. Everything is decided: the cloud is left no choice that a repetition could make differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSpec {
    pub owner: InstanceOwner,
    /// At most 64 printable ASCII characters, never used for another machine.
    pub claim: String,
    /// What people see it called.
    pub display_name: String,
    pub image: String,
    pub instance_type: String,
    pub capacity: Capacity,
    pub subnet: String,
    pub security_groups: Vec<String>,
    /// The name of the role that the machine may act as.
    pub instance_profile: Option<String>,
    /// The size of the root disk; as the image says if left out.
    pub disk_gib: Option<i32>,
    /// What runs at the first boot; at most 16 KiB on AWS.
    pub user_data: String,
}

/// How far a machine's life is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum InstanceState {
    Pending,
    Running,
    /// On its way to `Terminated` or to a halt.
    Stopping,
    /// Halted, but there: costs its disk, and never runs again as a node.
    Stopped,
    Terminated,
}

impl InstanceState {
    /// Whether it is, or will by itself be, a machine that can be a node.
    pub fn is_alive(self) -> bool {
        match self {
            Self::Pending | Self::Running => true,
            Self::Stopping | Self::Stopped | Self::Terminated => false,
        }
    }
}

/// A machine as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub id: String,
    pub owner: InstanceOwner,
    pub claim: String,
    pub state: InstanceState,
    pub instance_type: String,
    pub zone: String,
    /// For the Node's `spec.providerID`.
    pub provider_id: String,
}

/// Machines of all clusters.
pub trait Instances: Send + Sync + 'static {
    /// All machines of this installation that are not terminated. One that was launched a moment ago may be missing still.
    fn instance_list(&self) -> impl Future<Output = Result<Vec<Instance>, CloudError>> + Send;

    /// Starts the machine of a claim, or answers with the one that was started for it.
    fn instance_launch(&self, spec: &InstanceSpec) -> impl Future<Output = Result<Instance, CloudError>> + Send;

    /// Ends a machine, and its disk. Ending what is not there is done already.
    fn instance_terminate(&self, id: &str) -> impl Future<Output = Result<(), CloudError>> + Send;
}
