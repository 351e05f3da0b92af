//! Which replica owns which shard: what this one knows of it, what it takes, and what it hands over.
//!
//! ```text
//!  owner of a shard that moves          the next owner
//!  close the gate: new requests wait
//!  answer those that are inside
//!  commit what is queued
//!  end watches, forget the caches
//!  write the heir into the lease row ─► take the lease under a new epoch, load clusters when they are asked for
//! ```
//!
//! Nothing is lost if either side is killed at any of these lines: the row says whose the shard is, and a lease ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use galley_types::ShardId;
use tokio::time::Instant;

use crate::backend::{Fence, Presence};
use crate::error::StoreError;
use crate::shard::{Pass, Shard};
use crate::spread::{self, Lot, Patience, Roster};
use crate::store::{Inner, Store};
use crate::upkeep;
use crate::writer::{self, Writer};

/// How long requests inside may take before the shard is handed over under them: most take milliseconds.
const INSIDE: Duration = Duration::from_millis(400);
/// How long queued writes may take to commit before a hand-over. A database that is slower than this is in trouble.
const COMMITTING: Duration = Duration::from_secs(2);
/// Who owns what is read again no more often than this, however many requests ask.
const REFRESH_EVERY: Duration = Duration::from_millis(25);

/// Another replica, as the owner of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its name in lease rows.
    pub holder: String,
    /// `HOST:PORT` of its peer listener.
    pub address: String,
}

/// What is known of who owns what.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub roster: Roster,
    read_at: Option<Instant>,
}

impl Known {
    fn owner(&self, lot: &Lot) -> Option<Owner> {
        let holder = lot.owner()?;
        let member = self.roster.members.iter().find(|member| member.holder == holder)?;
        Some(Owner { holder: holder.to_owned(), address: member.address.clone() })
    }
}

impl Store {
    /// Lets a request to a cluster of the shard in. `None`: the shard is not here; ask its [`Store::owner`].
    pub fn enter(&self, shard: ShardId) -> Option<Pass> {
        self.inner.shard(shard)?.enter()
    }

    /// As [`Store::enter`], for a request that takes an old state (see [`Store::cluster_stale`]): past the lease too, for as long
    /// as no other owner is known.
    pub fn enter_stale(&self, shard: ShardId) -> Option<Pass> {
        self.inner.shard(shard)?.enter_stale()
    }

    /// Whether the shard is here and has not left yet, though its lease may have run out while the database is away.
    pub fn holds(&self, shard: ShardId) -> bool {
        self.inner.shard(shard).is_some_and(|shard| !shard.is_lost())
    }

    /// Shards that are here.
    pub fn shards(&self) -> Vec<ShardId> {
        self.inner.shard_list().iter().map(|shard| shard.id()).collect()
    }

    /// The replica that is thought to own the shard: not this one. It may be wrong, and says so when asked.
    pub fn owner(&self, shard: ShardId) -> Option<Owner> {
        let known = self.inner.known.read();
        let owner = known.owner(known.roster.lots.iter().find(|lot| lot.shard == shard)?)?;
        (owner.holder != self.inner.config.holder && !owner.address.is_empty()).then_some(owner)
    }

    /// All shards with their owners, this replica among them, as far as is known.
    pub fn shard_list(&self) -> Vec<(ShardId, Option<Owner>)> {
        let known = self.inner.known.read();
        known.roster.lots.iter().map(|lot| (lot.shard, known.owner(lot))).collect()
    }

    /// The other replicas that own shards.
    pub fn replicas(&self) -> Vec<Owner> {
        let known = self.inner.known.read();
        let others = known.roster.members.iter().filter(|member| member.holder != self.inner.config.holder);
        others.map(|member| Owner { holder: member.holder.clone(), address: member.address.clone() }).collect()
    }

    /// Reads again who owns what. Cheap to call often: many calls are one read.
    pub async fn owners_refresh(&self) -> Result<(), StoreError> {
        self.inner.refresh().await
    }

    /// Looks at the lease rows now, and takes what is this replica's: another one has handed something over.
    pub async fn look(&self) -> Result<(), StoreError> {
        upkeep::lease_round(&self.inner).await.map(drop)
    }

    /// Takes the shard if it has just been handed over to this replica.
    pub async fn arrive(&self, shard: ShardId) -> Result<(), StoreError> {
        self.inner.refresh().await?;
        let is_mine = {
            let known = self.inner.known.read();
            let lot = known.roster.lots.iter().find(|lot| lot.shard == shard);
            lot.and_then(|lot| lot.owner()) == Some(self.inner.config.holder.as_str())
        };
        if is_mine && !self.holds(shard) { self.look().await } else { Ok(()) }
    }

    /// Hands over all shards, evenly to those who stay, and takes none any more. Goes on serving as a gateway.
    pub async fn leave(&self) -> Result<(), StoreError> {
        self.inner.leaving.store(true, std::sync::atomic::Ordering::Release);
        upkeep::lease_round(&self.inner).await?;
        self.inner.handovers_end().await;
        Ok(())
    }

    /// Changes whenever a shard comes or goes.
    pub fn moves(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.moves.subscribe()
    }

    /// Replicas to which something was handed over: tell them to [`Store::look`]. For one consumer.
    pub fn heirs(&self) -> tokio::sync::mpsc::UnboundedReceiver<Owner> {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        *self.inner.heirs.lock() = Some(sender);
        receiver
    }
}

impl Inner {
    pub(crate) fn presence(&self) -> Presence {
        Presence {
            holder: self.config.holder.clone(),
            address: self.config.address.clone(),
            age: self.age(),
            leaving: self.leaving.load(std::sync::atomic::Ordering::Acquire),
        }
    }

    fn shard(&self, id: ShardId) -> Option<Arc<Shard>> {
        self.shards_read().get(&id).cloned()
    }

    pub(crate) fn learn(&self, roster: Roster) {
        *self.known.write() = Known { roster, read_at: Some(Instant::now()) };
    }

    pub(crate) async fn refresh(&self) -> Result<(), StoreError> {
        let asked = Instant::now();
        let _turn = self.refreshing.lock().await;
        let is_fresh = |at: Instant| at >= asked || at.elapsed() < REFRESH_EVERY;
        if self.known.read().read_at.is_some_and(is_fresh) {
            return Ok(());
        }
        let roster = self.backend.roster().await?;
        self.learn(roster);
        Ok(())
    }

    /// Takes and gives what makes shares even.
    pub(crate) async fn share(self: &Arc<Self>, roster: &Roster) -> Result<(), StoreError> {
        // A shard that is being handed over counts as held until it is gone.
        let held = self.shard_list();
        let ids: Vec<ShardId> = held.iter().map(|shard| shard.id()).collect();
        let patience = Patience { settle: self.config.settle, overdue: self.config.lease_renewal };
        let shares = spread::shares(&self.config.holder, &ids, roster, patience);
        if !shares.take.is_empty() {
            self.take(&shares.take).await?;
        }
        let gifts: Vec<(Arc<Shard>, Option<String>)> = shares
            .give
            .into_iter()
            .filter_map(|(id, heir)| Some((held.iter().find(|shard| shard.id() == id)?.clone(), heir)))
            .filter(|(shard, _)| shard.gate.close())
            .collect();
        if !gifts.is_empty() {
            let inner = Arc::clone(self);
            let handing = tokio::spawn(async move { inner.hand_over(gifts).await });
            let mut handovers = self.handovers.lock();
            handovers.retain(|task| !task.is_finished());
            handovers.push(handing);
        }
        Ok(())
    }

    /// Takes those of the shards that can be had, and starts their writers.
    async fn take(&self, shards: &[ShardId]) -> Result<(), StoreError> {
        let lease_ends = Instant::now() + self.config.lease;
        let fences = self.backend.lease_acquire(&self.config.holder, shards, self.config.lease).await?;
        for fence in fences {
            let shard = Arc::new(Shard::new(fence, lease_ends));
            let writer = Writer {
                shard: shard.clone(),
                backend: self.backend.clone(),
                config: self.config.clone(),
                clock: self.clock.clone(),
                notices: self.notices.clone(),
            };
            self.writer_start(writer.run());
            tracing::info!(shard = fence.shard.0, epoch = fence.epoch, "shard acquired");
            self.shard_insert(shard);
        }
        Ok(())
    }

    /// Hands shards over whose gates are closed. They go together: one write of lease rows.
    pub(crate) async fn hand_over(&self, gifts: Vec<(Arc<Shard>, Option<String>)>) {
        let inside = gifts.iter().map(|(shard, _)| shard.gate.emptied());
        let _ = tokio::time::timeout(INSIDE, futures::future::join_all(inside)).await;
        let clusters = self.all_loaded();
        let of_gifts =
            || clusters.iter().filter(|cluster| gifts.iter().any(|(gift, _)| Arc::ptr_eq(&cluster.loaded.shard, gift)));
        // One cluster's barrier is its whole shard's.
        let by_shard: BTreeMap<ShardId, _> =
            of_gifts().map(|cluster| (cluster.loaded.shard.id(), &cluster.loaded)).collect();
        let barriers = futures::future::join_all(by_shard.into_values().map(writer::barrier));
        let patience = COMMITTING.min(self.config.commit_timeout);
        if tokio::time::timeout(patience, barriers).await.is_err() {
            tracing::warn!("shards are handed over with writes whose outcome is unknown");
        }
        of_gifts().for_each(|cluster| cluster.loaded.close());
        if let Err(error) = self.settle_marks(Duration::ZERO).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "controllers' marks are lost");
        }
        // Read from here no more before anybody else may write.
        let released: Vec<(Fence, Option<String>)> =
            gifts.iter().map(|(shard, heir)| (shard.fence(), heir.clone())).collect();
        gifts.iter().for_each(|(shard, _)| self.lose(shard));
        if let Err(error) = self.backend.lease_release(&released, self.config.lease).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "leases run out instead of being handed over");
            return;
        }
        for (fence, heir) in &released {
            tracing::info!(shard = fence.shard.0, heir = heir.as_deref().unwrap_or("anybody"), "shard handed over");
        }
        self.told(&released);
    }

    /// What was handed over is known here at once, and its new owner is told.
    fn told(&self, released: &[(Fence, Option<String>)]) {
        let mut heirs: BTreeMap<String, String> = BTreeMap::new();
        {
            let roster = &mut self.known.write().roster;
            for (fence, heir) in released {
                if let Some(lot) = roster.lots.iter_mut().find(|lot| lot.shard == fence.shard) {
                    lot.holder.clone_from(heir);
                    lot.left = heir.as_ref().map(|_| self.config.lease);
                }
                let member = roster.members.iter().find(|member| Some(&member.holder) == heir.as_ref());
                heirs.extend(member.map(|member| (member.holder.clone(), member.address.clone())));
            }
        }
        if let Some(sender) = &*self.heirs.lock() {
            for (holder, address) in heirs.into_iter().filter(|(_, address)| !address.is_empty()) {
                // Nobody listens: the heir looks by itself, a little later.
                let _ = sender.send(Owner { holder, address });
            }
        }
    }

    pub(crate) async fn handovers_end(&self) {
        let handovers = std::mem::take(&mut *self.handovers.lock());
        futures::future::join_all(handovers).await;
    }
}
