use std::collections::BTreeSet;

use super::*;
use crate::replica_set;
use crate::world::World;

fn deployment(replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "annotations": {"team": "blue"}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 10,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
            },
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "one"}]},
            },
        },
    })
}

fn world_of(deployment: &Value) -> World {
    let mut world = World::new();
    world.create(RESOURCE, deployment);
    world
}

fn get(world: &World) -> Arc<Deployment> {
    world.get(RESOURCE, "default", "web").unwrap()
}

fn sets(world: &World) -> Vec<Arc<ReplicaSet>> {
    let mut sets = world.list::<ReplicaSet>(replica_set::RESOURCE);
    sets.sort_by_key(|set| revision(set.metadata.annotations.as_ref()));
    sets
}

fn sizes(world: &World) -> Vec<i32> {
    sets(world).iter().map(|set| math::replicas(set)).collect()
}

fn pods(world: &World) -> Vec<Arc<Pod>> {
    world.list("pods")
}

fn observe(world: &World) -> Observed {
    let deployment = get(world);
    let name_taken = world.get::<Value>(replica_set::RESOURCE, "default", &new_set_name(&deployment)).is_some();
    Observed { deployment, sets: sets(world), pods: pods(world), name_taken, failure: None }
}

/// The next step of the Deployment, or of one of its sets.
fn step(world: &World) -> Plan<String> {
    let next = plan(&observe(world), world.now).explain();
    if !next.is_quiet() {
        return next;
    }
    for set in sets(world) {
        let pods: Vec<_> =
            pods(world).into_iter().filter(|p| meta::is_controlled_by(&p.metadata, meta::uid(&set.metadata))).collect();
        let observed = replica_set::Observed { set, related: pods.clone(), pods, failure: None };
        let next = replica_set::plan(&observed, world.now).explain();
        if !next.is_quiet() {
            return next;
        }
    }
    next
}

/// Settles with every pod starting at once.
fn settle(world: &mut World) {
    loop {
        world.settle(step);
        let before = world.log.len();
        world.start_pods();
        world.settle(step);
        if world.log.len() == before {
            return;
        }
    }
}

fn set_image(world: &mut World, image: &str) {
    world.edit(RESOURCE, "default", "web", |d| d["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image));
}

fn condition(world: &World, kind: &str) -> (String, String) {
    let status = get(world).status.clone().unwrap_or_default();
    let condition = status::condition(&status, kind).cloned().unwrap_or_default();
    (condition.status, condition.reason.unwrap_or_default())
}

#[test]
fn a_new_deployment_gets_a_set_with_its_hash_and_becomes_available() {
    let mut world = world_of(&deployment(3));
    settle(&mut world);
    let set = sets(&world).remove(0);
    let hash = meta::label(&set.metadata, HASH_LABEL).unwrap();
    assert_eq!(meta::name(&set.metadata), format!("web-{hash}"));
    assert_eq!(meta::annotation(&set.metadata, "team"), Some("blue"));
    assert_eq!(meta::annotation(&set.metadata, REVISION), Some("1"));
    assert_eq!(meta::annotation(&get(&world).metadata, REVISION), Some("1"));
    assert!(pods(&world).iter().all(|p| meta::label(&p.metadata, HASH_LABEL) == Some(hash)));
    let status = get(&world).status.clone().unwrap();
    assert_eq!((status.replicas, status.available_replicas, status.unavailable_replicas), (Some(3), Some(3), Some(0)));
    assert_eq!(condition(&world, "Available"), ("True".into(), "MinimumReplicasAvailable".into()));
    assert_eq!(condition(&world, "Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
}

#[test]
fn a_rolling_update_stays_within_surge_and_unavailability_at_every_step() {
    for (replicas, most, least) in [(10, 13, 8), (1, 2, 1), (4, 5, 3), (3, 4, 3)] {
        let mut world = world_of(&deployment(replicas));
        settle(&mut world);
        set_image(&mut world, "two");
        for _ in 0..200 {
            let next = step(&world);
            if next.is_quiet() {
                // Pods start one by one: the slowest way through.
                let waiting = pods(&world).iter().find(|p| pod::phase(p) == "Pending").cloned();
                let Some(waiting) = waiting else { break };
                let since = json!(world.now);
                world.edit("pods", "default", meta::name(&waiting.metadata), |p| {
                    p["status"] = json!({"phase": "Running", "conditions":
                        [{"type": "Ready", "status": "True", "lastTransitionTime": since}]});
                });
            } else {
                world.apply(next);
            }
            assert!(pods(&world).len() <= most, "{replicas}: {} pods", pods(&world).len());
            let ready = pods(&world).iter().filter(|p| pod::is_ready(p)).count();
            assert!(ready >= least, "{replicas}: {ready} ready");
        }
        assert_eq!(sizes(&world), [0, replicas]);
        assert_eq!(condition(&world, "Progressing").1, "NewReplicaSetAvailable");
        assert_eq!(meta::annotation(&get(&world).metadata, REVISION), Some("2"));
    }
}

#[test]
fn undo_takes_the_old_set_up_again_under_a_new_revision() {
    let mut world = world_of(&deployment(2));
    settle(&mut world);
    let first = sets(&world)[0].metadata.name.clone();
    set_image(&mut world, "two");
    settle(&mut world);
    set_image(&mut world, "one");
    settle(&mut world);
    assert_eq!(sets(&world).len(), 2);
    let current = sets(&world).pop().unwrap();
    assert_eq!((&current.metadata.name, math::replicas(&current)), (&first, 2));
    assert_eq!(meta::annotation(&current.metadata, REVISION), Some("3"));
    assert_eq!(meta::annotation(&current.metadata, REVISION_HISTORY), Some("1"));
}

#[test]
fn recreate_never_runs_old_and_new_pods_together() {
    let mut spec = deployment(3);
    spec["spec"]["strategy"] = json!({"type": "Recreate"});
    let mut world = world_of(&spec);
    settle(&mut world);
    set_image(&mut world, "two");
    for _ in 0..50 {
        let next = step(&world);
        if next.is_quiet() {
            break;
        }
        world.apply(next);
        let hashes: BTreeSet<_> =
            pods(&world).iter().map(|p| meta::label(&p.metadata, HASH_LABEL).unwrap().to_owned()).collect();
        assert!(hashes.len() <= 1);
    }
    assert_eq!(sizes(&world), [0, 3]);
}

#[test]
fn a_stuck_rollout_that_is_scaled_keeps_its_proportions() {
    let mut spec = deployment(10);
    spec["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": 3, "maxUnavailable": 2});
    let mut world = world_of(&spec);
    settle(&mut world);
    set_image(&mut world, "does-not-exist");
    world.settle(step);
    assert_eq!(sizes(&world), [8, 5]);
    world.edit(RESOURCE, "default", "web", |d| d["spec"]["replicas"] = json!(15));
    world.settle(step);
    assert_eq!(sizes(&world), [11, 7]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = world_of(&deployment(2));
    settle(&mut world);
    world.edit(RESOURCE, "default", "web", |d| {
        d["spec"]["paused"] = json!(true);
        d["spec"]["replicas"] = json!(4);
    });
    set_image(&mut world, "two");
    settle(&mut world);
    assert_eq!(sizes(&world), [4]);
    assert_eq!(condition(&world, "Progressing"), ("Unknown".into(), "DeploymentPaused".into()));
    world.edit(RESOURCE, "default", "web", |d| d["spec"]["paused"] = json!(false));
    settle(&mut world);
    assert_eq!(sizes(&world), [0, 4]);
    assert_eq!(condition(&world, "Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
}

#[test]
fn a_rollout_that_stands_still_misses_its_deadline() {
    let mut world = world_of(&deployment(2));
    settle(&mut world);
    set_image(&mut world, "does-not-exist");
    let last = world.settle(step);
    assert!(last.is_quiet());
    let wake_at = plan(&observe(&world), world.now).wake_at.unwrap();
    assert_eq!(wake_at, crate::time::after(world.now, 601));
    world.pass(601);
    world.settle(step);
    assert_eq!(condition(&world, "Progressing"), ("False".into(), "ProgressDeadlineExceeded".into()));
    set_image(&mut world, "two");
    settle(&mut world);
    assert_eq!(condition(&world, "Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
}

#[test]
fn history_beyond_the_limit_goes() {
    let mut spec = deployment(1);
    spec["spec"]["revisionHistoryLimit"] = json!(1);
    let mut world = world_of(&spec);
    for image in ["one", "two", "three", "four"] {
        set_image(&mut world, image);
        settle(&mut world);
    }
    assert_eq!(sizes(&world), [0, 1]);
    assert_eq!(meta::annotation(&get(&world).metadata, REVISION), Some("4"));
}

#[test]
fn an_orphaned_set_is_adopted_with_its_pods() {
    let mut world = world_of(&deployment(2));
    settle(&mut world);
    let set = sets(&world)[0].metadata.name.clone().unwrap();
    world.edit(replica_set::RESOURCE, "default", &set, |rs| rs["metadata"]["ownerReferences"] = Value::Null);
    settle(&mut world);
    assert_eq!(sets(&world).len(), 1);
    assert!(meta::controller_of(&sets(&world)[0].metadata).is_some());
    assert_eq!(pods(&world).len(), 2);
}

#[test]
fn a_taken_name_is_stepped_around() {
    let spec = deployment(1);
    let mut world = world_of(&spec);
    let name = new_set_name(&get(&world));
    world.create(
        replica_set::RESOURCE,
        &json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": "other"}},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "other"}},
                "template": {"metadata": {"labels": {"app": "other"}}}}}),
    );
    settle(&mut world);
    assert_eq!(get(&world).status.as_ref().unwrap().collision_count, Some(1));
    assert_eq!(sets(&world).len(), 2);
    assert_eq!(pods(&world).len(), 1);
}

#[test]
fn fenceposts_round_as_documented() {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::{Int, String};
    let percent = |text: &str| String(text.into());
    for (surge, unavailable, desired, want) in [
        (percent("25%"), percent("25%"), 10, (3, 2)),
        (percent("25%"), percent("25%"), 1, (1, 0)),
        (percent("0%"), percent("10%"), 5, (0, 1)),
        (Int(0), Int(0), 5, (0, 1)),
        (Int(2), Int(1), 5, (2, 1)),
    ] {
        let posts = math::fenceposts(Some(&surge), Some(&unavailable), desired);
        assert_eq!((posts.surge, posts.unavailable), want);
    }
}
