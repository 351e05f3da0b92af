//! From a pod's spec to the configuration of its sandbox.

use std::collections::HashMap;
use std::fmt::Write as _;

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Pod, PodSpec, SeccompProfile};

use crate::dns::{ResolvConf, dns_config};
use crate::labels;

/// What a sandbox needs beside the pod.
#[derive(Debug, Clone, Default)]
pub struct SandboxInputs {
    pub node: String,
    pub attempt: u32,
    /// The pod's cgroup, as the runtime wants it.
    pub cgroup_parent: String,
    /// The directory of the pod's logs.
    pub log_directory: String,
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    pub node_resolv: ResolvConf,
}

/// `<namespace>_<name>_<uid>`: where the pod's logs are, below the node's log directory.
pub fn log_directory(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let part = |p: &Option<String>| p.clone().unwrap_or_default();
    format!("{}_{}_{}", part(&meta.namespace), part(&meta.name), part(&meta.uid))
}

/// The pod's host name and, for pods with a subdomain, its name in the cluster's DNS.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> (String, Option<String>) {
    let spec = pod.spec.as_ref();
    let own = spec.and_then(|s| s.hostname.clone()).filter(|h| !h.is_empty());
    let name = own.unwrap_or_else(|| pod.metadata.name.clone().unwrap_or_default());
    // 63 is the longest host name that Linux takes; a cut must not end in a dash or dot.
    let short: String = name.chars().take(63).collect();
    let short = short.trim_end_matches(['-', '.']).to_owned();
    let subdomain = spec.and_then(|s| s.subdomain.as_deref()).filter(|s| !s.is_empty());
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let full = subdomain.map(|sub| format!("{short}.{sub}.{namespace}.svc.{cluster_domain}"));
    (short, full)
}

/// The sandbox's configuration.
pub fn sandbox_config(pod: &Pod, inputs: &SandboxInputs) -> cri::PodSandboxConfig {
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let meta = &pod.metadata;
    let namespace = meta.namespace.clone().unwrap_or_default();
    let host_network = spec.host_network == Some(true);
    let (short, full) = hostname(pod, &inputs.cluster_domain);
    let hostname = match (host_network, spec.set_hostname_as_fqdn, full) {
        // The node's UTS namespace comes with its network: a name of its own would be the node's.
        (true, _, _) => String::new(),
        (false, Some(true), Some(full)) => full,
        (false, _, _) => short,
    };
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            namespace: namespace.clone(),
            attempt: inputs.attempt,
        }),
        hostname,
        log_directory: inputs.log_directory.clone(),
        dns_config: Some(dns_config(
            spec,
            &namespace,
            &inputs.cluster_dns,
            &inputs.cluster_domain,
            &inputs.node_resolv,
        )),
        port_mappings: port_mappings(spec),
        labels: labels::of_pod(pod, &inputs.node),
        annotations: HashMap::new(),
        linux: Some(linux(spec, inputs)),
        windows: None,
    }
}

fn port_mappings(spec: &PodSpec) -> Vec<cri::PortMapping> {
    if spec.host_network == Some(true) {
        return Vec::new();
    }
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    ports
        .filter(|p| p.host_port.is_some_and(|h| h > 0))
        .map(|p| cri::PortMapping {
            protocol: match p.protocol.as_deref() {
                Some("UDP") => cri::Protocol::Udp,
                Some("SCTP") => cri::Protocol::Sctp,
                _ => cri::Protocol::Tcp,
            } as i32,
            container_port: p.container_port,
            host_port: p.host_port.unwrap_or(0),
            host_ip: p.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

fn linux(spec: &PodSpec, inputs: &SandboxInputs) -> cri::LinuxPodSandboxConfig {
    let security = spec.security_context.as_ref();
    let id = |value: Option<i64>| value.map(|value| cri::Int64Value { value });
    let mut groups: Vec<i64> = security.and_then(|s| s.fs_group).into_iter().collect();
    groups.extend(security.and_then(|s| s.supplemental_groups.clone()).unwrap_or_default());
    let privileged = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .any(|c| c.security_context.as_ref().and_then(|s| s.privileged) == Some(true));
    let sysctls = security.and_then(|s| s.sysctls.clone()).unwrap_or_default();
    cri::LinuxPodSandboxConfig {
        cgroup_parent: inputs.cgroup_parent.clone(),
        security_context: Some(cri::LinuxSandboxSecurityContext {
            namespace_options: Some(namespaces(spec, None)),
            run_as_user: id(security.and_then(|s| s.run_as_user)),
            run_as_group: id(security.and_then(|s| s.run_as_user.and(s.run_as_group))),
            supplemental_groups: groups,
            privileged,
            seccomp: Some(cri::SecurityProfile {
                profile_type: cri::security_profile::ProfileType::RuntimeDefault as i32,
                localhost_ref: String::new(),
            }),
            ..Default::default()
        }),
        sysctls: sysctls.into_iter().map(|s| (s.name, s.value)).collect(),
        overhead: None,
        resources: None,
    }
}

/// Which namespaces are shared with what. `target` is the container whose processes a debug container sees.
pub(crate) fn namespaces(spec: &PodSpec, target: Option<&str>) -> cri::NamespaceOption {
    use cri::NamespaceMode::{Container, Node, Pod, Target};
    let pid = match (target, spec.host_pid, spec.share_process_namespace) {
        (Some(_), _, _) => Target,
        (None, Some(true), _) => Node,
        (None, _, Some(true)) => Pod,
        (None, _, _) => Container,
    };
    cri::NamespaceOption {
        network: if spec.host_network == Some(true) { Node } else { Pod } as i32,
        pid: pid as i32,
        ipc: if spec.host_ipc == Some(true) { Node } else { Pod } as i32,
        target_id: target.unwrap_or_default().into(),
        userns_options: None,
    }
}

/// A CRI profile of a seccomp profile; none is Unconfined, as in Kubernetes without `seccompDefault`.
pub(crate) fn seccomp(profile: Option<&SeccompProfile>) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let (kind, path) = match profile.map(|p| p.type_.as_str()) {
        Some("RuntimeDefault") => (RuntimeDefault, String::new()),
        Some("Localhost") => {
            let name = profile.and_then(|p| p.localhost_profile.clone()).unwrap_or_default();
            (Localhost, format!("/var/lib/kubelet/seccomp/{name}"))
        }
        _ => (Unconfined, String::new()),
    };
    cri::SecurityProfile { profile_type: kind as i32, localhost_ref: path }
}

/// The pod's /etc/hosts: its own addresses and names, and its `hostAliases`; the node's file for pods in its network.
pub fn hosts_file(pod: &Pod, ips: &[String], cluster_domain: &str, node_hosts: &str) -> String {
    let spec = pod.spec.as_ref();
    let mut text = String::new();
    if spec.and_then(|s| s.host_network) == Some(true) {
        text.push_str("# Kubernetes-managed hosts file (host network).\n");
        text.push_str(node_hosts);
    } else {
        text.push_str(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        let (short, full) = hostname(pod, cluster_domain);
        for ip in ips {
            let _ = match &full {
                Some(full) => writeln!(text, "{ip}\t{full}\t{short}"),
                None => writeln!(text, "{ip}\t{short}"),
            };
        }
    }
    let aliases = spec.and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let _ = writeln!(text, "{}\t{}", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns", "uid": "u1",
            "labels": {"app": "web"}}, "spec": spec}))
        .unwrap()
    }

    #[test]
    fn a_pod_in_the_nodes_namespaces_says_so() {
        let p = pod(json!({"hostNetwork": true, "hostPID": true, "containers": [
            {"name": "a", "ports": [{"containerPort": 80, "hostPort": 80}]}]}));
        let config = sandbox_config(&p, &SandboxInputs::default());
        let options = config.linux.unwrap().security_context.unwrap().namespace_options.unwrap();
        assert_eq!((options.network, options.pid, options.ipc), (2, 2, 0));
        assert_eq!(config.hostname, "");
        assert!(config.port_mappings.is_empty());
    }

    #[test]
    fn labels_carry_the_pod_and_its_node() {
        let inputs = SandboxInputs { node: "n1".into(), ..Default::default() };
        let config = sandbox_config(&pod(json!({"containers": []})), &inputs);
        assert_eq!(config.labels[labels::POD_UID], "u1");
        assert_eq!(config.labels[labels::NODE], "n1");
        assert_eq!(config.labels["app"], "web");
    }

    #[test]
    fn the_hosts_file_has_the_pods_names_and_aliases() {
        let p = pod(json!({"containers": [], "hostname": "db-0", "subdomain": "db",
            "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["x", "y"]}]}));
        let text = hosts_file(&p, &["10.1.0.4".into()], "cluster.local", "");
        assert!(text.contains("10.1.0.4\tdb-0.db.ns.svc.cluster.local\tdb-0\n"), "{text}");
        assert!(text.contains("192.0.2.7\tx\ty\n"), "{text}");
    }
}
