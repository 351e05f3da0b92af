use serde_json::Value;

use super::*;
use crate::world::World;

fn world_with(nodes: usize) -> World {
    let mut world = World::new();
    world.create(
        RESOURCE,
        &json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": "agent", "namespace": "default"},
            "spec": {
                "selector": {"matchLabels": {"app": "agent"}},
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
                "revisionHistoryLimit": 10,
                "template": {"metadata": {"labels": {"app": "agent"}},
                    "spec": {"containers": [{"name": "c", "image": "one"}]}},
            },
        }),
    );
    for n in 0..nodes {
        add_node(&mut world, &format!("node-{n}"));
    }
    world
}

fn add_node(world: &mut World, name: &str) {
    world.create("nodes", &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {}}}));
}

fn observe(world: &World) -> Observed {
    let set: Arc<DaemonSet> = world.get(RESOURCE, "default", "agent").unwrap();
    let name_taken = world.get::<Value>(revisions::RESOURCE, "default", &revision_name(&set)).is_some();
    Observed {
        set,
        pods: world.list("pods"),
        nodes: world.list("nodes"),
        revisions: world.list(revisions::RESOURCE),
        name_taken,
        failure: None,
    }
}

/// The scheduler binds pods to the node that they name.
fn bind(world: &mut World) {
    for pod in world.list::<Pod>("pods") {
        let node = pods::node_of(&pod).unwrap().to_owned();
        world.edit("pods", "default", meta::name(&pod.metadata), |p| p["spec"]["nodeName"] = json!(node));
    }
}

fn settle(world: &mut World) {
    loop {
        world.settle(|w| plan(&observe(w), w.now));
        let before = world.log.len();
        bind(world);
        world.start_pods();
        world.settle(|w| plan(&observe(w), w.now));
        if world.log.len() == before {
            return;
        }
    }
}

fn nodes_with_pods(world: &World) -> Vec<String> {
    let mut nodes: Vec<String> =
        world.list::<Pod>("pods").iter().filter_map(|p| pods::node_of(p).map(str::to_owned)).collect();
    nodes.sort();
    nodes
}

fn status(world: &World) -> DaemonSetStatus {
    observe(world).set.status.clone().unwrap()
}

#[test]
fn every_node_gets_a_pod_also_one_that_comes_later() {
    let mut world = world_with(2);
    settle(&mut world);
    add_node(&mut world, "node-2");
    settle(&mut world);
    assert_eq!(nodes_with_pods(&world), ["node-0", "node-1", "node-2"]);
    let status = status(&world);
    assert_eq!(
        (status.desired_number_scheduled, status.number_ready, status.updated_number_scheduled),
        (3, 3, Some(3))
    );
    let pod = world.list::<Pod>("pods").remove(0);
    let tolerations = pod.spec.as_ref().unwrap().tolerations.as_ref().unwrap();
    assert!(tolerations.iter().any(|t| t.key.as_deref() == Some("node.kubernetes.io/unschedulable")));
}

#[test]
fn nodes_that_do_not_fit_have_none() {
    let mut world = world_with(3);
    world.edit("nodes", "", "node-0", |n| n["spec"]["taints"] = json!([{"key": "a", "effect": "NoSchedule"}]));
    world
        .edit(RESOURCE, "default", "agent", |d| d["spec"]["template"]["spec"]["nodeSelector"] = json!({"disk": "ssd"}));
    for node in ["node-0", "node-1"] {
        world.edit("nodes", "", node, |n| n["metadata"]["labels"]["disk"] = json!("ssd"));
    }
    settle(&mut world);
    assert_eq!(nodes_with_pods(&world), ["node-1"]);
    world.edit("nodes", "", "node-1", |n| n["spec"]["taints"] = json!([{"key": "a", "effect": "NoSchedule"}]));
    settle(&mut world);
    assert_eq!(nodes_with_pods(&world), ["node-1"], "what runs may stay");
    assert_eq!(status(&world).number_misscheduled, 1);
    world.edit("nodes", "", "node-1", |n| n["metadata"]["labels"] = json!({}));
    settle(&mut world);
    assert!(nodes_with_pods(&world).is_empty());
}

fn roll(world: &mut World, mut check: impl FnMut(&World)) {
    world.edit(RESOURCE, "default", "agent", |d| {
        d["spec"]["template"]["spec"]["containers"][0]["image"] = json!("two");
    });
    for _ in 0..100 {
        let next = plan(&observe(world), world.now);
        if next.is_quiet() {
            let before = world.list::<Pod>("pods").iter().filter(|p| pod::is_ready(p)).count();
            bind(world);
            world.start_pods();
            if world.list::<Pod>("pods").iter().filter(|p| pod::is_ready(p)).count() == before {
                return;
            }
        } else {
            world.apply(next);
        }
        check(world);
    }
    panic!("the roll does not end");
}

#[test]
fn a_rolling_update_replaces_one_pod_at_a_time() {
    let mut world = world_with(4);
    settle(&mut world);
    roll(&mut world, |w| {
        let ready = w.list::<Pod>("pods").iter().filter(|p| pod::is_ready(p)).count();
        assert!(ready >= 3, "{ready} ready");
    });
    assert_eq!(status(&world).updated_number_scheduled, Some(4));
    assert_eq!(world.list::<ControllerRevision>(revisions::RESOURCE).len(), 2);
}

#[test]
fn a_surging_update_never_has_a_node_without_a_ready_pod() {
    let mut world = world_with(4);
    world.edit(RESOURCE, "default", "agent", |d| {
        d["spec"]["updateStrategy"]["rollingUpdate"] = json!({"maxUnavailable": 0, "maxSurge": 2});
    });
    settle(&mut world);
    roll(&mut world, |w| {
        let pods = w.list::<Pod>("pods");
        assert!(pods.len() <= 6);
        let mut ready: Vec<_> = pods.iter().filter(|p| pod::is_ready(p)).filter_map(|p| pods::node_of(p)).collect();
        ready.sort_unstable();
        ready.dedup();
        assert_eq!(ready.len(), 4);
    });
    assert_eq!(world.list::<Pod>("pods").len(), 4);
    assert_eq!(status(&world).updated_number_scheduled, Some(4));
}

#[test]
fn on_delete_waits_for_somebody_to_delete() {
    let mut world = world_with(1);
    world.edit(RESOURCE, "default", "agent", |d| d["spec"]["updateStrategy"] = json!({"type": "OnDelete"}));
    settle(&mut world);
    let name = meta::name(&world.list::<Pod>("pods")[0].metadata).to_owned();
    roll(&mut world, |_| {});
    assert!(world.get::<Pod>("pods", "default", &name).is_some());
    world.delete("pods", "default", &name);
    settle(&mut world);
    assert_eq!(status(&world).updated_number_scheduled, Some(1));
}

#[test]
fn taking_a_template_back_renumbers_its_revision() {
    let mut world = world_with(1);
    settle(&mut world);
    roll(&mut world, |_| {});
    world.edit(RESOURCE, "default", "agent", |d| {
        d["spec"]["template"]["spec"]["containers"][0]["image"] = json!("one");
    });
    settle(&mut world);
    let mut numbers: Vec<i64> =
        world.list::<ControllerRevision>(revisions::RESOURCE).iter().map(|r| r.revision).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3]);
}

#[test]
fn a_failed_pod_is_replaced() {
    let mut world = world_with(1);
    settle(&mut world);
    world.pass(60);
    let name = meta::name(&world.list::<Pod>("pods")[0].metadata).to_owned();
    world.edit("pods", "default", &name, |p| p["status"]["phase"] = json!("Failed"));
    settle(&mut world);
    assert!(world.get::<Pod>("pods", "default", &name).is_none());
    assert_eq!(status(&world).number_ready, 1);
}
