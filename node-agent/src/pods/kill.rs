//! Stopping a container: its preStop hook, then its stop signal, then SIGKILL when the grace period is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use galley_node_plan::{KillWhy, ObservedPod, all_containers};
use k8s_openapi::api::core::v1::Pod;

use super::hooks;
use super::worker::{Message, RETRY, Worker};

/// A stop to carry out.
pub(super) struct Kill {
    pub(super) id: String,
    pub(super) name: String,
    /// Seconds.
    pub(super) grace: i64,
    pub(super) why: KillWhy,
    /// Another stop of it is under way, with more patience.
    pub(super) again: bool,
}

/// Carries it out beside the worker, and tells it when it is done.
pub(super) fn start(worker: &Worker, pod: &Pod, observed: &ObservedPod, kill: Kill) {
    let host = Arc::clone(&worker.host);
    let messages = worker.messages.clone();
    let spec = pod.spec.clone().unwrap_or_default();
    let container = all_containers(&spec).into_iter().find(|c| c.spec.name == kill.name).map(|c| c.spec);
    let hook = container.as_ref().and_then(|c| c.lifecycle.as_ref()).and_then(|l| l.pre_stop.clone());
    let target = container.as_ref().map(|c| hooks::Target::new(pod, c, observed, &kill.id));
    let running =
        observed.containers.iter().any(|c| c.id == kill.id && c.state == galley_node_plan::ContainerState::Running);
    let pod = pod.clone();
    tokio::spawn(async move {
        let message = match &kill.why {
            KillWhy::PodEnds => format!("Stopping container {}", kill.name),
            KillWhy::Probe(message) => message.clone(),
            KillWhy::SpecChanged => format!("Container {} definition changed, will be restarted", kill.name),
            KillWhy::SandboxGone => format!("Stopping container {}", kill.name),
        };
        if !kill.again {
            host.events.pod(&pod, Some(&kill.name), false, "Killing", message);
        }
        let begun = Instant::now();
        let grace = Duration::from_secs(u64::try_from(kill.grace).unwrap_or(0));
        if let (Some(hook), Some(target)) = (hook, target)
            && running
            && !kill.again
            && !grace.is_zero()
        {
            match tokio::time::timeout(grace, hooks::run(&host, &target, &hook)).await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => {
                    host.events.pod(
                        &pod,
                        Some(&kill.name),
                        true,
                        "FailedPreStopHook",
                        format!("PreStopHook failed: {why}"),
                    );
                }
                Err(_) => tracing::info!(container = kill.name, "preStop used up the grace period"),
            }
        }
        // Whatever the hook took, the process gets two seconds to hear of its end.
        let left = grace.saturating_sub(begun.elapsed()).as_secs().max(if grace.is_zero() { 0 } else { 2 });
        let stopped = host.cri.stop_container(&kill.id, i64::try_from(left).unwrap_or(0)).await;
        if let Err(error) = stopped
            && !error.is_not_found()
        {
            tracing::warn!(container = kill.name, error = error.message(), "a container cannot be stopped");
            tokio::time::sleep(RETRY).await;
        }
        let _ = messages.send(Message::Killed(kill.id));
    });
}
