//! One loaded cluster: its view, its controllers, its queue, in one task.
//!
//! ```text
//! notices ---> view ---> changed() ---> queue ---> plan() ---> apply (tasks) ---> store
//!    ^                                    ^                        |                |
//!    |                                    +------ finished --------+                |
//!    +------------------------------------------------------------------------------+
//! ```
//! Planning is pure and quick, so one task plans for all controllers of a cluster and nothing is locked; only applying waits,
//! and is done beside it. While nothing changes the task sleeps: no polling, no periodic resync. It then holds no reference
//! to the cluster's store either, so that the store may evict it.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use galley_authz::Actor;
use galley_controllers_plan::{Note, Plan};
use galley_pipeline::ClusterApi;
use galley_store::{ClusterStore, Event, EventKind};
use galley_types::Clock;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::apply::{self, Applied};
use crate::controller::{Context, Controller, Wake};
use crate::events::{EventWrite, Recorder};
use crate::queue::{Finished, Job, Queue};
use crate::view::{Change, Seen, View};
use crate::{ApiSource, Config};

/// Plans between two looks at what changed and at what else waits.
const PLANS_PER_TURN: usize = 64;
/// Batches of changes taken in between two rounds of planning.
const BATCHES_PER_TURN: usize = 256;
/// Keys of one cluster that are applied at a time.
const MAX_RUNNING: usize = 256;
/// Event writes that may wait: more are dropped, as events are best effort.
const MAX_EVENTS: usize = 1_024;
/// How long a driver that panicked rests.
const REST: Duration = Duration::from_millis(500);

/// A batch of committed changes, with the store that they are in.
pub(crate) type Changes = (Arc<ClusterStore>, Arc<[Arc<Event>]>);

/// Works for one cluster until `stop`, or until it is unloaded.
pub(crate) async fn drive(
    store: Arc<ClusterStore>,
    apis: ApiSource,
    config: Arc<Config>,
    mut changes: mpsc::UnboundedReceiver<Changes>,
    stop: CancellationToken,
) {
    let (id, weak) = (store.id(), Arc::downgrade(&store));
    let mut loaded = Some(store);
    while let Some(store) = loaded.take().or_else(|| weak.upgrade()) {
        let mut cluster = Cluster::load(store, apis.clone(), config.clone());
        let work = AssertUnwindSafe(cluster.work(&mut changes)).catch_unwind();
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            ended = work => ended,
        };
        if ended.is_ok() {
            return;
        }
        error!(cluster = %id, "the controllers' driver panicked; starting it anew");
        tokio::time::sleep(REST).await;
    }
}

struct Cluster {
    apis: ApiSource,
    /// To come back to the store when a timer goes off.
    weak: Weak<ClusterStore>,
    /// Only while there is something to do.
    api: Option<ClusterApi>,
    clock: Arc<dyn Clock>,
    config: Arc<Config>,
    view: View,
    controllers: Vec<Box<dyn Controller>>,
    actors: Vec<Arc<Actor>>,
    queue: Queue,
    applying: JoinSet<(Job, Option<Timestamp>, Applied)>,
    recorder: Recorder,
    events: VecDeque<EventWrite>,
    recording: JoinSet<()>,
}

impl Cluster {
    fn load(store: Arc<ClusterStore>, apis: ApiSource, config: Arc<Config>) -> Self {
        let controllers = (config.controllers)();
        let actors = controllers.iter().map(|c| Arc::new(Actor::controller(c.name()))).collect();
        let api = apis(store.clone());
        let mut cluster = Self {
            apis,
            weak: Arc::downgrade(&store),
            clock: api.clock().clone(),
            api: Some(api),
            queue: Queue::new(config.backoff),
            config,
            view: View::new(),
            controllers,
            actors,
            applying: JoinSet::new(),
            recorder: Recorder::default(),
            events: VecDeque::new(),
            recording: JoinSet::new(),
        };
        let listing = store.list_all();
        for object in listing.objects {
            cluster.view.put(object);
        }
        cluster.view.progress(listing.revision);
        for index in 0..cluster.controllers.len() {
            cluster.introduce(index);
        }
        cluster
    }

    /// The cluster's API; `None` once it is unloaded.
    fn api(&mut self) -> Option<ClusterApi> {
        if self.api.is_none() {
            self.api = self.weak.upgrade().map(|store| (self.apis)(store));
        }
        self.api.clone()
    }

    /// Shows a controller everything that is there.
    fn introduce(&mut self, index: usize) {
        let mut wake = Wake { keys: Vec::new(), revision: self.view.revision() };
        for seen in self.view.everything() {
            let change = Change { kind: EventKind::Added, now: seen, before: None };
            let controller = &mut self.controllers[index];
            let told =
                std::panic::catch_unwind(AssertUnwindSafe(|| controller.changed(&change, &self.view, &mut wake)));
            if told.is_err() {
                error!(controller = controller.name(), object = ?seen.object.key, "panicked on an object; skipping it");
            }
        }
        for key in wake.keys {
            self.queue.wake(Job { controller: index, key }, wake.revision);
        }
    }

    /// Ends when the cluster is unloaded.
    async fn work(&mut self, changes: &mut mpsc::UnboundedReceiver<Changes>) {
        loop {
            for _ in 0..BATCHES_PER_TURN {
                match changes.try_recv() {
                    Ok(batch) => self.take_in(batch),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => return,
                }
            }
            while let Some(Ok(finished)) = self.applying.try_join_next() {
                self.finish(finished);
            }
            let more = self.plan_some();
            self.record_events();
            if more {
                tokio::task::yield_now().await;
                continue;
            }
            self.rest();
            let now = self.clock.now();
            let timer =
                self.queue.next_timer().map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
            tokio::select! {
                biased;
                batch = changes.recv() => match batch {
                    Some(batch) => self.take_in(batch),
                    None => return,
                },
                Some(finished) = self.applying.join_next() => match finished {
                    Ok(finished) => self.finish(finished),
                    Err(broken) => debug!(%broken, "an apply task ended early"),
                },
                Some(_) = self.recording.join_next() => {}
                () = tokio::time::sleep(timer.unwrap_or_default()), if timer.is_some() => {}
            }
        }
    }

    fn take_in(&mut self, (store, events): Changes) {
        if self.api.is_none() {
            self.api = Some((self.apis)(store));
        }
        for event in events.iter() {
            // What was committed between the announcement and the first list is in the view already.
            if event.object.revision > self.view.revision() {
                self.change(event);
            }
        }
    }

    fn change(&mut self, event: &Event) {
        let object = &event.object;
        if !View::keeps(object.key.resource.as_str()) {
            self.view.progress(object.revision);
            return;
        }
        let gone;
        let before: Option<Seen>;
        let now: Option<&Seen>;
        if event.kind == EventKind::Deleted {
            gone = self.view.remove(object);
            before = None;
            now = gone.as_ref();
        } else {
            before = self.view.put(object.clone());
            now = self.view.at(&object.key);
        }
        let Some(now) = now else { return };
        let change = Change { kind: event.kind, now, before: before.as_ref() };
        let mut broken = Vec::new();
        for (index, controller) in self.controllers.iter_mut().enumerate() {
            let mut wake = Wake { keys: Vec::new(), revision: object.revision };
            let view = &self.view;
            let told = std::panic::catch_unwind(AssertUnwindSafe(|| controller.changed(&change, view, &mut wake)));
            for key in wake.keys {
                self.queue.wake(Job { controller: index, key }, wake.revision);
            }
            if told.is_err() {
                broken.push(index);
            }
        }
        for index in broken {
            error!(controller = self.controllers[index].name(), object = ?object.key, "panicked on a change; starting it anew");
            if let Some(fresh) = (self.config.controllers)().into_iter().nth(index) {
                self.controllers[index] = fresh;
                self.introduce(index);
            }
        }
    }

    /// Plans ready keys; whether there may be more.
    fn plan_some(&mut self) -> bool {
        for _ in 0..PLANS_PER_TURN {
            if self.queue.running() >= MAX_RUNNING {
                return false;
            }
            let now = self.clock.now();
            let Some(job) = self.queue.start(self.view.revision(), now) else { return false };
            self.plan(job, now);
        }
        true
    }

    fn plan(&mut self, job: Job, now: Timestamp) {
        let Some(api) = self.api() else { return };
        let controller = &mut self.controllers[job.controller];
        let served = |api_version: &str, kind: &str| api.find_kind(api_version, kind).is_some();
        let context = Context {
            view: &self.view,
            now,
            failure: self.queue.failure(&job),
            settings: api.settings(),
            node_monitor_grace_period: self.config.node_monitor_grace_period,
            hearing_since: api
                .store()
                .hearing_for()
                .and_then(|lasts| now.checked_sub(lasts).ok())
                .unwrap_or(Timestamp::MIN),
            served: &served,
        };
        let planned = std::panic::catch_unwind(AssertUnwindSafe(|| controller.plan(&job.key, &context)));
        let name = controller.name();
        let plan = match planned {
            Ok(Ok(plan)) => plan,
            Ok(Err(undecodable)) => {
                warn!(controller = name, key = ?job.key, error = &undecodable as &dyn std::error::Error, "cannot plan");
                self.queue.finish(&job, Finished::Failed { failure: None }, None, now);
                return;
            }
            Err(_) => {
                error!(controller = name, key = ?job.key, "planning panicked; backing off");
                self.queue.finish(&job, Finished::Failed { failure: None }, None, now);
                return;
            }
        };
        if plan.is_quiet() {
            debug!(controller = name, key = ?job.key, because = plan.nothing, "nothing to do");
            self.note(job.controller, &plan.notes, now);
            self.queue.finish(&job, Finished::Done { wake_at: plan.wake_at }, None, now);
            return;
        }
        let (actor, gently) = (self.actors[job.controller].clone(), self.queue.is_failing(&job));
        self.applying.spawn(async move {
            let wake_at = plan.wake_at;
            let applied = guarded_apply(&api, &actor, plan, gently).await;
            (job, wake_at, applied)
        });
    }

    fn finish(&mut self, (job, wake_at, applied): (Job, Option<Timestamp>, Applied)) {
        let now = self.clock.now();
        let written = applied.outcomes.iter().filter_map(|outcome| outcome.result.as_ref().ok()?.as_ref());
        let wrote = written.map(|object| object.revision).max().unwrap_or_default();
        self.note(job.controller, &applied.notes, now);
        let controller = &mut self.controllers[job.controller];
        let told = std::panic::catch_unwind(AssertUnwindSafe(|| controller.applied(&job.key, &applied.outcomes)));
        let finished = if applied.failed || told.is_err() {
            Finished::Failed { failure: applied.failure }
        } else {
            Finished::Done { wake_at }
        };
        self.queue.finish(&job, finished, Some(wrote), now);
    }

    fn note(&mut self, controller: usize, notes: &[Note], now: Timestamp) {
        let component = self.controllers[controller].name();
        for note in notes {
            if self.events.len() < MAX_EVENTS
                && let Some(write) = self.recorder.record(component, note, now)
            {
                self.events.push_back(write);
            }
        }
    }

    /// Hands waiting events to the recording task, one batch at a time so that counts are written in order.
    fn record_events(&mut self) {
        while self.recording.try_join_next().is_some() {}
        if self.events.is_empty() || !self.recording.is_empty() {
            return;
        }
        let Some(api) = self.api() else { return };
        let batch: Vec<EventWrite> = self.events.drain(..).collect();
        self.recording.spawn(async move { apply::record(&api, batch).await });
    }

    /// Tells the store when nothing is left to do, and lets go of it.
    fn rest(&mut self) {
        let quiet = self.queue.is_quiet() && self.events.is_empty() && self.recording.is_empty();
        if quiet && let Some(api) = self.api.take() {
            api.store().settled(self.view.revision(), self.queue.next_timer());
        }
    }
}

async fn guarded_apply(api: &ClusterApi, actor: &Actor, plan: Plan<String>, gently: bool) -> Applied {
    let applied = AssertUnwindSafe(apply::apply(api, actor, plan, gently)).catch_unwind().await;
    applied.unwrap_or_else(|_| {
        error!(cluster = %api.store().id(), actor = actor.username, "applying a plan panicked; backing off");
        Applied { failed: true, ..Applied::default() }
    })
}
