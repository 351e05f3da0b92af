//! Nodes: heartbeats, and kubelets that run what is bound to them, unless they are lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use galley_pipeline::DeleteOptions;
use galley_store::Object;
use galley_types::Clock;
use rand::Rng as _;
use rand::rngs::SmallRng;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::world::World;

/// Between heartbeats; the grace period is more than three of them.
const HEARTBEAT: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Nodes {
    /// Whether each is alive.
    alive: BTreeMap<String, bool>,
}

impl Nodes {
    pub fn add(&mut self, name: &str) {
        self.alive.insert(name.to_owned(), true);
    }

    pub fn set(&mut self, name: &str, alive: bool) {
        if let Some(entry) = self.alive.get_mut(name) {
            *entry = alive;
        }
    }

    pub fn remove(&mut self, name: &str) {
        self.alive.remove(name);
    }

    pub fn all_return(&mut self) {
        self.alive.values_mut().for_each(|alive| *alive = true);
    }

    pub fn names(&self) -> Vec<String> {
        self.alive.keys().cloned().collect()
    }
}

fn time(world: &World) -> String {
    world.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What a kubelet tells of its node.
fn status(world: &World) -> Value {
    json!({"status": {
        "allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110"},
        "capacity": {"cpu": "16", "memory": "64Gi", "pods": "110"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
            "lastHeartbeatTime": time(world), "lastTransitionTime": time(world)}],
    }})
}

/// Registers if need be, and is heard of.
async fn beat(world: &World, name: &str) {
    let node =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": status(world)["status"]});
    let silent = |object: &Object| {
        let value = object.value().expect("JSON");
        value["status"]["conditions"].as_array().is_none_or(|all| all.iter().any(|c| c["status"] != "True"))
    };
    match world.objects("nodes").await.into_iter().find(|object| &*object.key.name == name) {
        None => drop(world.create("nodes", node).await),
        Some(object) if silent(&object) => drop(world.merge("nodes", "", name, Some("status"), status(world)).await),
        Some(_) => {}
    }
    let now = format!("{}", world.clock.now().strftime("%Y-%m-%dT%H:%M:%S.000000Z"));
    let spec = json!({"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now});
    let renewed = world.merge("leases.coordination.k8s.io", "kube-node-lease", name, None, json!({"spec": spec})).await;
    if renewed.is_err() {
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": spec});
        drop(world.create("leases.coordination.k8s.io", lease).await);
    }
}

fn says(object: &Object, field: &str) -> bool {
    let field = field.as_bytes();
    object.body.windows(field.len()).any(|window| window == field)
}

/// All living nodes' kubelets.
pub async fn kubelets(world: Arc<World>, mut rng: SmallRng) {
    let mut due: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        tokio::time::sleep(Duration::from_millis(rng.random_range(500..3000))).await;
        let alive: Vec<String> =
            world.nodes.lock().alive.iter().filter(|(_, alive)| **alive).map(|(name, _)| name.clone()).collect();
        for name in &alive {
            if due.get(name).is_none_or(|at| *at <= Instant::now()) {
                due.insert(name.clone(), Instant::now() + HEARTBEAT);
                beat(&world, name).await;
            }
        }
        for pod in world.objects("pods").await {
            let field = |name: &str| pod.fields.get(name).unwrap_or_default();
            let (namespace, name) = (&*pod.key.namespace, &*pod.key.name);
            if !alive.iter().any(|node| node == field("spec.nodeName")) {
                continue;
            }
            if says(&pod, "\"deletionTimestamp\"") {
                let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
                // Refused: again in the next round.
                drop(world.delete("pods", namespace, name, &now).await);
            } else if matches!(field("status.phase"), "" | "Pending") {
                let ends = says(&pod, "\"restartPolicy\":\"Never\"");
                let ready = if ends { "False" } else { "True" };
                let status = json!({"status": {"phase": if ends { "Succeeded" } else { "Running" }, "conditions":
                    [{"type": "Ready", "status": ready, "lastTransitionTime": time(&world)}]}});
                drop(world.merge("pods", namespace, name, Some("status"), status).await);
            }
        }
    }
}
