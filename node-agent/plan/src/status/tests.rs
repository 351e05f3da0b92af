//! Tables: what kubectl shows for what the runtime says.

use super::*;
use crate::memory::{Ending, Failure, WaitingReason};
use crate::observed::{Container, ContainerState};
use crate::pod::{Outcome, pod_plan};
use crate::testing::{at, container, exited, instance, memory, observed, pod, running, sidecar};

fn status_of(pod: &Pod, containers: Vec<Container>, memory: &Memory, seconds: i64) -> PodStatus {
    let observed = observed(containers);
    let plan = pod_plan(pod, &observed, memory, at(seconds));
    let node = NodeFacts { ips: vec!["192.0.2.1".into()] };
    pod_status(pod, &observed, memory, plan.outcome, &node, at(seconds))
}

/// `waiting:Reason`, `running`, `terminated:Reason`.
fn state_of(status: &PodStatus, name: &str) -> String {
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let c = lists.into_iter().flatten().flatten().find(|c| c.name == name).unwrap();
    let state = c.state.as_ref().unwrap();
    if let Some(waiting) = &state.waiting {
        return format!("waiting:{}", waiting.reason.as_deref().unwrap_or_default());
    }
    if let Some(terminated) = &state.terminated {
        return format!("terminated:{}", terminated.reason.as_deref().unwrap_or_default());
    }
    "running".into()
}

fn condition_of(status: &PodStatus, type_: &str) -> (String, String) {
    let c = status.conditions.iter().flatten().find(|c| c.type_ == type_).unwrap();
    (c.status.clone(), c.reason.clone().unwrap_or_default())
}

fn failure(reason: WaitingReason) -> Failure {
    Failure { reason, message: "why".into(), at: at(0), count: 1, retry_at: at(10) }
}

#[test]
fn a_start_that_failed_shows_its_reason() {
    let p = pod("web", vec![container("app")]);
    for (reason, seconds, shown) in [
        (WaitingReason::ErrImagePull, 1, "waiting:ErrImagePull"),
        (WaitingReason::ErrImagePull, 5, "waiting:ImagePullBackOff"),
        (WaitingReason::ErrImageNeverPull, 5, "waiting:ErrImageNeverPull"),
        (WaitingReason::CreateContainerConfigError, 5, "waiting:CreateContainerConfigError"),
        (WaitingReason::RunContainerError, 5, "waiting:RunContainerError"),
    ] {
        let mut m = memory(&[]);
        m.failures.insert("app".into(), failure(reason));
        let status = status_of(&p, vec![], &m, seconds);
        assert_eq!(state_of(&status, "app"), shown);
        assert_eq!(status.phase.as_deref(), Some("Pending"));
    }
}

#[test]
fn a_container_that_keeps_crashing_is_in_backoff_with_its_last_state() {
    let mut second = exited("app", 1, 3);
    second.restart_delay = 10;
    let status = status_of(&pod("web", vec![container("app")]), vec![exited("app", 0, 3), second], &memory(&[]), 5);
    assert_eq!(state_of(&status, "app"), "waiting:CrashLoopBackOff");
    let c = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(c.restart_count, 1);
    let message = c.state.as_ref().unwrap().waiting.as_ref().unwrap().message.as_deref();
    assert_eq!(message, Some("back-off 10s restarting failed container=app pod=web_default(uid-web)"));
    assert_eq!(c.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 3);
    assert_eq!(status.phase.as_deref(), Some("Running"));
}

#[test]
fn an_instance_killed_for_memory_says_so() {
    let mut p = pod("web", vec![container("app")]);
    p.spec.as_mut().unwrap().restart_policy = Some("Never".into());
    let mut killed = exited("app", 0, 137);
    killed.reason = "OOMKilled".into();
    let mut seen = observed(vec![killed]);
    seen.sandboxes[0].ready = false;
    let plan = pod_plan(&p, &seen, &memory(&[]), at(5));
    assert_eq!(plan.outcome, Outcome::Stopped);
    let status = pod_status(&p, &seen, &memory(&[]), plan.outcome, &NodeFacts::default(), at(5));
    assert_eq!(state_of(&status, "app"), "terminated:OOMKilled");
    assert_eq!(status.phase.as_deref(), Some("Failed"));
}

#[test]
fn a_pod_is_ready_when_its_containers_are() {
    let p = pod("web", vec![container("app")]);
    let status = status_of(&p, vec![running("app")], &memory(&[]), 5);
    assert_eq!(condition_of(&status, "Ready"), ("False".into(), "ContainersNotReady".into()));
    let status = status_of(&p, vec![running("app")], &memory(&["app-0"]), 5);
    assert_eq!(condition_of(&status, "Ready"), ("True".into(), String::new()));
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.5"));
    assert_eq!(status.host_ip.as_deref(), Some("192.0.2.1"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
}

#[test]
fn readiness_gates_hold_a_pod_back() {
    let mut p = pod("web", vec![container("app")]);
    p.spec.as_mut().unwrap().readiness_gates =
        Some(vec![k8s_openapi::api::core::v1::PodReadinessGate { condition_type: "lb".into() }]);
    let status = status_of(&p, vec![running("app")], &memory(&["app-0"]), 5);
    assert_eq!(condition_of(&status, "Ready"), ("False".into(), "ReadinessGatesNotReady".into()));
    let gate = PodCondition { type_: "lb".into(), status: "True".into(), ..PodCondition::default() };
    p.status = Some(PodStatus { conditions: Some(vec![gate]), ..PodStatus::default() });
    let status = status_of(&p, vec![running("app")], &memory(&["app-0"]), 5);
    assert_eq!(condition_of(&status, "Ready").0, "True");
    assert_eq!(condition_of(&status, "lb").0, "True");
}

#[test]
fn containers_behind_init_containers_are_initializing() {
    let mut p = pod("web", vec![container("app")]);
    p.spec.as_mut().unwrap().init_containers = Some(vec![container("prepare"), sidecar("proxy")]);
    let status = status_of(&p, vec![running("prepare")], &memory(&[]), 5);
    assert_eq!(state_of(&status, "prepare"), "running");
    assert_eq!(state_of(&status, "proxy"), "waiting:PodInitializing");
    assert_eq!(state_of(&status, "app"), "waiting:PodInitializing");
    assert_eq!(condition_of(&status, "Initialized"), ("False".into(), "ContainersNotInitialized".into()));
    let all = vec![exited("prepare", 0, 0), running("proxy"), running("app")];
    let status = status_of(&p, all, &memory(&["proxy-0", "app-0"]), 5);
    assert_eq!(condition_of(&status, "Initialized").0, "True");
    assert_eq!(condition_of(&status, "Ready").0, "True");
}

#[test]
fn an_ended_pod_stays_ended() {
    let mut p = pod("web", vec![container("app")]);
    p.status = Some(PodStatus { phase: Some("Failed".into()), reason: Some("Evicted".into()), ..PodStatus::default() });
    let status = pod_status(&p, &ObservedPod::default(), &memory(&[]), Outcome::Stopped, &NodeFacts::default(), at(5));
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Evicted")));
}

#[test]
fn an_evicted_pod_is_failed_with_the_reason() {
    let mut m = memory(&[]);
    m.ending = Some(Ending { reason: "Evicted".into(), message: "low on disk".into(), grace: Some(0), at: at(0) });
    let mut seen = observed(vec![exited("app", 0, 137)]);
    seen.sandboxes[0].ready = false;
    let p = pod("web", vec![container("app")]);
    let status = pod_status(&p, &seen, &m, Outcome::Stopped, &NodeFacts::default(), at(5));
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Evicted")));
}

#[test]
fn restart_counts_survive_the_loss_of_every_instance() {
    let mut p = pod("web", vec![container("app")]);
    let first = status_of(&p, vec![instance("app", 4, ContainerState::Running)], &memory(&["app-4"]), 5);
    p.status = Some(first);
    let status = pod_status(&p, &ObservedPod::default(), &memory(&[]), Outcome::Running, &NodeFacts::default(), at(9));
    let c = &status.container_statuses.unwrap()[0];
    assert_eq!(c.restart_count, 4);
    assert!(c.state.as_ref().unwrap().waiting.is_some());
}

#[test]
fn a_termination_message_stays_when_its_file_is_gone() {
    let mut p = pod("job", vec![container("app")]);
    p.spec.as_mut().unwrap().restart_policy = Some("Never".into());
    let mut ended = exited("app", 0, 0);
    ended.message = "done".into();
    let message = |status: &PodStatus| {
        let c = &status.container_statuses.as_ref().unwrap()[0];
        c.state.as_ref().unwrap().terminated.as_ref().unwrap().message.clone()
    };
    let first = status_of(&p, vec![ended.clone()], &memory(&[]), 5);
    assert_eq!(message(&first).as_deref(), Some("done"));
    p.status = Some(first);
    ended.message.clear();
    assert_eq!(message(&status_of(&p, vec![ended], &memory(&[]), 9)).as_deref(), Some("done"));
}
