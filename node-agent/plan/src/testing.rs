//! Fixtures for this crate's tests.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as SpecContainer, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::memory::{Memory, VolumesState};
use crate::observed::{Container, ContainerState, ObservedPod, Sandbox};

/// Seconds after the start of the test's time.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

pub(crate) fn container(name: &str) -> SpecContainer {
    SpecContainer { name: name.into(), image: Some("busybox".into()), ..SpecContainer::default() }
}

pub(crate) fn sidecar(name: &str) -> SpecContainer {
    SpecContainer { restart_policy: Some("Always".into()), ..container(name) }
}

pub(crate) fn pod_spec(containers: Vec<SpecContainer>) -> PodSpec {
    PodSpec { containers, ..PodSpec::default() }
}

pub(crate) fn pod(name: &str, containers: Vec<SpecContainer>) -> Pod {
    let mut pod = Pod { spec: Some(pod_spec(containers)), ..Pod::default() };
    pod.metadata.name = Some(name.into());
    pod.metadata.namespace = Some("default".into());
    pod.metadata.uid = Some(format!("uid-{name}"));
    pod
}

pub(crate) fn resources(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> ResourceRequirements {
    let map = |list: &[(&str, &str)]| -> BTreeMap<String, Quantity> {
        list.iter().map(|(k, v)| ((*k).into(), Quantity((*v).into()))).collect()
    };
    ResourceRequirements { requests: Some(map(requests)), limits: Some(map(limits)), claims: None }
}

pub(crate) fn instance(name: &str, attempt: u32, state: ContainerState) -> Container {
    let spec_hash = crate::spec_hash(&container(name));
    Container {
        id: format!("{name}-{attempt}"),
        sandbox_id: "sandbox-0".into(),
        name: name.into(),
        attempt,
        state,
        image: "busybox".into(),
        image_id: "sha256:1".into(),
        created_at: at(0),
        started_at: Some(at(0)),
        finished_at: None,
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
        spec_hash,
        restart_delay: 0,
        log_path: String::new(),
    }
}

pub(crate) fn running(name: &str) -> Container {
    instance(name, 0, ContainerState::Running)
}

pub(crate) fn exited(name: &str, attempt: u32, exit_code: i32) -> Container {
    let mut c = instance(name, attempt, ContainerState::Exited);
    c.exit_code = exit_code;
    c.finished_at = Some(at(1));
    c.restart_delay = crate::next_restart_delay(None);
    c
}

pub(crate) fn observed(containers: Vec<Container>) -> ObservedPod {
    let sandbox =
        Sandbox { id: "sandbox-0".into(), attempt: 0, ready: true, created_at: at(0), ips: vec!["10.0.0.5".into()] };
    ObservedPod { sandboxes: vec![sandbox], containers }
}

/// Volumes are mounted; the containers named are started and ready.
pub(crate) fn memory(ready: &[&str]) -> Memory {
    let verdict = crate::ProbeVerdict { started: true, ready: true, failed: None };
    Memory {
        volumes: VolumesState::Mounted,
        probes: ready.iter().map(|id| ((*id).to_owned(), verdict.clone())).collect(),
        seen_at: Some(at(0)),
        ..Memory::default()
    }
}
