//! Workload controllers over the real pipeline and a store in memory.

mod support;

use galley_pipeline::Propagation;
use serde_json::{Value, json};
use support::World;

fn deployment(replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "example.com/one:1"}]},
            },
        },
    })
}

#[tokio::test]
async fn a_deployment_becomes_a_set_and_pods_and_tells_in_events_and_status() {
    let world = World::start().await;
    world.create("deployments.apps", deployment(3)).await;
    world.until("three pods", |w| w.list("pods").len() == 3).await;
    world.start_pods().await;
    world
        .until("the rollout is complete", |w| {
            let status = w.get("deployments.apps", "web").map(|d| d["status"].clone()).unwrap_or_default();
            status["availableReplicas"] == 3 && status["observedGeneration"] == 1
        })
        .await;
    world
        .until("the events", |w| {
            let events = w.list("events");
            let has = |component: &str, reason: &str, message: &str| {
                events.iter().any(|e| {
                    e["source"]["component"] == component
                        && e["reason"] == reason
                        && e["message"].as_str().is_some_and(|m| m.starts_with(message))
                })
            };
            has("deployment-controller", "ScalingReplicaSet", "Scaled up replica set web-")
                && has("replicaset-controller", "SuccessfulCreate", "Created pod: web-")
        })
        .await;
    assert_eq!(world.list("pods").len(), 3);
}

#[tokio::test]
async fn a_rolling_update_ends_with_pods_of_the_new_template_only() {
    let world = World::start().await;
    world.create("deployments.apps", deployment(4)).await;
    world.until("four pods", |w| w.list("pods").len() == 4).await;
    world.start_pods().await;
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "example.com/two:1"}]}}}});
    world.merge("deployments.apps", "web", None, image).await;
    let is_new = |pod: &Value| pod["spec"]["containers"][0]["image"] == "example.com/two:1";
    let done = |w: &World| {
        let pods = w.list("pods");
        pods.len() == 4 && pods.iter().all(is_new) && pods.iter().all(|p| p["status"]["phase"] == "Running")
    };
    while !done(&world) {
        world
            .until("a pod waits to start, or all are new", |w| {
                done(w) || w.list("pods").iter().any(|p| p["status"]["phase"] == "Pending")
            })
            .await;
        world.start_pods().await;
    }
}

#[tokio::test]
async fn a_deployment_of_a_thousand_gets_exactly_a_thousand_pods() {
    let world = World::start().await;
    let began = std::time::Instant::now();
    world.create("deployments.apps", deployment(1000)).await;
    world.until("a thousand pods", |w| w.api.store().count(&pods()) >= 1000).await;
    eprintln!("1,000 pods after {:?}", began.elapsed());
    world
        .until("the set has counted them", |w| {
            w.list("replicasets.apps").first().is_some_and(|set| set["status"]["replicas"] == 1000)
        })
        .await;
    assert_eq!(world.list("pods").len(), 1000);
}

fn pods() -> galley_store::Scope {
    galley_store::Scope { resource: "pods".into(), namespace: None }
}

#[tokio::test]
async fn deleting_a_deployment_takes_its_sets_and_pods_along() {
    for propagation in [Propagation::Background, Propagation::Foreground] {
        let world = World::start().await;
        world.create("deployments.apps", deployment(3)).await;
        world.until("three pods", |w| w.list("pods").len() == 3).await;
        world.delete("deployments.apps", "web", Some(propagation)).await;
        world
            .until("everything is gone", |w| {
                ["pods", "replicasets.apps", "deployments.apps"].iter().all(|resource| w.list(resource).is_empty())
            })
            .await;
    }
}

#[tokio::test]
async fn an_orphaning_deletion_leaves_pods_that_a_new_deployment_adopts() {
    let world = World::start().await;
    world.create("deployments.apps", deployment(2)).await;
    world.until("two pods", |w| w.list("pods").len() == 2).await;
    world.delete("deployments.apps", "web", Some(Propagation::Orphan)).await;
    world
        .until("the set is orphaned", |w| {
            w.list("deployments.apps").is_empty()
                && w.list("replicasets.apps").iter().all(|set| set["metadata"]["ownerReferences"].is_null())
        })
        .await;
    world.create("deployments.apps", deployment(2)).await;
    world
        .until("the set is adopted", |w| {
            w.list("replicasets.apps").iter().all(|set| !set["metadata"]["ownerReferences"].is_null())
        })
        .await;
    assert_eq!((world.list("replicasets.apps").len(), world.list("pods").len()), (1, 2));
}
