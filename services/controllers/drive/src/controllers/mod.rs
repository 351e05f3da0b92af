//! The controllers: one file each.

use crate::controller::Controller;

mod cluster_role;
mod cron_job;
mod daemon_set;
mod deployment;
mod disruption;
mod endpoints;
mod garbage;
mod job;
mod kubernetes_service;
mod namespace;
mod nodes;
mod pod_gc;
mod quota;
mod replica_set;
mod replication_controller;
mod scheduler;
mod service_account;
mod stateful_set;
mod volume_binding;

/// All controllers, new.
pub fn all() -> Vec<Box<dyn Controller>> {
    let mut all: Vec<Box<dyn Controller>> = vec![
        Box::new(deployment::Deployments),
        Box::new(replica_set::ReplicaSets),
        Box::new(replication_controller::ReplicationControllers),
        Box::new(daemon_set::DaemonSets),
        Box::new(stateful_set::StatefulSets),
        Box::new(job::Jobs),
        Box::new(job::TimeToLive),
        Box::new(cron_job::CronJobs),
        Box::new(garbage::Garbage),
    ];
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
        Box::new(kubernetes_service::KubernetesService),
        Box::new(nodes::NodeIpam),
        Box::<nodes::NodeLifecycle>::default(),
        Box::<nodes::TaintEviction>::default(),
        Box::<pod_gc::PodGc>::default(),
        Box::<namespace::Namespaces>::default(),
        Box::new(disruption::Disruption),
        Box::<quota::Quotas>::default(),
        Box::<cluster_role::ClusterRoles>::default(),
        Box::new(volume_binding::VolumeBinding),
    ]
}
