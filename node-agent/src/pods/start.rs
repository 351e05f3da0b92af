//! Starting one container: image, environment, mounts, create, start, postStart.

use std::time::{Duration, Instant};

use galley_node_cri::{Auth, ContainerInputs, ImageInfo, ImageUser, MountSpec, Propagation, container_config, run_as};
use galley_node_plan::env::environment;
use galley_node_plan::image::{self, PullPolicy, pull_policy};
use galley_node_plan::qos::container_limits;
use galley_node_plan::{Kind, ObservedPod, WaitingReason, all_containers};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::hooks;
use super::worker::{Message, Worker};

/// Which container to start, as the plan says.
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) sandbox_id: String,
    pub(super) attempt: u32,
    pub(super) restart_delay: u32,
}

/// Why a container did not start: what its status shows.
struct NotStarted {
    reason: WaitingReason,
    message: String,
}

fn not_started(reason: WaitingReason) -> impl Fn(String) -> NotStarted {
    move |message| NotStarted { reason, message }
}

/// `1.234s`, as Go prints it.
fn spell(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    if seconds < 1.0 { format!("{}ms", elapsed.as_millis()) } else { format!("{seconds:.3}s") }
}

impl Worker {
    pub(super) async fn start_container(&mut self, pod: &Pod, observed: &ObservedPod, wanted: Wanted) {
        let Some(spec) = &pod.spec else { return };
        let Some(container) = all_containers(spec).into_iter().find(|c| c.spec.name == wanted.name).map(|c| c.spec)
        else {
            return;
        };
        let result = self.try_start(pod, observed, &container, &wanted).await;
        match result {
            Ok(Some(id)) => {
                self.memory.failures.remove(&container.name);
                self.post_start(pod, observed, &container, id);
            }
            // Given up, because the pod changed meanwhile.
            Ok(None) => {}
            Err(NotStarted { reason, message }) => {
                tracing::info!(
                    pod = pod.metadata.name,
                    container = container.name,
                    reason = reason.as_str(),
                    message,
                    "a container is not started"
                );
                self.remember_failure(pod, &container.name, reason, message);
            }
        }
    }

    async fn try_start(
        &mut self,
        pod: &Pod,
        observed: &ObservedPod,
        container: &Container,
        wanted: &Wanted,
    ) -> Result<Option<String>, NotStarted> {
        let sandbox_attempt = observed.sandbox().map_or(0, |s| s.attempt);
        let sandbox = self.sandbox_config(pod, sandbox_attempt);
        let Some(image) = self.ensure_image(pod, container, sandbox.clone()).await? else { return Ok(None) };
        let inputs = self.inputs(pod, observed, container, wanted, &image).await?;
        let config = container_config(pod, container, &inputs);
        let log_directory = std::path::Path::new(&sandbox.log_directory).join(&container.name);
        tokio::fs::create_dir_all(&log_directory)
            .await
            .map_err(|e| not_started(WaitingReason::CreateContainerError)(e.to_string()))?;
        let id = self
            .host
            .cri
            .create_container(&wanted.sandbox_id, config, sandbox)
            .await
            .map_err(|e| not_started(WaitingReason::CreateContainerError)(e.detail()))?;
        let events = &self.host.events;
        events.pod(pod, Some(&container.name), false, "Created", format!("Created container: {}", container.name));
        self.host
            .cri
            .start_container(&id)
            .await
            .map_err(|e| not_started(WaitingReason::RunContainerError)(e.detail()))?;
        events.pod(pod, Some(&container.name), false, "Started", format!("Started container {}", container.name));
        tracing::info!(
            pod = pod.metadata.name,
            container = container.name,
            attempt = wanted.attempt,
            "a container runs"
        );
        Ok(Some(id))
    }

    /// The image, pulled if the policy says so; `None` if the pod changed while it was pulled.
    async fn ensure_image(
        &mut self,
        pod: &Pod,
        container: &Container,
        sandbox: galley_node_cri::messages::PodSandboxConfig,
    ) -> Result<Option<ImageInfo>, NotStarted> {
        let host = std::sync::Arc::clone(&self.host);
        let tell = |warning: bool, reason: &'static str, message: String| {
            host.events.pod(pod, Some(&container.name), warning, reason, message);
        };
        let name = container.image.as_deref().unwrap_or_default();
        if !image::is_valid(name) {
            let message = format!(
                "Failed to apply default image tag \"{name}\": couldn't parse image name \"{name}\": invalid reference format"
            );
            tell(true, "InspectFailed", message.clone());
            return Err(not_started(WaitingReason::InvalidImageName)(message));
        }
        let reference = image::normalize(name);
        let inspect = |e: galley_node_cri::CriError| not_started(WaitingReason::ErrImagePull)(e.message());
        let present = self.host.cri.image(&reference).await.map_err(inspect)?;
        match (pull_policy(container), present) {
            (PullPolicy::Never, None) => {
                let message = format!("Container image \"{name}\" is not present with pull policy of Never");
                tell(true, "ErrImageNeverPull", message.clone());
                return Err(not_started(WaitingReason::ErrImageNeverPull)(message));
            }
            (PullPolicy::Never | PullPolicy::IfNotPresent, Some(image)) => {
                tell(false, "Pulled", format!("Container image \"{name}\" already present on machine"));
                return Ok(Some(image));
            }
            (PullPolicy::Always, _) | (PullPolicy::IfNotPresent, None) => {}
        }
        tell(false, "Pulling", format!("Pulling image \"{name}\""));
        let started = Instant::now();
        let mut logins = self.host.pull_credentials(pod, name).await.into_iter().map(Some).collect::<Vec<_>>();
        logins.push(None);
        let mut last = String::new();
        for login in logins {
            let pull = {
                let (cri, sandbox) = (self.host.cri.clone(), sandbox.clone());
                let reference = reference.clone();
                async move { cri.pull_image(&reference, &Auth(login), sandbox).await }
            };
            let mut intent = self.intent.clone();
            // Our own status comes back as a change too: only the pod's end ends the pull.
            let ending = async { intent.wait_for(super::worker::Intent::is_ending).await.is_ok() };
            let pulled = tokio::select! {
                pulled = pull => pulled,
                true = ending => return Ok(None),
            };
            match pulled {
                Ok(_) => {
                    let image = self.host.cri.image(&reference).await.map_err(inspect)?.unwrap_or_default();
                    let took = spell(started.elapsed());
                    let message = format!(
                        "Successfully pulled image \"{name}\" in {took} ({took} including waiting). Image size: {} bytes.",
                        image.bytes
                    );
                    tell(false, "Pulled", message);
                    return Ok(Some(image));
                }
                Err(error) => last = error.message(),
            }
        }
        tell(true, "Failed", format!("Failed to pull image \"{name}\": {last}"));
        Err(not_started(WaitingReason::ErrImagePull)(last))
    }

    async fn inputs(
        &mut self,
        pod: &Pod,
        observed: &ObservedPod,
        container: &Container,
        wanted: &Wanted,
        image: &ImageInfo,
    ) -> Result<ContainerInputs, NotStarted> {
        let config_error = not_started(WaitingReason::CreateContainerConfigError);
        let spec = pod.spec.clone().unwrap_or_default();
        let facts = self.host.runtime_facts(observed, spec.host_network == Some(true));
        let sources = self.host.env_sources(pod, container).await.map_err(|e| config_error(e.to_string()))?;
        let environment = environment(pod, container, &sources, &facts).map_err(|e| config_error(e.to_string()))?;
        let user = ImageUser { uid: image.uid, username: image.username.clone() };
        let run_as = run_as(pod, container, &user).map_err(|e| config_error(e.to_string()))?;

        let volume_sources =
            self.host.volume_sources(pod, &mut self.tokens).await.map_err(|e| config_error(e.to_string()))?;
        let (volumes, of, only, env) = (self.volumes.clone(), pod.clone(), container.clone(), environment.clone());
        let mounts =
            tokio::task::spawn_blocking(move || volumes.container_mounts(&of, &only, &env, &volume_sources)).await;
        let mounts = match mounts {
            Ok(mounts) => mounts.map_err(|e| {
                let index = e.to_string();
                config_error(format!("failed to prepare subPath or volume for container {:?}: {index}", container.name))
            })?,
            Err(error) => return Err(config_error(error.to_string())),
        };
        let mut all: Vec<MountSpec> = mounts
            .into_iter()
            .map(|m| MountSpec {
                host_path: m.host_path.display().to_string(),
                container_path: absolute(&m.container_path),
                read_only: m.read_only,
                propagation: match m.propagation {
                    galley_node_volumes::Propagation::Private => Propagation::Private,
                    galley_node_volumes::Propagation::HostToContainer => Propagation::HostToContainer,
                    galley_node_volumes::Propagation::Bidirectional => Propagation::Bidirectional,
                },
            })
            .collect();
        let create_error = not_started(WaitingReason::CreateContainerError);
        if !all.iter().any(|m| m.container_path == "/etc/hosts") {
            let hosts = self.write_hosts(pod, observed).map_err(|e| create_error(e.to_string()))?;
            all.push(MountSpec { host_path: hosts, container_path: "/etc/hosts".into(), ..MountSpec::default() });
        }
        let message =
            self.volumes.directory().join("containers").join(&container.name).join(wanted.attempt.to_string());
        make_message_file(&message).map_err(|e| create_error(e.to_string()))?;
        let message_path = container.termination_message_path.as_deref().filter(|p| !p.is_empty());
        let termination_file = message.display().to_string();
        all.push(MountSpec {
            host_path: termination_file.clone(),
            container_path: message_path.unwrap_or("/dev/termination-log").to_owned(),
            ..MountSpec::default()
        });
        let target = spec.ephemeral_containers.iter().flatten().find(|e| e.name == container.name);
        let target = target.and_then(|e| e.target_container_name.as_deref()).and_then(|n| observed.latest(n));
        debug_assert!(target.is_none() || wanted.kind == Kind::Ephemeral);
        Ok(ContainerInputs {
            node: self.host.node.clone(),
            attempt: wanted.attempt,
            restart_delay: wanted.restart_delay,
            image_ref: image.id.clone(),
            limits: container_limits(&spec, container, self.host.machine.memory),
            environment,
            mounts: all,
            run_as,
            image_username: if image.uid.is_none() { image.username.clone() } else { String::new() },
            termination_file,
            target_id: target.map(|c| c.id.clone()),
        })
    }

    /// Runs the postStart hook beside the worker: until it returns the container is not ready, and its failure kills it.
    fn post_start(&mut self, pod: &Pod, observed: &ObservedPod, container: &Container, id: String) {
        let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.clone()) else { return };
        self.memory.in_post_start.insert(id.clone());
        let target = hooks::Target::new(pod, container, observed, &id);
        let (host, messages) = (std::sync::Arc::clone(&self.host), self.messages.clone());
        let (pod, name) = (pod.clone(), container.name.clone());
        tokio::spawn(async move {
            let error = hooks::run(&host, &target, &hook).await.err().map(|why| {
                host.events.pod(&pod, Some(&name), true, "FailedPostStartHook", format!("PostStartHook failed: {why}"));
                format!("FailedPostStartHook: container {name} is stopped: {why}")
            });
            let _ = messages.send(Message::PostStarted { container_id: id, error });
        });
    }
}

/// Relative mount paths are relative to the root.
fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Whoever the container runs as may write it.
fn make_message_file(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::File::create(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
}
