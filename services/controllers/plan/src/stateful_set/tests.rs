use serde_json::Value;

use super::*;
use crate::world::World;

fn world_with(spec: Value) -> World {
    let mut world = World::new();
    let mut set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "db", "namespace": "default"},
        "spec": {
            "replicas": 3,
            "serviceName": "db",
            "selector": {"matchLabels": {"app": "db"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": {"metadata": {"labels": {"app": "db"}},
                "spec": {"containers": [{"name": "c", "image": "one"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}],
        },
    });
    for (key, value) in spec.as_object().unwrap() {
        set["spec"][key] = value.clone();
    }
    world.create(RESOURCE, &set);
    world
}

fn observe(world: &World) -> Observed {
    let set: Arc<StatefulSet> = world.get(RESOURCE, "default", "db").unwrap();
    let name_taken = world.get::<Value>(revisions::RESOURCE, "default", &revision_name(&set)).is_some();
    let pods: Vec<Arc<Pod>> = world.list("pods");
    let claims = claim_names(&set, &pods);
    let claims = claims.into_iter().filter_map(|name| Some((name.clone(), world.get(CLAIMS, "default", &name)?)));
    Observed {
        claims: claims.collect(),
        set,
        pods,
        revisions: world.list(revisions::RESOURCE),
        name_taken,
        failure: None,
    }
}

fn quiet(world: &mut World) -> Plan<Reason> {
    world.settle(|w| plan(&observe(w), w.now))
}

fn settle(world: &mut World) {
    loop {
        quiet(world);
        let before = world.log.len();
        world.start_pods();
        quiet(world);
        if world.log.len() == before {
            return;
        }
    }
}

fn names(world: &World) -> Vec<String> {
    world.list::<Pod>("pods").iter().map(|p| meta::name(&p.metadata).to_owned()).collect()
}

fn claims(world: &World) -> Vec<String> {
    let claims = world.list::<PersistentVolumeClaim>(CLAIMS);
    claims.iter().map(|c| meta::name(&c.metadata).to_owned()).collect()
}

fn status(world: &World) -> StatefulSetStatus {
    observe(world).set.status.clone().unwrap()
}

fn set_image(world: &mut World, image: &str) {
    world.edit(RESOURCE, "default", "db", |s| s["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image));
}

fn images(world: &World) -> Vec<String> {
    let pods = world.list::<Pod>("pods");
    pods.iter().map(|p| p.spec.as_ref().unwrap().containers[0].image.clone().unwrap()).collect()
}

#[test]
fn pods_stand_up_one_after_the_other_with_their_claims() {
    let mut world = world_with(json!({}));
    for n in 1..=3 {
        assert_eq!(quiet(&mut world).nothing, Some(Reason::Waiting));
        assert_eq!((names(&world).len(), claims(&world).len()), (n, n));
        world.start_pods();
    }
    settle(&mut world);
    assert_eq!(names(&world), ["db-0", "db-1", "db-2"]);
    assert_eq!(claims(&world), ["data-db-0", "data-db-1", "data-db-2"]);
    let pod = world.get::<Pod>("pods", "default", "db-1").unwrap();
    let spec = pod.spec.clone().unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-1"), Some("db")));
    assert_eq!(spec.volumes.unwrap()[0].persistent_volume_claim.as_ref().unwrap().claim_name, "data-db-1");
    let status = status(&world);
    assert_eq!((status.ready_replicas, status.updated_replicas, status.current_replicas), (Some(3), Some(3), Some(3)));
    assert_eq!(status.current_revision, status.update_revision);
}

#[test]
fn parallel_sets_stand_up_at_once() {
    let mut world = world_with(json!({"podManagementPolicy": "Parallel"}));
    quiet(&mut world);
    assert_eq!(names(&world).len(), 3);
}

#[test]
fn scaling_down_takes_the_last_and_leaves_claims() {
    let mut world = world_with(json!({}));
    settle(&mut world);
    world.edit(RESOURCE, "default", "db", |s| s["spec"]["replicas"] = json!(1));
    settle(&mut world);
    assert_eq!(names(&world), ["db-0"]);
    assert_eq!(claims(&world).len(), 3);
    let deletions: Vec<_> = world.log.iter().filter(|entry| entry.starts_with("delete")).collect();
    assert_eq!(deletions, ["delete pods default/db-2", "delete pods default/db-1"]);
}

#[test]
fn retention_gives_claims_the_owners_that_they_go_with() {
    let policy = json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
    let mut world = world_with(json!({"persistentVolumeClaimRetentionPolicy": policy}));
    settle(&mut world);
    let owner = |world: &World, claim: &str| {
        let claim = world.get::<PersistentVolumeClaim>(CLAIMS, "default", claim).unwrap();
        claim.metadata.owner_references.as_ref().map(|owners| owners[0].kind.clone())
    };
    assert_eq!(owner(&world, "data-db-2").as_deref(), Some("StatefulSet"));
    world.edit(RESOURCE, "default", "db", |s| s["spec"]["replicas"] = json!(2));
    settle(&mut world);
    assert_eq!(owner(&world, "data-db-2").as_deref(), Some("Pod"));
    assert_eq!(owner(&world, "data-db-1").as_deref(), Some("StatefulSet"));
}

#[test]
fn an_update_goes_from_the_last_to_the_first_and_waits_for_each() {
    let mut world = world_with(json!({}));
    settle(&mut world);
    set_image(&mut world, "two");
    for want in [["one", "one", "two"], ["one", "two", "two"], ["two", "two", "two"]] {
        assert_eq!(quiet(&mut world).nothing, Some(Reason::Waiting));
        assert_eq!(images(&world), want);
        world.start_pods();
    }
    settle(&mut world);
    assert_eq!(status(&world).current_revision, status(&world).update_revision);
}

#[test]
fn a_partition_keeps_the_pods_below_it_also_when_they_are_made_anew() {
    let mut world = world_with(json!({}));
    settle(&mut world);
    world.edit(RESOURCE, "default", "db", |s| {
        s["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = json!(2);
    });
    set_image(&mut world, "two");
    settle(&mut world);
    assert_eq!(images(&world), ["one", "one", "two"]);
    world.delete("pods", "default", "db-0");
    settle(&mut world);
    assert_eq!(images(&world), ["one", "one", "two"]);
    assert_eq!((status(&world).updated_replicas, status(&world).current_replicas), (Some(1), Some(2)));
}

#[test]
fn a_failed_pod_is_made_anew_under_its_name() {
    let mut world = world_with(json!({}));
    settle(&mut world);
    let before = world.get::<Pod>("pods", "default", "db-1").unwrap();
    world.edit("pods", "default", "db-1", |p| p["status"]["phase"] = json!("Failed"));
    settle(&mut world);
    let after = world.get::<Pod>("pods", "default", "db-1").unwrap();
    assert_ne!(before.metadata.uid, after.metadata.uid);
    assert_eq!(status(&world).ready_replicas, Some(3));
}

#[test]
fn on_delete_updates_what_is_deleted() {
    let mut world = world_with(json!({"updateStrategy": {"type": "OnDelete"}}));
    settle(&mut world);
    set_image(&mut world, "two");
    settle(&mut world);
    assert_eq!(images(&world), ["one", "one", "one"]);
    world.delete("pods", "default", "db-1");
    settle(&mut world);
    assert_eq!(images(&world), ["one", "two", "one"]);
}

#[test]
fn ordinals_may_start_elsewhere() {
    let mut world = world_with(json!({"ordinals": {"start": 5}, "replicas": 2}));
    settle(&mut world);
    assert_eq!(names(&world), ["db-5", "db-6"]);
}
