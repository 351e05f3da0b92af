//! Carrying out a plan's steps. Stops run in tasks of their own; the rest is done here, in order, since each step stands on the
//! one before.

use std::time::Duration;

use galley_node_cri::messages::PodSandboxConfig;
use galley_node_cri::{ResolvConf, SandboxInputs, hosts_file, log_directory, sandbox_config};
use galley_node_plan::qos::{container_limits, pod_limits, qos_class};
use galley_node_plan::{Action, ContainerState, Failure, ObservedPod, Step, VolumesState, WaitingReason, pull_delay};
use galley_types::{Clock, SystemClock};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::kill;
use super::worker::{RETRY, Worker};
use crate::files;

/// Mounted objects are brought up to date this often.
const REFRESH: SignedDuration = SignedDuration::from_secs(15);
/// The longest wait between two attempts to mount or to make a sandbox, in seconds.
const MOUNT_RETRY_MAX: i64 = 60;
const SANDBOX_RETRY_MAX: i64 = 20;

/// 1, 2, 4, ... seconds.
fn growing(count: u32, max: i64) -> SignedDuration {
    SignedDuration::from_secs((1i64 << count.saturating_sub(1).min(6)).min(max))
}

fn later(now: Timestamp, wait: SignedDuration) -> Timestamp {
    now.saturating_add(wait).unwrap_or(now)
}

impl Worker {
    /// Does the steps; whether the pod should be looked at again at once.
    pub(super) async fn apply(&mut self, pod: &Pod, observed: &ObservedPod, steps: Vec<Step>) -> bool {
        let mut progress = false;
        for step in steps {
            let now = SystemClock.now();
            tracing::debug!(pod = pod.metadata.name, action = ?step.action, reason = ?step.reason, "step");
            match step.action {
                Action::MountVolumes => {
                    self.mount_volumes(pod, observed, now).await;
                    progress = true;
                }
                Action::CreateSandbox { attempt } => {
                    self.create_sandbox(pod, attempt, now).await;
                    progress = true;
                }
                Action::StartContainer { name, kind, sandbox_id, attempt, restart_delay } => {
                    let wanted = super::start::Wanted { name, kind, sandbox_id, attempt, restart_delay };
                    self.start_container(pod, observed, wanted).await;
                    progress = true;
                    // A pod that is to end meanwhile starts nothing more.
                    if self.intent.borrow().is_ending() != pod.metadata.deletion_timestamp.is_some() {
                        return true;
                    }
                }
                Action::KillContainer { id, name, grace, why } => {
                    let under_way = self.memory.killing.contains_key(&id);
                    self.memory.killing.insert(id.clone(), later(now, SignedDuration::from_secs(grace)));
                    kill::start(self, pod, observed, kill::Kill { id, name, grace, why, again: under_way });
                }
                Action::StopSandbox { id } => match self.host.cri.stop_sandbox(&id).await {
                    Ok(()) => progress = true,
                    Err(error) => {
                        tracing::warn!(error = error.message(), "a sandbox cannot be stopped");
                        tokio::time::sleep(RETRY).await;
                    }
                },
                Action::RemoveContainer { id } => {
                    if let Some(c) = observed.containers.iter().find(|c| c.id == id) {
                        let path = std::path::PathBuf::from(&c.log_path);
                        for old in galley_node_cri::logs::rotated(&path).into_iter().chain([path]) {
                            let _ = tokio::fs::remove_file(old).await;
                        }
                    }
                    if let Err(error) = self.host.cri.remove_container(&id).await {
                        tracing::warn!(error = error.message(), "a container cannot be removed");
                    }
                }
                Action::RemoveSandbox { id } => {
                    if let Err(error) = self.host.cri.remove_sandbox(&id).await {
                        tracing::warn!(error = error.message(), "a sandbox cannot be removed");
                    }
                }
            }
        }
        progress
    }

    async fn mount_volumes(&mut self, pod: &Pod, observed: &ObservedPod, now: Timestamp) {
        let result = self.bring_volumes(pod, observed, now).await;
        self.memory.volumes = match result {
            Ok(()) => {
                self.mount_failures = 0;
                VolumesState::Mounted
            }
            Err(message) => {
                self.mount_failures += 1;
                self.host.events.pod(pod, None, true, "FailedMount", message.clone());
                VolumesState::Failed { message, retry_at: later(now, growing(self.mount_failures, MOUNT_RETRY_MAX)) }
            }
        };
    }

    async fn bring_volumes(&mut self, pod: &Pod, observed: &ObservedPod, now: Timestamp) -> Result<(), String> {
        let sources = self.host.volume_sources(pod, &mut self.tokens).await.map_err(|e| e.to_string())?;
        let host_network = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        let facts = self.host.runtime_facts(observed, host_network);
        let (volumes, pod) = (self.volumes.clone(), pod.clone());
        let mounted = tokio::task::spawn_blocking(move || volumes.mount(&pod, &sources, &facts, now)).await;
        self.refreshed = now;
        match mounted {
            Ok(result) => result.map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// ConfigMaps, Secrets, tokens and downward files change while the pod runs; and an agent that was restarted mounts again
    /// what a reboot took away.
    pub(super) async fn refresh_volumes(&mut self, pod: &Pod, observed: &ObservedPod, now: Timestamp) {
        if now.duration_since(self.refreshed) < REFRESH || pod.spec.as_ref().is_none_or(|s| s.volumes.is_none()) {
            return;
        }
        if let Err(message) = self.bring_volumes(pod, observed, now).await {
            tracing::debug!(message, "volumes are not brought up to date");
        }
    }

    /// Gives running containers the resources that the spec has now (`pods/resize`). What an instance was made with is what the
    /// spec said when this agent first saw it.
    pub(super) async fn resize(&mut self, pod: &Pod, observed: &ObservedPod) {
        let Some(spec) = &pod.spec else { return };
        self.limits.retain(|id, _| observed.containers.iter().any(|c| c.id == *id));
        for instance in observed.containers.iter().filter(|c| c.state == ContainerState::Running) {
            let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
            let Some(container) = all.find(|c| c.name == instance.name) else { continue };
            let wanted = container_limits(spec, container, self.host.machine.memory);
            let has = *self.limits.entry(instance.id.clone()).or_insert(wanted);
            if has == wanted {
                continue;
            }
            if let Err(error) = self.host.cgroups.pod_create(qos_class(spec), &self.uid, &pod_limits(spec)) {
                tracing::warn!(%error, "a pod is not resized");
            }
            match self.host.cri.resize(&instance.id, &wanted).await {
                Ok(()) => {
                    tracing::info!(container = instance.name, ?wanted, "a container is resized");
                    self.limits.insert(instance.id.clone(), wanted);
                }
                Err(error) => tracing::warn!(error = error.message(), "a container is not resized"),
            }
        }
    }

    /// The configuration that the pod's sandbox was or is to be made from.
    pub(super) fn sandbox_config(&self, pod: &Pod, attempt: u32) -> PodSandboxConfig {
        let class = pod.spec.as_ref().map(qos_class).unwrap_or(galley_node_plan::qos::QosClass::BestEffort);
        let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let inputs = SandboxInputs {
            node: self.host.node.clone(),
            attempt,
            cgroup_parent: self.host.cgroups.pod_path(class, &self.uid),
            log_directory: self.host.logs_dir.join(log_directory(pod)).display().to_string(),
            cluster_dns: self.host.cluster_dns.clone(),
            cluster_domain: self.host.cluster_domain.clone(),
            node_resolv: ResolvConf::parse(&resolv),
        };
        sandbox_config(pod, &inputs)
    }

    async fn create_sandbox(&mut self, pod: &Pod, attempt: u32, now: Timestamp) {
        let result = self.try_sandbox(pod, attempt).await;
        match result {
            Ok(id) => {
                self.memory.sandbox_failure = None;
                tracing::info!(pod = pod.metadata.name, sandbox = id, "a pod's sandbox runs");
            }
            Err(detail) => {
                let count = self.memory.sandbox_failure.as_ref().map_or(1, |f| f.count + 1);
                let message = format!("Failed to create pod sandbox: {detail}");
                self.host.events.pod(pod, None, true, "FailedCreatePodSandBox", message.clone());
                self.memory.sandbox_failure = Some(Failure {
                    reason: WaitingReason::CreatePodSandboxError,
                    message,
                    at: now,
                    count,
                    retry_at: later(now, growing(count, SANDBOX_RETRY_MAX)),
                });
            }
        }
    }

    async fn try_sandbox(&self, pod: &Pod, attempt: u32) -> Result<String, String> {
        let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
        self.host.cgroups.pod_create(qos_class(spec), &self.uid, &pod_limits(spec)).map_err(|e| e.to_string())?;
        let config = self.sandbox_config(pod, attempt);
        tokio::fs::create_dir_all(&config.log_directory).await.map_err(|e| e.to_string())?;
        let id = self.host.cri.run_sandbox(config).await.map_err(|e| e.message())?;
        Ok(id)
    }

    /// Writes the pod's hosts file; its path.
    pub(super) fn write_hosts(&self, pod: &Pod, observed: &ObservedPod) -> std::io::Result<String> {
        let node_hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        let ips = observed.sandbox().map(|s| s.ips.clone()).unwrap_or_default();
        let text = hosts_file(pod, &ips, &self.host.cluster_domain, &node_hosts);
        let path = self.volumes.directory().join("etc-hosts");
        if std::fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            files::write(&path, text.as_bytes(), false)?;
        }
        Ok(path.display().to_string())
    }

    /// Remembers a start that failed; `event` is told unless it was told for the same reason just before.
    pub(super) fn remember_failure(&mut self, pod: &Pod, container: &str, reason: WaitingReason, message: String) {
        let now = SystemClock.now();
        let count = self.memory.failures.get(container).filter(|f| f.reason == reason).map_or(1, |f| f.count + 1);
        let event = match reason {
            WaitingReason::ErrImagePull => "Error: ErrImagePull".to_owned(),
            WaitingReason::ErrImageNeverPull => "Error: ErrImageNeverPull".to_owned(),
            WaitingReason::InvalidImageName => "Error: InvalidImageName".to_owned(),
            WaitingReason::CreateContainerConfigError
            | WaitingReason::CreateContainerError
            | WaitingReason::RunContainerError
            | WaitingReason::PostStartHookError
            | WaitingReason::CreatePodSandboxError => format!("Error: {message}"),
        };
        self.host.events.pod(pod, Some(container), true, "Failed", event);
        let wait = match reason {
            WaitingReason::ErrImagePull => pull_delay(count),
            // The instance that failed counts in the restart delay.
            WaitingReason::RunContainerError => SignedDuration::ZERO,
            WaitingReason::ErrImageNeverPull
            | WaitingReason::InvalidImageName
            | WaitingReason::CreateContainerConfigError
            | WaitingReason::CreateContainerError
            | WaitingReason::PostStartHookError
            | WaitingReason::CreatePodSandboxError => growing(count.saturating_add(1), 20),
        };
        let failure = Failure { reason, message, at: now, count, retry_at: later(now, wait) };
        self.memory.failures.insert(container.to_owned(), failure);
    }
}

/// How long a wait from `now` to `at` is.
pub(super) fn remaining(now: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
}
