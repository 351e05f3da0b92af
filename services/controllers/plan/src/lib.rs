//! What controllers decide, without doing it: observed objects in, a [`Plan`] of actions out, each with a typed reason, also
//! for 'nothing, because ...'.
//!
//! Pure: `now` is a parameter, names that matter are computed here, and a plan made twice from the same observation is the
//! same. A plan is made from what is true and never from what was planned before, so a controller may be killed between any
//! two writes. Tests step a [`world`](crate) until it is quiet and assert that planning again is empty.
//!
//! One module for each controller: an `Observed` struct, a `Reason` enum, a function `plan`. The IO around it is in
//! `galley-controllers-drive`, whose crate documentation says how to add a controller.

pub mod action;
pub mod cluster_role;
pub mod cron_job;
pub mod daemon_set;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod garbage;
pub mod job;
pub mod kubernetes_service;
pub mod meta;
pub mod namespace;
pub mod node_fit;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod pod;
pub mod pod_gc;
pub mod quota;
pub mod replica_set;
pub mod replicas;
pub mod replication_controller;
pub mod revisions;
pub mod root_ca;
pub mod service_account;
pub mod stateful_set;
pub mod taint_eviction;
pub mod template;
pub mod time;
pub mod ttl;
pub mod volume_binding;
#[cfg(test)]
pub mod world;

pub use action::{Action, FailedVerb, Failure, Note, PatchForm, Plan, Propagation, Severity, Verb};
