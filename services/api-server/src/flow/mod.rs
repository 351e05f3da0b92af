//! Fair queues for each tenant: turns to compute, watches, and bytes of bodies.
//!
//! ```text
//!  request ── authenticated ── Flow ──► serve ── a turn for each poll ──► authorize, decode ... encode
//!                               │                                          │ waits (body, lock, commit): no turn is held
//!                               ├─ watch: one of the tenant's                └─► lists and watches: a turn for each piece
//!                               └─ body: bytes, until the request ends
//! ```
//!
//! A turn is held while a future is polled, so no seat is ever held by what waits: a slow client, a commit, a log that is
//! followed. What a poll took is charged to its tenant afterwards, and whoever took least goes next. A request that is dropped
//! gives back what it has and its place in the queue.
//!
//! Who decides is `galley-fair`; here is the waiting. Without it one tenant's list storm is everybody's latency.

mod level;

use std::future::poll_fn;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, Stream, stream};
use galley_authz::Actor;
use galley_fair::{Answer, Budget, Exceeded, Limit, Limits, Seats, Who};
use galley_kube::{Reason, Status};
use galley_types::{ClusterId, TenantId};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

/// Bytes that are encrypted, copied and sent in a microsecond of a core, after the turn that made them.
const SENT_PER_MICROSECOND: u64 = 500;
/// This part of a tenant's watches and body bytes is for nodes and the cluster's components only.
const VITAL_PART: u64 = 8;

/// What an operator may turn.
#[derive(Debug, Clone)]
pub struct FlowConfig {
    /// Turns at once.
    pub seats: usize,
    /// Requests of one level of a tenant that may wait for their first turn. One more is answered 429.
    pub waiting: usize,
    /// How long they may wait before they are answered 429: the API server's quarter of its request timeout.
    pub patience: Duration,
    /// Watches of a tenant at a time.
    pub watches: u64,
    /// Bytes of request bodies under way, of all tenants.
    pub body_bytes: u64,
    /// Bytes of request bodies under way, of one tenant.
    pub tenant_body_bytes: u64,
}

impl Default for FlowConfig {
    fn default() -> Self {
        Self {
            // What a turn is spent on is computing.
            seats: std::thread::available_parallelism().map_or(2, usize::from),
            // A second's worth of small requests on one core.
            waiting: 4096,
            patience: Duration::from_secs(15),
            // A thousand nodes' (about ten each), and as many again.
            watches: 20_000,
            // Decoded, a body takes up to ten times its bytes.
            body_bytes: 256 << 20,
            tenant_body_bytes: 64 << 20,
        }
    }
}

/// How often what happened.
#[derive(Debug, Default)]
struct Counts {
    queued: AtomicU64,
    refused_queue: AtomicU64,
    refused_wait: AtomicU64,
    refused_watches: AtomicU64,
    refused_bodies: AtomicU64,
    sent: AtomicU64,
}

/// What happened so far, and what is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowStats {
    /// Turns that had to be waited for.
    pub queued: u64,
    /// Requests refused because too many waited.
    pub refused_queue: u64,
    /// Requests refused because they waited too long.
    pub refused_wait: u64,
    /// Watches refused.
    pub refused_watches: u64,
    /// Bodies refused.
    pub refused_bodies: u64,
    /// Bytes of lists and watches that connections have asked for.
    pub sent: u64,
    /// Turns waited for now.
    pub waiting: u64,
    /// Watches now.
    pub watches: u64,
    /// Bytes of bodies now.
    pub body_bytes: u64,
}

/// One process' turns and budgets.
#[derive(Debug)]
pub struct FlowControl {
    config: FlowConfig,
    opened: Instant,
    seats: Mutex<Seats<TenantId, (Who<TenantId>, oneshot::Sender<Seat>)>>,
    watches: Mutex<Budget<TenantId>>,
    bodies: Mutex<Budget<TenantId>>,
    counts: Counts,
}

impl FlowControl {
    /// Nothing is under way.
    pub fn new(config: FlowConfig) -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            seats: Mutex::new(Seats::new(Limits { seats: config.seats, waiting: config.waiting })),
            watches: Mutex::new(Budget::new(u64::MAX, config.watches)),
            bodies: Mutex::new(Budget::new(config.body_bytes, config.tenant_body_bytes)),
            counts: Counts::default(),
            config,
        })
    }

    /// How a request of this caller to this path takes its turns.
    pub fn of(self: &Arc<Self>, tenant: TenantId, cluster: ClusterId, actor: &Actor, path: &str) -> Arc<Flow> {
        let mut user = DefaultHasher::new();
        (cluster, &actor.username).hash(&mut user);
        let who = Who { tenant, level: level::of(actor), user: user.finish() };
        let exempt = level::is_exempt(path);
        Arc::new(Flow { control: Arc::clone(self), who, exempt, body: AtomicU64::new(0) })
    }

    /// For metrics.
    pub fn stats(&self) -> FlowStats {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        FlowStats {
            queued: read(&self.counts.queued),
            refused_queue: read(&self.counts.refused_queue),
            refused_wait: read(&self.counts.refused_wait),
            refused_watches: read(&self.counts.refused_watches),
            refused_bodies: read(&self.counts.refused_bodies),
            sent: read(&self.counts.sent),
            waiting: u64::try_from(self.seats.lock().waiting()).unwrap_or(u64::MAX),
            watches: self.watches.lock().used(),
            body_bytes: self.bodies.lock().used(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn seat(self: &Arc<Self>, who: Who<TenantId>) -> Seat {
        Seat { control: Arc::clone(self), who, cost: 0 }
    }

    fn end(self: &Arc<Self>, who: Who<TenantId>, cost: u64) {
        let now = self.now();
        self.seats.lock().end(who, cost, now);
        loop {
            // The lock is not held while somebody is woken: one that has left gives the seat back at once.
            let next = self.seats.lock().next(now, |(_, wake)| !wake.is_closed());
            let Some((who, wake)) = next else { return };
            drop(wake.send(self.seat(who)));
        }
    }

    fn count(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// The right to compute, until it is dropped.
#[derive(Debug)]
struct Seat {
    control: Arc<FlowControl>,
    who: Who<TenantId>,
    cost: u64,
}

impl Seat {
    /// Ends the turn, in which so much was made.
    fn end(mut self, took: Duration, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.cost = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).saturating_add(bytes / SENT_PER_MICROSECOND);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.control.end(self.who, self.cost);
    }
}

/// One request's way through.
#[derive(Debug)]
pub struct Flow {
    control: Arc<FlowControl>,
    who: Who<TenantId>,
    exempt: bool,
    /// Bytes of its body, held until the end.
    body: AtomicU64,
}

impl Drop for Flow {
    fn drop(&mut self) {
        let body = *self.body.get_mut();
        if body > 0 {
            self.control.bodies.lock().give_back(self.who.tenant, body);
        }
    }
}

impl Flow {
    /// Does `work`, a turn for each poll. 429 if too many wait before it, or it waits too long, for the first.
    pub async fn serve<F: Future>(&self, work: F) -> Result<F::Output, Status> {
        if self.exempt {
            return Ok(work.await);
        }
        let mut turns = Turns::new(&self.control, self.who, true);
        let mut work = pin!(work);
        poll_fn(|context| {
            let seat = ready!(turns.poll(context))?;
            let begun = Instant::now();
            let polled = work.as_mut().poll(context);
            seat.end(begun.elapsed(), 0);
            polled.map(Ok)
        })
        .await
    }

    /// Pieces of an answer, a turn for each. It ends early only if the server does.
    pub fn pieces<E>(
        self: &Arc<Self>,
        pieces: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    ) -> impl Stream<Item = Result<Bytes, E>> + Send + 'static
    where
        E: 'static,
    {
        let control = Arc::clone(&self.control);
        let mut turns = Turns::new(&control, self.who, false);
        let mut pieces = Box::pin(pieces);
        stream::poll_fn(move |context| {
            let Ok(seat) = ready!(turns.poll(context)) else { return Poll::Ready(None) };
            let begun = Instant::now();
            let polled = pieces.as_mut().poll_next(context);
            let bytes = match &polled {
                Poll::Ready(Some(Ok(piece))) => piece.len(),
                Poll::Ready(Some(Err(_)) | None) | Poll::Pending => 0,
            };
            control.counts.sent.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
            seat.end(begun.elapsed(), bytes);
            polled
        })
    }

    /// One of the tenant's watches, until it is dropped.
    pub fn watch(&self) -> Result<HeldWatch, Status> {
        let control = &self.control;
        let taken = control.watches.lock().take(self.who.tenant, 1, self.spare(control.config.watches));
        taken.map_err(|exceeded| {
            FlowControl::count(&control.counts.refused_watches);
            self.exceeded("watches", exceeded)
        })?;
        Ok(HeldWatch { control: Arc::clone(control), tenant: self.who.tenant })
    }

    /// Holds so many bytes of this request's body until the request ends.
    pub fn body(&self, bytes: usize) -> Result<(), Status> {
        let control = &self.control;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let spare = self.spare(control.config.tenant_body_bytes);
        control.bodies.lock().take(self.who.tenant, bytes, spare).map_err(|exceeded| {
            FlowControl::count(&control.counts.refused_bodies);
            self.exceeded("bytes of request bodies", exceeded)
        })?;
        self.body.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn spare(&self, limit: u64) -> u64 {
        if self.who.level.is_vital() { 0 } else { limit / VITAL_PART }
    }

    fn exceeded(&self, what: &str, Exceeded { whose, used, limit }: Exceeded) -> Status {
        match whose {
            Limit::Own => too_many(&format!("this tenant has {used} {what} under way, and may have {limit}")),
            Limit::All => too_many(&format!("this server has {used} {what} under way, and may have {limit}")),
        }
    }
}

/// One of a tenant's watches.
#[derive(Debug)]
pub struct HeldWatch {
    control: Arc<FlowControl>,
    tenant: TenantId,
}

impl Drop for HeldWatch {
    fn drop(&mut self) {
        self.control.watches.lock().give_back(self.tenant, 1);
    }
}

/// The turns of one future or stream, one after the other.
struct Turns {
    control: Arc<FlowControl>,
    who: Who<TenantId>,
    first: bool,
    waiting: Option<(oneshot::Receiver<Seat>, Option<Pin<Box<Sleep>>>)>,
}

impl Turns {
    fn new(control: &Arc<FlowControl>, who: Who<TenantId>, first: bool) -> Self {
        Self { control: Arc::clone(control), who, first, waiting: None }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Seat, Status>> {
        let control = &self.control;
        if self.waiting.is_none() {
            let who = self.who;
            let mut waits = None;
            let wake = || {
                let (wake, woken) = oneshot::channel();
                waits = Some(woken);
                (who, wake)
            };
            let answer = control.seats.lock().ask(who, self.first, control.now(), wake);
            match answer {
                Ok(Answer::Begin) => {
                    self.first = false;
                    return Poll::Ready(Ok(control.seat(who)));
                }
                Ok(Answer::Wait) => {
                    FlowControl::count(&control.counts.queued);
                    let patience = self.first.then(|| Box::pin(tokio::time::sleep(control.config.patience)));
                    self.waiting = waits.map(|woken| (woken, patience));
                }
                Err(refused) => {
                    FlowControl::count(&control.counts.refused_queue);
                    let why = format!("{} requests of this tenant wait, and no more may", refused.waiting);
                    return Poll::Ready(Err(too_many(&why)));
                }
            }
        }
        let Some((woken, patience)) = &mut self.waiting else { return Poll::Pending };
        if let Poll::Ready(seat) = woken.poll_unpin(context) {
            (self.waiting, self.first) = (None, false);
            return Poll::Ready(seat.map_err(|_| Status::internal("the server ends")));
        }
        if let Some(patience) = patience
            && patience.poll_unpin(context).is_ready()
        {
            self.waiting = None;
            FlowControl::count(&control.counts.refused_wait);
            let why = format!("this request waited {:?} behind others of this tenant", control.config.patience);
            return Poll::Ready(Err(too_many(&why)));
        }
        Poll::Pending
    }
}

/// 429, in the words that the API server's fair queues say, and which limit it was.
fn too_many(why: &str) -> Status {
    let text = format!("Too many requests, please try again later: {why}");
    let mut status = Status::new(429, Reason::TooManyRequests, text);
    status.retry_after_seconds = 1;
    status
}

#[cfg(test)]
mod tests;
