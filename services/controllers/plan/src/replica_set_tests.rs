use serde_json::json;

use super::*;
use crate::action::FailedVerb;
use crate::pod;
use crate::world::World;

fn world_with(replicas: i32) -> World {
    let mut world = World::new();
    world.create(
        RESOURCE,
        &json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}},
            },
        }),
    );
    world
}

fn observe(world: &World) -> Observed {
    let set = world.get::<ReplicaSet>(RESOURCE, "default", "web").unwrap_or_default();
    let uid = meta::uid(&set.metadata).to_owned();
    let all = world.list::<Pod>("pods");
    let pods: Vec<_> =
        all.iter().filter(|p| meta::controller_of(&p.metadata).is_none_or(|owner| owner.uid == uid)).cloned().collect();
    Observed { set, related: pods.clone(), pods, failure: None }
}

fn settle(world: &mut World) -> Plan<Reason> {
    world.settle(|w| plan(&observe(w), w.now))
}

fn status(world: &World) -> ReplicaSetStatus {
    world.get::<ReplicaSet>(RESOURCE, "default", "web").unwrap().status.clone().unwrap()
}

#[test]
fn a_new_set_gets_its_pods_and_counts_them() {
    let mut world = world_with(3);
    let last = settle(&mut world);
    assert_eq!(last.nothing, Some(Reason::AsWanted));
    assert_eq!(world.list::<Pod>("pods").len(), 3);
    assert_eq!((status(&world).replicas, status(&world).ready_replicas), (3, None));
    assert_eq!(status(&world).observed_generation, Some(1));
    world.start_pods();
    settle(&mut world);
    assert_eq!((status(&world).ready_replicas, status(&world).available_replicas), (Some(3), Some(3)));
}

#[test]
fn a_deleted_pod_is_replaced_and_a_failed_one_does_not_count() {
    let mut world = world_with(2);
    settle(&mut world);
    let first = world.list::<Pod>("pods")[0].metadata.name.clone().unwrap();
    let second = world.list::<Pod>("pods")[1].metadata.name.clone().unwrap();
    world.delete("pods", "default", &first);
    world.edit("pods", "default", &second, |p| p["status"]["phase"] = json!("Failed"));
    settle(&mut world);
    assert_eq!(world.list::<Pod>("pods").iter().filter(|p| pod::is_active(p)).count(), 2);
    assert_eq!(world.list::<Pod>("pods").len(), 3);
}

#[test]
fn scaling_down_takes_the_cheapest_pods() {
    let mut world = world_with(3);
    settle(&mut world);
    world.start_pods();
    let names: Vec<_> = world.list::<Pod>("pods").iter().map(|p| p.metadata.name.clone().unwrap()).collect();
    world.edit("pods", "default", &names[1], |p| p["metadata"]["annotations"] = json!({pod::DELETION_COST: "-1"}));
    world.edit("pods", "default", &names[2], |p| p["status"]["conditions"] = json!([]));
    world.edit(RESOURCE, "default", "web", |rs| rs["spec"]["replicas"] = json!(1));
    settle(&mut world);
    assert_eq!(world.list::<Pod>("pods").len(), 1);
    assert_eq!(world.list::<Pod>("pods")[0].metadata.name.as_deref(), Some(&*names[0]));
}

#[test]
fn a_relabelled_pod_is_released_and_an_orphan_adopted() {
    let mut world = world_with(1);
    settle(&mut world);
    let name = world.list::<Pod>("pods")[0].metadata.name.clone().unwrap();
    world.edit("pods", "default", &name, |p| p["metadata"]["labels"]["app"] = json!("debug"));
    settle(&mut world);
    assert!(world.get::<Pod>("pods", "default", &name).unwrap().metadata.owner_references.is_none());
    assert_eq!(world.list::<Pod>("pods").len(), 2);
    world.edit("pods", "default", &name, |p| p["metadata"]["labels"]["app"] = json!("web"));
    settle(&mut world);
    assert_eq!(world.list::<Pod>("pods").len(), 1, "the adopted orphan is one too many");
}

#[test]
fn a_failed_create_becomes_a_condition_and_goes_again() {
    let mut world = world_with(1);
    let mut observed = observe(&world);
    observed.failure = Some(Failure {
        verb: FailedVerb::Create,
        resource: "pods".into(),
        message: "pods \"web-\" is forbidden: exceeded quota".into(),
    });
    world.apply(plan(&observed, world.now));
    let condition = status(&world).conditions.unwrap().remove(0);
    assert_eq!((condition.type_.as_str(), condition.reason.as_deref()), ("ReplicaFailure", Some("FailedCreate")));
    settle(&mut world);
    assert_eq!(status(&world).conditions, None);
}

#[test]
fn available_waits_for_min_ready_seconds_and_says_when() {
    let mut world = world_with(1);
    world.edit(RESOURCE, "default", "web", |rs| rs["spec"]["minReadySeconds"] = json!(10));
    settle(&mut world);
    world.start_pods();
    let last = settle(&mut world);
    assert_eq!(status(&world).available_replicas, None);
    assert_eq!(last.wake_at, Some(time::after(world.now, 10)));
    world.pass(10);
    settle(&mut world);
    assert_eq!(status(&world).available_replicas, Some(1));
}

#[test]
fn a_set_being_deleted_leaves_its_pods_to_the_garbage_collector() {
    let mut world = world_with(2);
    settle(&mut world);
    world.edit(RESOURCE, "default", "web", |rs| {
        rs["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
        rs["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        rs["spec"]["replicas"] = json!(5);
    });
    let last = settle(&mut world);
    assert_eq!(last.nothing, Some(Reason::BeingDeleted));
    assert_eq!(world.list::<Pod>("pods").len(), 2);
}
