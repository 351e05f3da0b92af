//! Which keys are to be planned, and when.
//!
//! ```text
//!             wake                    start                      finish(ok)
//! (no entry) ------> ready/deferred ---------> planning/applying -----------> (no entry), or a timer, or ready again
//!                       ^                            | finish(failed): backoff timer
//!                       +----------------------------+
//! ```
//! A wake-up has no payload but the key, and wake-ups of a key coalesce: while it is being applied they become one further
//! run. A key is not started before the view has reached the revision that its own last writes made (`not_before`): that is
//! why no controller needs to remember what it expects.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use galley_controllers_plan::Failure;
use galley_store::ObjectKey;
use galley_types::Revision;
use jiff::{SignedDuration, Timestamp};

/// A controller (its place in the registry) and the key it works on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Job {
    pub(crate) controller: usize,
    pub(crate) key: ObjectKey,
}

#[derive(Debug, Default)]
struct Entry {
    queued: bool,
    running: bool,
    /// Woken while running.
    again: bool,
    failures: u32,
    failure: Option<Failure>,
    not_before: Revision,
    timer: Option<Timestamp>,
}

/// How long a failing key waits: `base * 2^(failures - 1)`, at most `max`.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// After the first failure.
    pub base: Duration,
    /// The longest.
    pub max: Duration,
}

impl Backoff {
    fn after(&self, failures: u32) -> Duration {
        self.base.saturating_mul(1u32 << failures.saturating_sub(1).min(24)).min(self.max)
    }
}

/// The queue of one cluster.
#[derive(Debug)]
pub(crate) struct Queue {
    backoff: Backoff,
    entries: HashMap<Job, Entry>,
    ready: VecDeque<Job>,
    /// Wait for the view to reach a revision.
    deferred: BTreeSet<(Revision, Job)>,
    timers: BTreeSet<(Timestamp, Job)>,
    running: usize,
}

/// What became of a run.
#[derive(Debug)]
pub(crate) enum Finished {
    /// Applied whole, or there was nothing to apply. Plan again at this time.
    Done { wake_at: Option<Timestamp> },
    /// Plan again after a backoff.
    Failed { failure: Option<Failure> },
}

impl Queue {
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            entries: HashMap::new(),
            ready: VecDeque::new(),
            deferred: BTreeSet::new(),
            timers: BTreeSet::new(),
            running: 0,
        }
    }

    /// The change that `revision` made may concern the key. Its own writes do not end a backoff: anybody else's do.
    pub(crate) fn wake(&mut self, job: Job, revision: Revision) {
        let entry = self.entries.entry(job.clone()).or_default();
        if entry.running {
            entry.again = true;
        } else if !entry.queued && (entry.failures == 0 || revision > entry.not_before) {
            entry.queued = true;
            self.ready.push_back(job);
        }
    }

    /// Moves jobs whose time or revision has come to the ready ones, and takes the first.
    pub(crate) fn start(&mut self, revision: Revision, now: Timestamp) -> Option<Job> {
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, job)) = self.timers.pop_first() else { break };
            let Some(entry) = self.entries.get_mut(&job) else { continue };
            entry.timer = None;
            if entry.running {
                entry.again = true;
            } else if !entry.queued {
                entry.queued = true;
                self.ready.push_back(job);
            }
        }
        while let Some((at, _)) = self.deferred.first()
            && *at <= revision
            && let Some((_, job)) = self.deferred.pop_first()
        {
            self.ready.push_back(job);
        }
        while let Some(job) = self.ready.pop_front() {
            let Some(entry) = self.entries.get_mut(&job) else { continue };
            if entry.not_before > revision {
                self.deferred.insert((entry.not_before, job));
                continue;
            }
            entry.queued = false;
            entry.running = true;
            entry.again = false;
            self.running += 1;
            return Some(job);
        }
        None
    }

    /// The failure of the last run, while it lasts.
    pub(crate) fn failure(&self, job: &Job) -> Option<&Failure> {
        self.entries.get(job)?.failure.as_ref()
    }

    /// Whether the last run failed.
    pub(crate) fn is_failing(&self, job: &Job) -> bool {
        self.entries.get(job).is_some_and(|entry| entry.failures > 0)
    }

    /// The run is over; `wrote`: the newest revision that its writes may have.
    pub(crate) fn finish(&mut self, job: &Job, finished: Finished, wrote: Option<Revision>, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(job) else { return };
        entry.running = false;
        self.running -= 1;
        entry.not_before = entry.not_before.max(wrote.unwrap_or_default());
        if let Some(old) = entry.timer.take() {
            self.timers.remove(&(old, job.clone()));
        }
        let timer = match finished {
            Finished::Done { wake_at } => {
                entry.failures = 0;
                entry.failure = None;
                wake_at
            }
            Finished::Failed { failure } => {
                entry.failures += 1;
                entry.failure = failure;
                let wait = SignedDuration::try_from(self.backoff.after(entry.failures)).unwrap_or(SignedDuration::MAX);
                Some(now.checked_add(wait).unwrap_or(Timestamp::MAX))
            }
        };
        if let Some(at) = timer {
            entry.timer = Some(at);
            self.timers.insert((at, job.clone()));
        }
        // Whoever wrote looks once more at what came of it: that run finds nothing to do, or the next step.
        let failed = entry.failures > 0;
        if !failed && let Some(wrote) = wrote {
            entry.queued = true;
            self.deferred.insert((wrote, job.clone()));
        } else if !failed && entry.again {
            entry.queued = true;
            self.ready.push_back(job.clone());
        } else if entry.timer.is_none() {
            self.entries.remove(job);
        }
    }

    /// When the next timer goes off.
    pub(crate) fn next_timer(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// How many runs are being applied.
    pub(crate) fn running(&self) -> usize {
        self.running
    }

    /// Whether nothing is ready, running or waiting for the view: only timers are left.
    pub(crate) fn is_quiet(&self) -> bool {
        self.ready.is_empty() && self.deferred.is_empty() && self.running == 0
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
