//! Who waits for whom at a shard's writer.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::support::*;
use crate::testing::{Faults, MemoryDatabase, config};
use crate::*;

/// Two clusters of two tenants on one shard, whose commits take time.
async fn two() -> (MemoryDatabase, Store, Arc<ClusterStore>, Arc<ClusterStore>) {
    let clock = clock();
    let database = MemoryDatabase::new(clock.clone(), 0);
    let mut config = config("", "one");
    config.shards = 1;
    let store = database.open(config, clock).await.expect("opens");
    let (noisy, quiet) = (store.cluster_for_test("noisy").await, store.cluster_for_test("quiet").await);
    database.faults(Faults { latency: Duration::from_millis(10), ..Faults::default() });
    (database, store, noisy.expect("cluster"), quiet.expect("cluster"))
}

/// A ConfigMap of about so many bytes.
fn large(name: &str, bytes: usize) -> Write {
    let mut draft = draft("configmaps", "n", name, "1");
    draft.tail = [draft.tail.as_ref(), &vec![b' '; bytes]].concat().into();
    Write::Create(draft)
}

/// Starts so many writers, and waits until the first of them is served.
async fn flood(cluster: &Arc<ClusterStore>, count: usize, write: impl Fn(usize) -> Write) -> JoinSet<()> {
    let mut writers = JoinSet::new();
    for number in 0..count {
        let (cluster, write) = (cluster.clone(), write(number));
        writers.spawn(async move { drop(cluster.commit(write).await.expect("written")) });
    }
    writers.join_next().await.expect("a writer").expect("writes");
    writers
}

#[tokio::test(start_paused = true)]
async fn a_write_waits_for_the_batch_under_way_and_not_for_the_queue_of_another_tenant() {
    let (database, _store, noisy, quiet) = two().await;
    // Small and many, or large and few.
    for (name, size, count) in [("s", 10, 6000), ("l", 400_000, 60)] {
        let mut writers = flood(&noisy, count, |number| large(&format!("{name}{number}"), size)).await;
        let before = database.commits();
        quiet.commit(large(name, 10)).await.expect("written");
        let batches = database.commits() - before;
        assert!(batches <= 2, "{batches} batches until the quiet tenant's write was in one");
        assert!(writers.len() > count / 2, "the noisy tenant still waits");
        while writers.join_next().await.is_some() {}
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats_are_in_every_batch_however_large_the_tenants_writes_are() {
    let (database, _store, noisy, _quiet) = two().await;
    let mut writers = flood(&noisy, 40, |number| large(&format!("l{number}"), 2_000_000)).await;
    let before = database.commits();
    noisy.commit(create("leases.coordination.k8s.io", "n", "node", "1")).await.expect("written");
    assert!(database.commits() - before <= 2);
    while writers.join_next().await.is_some() {}
}

#[tokio::test(start_paused = true)]
async fn clusters_of_a_tenant_share_what_it_gets() {
    let (database, store, noisy, _quiet) = two().await;
    database.faults(Faults::default());
    let tenant = noisy.info().tenant;
    let other = store.cluster_create(testing::new_cluster(tenant, "other")).await.expect("made");
    let other = store.cluster(other.id).await.expect("loads");
    database.faults(Faults { latency: Duration::from_millis(10), ..Faults::default() });
    let mut writers = flood(&noisy, 4000, |number| large(&format!("s{number}"), 10)).await;
    let before = database.commits();
    other.commit(large("o", 10)).await.expect("written");
    assert!(database.commits() - before <= 2);
    while writers.join_next().await.is_some() {}
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_before_there_is_room_has_written_nothing() {
    let (_database, _store, noisy, _quiet) = two().await;
    // More than may wait: the last ones have no place in the queue yet.
    let mut writers = flood(&noisy, 30, |number| large(&format!("l{number}"), 900_000)).await;
    let mut leaves = Box::pin(noisy.commit(large("left", 900_000)));
    assert!(futures::poll!(&mut leaves).is_pending());
    drop(leaves);
    while writers.join_next().await.is_some() {}
    assert_eq!(noisy.count(&scope("configmaps", None)), 30);
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_what_is_queued() {
    let (_database, store, noisy, quiet) = two().await;
    let writers = flood(&noisy, 2000, |number| large(&format!("s{number}"), 10)).await;
    store.close().await;
    assert_eq!(writers.join_all().await.len(), 1999, "all are written");
    assert!(matches!(quiet.commit(large("late", 10)).await, Err(CommitError::Unavailable(_))));
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_dies_leaves_nobody_waiting() {
    let (_database, store, noisy, _quiet) = two().await;
    let mut writers = JoinSet::new();
    for number in 0..2000 {
        let cluster = noisy.clone();
        writers.spawn(async move { cluster.commit(large(&format!("s{number}"), 10)).await.is_ok() });
    }
    assert_eq!(writers.join_next().await.expect("a writer").ok(), Some(true));
    store.crash();
    let written = writers.join_all().await;
    assert!(written.contains(&false), "some were still waiting");
}
