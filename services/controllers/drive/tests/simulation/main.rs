//! The controllers' driver in a simulated world: a user who makes, changes and deletes workloads at random, nodes that come,
//! fall silent and go, a database that fails, stores that crash, drivers that are killed, controllers that panic, caches that are
//! evicted. Time and randomness are simulated; a seed is a whole history.
//!
//! When faults end, the world must come to rest: what there is must be what was asked for ([`checks`]), nothing more may be
//! written, and controllers that start from nothing must find nothing to do.

mod checks;
mod clumsy;
mod nodes;
mod user;
mod world;

use std::time::Duration;

use galley_store::testing::{Faults, run_seeds};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use world::World;

/// Longer than anything waits by itself, a silent node's grace period and a failing key's backoff among it.
const PATIENCE: Duration = Duration::from_secs(250);
/// Rounds of that patience in which the world must have come to rest: evictions of lost nodes take five minutes.
const ROUNDS: usize = 8;
/// Writes that coming to rest may take: a few for each of at most some dozens of objects. A hot loop makes thousands.
const WRITES: u64 = 1500;

async fn simulate(seed: u64) -> u64 {
    let mut rng = SmallRng::seed_from_u64(seed);
    let world = World::new(seed).await;
    let often = |rng: &mut SmallRng, most: f64| if rng.random_bool(0.6) { rng.random_range(0.0..most) } else { 0.0 };
    world.database.faults(Faults {
        refused: often(&mut rng, 0.1),
        answer_lost: often(&mut rng, 0.1),
        late: often(&mut rng, 0.1),
        stalled: often(&mut rng, 0.05),
        stall: Duration::from_secs(rng.random_range(1..20)),
        latency: Duration::from_millis(rng.random_range(1..50)),
    });
    let mut fork = || SmallRng::seed_from_u64(rng.random());
    let kubelets = tokio::spawn(nodes::kubelets(world.clone(), fork()));
    let chaos = tokio::spawn(world::chaos(world.clone(), fork()));
    user::use_it(&world, fork()).await;
    assert!(!chaos.is_finished() && !kubelets.is_finished(), "no broken promise");
    chaos.abort();
    world.database.faults(Faults::default());
    clumsy::calm(true);
    world.come_back().await;
    world.nodes.lock().all_return();

    let (before, told) = (world.writes(), world.events());
    let mut last = before;
    let mut rested = false;
    for _ in 0..ROUNDS {
        tokio::time::sleep(PATIENCE).await;
        let now = world.writes();
        rested = now == last;
        last = now;
        if rested {
            break;
        }
    }
    kubelets.abort();
    assert!(rested, "the world does not come to rest\n{}", world.newest(30).await);
    assert!(last - before <= WRITES, "{} writes to come to rest\n{}", last - before, world.newest(30).await);
    assert!(world.events() - told <= WRITES, "{} Events to come to rest", world.events() - told);
    let broken = checks::broken(&world).await;
    assert!(broken.is_empty(), "{}\n{}", broken.join("\n"), world.dump().await);

    // Planning again is empty.
    world.restart_driver().await;
    tokio::time::sleep(PATIENCE).await;
    assert_eq!(world.writes(), last, "new controllers find nothing to do\n{}", world.newest(5).await);
    world.database.history()
}

#[test]
fn the_world_comes_to_rest_as_it_was_asked_to_in_every_simulated_history() {
    // Each is some hundred objects through the whole pipeline, and half an hour of heartbeats.
    run_seeds("the_world_comes_to_rest", 50, simulate);
}
