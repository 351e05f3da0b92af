//! One ownership of a shard: from winning its lease to losing it. A shard that is won again is a new [`Shard`], with new
//! caches, so nothing of an earlier ownership can be served or written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use galley_types::ShardId;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::backend::Fence;
use crate::lanes::Lanes;

#[derive(Debug)]
pub(crate) struct Shard {
    id: ShardId,
    epoch: AtomicI64,
    lost: AtomicBool,
    /// By this process' monotonic clock, counted from before the renewal was sent: never later than in the database.
    lease_ends: Mutex<Instant>,
    /// When a write was last refused for want of the database, or the lease was last found to have run out.
    deaf: Mutex<Option<Instant>>,
    /// Held while the lease is renewed or its epoch raised, so that the two do not take each other for a stranger.
    pub lease: tokio::sync::Mutex<()>,
    pub gate: Gate,
    pub lanes: Lanes,
}

/// Requests that are being answered. Before a shard is handed over its gate is closed, so that none of them is refused half
/// way: new ones wait for the next owner.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Twice their number, plus one when closed.
    state: AtomicUsize,
    empty: Notify,
}

impl Gate {
    const CLOSED: usize = 1;
    const ONE: usize = 2;

    fn enter(&self) -> bool {
        let entered = self.state.fetch_add(Self::ONE, Ordering::AcqRel) & Self::CLOSED == 0;
        if !entered {
            self.exit();
        }
        entered
    }

    fn exit(&self) {
        if self.state.fetch_sub(Self::ONE, Ordering::AcqRel) == Self::ONE + Self::CLOSED {
            self.empty.notify_waiters();
        }
    }

    /// True for the first who closes it.
    pub(crate) fn close(&self) -> bool {
        self.state.fetch_or(Self::CLOSED, Ordering::AcqRel) & Self::CLOSED == 0
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.load(Ordering::Acquire) & Self::CLOSED != 0
    }

    /// Waits until nobody is inside a closed gate.
    pub(crate) async fn emptied(&self) {
        loop {
            let mut empty = std::pin::pin!(self.empty.notified());
            empty.as_mut().enable();
            if self.state.load(Ordering::Acquire) <= Self::CLOSED {
                return;
            }
            empty.await;
        }
    }
}

/// Keeps a shard here while a request is answered. Hold it until the answer's head is there, not as long as a watch lasts.
#[derive(Debug)]
pub struct Pass(Arc<Shard>);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.gate.exit();
    }
}

impl Shard {
    /// `None`: the shard is another's, or about to be.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Pass> {
        (self.is_held(Instant::now()) && self.gate.enter()).then(|| Pass(self.clone()))
    }

    /// As `enter`, whether or not the lease still holds.
    pub(crate) fn enter_stale(self: &Arc<Self>) -> Option<Pass> {
        (!self.is_lost() && self.gate.enter()).then(|| Pass(self.clone()))
    }

    pub(crate) fn new(fence: Fence, lease_ends: Instant) -> Self {
        Self {
            id: fence.shard,
            epoch: AtomicI64::new(fence.epoch),
            lost: AtomicBool::new(false),
            lease_ends: Mutex::new(lease_ends),
            deaf: Mutex::new(None),
            lease: tokio::sync::Mutex::new(()),
            gate: Gate::default(),
            lanes: Lanes::default(),
        }
    }

    pub(crate) fn id(&self) -> ShardId {
        self.id
    }

    pub(crate) fn fence(&self) -> Fence {
        Fence { shard: self.id, epoch: self.epoch.load(Ordering::Acquire) }
    }

    pub(crate) fn raised(&self, fence: Fence, lease_ends: Instant) {
        self.epoch.store(fence.epoch, Ordering::Release);
        self.renewed(lease_ends);
    }

    pub(crate) fn renewed(&self, lease_ends: Instant) {
        let now = Instant::now();
        let before = std::mem::replace(&mut *self.lease_ends.lock(), lease_ends);
        if now >= before {
            self.failed(now);
        }
    }

    /// The database was not there for a write at `now`.
    pub(crate) fn failed(&self, now: Instant) {
        *self.deaf.lock() = Some(now);
    }

    /// How long writes have been taken without fail; `None`: ever since the shard was won.
    pub(crate) fn hearing_for(&self, now: Instant) -> Option<Duration> {
        if !self.is_held(now) {
            return Some(Duration::ZERO);
        }
        self.deaf.lock().map(|at| now.saturating_duration_since(at))
    }

    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::Release);
        self.lanes.close();
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Whether the cache may be read as the truth: nobody else can have written yet.
    pub(crate) fn is_held(&self, now: Instant) -> bool {
        !self.is_lost() && now < *self.lease_ends.lock()
    }
}
