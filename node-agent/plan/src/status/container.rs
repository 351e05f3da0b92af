//! One container's status: waiting, running or terminated, and why.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, Pod, PodSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::backoff::restart_at;
use crate::containers::{ContainerRef, Kind, RestartPolicy};
use crate::memory::{Failure, Memory, WaitingReason};
use crate::observed::{Container, ContainerState, ObservedPod};
use crate::pod::Outcome;

/// A failed pull shows as `ErrImagePull` for this long, then as `ImagePullBackOff` until it is tried again.
pub(crate) const FRESH_FAILURE: SignedDuration = SignedDuration::from_secs(3);

pub(super) struct View<'a> {
    pub(super) pod: &'a Pod,
    pub(super) spec: &'a PodSpec,
    pub(super) observed: &'a ObservedPod,
    pub(super) memory: &'a Memory,
    pub(super) outcome: Outcome,
    pub(super) now: Timestamp,
}

impl View<'_> {
    pub(super) fn status(&self, container: &ContainerRef) -> ContainerStatus {
        let name = &container.spec.name;
        let instances = self.observed.instances(name);
        let latest = instances.first().copied();
        let before = self.reported(name);
        let mut status = ContainerStatus {
            name: name.clone(),
            image: container.spec.image.clone().unwrap_or_default(),
            resources: container.spec.resources.clone().filter(|r| *r != Default::default()),
            allocated_resources: container.spec.resources.as_ref().and_then(|r| r.requests.clone()),
            started: Some(false),
            ..ContainerStatus::default()
        };
        let Some(latest) = latest else {
            // Lost by the runtime: what was reported stays, so that counts and last states survive.
            if let Some(before) = before.filter(|b| b.container_id.as_ref().is_some_and(|id| !id.is_empty())) {
                return self.without_instance(container, before);
            }
            // What never started in a pod that has ended never will.
            let never = self.outcome == Outcome::Stopped && container.kind == Kind::Main;
            status.state = Some(if never { lost() } else { self.waiting(container) });
            return status;
        };
        status.restart_count = i32::try_from(latest.attempt).unwrap_or(i32::MAX);
        status.container_id = Some(format!("containerd://{}", latest.id));
        status.image_id.clone_from(&latest.image_id);
        if !latest.image.is_empty() && container.kind == Kind::Ephemeral {
            status.image.clone_from(&latest.image);
        }
        let mut previous = instances.iter().skip(1).find(|c| c.state == ContainerState::Exited).copied();
        let state = match latest.state {
            ContainerState::Running => running(latest),
            ContainerState::Created => waiting("ContainerCreating", String::new()),
            ContainerState::Unknown => terminated_unknown(latest),
            ContainerState::Exited => match self.waiting_for_restart(container, latest) {
                Some(reason) => {
                    previous = Some(latest);
                    reason
                }
                None => once_reported(before, latest),
            },
        };
        status.state = Some(state);
        status.last_state = match previous {
            Some(previous) => Some(once_reported(before, previous)),
            None => before.and_then(|b| self.kept_last_state(b, latest)),
        };
        if latest.state == ContainerState::Running {
            let hook_done = !self.memory.in_post_start.contains(&latest.id);
            let verdict = self.memory.probes.get(&latest.id);
            let started = hook_done && verdict.is_some_and(|v| v.started);
            status.started = Some(started);
            status.ready = started && verdict.is_some_and(|v| v.ready) && !self.memory.killing.contains_key(&latest.id);
            if container.kind == Kind::Ephemeral {
                (status.started, status.ready) = (None, false);
            }
        } else if latest.state == ContainerState::Exited && container.kind == Kind::Init {
            status.ready = latest.exit_code == 0;
        }
        status
    }

    fn reported(&self, name: &str) -> Option<&ContainerStatus> {
        let status = self.pod.status.as_ref()?;
        let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
        lists.into_iter().flatten().flatten().find(|c| c.name == name)
    }

    /// The reported last state still counts if it is of an instance before `latest`.
    fn kept_last_state(&self, before: &ContainerStatus, latest: &Container) -> Option<ApiState> {
        let own = format!("containerd://{}", latest.id);
        if latest.attempt == 0 {
            return None;
        }
        let last = before.last_state.clone()?;
        let of_latest = last.terminated.as_ref().is_some_and(|t| t.container_id.as_deref() == Some(&own));
        (!of_latest).then_some(last)
    }

    fn without_instance(&self, container: &ContainerRef, before: &ContainerStatus) -> ContainerStatus {
        let mut status = before.clone();
        (status.ready, status.started) = (false, Some(false));
        let ended = before.state.as_ref().is_some_and(|s| s.terminated.is_some());
        if ended {
            status.ready = container.kind == Kind::Init
                && before.state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0);
            return status;
        }
        match self.outcome {
            Outcome::Running => {
                status.last_state = Some(lost());
                status.state = Some(self.waiting(container));
            }
            Outcome::Stopping | Outcome::Stopped => {
                status.state = Some(lost());
            }
        }
        status
    }

    /// No instance yet: what it waits for.
    fn waiting(&self, container: &ContainerRef) -> ApiState {
        if let Some(failure) = self.memory.failures.get(&container.spec.name) {
            return self.failed_start(container, failure);
        }
        let has_init = self.spec.init_containers.as_ref().is_some_and(|init| !init.is_empty());
        let pending = container.kind == Kind::Main && has_init || matches!(container.kind, Kind::Init | Kind::Sidecar);
        waiting(if pending { "PodInitializing" } else { "ContainerCreating" }, String::new())
    }

    fn failed_start(&self, container: &ContainerRef, failure: &Failure) -> ApiState {
        let age = self.now.duration_since(failure.at);
        if failure.reason == WaitingReason::ErrImagePull && age >= FRESH_FAILURE {
            let image = container.spec.image.as_deref().unwrap_or_default();
            let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {}", failure.message);
            return waiting("ImagePullBackOff", message);
        }
        waiting(failure.reason.as_str(), failure.message.clone())
    }

    /// An instance that ended and will have a successor: what that one waits for, unless it starts right now.
    fn waiting_for_restart(&self, container: &ContainerRef, ended: &Container) -> Option<ApiState> {
        match self.outcome {
            Outcome::Running => {}
            Outcome::Stopping | Outcome::Stopped => return None,
        }
        if !RestartPolicy::restarts(self.spec, container.kind, &container.spec, ended.exit_code) {
            return None;
        }
        let at = restart_at(ended);
        if at > self.now {
            let (meta, name) = (&self.pod.metadata, &container.spec.name);
            let message = format!(
                "back-off {} restarting failed container={name} pod={}_{}({})",
                short_delay(ended.restart_delay),
                meta.name.as_deref().unwrap_or_default(),
                meta.namespace.as_deref().unwrap_or_default(),
                meta.uid.as_deref().unwrap_or_default(),
            );
            return Some(waiting("CrashLoopBackOff", message));
        }
        self.memory.failures.get(&container.spec.name).map(|failure| self.failed_start(container, failure))
    }
}

/// `10s`, `1m20s`, `5m0s`: how Go prints durations.
pub(crate) fn short_delay(seconds: u32) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

fn waiting(reason: &str, message: String) -> ApiState {
    let message = (!message.is_empty()).then_some(message);
    ApiState { waiting: Some(ContainerStateWaiting { reason: Some(reason.into()), message }), ..ApiState::default() }
}

fn running(instance: &Container) -> ApiState {
    ApiState {
        running: Some(ContainerStateRunning { started_at: instance.started_at.map(Time) }),
        ..ApiState::default()
    }
}

fn terminated(instance: &Container) -> ApiState {
    let reason = match instance.reason.as_str() {
        "" if instance.exit_code == 0 => "Completed",
        "" => "Error",
        known => known,
    };
    let terminated = ContainerStateTerminated {
        container_id: Some(format!("containerd://{}", instance.id)),
        exit_code: instance.exit_code,
        // An instance that never ran has no times of its own: Kubernetes shows the epoch, as the runtime does.
        started_at: Some(Time(instance.started_at.unwrap_or(Timestamp::UNIX_EPOCH))),
        finished_at: Some(Time(instance.finished_at.unwrap_or(instance.created_at))),
        reason: Some(reason.into()),
        message: (!instance.message.is_empty()).then(|| instance.message.clone()),
        signal: None,
    };
    ApiState { terminated: Some(terminated), ..ApiState::default() }
}

/// An end does not change: what was reported of it stays, also when its message file has gone with the pod's volumes.
fn once_reported(before: Option<&ContainerStatus>, instance: &Container) -> ApiState {
    let id = format!("containerd://{}", instance.id);
    let reported = before.into_iter().flat_map(|b| [&b.state, &b.last_state]).flatten();
    let mut ends = reported.filter(|s| s.terminated.as_ref().is_some_and(|t| t.container_id.as_deref() == Some(&id)));
    ends.next().cloned().unwrap_or_else(|| terminated(instance))
}

/// The end of a container that nobody saw.
fn lost() -> ApiState {
    let lost = ContainerStateTerminated {
        reason: Some("ContainerStatusUnknown".into()),
        message: Some("The container could not be located when the pod was terminated".into()),
        exit_code: 137,
        ..ContainerStateTerminated::default()
    };
    ApiState { terminated: Some(lost), ..ApiState::default() }
}

fn terminated_unknown(instance: &Container) -> ApiState {
    let mut lost = instance.clone();
    (lost.reason, lost.exit_code) = ("ContainerStatusUnknown".into(), 137);
    terminated(&lost)
}
