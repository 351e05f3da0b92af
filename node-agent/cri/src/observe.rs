//! Reading back what is there: an inventory of everything (cheap, every second), and one pod in full.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use galley_node_plan::{Container, ContainerState, ObservedPod, Sandbox};
use jiff::Timestamp;
use k8s_cri::v1 as cri;

use crate::client::Cri;
use crate::error::CriError;
use crate::labels;
use crate::termination;

const QUICK: Duration = Duration::from_secs(20);

/// A pod as the runtime's labels name it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodIdentity {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// What the inventory says of one pod: enough to see that something changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    pub identity: PodIdentity,
    /// Id -> CRI state number, of sandboxes and containers.
    pub states: BTreeMap<String, i32>,
}

/// Everything of this node in the runtime, by pod uid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory(pub BTreeMap<String, Seen>);

impl Inventory {
    /// Uids of pods that differ between two inventories.
    pub fn changed<'a>(&'a self, before: &'a Self) -> Vec<&'a str> {
        let gone = before.0.keys().filter(|uid| !self.0.contains_key(*uid));
        let new = self.0.iter().filter(|(uid, seen)| before.0.get(*uid) != Some(seen)).map(|(uid, _)| uid);
        new.chain(gone).map(String::as_str).collect()
    }
}

fn identity(labels: &HashMap<String, String>) -> PodIdentity {
    let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
    PodIdentity { namespace: label(labels::POD_NAMESPACE), name: label(labels::POD_NAME), uid: label(labels::POD_UID) }
}

/// CRI times are nanoseconds since the epoch; 0 is 'not yet'.
fn time(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds > 0).then(|| Timestamp::from_nanosecond(nanoseconds.into()).ok()).flatten()
}

impl Cri {
    /// Lists everything of this node.
    pub async fn inventory(&self) -> Result<Inventory, CriError> {
        let (sandboxes, containers) = self.list(self.own()).await?;
        let mut all: BTreeMap<String, Seen> = BTreeMap::new();
        let mut add = |labels: &HashMap<String, String>, id: String, state: i32| {
            let identity = identity(labels);
            let seen = all.entry(identity.uid.clone()).or_default();
            seen.identity = identity;
            seen.states.insert(id, state);
        };
        for s in sandboxes {
            add(&s.labels, s.id, s.state);
        }
        for c in containers {
            add(&c.labels, c.id, c.state);
        }
        Ok(Inventory(all))
    }

    async fn list(
        &self,
        selector: HashMap<String, String>,
    ) -> Result<(Vec<cri::PodSandbox>, Vec<cri::Container>), CriError> {
        let failed = |call: &'static str| {
            move |source| CriError::Call { call, subject: String::new(), source: Box::new(source) }
        };
        let filter = cri::PodSandboxFilter { label_selector: selector.clone(), ..Default::default() };
        let mut request = tonic::Request::new(cri::ListPodSandboxRequest { filter: Some(filter) });
        request.set_timeout(QUICK);
        let sandboxes = self.runtime().list_pod_sandbox(request).await.map_err(failed("ListPodSandbox"))?;
        let filter = cri::ContainerFilter { label_selector: selector, ..Default::default() };
        let mut request = tonic::Request::new(cri::ListContainersRequest { filter: Some(filter) });
        request.set_timeout(QUICK);
        let containers = self.runtime().list_containers(request).await.map_err(failed("ListContainers"))?;
        Ok((sandboxes.into_inner().items, containers.into_inner().containers))
    }

    /// Everything about one pod, termination messages read.
    pub async fn observe(&self, uid: &str) -> Result<ObservedPod, CriError> {
        let mut selector = self.own();
        selector.insert(labels::POD_UID.into(), uid.into());
        let (sandboxes, containers) = self.list(selector).await?;
        let mut observed = ObservedPod::default();
        for listed in sandboxes {
            observed.sandboxes.extend(self.sandbox(listed).await?);
        }
        observed.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.attempt, s.created_at)));
        for listed in containers {
            observed.containers.extend(self.container(&listed.id, &listed.pod_sandbox_id).await?);
        }
        Ok(observed)
    }

    async fn sandbox(&self, listed: cri::PodSandbox) -> Result<Option<Sandbox>, CriError> {
        let mut request =
            tonic::Request::new(cri::PodSandboxStatusRequest { pod_sandbox_id: listed.id.clone(), verbose: false });
        request.set_timeout(QUICK);
        let status = match self.runtime().pod_sandbox_status(request).await {
            Ok(answer) => answer.into_inner().status,
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(None),
            Err(source) => {
                let source = Box::new(source);
                return Err(CriError::Call { call: "PodSandboxStatus", subject: listed.id, source });
            }
        };
        let network = status.and_then(|s| s.network).unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|ip| ip.ip);
        Ok(Some(Sandbox {
            attempt: listed.metadata.map_or(0, |m| m.attempt),
            ready: listed.state == cri::PodSandboxState::SandboxReady as i32,
            created_at: time(listed.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
            ips: std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect(),
            id: listed.id,
        }))
    }

    /// The process that holds the sandbox's namespaces; `None` if the runtime does not say.
    pub async fn sandbox_pid(&self, id: &str) -> Result<Option<u32>, CriError> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true };
        let mut request = tonic::Request::new(request);
        request.set_timeout(QUICK);
        let answer = self.runtime().pod_sandbox_status(request).await.map_err(|source| {
            let source = Box::new(source);
            CriError::Call { call: "PodSandboxStatus", subject: id.into(), source }
        })?;
        let info = answer.into_inner().info.remove("info").unwrap_or_default();
        let info: serde_json::Value = serde_json::from_str(&info).unwrap_or_default();
        Ok(info["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0))
    }

    /// One container in full; `None` if it is gone.
    pub async fn container(&self, id: &str, sandbox_id: &str) -> Result<Option<Container>, CriError> {
        let mut request = tonic::Request::new(cri::ContainerStatusRequest { container_id: id.into(), verbose: false });
        request.set_timeout(QUICK);
        let status = match self.runtime().container_status(request).await {
            Ok(answer) => answer.into_inner().status,
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(None),
            Err(source) => {
                let source = Box::new(source);
                return Err(CriError::Call { call: "ContainerStatus", subject: id.into(), source });
            }
        };
        let Some(status) = status else {
            return Err(CriError::Incomplete { call: "ContainerStatus", subject: id.into() });
        };
        Ok(Some(container(status, sandbox_id)))
    }
}

fn container(status: cri::ContainerStatus, sandbox_id: &str) -> Container {
    let state = match cri::ContainerState::try_from(status.state) {
        Ok(cri::ContainerState::ContainerCreated) => ContainerState::Created,
        Ok(cri::ContainerState::ContainerRunning) => ContainerState::Running,
        Ok(cri::ContainerState::ContainerExited) => ContainerState::Exited,
        Ok(cri::ContainerState::ContainerUnknown) | Err(_) => ContainerState::Unknown,
    };
    let number = |name: &str| status.annotations.get(name).cloned().unwrap_or_default();
    let message = match state {
        ContainerState::Exited => termination::message(&status),
        ContainerState::Created | ContainerState::Running | ContainerState::Unknown => String::new(),
    };
    let metadata = status.metadata.unwrap_or_default();
    Container {
        id: status.id,
        sandbox_id: sandbox_id.into(),
        name: metadata.name,
        attempt: metadata.attempt,
        state,
        image: status.image.map(|i| i.image).unwrap_or_default(),
        image_id: status.image_ref,
        created_at: time(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        // containerd notes the start when its call returns: a process that was quicker has ended 'before' it.
        started_at: time(status.started_at).map(|at| time(status.finished_at).map_or(at, |end| end.min(at))),
        finished_at: time(status.finished_at),
        exit_code: status.exit_code,
        reason: status.reason,
        message,
        spec_hash: u64::from_str_radix(&number(labels::SPEC_HASH), 16).unwrap_or(0),
        restart_delay: number(labels::RESTART_DELAY).parse().unwrap_or(0),
        log_path: status.log_path,
    }
}
