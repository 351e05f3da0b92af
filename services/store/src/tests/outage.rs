//! The database is away for longer than the lease: what may be old is served, the rest fails closed, and all is well again at
//! once when it is back.

use std::time::Duration;

use galley_types::Revision;

use super::support::*;
use crate::testing::{Faults, MemoryDatabase, config};
use crate::*;

fn gone() -> Faults {
    Faults { refused: 1.0, ..Faults::default() }
}

#[tokio::test(start_paused = true)]
async fn past_the_lease_old_states_are_served_and_everything_else_fails_closed() {
    let database = MemoryDatabase::new(clock(), 0);
    let store = database.open(config("", "a"), clock()).await.expect("opens");
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    let id = cluster.id();
    cluster.commit(create("pods", "n", "before", "1")).await.expect("written");
    assert_eq!(cluster.hearing_for(), None, "never deaf");
    let mut watch = cluster.watch(scope("pods", None), Revision(0)).await.expect("watches");
    next_event(&mut watch).await;

    database.faults(gone());
    assert!(matches!(cluster.commit(create("pods", "n", "during", "1")).await, Err(CommitError::Unavailable(_))));
    assert!(store.cluster(id).await.is_ok(), "the lease still holds");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(matches!(store.cluster(id).await, Err(StoreError::NotOwner { .. })));
    assert_eq!(cluster.hearing_for(), Some(Duration::ZERO));
    let old = store.cluster_stale(id).await.expect("what is in memory");
    assert_eq!(names(&old.list(&scope("pods", None))), ["before=1"]);
    old.watch(scope("pods", None), Revision(0)).await.expect("watches what is in memory");

    database.faults(Faults::default());
    let back = tokio::time::Instant::now();
    while store.cluster(id).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(back.elapsed() < Duration::from_secs(1), "noticed after {:?}", back.elapsed());
    cluster.commit(create("pods", "n", "after", "1")).await.expect("written");
    assert_eq!(value_of(&next_event(&mut watch).await.object), "1", "the watch goes on");
    tokio::time::sleep(Duration::from_secs(7)).await;
    let hearing = cluster.hearing_for().expect("it was deaf");
    assert!(hearing >= Duration::from_secs(7) && hearing < Duration::from_secs(9), "{hearing:?}");
    store.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_another_took_serves_nothing_at_all() {
    let database = MemoryDatabase::new(clock(), 0);
    let first = database.open(config("", "a"), clock()).await.expect("opens");
    let id = first.cluster_for_test("a").await.expect("cluster").id();
    first.freeze();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(first.cluster_stale(id).await.is_ok(), "it does not know better");
    let second = database.open(config("", "b"), clock()).await.expect("opens");
    second.cluster(id).await.expect("taken over");
    first.renew().await.expect("asks");
    assert!(first.cluster_stale(id).await.is_err());
    first.crash();
    second.close().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_past_the_lease_for_a_commit_whose_outcome_is_not_known() {
    let database = MemoryDatabase::new(clock(), 0);
    let store = database.open(config("", "a"), clock()).await.expect("opens");
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    database.faults(Faults { answer_lost: 1.0, latency: Duration::from_secs(4), ..Faults::default() });
    let lost = tokio::spawn({
        let cluster = cluster.clone();
        async move { cluster.commit(create("pods", "n", "lost", "1")).await }
    });
    // The commit is there, its answer is lost, and now nobody can be asked.
    while database.commits() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    database.faults(Faults { answer_lost: 1.0, ..gone() });
    let started = tokio::time::Instant::now();
    let queued = cluster.commit(create("pods", "n", "queued", "1")).await;
    assert!(matches!(queued, Err(CommitError::Unavailable(_))));
    assert!(matches!(lost.await.expect("answered"), Err(CommitError::Unavailable(_))));
    assert!(started.elapsed() < Duration::from_secs(16), "{:?}", started.elapsed());

    database.faults(Faults::default());
    // The shard may have been given up and taken again: then the cluster is loaded anew.
    let again = loop {
        if let Ok(again) = store.cluster(cluster.id()).await
            && again.commit(create("pods", "n", "after", "1")).await.is_ok()
        {
            break again;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(names(&again.list(&scope("pods", None))), ["after=1", "lost=1"], "unknown, and it did happen");
    store.close().await;
}
