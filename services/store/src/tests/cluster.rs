//! Reads, writes and watches of one cluster, over the in-memory database.

use std::sync::Arc;
use std::time::Duration;

use galley_types::{ClusterId, Revision};

use super::support::*;
use crate::testing::{MemoryDatabase, TokioClock, config};
use crate::*;

#[tokio::test(start_paused = true)]
async fn a_write_is_read_listed_and_watched() {
    let store = Store::open_in_memory(clock()).await.expect("opens");
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    let mut watch = cluster.watch(scope("pods", None), Revision(0)).await.expect("watch");

    let created = cluster.commit(create("pods", "default", "x", "1")).await.expect("created");
    assert_eq!(created.revision, Revision(1));
    let updated = cluster.commit(update("pods", "default", "x", "2", Revision(1))).await.expect("updated");
    assert_eq!(cluster.get(&updated.key).expect("there").revision, Revision(2));
    cluster.commit(create("pods", "kube-system", "y", "1")).await.expect("created");
    assert_eq!(names(&cluster.list(&scope("pods", None))), ["x=2", "y=1"]);
    assert_eq!(names(&cluster.list(&scope("pods", Some("kube-system")))), ["y=1"]);
    let deleted = cluster.commit(delete("pods", "default", "x", Revision(2))).await.expect("deleted");
    assert_eq!(value_of(&deleted), "2", "the last state");
    assert!(cluster.get(&deleted.key).is_none());

    let told = events(&mut watch, 4).await;
    assert_eq!(told, ["Added x=1@1", "Modified x=2@2", "Added y=1@3", "Deleted x=2@4"]);
}

#[tokio::test(start_paused = true)]
async fn preconditions_are_checked_against_the_batch_before() {
    let store = Store::open_in_memory(clock()).await.expect("opens");
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    let answers = cluster
        .commit_all(vec![
            create("pods", "n", "x", "1"),
            create("pods", "n", "x", "2"),
            update("pods", "n", "x", "3", Revision(1)),
            update("pods", "n", "x", "4", Revision(1)),
            delete("pods", "n", "y", Revision(1)),
            delete("pods", "n", "x", Revision(2)),
            create("pods", "n", "x", "5"),
        ])
        .await;
    assert!(answers[0].is_ok());
    assert!(matches!(answers[1], Err(CommitError::Exists(_))));
    assert!(answers[2].is_ok());
    assert!(matches!(&answers[3], Err(CommitError::Conflict { current, expected, .. })
            if *current == Revision(2) && *expected == Revision(1)));
    assert!(matches!(answers[4], Err(CommitError::NotFound(_))));
    assert!(answers[5].is_ok() && answers[6].is_ok());
    let listing = cluster.list(&scope("pods", None));
    assert_eq!((names(&listing), listing.revision), (vec!["x=5".to_owned()], Revision(4)));
}

#[tokio::test(start_paused = true)]
async fn a_watch_resumes_from_the_log_and_after_reopening_from_changes() {
    let clock = clock();
    let database = MemoryDatabase::new(clock.clone(), 0);
    let store = database.open(config("", "one"), clock.clone()).await.expect("opens");
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    for (revision, value) in ["1", "2", "3", "4"].iter().enumerate() {
        let write = match revision {
            0 => create("pods", "n", "x", value),
            _ => update("pods", "n", "x", value, Revision(revision as u64)),
        };
        cluster.commit(write).await.expect("written");
    }
    cluster.commit(create("configmaps", "n", "c", "1")).await.expect("written");
    cluster.commit(delete("pods", "n", "x", Revision(4))).await.expect("deleted");
    let expected = ["Modified x=3@3", "Modified x=4@4", "Deleted x=4@6"];

    let mut watch = cluster.watch(scope("pods", None), Revision(2)).await.expect("from the log");
    assert_eq!(events(&mut watch, 3).await, expected);
    let id = cluster.id();
    drop((watch, cluster));
    store.close().await;

    let store = database.open(config("", "two"), clock).await.expect("opens again");
    let cluster = store.cluster(id).await.expect("loads");
    let mut watch = cluster.watch(scope("pods", Some("n")), Revision(2)).await.expect("from changes");
    let first = next_event(&mut watch).await;
    assert_eq!(tell(&first), expected[0]);
    assert_eq!(value_of(first.previous.as_ref().expect("the state before")), "2");
    assert_eq!(events(&mut watch, 2).await, expected[1..]);
    cluster.commit(create("pods", "n", "z", "1")).await.expect("written");
    assert_eq!(events(&mut watch, 1).await, ["Added z=1@7"], "and goes on from the log");

    let mut watch = cluster.watch(scope("pods", Some("other")), Revision(0)).await.expect("from changes");
    assert!(matches!(next(&mut watch).await, Ok(WatchItem::Progress(Revision(7)))));
}

#[tokio::test(start_paused = true)]
async fn everything_is_listed_and_watched_in_order() {
    let store = Store::open_in_memory(clock()).await.expect("opens");
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    cluster.commit(create("pods", "n", "x", "1")).await.expect("written");
    cluster.commit(create("leases.coordination.k8s.io", "n", "l", "1")).await.expect("written");
    let listing = cluster.list_all();
    assert_eq!(names(&listing), ["l=1", "x=1"]);
    let mut watch = cluster.watch_all(Revision(1)).await.expect("watch");
    cluster.commit(delete("pods", "n", "x", Revision(1))).await.expect("written");
    assert_eq!(events(&mut watch, 2).await, ["Added l=1@2", "Deleted x=1@3"]);
}

#[tokio::test(start_paused = true)]
async fn changes_past_the_retention_are_gone_and_watches_of_them_expire() {
    let clock = clock();
    let database = MemoryDatabase::new(clock.clone(), 0);
    let store = database.open(config("", "one"), clock.clone()).await.expect("opens");
    let id = expiry(&store, &clock).await;
    store.crash();
    let store = database.open(config("", "one"), clock).await.expect("opens");
    after_expiry(&store, id).await;
}

/// Writes, waits past the retention, writes again.
pub async fn expiry(store: &Store, clock: &Arc<TokioClock>) -> ClusterId {
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    for name in ["a", "b", "c"] {
        cluster.commit(create("pods", "n", name, "1")).await.expect("written");
    }
    clock.advance(Duration::from_secs(3600 + 900));
    cluster.commit(update("pods", "n", "a", "2", Revision(1))).await.expect("written");
    store.housekeep().await.expect("keeps house");
    cluster.commit(update("pods", "n", "a", "3", Revision(4))).await.expect("written");
    cluster.id()
}

pub async fn after_expiry(store: &Store, id: ClusterId) {
    let cluster = store.cluster(id).await.expect("loads");
    let pods = scope("pods", None);
    let expired = WatchEnd::Expired { asked: Revision(2), oldest: Revision(3) };
    assert_eq!(cluster.watch(pods.clone(), Revision(2)).await.err(), Some(expired.clone()));
    assert_eq!(cluster.list_at(&pods, Revision(2)).await.err(), Some(expired));
    let mut watch = cluster.watch(pods.clone(), Revision(3)).await.expect("retained");
    let event = next_event(&mut watch).await;
    assert_eq!(tell(&event), "Modified a=2@4");
    assert_eq!(value_of(event.previous.as_ref().expect("kept past its own change")), "1");
    assert_eq!(events(&mut watch, 1).await, ["Modified a=3@5"]);
    let then = cluster.list_at(&pods, Revision(3)).await.expect("retained");
    assert_eq!(names(&then), ["a=1", "b=1", "c=1"]);
}
