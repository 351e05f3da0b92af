//! Telling the API server a pod's status, without holding up the pod: the newest status is written, older ones are passed over,
//! and what could not be written is tried again.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use tokio::sync::watch;

use super::worker::Intent;
use crate::api::{is_conflict, is_not_found, is_refused};

const RETRY: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Default)]
struct Report {
    status: PodStatus,
    /// After the status is written, delete the pod.
    delete: bool,
    /// Counts reports.
    number: u64,
}

/// What the API server has confirmed.
#[derive(Debug, Clone, Copy, Default)]
struct Confirmed {
    number: u64,
    revision: u64,
}

#[derive(Debug)]
pub(super) struct Reporter {
    reports: watch::Sender<Report>,
    deleted: watch::Receiver<bool>,
    confirmed: watch::Receiver<Confirmed>,
    sent: u64,
}

/// Conditions that the node writes.
pub(crate) fn is_own(condition: &str) -> bool {
    matches!(condition, "PodReadyToStartContainers" | "Initialized" | "Ready" | "ContainersReady")
}

impl Reporter {
    pub(super) fn start(client: kube::Client, intent: watch::Receiver<Intent>) -> Self {
        let (reports, inbox) = watch::channel(Report::default());
        let (done, deleted) = watch::channel(false);
        let (confirm, confirmed) = watch::channel(Confirmed::default());
        tokio::spawn(write(client, intent, inbox, done, confirm));
        Self { reports, deleted, confirmed, sent: 0 }
    }

    pub(super) fn report(&mut self, status: PodStatus, delete: bool) {
        self.sent += 1;
        self.reports.send_replace(Report { status, delete, number: self.sent });
    }

    /// Whether this copy of the pod is as new as our last report: then what it says counts, also where somebody else (the node
    /// lifecycle controller) has changed a condition of ours.
    pub(super) fn is_current(&self, pod: &Pod) -> bool {
        let confirmed = *self.confirmed.borrow();
        confirmed.number == self.sent && revision(pod) >= confirmed.revision
    }

    /// Waits for the deletion; false if there is no hope for it.
    pub(super) async fn deleted(&mut self) -> bool {
        self.deleted.wait_for(|d| *d).await.is_ok()
    }
}

/// Galley's resource versions are numbers that grow.
fn revision(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

async fn write(
    client: kube::Client,
    intent: watch::Receiver<Intent>,
    mut inbox: watch::Receiver<Report>,
    done: watch::Sender<bool>,
    confirm: watch::Sender<Confirmed>,
) {
    let meta = intent.borrow().pod.metadata.clone();
    let (name, namespace) = (meta.name.unwrap_or_default(), meta.namespace.unwrap_or_default());
    let uid = meta.uid.unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(client, &namespace);
    let mut known: Option<Pod> = None;
    while inbox.changed().await.is_ok() {
        loop {
            let report = inbox.borrow_and_update().clone();
            let watched = Pod::clone(&intent.borrow().pod);
            let newest = known.take().filter(|k| revision(k) > revision(&watched)).unwrap_or(watched);
            match put(&api, &name, newest, &report.status).await {
                Ok(pod) => {
                    confirm.send_replace(Confirmed { number: report.number, revision: revision(&pod) });
                    known = Some(pod);
                }
                Err(error) if is_not_found(&error) => {
                    done.send_replace(true);
                    break;
                }
                Err(error) if is_conflict(&error) => {
                    match api.get(&name).await {
                        Ok(pod) if pod.metadata.uid.as_deref() == Some(&uid) => known = Some(pod),
                        // Another pod has the name now.
                        Ok(_) => {
                            done.send_replace(true);
                            break;
                        }
                        Err(error) if is_not_found(&error) => {
                            done.send_replace(true);
                            break;
                        }
                        Err(_) => tokio::time::sleep(RETRY).await,
                    }
                    continue;
                }
                // The next status may be taken; a pod that has ended must go in any case.
                Err(error) if is_refused(&error) => {
                    tracing::error!(pod = name, %namespace, %error, "a pod's status is refused");
                }
                Err(error) => {
                    tracing::warn!(pod = name, %namespace, %error, "a pod's status is not written");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
            if report.delete {
                let preconditions = Preconditions { uid: Some(uid.clone()), resource_version: None };
                let params = DeleteParams {
                    grace_period_seconds: Some(0),
                    preconditions: Some(preconditions),
                    ..DeleteParams::default()
                };
                match api.delete(&name, &params).await {
                    Ok(_) => {}
                    Err(error) if is_not_found(&error) || is_conflict(&error) => {}
                    Err(error) => {
                        tracing::warn!(pod = name, %namespace, %error, "a pod that has ended is not deleted");
                        tokio::time::sleep(RETRY).await;
                        continue;
                    }
                }
                done.send_replace(true);
            }
            break;
        }
    }
}

/// Puts the status over the newest pod, foreign conditions kept.
async fn put(api: &Api<Pod>, name: &str, mut pod: Pod, status: &PodStatus) -> Result<Pod, kube::Error> {
    let mut next = status.clone();
    let own = next.conditions.get_or_insert_default();
    for condition in pod.status.iter().flat_map(|s| s.conditions.iter().flatten()) {
        if is_own(&condition.type_) {
            continue;
        }
        match own.iter_mut().find(|c| c.type_ == condition.type_) {
            Some(ours) => *ours = condition.clone(),
            None => own.push(condition.clone()),
        }
    }
    pod.status = Some(next);
    api.replace_status(name, &PostParams::default(), &pod).await
}
