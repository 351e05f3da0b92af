//! Nodes that are cordoned, drained, restarted, lost.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use galley_harness::wait;
use galley_tests::{World, condition, items};
use serde_json::Value;

use crate::{Namespace, contains};

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      containers: [{name: c, image: "galley.dev/busybox:1", command: [sleep, infinity]}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}
"#;

fn all_on(list: &Value, node: &str, count: usize) -> bool {
    let good = items(list)
        .iter()
        .filter(|p| p["spec"]["nodeName"] == node && condition(p, "Ready") == "True")
        .filter(|p| p["metadata"]["deletionTimestamp"].is_null());
    good.count() == count
}

pub fn maintenance(world: &mut World) -> Result<()> {
    let pods_before;
    {
        let ns = Namespace::new(world, "maintenance")?;
        ns.apply(WEB)?;
        ns.rolled_out("deployment/web")?;
        ns.run(&["cordon", "node-2"])?;
        contains(&ns.run(&["get", "nodes"])?, "Ready,SchedulingDisabled")?;
        ns.run(&["drain", "node-2", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s"])?;
        ns.until(&["pods"], 60, "all pods on node-1", |pods| all_on(pods, "node-1", 2))?;
        ns.run(&["uncordon", "node-2"])?;
        contains(&ns.run(&["describe", "node", "node-1"])?, "Allocated resources")?;
        let pods = ns.get(&["pods"])?;
        pods_before =
            items(&pods).iter().map(|p| p["status"]["containerStatuses"][0]["containerID"].clone()).collect::<Vec<_>>();
    }
    // Restarting the agent disturbs no container.
    world.kubectl.run(&["create", "namespace", "undisturbed"])?;
    let run = [
        "-n",
        "undisturbed",
        "run",
        "p",
        "--image=galley.dev/busybox:1",
        "--overrides",
        r#"{"spec":{"nodeName":"node-1","terminationGracePeriodSeconds":1}}"#,
        "--",
        "sleep",
        "infinity",
    ];
    world.kubectl.run(&run)?;
    let ready = |pod: &Value| condition(pod, "Ready") == "True";
    let limit = Duration::from_secs(60);
    let before = world.kubectl.wait_for(&["-n", "undisturbed", "pod", "p"], limit, "the pod to be ready", ready)?;
    world.nodes[0].restart_agent().context("restart the agent")?;
    world.wait_nodes_ready(2)?;
    wait::until("exec to work again", limit, || {
        world.kubectl.run(&["-n", "undisturbed", "exec", "p", "--", "true"]).map(|_| Some(()))
    })?;
    let after = world.kubectl.get(&["-n", "undisturbed", "pod", "p"])?;
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    ensure!(id(&before) == id(&after) && after["status"]["containerStatuses"][0]["restartCount"] == 0, "{after:#}");
    ensure!(pods_before.len() == 2);
    world.kubectl.run(&["delete", "namespace", "undisturbed", "--wait=false"]).map(drop)
}

pub fn death(world: &mut World) -> Result<()> {
    let ns = Namespace::new(world, "death")?;
    ns.apply(WEB)?;
    ns.rolled_out("deployment/web")?;
    world.nodes[1].kill().context("kill the node")?;
    world.kubectl.wait_for(&["node", "node-2"], Duration::from_secs(60), "the node to be lost", |node| {
        condition(node, "Ready") == "Unknown"
    })?;
    ns.until(&["pods"], 60, "all pods on node-1", |pods| all_on(pods, "node-1", 2))?;
    contains(&ns.run(&["get", "nodes"])?, "NotReady")
}
