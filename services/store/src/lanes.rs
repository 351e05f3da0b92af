//! Where writes wait for a shard's writer: fair between tenants, and between the clusters of one.
//!
//! ```text
//!  tenant lane      tenant a ── cluster ── writes ─┐
//!                   tenant b ── cluster ── writes ─┼─> a batch: what is next by fair shares, within bounds
//!  background lane  the same, for heartbeats       │
//!                   and Events ────────────────────┘
//! ```
//!
//! - A tenant that floods waits behind itself: another's write is in the batch after the one under way, however many wait.
//! - A batch is bounded in bytes as well as in rows, so that 'the batch under way' is a matter of milliseconds.
//! - Heartbeats have room of their own in each batch: they neither fill it nor are kept out of it.
//! - What may wait is bounded for each tenant. Beyond it, callers wait before they queue, with what they hold counted where it
//!   came from.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use galley_fair::{Fair, Fifo, Queue as _};
use galley_types::{ClusterId, TenantId};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::cluster::Write;
use crate::plan::Request;

/// Writes of tenants in a batch: about 40 ms of Postgres, so that nobody waits long behind a batch.
const BATCH_WRITES: usize = 1024;
/// Bytes in a batch: some 10 ms of Postgres, which writes each body to two tables and its log. A sync costs a fifth of that:
/// larger batches would hardly be faster, and everybody waits for the batch under way.
const BATCH_BYTES: usize = 1 << 20;
/// Heartbeats and Events in a batch, and their bytes: they ride along, and cannot fill it.
const BACKGROUND_WRITES: usize = 256;
const BACKGROUND_BYTES: usize = 256 << 10;
/// How long heartbeats and Events wait for more of their kind when nothing else is written. A fleet that does nothing but
/// renew leases then costs some commits a second and not one for each node; nobody waits for a heartbeat.
const BACKGROUND_WAIT: Duration = Duration::from_millis(100);
/// What a row costs beside its bytes, in bytes: the measured times of rows of different sizes lie on such a line.
const ROW: usize = 1024;
/// What of one tenant may wait in a lane, in rows' worth: sixteen full batches.
const TENANT_WAITS: usize = 16 * 1024;

/// Nobody writes here any more.
#[derive(Debug)]
pub(crate) struct Closed;

/// Which lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    Tenant,
    Background,
}

/// What waits for a shard's writer.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    state: Mutex<State>,
    /// The writer sleeps here; there is one.
    wake: Notify,
    /// Barriers sleep here.
    done: Notify,
}

#[derive(Debug)]
struct Entry {
    request: Request,
    /// How many barriers were raised before.
    since: u64,
    _room: OwnedSemaphorePermit,
}

type Waiting = Fair<TenantId, Fair<ClusterId, Fifo<Entry>>>;

#[derive(Debug, Default)]
struct State {
    tenant: Waiting,
    background: Waiting,
    room: HashMap<(TenantId, Lane), Arc<Semaphore>>,
    /// How many wait, by the barriers raised before.
    waiting: BTreeMap<u64, usize>,
    /// The same of the oldest in the batch that is being written.
    writing: Option<u64>,
    barriers: u64,
    closed: bool,
}

impl Lanes {
    /// Queues a request, once there is room for its tenant's. Cancelled before, it was never there.
    pub(crate) async fn send(&self, lane: Lane, request: Request) -> Result<(), Closed> {
        let (tenant, rows) = (request.cluster.tenant, worth(&request));
        let room = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(Closed);
            }
            state.room.entry((tenant, lane)).or_insert_with(|| Arc::new(Semaphore::new(TENANT_WAITS))).clone()
        };
        let permits = u32::try_from(rows.min(TENANT_WAITS)).unwrap_or(u32::MAX);
        let room = room.acquire_many_owned(permits).await.map_err(|_| Closed)?;
        let mut state = self.state.lock();
        if state.closed {
            return Err(Closed);
        }
        let (cluster, since) = (request.cluster.id, state.barriers);
        *state.waiting.entry(since).or_default() += 1;
        let cost = u64::try_from(rows).unwrap_or(u64::MAX);
        state.lane(lane).push((tenant, 1, (cluster, 1, ())), cost, Entry { request, since, _room: room });
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// The next batch; waits for one. The batch before is done with. `None`: closed, and nothing waits.
    pub(crate) async fn gather(&self) -> Option<Vec<Request>> {
        self.state.lock().writing = None;
        self.done.notify_waiters();
        let mut patience = None;
        loop {
            let (is_empty, is_patient, closed) = {
                let state = self.state.lock();
                (state.waiting.is_empty(), state.is_patient(), state.closed)
            };
            match (is_empty, is_patient) {
                (true, _) if closed => return None,
                (true, _) => self.wake.notified().await,
                (false, true) => {
                    let until = *patience.get_or_insert_with(|| Instant::now() + BACKGROUND_WAIT);
                    if tokio::time::timeout_at(until, self.wake.notified()).await.is_err() {
                        return Some(self.take());
                    }
                }
                (false, false) => return Some(self.take()),
            }
        }
    }

    fn take(&self) -> Vec<Request> {
        let mut state = self.state.lock();
        let mut batch = Vec::new();
        state.fill(Lane::Tenant, BATCH_WRITES, BATCH_BYTES, &mut batch);
        state.fill(Lane::Background, BACKGROUND_WRITES, BACKGROUND_BYTES, &mut batch);
        batch
    }

    /// Takes out everything that waits, to be refused. The batch that is being written stays that: barriers wait for it.
    pub(crate) fn drain(&self) -> Vec<Request> {
        let mut state = self.state.lock();
        let writing = state.writing;
        let mut waiting = Vec::new();
        for lane in [Lane::Tenant, Lane::Background] {
            state.fill(lane, usize::MAX, usize::MAX, &mut waiting);
        }
        state.writing = writing;
        waiting
    }

    /// Waits until everything that was queued before is committed or refused.
    pub(crate) async fn barrier(&self) {
        let raised = {
            let mut state = self.state.lock();
            state.barriers += 1;
            state.barriers
        };
        self.wake.notify_one();
        loop {
            let mut done = std::pin::pin!(self.done.notified());
            done.as_mut().enable();
            if self.state.lock().is_past(raised) {
                return;
            }
            done.await;
        }
    }

    /// Nothing is queued from now on; what waits is still given out.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }

    /// There is no writer any more: who waits hears that the outcome is unknown.
    pub(crate) fn abandon(&self) {
        let dropped = {
            let mut state = self.state.lock();
            state.closed = true;
            state.writing = None;
            state.waiting.clear();
            for room in state.room.values() {
                room.close();
            }
            (std::mem::take(&mut state.tenant), std::mem::take(&mut state.background))
        };
        drop(dropped);
        self.done.notify_waiters();
    }
}

impl State {
    fn lane(&mut self, lane: Lane) -> &mut Waiting {
        match lane {
            Lane::Tenant => &mut self.tenant,
            Lane::Background => &mut self.background,
        }
    }

    /// Takes what is next, up to a number of writes and bytes, and one request at least.
    fn fill(&mut self, lane: Lane, most_writes: usize, most_bytes: usize, batch: &mut Vec<Request>) {
        let (mut writes, mut bytes) = (0, 0);
        while writes < most_writes && bytes < most_bytes {
            let Some((_, Entry { request, since, _room })) = self.lane(lane).pop(&mut |_| true) else { return };
            drop(_room);
            writes += request.writes.len();
            bytes += size(&request);
            self.writing = Some(self.writing.map_or(since, |oldest| oldest.min(since)));
            if let Some(count) = self.waiting.get_mut(&since) {
                *count -= 1;
                if *count == 0 {
                    self.waiting.remove(&since);
                }
            }
            let key = (request.cluster.tenant, lane);
            // The map's alone: nobody waits or is about to.
            if self.room.get(&key).is_some_and(|room| Arc::strong_count(room) == 1) {
                self.room.remove(&key);
            }
            batch.push(request);
        }
    }

    /// Whether there are but heartbeats and Events, which nobody waits for.
    fn is_patient(&self) -> bool {
        self.tenant.is_empty() && !self.closed && self.waiting.keys().next().is_none_or(|since| *since == self.barriers)
    }

    fn is_past(&self, barrier: u64) -> bool {
        let older = |since: &u64| *since < barrier;
        !self.writing.as_ref().is_some_and(older) && !self.waiting.keys().next().is_some_and(older)
    }
}

fn size(request: &Request) -> usize {
    request.writes.iter().map(Write::bytes).sum()
}

/// What a request costs, in rows.
fn worth(request: &Request) -> usize {
    request.writes.len() + size(request) / ROW
}
