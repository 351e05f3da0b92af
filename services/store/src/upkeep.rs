//! What the store does by itself: leases, eviction, times to live, retention, removal of deleted clusters. Each step is safe to
//! repeat, and to be killed in.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::Fence;
use crate::cluster::Write;
use crate::codec;
use crate::config::SEGMENT_SECONDS;
use crate::error::StoreError;
use crate::object::Object;
use crate::shard::Shard;
use crate::store::Inner;
use crate::writer;

/// After a failed renewal the next attempt comes this soon: a database that is back is noticed at once.
const LEASE_RETRY: Duration = Duration::from_millis(500);
/// Between rounds of housekeeping.
const HOUSE_EVERY: Duration = Duration::from_secs(2);
/// Rounds between looks at retention and times to live: both are slow to matter, and cost queries.
const SLOW_ROUNDS: u64 = 15;
/// How long a controllers' mark must stand before it is written down. Longer than nodes' heartbeats are apart, which move the
/// mark too: a cluster with nodes is in memory whatever its mark says, and writing it down would double what a heartbeat
/// costs Postgres.
const MARK_AFTER: Duration = Duration::from_secs(15);
/// Expired Events deleted from a cluster in one round, and in one batch of it.
const EXPIRE_IN_ROUND: usize = 10_000;
const EXPIRE_AT_ONCE: usize = 250;
/// Between looks at deleted clusters.
const PURGE_EVERY: Duration = Duration::from_secs(5);
/// Deleted clusters whose rows are removed together: a cluster that was hardly used has some 150 rows, and a statement for each
/// would take longer than what it does.
const PURGE_CLUSTERS: usize = 64;
/// Rows of a table removed in one transaction: a few hundred milliseconds of Postgres, so that vacuum and the log of commits
/// never wait long for it.
const PURGE_ROWS: i64 = 10_000;

/// After another replica's lease ends, before its shards are looked at: the database's clock and this one's timers differ.
const AFTER_EXPIRY: Duration = Duration::from_millis(50);

/// Renews leases, takes shards that become free, and gives away more than a fair share.
pub(crate) async fn leases(store: Weak<Inner>) {
    loop {
        let Some(inner) = store.upgrade() else { return };
        let every = inner.config.lease_renewal;
        let next = lease_round(&inner).await.unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "leases not renewed");
            every.min(LEASE_RETRY)
        });
        drop(inner);
        tokio::time::sleep(next).await;
    }
}

/// Says when to look again: a lease that runs out before its renewal is that of a replica that is gone.
pub(crate) async fn lease_round(inner: &Arc<Inner>) -> Result<Duration, StoreError> {
    let _round = inner.round.lock().await;
    let shards = inner.shard_list();
    for shard in shards.iter().filter(|shard| shard.is_lost()) {
        inner.lose(shard);
    }
    // A shard whose writer is raising its epoch renews by that.
    let held: Vec<(&Arc<Shard>, tokio::sync::MutexGuard<'_, ()>)> = shards
        .iter()
        .filter(|shard| !shard.is_lost())
        .filter_map(|shard| shard.lease.try_lock().ok().map(|guard| (shard, guard)))
        .collect();
    let fences: Vec<Fence> = held.iter().map(|(shard, _)| shard.fence()).collect();
    let lease_ends = Instant::now() + inner.config.lease;
    let renewed = inner.backend.lease_renew(&inner.presence(), &fences, inner.config.lease).await?;
    for (shard, _guard) in held {
        if renewed.fences.contains(&shard.fence()) {
            shard.renewed(lease_ends);
        } else if !shard.is_lost() {
            inner.lose(shard);
        }
    }
    inner.share(&renewed.roster).await?;
    let others = renewed.roster.lots.iter().filter(|lot| lot.owner().is_some_and(|owner| owner != inner.config.holder));
    let next = others.filter_map(|lot| lot.left).min().map_or(Duration::MAX, |left| left + AFTER_EXPIRY);
    inner.learn(renewed.roster);
    Ok(next.min(inner.config.lease_renewal))
}

/// Keeps an eye on who holds what, for a process that holds nothing itself.
pub(crate) async fn watch_roster(store: Weak<Inner>) {
    loop {
        let Some(inner) = store.upgrade() else { return };
        let every = inner.config.lease_renewal;
        if let Err(error) = inner.refresh().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "who holds what is not known");
        }
        drop(inner);
        tokio::time::sleep(every).await;
    }
}

/// Everything that is not urgent.
pub(crate) async fn house(store: Weak<Inner>) {
    let mut round = 0;
    loop {
        {
            let Some(inner) = store.upgrade() else { return };
            if let Err(error) = house_round(&inner, round % SLOW_ROUNDS == 0).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "housekeeping");
            }
        }
        round += 1;
        tokio::time::sleep(HOUSE_EVERY).await;
    }
}

pub(crate) async fn house_round(inner: &Inner, slow: bool) -> Result<(), StoreError> {
    inner.settle_marks(MARK_AFTER).await?;
    inner.evict().await;
    if slow {
        age_logs(inner);
        expire_events(inner).await;
        compact(inner).await?;
    }
    Ok(())
}

fn age_logs(inner: &Inner) {
    let Ok(before) = inner.clock.now().checked_sub(inner.config.cache.log_age) else { return };
    for cluster in inner.all_loaded() {
        if cluster.loaded.state.read().has_aged(before) {
            cluster.loaded.state.write().age_logs(before);
        }
    }
}

/// Deletes Events that outlived their time, as etcd's leases do: watchers see deletions, at revisions of their own. A cluster
/// that is not loaded is loaded for it when its newest Event's time has come (see [`Inner::settle_marks`]), so each cluster
/// that nobody uses is loaded at most once for all of its Events: rows deleted behind the cache's and the log's back would
/// be missed by whoever resumes a watch.
async fn expire_events(inner: &Inner) {
    let Ok(before) = inner.clock.now().checked_sub(inner.config.event_ttl) else { return };
    for cluster in inner.all_loaded() {
        let expired = cluster.loaded.state.read().written_before(codec::is_event, before, EXPIRE_IN_ROUND);
        for some in expired.chunks(EXPIRE_AT_ONCE) {
            let delete = |event: &Arc<Object>| Write::Delete { key: event.key.clone(), expected: event.revision };
            // One written again in between is a conflict, and stays.
            cluster.commit_all(some.iter().map(delete).collect()).await;
        }
    }
}

/// Drops segments of `changes` past the retention.
pub(crate) async fn compact(inner: &Inner) -> Result<(), StoreError> {
    let now = inner.clock.now();
    let Ok(before) = now.checked_sub(inner.config.retention) else { return Ok(()) };
    let before = before.as_second().div_euclid(SEGMENT_SECONDS) * SEGMENT_SECONDS;
    let Ok(before) = jiff::Timestamp::from_second(before) else { return Ok(()) };
    Ok(inner.backend.compact(before, now).await?)
}

/// Removes deleted clusters, apart from other housekeeping: thousands at once take a while.
pub(crate) async fn purges(store: Weak<Inner>) {
    loop {
        {
            let Some(inner) = store.upgrade() else { return };
            if let Err(error) = purge(&inner).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "deleted clusters stay for now");
            }
        }
        tokio::time::sleep(PURGE_EVERY).await;
    }
}

/// Removes the rows of deleted clusters of the owned shards.
pub(crate) async fn purge(inner: &Inner) -> Result<(), StoreError> {
    for shard in inner.shard_list() {
        for clusters in inner.backend.clusters_deleting(shard.id()).await?.chunks(PURGE_CLUSTERS) {
            for cluster in clusters {
                if let Some(loaded) = inner.cluster_if_loaded(*cluster) {
                    inner.forget(*cluster);
                    writer::barrier(&loaded.loaded).await;
                }
            }
            while !inner.backend.clusters_purge(shard.fence(), clusters, PURGE_ROWS).await? {}
        }
    }
    Ok(())
}
