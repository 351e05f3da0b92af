//! What watches promise beside their events: progress on time, and a clear end for those that fall behind.

use std::time::Duration;

use galley_types::Revision;
use tokio::time::Instant;

use super::support::*;
use crate::testing::{Faults, MemoryDatabase, config};
use crate::*;

#[tokio::test(start_paused = true)]
async fn progress_comes_on_its_interval_and_never_ahead_of_an_event() {
    let store = Store::open_in_memory(clock()).await.expect("opens");
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    let mut watch = cluster.watch(scope("pods", Some("n")), Revision(0)).await.expect("watch");
    cluster.commit(create("pods", "other", "x", "1")).await.expect("written");
    let start = Instant::now();
    assert!(matches!(next(&mut watch).await, Ok(WatchItem::Progress(Revision(1)))));
    assert_eq!(start.elapsed(), Duration::from_secs(10));
    // Due while events wait: it says no more than was handed out.
    tokio::time::advance(Duration::from_secs(11)).await;
    cluster.commit(create("pods", "n", "x", "1")).await.expect("written");
    assert!(matches!(next(&mut watch).await, Ok(WatchItem::Progress(Revision(1)))));
    assert_eq!(events(&mut watch, 1).await, ["Added x=1@2"]);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_falls_behind_is_cut_off_in_bytes_and_resumes_from_changes() {
    let clock = clock();
    let mut config = config("", "one");
    config.cache.log_bytes = 10_000;
    let store = MemoryDatabase::new(clock.clone(), 0).open(config, clock).await.expect("opens");
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    let pods = scope("pods", None);
    let mut slow = cluster.watch(pods.clone(), Revision(0)).await.expect("watch");
    let mut other = cluster.watch(scope("configmaps", None), Revision(0)).await.expect("watch");
    cluster.commit(create("pods", "n", "first", "1")).await.expect("written");
    cluster.commit(create("configmaps", "n", "c", "1")).await.expect("written");
    assert_eq!(events(&mut slow, 1).await, ["Added first=1@1"]);
    for i in 0..50 {
        cluster.commit(create("pods", "n", &format!("p{i}"), "1")).await.expect("written");
    }
    assert_eq!(next(&mut slow).await.err(), Some(WatchEnd::TooSlow));
    assert_eq!(events(&mut other, 1).await, ["Added c=1@2"], "others are not harmed");
    let mut resumed = cluster.watch(pods, Revision(1)).await.expect("from changes");
    for revision in 3..=52 {
        assert_eq!(next_event(&mut resumed).await.object.revision, Revision(revision));
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_when_the_store_closes() {
    let store = Store::open_in_memory(clock()).await.expect("opens");
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    let mut watch = cluster.watch(scope("pods", None), Revision(0)).await.expect("watch");
    let (end, ()) = tokio::join!(next(&mut watch), store.close());
    assert_eq!(end.err(), Some(WatchEnd::Closing));
}

#[tokio::test(start_paused = true)]
async fn leases_are_not_logged_and_resume_from_memory_only() {
    let clock = clock();
    let database = MemoryDatabase::new(clock.clone(), 0);
    let store = database.open(config("", "one"), clock.clone()).await.expect("opens");
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    let leases = scope("leases.coordination.k8s.io", None);
    cluster.commit(create("leases.coordination.k8s.io", "n", "l", "1")).await.expect("written");
    cluster.commit(create("pods", "n", "p", "1")).await.expect("written");
    cluster.commit(update("leases.coordination.k8s.io", "n", "l", "2", Revision(1))).await.expect("written");
    let mut watch = cluster.watch(leases.clone(), Revision(1)).await.expect("from memory");
    assert_eq!(events(&mut watch, 1).await, ["Modified l=2@3"]);
    let id = cluster.id();
    drop((watch, cluster));
    store.close().await;
    let store = database.open(config("", "one"), clock).await.expect("opens");
    let cluster = store.cluster(id).await.expect("loads");
    assert_eq!(names(&cluster.list(&leases)), ["l=2"], "the state is there");
    let expired = WatchEnd::Expired { asked: Revision(1), oldest: Revision(3) };
    assert_eq!(cluster.watch(leases, Revision(1)).await.err(), Some(expired));
    assert!(cluster.watch(scope("pods", None), Revision(2)).await.is_ok(), "others resume across heartbeats");
}

#[tokio::test(start_paused = true)]
async fn writers_that_wait_share_a_commit() {
    let clock = clock();
    let database = MemoryDatabase::new(clock.clone(), 0);
    let store = database.open(config("", "one"), clock).await.expect("opens");
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    database.faults(Faults { latency: Duration::from_millis(5), ..Faults::default() });
    let writers: Vec<_> = (0..64)
        .map(|i| {
            let cluster = cluster.clone();
            tokio::spawn(async move { cluster.commit(create("pods", "n", &format!("p{i}"), "1")).await })
        })
        .collect();
    for writer in writers {
        writer.await.expect("joins").expect("written");
    }
    assert!(database.commits() <= 2, "{} commits for 64 writers", database.commits());
    assert_eq!(cluster.revision(), Revision(64));
}

#[tokio::test(start_paused = true)]
async fn old_events_leave_memory_and_are_resumed_from_changes() {
    let clock = clock();
    let store = Store::open_in_memory(clock.clone()).await.expect("opens");
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    cluster.commit(create("pods", "n", "x", "1")).await.expect("written");
    cluster.commit(delete("pods", "n", "x", Revision(1))).await.expect("written");
    clock.advance(Duration::from_secs(290));
    cluster.commit(create("pods", "n", "y", "1")).await.expect("written");
    let before = store.cache_bytes();
    clock.advance(Duration::from_secs(20));
    store.housekeep().await.expect("keeps house");
    assert!(store.cache_bytes() < before / 2);
    assert_eq!(
        cluster.watch_all(Revision(0)).await.err(),
        Some(WatchEnd::Expired { asked: Revision(0), oldest: Revision(2) })
    );
    let mut watch = cluster.watch(scope("pods", None), Revision(0)).await.expect("from changes");
    assert_eq!(events(&mut watch, 3).await, ["Added x=1@1", "Deleted x=1@2", "Added y=1@3"]);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_does_not_read_holds_a_bounded_number_of_bytes_and_is_cut_off() {
    let clock = clock();
    let mut config = config("", "one");
    config.cache.log_bytes = 4 << 20;
    let store = MemoryDatabase::new(clock.clone(), 0).open(config, clock).await.expect("opens");
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    let large = |number: u64, value: &str| {
        let mut draft = draft("configmaps", "n", &format!("c{number}"), value);
        draft.tail = [draft.tail.as_ref(), &vec![b' '; 100_000]].concat().into();
        draft
    };
    for number in 0..20 {
        cluster.commit(Write::Create(large(number, "1"))).await.expect("written");
    }
    let mut slow = cluster.watch(scope("configmaps", None), Revision(0)).await.expect("watch");
    next_event(&mut slow).await;
    assert!(slow.held_bytes() < 400_000, "{} bytes are held", slow.held_bytes());
    for number in 20..100 {
        cluster.commit(Write::Create(large(number, "1"))).await.expect("written");
    }
    let mut read = 1;
    let end = loop {
        match next(&mut slow).await {
            Ok(WatchItem::Event(_)) => read += 1,
            Ok(WatchItem::Progress(_)) => {}
            Err(end) => break end,
        }
    };
    assert_eq!(end, WatchEnd::TooSlow, "after {read} events");
    assert!(read < 10);
    let mut resumed =
        cluster.watch(scope("configmaps", None), Revision(read)).await.expect("it resumes, from `changes`");
    for expected in read..100 {
        assert!(resumed.held_bytes() < 1_300_000, "{} bytes are held", resumed.held_bytes());
        assert_eq!(next_event(&mut resumed).await.object.revision, Revision(expected + 1));
    }
}
