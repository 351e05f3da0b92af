//! What Galley asks of a cloud, and how a cloud says no.
//!
//! A cloud is told the wanted state of one thing at a time, whole, under a name that Galley gives; telling it again changes nothing.
//! So a controller that was killed between any two steps says the same again, and finds what it made by its name.

mod instances;

use std::fmt;
use std::future::Future;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

pub use instances::{Capacity, Instance, InstanceOwner, InstanceSpec, InstanceState, Instances};

/// A Service of a cluster, which is the name of its load balancer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LoadBalancerName {
    /// As the management API prints it.
    pub cluster: String,
    pub namespace: String,
    pub service: String,
}

impl fmt::Display for LoadBalancerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.cluster, self.namespace, self.service)
    }
}

/// The transport of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// One port that clients connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listener {
    pub protocol: Protocol,
    pub port: u16,
    /// Where the nodes take it.
    pub node_port: u16,
}

/// How the balancer learns which nodes may get new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthCheck {
    /// A node is well when the port accepts a connection.
    Tcp { port: u16 },
    /// A node is well when `GET /healthz` on the port answers 200: `externalTrafficPolicy: Local`.
    Http { port: u16 },
    /// Nothing can be asked: UDP alone.
    None,
}

/// A node that takes connections.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Target {
    pub node: String,
    pub address: Ipv4Addr,
}

/// A load balancer as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancer {
    pub name: LoadBalancerName,
    pub listeners: Vec<Listener>,
    pub targets: Vec<Target>,
    pub health: HealthCheck,
    /// Who may connect; empty is everybody.
    pub source_ranges: Vec<Ipv4Net>,
    /// The address that the user asked for.
    pub wanted_address: Option<Ipv4Addr>,
}

/// Where clients find a load balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub ip: Ipv4Addr,
}

/// Why a cloud did not do what it was asked. What to do next is the variant.
#[derive(Debug, thiserror::Error)]
pub enum CloudError {
    /// There may be no more of these. Retry when something was deleted or the limit raised; the user should know.
    #[error("the quota for {what} is used up: {detail}")]
    Quota { what: &'static str, detail: String },
    /// Too many calls: retry after this time.
    #[error("the cloud asks to wait {retry_after:?}")]
    Throttled { retry_after: Duration },
    /// There is no such machine to be had there just now: try another type or zone, and this one again after a while.
    #[error("there is no capacity for {instance_type} in {place}: {detail}")]
    Capacity { instance_type: String, place: String, detail: String },
    /// Our identity may not do this: whoever runs the installation must grant it, retrying does not help.
    #[error("the cloud controller may not do `{operation}`: {detail}")]
    Unauthorized { operation: &'static str, detail: String },
    /// It is not there (any more): make it, or forget it.
    #[error("there is no {what} `{name}`")]
    NotFound { what: &'static str, name: String },
    /// It will never be done as asked; the user must change something.
    #[error("the cloud cannot do this: {detail}")]
    Invalid { detail: String },
    /// It failed, and may work later.
    #[error("the cloud failed at `{operation}`")]
    Failed {
        operation: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Load balancers of all clusters.
pub trait LoadBalancers: Send + Sync + 'static {
    /// The names of all that exist.
    fn load_balancer_list(&self) -> impl Future<Output = Result<Vec<LoadBalancerName>, CloudError>> + Send;

    /// Makes it so. The address stays the same for the life of the load balancer.
    fn load_balancer_ensure(&self, wanted: &LoadBalancer) -> impl Future<Output = Result<Address, CloudError>> + Send;

    /// Deletes it, with its address. Deleting what is not there is done already.
    fn load_balancer_delete(&self, name: &LoadBalancerName) -> impl Future<Output = Result<(), CloudError>> + Send;
}
