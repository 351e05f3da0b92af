//! How fast the pure scheduler decides: `cargo run --release -p galley-scheduler --example bench`.

use std::sync::Arc;
use std::time::Instant;

use galley_scheduler::{Outcome, PodInfo, Snapshot, schedule_batch};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

fn cluster(nodes: usize) -> Snapshot {
    let mut snapshot = Snapshot::new();
    for i in 0..nodes {
        let node = json!({
            "metadata": {"name": format!("node-{i}"), "labels": {
                "kubernetes.io/hostname": format!("node-{i}"), "topology.kubernetes.io/zone": format!("zone-{}", i % 3)}},
            "status": {"allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110"}},
        });
        snapshot.set_node(&serde_json::from_value(node).expect("a node"));
    }
    snapshot
}

fn pods(count: usize, spec: &Value) -> Vec<Arc<PodInfo>> {
    let pod = |i: usize| {
        let meta =
            json!({"name": format!("p{i}"), "uid": format!("p{i}"), "namespace": "default", "labels": {"app": "web"}});
        let pod = serde_json::from_value(json!({"metadata": meta, "spec": spec})).expect("a pod");
        Arc::new(PodInfo::new(&pod, None))
    };
    (0..count).map(pod).collect()
}

fn main() {
    let container =
        json!([{"name": "c", "image": "app", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}]);
    let selector = json!({"matchLabels": {"app": "web"}});
    let anti = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"}]}});
    let spread = json!([{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": selector}]);
    for (what, count, spec) in [
        ("plain", 5000, json!({"containers": container})),
        ("required anti-affinity", 500, json!({"containers": container, "affinity": anti})),
        ("hard zone spread", 5000, json!({"containers": container, "topologySpreadConstraints": spread})),
        ("fits nowhere", 5000, json!({"containers": container, "nodeSelector": {"no": "such"}})),
    ] {
        let mut snapshot = cluster(1000);
        let start = Instant::now();
        let pods = pods(count, &spec);
        let compiled = start.elapsed();
        let start = Instant::now();
        let outcomes = schedule_batch(&mut snapshot, &pods, &mut StdRng::seed_from_u64(1));
        let took = start.elapsed();
        let placed = outcomes.iter().filter(|o| matches!(o, Outcome::Placed { .. })).count();
        println!(
            "{what}: {placed}/{count} placed on 1000 nodes in {took:?}: {:.0} pods/s (compiling the pods: {compiled:?})",
            count as f64 / took.as_secs_f64(),
        );
    }
}
