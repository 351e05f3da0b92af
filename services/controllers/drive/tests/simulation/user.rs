//! A user, and the cloud that takes nodes away.

use std::time::Duration;

use galley_pipeline::{DeleteOptions, Propagation};
use rand::Rng as _;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use crate::world::World;

/// What the user does: enough for things to meet, few enough for a thousand histories.
const DEEDS: usize = 14;
const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];
/// One stays, one may be deleted.
const NAMESPACES: [&str; 2] = ["default", "team"];
const WORKLOADS: [(&str, &str); 5] = [
    ("deployments.apps", "Deployment"),
    ("replicasets.apps", "ReplicaSet"),
    ("statefulsets.apps", "StatefulSet"),
    ("daemonsets.apps", "DaemonSet"),
    ("jobs.batch", "Job"),
];

fn pick<'a, T>(of: &'a [T], rng: &mut SmallRng) -> &'a T {
    &of[rng.random_range(0..of.len())]
}

/// Does what it does, at random times. Refusals are the store's faults, and names that are taken or gone.
pub async fn use_it(world: &World, mut rng: SmallRng) {
    for name in &NODES[..2] {
        world.nodes.lock().add(name);
    }
    for n in 0..DEEDS {
        let wait = if rng.random_bool(0.8) { rng.random_range(0..5_000) } else { rng.random_range(0..200_000) };
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let namespace = *pick(&NAMESPACES, &mut rng);
        match rng.random_range(0..20) {
            0..8 => create(world, namespace, n, &mut rng).await,
            8..12 => change(world, namespace, n, &mut rng).await,
            12..14 => delete(world, namespace, &mut rng).await,
            14..16 => delete_pod(world, &mut rng).await,
            16 => {
                let now = DeleteOptions::default();
                drop(world.delete("namespaces", "", "team", &now).await);
            }
            _ => touch_nodes(world, &mut rng).await,
        }
    }
    tokio::time::sleep(Duration::from_millis(rng.random_range(0..60_000))).await;
}

fn template(kind: &str, name: &str, image: usize) -> Value {
    let mut template = json!({
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": format!("example.com/app:{image}")}]},
    });
    if kind == "Job" {
        template["spec"]["restartPolicy"] = json!("Never");
    }
    template
}

async fn create(world: &World, namespace: &str, n: usize, rng: &mut SmallRng) {
    if namespace != "default" {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        drop(world.create("namespaces", body).await);
    }
    let (resource, kind) = *pick(&WORKLOADS, rng);
    let name = format!("{}-{}", kind.to_lowercase(), rng.random_range(0..2));
    let spec = match kind {
        "Job" => json!({"completions": rng.random_range(1..3), "parallelism": rng.random_range(1..3),
            "template": template(kind, &name, n)}),
        _ => json!({"selector": {"matchLabels": {"app": name}}, "template": template(kind, &name, n)}),
    };
    let group = if kind == "Job" { "batch/v1" } else { "apps/v1" };
    let mut body = json!({"apiVersion": group, "kind": kind,
        "metadata": {"name": name, "namespace": namespace}, "spec": spec});
    match kind {
        "Job" | "DaemonSet" => {}
        _ => body["spec"]["replicas"] = json!(rng.random_range(0..4)),
    }
    if kind == "StatefulSet" {
        body["spec"]["serviceName"] = json!(name);
        if rng.random_bool(0.3) {
            body["spec"]["podManagementPolicy"] = json!("Parallel");
        }
    }
    drop(world.create(resource, body).await);
}

/// Scales, or rolls a new template out.
async fn change(world: &World, namespace: &str, n: usize, rng: &mut SmallRng) {
    let (resource, kind) = WORKLOADS[rng.random_range(0..4)];
    let objects = world.objects(resource).await;
    let here: Vec<_> = objects.iter().filter(|object| &*object.key.namespace == namespace).collect();
    if here.is_empty() {
        return;
    }
    let name = here[rng.random_range(0..here.len())].key.name.to_string();
    let body = if kind != "DaemonSet" && rng.random_bool(0.5) {
        json!({"spec": {"replicas": rng.random_range(0..5)}})
    } else {
        json!({"spec": {"template": {"spec": template(kind, &name, n)["spec"]}}})
    };
    drop(world.merge(resource, namespace, &name, None, body).await);
}

async fn delete(world: &World, namespace: &str, rng: &mut SmallRng) {
    let (resource, _) = *pick(&WORKLOADS, rng);
    let objects = world.objects(resource).await;
    let here: Vec<_> = objects.iter().filter(|object| &*object.key.namespace == namespace).collect();
    if here.is_empty() {
        return;
    }
    let propagation = *pick(&[Propagation::Background, Propagation::Foreground, Propagation::Orphan], rng);
    let options = DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
    let name = here[rng.random_range(0..here.len())].key.name.to_string();
    drop(world.delete(resource, namespace, &name, &options).await);
}

async fn delete_pod(world: &World, rng: &mut SmallRng) {
    let pods = world.objects("pods").await;
    if pods.is_empty() {
        return;
    }
    let pod = &pods[rng.random_range(0..pods.len())].key;
    let options = DeleteOptions { grace_period_seconds: rng.random_bool(0.3).then_some(0), ..DeleteOptions::default() };
    drop(world.delete("pods", &pod.namespace, &pod.name, &options).await);
}

/// A node falls silent, returns, is deleted, or joins.
async fn touch_nodes(world: &World, rng: &mut SmallRng) {
    let name = *pick(&NODES, rng);
    match rng.random_range(0..4) {
        0 => world.nodes.lock().set(name, false),
        1 => world.nodes.lock().set(name, true),
        2 => {
            world.nodes.lock().remove(name);
            match world.delete("nodes", "", name, &DeleteOptions::default()).await {
                Ok(()) => {}
                Err(refused) if refused.code == 404 => {}
                // Its object may still be there: a machine that nobody could take out of the cluster goes on.
                Err(_) => world.nodes.lock().add(name),
            }
        }
        _ => world.nodes.lock().add(name),
    }
}
