use serde_json::{Value, json};

use super::*;
use crate::world::World;

fn world_with(spec: Value) -> World {
    let mut world = World::new();
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "pi", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"job": "pi"}},
            "parallelism": 1, "completions": 1, "backoffLimit": 6,
            "template": {"metadata": {"labels": {"job": "pi"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}},
        },
    });
    for (key, value) in spec.as_object().unwrap() {
        job["spec"][key] = value.clone();
    }
    world.create(RESOURCE, &job);
    world
}

fn job(world: &World) -> Arc<Job> {
    world.get(RESOURCE, "default", "pi").unwrap()
}

fn status(world: &World) -> JobStatus {
    job(world).status.clone().unwrap_or_default()
}

fn pods(world: &World) -> Vec<Arc<Pod>> {
    world.list("pods")
}

fn settle(world: &mut World) -> Plan<Reason> {
    world.settle(|w| plan(&Observed { job: job(w), pods: pods(w), failure: None }, w.now))
}

/// Ends every active pod.
fn end(world: &mut World, phase: &str) {
    for pod in pods(world).iter().filter(|p| pod::is_active(p)) {
        let now = json!(world.now);
        let code = i32::from(phase == "Failed");
        world.edit("pods", "default", meta::name(&pod.metadata), |p| {
            p["status"] = json!({"phase": phase, "containerStatuses": [{
                "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code, "finishedAt": now}}}]});
        });
    }
}

fn condition(world: &World, kind: &str) -> Option<String> {
    let conditions = status(world).conditions.unwrap_or_default();
    conditions.into_iter().find(|c| c.type_ == kind && c.status == "True").and_then(|c| c.reason)
}

#[test]
fn a_job_runs_its_pod_counts_it_once_and_completes() {
    let mut world = world_with(json!({}));
    settle(&mut world);
    assert_eq!((pods(&world).len(), status(&world).active), (1, Some(1)));
    assert!(status(&world).start_time.is_some());
    end(&mut world, "Succeeded");
    settle(&mut world);
    let status = status(&world);
    assert_eq!((status.succeeded, status.active), (Some(1), Some(0)));
    assert_eq!(status.uncounted_terminated_pods, Some(UncountedTerminatedPods::default()));
    assert!(status.completion_time.is_some());
    assert_eq!(condition(&world, "Complete").as_deref(), Some("CompletionsReached"));
    assert!(pods(&world).iter().all(|p| !meta::has_finalizer(&p.metadata, FINALIZER)));
}

#[test]
fn completions_are_worked_off_in_parallel() {
    let mut world = world_with(json!({"completions": 5, "parallelism": 2}));
    for left in [2, 2, 1] {
        settle(&mut world);
        assert_eq!(pods(&world).iter().filter(|p| pod::is_active(p)).count(), left);
        end(&mut world, "Succeeded");
    }
    settle(&mut world);
    assert_eq!(status(&world).succeeded, Some(5));
    assert!(condition(&world, "Complete").is_some());
}

#[test]
fn a_failed_pod_is_replaced_after_a_pause_until_the_limit() {
    let mut world = world_with(json!({"backoffLimit": 1}));
    settle(&mut world);
    end(&mut world, "Failed");
    let last = settle(&mut world);
    assert_eq!(last.nothing, Some(Reason::Pausing));
    assert_eq!(last.wake_at, Some(time::after(world.now, 10)));
    world.pass(10);
    settle(&mut world);
    assert_eq!((pods(&world).len(), status(&world).failed), (2, Some(1)));
    end(&mut world, "Failed");
    settle(&mut world);
    assert_eq!(condition(&world, "Failed").as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!((pods(&world).len(), status(&world).failed), (2, Some(2)));
}

#[test]
fn a_deadline_ends_a_job_and_its_pods() {
    let mut world = world_with(json!({"activeDeadlineSeconds": 60, "parallelism": 2, "completions": 2}));
    let last = settle(&mut world);
    assert_eq!(last.wake_at, Some(time::after(world.now, 60)));
    world.pass(60);
    settle(&mut world);
    assert_eq!(condition(&world, "Failed").as_deref(), Some("DeadlineExceeded"));
    assert_eq!((pods(&world).len(), status(&world).failed), (0, Some(2)));
}

#[test]
fn an_indexed_job_completes_every_index_once() {
    let mut world = world_with(json!({"completionMode": "Indexed", "completions": 3, "parallelism": 2}));
    settle(&mut world);
    let first = pods(&world).iter().find(|p| pods::index(p) == Some(1)).cloned().unwrap();
    let spec = first.spec.clone().unwrap();
    assert_eq!(spec.hostname.as_deref(), Some("pi-1"));
    assert_eq!(spec.containers[0].env.as_ref().unwrap()[0].name, "JOB_COMPLETION_INDEX");
    world.edit("pods", "default", meta::name(&first.metadata), |p| p["status"]["phase"] = json!("Succeeded"));
    settle(&mut world);
    assert_eq!(status(&world).completed_indexes.as_deref(), Some("1"));
    end(&mut world, "Succeeded");
    settle(&mut world);
    assert_eq!(status(&world).completed_indexes.as_deref(), Some("0-2"));
    assert!(condition(&world, "Complete").is_some());
}

#[test]
fn a_failed_index_fails_the_job_when_the_others_are_through() {
    let mut world = world_with(json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2,
        "backoffLimit": 100, "backoffLimitPerIndex": 1}));
    for _ in 0..2 {
        settle(&mut world);
        for pod in pods(&world).iter().filter(|p| pod::is_active(p) && pods::index(p) == Some(0)) {
            world.edit("pods", "default", meta::name(&pod.metadata), |p| p["status"]["phase"] = json!("Failed"));
        }
    }
    settle(&mut world);
    assert_eq!(status(&world).failed_indexes.as_deref(), Some("0"));
    assert_eq!(condition(&world, "Failed"), None);
    end(&mut world, "Succeeded");
    settle(&mut world);
    assert_eq!(condition(&world, "Failed").as_deref(), Some("FailedIndexes"));
    assert_eq!(status(&world).completed_indexes.as_deref(), Some("1"));
}

#[test]
fn suspension_takes_pods_away_and_resumption_starts_the_clock_anew() {
    let mut world = world_with(json!({"parallelism": 2, "completions": 2}));
    settle(&mut world);
    world.edit(RESOURCE, "default", "pi", |j| j["spec"]["suspend"] = json!(true));
    settle(&mut world);
    assert_eq!((pods(&world).iter().filter(|p| pod::is_active(p)).count(), status(&world).active), (0, Some(0)));
    assert_eq!(condition(&world, "Suspended").as_deref(), Some("JobSuspended"));
    world.pass(100);
    world.edit(RESOURCE, "default", "pi", |j| j["spec"]["suspend"] = json!(false));
    settle(&mut world);
    assert_eq!(status(&world).start_time.map(|t| t.0), Some(world.now));
    assert_eq!(condition(&world, "Suspended"), None);
}

#[test]
fn a_failure_policy_ignores_counts_or_ends_the_job() {
    let policy = json!({"rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}},
    ]});
    let mut world = world_with(json!({"podFailurePolicy": policy, "backoffLimit": 0}));
    settle(&mut world);
    let name = meta::name(&pods(&world)[0].metadata).to_owned();
    world.edit("pods", "default", &name, |p| {
        p["status"] = json!({"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True"}]});
    });
    settle(&mut world);
    assert_eq!((status(&world).failed, condition(&world, "Failed")), (None, None));
    world.pass(10);
    settle(&mut world);
    end(&mut world, "Failed");
    settle(&mut world);
    assert_eq!(condition(&world, "Failed").as_deref(), Some("PodFailurePolicy"));
    let conditions = status(&world).conditions.unwrap();
    let message = conditions.iter().find(|c| c.type_ == "Failed").unwrap().message.clone().unwrap();
    assert!(message.ends_with("failed with exit code 1 matching FailJob rule at index 1"), "{message}");
}

#[test]
fn a_work_queue_is_done_when_one_pod_succeeded_and_the_others_ended() {
    let mut world = world_with(json!({"completions": null, "parallelism": 3}));
    settle(&mut world);
    let name = meta::name(&pods(&world)[0].metadata).to_owned();
    world.edit("pods", "default", &name, |p| p["status"]["phase"] = json!("Succeeded"));
    settle(&mut world);
    assert_eq!(condition(&world, "Complete"), None);
    end(&mut world, "Succeeded");
    settle(&mut world);
    assert!(condition(&world, "Complete").is_some());
    assert_eq!(status(&world).succeeded, Some(3));
}

#[test]
fn a_success_policy_ends_the_job_early() {
    let mut world = world_with(json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3,
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]}}));
    settle(&mut world);
    let leader = pods(&world).iter().find(|p| pods::index(p) == Some(0)).cloned().unwrap();
    world.edit("pods", "default", meta::name(&leader.metadata), |p| p["status"]["phase"] = json!("Succeeded"));
    world.settle(|w| plan(&Observed { job: job(w), pods: pods(w), failure: None }, w.now));
    assert_eq!(condition(&world, "Complete").as_deref(), Some("SuccessPolicy"));
    assert_eq!(status(&world).succeeded, Some(1));
}
