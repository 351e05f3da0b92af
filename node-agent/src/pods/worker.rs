//! One pod's worker: observe, plan, apply, report, wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use galley_node_plan::probe::{ProbeKind, Verdict};
use galley_node_plan::qos::CgroupLimits;
use galley_node_plan::{
    ContainerState, Ending, Kind, Memory, ObservedPod, Outcome, ProbeVerdict, container_kind, pod_plan, pod_status,
};
use galley_node_volumes::PodVolumes;
use galley_types::{Clock, SystemClock};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{mpsc, watch};

use super::probes::Probes;
use super::report::Reporter;
use super::sources::Tokens;
use super::{Host, PodEntry, PodTable};

/// Without any news, look again after this: also the rate at which mounted ConfigMaps, Secrets and tokens are brought up to date.
const IDLE: Duration = Duration::from_secs(20);
/// After a step that failed without a time of its own.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// What the API server wants.
#[derive(Debug, Clone)]
pub(crate) struct Intent {
    pub(crate) pod: Arc<Pod>,
    /// The API server has it no more.
    pub(crate) removed: bool,
}

impl Intent {
    /// Whether the pod is to end.
    pub(super) fn is_ending(&self) -> bool {
        self.removed || self.pod.metadata.deletion_timestamp.is_some()
    }
}

/// What tasks tell the worker.
#[derive(Debug)]
pub(crate) enum Message {
    /// Something of the pod changed in the runtime.
    Look,
    /// A container's stop has ended (well or not).
    Killed(String),
    /// A probe came to a verdict.
    Probed { container_id: String, kind: ProbeKind, verdict: Verdict, message: String },
    /// A postStart hook has returned; an error kills its container.
    PostStarted { container_id: String, error: Option<String> },
    /// The node ends the pod.
    End(Ending),
}

pub(super) struct Worker {
    pub(super) uid: String,
    pub(super) host: Arc<Host>,
    pub(super) table: PodTable,
    pub(super) intent: watch::Receiver<Intent>,
    pub(super) messages: mpsc::UnboundedSender<Message>,
    pub(super) inbox: mpsc::UnboundedReceiver<Message>,
    pub(super) memory: Memory,
    pub(super) volumes: PodVolumes,
    pub(super) tokens: Tokens,
    pub(super) mount_failures: u32,
    pub(super) refreshed: Timestamp,
    /// Container id -> the cgroup numbers that it has.
    pub(super) limits: HashMap<String, CgroupLimits>,
    probes: Probes,
    reporter: Reporter,
    last: Option<PodStatus>,
}

impl Worker {
    pub(super) fn new(
        uid: String,
        host: Arc<Host>,
        table: PodTable,
        intent: watch::Receiver<Intent>,
        messages: mpsc::UnboundedSender<Message>,
        inbox: mpsc::UnboundedReceiver<Message>,
    ) -> Self {
        let volumes = PodVolumes::new(&host.pods_dir, &uid);
        let reporter = Reporter::start(host.client.clone(), intent.clone());
        Self {
            probes: Probes::new(messages.clone()),
            uid,
            host,
            table,
            intent,
            messages,
            inbox,
            memory: Memory { seen_at: Some(SystemClock.now()), ..Memory::default() },
            volumes,
            tokens: Tokens::default(),
            mount_failures: 0,
            refreshed: Timestamp::UNIX_EPOCH,
            limits: HashMap::new(),
            reporter,
            last: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let intent = self.intent.borrow_and_update().clone();
            self.memory.removed = intent.removed;
            let observed = match self.host.cri.observe(&self.uid).await {
                Ok(observed) => observed,
                Err(error) => {
                    tracing::debug!(error = error.message(), "the runtime does not answer");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            let now = SystemClock.now();
            let basis = self.basis(&intent.pod);
            self.table.set(
                &self.uid,
                PodEntry { pod: Arc::clone(&intent.pod), observed: observed.clone(), messages: self.messages.clone() },
            );
            self.follow_probes(&basis, &observed);
            let plan = pod_plan(&basis, &observed, &self.memory, now);
            if let Some(ending) = plan.ending.clone() {
                self.host.events.pod(&basis, None, false, "DeadlineExceeded", ending.message.clone());
                self.memory.ending = Some(ending);
            }
            self.report(&basis, &observed, plan.outcome, now, false);
            match plan.outcome {
                Outcome::Running => {}
                Outcome::Stopping => self.probes.stop_all_but_running(&observed),
                Outcome::Stopped => {
                    if self.stopped(&intent, &basis, &observed, now).await {
                        return;
                    }
                }
            }
            let progress = self.apply(&basis, &observed, plan.steps).await;
            if progress {
                continue;
            }
            if plan.outcome == Outcome::Running {
                self.refresh_volumes(&basis, &observed, now).await;
                self.resize(&basis, &observed).await;
            }
            self.wait(plan.recheck_at, &observed, now).await;
        }
    }

    /// The pod, with the newest status: our own last one where the API server's copy is older, foreign conditions always
    /// from the API server.
    fn basis(&mut self, pod: &Arc<Pod>) -> Pod {
        let mut basis = Pod::clone(pod);
        if self.reporter.is_current(pod) {
            self.last = None;
        }
        if let Some(last) = &self.last {
            let mut status = last.clone();
            let foreign = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
            let own = status.conditions.get_or_insert_default();
            for condition in foreign {
                match own.iter_mut().find(|c| c.type_ == condition.type_) {
                    None => own.push(condition.clone()),
                    Some(known) if !super::report::is_own(&condition.type_) => *known = condition.clone(),
                    Some(_) => {}
                }
            }
            basis.status = Some(status);
        }
        basis
    }

    fn report(&mut self, basis: &Pod, observed: &ObservedPod, outcome: Outcome, now: Timestamp, delete: bool) {
        if self.memory.removed {
            return;
        }
        let status = pod_status(basis, observed, &self.memory, outcome, &self.host.facts(), now);
        self.tell_backoff(basis, &status);
        if basis.status.as_ref() == Some(&status) && !delete {
            return;
        }
        self.last = Some(status.clone());
        self.reporter.report(status, delete);
    }

    /// `BackOff` events when a container begins to wait.
    fn tell_backoff(&self, basis: &Pod, status: &PodStatus) {
        let reason = |s: &PodStatus, name: &str| {
            let lists = [&s.init_container_statuses, &s.container_statuses];
            let mut all = lists.into_iter().flatten().flatten();
            let found = all.find(|c| c.name == name)?;
            found.state.as_ref()?.waiting.as_ref()?.reason.clone()
        };
        let lists = [&status.init_container_statuses, &status.container_statuses];
        for c in lists.into_iter().flatten().flatten() {
            let now = reason(status, &c.name);
            if basis.status.as_ref().and_then(|s| reason(s, &c.name)) == now {
                continue;
            }
            let meta = &basis.metadata;
            match now.as_deref() {
                Some("CrashLoopBackOff") => {
                    let message = format!(
                        "Back-off restarting failed container {} in pod {}_{}({})",
                        c.name,
                        meta.name.as_deref().unwrap_or_default(),
                        meta.namespace.as_deref().unwrap_or_default(),
                        self.uid
                    );
                    self.host.events.pod(basis, Some(&c.name), true, "BackOff", message);
                }
                Some("ImagePullBackOff") => {
                    let message = format!("Back-off pulling image \"{}\"", c.image);
                    self.host.events.pod(basis, Some(&c.name), false, "BackOff", message);
                    self.host.events.pod(basis, Some(&c.name), true, "Failed", "Error: ImagePullBackOff".into());
                }
                _ => {}
            }
        }
    }

    /// Starts probes of running containers, forgets those of others, and says what is known without a probe.
    fn follow_probes(&mut self, pod: &Pod, observed: &ObservedPod) {
        let Some(spec) = &pod.spec else { return };
        self.memory.probes.retain(|id, _| observed.containers.iter().any(|c| c.id == *id && c.is_alive()));
        self.memory.killing.retain(|id, _| observed.containers.iter().any(|c| c.id == *id && c.is_alive()));
        for c in observed.containers.iter().filter(|c| c.state == ContainerState::Running) {
            if self.memory.probes.contains_key(&c.id) || self.memory.in_post_start.contains(&c.id) {
                continue;
            }
            if container_kind(spec, &c.name) == Some(Kind::Ephemeral) {
                continue;
            }
            let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
            let Some(container) = all.find(|s| s.name == c.name) else { continue };
            // A restarted agent goes on with what was reported of this very instance.
            let own_id = format!("containerd://{}", c.id);
            let lists = pod.status.iter().flat_map(|s| [&s.init_container_statuses, &s.container_statuses]);
            let reported = lists.flatten().flatten().find(|r| r.container_id.as_deref() == Some(&own_id));
            let verdict = ProbeVerdict {
                started: container.startup_probe.is_none() || reported.is_some_and(|r| r.started == Some(true)),
                ready: container.readiness_probe.is_none() || reported.is_some_and(|r| r.ready),
                failed: None,
            };
            self.probes.start(&self.host, pod, container, c, observed, verdict.started);
            self.memory.probes.insert(c.id.clone(), verdict);
        }
        self.probes.stop_all_but_running(observed);
    }

    async fn wait(&mut self, recheck_at: Option<Timestamp>, observed: &ObservedPod, now: Timestamp) {
        let until = recheck_at.map_or(IDLE, |at| {
            Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO).max(Duration::from_millis(10))
        });
        // ErrImagePull turns into ImagePullBackOff by time alone.
        let until = if self.memory.failures.is_empty() { until } else { until.min(Duration::from_secs(3)) };
        tokio::select! {
            // The manager is gone: so is the process, soon.
            changed = self.intent.changed() => if changed.is_err() { std::future::pending::<()>().await },
            Some(message) = self.inbox.recv() => {
                self.take(message, observed);
                while let Ok(message) = self.inbox.try_recv() {
                    self.take(message, observed);
                }
            }
            () = tokio::time::sleep(until.min(IDLE)) => {}
        }
    }

    fn take(&mut self, message: Message, observed: &ObservedPod) {
        match message {
            Message::Look => {}
            Message::Killed(id) => {
                self.memory.killing.remove(&id);
            }
            Message::Probed { container_id, kind, verdict, message } => {
                self.probed(&container_id, kind, verdict, message, observed);
            }
            Message::PostStarted { container_id, error } => {
                self.memory.in_post_start.remove(&container_id);
                if let Some(error) = error {
                    let failed = ProbeVerdict { failed: Some(error), ..ProbeVerdict::default() };
                    self.memory.probes.insert(container_id, failed);
                }
            }
            Message::End(ending) => {
                self.memory.ending.get_or_insert(ending);
            }
        }
    }

    fn probed(&mut self, id: &str, kind: ProbeKind, verdict: Verdict, message: String, observed: &ObservedPod) {
        let Some(known) = self.memory.probes.get_mut(id) else { return };
        let name = observed.containers.iter().find(|c| c.id == id).map(|c| c.name.clone()).unwrap_or_default();
        let text = || format!("Container {name} failed {} probe, will be restarted", kind.as_str().to_lowercase());
        match (kind, verdict) {
            (_, Verdict::Undecided) => {}
            (ProbeKind::Startup, Verdict::Success) => known.started = true,
            (ProbeKind::Readiness, Verdict::Success) => known.ready = true,
            (ProbeKind::Readiness, Verdict::Failure) => known.ready = false,
            (ProbeKind::Liveness, Verdict::Success) => {}
            (ProbeKind::Startup | ProbeKind::Liveness, Verdict::Failure) => known.failed = Some(text()),
        }
        tracing::debug!(container = name, probe = kind.as_str(), message, "probe");
    }

    /// Nothing runs any more: volumes go, the last status is told, and what the API server deleted or forgot goes for good.
    /// Whether the worker is done.
    async fn stopped(&mut self, intent: &Intent, basis: &Pod, observed: &ObservedPod, now: Timestamp) -> bool {
        self.probes.stop_all();
        let volumes = self.volumes.clone();
        let removed = tokio::task::spawn_blocking(move || volumes.remove()).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, "a pod's volumes cannot be removed");
            tokio::time::sleep(RETRY).await;
            return false;
        }
        self.host.cgroups.pod_remove(&self.uid);
        if !intent.removed && intent.pod.metadata.deletion_timestamp.is_none() {
            return false;
        }
        if !intent.removed {
            self.report(basis, observed, Outcome::Stopped, now, true);
            if !self.reporter.deleted().await {
                return false;
            }
        }
        for sandbox in &observed.sandboxes {
            if let Err(error) = self.host.cri.remove_sandbox(&sandbox.id).await {
                tracing::warn!(error = error.message(), "a sandbox cannot be removed");
                tokio::time::sleep(RETRY).await;
                return false;
            }
        }
        for container in &observed.containers {
            let _ = self.host.cri.remove_container(&container.id).await;
        }
        let logs = self.host.logs_dir.join(galley_node_cri::log_directory(&intent.pod));
        let _ = tokio::fs::remove_dir_all(logs).await;
        self.table.remove(&self.uid);
        true
    }
}
