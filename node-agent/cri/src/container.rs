//! From a container's spec to the configuration that the runtime makes it from.

use std::collections::HashMap;

use galley_node_plan::qos::CgroupLimits;
use galley_node_plan::{env, spec_hash};
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::labels;
use crate::sandbox::{namespaces, seccomp};

/// What /proc must not show a container (the runtimes' common default).
const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
];
const MASKED_SYS: [&str; 2] = ["/sys/firmware", "/sys/devices/virtual/powercap"];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// How mounts travel between the node and the container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

/// A directory or file of the node, seen in the container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountSpec {
    pub host_path: String,
    pub container_path: String,
    pub read_only: bool,
    pub propagation: Propagation,
}

/// What a container needs beside the pod.
#[derive(Debug, Clone, Default)]
pub struct ContainerInputs {
    pub node: String,
    pub attempt: u32,
    pub restart_delay: u32,
    /// The image as the runtime resolved it.
    pub image_ref: String,
    pub environment: Vec<(String, String)>,
    pub mounts: Vec<MountSpec>,
    pub limits: CgroupLimits,
    /// From [`crate::run_as`].
    pub run_as: Option<i64>,
    /// Of the image, where the pod says nobody.
    pub image_username: String,
    /// The file on the node for the termination message.
    pub termination_file: String,
    /// Id of the container whose processes a debug container shares.
    pub target_id: Option<String>,
}

/// Command and arguments with `$(VAR)` replaced.
pub fn command_line(container: &Container, environment: &[(String, String)]) -> (Vec<String>, Vec<String>) {
    let value = |name: &str| environment.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let all = |list: &Option<Vec<String>>| list.iter().flatten().map(|word| env::expand(word, value)).collect();
    (all(&container.command), all(&container.args))
}

/// The container's configuration. The log is at `<container>/<attempt>.log` below the sandbox's log directory.
pub fn container_config(pod: &Pod, container: &Container, inputs: &ContainerInputs) -> cri::ContainerConfig {
    let (command, args) = command_line(container, &inputs.environment);
    let policy = container.termination_message_policy.clone().unwrap_or_else(|| "File".into());
    let annotations = HashMap::from([
        (labels::SPEC_HASH.to_owned(), format!("{:x}", spec_hash(container))),
        (labels::RESTART_DELAY.to_owned(), inputs.restart_delay.to_string()),
        (labels::TERMINATION_FILE.to_owned(), inputs.termination_file.clone()),
        (labels::TERMINATION_POLICY.to_owned(), policy),
    ]);
    let envs = inputs.environment.iter().map(|(key, value)| cri::KeyValue { key: key.clone(), value: value.clone() });
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: container.name.clone(), attempt: inputs.attempt }),
        image: Some(cri::ImageSpec {
            image: inputs.image_ref.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command,
        args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: envs.collect(),
        mounts: inputs.mounts.iter().map(mount).collect(),
        labels: labels::of_container(pod, &container.name, &inputs.node),
        annotations,
        log_path: format!("{}/{}.log", container.name, inputs.attempt),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources(&inputs.limits)),
            security_context: Some(security(pod, container, inputs)),
        }),
        ..Default::default()
    }
}

fn mount(mount: &MountSpec) -> cri::Mount {
    let propagation = match mount.propagation {
        Propagation::Private => cri::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => cri::MountPropagation::PropagationBidirectional,
    };
    cri::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.read_only,
        propagation: propagation as i32,
        ..Default::default()
    }
}

/// The CRI form of cgroup numbers.
pub(crate) fn resources(limits: &CgroupLimits) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        cpu_period: limits.cpu_period,
        cpu_quota: limits.cpu_quota,
        cpu_shares: limits.cpu_shares,
        memory_limit_in_bytes: limits.memory_limit,
        oom_score_adj: limits.oom_score_adj,
        ..Default::default()
    }
}

fn security(pod: &Pod, container: &Container, inputs: &ContainerInputs) -> cri::LinuxContainerSecurityContext {
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let of_pod = spec.security_context.as_ref();
    let own = container.security_context.as_ref();
    let privileged = own.and_then(|c| c.privileged) == Some(true);
    let group = own.and_then(|c| c.run_as_group).or_else(|| of_pod.and_then(|c| c.run_as_group));
    let mut groups: Vec<i64> = of_pod.and_then(|s| s.supplemental_groups.clone()).unwrap_or_default();
    groups.extend(of_pod.and_then(|s| s.fs_group));
    let capabilities = own.and_then(|c| c.capabilities.as_ref()).map(|c| cri::Capability {
        add_capabilities: c.add.clone().unwrap_or_default(),
        drop_capabilities: c.drop.clone().unwrap_or_default(),
        add_ambient_capabilities: Vec::new(),
    });
    let profile =
        own.and_then(|c| c.seccomp_profile.as_ref()).or_else(|| of_pod.and_then(|c| c.seccomp_profile.as_ref()));
    let unmasked = own.and_then(|c| c.proc_mount.as_deref()) == Some("Unmasked") || privileged;
    let paths = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
    let strict = of_pod.and_then(|s| s.supplemental_groups_policy.as_deref()) == Some("Strict");
    cri::LinuxContainerSecurityContext {
        capabilities,
        privileged,
        namespace_options: Some(namespaces(spec, inputs.target_id.as_deref())),
        run_as_user: inputs.run_as.map(|value| cri::Int64Value { value }),
        // CRI takes a group only beside a user.
        run_as_group: match (inputs.run_as, inputs.image_username.is_empty()) {
            (None, true) => None,
            (Some(_), _) | (None, false) => group.map(|value| cri::Int64Value { value }),
        },
        run_as_username: if inputs.run_as.is_none() { inputs.image_username.clone() } else { String::new() },
        readonly_rootfs: own.and_then(|c| c.read_only_root_filesystem) == Some(true),
        supplemental_groups: groups,
        supplemental_groups_policy: i32::from(strict),
        no_new_privs: own.and_then(|c| c.allow_privilege_escalation) == Some(false),
        masked_paths: if unmasked { Vec::new() } else { [paths(&MASKED), paths(&MASKED_SYS)].concat() },
        readonly_paths: if unmasked { Vec::new() } else { paths(&READ_ONLY) },
        seccomp: Some(seccomp(if privileged { None } else { profile })),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(container: serde_json::Value, inputs: &ContainerInputs) -> cri::ContainerConfig {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns", "uid": "u1"},
            "spec": {"securityContext": {"fsGroup": 7, "runAsGroup": 8}, "containers": [container]}}))
        .unwrap();
        let c = pod.spec.as_ref().unwrap().containers[0].clone();
        container_config(&pod, &c, inputs)
    }

    #[test]
    fn commands_are_expanded_with_the_environment() {
        let inputs = ContainerInputs { environment: vec![("A".into(), "1".into())], ..Default::default() };
        let config = config(json!({"name": "app", "command": ["echo", "$(A)"], "args": ["$(B)", "$$(A)"]}), &inputs);
        assert_eq!(config.command, ["echo", "1"]);
        assert_eq!(config.args, ["$(B)", "$(A)"]);
        assert_eq!(config.log_path, "app/0.log");
    }

    #[test]
    fn a_security_context_reaches_the_runtime() {
        let container = json!({"name": "app", "securityContext": {"readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
            "seccompProfile": {"type": "RuntimeDefault"}}});
        let inputs = ContainerInputs { run_as: Some(1000), ..Default::default() };
        let security = config(container, &inputs).linux.unwrap().security_context.unwrap();
        assert!(security.readonly_rootfs && security.no_new_privs && !security.privileged);
        assert_eq!(security.run_as_user.unwrap().value, 1000);
        assert_eq!(security.run_as_group.unwrap().value, 8);
        assert_eq!(security.supplemental_groups, [7]);
        assert_eq!(security.seccomp.unwrap().profile_type, 0);
        assert_eq!(security.capabilities.unwrap().drop_capabilities, ["ALL"]);
        assert!(!security.masked_paths.is_empty());
    }
}
