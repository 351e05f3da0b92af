//! The calls. Each has a time limit of its own, since a runtime that hangs must not hang the agent.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use galley_node_plan::image::Credential;
use galley_node_plan::qos::CgroupLimits;
use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{self as cri, ContainerConfig, PodSandboxConfig};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::container::resources;
use crate::error::CriError;

/// Lists, statuses: answered from the runtime's memory.
const QUICK: Duration = Duration::from_secs(20);
/// Sandboxes (CNI plugins run) and containers (snapshots are prepared).
const SLOW: Duration = Duration::from_secs(240);
/// Beyond the grace period that a stop was given.
const STOP_MARGIN: Duration = Duration::from_secs(30);
/// Containers with much output in their messages: the default of 4 MiB is too small for long lists.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// The runtime.
#[derive(Debug, Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    node: String,
}

/// Credentials for one pull.
#[derive(Debug, Clone, Default)]
pub struct Auth(pub Option<Credential>);

/// Who the runtime is and whether it can start pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// `containerd://1.6.20`.
    pub version: String,
    /// Why it is not ready.
    pub runtime_error: Option<String>,
    /// Why there is no network for pods.
    pub network_error: Option<String>,
}

/// An image on the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageInfo {
    pub id: String,
    /// Tags and digests.
    pub names: Vec<String>,
    pub bytes: u64,
    /// Of the image's `USER`.
    pub uid: Option<i64>,
    pub username: String,
    /// Never removed (the sandbox image).
    pub pinned: bool,
}

/// What a command run in a container answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecResult {
    pub exit_code: i32,
    /// stdout, then stderr.
    pub output: Vec<u8>,
}

/// One container's use of CPU and memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UsageSample {
    pub pod_uid: String,
    pub pod_name: String,
    pub pod_namespace: String,
    pub container: String,
    /// Nanoseconds since the epoch.
    pub at: i64,
    pub cpu_nanoseconds: u64,
    pub working_set_bytes: u64,
    pub writable_layer_bytes: u64,
}

fn call_error(call: &'static str, subject: &str) -> impl FnOnce(tonic::Status) -> CriError {
    move |source| CriError::Call { call, subject: subject.to_owned(), source: Box::new(source) }
}

fn timed<T>(message: T, limit: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(limit);
    request
}

impl Cri {
    /// A client for the runtime at a socket. The connection is made on first use and remade when it is lost.
    pub fn new(socket: &Path, node: &str) -> Self {
        let path: PathBuf = socket.to_owned();
        let channel = Endpoint::from_static("http://cri.invalid").connect_with_connector_lazy(tower::service_fn(
            move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            },
        ));
        let runtime = RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let images = ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        Self { runtime, images, node: node.to_owned() }
    }

    /// The node whose sandboxes and containers this client sees.
    pub fn node(&self) -> &str {
        &self.node
    }

    pub(crate) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    /// Version and readiness.
    pub async fn info(&self) -> Result<RuntimeInfo, CriError> {
        let mut runtime = self.runtime();
        let version = runtime
            .version(timed(cri::VersionRequest { version: "v1".into() }, QUICK))
            .await
            .map_err(call_error("Version", ""))?
            .into_inner();
        let status = runtime
            .status(timed(cri::StatusRequest { verbose: false }, QUICK))
            .await
            .map_err(call_error("Status", ""))?
            .into_inner();
        let conditions = status.status.map(|s| s.conditions).unwrap_or_default();
        let error = |type_: &str, what: &str| {
            let condition = conditions.iter().find(|c| c.r#type == type_);
            match condition {
                Some(c) if c.status => None,
                Some(c) => Some(format!("{what}: {}: {}", c.reason, c.message)),
                None => Some(format!("{what}: the runtime does not say")),
            }
        };
        Ok(RuntimeInfo {
            version: format!("{}://{}", version.runtime_name, version.runtime_version),
            runtime_error: error("RuntimeReady", "container runtime not ready"),
            network_error: error("NetworkReady", "container runtime network not ready: NetworkReady=false"),
        })
    }

    /// Makes and starts a sandbox; its id.
    pub async fn run_sandbox(&self, config: PodSandboxConfig) -> Result<String, CriError> {
        let subject = config.metadata.as_ref().map(|m| format!("{}/{}", m.namespace, m.name)).unwrap_or_default();
        let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        let answer = self.runtime().run_pod_sandbox(timed(request, SLOW)).await;
        Ok(answer.map_err(call_error("RunPodSandbox", &subject))?.into_inner().pod_sandbox_id)
    }

    /// Stops a sandbox: its containers are killed, its network goes. Repeating it is harmless.
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.into() };
        let answer = self.runtime().stop_pod_sandbox(timed(request, SLOW)).await;
        answer.map(|_| ()).map_err(call_error("StopPodSandbox", id))
    }

    /// Removes a stopped sandbox with its containers.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        let answer = self.runtime().remove_pod_sandbox(timed(request, SLOW)).await;
        answer.map(|_| ()).map_err(call_error("RemovePodSandbox", id))
    }

    /// Makes a container; its id.
    pub async fn create_container(
        &self,
        sandbox_id: &str,
        config: ContainerConfig,
        sandbox: PodSandboxConfig,
    ) -> Result<String, CriError> {
        let subject = config.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.into(),
            config: Some(config),
            sandbox_config: Some(sandbox),
        };
        let answer = self.runtime().create_container(timed(request, SLOW)).await;
        Ok(answer.map_err(call_error("CreateContainer", &subject))?.into_inner().container_id)
    }

    /// Starts a created container.
    pub async fn start_container(&self, id: &str) -> Result<(), CriError> {
        let request = cri::StartContainerRequest { container_id: id.into() };
        let answer = self.runtime().start_container(timed(request, SLOW)).await;
        answer.map(|_| ()).map_err(call_error("StartContainer", id))
    }

    /// Stops a container: its stop signal, and after `grace` seconds SIGKILL. Returns when it has ended.
    pub async fn stop_container(&self, id: &str, grace: i64) -> Result<(), CriError> {
        let request = cri::StopContainerRequest { container_id: id.into(), timeout: grace };
        let limit = Duration::from_secs(u64::try_from(grace).unwrap_or(0)) + STOP_MARGIN;
        let answer = self.runtime().stop_container(timed(request, limit)).await;
        answer.map(|_| ()).map_err(call_error("StopContainer", id))
    }

    /// Removes a container; kills it if it still runs.
    pub async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        let request = cri::RemoveContainerRequest { container_id: id.into() };
        let answer = self.runtime().remove_container(timed(request, SLOW)).await;
        answer.map(|_| ()).map_err(call_error("RemoveContainer", id))
    }

    /// Lets the runtime open a container's log file again after it was renamed.
    pub async fn reopen_log(&self, id: &str) -> Result<(), CriError> {
        let request = cri::ReopenContainerLogRequest { container_id: id.into() };
        let answer = self.runtime().reopen_container_log(timed(request, QUICK)).await;
        answer.map(|_| ()).map_err(call_error("ReopenContainerLog", id))
    }

    /// Changes the cgroup numbers of a running container.
    pub async fn resize(&self, id: &str, limits: &CgroupLimits) -> Result<(), CriError> {
        let request = cri::UpdateContainerResourcesRequest {
            container_id: id.into(),
            linux: Some(resources(limits)),
            windows: None,
            annotations: HashMap::new(),
        };
        let answer = self.runtime().update_container_resources(timed(request, QUICK)).await;
        answer.map(|_| ()).map_err(call_error("UpdateContainerResources", id))
    }

    /// Runs a command in a container and waits for it, at most `limit`.
    pub async fn exec_sync(&self, id: &str, command: &[String], limit: Duration) -> Result<ExecResult, CriError> {
        let request = cri::ExecSyncRequest {
            container_id: id.into(),
            cmd: command.to_vec(),
            timeout: i64::try_from(limit.as_secs().max(1)).unwrap_or(i64::MAX),
        };
        let answer = self.runtime().exec_sync(timed(request, limit + Duration::from_secs(5))).await;
        let answer = answer.map_err(call_error("ExecSync", id))?.into_inner();
        let mut output = answer.stdout;
        output.extend(answer.stderr);
        Ok(ExecResult { exit_code: answer.exit_code, output })
    }

    /// A URL of the runtime's streaming server that stands for the command.
    pub async fn exec_url(&self, request: cri::ExecRequest) -> Result<String, CriError> {
        let id = request.container_id.clone();
        let answer = self.runtime().exec(timed(request, QUICK)).await;
        Ok(answer.map_err(call_error("Exec", &id))?.into_inner().url)
    }

    /// A URL that stands for the container's own process.
    pub async fn attach_url(&self, request: cri::AttachRequest) -> Result<String, CriError> {
        let id = request.container_id.clone();
        let answer = self.runtime().attach(timed(request, QUICK)).await;
        Ok(answer.map_err(call_error("Attach", &id))?.into_inner().url)
    }

    /// A URL that stands for ports in the sandbox.
    pub async fn port_forward_url(&self, sandbox_id: &str) -> Result<String, CriError> {
        let request = cri::PortForwardRequest { pod_sandbox_id: sandbox_id.into(), port: Vec::new() };
        let answer = self.runtime().port_forward(timed(request, QUICK)).await;
        Ok(answer.map_err(call_error("PortForward", sandbox_id))?.into_inner().url)
    }

    /// The image under a name; `None` if it is not on the node.
    pub async fn image(&self, image: &str) -> Result<Option<ImageInfo>, CriError> {
        let spec = cri::ImageSpec { image: image.into(), ..Default::default() };
        let request = cri::ImageStatusRequest { image: Some(spec), verbose: false };
        let answer = self.images.clone().image_status(timed(request, QUICK)).await;
        Ok(answer.map_err(call_error("ImageStatus", image))?.into_inner().image.map(image_info))
    }

    /// Every image on the node.
    pub async fn image_list(&self) -> Result<Vec<ImageInfo>, CriError> {
        let request = cri::ListImagesRequest { filter: None };
        let answer = self.images.clone().list_images(timed(request, QUICK)).await;
        Ok(answer.map_err(call_error("ListImages", ""))?.into_inner().images.into_iter().map(image_info).collect())
    }

    /// Names and ids of the images of every container in the runtime, whoever's it is.
    pub async fn images_in_use(&self) -> Result<HashSet<String>, CriError> {
        let request = cri::ListContainersRequest { filter: None };
        let answer = self.runtime().list_containers(timed(request, QUICK)).await;
        let containers = answer.map_err(call_error("ListContainers", ""))?.into_inner().containers;
        let names = containers.into_iter().flat_map(|c| [c.image.map(|i| i.image).unwrap_or_default(), c.image_ref]);
        Ok(names.collect())
    }

    /// Pulls an image; its id. Takes as long as it takes: dropping the future ends it.
    pub async fn pull_image(&self, image: &str, auth: &Auth, sandbox: PodSandboxConfig) -> Result<String, CriError> {
        let auth = auth.0.clone().map(|c| cri::AuthConfig {
            username: c.username,
            password: c.password,
            auth: c.auth,
            server_address: String::new(),
            identity_token: c.identity_token,
            registry_token: c.registry_token,
        });
        let spec = cri::ImageSpec { image: image.into(), ..Default::default() };
        let request = cri::PullImageRequest { image: Some(spec), auth, sandbox_config: Some(sandbox) };
        let answer = self.images.clone().pull_image(request).await;
        Ok(answer.map_err(call_error("PullImage", image))?.into_inner().image_ref)
    }

    /// Removes an image by id.
    pub async fn remove_image(&self, id: &str) -> Result<(), CriError> {
        let spec = cri::ImageSpec { image: id.into(), ..Default::default() };
        let request = cri::RemoveImageRequest { image: Some(spec) };
        let answer = self.images.clone().remove_image(timed(request, SLOW)).await;
        answer.map(|_| ()).map_err(call_error("RemoveImage", id))
    }

    /// Where the runtime keeps images, if it says.
    pub async fn image_filesystem(&self) -> Result<Option<PathBuf>, CriError> {
        let answer = self.images.clone().image_fs_info(timed(cri::ImageFsInfoRequest {}, QUICK)).await;
        let answer = answer.map_err(call_error("ImageFsInfo", ""))?.into_inner();
        Ok(answer.image_filesystems.into_iter().find_map(|f| f.fs_id).map(|id| id.mountpoint.into()))
    }

    /// Use of CPU and memory of this node's containers.
    pub async fn usage(&self) -> Result<Vec<UsageSample>, CriError> {
        let filter = cri::ContainerStatsFilter { label_selector: self.own(), ..Default::default() };
        let request = cri::ListContainerStatsRequest { filter: Some(filter) };
        let answer = self.runtime().list_container_stats(timed(request, QUICK)).await;
        let stats = answer.map_err(call_error("ListContainerStats", ""))?.into_inner().stats;
        Ok(stats.into_iter().filter_map(usage_sample).collect())
    }

    /// The selector of what is this node's.
    pub(crate) fn own(&self) -> HashMap<String, String> {
        HashMap::from([(crate::labels::NODE.to_owned(), self.node.clone())])
    }
}

fn image_info(image: cri::Image) -> ImageInfo {
    ImageInfo {
        id: image.id,
        names: image.repo_tags.into_iter().chain(image.repo_digests).collect(),
        bytes: image.size,
        uid: image.uid.map(|u| u.value),
        username: image.username,
        pinned: image.pinned,
    }
}

fn usage_sample(stats: cri::ContainerStats) -> Option<UsageSample> {
    let attributes = stats.attributes?;
    let label = |name: &str| attributes.labels.get(name).cloned().unwrap_or_default();
    let value = |v: Option<cri::UInt64Value>| v.map_or(0, |v| v.value);
    let cpu = stats.cpu.unwrap_or_default();
    Some(UsageSample {
        pod_uid: label(crate::labels::POD_UID),
        pod_name: label(crate::labels::POD_NAME),
        pod_namespace: label(crate::labels::POD_NAMESPACE),
        container: label(crate::labels::CONTAINER_NAME),
        at: cpu.timestamp,
        cpu_nanoseconds: value(cpu.usage_core_nano_seconds),
        working_set_bytes: value(stats.memory.and_then(|m| m.working_set_bytes)),
        writable_layer_bytes: value(stats.writable_layer.and_then(|w| w.used_bytes)),
    })
}
