//! Which pods there are, and who looks after each.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use galley_node_cri::{Inventory, PodIdentity};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use tokio::sync::{mpsc, watch};

use super::worker::{Intent, Message, Worker};
use super::{Host, PodTable};
use crate::watching::Set;

/// How often the runtime is asked what has changed. Containers that end are seen after half of it on average.
const LOOK: Duration = Duration::from_millis(500);

struct Handle {
    intent: watch::Sender<Intent>,
    messages: mpsc::UnboundedSender<Message>,
}

pub(crate) struct Manager {
    host: Arc<Host>,
    table: PodTable,
    workers: HashMap<String, Handle>,
    inventory: Inventory,
    done_tx: mpsc::UnboundedSender<String>,
    done_rx: mpsc::UnboundedReceiver<String>,
}

impl Manager {
    pub(crate) fn new(host: Arc<Host>, table: PodTable) -> Self {
        let (done_tx, done_rx) = mpsc::unbounded_channel();
        Self { host, table, workers: HashMap::new(), inventory: Inventory::default(), done_tx, done_rx }
    }

    /// Nothing is started or removed before the API server's list of pods is known.
    pub(crate) async fn run(mut self, mut pods: watch::Receiver<Set<Pod>>) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = pods.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let set = pods.borrow_and_update().clone();
                    if let Some(set) = set {
                        self.assign(&set);
                    }
                }
                Some(uid) = self.done_rx.recv() => {
                    self.workers.remove(&uid);
                    // A pod that the API server still has (its deletion was not seen yet) gets a worker again at the next change.
                }
                _ = ticks.tick() => {
                    let listed = pods.borrow().clone();
                    if let Some(listed) = listed {
                        self.look(&listed).await;
                    }
                }
            }
        }
    }

    fn assign(&mut self, pods: &[Arc<Pod>]) {
        let mut seen = HashSet::new();
        for pod in pods {
            let Some(uid) = pod.metadata.uid.clone() else { continue };
            seen.insert(uid.clone());
            self.give(uid, Intent { pod: Arc::clone(pod), removed: false });
        }
        for (uid, handle) in &self.workers {
            if !seen.contains(uid) {
                handle.intent.send_if_modified(|intent| !std::mem::replace(&mut intent.removed, true));
            }
        }
    }

    fn give(&mut self, uid: String, intent: Intent) {
        if let Some(handle) = self.workers.get(&uid) {
            handle.intent.send_if_modified(|old| {
                let version = |i: &Intent| (i.pod.metadata.resource_version.clone(), i.removed);
                let changed = version(old) != version(&intent);
                *old = intent.clone();
                changed
            });
            return;
        }
        // A pod that has ended and left nothing here needs nobody: its status is with the API server.
        if galley_node_plan::is_terminal(&intent.pod)
            && intent.pod.metadata.deletion_timestamp.is_none()
            && !self.inventory.0.contains_key(&uid)
            && !self.host.pods_dir.join(&uid).exists()
        {
            return;
        }
        let (intent_tx, intent_rx) = watch::channel(intent);
        let (messages, inbox) = mpsc::unbounded_channel();
        let worker =
            Worker::new(uid.clone(), Arc::clone(&self.host), self.table.clone(), intent_rx, messages.clone(), inbox);
        let done = self.done_tx.clone();
        let of = uid.clone();
        tokio::spawn(async move {
            worker.run().await;
            let _ = done.send(of);
        });
        self.workers.insert(uid, Handle { intent: intent_tx, messages });
    }

    /// Wakes workers whose containers changed, and gives what the API server does not know to one that removes it.
    async fn look(&mut self, listed: &[Arc<Pod>]) {
        let inventory = match self.host.cri.inventory().await {
            Ok(inventory) => inventory,
            Err(error) => return tracing::debug!(error = error.message(), "the runtime does not answer"),
        };
        for uid in inventory.changed(&self.inventory) {
            if let Some(handle) = self.workers.get(uid) {
                let _ = handle.messages.send(Message::Look);
            }
        }
        let known: HashSet<&str> = listed.iter().filter_map(|p| p.metadata.uid.as_deref()).collect();
        let orphans: Vec<PodIdentity> = inventory
            .0
            .values()
            .filter(|seen| {
                !known.contains(seen.identity.uid.as_str()) && !self.workers.contains_key(&seen.identity.uid)
            })
            .map(|seen| seen.identity.clone())
            .collect();
        self.inventory = inventory;
        for orphan in orphans {
            tracing::info!(
                namespace = orphan.namespace,
                pod = orphan.name,
                "removing a pod that the cluster does not have"
            );
            let uid = orphan.uid.clone();
            self.give(uid, Intent { pod: Arc::new(forgotten(orphan)), removed: true });
        }
    }
}

/// A pod of which only the name is known.
fn forgotten(identity: PodIdentity) -> Pod {
    let mut pod = Pod { spec: Some(PodSpec::default()), ..Pod::default() };
    pod.metadata.name = Some(identity.name);
    pod.metadata.namespace = Some(identity.namespace);
    pod.metadata.uid = Some(identity.uid);
    pod
}
