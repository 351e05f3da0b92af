//! The plan for one pod: from what is there to what the spec asks for.
//!
//! ```text
//!            volumes mounted?      sandbox ready?        init containers, in order        main containers
//!  new pod ──────> wait ──no──> ... CreateSandbox ──> Start init 0 ──> ... ──> sidecars ──> Start all ──> (nothing to do)
//!                                                                                           │ all ended, none restarts
//!  deleted, deadline, evicted ──> Kill main ──> Kill sidecars, last first ──> StopSandbox <──┘ ──> Outcome::Stopped
//! ```

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::backoff::{next_restart_delay, restart_at};
use crate::containers::{ContainerRef, Kind, RestartPolicy, all_containers, spec_hash};
use crate::memory::{Ending, Memory, VolumesState};
use crate::observed::{Container, ContainerState, ObservedPod, Sandbox};
use crate::status::is_terminal;
use crate::terminate::{clean_up, stop_pod};

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    MountVolumes,
    CreateSandbox {
        attempt: u32,
    },
    /// Pull the image if the policy says so, create, start, run postStart.
    StartContainer {
        name: String,
        kind: Kind,
        sandbox_id: String,
        attempt: u32,
        restart_delay: u32,
    },
    /// Run preStop, then stop with what is left of the grace period.
    KillContainer {
        id: String,
        name: String,
        grace: i64,
        why: KillWhy,
    },
    StopSandbox {
        id: String,
    },
    RemoveContainer {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
}

/// Why a container is stopped; worded for the Killing event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KillWhy {
    /// `Stopping container NAME`.
    PodEnds,
    /// The probe's message.
    Probe(String),
    /// `Container NAME definition changed, will be restarted`.
    SpecChanged,
    /// The instance's sandbox is no longer the pod's.
    SandboxGone,
}

/// Why a step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    NewPod,
    SandboxNotReady,
    NextInitContainer,
    InitContainerFailed,
    NotStarted,
    Ended,
    ProbeFailed,
    SpecChanged,
    PodEnds,
    PodRemoved,
    Superseded,
}

/// An action with the reason for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub action: Action,
    pub reason: Reason,
}

/// What the plan says about the pod as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Keep going: call again after the steps, on a change, or at `recheck_at`.
    Running,
    /// The pod ends (deleted, deadline, evicted, completed) and something of it is still there.
    Stopping,
    /// Nothing of it runs any more, and nothing will: unmount its volumes, report, and if it was deleted, delete it.
    Stopped,
}

/// The plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PodPlan {
    /// In order; starts are to be applied one after the other, kills at once.
    pub steps: Vec<Step>,
    pub outcome: Outcome,
    /// When time alone changes the answer.
    pub recheck_at: Option<Timestamp>,
    /// Set when the plan itself ends the pod (its deadline has passed): to be remembered.
    pub ending: Option<Ending>,
}

/// The plan while it is being made.
pub(crate) struct Draft {
    pub(crate) steps: Vec<Step>,
    recheck_at: Option<Timestamp>,
}

impl Draft {
    pub(crate) fn new() -> Self {
        Self { steps: Vec::new(), recheck_at: None }
    }

    pub(crate) fn step(&mut self, action: Action, reason: Reason) {
        self.steps.push(Step { action, reason });
    }

    pub(crate) fn recheck(&mut self, at: Timestamp) {
        self.recheck_at = Some(self.recheck_at.map_or(at, |known| known.min(at)));
    }

    pub(crate) fn done(self, outcome: Outcome, ending: Option<Ending>) -> PodPlan {
        PodPlan { steps: self.steps, outcome, recheck_at: self.recheck_at, ending }
    }
}

/// Decides what to do about a pod now. See the module's picture.
pub fn pod_plan(pod: &Pod, observed: &ObservedPod, memory: &Memory, now: Timestamp) -> PodPlan {
    let mut draft = Draft::new();
    let Some(spec) = &pod.spec else {
        return draft.done(Outcome::Stopped, None);
    };
    let deadline = deadline_passed(pod, spec, memory, now, &mut draft);
    let ending = memory.ending.as_ref().or(deadline.as_ref());
    if memory.removed || pod.metadata.deletion_timestamp.is_some() || ending.is_some() || is_terminal(pod) {
        let outcome = stop_pod(pod, spec, observed, memory, ending, now, &mut draft);
        return draft.done(outcome, deadline);
    }
    if finished(spec, observed) {
        let outcome = stop_pod(pod, spec, observed, memory, None, now, &mut draft);
        return draft.done(outcome, None);
    }
    keep_running(pod, spec, observed, memory, now, &mut draft);
    clean_up(observed, &mut draft);
    draft.done(Outcome::Running, None)
}

/// `activeDeadlineSeconds` since the node took the pod.
fn deadline_passed(pod: &Pod, spec: &PodSpec, memory: &Memory, now: Timestamp, draft: &mut Draft) -> Option<Ending> {
    let seconds = spec.active_deadline_seconds?;
    let reported = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
    let since = reported.or(memory.seen_at)?;
    let end = since.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    if now < end {
        draft.recheck(end);
        return None;
    }
    Some(Ending {
        reason: "DeadlineExceeded".into(),
        message: "Pod was active on the node longer than the specified deadline".into(),
        grace: None,
        at: now,
    })
}

/// Whether every container that decides about the pod's end has ended for good.
fn finished(spec: &PodSpec, observed: &ObservedPod) -> bool {
    let ended_for_good = |c: &ContainerRef| {
        observed.latest(&c.spec.name).is_some_and(|i| {
            i.state == ContainerState::Exited && !RestartPolicy::restarts(spec, c.kind, &c.spec, i.exit_code)
        })
    };
    let containers = all_containers(spec);
    let failed_init = containers.iter().any(|c| {
        c.kind == Kind::Init
            && ended_for_good(c)
            && observed.latest(&c.spec.name).is_some_and(|i| i.exit_code != 0)
            && observed.latest(&c.spec.name).map(|i| &i.sandbox_id) == observed.sandbox().map(|s| &s.id)
    });
    failed_init || containers.iter().filter(|c| c.kind == Kind::Main).all(ended_for_good)
}

fn keep_running(pod: &Pod, spec: &PodSpec, observed: &ObservedPod, memory: &Memory, now: Timestamp, draft: &mut Draft) {
    let sandbox = observed.sandbox();
    if let Some(gone) = sandbox.filter(|s| !s.ready) {
        // Its containers have lost their network: they go, then a new sandbox comes.
        if kill_all_in(pod, spec, observed, memory, &gone.id, draft) {
            return;
        }
    }
    let Some(sandbox) = sandbox.filter(|s| s.ready) else {
        before_sandbox(observed, memory, now, draft);
        return;
    };
    let containers = all_containers(spec);
    let initialized =
        containers.iter().any(|c| c.kind == Kind::Main && observed.latest_in(&sandbox.id, &c.spec.name).is_some());
    let world = World { pod, spec, observed, memory, now, sandbox };
    for container in containers.iter().filter(|c| matches!(c.kind, Kind::Init | Kind::Sidecar)) {
        let next = world.init_container(container, initialized, draft);
        if !next && !initialized {
            return;
        }
    }
    for container in containers.iter().filter(|c| matches!(c.kind, Kind::Main | Kind::Ephemeral)) {
        world.main_container(container, draft);
    }
}

fn before_sandbox(observed: &ObservedPod, memory: &Memory, now: Timestamp, draft: &mut Draft) {
    match &memory.volumes {
        VolumesState::Pending => return draft.step(Action::MountVolumes, Reason::NewPod),
        VolumesState::Failed { retry_at, .. } if *retry_at <= now => {
            return draft.step(Action::MountVolumes, Reason::NewPod);
        }
        VolumesState::Failed { retry_at, .. } => return draft.recheck(*retry_at),
        VolumesState::Mounted => {}
    }
    if let Some(failure) = &memory.sandbox_failure
        && failure.retry_at > now
    {
        return draft.recheck(failure.retry_at);
    }
    let attempt = observed.sandboxes.iter().map(|s| s.attempt + 1).max().unwrap_or(0);
    let reason = if attempt == 0 { Reason::NewPod } else { Reason::SandboxNotReady };
    draft.step(Action::CreateSandbox { attempt }, reason);
}

/// Kills what is alive in a dead sandbox; whether there was anything.
fn kill_all_in(
    pod: &Pod,
    spec: &PodSpec,
    observed: &ObservedPod,
    memory: &Memory,
    sandbox_id: &str,
    draft: &mut Draft,
) -> bool {
    let alive: Vec<&Container> =
        observed.containers.iter().filter(|c| c.sandbox_id == sandbox_id && c.is_alive()).collect();
    for c in alive.iter().filter(|c| !memory.killing.contains_key(&c.id)) {
        let grace = grace_of(pod, spec);
        let action = Action::KillContainer { id: c.id.clone(), name: c.name.clone(), grace, why: KillWhy::SandboxGone };
        draft.step(action, Reason::SandboxNotReady);
    }
    !alive.is_empty()
}

/// The pod's grace period in seconds: of the deletion if it is being deleted, else of the spec.
pub(crate) fn grace_of(pod: &Pod, spec: &PodSpec) -> i64 {
    pod.metadata.deletion_grace_period_seconds.or(spec.termination_grace_period_seconds).unwrap_or(30)
}

/// What the decisions about one container need.
struct World<'a> {
    pod: &'a Pod,
    spec: &'a PodSpec,
    observed: &'a ObservedPod,
    memory: &'a Memory,
    now: Timestamp,
    sandbox: &'a Sandbox,
}

impl World<'_> {
    /// Handles an init container or sidecar; whether the next one may go on.
    fn init_container(&self, container: &ContainerRef, initialized: bool, draft: &mut Draft) -> bool {
        let instance = self.observed.latest_in(&self.sandbox.id, &container.spec.name);
        let sidecar = container.kind == Kind::Sidecar;
        match instance {
            None if initialized && !sidecar => true, // its instance was cleaned up: the main containers prove that it ran
            None => {
                self.start(container, Reason::NextInitContainer, draft);
                false
            }
            Some(i) => match i.state {
                ContainerState::Running if sidecar => {
                    self.kill_if_unhealthy(container, i, draft);
                    self.memory.probes.get(&i.id).is_some_and(|p| p.started)
                        && !self.memory.in_post_start.contains(&i.id)
                }
                ContainerState::Running => false,
                ContainerState::Exited if !sidecar && (i.exit_code == 0 || initialized) => true,
                ContainerState::Exited => {
                    if RestartPolicy::restarts(self.spec, container.kind, &container.spec, i.exit_code) {
                        self.start(container, Reason::InitContainerFailed, draft);
                    }
                    false
                }
                ContainerState::Created | ContainerState::Unknown => {
                    self.lost(container, i, draft);
                    false
                }
            },
        }
    }

    fn main_container(&self, container: &ContainerRef, draft: &mut Draft) {
        let Some(i) = self.observed.latest_in(&self.sandbox.id, &container.spec.name) else {
            // After a sandbox was lost, a container that had ended for good stays ended.
            let ended_before = self.observed.latest(&container.spec.name).is_some_and(|i| {
                i.state == ContainerState::Exited
                    && !RestartPolicy::restarts(self.spec, container.kind, &container.spec, i.exit_code)
            });
            if !ended_before {
                self.start(container, Reason::NotStarted, draft);
            }
            return;
        };
        match i.state {
            ContainerState::Running => self.kill_if_unhealthy(container, i, draft),
            ContainerState::Exited => {
                if RestartPolicy::restarts(self.spec, container.kind, &container.spec, i.exit_code) {
                    self.start(container, Reason::Ended, draft);
                }
            }
            ContainerState::Created | ContainerState::Unknown => self.lost(container, i, draft),
        }
    }

    fn kill_if_unhealthy(&self, container: &ContainerRef, instance: &Container, draft: &mut Draft) {
        if self.memory.killing.contains_key(&instance.id) {
            return;
        }
        let (why, reason) = if container.kind != Kind::Ephemeral && instance.spec_hash != spec_hash(&container.spec) {
            (KillWhy::SpecChanged, Reason::SpecChanged)
        } else if let Some(message) = self.memory.probes.get(&instance.id).and_then(|p| p.failed.clone()) {
            (KillWhy::Probe(message), Reason::ProbeFailed)
        } else {
            return;
        };
        let probe_grace = match why {
            KillWhy::Probe(_) => probe_grace(container),
            KillWhy::PodEnds | KillWhy::SpecChanged | KillWhy::SandboxGone => None,
        };
        let grace = probe_grace.unwrap_or_else(|| grace_of(self.pod, self.spec));
        draft.step(Action::KillContainer { id: instance.id.clone(), name: instance.name.clone(), grace, why }, reason);
    }

    /// An instance that was created and never ran (the agent was stopped between the two), or that the runtime lost.
    fn lost(&self, container: &ContainerRef, instance: &Container, draft: &mut Draft) {
        if self.memory.killing.contains_key(&instance.id) {
            return;
        }
        if instance.state == ContainerState::Unknown {
            let action = Action::KillContainer {
                id: instance.id.clone(),
                name: instance.name.clone(),
                grace: 0,
                why: KillWhy::SandboxGone,
            };
            return draft.step(action, Reason::Ended);
        }
        draft.step(Action::RemoveContainer { id: instance.id.clone() }, Reason::NotStarted);
        self.start_attempt(container, instance.attempt, instance.restart_delay, Reason::NotStarted, draft);
    }

    fn start(&self, container: &ContainerRef, reason: Reason, draft: &mut Draft) {
        let last = self.observed.latest(&container.spec.name);
        if let Some(last) = last.filter(|l| l.state == ContainerState::Exited && l.sandbox_id == self.sandbox.id) {
            let at = restart_at(last);
            if at > self.now {
                return draft.recheck(at);
            }
        }
        let attempt = match last {
            Some(last) => last.attempt + 1,
            None => self.reported_restarts(&container.spec.name),
        };
        self.start_attempt(container, attempt, next_restart_delay(last), reason, draft);
    }

    fn start_attempt(
        &self,
        container: &ContainerRef,
        attempt: u32,
        restart_delay: u32,
        reason: Reason,
        draft: &mut Draft,
    ) {
        if let Some(failure) = self.memory.failures.get(&container.spec.name)
            && failure.retry_at > self.now
        {
            return draft.recheck(failure.retry_at);
        }
        let action = Action::StartContainer {
            name: container.spec.name.clone(),
            kind: container.kind,
            sandbox_id: self.sandbox.id.clone(),
            attempt,
            restart_delay,
        };
        draft.step(action, reason);
    }

    /// Attempt numbers go on where the API server's status left off when the runtime has lost every instance.
    fn reported_restarts(&self, name: &str) -> u32 {
        let Some(status) = &self.pod.status else { return 0 };
        let mut all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        all.find(|c| c.name == name && c.container_id.as_ref().is_some_and(|id| !id.is_empty()))
            .map_or(0, |c| u32::try_from(c.restart_count + 1).unwrap_or(0))
    }
}

/// A probe may have its own grace period for the kill it causes.
fn probe_grace(container: &ContainerRef) -> Option<i64> {
    let of = |p: &Option<k8s_openapi::api::core::v1::Probe>| p.as_ref()?.termination_grace_period_seconds;
    of(&container.spec.liveness_probe).or_else(|| of(&container.spec.startup_probe))
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;
