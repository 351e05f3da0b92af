//! The store in a simulated world, a thousand times: replicas that compete, hang and crash, a database that refuses, loses
//! answers, stalls and takes commits late, clients that write, list and watch, caches that go at any time, retention that
//! passes. Time and randomness are simulated; a seed is a whole history.
//!
//! What must hold in each is in [`ledger`] and [`follow`]: the database's own ledger says what happened, and nobody may have been
//! told anything else.

mod follow;
mod ledger;
mod world;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use galley_types::Revision;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::support::*;
use crate::testing::{Faults, run_seeds};
use crate::*;

use follow::{Follower, follow};
use ledger::{Ledger, tell_change};
use world::{RESOURCES, World};

const WRITERS: usize = 3;
const WRITES: usize = 25;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const NAMESPACES: [&str; 2] = ["m", "n"];

fn pick<T: Clone>(of: &[T], rng: &mut SmallRng) -> T {
    of[rng.random_range(0..of.len())].clone()
}

/// A write to some object as it is now, if it is there.
fn some_write(cluster: &ClusterStore, value: &str, rng: &mut SmallRng) -> Write {
    let (resource, namespace, name) = (pick(&RESOURCES, rng), pick(&NAMESPACES, rng), pick(&NAMES, rng));
    match cluster.get(&ObjectKey::new(&resource.into(), namespace, name)) {
        None => create(resource, namespace, name, value),
        Some(object) if rng.random_bool(0.25) => delete(resource, namespace, name, object.revision),
        Some(object) => update(resource, namespace, name, value, object.revision),
    }
}

async fn write(world: Arc<World>, writer: usize, mut rng: SmallRng) {
    for i in 0..WRITES {
        let id = pick(&world.clusters, &mut rng);
        let cluster = world.cluster(id, &mut rng).await;
        let several = if rng.random_bool(0.3) { rng.random_range(2..6) } else { 1 };
        let writes: Vec<Write> =
            (0..several).map(|n| some_write(&cluster, &format!("w{writer}-{i}-{n}"), &mut rng)).collect();
        for (answer, write) in cluster.commit_all(writes.clone()).await.into_iter().zip(writes) {
            let Ok(object) = answer else { continue };
            let kind = match write {
                Write::Create(_) => EventKind::Added,
                Write::Update { .. } => EventKind::Modified,
                Write::Delete { .. } => EventKind::Deleted,
            };
            let told = tell_change(kind, &object.key, &value_of(&object));
            let before = world.acknowledged.lock().insert((id, object.revision), told);
            assert_eq!(before, None, "a revision is given once");
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
    }
}

/// Lists now and as it was, and compares with the ledger.
async fn read(world: Arc<World>, mut rng: SmallRng) {
    loop {
        tokio::time::sleep(Duration::from_millis(rng.random_range(100..1500))).await;
        let id = pick(&world.clusters, &mut rng);
        let cluster = world.cluster(id, &mut rng).await;
        let namespace = rng.random_bool(0.5).then(|| pick(&NAMESPACES, &mut rng));
        let scope = scope(pick(&RESOURCES, &mut rng), namespace);
        let listing = cluster.list(&scope);
        world.ledger(id).agrees_with(&scope, &listing);
        let then = Revision(rng.random_range(0..=cluster.revision().0));
        match cluster.list_at(&scope, then).await {
            Ok(listing) => world.ledger(id).agrees_with(&scope, &listing),
            Err(end) => drop(world.may_end(id, &scope, &end)),
        }
    }
}

async fn simulate(seed: u64) -> u64 {
    let world = World::new(seed).await;
    let mut rng = SmallRng::seed_from_u64(seed);
    let often = |rng: &mut SmallRng, most: f64| if rng.random_bool(0.5) { rng.random_range(0.0..most) } else { 0.0 };
    world.database.faults(Faults {
        refused: often(&mut rng, 0.1),
        answer_lost: often(&mut rng, 0.15),
        late: often(&mut rng, 0.15),
        stalled: often(&mut rng, 0.1),
        stall: Duration::from_secs(rng.random_range(1..15)),
        latency: Duration::from_millis(rng.random_range(1..80)),
    });
    let mut fork = || SmallRng::seed_from_u64(rng.random());
    let mut background = vec![
        tokio::spawn(world.clone().upset(fork())),
        tokio::spawn(world.clone().press(fork())),
        tokio::spawn(read(world.clone(), fork())),
    ];
    let mut followers = Vec::new();
    for id in world.clusters.clone() {
        for resource in RESOURCES {
            let namespace = (fork().random_bool(0.3)).then_some(NAMESPACES[0]);
            let follower = Follower::new(id, scope(resource, namespace));
            followers.push(tokio::spawn(follow(world.clone(), follower, fork())));
        }
    }
    let writers: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(write(world.clone(), writer, fork()))).collect();
    for writer in writers {
        writer.await.expect("no broken promise");
    }
    for task in &background {
        assert!(!task.is_finished(), "no broken promise");
    }
    background.drain(..).for_each(|task| task.abort());
    world.database.faults(Faults::default());

    let mut rng = fork();
    for id in world.clusters.clone() {
        // Commits on their way end before the last revision is read.
        loop {
            match world.cluster(id, &mut rng).await.commit(create("pods", "end", "end", "end")).await {
                Ok(_) | Err(CommitError::Exists(_)) => break,
                Err(CommitError::Unavailable(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let last = world.cluster(id, &mut rng).await.revision();
        world.ends.lock().insert(id, last);
    }
    let mut hasher = DefaultHasher::new();
    for follower in followers {
        let follower = follower.await.expect("no broken promise");
        follower.agrees_with(&world.ledger(follower.cluster));
        follower.told().hash(&mut hasher);
    }
    for id in &world.clusters {
        let ledger: Ledger = world.ledger(*id);
        ledger.is_whole();
        for ((_, revision), told) in world.acknowledged.lock().range((*id, Revision(0))..=(*id, Revision(u64::MAX))) {
            assert_eq!(ledger.told(*revision), Some(told.as_str()), "what was acknowledged is there");
        }
        let cluster = world.cluster(*id, &mut rng).await;
        for resource in RESOURCES {
            ledger.agrees_with(&scope(resource, None), &cluster.list(&scope(resource, None)));
        }
    }
    world.listened();
    world.delete_one(&mut rng).await;
    world.database.history().hash(&mut hasher);
    hasher.finish()
}

#[test]
fn promises_hold_in_every_simulated_history() {
    run_seeds("promises_hold_in_every_simulated_history", 1000, simulate);
}
