//! What the store does by itself.

use std::sync::Arc;
use std::time::Duration;

use galley_types::Revision;

use super::support::*;
use crate::testing::{Faults, MemoryDatabase, config};
use crate::*;

#[tokio::test(start_paused = true)]
async fn events_of_a_cluster_that_nobody_uses_go_too_and_a_watch_resumes_across_it() {
    let clock = clock();
    let database = MemoryDatabase::new(clock.clone(), 0);
    let store = database.open(config("", "one"), clock.clone()).await.expect("opens");
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    let id = cluster.id();
    cluster.commit(create("events", "n", "old", "1")).await.expect("written");
    cluster.commit(create("pods", "n", "x", "1")).await.expect("written");
    clock.advance(Duration::from_secs(600));
    cluster.commit(create("events", "n", "newer", "1")).await.expect("written");
    cluster.settled(Revision(3), None);
    drop(cluster);
    store.housekeep().await.expect("keeps house");
    tokio::time::sleep(Duration::from_secs(400)).await;
    assert!(store.loaded().is_empty(), "nobody uses it");

    clock.advance(Duration::from_secs(3000));
    assert_eq!(store.clusters_unsettled().await.expect("reads"), [], "the newest Event may stay");
    clock.advance(Duration::from_secs(700));
    let unsettled = store.clusters_unsettled().await.expect("reads");
    assert_eq!(unsettled.iter().map(|found| found.cluster).collect::<Vec<_>>(), [id]);

    // As the controllers' driver does with what is unsettled.
    let cluster = store.cluster(id).await.expect("loads");
    cluster.settled(Revision(3), None);
    store.housekeep().await.expect("keeps house");
    assert_eq!(names(&cluster.list_all()), ["x=1"]);
    cluster.settled(Revision(5), None);
    store.housekeep().await.expect("keeps house");
    drop(cluster);
    tokio::time::sleep(Duration::from_secs(400)).await;
    assert!(store.loaded().is_empty(), "nobody uses it");
    let cluster = store.cluster(id).await.expect("loads");
    let mut watch = cluster.watch(scope("events", None), Revision(3)).await.expect("retained");
    assert_eq!(events(&mut watch, 2).await, ["Deleted newer=1@4", "Deleted old=1@5"]);
    drop((cluster, watch));
    clock.advance(Duration::from_secs(36_000));
    tokio::time::sleep(Duration::from_secs(400)).await;
    assert_eq!(store.clusters_unsettled().await.expect("reads"), [], "once is enough");
    assert!(store.loaded().is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_lost_a_shard_removes_no_rows_under_who_has_it() {
    let clock = clock();
    let database = MemoryDatabase::new(clock.clone(), 0);
    let one = database.open(config("", "one"), clock.clone()).await.expect("opens");
    let cluster = one.cluster_for_test("a").await.expect("cluster");
    let (id, tenant) = (cluster.id(), cluster.info().tenant);
    one.freeze();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let two = database.open(config("", "two"), clock).await.expect("opens");
    two.cluster(id).await.expect("loads");
    assert!(one.cluster_delete(tenant, &id.to_string()).await.expect("written"));
    assert!(one.housekeep().await.is_err(), "fenced");
    assert!(database.has(id));
    two.housekeep().await.expect("keeps house");
    assert!(!database.has(id) && two.loaded().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_closes_takes_no_shard_in_a_round_that_is_under_way() {
    let clock = clock();
    let database = MemoryDatabase::new(clock.clone(), 0);
    let one = database.open(config("", "one"), clock.clone()).await.expect("opens");
    database.faults(Faults { latency: Duration::from_secs(1), ..Faults::default() });
    let round = tokio::spawn({
        let one = one.clone();
        async move { one.renew().await }
    });
    tokio::task::yield_now().await;
    one.close().await;
    round.await.expect("no panic").expect("renews");
    one.renew().await.expect("does nothing");
    database.faults(Faults::default());
    let two = database.open(config("", "two"), clock).await.expect("opens");
    assert!(two.is_serving() && !one.is_serving(), "given away at once");
}

#[tokio::test(start_paused = true)]
async fn heartbeats_share_commits_and_tenants_do_not_wait_for_them() {
    let clock = clock();
    let database = MemoryDatabase::new(clock.clone(), 0);
    let mut config = config("", "one");
    config.shards = 4;
    let store = database.open(config, clock).await.expect("opens");
    let mut clusters = Vec::new();
    for n in 0..40 {
        clusters.push(store.cluster_for_test(&format!("c{n}")).await.expect("cluster"));
    }
    let beats = |value: &'static str| {
        let beat = |cluster: &Arc<ClusterStore>| {
            let (cluster, name) = (cluster.clone(), value);
            async move { cluster.commit(create("leases.coordination.k8s.io", "n", name, name)).await }
        };
        futures::future::join_all(clusters.iter().map(beat).collect::<Vec<_>>())
    };
    let (before, start) = (database.commits(), tokio::time::Instant::now());
    assert!(beats("one").await.iter().all(Result::is_ok));
    assert!(database.commits() - before <= 4, "one for each shard");
    assert!(start.elapsed() < Duration::from_millis(150));

    // Tenants' writes do not wait, and take along what does.
    let start = tokio::time::Instant::now();
    let writes = clusters.iter().map(|cluster| cluster.commit(create("pods", "n", "x", "1")));
    let (beats, writes) = futures::future::join(beats("two"), futures::future::join_all(writes)).await;
    assert!(beats.iter().chain(&writes).all(Result::is_ok));
    assert_eq!(start.elapsed(), Duration::ZERO);
}
