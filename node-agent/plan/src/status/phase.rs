//! The pod's phase and the conditions that the node owns.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodSpec};

use crate::containers::{Kind, all_containers};
use crate::memory::Memory;
use crate::observed::{ContainerState, ObservedPod};
use crate::pod::Outcome;
use crate::status::is_terminal;

/// `status.phase` as far as a node may set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    fn ended(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed => true,
            Self::Pending | Self::Running => false,
        }
    }
}

pub(super) fn phase(pod: &Pod, spec: &PodSpec, observed: &ObservedPod, outcome: Outcome, memory: &Memory) -> Phase {
    if is_terminal(pod) {
        let succeeded = pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Succeeded");
        return if succeeded { Phase::Succeeded } else { Phase::Failed };
    }
    let containers = all_containers(spec);
    let ended = |name: &str| observed.latest(name).filter(|i| i.state == ContainerState::Exited);
    let mains: Vec<_> = containers.iter().filter(|c| c.kind == Kind::Main).collect();
    let any_started =
        mains.iter().any(|c| observed.latest(&c.spec.name).is_some_and(|i| i.state != ContainerState::Created));
    match outcome {
        Outcome::Stopped => {
            let all_well =
                memory.ending.is_none() && mains.iter().all(|c| ended(&c.spec.name).is_some_and(|i| i.exit_code == 0));
            return if all_well { Phase::Succeeded } else { Phase::Failed };
        }
        Outcome::Running | Outcome::Stopping => {}
    }
    // A pod whose main containers have ended is reported as ended only when its sidecars are gone too: one event.
    if any_started { Phase::Running } else { Phase::Pending }
}

pub(super) struct Facts<'a> {
    pub(super) spec: &'a PodSpec,
    pub(super) init: &'a [ContainerStatus],
    pub(super) main: &'a [ContainerStatus],
    pub(super) phase: Phase,
    pub(super) sandbox_ready: bool,
}

/// PodReadyToStartContainers, Initialized, Ready, ContainersReady; and PodScheduled if nobody has said it yet.
pub(super) fn conditions(facts: &Facts<'_>, old: &[PodCondition]) -> Vec<PodCondition> {
    let containers = containers_ready(facts);
    let mut all = vec![
        condition("PodReadyToStartContainers", Verdict::plain(facts.sandbox_ready)),
        condition("Initialized", initialized(facts)),
        condition("Ready", ready(facts, &containers, old)),
        condition("ContainersReady", containers),
    ];
    if !old.iter().any(|c| c.type_ == "PodScheduled") {
        all.push(condition("PodScheduled", Verdict::plain(true)));
    }
    all
}

#[derive(Clone)]
struct Verdict {
    good: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn plain(good: bool) -> Self {
        Self { good, reason: None, message: None }
    }

    fn bad(reason: &'static str, message: String) -> Self {
        Self { good: false, reason: Some(reason), message: (!message.is_empty()).then_some(message) }
    }
}

fn condition(type_: &str, verdict: Verdict) -> PodCondition {
    PodCondition {
        type_: type_.into(),
        status: if verdict.good { "True" } else { "False" }.into(),
        reason: verdict.reason.map(Into::into),
        message: verdict.message,
        ..PodCondition::default()
    }
}

fn names(statuses: &[&ContainerStatus]) -> String {
    statuses.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(" ")
}

fn is_sidecar(spec: &PodSpec, name: &str) -> bool {
    spec.init_containers.iter().flatten().any(|c| c.name == name && c.restart_policy.as_deref() == Some("Always"))
}

fn initialized(facts: &Facts<'_>) -> Verdict {
    if facts.phase == Phase::Succeeded {
        return Verdict { good: true, reason: Some("PodCompleted"), message: None };
    }
    let main_started = facts.main.iter().any(|s| s.container_id.is_some());
    let incomplete: Vec<&ContainerStatus> = facts
        .init
        .iter()
        .filter(|s| if is_sidecar(facts.spec, &s.name) { s.started != Some(true) && !main_started } else { !s.ready })
        .collect();
    if incomplete.is_empty() {
        return Verdict::plain(true);
    }
    Verdict::bad("ContainersNotInitialized", format!("containers with incomplete status: [{}]", names(&incomplete)))
}

fn containers_ready(facts: &Facts<'_>) -> Verdict {
    if facts.phase == Phase::Succeeded {
        return Verdict::bad("PodCompleted", String::new());
    }
    if facts.phase == Phase::Failed {
        return Verdict::bad("PodFailed", String::new());
    }
    let sidecars = facts.init.iter().filter(|s| is_sidecar(facts.spec, &s.name));
    let unready: Vec<&ContainerStatus> = sidecars.chain(facts.main).filter(|s| !s.ready).collect();
    if unready.is_empty() {
        return Verdict::plain(true);
    }
    Verdict::bad("ContainersNotReady", format!("containers with unready status: [{}]", names(&unready)))
}

fn ready(facts: &Facts<'_>, containers: &Verdict, old: &[PodCondition]) -> Verdict {
    if !containers.good {
        return containers.clone();
    }
    debug_assert!(!facts.phase.ended());
    let unmet: Vec<String> = facts
        .spec
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let found = old.iter().find(|c| c.type_ == gate.condition_type);
            match found.map(|c| c.status.as_str()) {
                Some("True") => None,
                Some(_) => Some(format!(
                    "the status of pod readiness gate \"{}\" is not \"True\", but False",
                    gate.condition_type
                )),
                None => Some(format!(
                    "corresponding condition of pod readiness gate \"{}\" does not exist.",
                    gate.condition_type
                )),
            }
        })
        .collect();
    if unmet.is_empty() { Verdict::plain(true) } else { Verdict::bad("ReadinessGatesNotReady", unmet.join(", ")) }
}
