//! A database in memory, for tests and simulations: same contract as Postgres', with faults on demand.
//!
//! Faults are what a network and a dying server do: a commit that fails, a commit that takes effect without an answer, one
//! that takes effect later, unless a raised epoch stops it first, and one that hangs for longer than anybody waits.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use galley_types::{Clock, ClusterId, ResourceName, Revision, ShardId};
use jiff::Timestamp;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::memory_registry::Registry;
use super::{
    Answer, BackendError, Batch, Cause, ChangeRow, ChangesPage, ChangesQuery, Fence, Fits, Mark, ObjectRow, Presence,
    Renewed, Snapshot, Unsettled,
};
use crate::codec;
use crate::config::SEGMENT_SECONDS;
use crate::object::ObjectKey;
use crate::spread::{Lot, Member, Roster};
use crate::watch::EventKind;

/// How often what goes wrong, of 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Faults {
    /// Any operation is refused.
    pub refused: f64,
    /// A commit's answer is lost after it took effect.
    pub answer_lost: f64,
    /// A commit's answer is lost, and it takes effect later or never.
    pub late: f64,
    /// A commit hangs before it takes effect, up to `stall`.
    pub stalled: f64,
    /// The longest that a stalled commit takes, in tokio's time.
    pub stall: Duration,
    /// The longest that an operation takes, in tokio's time, and once more until its answer is heard.
    pub latency: Duration,
}

#[derive(Debug)]
pub(crate) struct Memory {
    clock: Arc<dyn Clock>,
    tables: Mutex<Tables>,
    weather: Mutex<(Faults, SmallRng)>,
}

#[derive(Debug, Default)]
pub(super) struct Tables {
    shards: BTreeMap<ShardId, Lease>,
    replicas: BTreeMap<String, Replica>,
    clusters: BTreeMap<ClusterId, Contents>,
    /// Commits under way whose answer is lost already.
    late: Vec<Late>,
    /// Commits sent on their way so far.
    sent: u64,
    commits: u64,
    history: DefaultHasher,
    written: BTreeMap<ResourceName, u64>,
    #[cfg(test)]
    ledger: BTreeMap<(ClusterId, Revision), ChangeRow>,
    pub(super) registry: Registry,
}

/// A commit that is on its way; its number tells it from others.
#[derive(Debug)]
struct Late {
    number: u64,
    fence: Fence,
    batch: Batch,
}

#[derive(Debug, Default)]
struct Lease {
    holder: Option<String>,
    epoch: i64,
    expires: Timestamp,
}

#[derive(Debug)]
struct Replica {
    address: String,
    started: Timestamp,
    leaving: bool,
    expires: Timestamp,
}

#[derive(Debug, Default)]
struct Contents {
    revision: Revision,
    settled: Revision,
    wake_at: Option<Timestamp>,
    compacted: Revision,
    objects: BTreeMap<ObjectKey, ObjectRow>,
    changes: BTreeMap<Revision, (Timestamp, ChangeRow)>,
}

impl Memory {
    pub(crate) fn new(clock: Arc<dyn Clock>, seed: u64) -> Self {
        Self {
            clock,
            tables: Mutex::default(),
            weather: Mutex::new((Faults::default(), SmallRng::seed_from_u64(seed))),
        }
    }

    pub(crate) fn faults(&self, faults: Faults) {
        self.weather.lock().0 = faults;
    }

    pub(crate) fn commits(&self) -> u64 {
        self.tables.lock().commits
    }

    pub(crate) fn history(&self) -> u64 {
        self.tables.lock().history.finish()
    }

    pub(crate) fn written(&self) -> BTreeMap<ResourceName, u64> {
        self.tables.lock().written.clone()
    }

    #[cfg(test)]
    pub(crate) fn ledger(&self, cluster: ClusterId) -> Vec<ChangeRow> {
        let tables = self.tables.lock();
        let range = tables.ledger.range((cluster, Revision(0))..=(cluster, Revision(u64::MAX)));
        range.map(|(_, row)| row.clone()).collect()
    }

    #[cfg(test)]
    pub(crate) fn has(&self, cluster: ClusterId) -> bool {
        self.tables.lock().clusters.contains_key(&cluster)
    }

    #[cfg(test)]
    pub(crate) fn compacted(&self, cluster: ClusterId) -> Revision {
        self.tables.lock().clusters.get(&cluster).map_or(Revision(0), |contents| contents.compacted)
    }

    /// Everything that is stored, as bytes: what a dump would show.
    pub(crate) fn dump(&self) -> Vec<u8> {
        let tables = self.tables.lock();
        let mut dump = Vec::new();
        for contents in tables.clusters.values() {
            contents.objects.values().for_each(|row| dump.extend_from_slice(&row.body));
            for (_, row) in contents.changes.values() {
                dump.extend(row.body.iter().flatten());
                dump.extend(row.previous.iter().flat_map(|previous| previous.body.iter().flatten()));
            }
        }
        dump
    }

    async fn weather(&self, operation: &'static str) -> Result<(), BackendError> {
        self.latency().await;
        if self.chance(|faults| faults.refused) {
            Err(BackendError::Failed { operation, source: Cause::Injected })
        } else {
            Ok(())
        }
    }

    async fn latency(&self) {
        let latency = {
            let (faults, rng) = &mut *self.weather.lock();
            (!faults.latency.is_zero()).then(|| rng.random_range(Duration::ZERO..faults.latency))
        };
        if let Some(latency) = latency {
            tokio::time::sleep(latency).await;
        }
    }

    fn chance(&self, of: impl Fn(&Faults) -> f64) -> bool {
        let (faults, rng) = &mut *self.weather.lock();
        let of = of(faults);
        of > 0.0 && rng.random_bool(of)
    }

    /// An operation without surprises but refusal and latency.
    pub(super) fn answer<'a, T: Send + 'a>(
        &'a self,
        operation: &'static str,
        work: impl FnOnce(&mut Tables) -> T + Send + 'a,
    ) -> Answer<'a, T> {
        self.try_answer(operation, |tables| Ok(work(tables)))
    }

    pub(super) fn try_answer<'a, T: Send + 'a>(
        &'a self,
        operation: &'static str,
        work: impl FnOnce(&mut Tables) -> Result<T, BackendError> + Send + 'a,
    ) -> Answer<'a, T> {
        Box::pin(async move {
            self.weather(operation).await?;
            let answer = work(&mut self.tables.lock());
            self.latency().await;
            answer
        })
    }

    pub(super) fn shards_ensure(&self, count: u32) -> Answer<'_, ()> {
        self.answer("shards_ensure", move |tables| {
            for id in 0..i32::try_from(count).unwrap_or(i32::MAX) {
                tables.shards.entry(ShardId(id)).or_default();
            }
        })
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

impl Tables {
    fn roster(&self, now: Timestamp) -> Roster {
        let since = |then: Timestamp| Duration::try_from(now.duration_since(then)).unwrap_or_default();
        let members = self.replicas.iter().filter(|(_, replica)| replica.expires > now);
        let member = |(holder, replica): (&String, &Replica)| Member {
            holder: holder.clone(),
            address: replica.address.clone(),
            age: since(replica.started),
            leaving: replica.leaving,
        };
        let lot = |(shard, row): (&ShardId, &Lease)| Lot {
            shard: *shard,
            holder: row.holder.clone(),
            left: row
                .holder
                .as_ref()
                .and_then(|_| Duration::try_from(row.expires.duration_since(now)).ok())
                .filter(|left| !left.is_zero()),
            free_for: since(row.expires),
        };
        Roster { members: members.map(member).collect(), lots: self.shards.iter().map(lot).collect() }
    }

    pub(super) fn holds(&self, fence: Fence) -> bool {
        self.shards.get(&fence.shard).is_some_and(|lease| lease.epoch == fence.epoch)
    }

    fn commit(&mut self, fence: Fence, batch: &Batch) -> Result<(), BackendError> {
        if !self.holds(fence) {
            return Err(BackendError::Fenced { shard: fence.shard });
        }
        let follows = |step: &super::Step| {
            self.clusters.get(&step.cluster).is_some_and(|contents| contents.revision == step.base)
        };
        if !batch.steps.iter().all(follows) {
            return Err(BackendError::Fenced { shard: fence.shard });
        }
        self.commits += 1;
        for step in &batch.steps {
            self.clusters.entry(step.cluster).or_default().revision = step.next;
        }
        for row in &batch.rows {
            self.remember(batch.at, row);
            let contents = self.clusters.entry(row.cluster).or_default();
            if row.last {
                match row.kind {
                    EventKind::Added | EventKind::Modified => {
                        contents.objects.insert(row.key.clone(), object_row(row, batch.at));
                    }
                    EventKind::Deleted => {
                        contents.objects.remove(&row.key);
                    }
                }
            }
            if row.logged {
                contents.changes.insert(row.revision, (batch.at, row.clone()));
            }
        }
        Ok(())
    }

    fn remember(&mut self, at: Timestamp, row: &ChangeRow) {
        *self.written.entry(row.key.resource.clone()).or_default() += 1;
        let kind = format!("{:?}", row.kind);
        (row.cluster, row.revision, kind, &row.key, &row.uid, &row.meta, at.as_microsecond()).hash(&mut self.history);
        // What is encrypted differs each time.
        if !codec::is_sealed(&row.key.resource) {
            row.body.hash(&mut self.history);
        }
        #[cfg(test)]
        self.ledger.insert((row.cluster, row.revision), row.clone());
    }

    /// Commits of the shard that are still on their way end: each took effect, or never will.
    fn settle_late(&mut self, shard: ShardId, mut take: impl FnMut() -> bool) {
        let (ending, late) = std::mem::take(&mut self.late).into_iter().partition(|late| late.fence.shard == shard);
        self.late = late;
        let ending: Vec<Late> = ending;
        for late in ending {
            if take() {
                let _ = self.commit(late.fence, &late.batch);
            }
        }
    }

    /// Sends a commit on its way.
    fn send(&mut self, fence: Fence, batch: &Batch) -> u64 {
        self.sent += 1;
        self.late.push(Late { number: self.sent, fence, batch: batch.clone() });
        self.sent
    }

    pub(super) fn contents_remove(&mut self, cluster: ClusterId) {
        self.clusters.remove(&cluster);
    }

    pub(super) fn contents_add(&mut self, cluster: ClusterId) {
        self.clusters.entry(cluster).or_default();
    }
}

fn object_row(row: &ChangeRow, at: Timestamp) -> ObjectRow {
    ObjectRow {
        key: row.key.clone(),
        uid: row.uid.clone(),
        revision: row.revision,
        meta: row.meta.clone(),
        revision_at: row.revision_at,
        body: row.body.clone().unwrap_or_default(),
        at,
    }
}

fn segment(at: Timestamp) -> i64 {
    at.as_second().div_euclid(SEGMENT_SECONDS)
}

impl Memory {
    pub(super) fn lease_acquire<'a>(
        &'a self,
        holder: &'a str,
        shards: &'a [ShardId],
        lease: Duration,
    ) -> Answer<'a, Vec<Fence>> {
        self.answer("lease_acquire", move |tables| {
            let now = self.now();
            let free: Vec<ShardId> = tables
                .shards
                .iter()
                .filter(|(id, row)| {
                    shards.contains(id)
                        && row.holder.as_deref().is_none_or(|held_by| held_by == holder || row.expires <= now)
                })
                .map(|(id, _)| *id)
                .collect();
            free.into_iter()
                .filter_map(|shard| {
                    tables.settle_late(shard, || self.chance(|_| 0.5));
                    let row = tables.shards.get_mut(&shard)?;
                    row.holder = Some(holder.to_owned());
                    row.epoch += 1;
                    row.expires = now + lease;
                    Some(Fence { shard, epoch: row.epoch })
                })
                .collect()
        })
    }

    pub(super) fn lease_renew<'a>(
        &'a self,
        me: &'a Presence,
        held: &'a [Fence],
        lease: Duration,
    ) -> Answer<'a, Renewed> {
        self.answer("lease_renew", move |tables| {
            let now = self.now();
            let expires = now + lease;
            let replica = Replica { address: me.address.clone(), started: now - me.age, leaving: me.leaving, expires };
            tables.replicas.insert(me.holder.clone(), replica);
            let mut fences = Vec::new();
            for fence in held.iter().filter(|fence| tables.holds(**fence)).copied().collect::<Vec<_>>() {
                if let Some(row) = tables.shards.get_mut(&fence.shard) {
                    row.expires = expires;
                    fences.push(fence);
                }
            }
            Renewed { fences, roster: tables.roster(now) }
        })
    }

    pub(super) fn lease_release<'a>(&'a self, held: &'a [(Fence, Option<String>)], lease: Duration) -> Answer<'a, ()> {
        self.answer("lease_release", move |tables| {
            for (fence, heir) in held {
                if tables.holds(*fence)
                    && let Some(row) = tables.shards.get_mut(&fence.shard)
                {
                    row.expires = if heir.is_some() { self.now() + lease } else { self.now() };
                    row.holder.clone_from(heir);
                }
            }
        })
    }

    pub(super) fn roster(&self) -> Answer<'_, Roster> {
        self.answer("roster", move |tables| tables.roster(self.now()))
    }

    pub(super) fn replica_leave<'a>(&'a self, holder: &'a str) -> Answer<'a, ()> {
        self.answer("replica_leave", move |tables| {
            tables.replicas.remove(holder);
        })
    }

    pub(super) fn lease_bump(&self, fence: Fence, lease: Duration) -> Answer<'_, Option<Fence>> {
        self.answer("lease_bump", move |tables| {
            if !tables.holds(fence) {
                return None;
            }
            tables.settle_late(fence.shard, || self.chance(|_| 0.5));
            let expires = self.now() + lease;
            let row = tables.shards.get_mut(&fence.shard)?;
            row.epoch += 1;
            row.expires = expires;
            Some(Fence { shard: fence.shard, epoch: row.epoch })
        })
    }

    async fn commit_faulty(&self, fence: Fence, batch: &Batch) -> Result<(), BackendError> {
        self.weather("commit").await?;
        let unknown = BackendError::Unknown { operation: "commit", source: Cause::Injected };
        if self.chance(|faults| faults.late) {
            self.tables.lock().send(fence, batch);
            return Err(unknown);
        }
        if self.chance(|faults| faults.stalled) {
            let number = self.tables.lock().send(fence, batch);
            let stall = {
                let (faults, rng) = &mut *self.weather.lock();
                rng.random_range(Duration::ZERO..=faults.stall)
            };
            // Whoever waits may give up here: the commit stays on its way.
            tokio::time::sleep(stall).await;
            let mut tables = self.tables.lock();
            let Some(at) = tables.late.iter().position(|late| late.number == number) else { return Err(unknown) };
            tables.late.remove(at);
            return tables.commit(fence, batch);
        }
        self.tables.lock().commit(fence, batch)?;
        self.latency().await;
        if self.chance(|faults| faults.answer_lost) { Err(unknown) } else { Ok(()) }
    }

    fn changes_page(tables: &Tables, query: &ChangesQuery) -> ChangesPage {
        let empty = Contents::default();
        let contents = tables.clusters.get(&query.cluster).unwrap_or(&empty);
        let in_scope = |row: &ChangeRow| {
            row.key.resource == query.scope.resource
                && query.scope.namespace.as_ref().is_none_or(|namespace| *namespace == row.key.namespace)
        };
        let mut bytes = 0;
        let rows: Vec<ChangeRow> = contents
            .changes
            .range(query.after.next()..)
            .take_while(|(revision, _)| **revision <= query.until)
            .filter(|(_, (_, row))| in_scope(row))
            .take(query.limit)
            .take_while(|(_, (_, row))| {
                let before = bytes;
                let previous = row.previous.as_ref().and_then(|previous| previous.body.as_ref());
                bytes += [row.body.as_ref(), previous].into_iter().flatten().map(Bytes::len).sum::<usize>();
                before < query.bytes
            })
            .map(|(_, (_, row))| {
                let mut row = row.clone();
                if let Some(previous) = row.previous.as_mut().filter(|previous| previous.body.is_none()) {
                    previous.body =
                        contents.changes.get(&previous.revision).and_then(|(_, before)| before.body.clone());
                }
                row
            })
            .collect();
        let more = rows.len() >= query.limit || bytes >= query.bytes;
        ChangesPage { compacted: contents.compacted, rows, more }
    }

    fn unsettled_rows(tables: &Tables, shards: &[ShardId], now: Timestamp) -> Vec<Unsettled> {
        let active = tables.registry.active(shards);
        active
            .filter_map(|cluster| {
                let contents = tables.clusters.get(&cluster)?;
                let due = contents.settled < contents.revision || contents.wake_at.is_some_and(|at| at <= now);
                due.then_some(Unsettled {
                    cluster,
                    revision: contents.revision,
                    settled: contents.settled,
                    wake_at: contents.wake_at,
                })
            })
            .collect()
    }
}

/// The objects' half of [`Backend`]; the registry's half is in `memory_registry`, which has the `impl`.
impl Memory {
    pub(super) fn commit<'a>(&'a self, fence: Fence, batch: &'a Batch) -> Answer<'a, ()> {
        Box::pin(self.commit_faulty(fence, batch))
    }

    pub(super) fn revisions<'a>(&'a self, clusters: &'a [ClusterId]) -> Answer<'a, Vec<Revision>> {
        self.answer("revisions", move |tables| {
            // A commit under an epoch that was not raised may still arrive.
            let late: Vec<ShardId> = tables.late.iter().map(|late| late.fence.shard).collect();
            let revision = |cluster| tables.clusters.get(cluster).map_or(Revision(0), |contents| contents.revision);
            let answer = clusters.iter().map(revision).collect();
            late.into_iter().for_each(|shard| tables.settle_late(shard, || self.chance(|_| 0.5)));
            answer
        })
    }

    pub(super) fn snapshot<'a>(&'a self, cluster: ClusterId, fits: Fits<'a>) -> Answer<'a, Option<Snapshot>> {
        let snapshot = self.answer("snapshot", move |tables| match tables.clusters.get(&cluster) {
            None => Snapshot { revision: Revision(0), objects: Vec::new() },
            Some(contents) => {
                Snapshot { revision: contents.revision, objects: contents.objects.values().cloned().collect() }
            }
        });
        // Asked outside of the lock, as Postgres would.
        Box::pin(async move {
            let snapshot = snapshot.await?;
            let fits = snapshot.objects.iter().all(|object| fits(object.size()));
            Ok(fits.then_some(snapshot))
        })
    }

    pub(super) fn changes(&self, query: ChangesQuery) -> Answer<'_, ChangesPage> {
        self.answer("changes", move |tables| Self::changes_page(tables, &query))
    }

    pub(super) fn compact(&self, before: Timestamp) -> Answer<'_, ()> {
        self.answer("compact", move |tables| {
            let keep = segment(before);
            for contents in tables.clusters.values_mut() {
                let dropped = |at: &Timestamp| segment(*at) < keep;
                let newest = contents.changes.iter().rev().find(|(_, (at, _))| dropped(at)).map(|(key, _)| *key);
                contents.compacted = contents.compacted.max(newest.unwrap_or_default());
                contents.changes.retain(|_, (at, _)| !dropped(at));
            }
        })
    }

    pub(super) fn settle<'a>(&'a self, marks: &'a [Mark]) -> Answer<'a, ()> {
        self.answer("settle", move |tables| {
            for mark in marks {
                if let Some(contents) = tables.clusters.get_mut(&mark.cluster) {
                    contents.settled = contents.settled.max(mark.revision);
                    contents.wake_at = mark.wake_at;
                }
            }
        })
    }

    pub(super) fn unsettled<'a>(&'a self, shards: &'a [ShardId], now: Timestamp) -> Answer<'a, Vec<Unsettled>> {
        self.answer("unsettled", move |tables| Self::unsettled_rows(tables, shards, now))
    }
}
