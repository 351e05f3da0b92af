//! One loaded cluster: its view, its controllers, its queue, in one task.
//!
//! ```text
//! watch ---> view ---> changed() ---> queue ---> plan() ---> apply (tasks) ---> store
//!   ^                                   ^                        |                |
//!   |                                   +------ finished --------+                |
//!   +-----------------------------------------------------------------------------+
//! ```
//! Planning is pure and quick, so one task plans for all controllers of a cluster and nothing is locked; only applying waits,
//! and is done beside it. While nothing changes the task sleeps in the watch: no polling, no periodic resync.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use galley_authz::Actor;
use galley_controllers_plan::{Note, Plan};
use galley_pipeline::ClusterApi;
use galley_store::{Event, EventKind, WatchEnd, WatchItem};
use galley_types::Revision;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::Config;
use crate::apply::{self, Applied};
use crate::controller::{Context, Controller, Wake};
use crate::events::{EventWrite, Recorder};
use crate::queue::{Finished, Job, Queue};
use crate::view::{Change, Seen, View};

/// Plans between two looks at the watch and at what else waits.
const PLANS_PER_TURN: usize = 64;
/// Changes taken in between two rounds of planning.
const CHANGES_PER_TURN: usize = 4_096;
/// Keys of one cluster that are applied at a time.
const MAX_RUNNING: usize = 256;
/// Event writes that may wait: more are dropped, as events are best effort.
const MAX_EVENTS: usize = 1_024;
/// How long to wait before looking again for a store that could not be watched.
const RETRY: Duration = Duration::from_millis(500);

/// Works for one cluster until `stop`.
pub(crate) async fn drive(api: ClusterApi, config: Arc<Config>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let mut cluster = Cluster::load(api.clone(), config.clone());
        let work = AssertUnwindSafe(cluster.work()).catch_unwind();
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            ended = work => ended,
        };
        match ended {
            Ok(WatchEnd::Expired { .. } | WatchEnd::TooSlow) => {
                debug!(cluster = %api.store().id(), "loading the view anew")
            }
            Ok(WatchEnd::Closing) => return,
            Err(_) => error!(cluster = %api.store().id(), "the controllers' driver panicked; starting it anew"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

struct Cluster {
    api: ClusterApi,
    config: Arc<Config>,
    view: View,
    controllers: Vec<Box<dyn Controller>>,
    actors: Vec<Arc<Actor>>,
    queue: Queue,
    applying: JoinSet<(Job, Option<Timestamp>, Applied)>,
    recorder: Recorder,
    events: VecDeque<EventWrite>,
    recording: JoinSet<()>,
    reported: Option<(Revision, Option<Timestamp>)>,
}

impl Cluster {
    fn load(api: ClusterApi, config: Arc<Config>) -> Self {
        let controllers = (config.controllers)();
        let actors = controllers.iter().map(|c| Arc::new(Actor::controller(c.name()))).collect();
        let mut cluster = Self {
            queue: Queue::new(config.backoff),
            api,
            config,
            view: View::new(),
            controllers,
            actors,
            applying: JoinSet::new(),
            recorder: Recorder::default(),
            events: VecDeque::new(),
            recording: JoinSet::new(),
            reported: None,
        };
        let listing = cluster.api.store().list_all();
        for object in listing.objects {
            cluster.view.put(object);
        }
        cluster.view.progress(listing.revision);
        for index in 0..cluster.controllers.len() {
            cluster.introduce(index);
        }
        cluster
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

    async fn work(&mut self) -> WatchEnd {
        let mut watch = match self.api.store().watch_all(self.view.revision()).await {
            Ok(watch) => watch,
            Err(end) => return end,
        };
        loop {
            for _ in 0..CHANGES_PER_TURN {
                match watch.next().now_or_never() {
                    None => break,
                    Some(Ok(item)) => self.take_in(item),
                    Some(Err(end)) => return end,
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
            self.report();
            let now = self.api.clock().now();
            let timer =
                self.queue.next_timer().map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
            tokio::select! {
                item = watch.next() => match item {
                    Ok(item) => self.take_in(item),
                    Err(end) => return end,
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

    fn take_in(&mut self, item: WatchItem) {
        match item {
            WatchItem::Progress(revision) => self.view.progress(revision),
            WatchItem::Event(event) => self.change(&event),
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
            let now = self.api.clock().now();
            let Some(job) = self.queue.start(self.view.revision(), now) else { return false };
            self.plan(job, now);
        }
        true
    }

    fn plan(&mut self, job: Job, now: Timestamp) {
        let controller = &mut self.controllers[job.controller];
        let context = Context { view: &self.view, now, failure: self.queue.failure(&job) };
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
        let (api, actor, gently) = (self.api.clone(), self.actors[job.controller].clone(), self.queue.is_failing(&job));
        self.applying.spawn(async move {
            let wake_at = plan.wake_at;
            let applied = guarded_apply(&api, &actor, plan, gently).await;
            (job, wake_at, applied)
        });
    }

    fn finish(&mut self, (job, wake_at, applied): (Job, Option<Timestamp>, Applied)) {
        let now = self.api.clock().now();
        // Everything this plan wrote is at or before this revision, also what was written without an answer.
        let wrote = self.api.store().revision();
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
        let batch: Vec<EventWrite> = self.events.drain(..).collect();
        let api = self.api.clone();
        self.recording.spawn(async move { apply::record(&api, batch).await });
    }

    fn report(&mut self) {
        if self.queue.is_quiet() && self.events.is_empty() && self.recording.is_empty() {
            let report = (self.view.revision(), self.queue.next_timer());
            if self.reported != Some(report) {
                self.reported = Some(report);
                self.api.store().settled(report.0, report.1);
            }
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
