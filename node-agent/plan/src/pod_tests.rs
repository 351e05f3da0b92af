//! Tables of the pod plan, and a walk through a pod's life until the plan is quiet.

use super::*;
use crate::observed::ContainerState;
use crate::testing::{at, container, exited, instance, memory, observed, pod, running, sidecar};

fn starts(plan: &PodPlan) -> Vec<(String, u32)> {
    plan.steps
        .iter()
        .filter_map(|s| match &s.action {
            Action::StartContainer { name, attempt, .. } => Some((name.clone(), *attempt)),
            _ => None,
        })
        .collect()
}

fn kills(plan: &PodPlan) -> Vec<(String, i64)> {
    plan.steps
        .iter()
        .filter_map(|s| match &s.action {
            Action::KillContainer { name, grace, .. } => Some((name.clone(), *grace)),
            _ => None,
        })
        .collect()
}

fn with_init(init: Vec<k8s_openapi::api::core::v1::Container>) -> Pod {
    let mut p = pod("web", vec![container("app"), container("log")]);
    p.spec.as_mut().unwrap().init_containers = Some(init);
    p
}

#[test]
fn a_new_pod_gets_volumes_then_a_sandbox_then_containers() {
    let p = pod("web", vec![container("app")]);
    let mut m = Memory::default();
    let nothing = ObservedPod::default();
    assert_eq!(pod_plan(&p, &nothing, &m, at(0)).steps[0].action, Action::MountVolumes);
    m.volumes = VolumesState::Mounted;
    assert_eq!(pod_plan(&p, &nothing, &m, at(0)).steps[0].action, Action::CreateSandbox { attempt: 0 });
    assert_eq!(starts(&pod_plan(&p, &observed(vec![]), &m, at(0))), [("app".into(), 0)]);
    let quiet = pod_plan(&p, &observed(vec![running("app")]), &m, at(0));
    assert_eq!((quiet.steps, quiet.outcome), (vec![], Outcome::Running));
}

#[test]
fn init_containers_run_one_after_the_other_and_sidecars_stay() {
    let p = with_init(vec![container("a"), sidecar("b"), container("c")]);
    let table = [
        (vec![], memory(&[]), vec!["a"]),
        (vec![running("a")], memory(&[]), vec![]),
        (vec![exited("a", 0, 0)], memory(&[]), vec!["b"]),
        (vec![exited("a", 0, 0), running("b")], memory(&[]), vec![]),
        (vec![exited("a", 0, 0), running("b")], memory(&["b-0"]), vec!["c"]),
        (vec![exited("a", 0, 0), running("b"), exited("c", 0, 0)], memory(&["b-0"]), vec!["app", "log"]),
    ];
    for (containers, m, wanted) in table {
        let names: Vec<String> =
            starts(&pod_plan(&p, &observed(containers.clone()), &m, at(5))).into_iter().map(|(n, _)| n).collect();
        assert_eq!(names, wanted, "{containers:?}");
    }
}

#[test]
fn a_sidecar_that_ends_is_restarted_beside_running_containers() {
    let p = with_init(vec![sidecar("b")]);
    let seen = observed(vec![exited("b", 0, 0), running("app"), running("log")]);
    assert_eq!(starts(&pod_plan(&p, &seen, &memory(&[]), at(60))), [("b".into(), 1)]);
}

#[test]
fn restart_policies_decide_after_an_end() {
    for (policy, code, restarted) in
        [("Always", 0, true), ("Always", 1, true), ("OnFailure", 0, false), ("OnFailure", 1, true), ("Never", 1, false)]
    {
        let mut p = pod("web", vec![container("app")]);
        p.spec.as_mut().unwrap().restart_policy = Some(policy.into());
        let plan = pod_plan(&p, &observed(vec![exited("app", 0, code)]), &memory(&[]), at(60));
        assert_eq!(!starts(&plan).is_empty(), restarted, "{policy} {code}");
        assert_eq!(plan.outcome == Outcome::Stopping, !restarted, "{policy} {code}");
    }
}

#[test]
fn a_crash_loop_waits_and_says_until_when() {
    let mut second = exited("app", 1, 1);
    second.restart_delay = 10;
    let seen = observed(vec![second]);
    let p = pod("web", vec![container("app")]);
    let plan = pod_plan(&p, &seen, &memory(&[]), at(5));
    assert_eq!((starts(&plan), plan.recheck_at), (vec![], Some(at(11))));
    assert_eq!(starts(&pod_plan(&p, &seen, &memory(&[]), at(11))), [("app".into(), 2)]);
}

#[test]
fn deletion_stops_main_containers_then_sidecars_from_the_last() {
    let mut p = with_init(vec![sidecar("one"), sidecar("two")]);
    p.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(30)));
    p.metadata.deletion_grace_period_seconds = Some(30);
    let gone = |name: &str| exited(name, 0, 0);
    let table = [
        (vec![running("one"), running("two"), running("app"), running("log")], vec![("app", 30), ("log", 30)]),
        (vec![running("one"), running("two"), gone("app"), gone("log")], vec![("two", 30)]),
        (vec![running("one"), gone("two"), gone("app"), gone("log")], vec![("one", 30)]),
        (vec![gone("one"), gone("two"), gone("app"), gone("log")], vec![]),
    ];
    for (containers, wanted) in table {
        let plan = pod_plan(&p, &observed(containers), &memory(&[]), at(0));
        let wanted: Vec<(String, i64)> = wanted.into_iter().map(|(n, g)| (n.to_owned(), g)).collect();
        assert_eq!(kills(&plan), wanted);
        assert_eq!(plan.outcome, Outcome::Stopping);
    }
    let late = pod_plan(&p, &observed(vec![running("one"), gone("app")]), &memory(&[]), at(100));
    assert_eq!(kills(&late), [("one".into(), 2)]);
}

#[test]
fn an_ended_pod_loses_its_sandbox_and_is_stopped() {
    let mut p = pod("job", vec![container("app")]);
    p.spec.as_mut().unwrap().restart_policy = Some("Never".into());
    let mut seen = observed(vec![exited("app", 0, 0)]);
    let plan = pod_plan(&p, &seen, &memory(&[]), at(5));
    assert_eq!(plan.steps[0].action, Action::StopSandbox { id: "sandbox-0".into() });
    seen.sandboxes[0].ready = false;
    let plan = pod_plan(&p, &seen, &memory(&[]), at(5));
    assert_eq!((plan.steps, plan.outcome), (vec![], Outcome::Stopped));
}

#[test]
fn a_kill_under_way_is_repeated_only_with_less_patience() {
    let mut p = pod("web", vec![container("app")]);
    p.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(30)));
    p.metadata.deletion_grace_period_seconds = Some(30);
    let mut m = memory(&[]);
    m.killing.insert("app-0".into(), at(30));
    assert_eq!(kills(&pod_plan(&p, &observed(vec![running("app")]), &m, at(1))), []);
    m.removed = true;
    assert_eq!(kills(&pod_plan(&p, &observed(vec![running("app")]), &m, at(1))), [("app".into(), 0)]);
}

#[test]
fn a_deadline_ends_the_pod() {
    let mut p = pod("web", vec![container("app")]);
    p.spec.as_mut().unwrap().active_deadline_seconds = Some(20);
    let plan = pod_plan(&p, &observed(vec![running("app")]), &memory(&[]), at(5));
    assert_eq!((plan.recheck_at, plan.ending), (Some(at(20)), None));
    let plan = pod_plan(&p, &observed(vec![running("app")]), &memory(&[]), at(20));
    assert_eq!(plan.ending.unwrap().reason, "DeadlineExceeded");
    assert_eq!(plan.steps.len(), 1);
}

#[test]
fn a_failed_probe_and_a_changed_image_kill_the_instance() {
    let mut p = pod("web", vec![container("app")]);
    let mut m = memory(&["app-0"]);
    m.probes.get_mut("app-0").unwrap().failed = Some("Container app failed liveness probe, will be restarted".into());
    assert_eq!(kills(&pod_plan(&p, &observed(vec![running("app")]), &m, at(5))), [("app".into(), 30)]);
    p.spec.as_mut().unwrap().containers[0].image = Some("busybox:2".into());
    let plan = pod_plan(&p, &observed(vec![running("app")]), &memory(&["app-0"]), at(5));
    assert_eq!(plan.steps[0].reason, Reason::SpecChanged);
}

#[test]
fn a_lost_sandbox_is_replaced_after_its_containers_are_gone() {
    let p = pod("web", vec![container("app")]);
    let mut seen = observed(vec![running("app")]);
    seen.sandboxes[0].ready = false;
    assert_eq!(kills(&pod_plan(&p, &seen, &memory(&[]), at(5))).len(), 1);
    seen.containers[0].state = ContainerState::Exited;
    let plan = pod_plan(&p, &seen, &memory(&[]), at(5));
    assert_eq!(plan.steps[0].action, Action::CreateSandbox { attempt: 1 });
}

#[test]
fn only_the_last_ended_instance_is_kept() {
    let p = pod("web", vec![container("app")]);
    let seen = observed(vec![exited("app", 0, 1), exited("app", 1, 1), instance("app", 2, ContainerState::Running)]);
    let plan = pod_plan(&p, &seen, &memory(&[]), at(5));
    assert_eq!(plan.steps.len(), 1);
    assert_eq!(plan.steps[0].action, Action::RemoveContainer { id: "app-0".into() });
}
