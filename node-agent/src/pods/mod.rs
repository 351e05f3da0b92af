//! The node's pods: one worker task for each, woken by changes of the pod, of its containers, and by time.
//!
//! ```text
//!  watch of pods ─> Manager ─ one watch::Sender for each pod ─> Worker: observe ─> plan ─> apply ─┐
//!  inventory each second ─> Manager ─ wakes workers whose containers changed ──────────────────────┤
//!  probes, kills, hooks: tasks that tell the worker what came of it ───────────────────────────────┘
//! ```

mod apply;
mod hooks;
mod kill;
mod manager;
mod probes;
mod report;
mod sources;
mod start;
mod worker;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use galley_node_cri::Cri;
use galley_node_cri::cgroup::Cgroups;
use galley_node_plan::downward::RuntimeFacts;
use galley_node_plan::{NodeFacts, ObservedPod};
use k8s_openapi::api::core::v1::{Pod, Service};
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::events::Events;
use crate::node::Machine;
use crate::watching::Set;

pub(crate) use manager::Manager;
pub(crate) use report::is_own as is_node_condition;
pub(crate) use worker::Message;

/// What every pod's worker needs of its node.
pub(crate) struct Host {
    pub(crate) node: String,
    pub(crate) ips: Vec<String>,
    pub(crate) data_dir: PathBuf,
    pub(crate) pods_dir: PathBuf,
    pub(crate) logs_dir: PathBuf,
    pub(crate) machine: Machine,
    pub(crate) cri: Cri,
    pub(crate) cgroups: Cgroups,
    pub(crate) client: kube::Client,
    pub(crate) events: Events,
    pub(crate) services: watch::Receiver<Set<Service>>,
    pub(crate) cluster_dns: Vec<String>,
    pub(crate) cluster_domain: String,
    /// Unused images go when more than this share of the disk is used.
    pub(crate) image_gc_percent: u64,
    /// Pods go when less than this share of the disk is free.
    pub(crate) eviction_disk_percent: u64,
}

impl Host {
    fn facts(&self) -> NodeFacts {
        NodeFacts { ips: self.ips.clone() }
    }

    fn runtime_facts(&self, observed: &ObservedPod, host_network: bool) -> RuntimeFacts {
        let sandbox_ips = observed.sandbox().map(|s| s.ips.clone()).unwrap_or_default();
        RuntimeFacts {
            host_ips: self.ips.clone(),
            pod_ips: if host_network { self.ips.clone() } else { sandbox_ips },
            node_milli_cpu: self.machine.cpus * 1000,
            node_memory: self.machine.memory,
            node_ephemeral_storage: self.machine.disk,
        }
    }
}

/// A pod as its worker last saw it, for the kubelet handler and the garbage collector.
#[derive(Debug, Clone)]
pub(crate) struct PodEntry {
    pub(crate) pod: Arc<Pod>,
    pub(crate) observed: ObservedPod,
    pub(crate) messages: tokio::sync::mpsc::UnboundedSender<Message>,
}

/// All pods of the node, by uid.
#[derive(Debug, Clone, Default)]
pub(crate) struct PodTable(Arc<RwLock<HashMap<String, PodEntry>>>);

impl PodTable {
    fn set(&self, uid: &str, entry: PodEntry) {
        self.0.write().insert(uid.to_owned(), entry);
    }

    fn remove(&self, uid: &str) {
        self.0.write().remove(uid);
    }

    /// The pod with this name; while one is replaced by another of its name, the newer one.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<PodEntry> {
        let table = self.0.read();
        let named = table.values().filter(|e| {
            let meta = &e.pod.metadata;
            meta.namespace.as_deref() == Some(namespace) && meta.name.as_deref() == Some(name)
        });
        named.max_by_key(|e| e.pod.metadata.creation_timestamp.clone()).cloned()
    }

    pub(crate) fn all(&self) -> Vec<PodEntry> {
        self.0.read().values().cloned().collect()
    }
}
