//! The containers of a spec, in the order that matters, with what kind each is and when it may be restarted.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec};

/// What part a container plays in the pod's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Runs to completion before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: started in order, kept running, stopped last.
    Sidecar,
    /// What the pod is for.
    Main,
    /// Added to a running pod for debugging; never restarted.
    Ephemeral,
}

/// A container of the spec with its kind.
#[derive(Debug, Clone)]
pub struct ContainerRef {
    pub kind: Kind,
    pub spec: Container,
}

/// Whether a container that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    fn parse(text: Option<&str>) -> Self {
        match text {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    /// The pod's policy; absent means Always.
    pub(crate) fn of_pod(spec: &PodSpec) -> Self {
        Self::parse(spec.restart_policy.as_deref())
    }

    /// The container's own policy and rules (container restart rules, Kubernetes 1.34 on), else the pod's.
    pub(crate) fn restarts(spec: &PodSpec, kind: Kind, container: &Container, exit_code: i32) -> bool {
        match kind {
            Kind::Sidecar => return true,
            Kind::Ephemeral => return false,
            Kind::Init | Kind::Main => {}
        }
        for rule in container.restart_policy_rules.iter().flatten() {
            let Some(on) = &rule.exit_codes else { continue };
            let listed = on.values.iter().flatten().any(|v| *v == exit_code);
            if rule.action == "Restart" && listed == (on.operator == "In") {
                return true;
            }
        }
        let policy = match container.restart_policy.as_deref() {
            Some(own) => Self::parse(Some(own)),
            None => Self::of_pod(spec),
        };
        match policy {
            Self::Always => kind == Kind::Main || exit_code != 0,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

/// The kind of an init container.
fn init_kind(container: &Container) -> Kind {
    if container.restart_policy.as_deref() == Some("Always") { Kind::Sidecar } else { Kind::Init }
}

/// Every container of the spec: init containers and sidecars in their order, then main ones, then ephemeral ones.
pub fn all_containers(spec: &PodSpec) -> Vec<ContainerRef> {
    let init = spec.init_containers.iter().flatten().map(|c| ContainerRef { kind: init_kind(c), spec: c.clone() });
    let main = spec.containers.iter().map(|c| ContainerRef { kind: Kind::Main, spec: c.clone() });
    let ephemeral = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .map(|c| ContainerRef { kind: Kind::Ephemeral, spec: ephemeral_as_container(c) });
    init.chain(main).chain(ephemeral).collect()
}

/// The kind of a container by name; `None` if the spec does not have it.
pub fn container_kind(spec: &PodSpec, name: &str) -> Option<Kind> {
    if let Some(init) = spec.init_containers.iter().flatten().find(|c| c.name == name) {
        return Some(init_kind(init));
    }
    if spec.containers.iter().any(|c| c.name == name) {
        return Some(Kind::Main);
    }
    spec.ephemeral_containers.iter().flatten().any(|c| c.name == name).then_some(Kind::Ephemeral)
}

fn ephemeral_as_container(e: &EphemeralContainer) -> Container {
    Container {
        name: e.name.clone(),
        image: e.image.clone(),
        command: e.command.clone(),
        args: e.args.clone(),
        working_dir: e.working_dir.clone(),
        env: e.env.clone(),
        env_from: e.env_from.clone(),
        image_pull_policy: e.image_pull_policy.clone(),
        security_context: e.security_context.clone(),
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        tty: e.tty,
        termination_message_path: e.termination_message_path.clone(),
        termination_message_policy: e.termination_message_policy.clone(),
        volume_mounts: e.volume_mounts.clone(),
        volume_devices: e.volume_devices.clone(),
        ..Container::default()
    }
}

/// Changes when an instance no longer is what the spec asks for. Only the name and the image can change in a running pod
/// in a way that needs a new instance; hashing more would restart containers when a field gets a new default. FNV-1a, since
/// the number is kept beside containers for as long as they live, and std's hasher may change with the compiler.
pub fn spec_hash(container: &Container) -> u64 {
    let image = container.image.as_deref().unwrap_or_default();
    let bytes = container.name.bytes().chain([0]).chain(image.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
