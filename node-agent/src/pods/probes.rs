//! The probes of running containers: one task for each container, first the startup probe, then liveness and readiness beside each
//! other. A task ends with its container.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use galley_node_plan::probe::{ProbeKind, Tally, Timing, Verdict};
use galley_node_plan::{Container as Instance, ContainerState, ObservedPod};
use galley_types::{Clock, SystemClock};
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::Host;
use super::apply::remaining;
use super::hooks::{self, Target};
use super::worker::Message;

#[derive(Debug)]
pub(super) struct Probes {
    tasks: HashMap<String, AbortHandle>,
    messages: mpsc::UnboundedSender<Message>,
}

impl Probes {
    pub(super) fn new(messages: mpsc::UnboundedSender<Message>) -> Self {
        Self { tasks: HashMap::new(), messages }
    }

    /// Starts probing an instance. `started`: its startup probe is done with.
    pub(super) fn start(
        &mut self,
        host: &Arc<Host>,
        pod: &Pod,
        container: &Container,
        instance: &Instance,
        observed: &ObservedPod,
        started: bool,
    ) {
        let probes = [&container.startup_probe, &container.readiness_probe, &container.liveness_probe];
        if probes.iter().all(|p| p.is_none()) {
            return;
        }
        let prober = Prober {
            host: Arc::clone(host),
            pod: pod.clone(),
            name: container.name.clone(),
            target: Target::new(pod, container, observed, &instance.id),
            since: instance.started_at.unwrap_or(instance.created_at),
            messages: self.messages.clone(),
        };
        let container = container.clone();
        let task = tokio::spawn(async move {
            if let Some(probe) = container.startup_probe.as_ref().filter(|_| !started) {
                prober.run(probe, ProbeKind::Startup, true).await;
            }
            let of = async |probe: &Option<Probe>, kind| {
                if let Some(probe) = probe {
                    prober.run(probe, kind, false).await;
                }
            };
            tokio::join!(
                of(&container.readiness_probe, ProbeKind::Readiness),
                of(&container.liveness_probe, ProbeKind::Liveness)
            );
        });
        if let Some(old) = self.tasks.insert(instance.id.clone(), task.abort_handle()) {
            old.abort();
        }
    }

    /// Stops probing what runs no more.
    pub(super) fn stop_all_but_running(&mut self, observed: &ObservedPod) {
        let running = |id: &str| observed.containers.iter().any(|c| c.id == id && c.state == ContainerState::Running);
        self.tasks.retain(|id, task| {
            let keep = running(id);
            if !keep {
                task.abort();
            }
            keep
        });
    }

    pub(super) fn stop_all(&mut self) {
        for (_, task) in self.tasks.drain() {
            task.abort();
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop_all();
    }
}

struct Prober {
    host: Arc<Host>,
    pod: Pod,
    name: String,
    target: Target,
    since: jiff::Timestamp,
    messages: mpsc::UnboundedSender<Message>,
}

impl Prober {
    /// Probes for ever, or until the first verdict.
    async fn run(&self, probe: &Probe, kind: ProbeKind, once: bool) {
        let timing = Timing::of(probe);
        let period = Duration::try_from(timing.period).unwrap_or(Duration::from_secs(10));
        tokio::time::sleep(remaining(SystemClock.now(), timing.first_at(self.since))).await;
        let mut tally = Tally::default();
        let mut told = Verdict::Undecided;
        loop {
            let limit = Duration::try_from(timing.timeout).unwrap_or(Duration::from_secs(1));
            let result = self.probe(probe, limit).await;
            if let Err(message) = &result {
                let text = format!("{} probe failed: {message}", kind.as_str());
                self.host.events.pod(&self.pod, Some(&self.name), true, "Unhealthy", text);
            }
            let verdict = tally.record(result.is_ok(), &timing);
            if verdict != Verdict::Undecided && verdict != told {
                told = verdict;
                let message = result.err().unwrap_or_default();
                let container_id = self.target.container_id.clone();
                if self.messages.send(Message::Probed { container_id, kind, verdict, message }).is_err() {
                    return;
                }
                if once && verdict == Verdict::Success {
                    return;
                }
            }
            tokio::time::sleep(period).await;
        }
    }

    async fn probe(&self, probe: &Probe, limit: Duration) -> Result<String, String> {
        if let Some(exec) = &probe.exec {
            let words = exec.command.as_deref().unwrap_or_default();
            return hooks::command(&self.host, &self.target, words, limit).await;
        }
        if let Some(get) = &probe.http_get {
            return hooks::http_get(&self.target, get, limit).await;
        }
        if let Some(socket) = &probe.tcp_socket {
            return hooks::tcp(&self.target, socket, limit).await;
        }
        if let Some(action) = &probe.grpc {
            return hooks::grpc(&self.target, action, limit).await;
        }
        Ok(String::new())
    }
}
