//! The scheduler, and what makes a Service reachable, over the real pipeline and a store in memory.

mod support;

use galley_store::testing::Faults;
use serde_json::{Value, json};
use support::World;

/// Longer than grace period, toleration and quarantine together, on a paused clock.
const LONG: std::time::Duration = std::time::Duration::from_secs(1000);

fn node(name: &str, cpu: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"},
                   "capacity": {"cpu": cpu, "memory": "8Gi", "pods": "110"},
                   "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// A node that is ready: admission taints a new one.
async fn add_node(world: &World, name: &str, cpu: &str) {
    world.create("nodes", node(name, cpu)).await;
    world
        .until("the node is free of taints", |w| {
            w.get("nodes", name).is_some_and(|n| n["spec"]["taints"].as_array().is_none_or(Vec::is_empty))
        })
        .await;
}

fn pod(name: &str, cpu: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "example.com/app:1",
            "ports": [{"name": "http", "containerPort": 8080}],
            "resources": {"requests": {"cpu": cpu}}}]},
    })
}

fn on(world: &World, name: &str) -> Option<String> {
    world.get("pods", name)?["spec"]["nodeName"].as_str().map(str::to_owned)
}

fn has_event(world: &World, about: &str, reason: &str, message: &str) -> bool {
    world.list("events").iter().any(|e| {
        e["involvedObject"]["name"] == about
            && e["reason"] == reason
            && e["message"].as_str().is_some_and(|m| m.starts_with(message))
    })
}

#[tokio::test]
async fn a_pod_is_bound_and_says_where() {
    let world = World::start().await;
    add_node(&world, "n1", "4").await;
    world.create("pods", pod("a", "1")).await;
    world.until("a is bound", |w| on(w, "a").as_deref() == Some("n1")).await;
    world.until("its event", |w| has_event(w, "a", "Scheduled", "Successfully assigned default/a to n1")).await;
    let conditions = world.get("pods", "a").expect("there")["status"]["conditions"].clone();
    assert_eq!((&conditions[0]["type"], &conditions[0]["status"]), (&json!("PodScheduled"), &json!("True")));
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_says_why_and_is_bound_when_a_node_comes() {
    let world = World::start().await;
    add_node(&world, "small", "1").await;
    world.create("pods", pod("a", "2")).await;
    let message = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is \
                   not helpful for scheduling.";
    world
        .until("the condition", |w| {
            let conditions = w.get("pods", "a").map(|p| p["status"]["conditions"].clone()).unwrap_or_default();
            conditions.as_array().is_some_and(|c| {
                c.iter()
                    .any(|c| c["type"] == "PodScheduled" && c["reason"] == "Unschedulable" && c["message"] == message)
            })
        })
        .await;
    world.until("the event", |w| has_event(w, "a", "FailedScheduling", message)).await;
    add_node(&world, "large", "4").await;
    world.until("a is bound", |w| on(w, "a").as_deref() == Some("large")).await;
}

#[tokio::test]
async fn a_pod_of_higher_priority_takes_the_place_of_another() {
    let world = World::start().await;
    add_node(&world, "n1", "2").await;
    world
        .create(
            "priorityclasses.scheduling.k8s.io",
            json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"},
                   "value": 1000}),
        )
        .await;
    let mut low = pod("low", "2");
    low["spec"]["terminationGracePeriodSeconds"] = json!(0);
    world.create("pods", low).await;
    world.until("low is bound", |w| on(w, "low").is_some()).await;
    let mut high = pod("high", "2");
    high["spec"]["priorityClassName"] = json!("high");
    world.create("pods", high).await;
    world.until("high is bound", |w| on(w, "high").as_deref() == Some("n1")).await;
    assert!(world.get("pods", "low").is_none());
    world.until("the event", |w| has_event(w, "low", "Preempted", "Preempted by pod")).await;
}

#[tokio::test]
async fn five_hundred_pods_are_placed() {
    let world = World::start().await;
    for i in 0..10 {
        add_node(&world, &format!("n{i}"), "16").await;
    }
    let create = (0..500).map(|i| world.create("pods", pod(&format!("p{i}"), "100m")));
    futures::future::join_all(create).await;
    world
        .until("all are bound", |w| {
            let pods = w.list("pods");
            pods.len() == 500 && pods.iter().all(|p| p["spec"]["nodeName"].is_string())
        })
        .await;
}

#[tokio::test]
async fn a_namespace_is_given_its_account_and_the_clusters_certificate() {
    let world = World::start().await;
    world.create("namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})).await;
    let there = |list: Vec<Value>, name: &str| {
        list.iter().any(|o| o["metadata"]["namespace"] == "team" && o["metadata"]["name"] == name)
    };
    world.until("the account", |w| there(w.list("serviceaccounts"), "default")).await;
    world.until("the certificate", |w| there(w.list("configmaps"), "kube-root-ca.crt")).await;
}

#[tokio::test]
async fn a_service_lists_its_ready_pods() {
    let world = World::start().await;
    add_node(&world, "n1", "4").await;
    world
        .create(
            "services",
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
                   "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}}),
        )
        .await;
    world.create("pods", pod("a", "1")).await;
    world.until("a is bound", |w| on(w, "a").is_some()).await;
    let status = json!({"status": {"phase": "Running", "podIP": "10.244.0.5", "podIPs": [{"ip": "10.244.0.5"}],
        "conditions": [{"type": "Ready", "status": "True"}]}});
    world.merge("pods", "a", Some("status"), status).await;
    world
        .until("the slice", |w| {
            w.list("endpointslices.discovery.k8s.io").iter().any(|s| {
                s["metadata"]["labels"]["kubernetes.io/service-name"] == "web"
                    && s["ports"][0]["port"] == 8080
                    && s["endpoints"][0]["addresses"] == json!(["10.244.0.5"])
                    && s["endpoints"][0]["conditions"]["ready"] == true
            })
        })
        .await;
    world
        .until("the endpoints", |w| {
            w.get("endpoints", "web").is_some_and(|e| e["subsets"][0]["addresses"][0]["ip"] == "10.244.0.5")
        })
        .await;
    world.delete("services", "web", None).await;
    world
        .until("both are gone", |w| {
            let of_web = |s: &Value| s["metadata"]["labels"]["kubernetes.io/service-name"] == "web";
            !w.list("endpointslices.discovery.k8s.io").iter().any(of_web) && w.get("endpoints", "web").is_none()
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_node_that_falls_silent_are_not_ready_and_evicted_when_their_toleration_ends() {
    let world = World::start().await;
    add_node(&world, "n1", "4").await;
    world.create("pods", pod("a", "1")).await;
    world.until("a is bound", |w| on(w, "a").is_some()).await;
    world.start_pods().await;
    let other = async {
        // Somebody is still heard of: this is no outage of ours.
        add_node(&world, "n2", "1").await;
        loop {
            tokio::time::sleep(std::time::Duration::from_secs(10)).await;
            let lease = json!({"status": {"conditions": [
                {"type": "Ready", "status": "True", "lastHeartbeatTime": galley_types::Clock::now(&*world.clock)}]}});
            world.merge("nodes", "n2", Some("status"), lease).await;
        }
    };
    let ready = |w: &World, name: &str| {
        let conditions = w.get(name.split('/').next().unwrap(), name.split('/').next_back().unwrap());
        let conditions = conditions.map(|o| o["status"]["conditions"].clone()).unwrap_or_default();
        let found = conditions.as_array().and_then(|c| c.iter().find(|c| c["type"] == "Ready").cloned());
        found.and_then(|c| c["status"].as_str().map(str::to_owned)).unwrap_or_default()
    };
    let story = async {
        world.until_within(LONG, "the node is unknown", |w| ready(w, "nodes/n1") == "Unknown").await;
        world
            .until("it is tainted", |w| {
                let taints = w.get("nodes", "n1").map(|n| n["spec"]["taints"].to_string()).unwrap_or_default();
                taints.contains("node.kubernetes.io/unreachable") && taints.contains("NoExecute")
            })
            .await;
        world.until("its pod is not ready", |w| ready(w, "pods/a") == "False").await;
        world
            .until_within(LONG, "its pod leaves", |w| {
                w.get("pods", "a").is_none_or(|p| p["metadata"]["deletionTimestamp"].is_string())
            })
            .await;
        world.delete("nodes", "n1", None).await;
        world.until_within(LONG, "its pod is collected", |w| w.get("pods", "a").is_none()).await;
    };
    tokio::select! {
        () = story => {}
        () = other => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_could_not_be_heard_is_not_silent() {
    let seconds = std::time::Duration::from_secs;
    let world = World::start().await;
    add_node(&world, "n1", "4").await;
    let is_unknown = |w: &World| {
        let conditions = w.get("nodes", "n1").map(|node| node["status"]["conditions"].to_string());
        conditions.is_some_and(|text| text.contains("NodeStatusUnknown"))
    };
    world.database.faults(Faults { refused: 1.0, ..Faults::default() });
    tokio::time::sleep(seconds(120)).await;
    world.database.faults(Faults::default());
    // Heartbeats come every ten seconds: until then nobody may give the node up.
    tokio::time::sleep(seconds(30)).await;
    assert!(!is_unknown(&world), "{:?}", world.get("nodes", "n1"));
    // It stays silent although it is listened to: now it is.
    world.until_within(seconds(60), "the node is unknown", is_unknown).await;
}
