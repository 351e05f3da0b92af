//! Jobs, CronJobs, DaemonSets and StatefulSets over the real pipeline and a store in memory.

mod support;

use serde_json::{Value, json};
use support::World;

fn job(name: &str, spec: Value) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "c", "image": "example.com/one:1"}]}}},
    });
    for (key, value) in spec.as_object().expect("an object") {
        job["spec"][key] = value.clone();
    }
    job
}

async fn end_pods(world: &World, phase: &str) {
    for pod in world.list("pods") {
        if pod["status"]["phase"] == "Pending" {
            let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
            world.merge("pods", &name, Some("status"), json!({"status": {"phase": phase}})).await;
        }
    }
}

fn is_complete(job: &Value) -> bool {
    let conditions = job["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|c| c["type"] == "Complete" && c["status"] == "True")
}

#[tokio::test]
async fn a_job_completes_and_its_pods_are_free_to_go() {
    let world = World::start().await;
    world.create("jobs.batch", job("pi", json!({"completions": 2, "parallelism": 2}))).await;
    world.until("two pods", |w| w.list("pods").len() == 2).await;
    end_pods(&world, "Succeeded").await;
    world.until("the Job is complete", |w| w.get("jobs.batch", "pi").is_some_and(|job| is_complete(&job))).await;
    let status = world.get("jobs.batch", "pi").expect("still there")["status"].clone();
    assert_eq!((&status["succeeded"], &status["uncountedTerminatedPods"]), (&json!(2), &json!({})));
    assert!(world.list("pods").iter().all(|pod| pod["metadata"]["finalizers"].is_null()));
    world.delete("jobs.batch", "pi", Some(galley_pipeline::Propagation::Background)).await;
    world.until("its pods are gone", |w| w.list("pods").is_empty()).await;
}

#[tokio::test]
async fn a_job_deleted_while_it_runs_leaves_no_pod_behind() {
    let world = World::start().await;
    world.create("jobs.batch", job("pi", json!({}))).await;
    world.until("a pod", |w| w.list("pods").len() == 1).await;
    world.delete("jobs.batch", "pi", Some(galley_pipeline::Propagation::Background)).await;
    world.until("its pod is gone", |w| w.list("pods").is_empty() && w.list("jobs.batch").is_empty()).await;
}

#[tokio::test]
async fn a_finished_job_with_a_time_to_live_goes() {
    let world = World::start().await;
    world.create("jobs.batch", job("pi", json!({"ttlSecondsAfterFinished": 0}))).await;
    world.until("a pod", |w| w.list("pods").len() == 1).await;
    end_pods(&world, "Succeeded").await;
    world.until("everything is gone", |w| w.list("jobs.batch").is_empty() && w.list("pods").is_empty()).await;
}

#[tokio::test]
async fn a_stateful_set_stands_up_in_order() {
    let world = World::start().await;
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "db", "namespace": "default"},
        "spec": {
            "replicas": 2, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}},
                "spec": {"containers": [{"name": "c", "image": "example.com/one:1"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}}],
        },
    });
    world.create("statefulsets.apps", set).await;
    world.until("the first pod", |w| w.get("pods", "db-0").is_some()).await;
    assert!(world.get("pods", "db-1").is_none());
    world.start_pods().await;
    world.until("the second pod", |w| w.get("pods", "db-1").is_some()).await;
    world.start_pods().await;
    world
        .until("both are counted", |w| {
            let set = w.get("statefulsets.apps", "db").unwrap_or_default();
            set["status"]["readyReplicas"] == 2 && set["status"]["currentRevision"] == set["status"]["updateRevision"]
        })
        .await;
    assert_eq!(world.list("persistentvolumeclaims").len(), 2);
}

#[tokio::test]
async fn a_daemon_set_follows_the_nodes() {
    let world = World::start().await;
    let node = |name: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    world.create("nodes", node("one")).await;
    let set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "agent", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}},
                "spec": {"tolerations": [{"operator": "Exists"}],
                    "containers": [{"name": "c", "image": "example.com/one:1"}]}},
        },
    });
    world.create("daemonsets.apps", set).await;
    world.until("a pod", |w| w.list("pods").len() == 1).await;
    world.create("nodes", node("two")).await;
    world
        .until("a pod on each node", |w| {
            let set = w.get("daemonsets.apps", "agent").unwrap_or_default();
            w.list("pods").len() == 2 && set["status"]["currentNumberScheduled"] == 2
        })
        .await;
}

#[tokio::test]
async fn a_cron_job_starts_its_job_when_the_clock_says_so() {
    let world = World::start().await;
    let cron_job = json!({
        "apiVersion": "batch/v1", "kind": "CronJob",
        "metadata": {"name": "tick", "namespace": "default"},
        "spec": {"schedule": "* * * * *", "concurrencyPolicy": "Forbid", "timeZone": "Europe/Berlin",
            "jobTemplate": {"spec": job("x", json!({}))["spec"]}},
    });
    world.create("cronjobs.batch", cron_job).await;
    world.clock.advance(std::time::Duration::from_secs(61));
    // The driver sleeps towards the old time; a change makes it look at the clock.
    world.merge("cronjobs.batch", "tick", None, json!({"metadata": {"labels": {"a": "b"}}})).await;
    world.until("a Job and its pod", |w| w.list("jobs.batch").len() == 1 && w.list("pods").len() == 1).await;
    let job = world.list("jobs.batch").remove(0);
    assert!(job["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("tick-")));
    world
        .until("the CronJob names it", |w| {
            w.get("cronjobs.batch", "tick").is_some_and(|c| c["status"]["active"][0]["name"] == job["metadata"]["name"])
        })
        .await;
}
