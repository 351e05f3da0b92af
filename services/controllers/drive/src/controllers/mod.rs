//! The controllers: one file each.

use crate::controller::Controller;

mod deployment;
mod garbage;
mod replica_set;

/// All controllers, new.
pub fn all() -> Vec<Box<dyn Controller>> {
    vec![Box::new(deployment::Deployments), Box::new(replica_set::ReplicaSets), Box::new(garbage::Garbage)]
}
