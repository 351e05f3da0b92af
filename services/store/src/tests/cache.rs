//! What is in memory: loading, unloading, and what controllers hear of it.

use std::sync::Arc;
use std::time::Duration;

use galley_types::{Clock as _, Revision};

use super::support::*;
use crate::testing::{MemoryDatabase, config};
use crate::*;

#[tokio::test(start_paused = true)]
async fn an_idle_cluster_is_unloaded_and_loaded_again_on_use() {
    let store = Store::open_in_memory(clock()).await.expect("opens");
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    let id = cluster.id();
    cluster.commit(create("pods", "n", "x", "1")).await.expect("written");
    tokio::time::advance(Duration::from_secs(301)).await;
    store.evict().await;
    assert_eq!(store.loaded().len(), 1, "held, and controllers have not said that they are done");
    drop(cluster);
    store.evict().await;
    assert!(store.loaded().is_empty());
    assert_eq!(store.cache_bytes(), 0);
    store.renew().await.expect("renews");
    let again = store.cluster(id).await.expect("loads");
    assert_eq!(names(&again.list_all()), ["x=1"]);
    store.evict().await;
    assert_eq!(store.loaded().len(), 1, "used just now");
}

#[tokio::test(start_paused = true)]
async fn a_settled_cluster_is_unloaded_from_under_controllers_but_not_from_under_clients() {
    let store = Store::open_in_memory(clock()).await.expect("opens");
    let held = store.cluster_for_test("a").await.expect("cluster");
    held.commit(create("pods", "n", "x", "1")).await.expect("written");
    let mut everything = held.watch_all(Revision(1)).await.expect("watch");
    held.settled(Revision(1), None);
    let client = held.watch(scope("pods", None), Revision(1)).await.expect("watch");
    store.housekeep().await.expect("keeps house");
    tokio::time::advance(Duration::from_secs(301)).await;
    store.evict().await;
    assert_eq!(store.loaded().len(), 1, "a client watches");
    drop(client);
    store.evict().await;
    assert!(store.loaded().is_empty());
    assert_eq!(next(&mut everything).await.err(), Some(WatchEnd::Closing));
    assert!(matches!(held.commit(create("pods", "n", "y", "1")).await, Err(CommitError::Unavailable(_))));
    let again = store.cluster(held.id()).await.expect("loads");
    again.commit(create("pods", "n", "y", "1")).await.expect("written");
    assert_eq!(names(&again.list_all()), ["x=1", "y=1"]);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_stays_for_as_long_as_it_was_in_use() {
    let store = Store::open_in_memory(clock()).await.expect("opens");
    let created = store.cluster_for_test("created").await.expect("cluster").id();
    let used = store.cluster_for_test("used").await.expect("cluster").id();
    // With its lease held all the time.
    let pass = async |seconds: u64| {
        for _ in 0..seconds {
            tokio::time::advance(Duration::from_secs(1)).await;
            store.renew().await.expect("renews");
        }
        store.evict().await;
    };
    for _ in 0..6 {
        pass(9).await;
        store.cluster(used).await.expect("is used");
    }
    assert_eq!(store.loaded().iter().map(|c| c.id()).collect::<Vec<_>>(), [used], "{created} was only created");
    pass(52).await;
    assert_eq!(store.loaded().len(), 1, "a minute's use is good for a minute");
    pass(4).await;
    assert!(store.loaded().is_empty());
}

#[tokio::test(start_paused = true)]
async fn over_budget_the_longest_unused_cluster_goes_first() {
    let clock = clock();
    let mut config = config("", "one");
    config.cache.bytes = 6_000;
    let store = MemoryDatabase::new(clock.clone(), 0).open(config, clock).await.expect("opens");
    let mut ids = Vec::new();
    for name in ["a", "b"] {
        let cluster = store.cluster_for_test(name).await.expect("cluster");
        for i in 0..5 {
            cluster.commit(create("pods", "n", &format!("p{i}"), "1")).await.expect("written");
        }
        ids.push(cluster.id());
    }
    // In use for so long that none goes for being idle.
    for used in [&ids[..], &ids[..], &ids[..], &ids[1..], &[]] {
        tokio::time::advance(Duration::from_secs(9)).await;
        store.renew().await.expect("renews");
        for id in used {
            store.cluster(*id).await.expect("is used");
        }
    }
    assert!(store.cache_bytes() > 6_000);
    store.evict().await;
    let left: Vec<_> = store.loaded().iter().map(|cluster| cluster.id()).collect();
    assert_eq!(left, [ids[1]]);
}

#[tokio::test(start_paused = true)]
async fn one_load_serves_all_who_ask_at_once() {
    let store = Store::open_in_memory(clock()).await.expect("opens");
    let id = store.cluster_for_test("a").await.expect("cluster").id();
    tokio::time::advance(Duration::from_secs(301)).await;
    store.evict().await;
    let (one, two) = tokio::join!(store.cluster(id), store.cluster(id));
    assert!(Arc::ptr_eq(&one.expect("loads"), &two.expect("loads")));
}

#[tokio::test(start_paused = true)]
async fn controllers_hear_loads_changes_and_unloads_in_order() {
    let store = Store::open_in_memory(clock()).await.expect("opens");
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    let id = cluster.id();
    let mut notices = store.notices();
    cluster.commit_all(vec![create("pods", "n", "x", "1"), create("leases.coordination.k8s.io", "n", "l", "1")]).await;
    drop(cluster);
    tokio::time::advance(Duration::from_secs(301)).await;
    let mut heard = Vec::new();
    for _ in 0..2 {
        match notices.recv().await.expect("goes on") {
            Notice::Loaded(cluster) => heard.push(format!("loaded {}", cluster.id() == id)),
            Notice::Changed(cluster, events) => {
                assert_eq!(cluster.id(), id);
                heard.extend(events.iter().map(|event| tell(event)));
            }
            Notice::Unloaded(_) => heard.push("unloaded".into()),
        }
    }
    assert_eq!(heard, ["loaded true", "Added x=1@1", "Added l=1@2"]);
    store.evict().await;
    assert!(matches!(notices.recv().await, Some(Notice::Unloaded(gone)) if gone == id));
    store.renew().await.expect("renews");
    store.cluster(id).await.expect("loads");
    assert!(matches!(notices.recv().await, Some(Notice::Loaded(_))));
}

#[tokio::test(start_paused = true)]
async fn unsettled_clusters_are_found_after_a_restart_without_loading_any() {
    let clock = clock();
    let database = MemoryDatabase::new(clock.clone(), 0);
    let store = database.open(config("", "one"), clock.clone()).await.expect("opens");
    let done = store.cluster_for_test("done").await.expect("cluster");
    let behind = store.cluster_for_test("behind").await.expect("cluster");
    let timed = store.cluster_for_test("timed").await.expect("cluster");
    for cluster in [&done, &behind, &timed] {
        cluster.commit(create("pods", "n", "x", "1")).await.expect("written");
        cluster.settled(Revision(1), None);
    }
    behind.commit(create("pods", "n", "y", "1")).await.expect("written");
    let wake_at = clock.now() + Duration::from_secs(60);
    timed.settled(Revision(1), Some(wake_at));
    let ids = [behind.id(), timed.id()];
    store.close().await;

    let store = database.open(config("", "one"), clock.clone()).await.expect("opens");
    let found: Vec<_> = store.clusters_unsettled().await.expect("reads").iter().map(|row| row.cluster).collect();
    assert_eq!(found, ids[..1]);
    clock.advance(Duration::from_secs(60));
    let found: Vec<_> = store.clusters_unsettled().await.expect("reads").iter().map(|row| row.cluster).collect();
    assert_eq!(found, ids);
    assert!(store.loaded().is_empty());
}

#[tokio::test(start_paused = true)]
async fn events_go_an_hour_after_they_were_last_written() {
    let clock = clock();
    let store = Store::open_in_memory(clock.clone()).await.expect("opens");
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    cluster.commit(create("events", "n", "old", "1")).await.expect("written");
    cluster.commit(create("events", "n", "repeated", "1")).await.expect("written");
    cluster.commit(create("pods", "n", "x", "1")).await.expect("written");
    clock.advance(Duration::from_secs(3000));
    cluster.commit(update("events", "n", "repeated", "2", Revision(2))).await.expect("written");
    clock.advance(Duration::from_secs(700));
    let mut watch = cluster.watch(scope("events", None), Revision(4)).await.expect("watch");
    store.housekeep().await.expect("keeps house");
    assert_eq!(events(&mut watch, 1).await, ["Deleted old=1@5"]);
    assert_eq!(names(&cluster.list_all()), ["repeated=2", "x=1"]);
}

#[tokio::test(start_paused = true)]
async fn past_its_lease_a_store_answers_nothing() {
    let clock = clock();
    let database = MemoryDatabase::new(clock.clone(), 0);
    let store = database.open(config("", "one"), clock.clone()).await.expect("opens");
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    cluster.commit(create("pods", "n", "w", "1")).await.expect("written, and not settled: it stays in memory");
    database.faults(testing::Faults { refused: 1.0, ..testing::Faults::default() });
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(matches!(store.cluster(cluster.id()).await, Err(StoreError::NotOwner { .. })));
    assert!(!cluster.is_current() && !store.is_serving());
    assert!(matches!(cluster.commit(create("pods", "n", "x", "1")).await, Err(CommitError::Unavailable(_))));
    database.faults(testing::Faults::default());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(store.cluster(cluster.id()).await.is_ok(), "nobody took it over: the cache is still the truth");
    assert!(cluster.commit(create("pods", "n", "x", "1")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_cluster_is_loaded_only_if_there_is_room_after_unused_ones_are_gone() {
    let clock = clock();
    let mut config = config("", "one");
    config.cache.bytes = 15_000;
    let store = MemoryDatabase::new(clock.clone(), 0).open(config, clock).await.expect("opens");
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        let cluster = store.cluster_for_test(name).await.expect("cluster");
        for i in 0..10 {
            cluster.commit(create("pods", "n", &format!("p{i}"), "1")).await.expect("written");
        }
        ids.push(cluster.id());
        // One after the other is unloaded.
        drop(cluster);
        tokio::time::advance(Duration::from_secs(301)).await;
        store.renew().await.expect("renews");
        store.evict().await;
    }
    assert!(store.loaded().is_empty());
    let loaded = |id| store.loaded().iter().any(|cluster| cluster.id() == id);
    for id in &ids[..2] {
        store.cluster(*id).await.expect("there is room");
    }
    let refused = store.cluster(ids[2]).await.err();
    let Some(StoreError::NoRoom { used, limit, .. }) = refused else { panic!("{refused:?}") };
    assert!(used <= limit && limit == 15_000, "{used}");
    assert!(loaded(ids[0]) && loaded(ids[1]), "clusters in use stay");
    tokio::time::advance(Duration::from_secs(11)).await;
    store.renew().await.expect("renews");
    store.cluster(ids[1]).await.expect("in use");
    store.cluster(ids[2]).await.expect("the other was not in use");
    assert!(!loaded(ids[0]) && loaded(ids[1]));
    assert!(store.cache_bytes() <= 15_000);
}

#[tokio::test(start_paused = true)]
async fn a_full_cluster_refuses_what_is_new_and_allows_what_makes_room() {
    let clock = clock();
    let mut config = config("", "one");
    config.cache.cluster_bytes = 10_000;
    let store = MemoryDatabase::new(clock.clone(), 0).open(config, clock).await.expect("opens");
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    let other = store.cluster_for_test("b").await.expect("cluster");
    // In one batch: each sees what those before it took.
    let creates = (0..30).map(|i| create("pods", "n", &format!("p{i}"), "1")).collect();
    let answers = cluster.commit_all(creates).await;
    let made = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!((10..20).contains(&made), "{made}");
    let Some(Err(CommitError::NoRoom { requested, used, limit, .. })) = answers.last() else {
        panic!("{:?}", answers.last())
    };
    assert!(used + requested > *limit && *limit == 10_000, "{used} {requested}");
    other.commit(create("pods", "n", "x", "1")).await.expect("another cluster has room");
    let long = "1".repeat(200);
    cluster.commit(update("pods", "n", "p0", &long, Revision(1))).await.expect("a change may be a little larger");
    let longer = "1".repeat(2000);
    let refused = cluster.commit(update("pods", "n", "p1", &longer, Revision(2))).await;
    assert!(matches!(refused, Err(CommitError::NoRoom { .. })), "{refused:?}");
    for i in 2..6 {
        cluster.commit(delete("pods", "n", &format!("p{i}"), Revision(i + 1))).await.expect("deleted");
    }
    cluster.commit(create("pods", "n", "again", "1")).await.expect("there is room again");
}
