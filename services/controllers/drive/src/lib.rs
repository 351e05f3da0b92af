//! Runs the controllers: one task for each loaded cluster, on a view of its cache.
//!
//! A cluster that is not loaded has no task, no queue and no timer here; one that is loaded and quiet has a task that sleeps
//! in its watch. When nothing is left to do the driver says so to the store ([`galley_store::ClusterStore::settled`]), which
//! may then unload the cluster, and knows after a restart which clusters must be loaded ([`run`] has them loaded).
//!
//! # How to add a controller
//! 1. `plan/src/<name>.rs`: an `Observed` struct of typed objects, a `Reason` enum, `fn plan(&Observed, now) -> Plan<Reason>`,
//!    and tests that settle a `world`. Decide everything there; a reason for every action, also for none.
//! 2. `drive/src/controllers/<name>.rs`: a struct that implements [`Controller`]: `changed` maps a change to the keys it
//!    concerns (mind the owners of what you make, and what you only read); `plan` gathers `Observed` from the [`View`] by
//!    index, never by a scan of the cluster, and calls the pure function. `replica_set.rs` is the model.
//! 3. One line for its module and one in [`controllers::all`].
//!
//! What the driver does for you: wake-ups coalesce by key; a key is not planned while its last plan is being applied, nor
//! before the view has that plan's writes (so nothing needs to be expected or counted); failures and panics back the key off,
//! alone; the last failure is in [`Context::failure`] so that a status can tell it; events are counted and combined. A plan
//! that wrote something is followed by one more plan, so a plan need not do everything at once: the last is empty.
//! Timers: set `Plan::wake_at`; each plan replaces the timer of the one before.

mod apply;
mod cluster;
mod controller;
pub mod controllers;
mod events;
mod queue;
mod view;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use galley_pipeline::ClusterApi;
use galley_store::{ClusterStore, Notice, Store};
use galley_types::ClusterId;
use jiff::SignedDuration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::cluster::Changes;

pub use apply::Outcome;
pub use controller::{Context, Controller, Wake};
pub use queue::Backoff;
pub use view::{Change, Owner, Seen, View};

/// Where the controllers get a loaded cluster's API: the one that everybody in this process shares.
pub type ApiSource = Arc<dyn Fn(Arc<ClusterStore>) -> ClusterApi + Send + Sync>;

/// How controllers run. The defaults are right but for tests.
#[derive(Debug, Clone)]
pub struct Config {
    /// Makes the controllers of one cluster.
    pub controllers: fn() -> Vec<Box<dyn Controller>>,
    /// How long a key that fails waits. The longest is short enough that a user who fixed a quota does not wonder.
    pub backoff: Backoff,
    /// How often to look for clusters that are not in memory and have something to do: changes from before a restart, or a
    /// timer (a CronJob's, say) that has come. One query for all clusters.
    pub wake_every: Duration,
    /// How long a node may be silent before it counts as lost.
    pub node_monitor_grace_period: SignedDuration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            controllers: controllers::all,
            backoff: Backoff { base: Duration::from_millis(10), max: Duration::from_secs(60) },
            wake_every: Duration::from_secs(2),
            node_monitor_grace_period: galley_controllers_plan::node_lifecycle::GRACE,
        }
    }
}

/// Runs the controllers of every cluster that the store has in memory, and loads those that have something to do, until
/// `shutdown` or the end of the store. Whatever is being applied then is dropped where it stands.
pub async fn run(store: Store, apis: ApiSource, config: Config, shutdown: CancellationToken) {
    let config = Arc::new(config);
    let mut notices = store.notices();
    let mut running: HashMap<ClusterId, Running> = HashMap::new();
    let waking = tokio::spawn(wake(store, config.wake_every, shutdown.clone()));
    loop {
        let notice = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            notice = notices.recv() => notice,
        };
        match notice {
            None => break,
            Some(Notice::Loaded(cluster)) => {
                let id = cluster.id();
                debug!(cluster = %id, "controllers start");
                let (changes, feed) = mpsc::unbounded_channel();
                let stop = shutdown.child_token();
                let task = tokio::spawn(cluster::drive(cluster, apis.clone(), config.clone(), feed, stop.clone()));
                if let Some(before) = running.insert(id, Running { changes, stop, task }) {
                    before.end().await;
                }
            }
            Some(Notice::Changed(cluster, events)) => {
                if let Some(running) = running.get(&cluster.id()) {
                    let _ = running.changes.send((cluster, events));
                }
            }
            Some(Notice::Unloaded(id)) => {
                if let Some(before) = running.remove(&id) {
                    debug!(cluster = %id, "controllers stop");
                    before.end().await;
                }
            }
        }
    }
    for cluster in running.into_values() {
        cluster.end().await;
    }
    waking.abort();
}

struct Running {
    changes: mpsc::UnboundedSender<Changes>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

/// Loads clusters that have something to do; [`Notice::Loaded`] does the rest.
async fn wake(store: Store, every: Duration, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        match store.clusters_unsettled().await {
            Ok(clusters) => {
                for unsettled in clusters {
                    if let Err(error) = store.cluster(unsettled.cluster).await {
                        debug!(cluster = %unsettled.cluster, error = &error as &dyn std::error::Error, "cannot load");
                    }
                }
            }
            Err(error) => warn!(error = &error as &dyn std::error::Error, "cannot tell which clusters have work"),
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(every) => {}
        }
    }
}
