//! What the controllers' driver hears: every cluster's changes on one channel, so that no cluster needs a task of its own.

use std::sync::Arc;

use galley_types::ClusterId;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::cluster::{ClusterStore, Loaded};
use crate::watch::Event;

/// Something that controllers may have to act on.
#[derive(Debug, Clone)]
pub enum Notice {
    /// A cluster was loaded: look at all of it, and say when you are settled, or the cluster stays in memory.
    Loaded(Arc<ClusterStore>),
    /// Committed changes of a loaded cluster, in order, each exactly once after its `Loaded`.
    Changed(Arc<ClusterStore>, Arc<[Arc<Event>]>),
    /// A cluster was unloaded, deleted, or its shard was lost: drop what you hold of it. Writes to it are refused.
    Unloaded(ClusterId),
}

#[derive(Debug, Default)]
pub(crate) struct Notices {
    listeners: Mutex<Vec<mpsc::UnboundedSender<Notice>>>,
}

impl Notices {
    /// `loaded` is asked under the same lock as `loaded` publishes: no cluster falls between the two.
    pub(crate) fn subscribe(&self, loaded: impl FnOnce() -> Vec<Arc<ClusterStore>>) -> mpsc::UnboundedReceiver<Notice> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut listeners = self.listeners.lock();
        for cluster in loaded() {
            let _ = sender.send(Notice::Loaded(cluster));
        }
        listeners.push(sender);
        receiver
    }

    /// Announces a cluster before `publish` lets anybody write to it: its changes come after.
    pub(crate) fn loaded(&self, cluster: &Arc<ClusterStore>, publish: impl FnOnce()) {
        let mut listeners = self.listeners.lock();
        listeners.retain(|listener| listener.send(Notice::Loaded(cluster.clone())).is_ok());
        publish();
    }

    pub(crate) fn changed(&self, cluster: &Arc<Loaded>, events: Vec<Arc<Event>>) {
        if self.listeners.lock().is_empty() {
            return;
        }
        let events: Arc<[Arc<Event>]> = events.into();
        let store = Arc::new(ClusterStore { loaded: cluster.clone() });
        let mut listeners = self.listeners.lock();
        // The cluster may be loaded again by now, from a database that has these changes.
        if !cluster.shard.is_lost() {
            listeners.retain(|listener| listener.send(Notice::Changed(store.clone(), events.clone())).is_ok());
        }
    }

    /// Announces that a cluster is gone if `remove` removed it, before it can be loaded again.
    pub(crate) fn unloaded(&self, cluster: ClusterId, remove: impl FnOnce() -> bool) -> bool {
        let mut listeners = self.listeners.lock();
        let removed = remove();
        if removed {
            listeners.retain(|listener| listener.send(Notice::Unloaded(cluster)).is_ok());
        }
        removed
    }
}
