//! The control plane under more pods than this machine could run: nodes that only say that their pods run.

use std::time::{Duration, Instant};

use galley_tests::{World, condition, items};

const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: many}
spec:
  replicas: 500
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      containers: [{name: c, image: "galley.dev/busybox:1", resources: {requests: {cpu: 100m, memory: 64Mi}}}]
---
apiVersion: v1
kind: Service
metadata: {name: many}
spec: {selector: {app: many}, ports: [{port: 80}]}
"#;

#[test]
fn five_hundred_pods_run_on_twenty_simulated_nodes() {
    let world = World::start("e2s", 92, &[]).expect("an installation starts");
    let nodes = world.galley.simulated_start("test", 20, "sim").expect("simulated nodes start");
    world.wait_nodes_ready(20).unwrap_or_else(|error| panic!("{error:#}\n{}", nodes.tail()));
    let start = Instant::now();
    world.kubectl.apply(MANIFEST).expect("the manifest is accepted");
    let limit = Duration::from_secs(180);
    let all_ready = |d: &serde_json::Value| d["status"]["readyReplicas"] == 500;
    world.kubectl.wait_for(&["deployment", "many"], limit, "500 ready replicas", all_ready).expect("all pods run");
    println!("500 pods ready after {:.1} s", start.elapsed().as_secs_f64());
    let pods = world.kubectl.get(&["pods"]).expect("pods are listed");
    assert_eq!(items(&pods).iter().filter(|pod| condition(pod, "Ready") == "True").count(), 500);
    let mut on: Vec<&str> = items(&pods).iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    on.sort_unstable();
    on.dedup();
    assert_eq!(on.len(), 20, "every node has its share");
    let endpoints = |list: &serde_json::Value| {
        let count = |slice: &serde_json::Value| slice["endpoints"].as_array().map_or(0, Vec::len);
        items(list).iter().map(count).sum::<usize>()
    };
    let slices = ["endpointslices", "-l", "kubernetes.io/service-name=many"];
    let full = |list: &serde_json::Value| endpoints(list) == 500;
    world.kubectl.wait_for(&slices, limit, "an endpoint for each pod", full).expect("all pods are endpoints");
    world.kubectl.run(&["scale", "deployment", "many", "--replicas=0"]).expect("scaled");
    let none = |list: &serde_json::Value| items(list).is_empty();
    world.kubectl.wait_for(&["pods"], limit, "no pods", none).expect("all pods go");
    let empty = |list: &serde_json::Value| endpoints(list) == 0;
    world.kubectl.wait_for(&slices, limit, "no endpoints", empty).expect("all endpoints go");
}
