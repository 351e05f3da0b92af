//! Runs the controllers: one task for each loaded cluster, on a view of its cache.
//!
//! A cluster that is not loaded has no task, no queue and no timer here; one that is loaded and quiet has a task that sleeps
//! in its watch. When nothing is left to do the driver says so to the store ([`galley_store::ClusterStore::settled`]), which
//! may then unload the cluster, and knows after a restart which clusters must be loaded.
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

use futures::{Stream, StreamExt};
use galley_pipeline::ClusterApi;
use galley_types::ClusterId;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub use apply::Outcome;
pub use controller::{Context, Controller, Wake};
pub use queue::Backoff;
pub use view::{Change, Owner, Seen, View};

/// What happens to the clusters of this process.
#[derive(Debug)]
pub enum ClusterChange {
    /// The cluster is in memory: work for it.
    Loaded(ClusterApi),
    /// The cluster is to leave memory: let go of it. Whatever is being applied is dropped where it stands.
    Unload(ClusterId),
}

/// How controllers run. The defaults are right but for tests.
#[derive(Debug, Clone)]
pub struct Config {
    /// Makes the controllers of one cluster.
    pub controllers: fn() -> Vec<Box<dyn Controller>>,
    /// How long a key that fails waits. The longest is short enough that a user who fixed a quota does not wonder.
    pub backoff: Backoff,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            controllers: controllers::all,
            backoff: Backoff { base: Duration::from_millis(10), max: Duration::from_secs(60) },
        }
    }
}

/// Runs the controllers of every cluster that `clusters` tells of, until `shutdown` or the end of the stream.
pub async fn run(clusters: impl Stream<Item = ClusterChange> + Send, config: Config, shutdown: CancellationToken) {
    let config = Arc::new(config);
    let mut running: HashMap<ClusterId, (CancellationToken, JoinHandle<()>)> = HashMap::new();
    let mut clusters = std::pin::pin!(clusters);
    loop {
        let change = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            change = clusters.next() => change,
        };
        let Some(change) = change else { break };
        let id = match &change {
            ClusterChange::Loaded(api) => api.store().id(),
            ClusterChange::Unload(id) => *id,
        };
        if let Some((stop, task)) = running.remove(&id) {
            stop.cancel();
            let _ = task.await;
        }
        if let ClusterChange::Loaded(api) = change {
            debug!(cluster = %id, "controllers start");
            let stop = shutdown.child_token();
            let task = tokio::spawn(cluster::drive(api, config.clone(), stop.clone()));
            running.insert(id, (stop, task));
        }
    }
    for (stop, task) in running.into_values() {
        stop.cancel();
        let _ = task.await;
    }
}
