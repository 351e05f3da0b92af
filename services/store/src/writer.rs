//! The one writer of a shard: everything that waits becomes one transaction.
//!
//! ```text
//!  callers ──> lanes (fair) ──> a batch ──> plan ──> one transaction ──> cache ──> answers, watchers, controllers
//!                                                          │ no answer
//!                                                          └─> raise the epoch (all older commits have ended) ──> read revisions
//! ```
//!
//! While a transaction is on its way to disk, the next batch gathers: batches grow with the load, and the rate is bounded by
//! bytes, not by syncs. The cache moves only after the database has, and by the same events: they cannot differ.

use std::sync::Arc;
use std::time::Duration;

use galley_types::{Clock, ClusterId};
use tokio::time::Instant;

use crate::backend::{Backend, BackendError, Batch, Cause};
use crate::cluster::{CommitError, Loaded};
use crate::config::StoreConfig;
use crate::notice::Notices;
use crate::plan::{self, Move, Plan, Request};
use crate::shard::Shard;

/// Between attempts to learn what became of a commit.
const RESOLVE_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Writer {
    pub shard: Arc<Shard>,
    pub backend: Arc<dyn Backend>,
    pub config: Arc<StoreConfig>,
    pub clock: Arc<dyn Clock>,
    pub notices: Arc<Notices>,
}

/// Who waits for a batch, and what they will be told.
type Waiting = (tokio::sync::oneshot::Sender<plan::Answers>, plan::Answers);

/// What became of a batch.
enum Outcome {
    Committed,
    NotCommitted(BackendError),
    /// The shard is lost; what the batch did is for the next owner to say.
    Lost,
}

impl Writer {
    /// Until the shard is lost or nobody can send any more.
    pub(crate) async fn run(self) {
        let _abandons = Abandons(&self.shard);
        while let Some(requests) = self.shard.lanes.gather().await {
            if self.shard.is_lost() {
                refuse(requests, "the shard is lost");
            } else {
                self.write(requests).await;
            }
        }
    }

    async fn write(&self, requests: Vec<Request>) {
        let Plan { batch, moves, mut answers } = plan::plan(requests, self.clock.now());
        if batch.rows.is_empty() {
            answers.into_iter().for_each(|(answer, answers)| drop(answer.send(answers)));
            return;
        }
        #[cfg(any(test, feature = "testing"))]
        if batch.rows.len() == 1 && self.config.breaks(crate::testing::Fault::LostWrite, &batch.rows[0].key.resource) {
            self.config.broke();
            answers.into_iter().for_each(|(answer, answers)| drop(answer.send(answers)));
            return;
        }
        match self.commit(&batch, &mut answers).await {
            Outcome::Committed => {
                self.publish(moves);
                answers.into_iter().for_each(|(answer, answers)| drop(answer.send(answers)));
            }
            Outcome::NotCommitted(error) => {
                tracing::warn!(shard = self.shard.id().0, error = &error as &dyn std::error::Error, "commit failed");
                self.shard.failed(Instant::now());
                void(answers, &error.to_string());
            }
            Outcome::Lost => {
                self.shard.lose();
                void(answers, "the shard is lost");
            }
        }
    }

    async fn commit(&self, batch: &Batch, waiting: &mut Vec<Waiting>) -> Outcome {
        let limit = self.config.commit_timeout;
        let answer = tokio::time::timeout(limit, self.backend.commit(self.shard.fence(), batch)).await;
        let answer =
            answer.unwrap_or(Err(BackendError::Unknown { operation: "commit", source: Cause::Timeout(limit) }));
        match answer {
            Ok(()) => Outcome::Committed,
            Err(BackendError::Fenced { .. }) => Outcome::Lost,
            Err(error @ (BackendError::Failed { .. } | BackendError::Corrupt { .. })) => Outcome::NotCommitted(error),
            Err(error @ BackendError::Unknown { .. }) => self.resolve(batch, error, waiting).await,
        }
    }

    /// Learns what became of a commit whose answer was not heard. Nothing else is written until then; past the lease nobody is
    /// kept waiting for it.
    async fn resolve(&self, batch: &Batch, error: BackendError, waiting: &mut Vec<Waiting>) -> Outcome {
        tracing::warn!(
            shard = self.shard.id().0,
            error = &error as &dyn std::error::Error,
            "asking what became of a commit"
        );
        let _lease = self.shard.lease.lock().await;
        loop {
            if self.shard.is_lost() {
                return Outcome::Lost;
            }
            self.shard.failed(Instant::now());
            let mut attempt = std::pin::pin!(self.try_resolve(batch));
            let attempt = loop {
                match tokio::time::timeout(RESOLVE_EVERY, &mut attempt).await {
                    Ok(attempt) => break attempt,
                    Err(_) => self.fail_closed(waiting),
                }
            };
            match attempt {
                Ok(Some(true)) => return Outcome::Committed,
                Ok(Some(false)) => return Outcome::NotCommitted(error),
                Ok(None) => return Outcome::Lost,
                Err(again) => {
                    tracing::warn!(error = &again as &dyn std::error::Error, "cannot ask yet");
                    tokio::time::sleep(RESOLVE_EVERY).await;
                    self.fail_closed(waiting);
                }
            }
        }
    }

    /// Past the lease, tells all who wait that their write's outcome is unknown.
    fn fail_closed(&self, waiting: &mut Vec<Waiting>) {
        if !self.shard.is_held(Instant::now()) {
            const WHY: &str = "the lease ran out while the database did not answer";
            void(std::mem::take(waiting), WHY);
            refuse(self.shard.lanes.drain(), WHY);
        }
    }

    /// Whether the batch is there; `None`: it is another owner's to say.
    async fn try_resolve(&self, batch: &Batch) -> Result<Option<bool>, BackendError> {
        let lease_ends = Instant::now() + self.config.lease;
        let Some(fence) = self.backend.lease_bump(self.shard.fence(), self.config.lease).await? else {
            return Ok(None);
        };
        self.shard.raised(fence, lease_ends);
        let clusters: Vec<ClusterId> = batch.steps.iter().map(|step| step.cluster).collect();
        let revisions = self.backend.revisions(&clusters).await?;
        let mut steps = batch.steps.iter().zip(&revisions);
        if steps.clone().all(|(step, revision)| step.next == *revision) {
            return Ok(Some(true));
        }
        if steps.all(|(step, revision)| step.base == *revision) {
            return Ok(Some(false));
        }
        // One transaction cannot be there in part: the cache is not what the database holds. Start over from the database.
        tracing::error!(
            shard = self.shard.id().0,
            "revisions are neither before nor after the commit: giving the shard up"
        );
        Ok(None)
    }

    fn publish(&self, moves: Vec<Move>) {
        for Move { cluster, next, events, .. } in moves {
            let wake = {
                let mut state = cluster.state.write();
                let wake = state.apply(&events, next, &self.config.cache);
                #[cfg(any(test, feature = "testing"))]
                if events.iter().any(|event| event.object.key.resource.as_str() == "configmaps") {
                    self.config.break_log(&mut state);
                }
                wake
            };
            for sender in wake {
                sender.send_replace(());
            }
            self.notices.changed(&cluster, events);
        }
    }
}

/// A writer that ends, however it ends, leaves nobody waiting.
struct Abandons<'a>(&'a Shard);

impl Drop for Abandons<'_> {
    fn drop(&mut self) {
        self.0.lanes.abandon();
    }
}

fn refuse(requests: Vec<Request>, why: &str) {
    for Request { writes, answer, .. } in requests {
        let refused = writes.iter().map(|_| Err(CommitError::Unavailable(why.into()))).collect();
        drop(answer.send(refused));
    }
}

fn void(answers: Vec<Waiting>, why: &str) {
    for (answer, answers) in answers {
        let refused = answers.iter().map(|_| Err(CommitError::Unavailable(why.into()))).collect();
        drop(answer.send(refused));
    }
}

/// Waits until everything sent to the cluster's shard before is committed or refused.
pub(crate) async fn barrier(cluster: &Arc<Loaded>) {
    cluster.shard.lanes.barrier().await;
}
