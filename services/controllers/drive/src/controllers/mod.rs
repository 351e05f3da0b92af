//! The controllers: one file each.

use crate::controller::Controller;

mod deployment;
mod endpoints;
mod garbage;
mod nodes;
mod pod_gc;
mod replica_set;
mod scheduler;
mod service_account;

/// All controllers, new.
pub fn all() -> Vec<Box<dyn Controller>> {
    let mut all: Vec<Box<dyn Controller>> =
        vec![Box::new(deployment::Deployments), Box::new(replica_set::ReplicaSets), Box::new(garbage::Garbage)];
    all.extend(upkeep());
    all
}

/// Those that look after the cluster itself: its nodes, namespaces, addresses and placement.
fn upkeep() -> Vec<Box<dyn Controller>> {
    vec![
        Box::<scheduler::Scheduler>::default(),
        Box::new(service_account::ServiceAccounts),
        Box::new(service_account::RootCa),
        Box::<endpoints::Endpoints>::default(),
        Box::new(endpoints::EndpointsMirror),
        Box::new(nodes::NodeIpam),
        Box::<nodes::NodeLifecycle>::default(),
        Box::<nodes::TaintEviction>::default(),
        Box::<pod_gc::PodGc>::default(),
    ]
}
