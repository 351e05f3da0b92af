//! Shards on the move between replicas: even shares, nothing lost, nothing served twice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use galley_types::Revision;

use super::support::*;
use crate::testing::{MemoryDatabase, PATIENCE, TokioClock, config};
use crate::*;

struct Replicas {
    database: MemoryDatabase,
    clock: Arc<TokioClock>,
}

impl Replicas {
    fn new() -> Self {
        let clock = clock();
        Self { database: MemoryDatabase::new(clock.clone(), 7), clock }
    }

    async fn open(&self, holder: &str) -> Store {
        let mut config = config("", holder);
        config.address = format!("{holder}:1");
        self.database.open(config, self.clock.clone()).await.expect("opens")
    }
}

async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let waiting = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

/// A write, by whoever owns the cluster now, asking again while it moves.
async fn write(stores: &[Store], cluster: &Cluster, name: &str) -> Revision {
    let writing = async {
        loop {
            for store in stores {
                let Some(_pass) = store.enter(cluster.shard) else { continue };
                let loaded = store.cluster(cluster.id).await.expect("who lets in, serves");
                return loaded.commit(create("pods", "n", name, "1")).await.expect("who lets in, writes").revision;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, writing).await.expect("an owner comes")
}

#[tokio::test(start_paused = true)]
async fn replicas_that_join_get_their_share_while_nothing_is_lost() {
    let replicas = Replicas::new();
    let a = replicas.open("a").await;
    assert_eq!(a.shards().len(), 12);
    let mut clusters = Vec::new();
    for at in 0..8 {
        clusters.push(a.cluster_for_test(&format!("c{at}")).await.expect("cluster").info().clone());
    }
    let (b, c) = (replicas.open("b").await, replicas.open("c").await);
    let stores = [a.clone(), b.clone(), c.clone()];
    let writers: Vec<_> = clusters
        .iter()
        .cloned()
        .map(|cluster| {
            let stores = stores.clone();
            tokio::spawn(async move {
                for at in 0..400 {
                    // Gap-free: none was written twice, none was lost.
                    assert_eq!(write(&stores, &cluster, &format!("p{at}")).await, Revision(at + 1));
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            })
        })
        .collect();
    until("even shares", || stores.iter().all(|store| store.shards().len() == 4)).await;
    for writer in writers {
        writer.await.expect("every write is made once");
    }
    let held: BTreeSet<_> = stores.iter().flat_map(Store::shards).collect();
    assert_eq!(held.len(), 12, "each shard has one owner");
    for cluster in &clusters {
        let owners = stores.iter().filter(|store| store.holds(cluster.shard)).count();
        assert_eq!(owners, 1);
    }
    for store in &stores {
        store.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_leaves_gives_everything_away_and_refuses_after() {
    let replicas = Replicas::new();
    let (a, b, c) = (replicas.open("a").await, replicas.open("b").await, replicas.open("c").await);
    let stores = [a.clone(), b.clone(), c.clone()];
    until("even shares", || stores.iter().all(|store| store.shards().len() == 4)).await;
    let mut info = None;
    for at in 0.. {
        let tenant = a.tenant_create(&format!("t{at}")).await.expect("tenant");
        let made = a.cluster_create(testing::new_cluster(tenant.id, "x")).await.expect("cluster");
        if a.holds(made.shard) {
            info = Some(made);
            break;
        }
    }
    let info = info.expect("one of many falls to it");
    let cluster = a.cluster(info.id).await.expect("loads");
    cluster.commit(create("pods", "n", "x", "1")).await.expect("written");
    let mut watch = cluster.watch(scope("pods", None), Revision(0)).await.expect("watch");
    assert_eq!(events(&mut watch, 1).await, ["Added x=1@1"]);
    let mut heirs = a.heirs();
    let start = tokio::time::Instant::now();
    a.leave().await.expect("leaves");
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(a.shards().is_empty());
    assert_eq!(next(&mut watch).await.err(), Some(WatchEnd::Closing), "a watch ends, to be resumed at the heir");
    assert!(matches!(a.cluster(info.id).await, Err(StoreError::NotOwner { .. })));
    assert!(matches!(cluster.commit(create("pods", "n", "y", "1")).await, Err(CommitError::Unavailable(_))));
    let owner = a.owner(info.shard).expect("it knows its heir");
    while let Ok(heir) = heirs.try_recv() {
        let heir = if heir.holder == "b" { &b } else { &c };
        heir.look().await.expect("looks");
    }
    let heir = if owner.holder == "b" { &b } else { &c };
    assert_eq!(owner.address, format!("{}:1", owner.holder));
    let there = heir.cluster(info.id).await.expect("the heir serves at once");
    let mut watch = there.watch(scope("pods", None), Revision(1)).await.expect("resumes without a list");
    there.commit(create("pods", "n", "z", "1")).await.expect("written");
    assert_eq!(events(&mut watch, 1).await, ["Added z=1@2"]);
    assert_eq!((b.shards().len(), c.shards().len()), (6, 6));
    // It stays away while it drains.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(a.shards().is_empty());
    for store in &stores {
        store.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_inside_is_answered_before_its_shard_leaves() {
    let replicas = Replicas::new();
    let (a, b) = (replicas.open("a").await, replicas.open("b").await);
    let cluster = a.cluster_for_test("x").await.expect("cluster");
    let shard = cluster.info().shard;
    let pass = a.enter(shard).expect("it is here");
    let leaving = tokio::spawn({
        let a = a.clone();
        async move { a.leave().await }
    });
    until("the gate closes", || a.enter(shard).is_none()).await;
    assert!(a.holds(shard));
    cluster.commit(create("pods", "n", "x", "1")).await.expect("who is inside is answered");
    drop(pass);
    leaving.await.expect("joins").expect("leaves");
    assert!(!a.holds(shard));
    b.look().await.expect("looks");
    assert_eq!(names(&b.cluster(cluster.id()).await.expect("loads").list_all()), ["x=1"]);
    a.close().await;
    b.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_shards_of_a_dead_replica_are_divided_within_its_lease_and_two_seconds() {
    let replicas = Replicas::new();
    let (a, b, c) = (replicas.open("a").await, replicas.open("b").await, replicas.open("c").await);
    let stores = [a.clone(), b.clone(), c.clone()];
    until("even shares", || stores.iter().all(|store| store.shards().len() == 4)).await;
    c.crash();
    let start = tokio::time::Instant::now();
    until("even shares", || a.shards().len() == 6 && b.shards().len() == 6).await;
    let lease = config("", "").lease;
    assert!(start.elapsed() <= lease + Duration::from_secs(2), "{:?}", start.elapsed());
    // The dead one comes back, and gets its share when it has proved itself.
    drop(c);
    let c = replicas.open("c").await;
    assert!(c.shards().is_empty());
    until("even shares", || [&a, &b, &c].iter().all(|store| store.shards().len() == 4)).await;
    for store in [&a, &b, &c] {
        store.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_killed_and_started_again_has_its_shards_at_once() {
    let replicas = Replicas::new();
    let (a, b) = (replicas.open("a").await, replicas.open("b").await);
    until("even shares", || a.shards().len() == 6 && b.shards().len() == 6).await;
    let before = b.shards();
    b.crash();
    drop(b);
    let b = replicas.open("b").await;
    assert_eq!(b.shards(), before);
    a.close().await;
    b.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_gateway_knows_who_owns_what_and_owns_nothing() {
    let replicas = Replicas::new();
    let a = replicas.open("a").await;
    let gateway = replicas.database.open_gateway(config("", "g"), replicas.clock.clone()).await.expect("opens");
    let shard = a.shards()[0];
    assert_eq!(gateway.owner(shard), Some(Owner { holder: "a".into(), address: "a:1".into() }));
    assert!(gateway.shards().is_empty() && gateway.enter(shard).is_none());
    a.close().await;
    gateway.owners_refresh().await.expect("reads");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(gateway.owner(shard), None);
    gateway.close().await;
}
