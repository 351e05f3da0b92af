//! This machine as a Node object: registered once, its status every ten seconds if it changed (else every five minutes), its Lease
//! every ten seconds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use galley_node_cri::Cri;
use galley_node_net::NetStatus;
use galley_node_plan::node::{NodeHealth, node_conditions};
use galley_types::{Clock, SystemClock};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus,
    NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::{Api, PostParams};
use tokio::sync::watch;

use crate::api::{is_conflict, is_not_found};
use crate::events::Events;

/// What the agent tells Kubernetes it is.
pub(crate) const KUBELET_VERSION: &str = "v1.36.0";
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Writers of a node are few; two in a row are rare.
const AFTER_CONFLICT: Duration = Duration::from_millis(100);
const LEASE_SECONDS: i32 = 40;
/// An unchanged status is written again after so many heartbeats.
const STATUS_EVERY: u32 = 30;
/// kubelet lists the 50 largest.
const IMAGES: usize = 50;
/// kubelet's hard eviction threshold: 100 MiB of memory.
const MEMORY_LOW: i64 = 100 << 20;

/// What the machine has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machine {
    pub(crate) cpus: i64,
    /// Bytes.
    pub(crate) memory: i64,
    /// Bytes.
    pub(crate) disk: i64,
}

impl Machine {
    pub(crate) fn look(data_dir: &std::path::Path) -> anyhow::Result<Self> {
        let disk = rustix::fs::statvfs(data_dir).with_context(|| format!("look at {}", data_dir.display()))?;
        Ok(Self {
            cpus: std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1)),
            memory: meminfo("MemTotal"),
            disk: i64::try_from(disk.f_blocks * disk.f_frsize).unwrap_or(i64::MAX),
        })
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Bytes; 0 if the kernel does not say.
fn meminfo(name: &str) -> i64 {
    let text = read("/proc/meminfo");
    let line = text.lines().find(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')));
    let kib = line.and_then(|l| l.split_whitespace().nth(1)).and_then(|n| n.parse::<i64>().ok());
    kib.unwrap_or(0) * 1024
}

/// How the node is to be registered.
#[derive(Debug, Clone)]
pub(crate) struct NodeOptions {
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    pub(crate) labels: Vec<String>,
    pub(crate) taints: Vec<String>,
    pub(crate) provider_id: Option<String>,
    pub(crate) max_pods: u32,
    pub(crate) data_dir: PathBuf,
    /// The share of the disk that must be free; below it the node is under disk pressure.
    pub(crate) eviction_disk_percent: u64,
}

/// Whether disk or memory run out, for eviction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
}

/// The share of a disk that is free, of what may be used of it: blocks that the file system keeps for root, or a quota takes away,
/// are neither.
pub(crate) fn free_percent(path: &std::path::Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(path).ok()?;
    let usable = disk.f_blocks.saturating_sub(disk.f_bfree) + disk.f_bavail;
    (disk.f_bavail * 100).checked_div(usable)
}

/// `disk_percent` is how much of the disk must be free.
pub(crate) fn pressure(data_dir: &std::path::Path, disk_percent: u64) -> Pressure {
    let available = meminfo("MemAvailable");
    let disk = free_percent(data_dir).is_some_and(|free| free < disk_percent);
    Pressure { memory: available > 0 && available < MEMORY_LOW, disk }
}

/// The Node as it is when it is made.
pub(crate) fn new_node(options: &NodeOptions, hostname: &str) -> anyhow::Result<Node> {
    let mut labels: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", if hostname.is_empty() { &options.name } else { hostname }),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect();
    for label in options.labels.iter().filter(|l| !l.is_empty()) {
        let (key, value) = label.split_once('=').with_context(|| format!("--labels: {label:?} is not key=value"))?;
        labels.insert(key.into(), value.into());
    }
    let taints =
        options.taints.iter().filter(|t| !t.is_empty()).map(|t| parse_taint(t)).collect::<Result<Vec<_>, _>>()?;
    Ok(Node {
        metadata: ObjectMeta { name: Some(options.name.clone()), labels: Some(labels), ..ObjectMeta::default() },
        spec: Some(NodeSpec {
            provider_id: options.provider_id.clone(),
            taints: (!taints.is_empty()).then_some(taints),
            ..NodeSpec::default()
        }),
        status: None,
    })
}

fn parse_taint(text: &str) -> anyhow::Result<Taint> {
    let (rest, effect) =
        text.rsplit_once(':').with_context(|| format!("--taints: {text:?} is not key=value:Effect"))?;
    let (key, value) = rest.split_once('=').map_or((rest, None), |(k, v)| (k, Some(v.to_owned())));
    Ok(Taint { key: key.into(), value, effect: effect.into(), time_added: None })
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Capacity and allocatable (the same: nothing is reserved).
pub(crate) fn capacity(machine: &Machine, max_pods: u32) -> BTreeMap<String, Quantity> {
    [
        ("cpu", machine.cpus.to_string()),
        ("memory", format!("{}Ki", machine.memory / 1024)),
        ("ephemeral-storage", format!("{}Ki", machine.disk / 1024)),
        ("hugepages-1Gi", "0".into()),
        ("hugepages-2Mi", "0".into()),
        ("pods", max_pods.to_string()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), Quantity(v)))
    .collect()
}

pub(crate) fn system_info(runtime_version: &str) -> NodeSystemInfo {
    let os = read("/etc/os-release");
    let os = os.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"').to_owned();
    NodeSystemInfo {
        architecture: arch().into(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: runtime_version.into(),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: KUBELET_VERSION.into(),
        machine_id: read("/etc/machine-id"),
        operating_system: "linux".into(),
        os_image: os,
        system_uuid: read("/sys/class/dmi/id/product_uuid"),
        ..NodeSystemInfo::default()
    }
}

/// Keeps the Node and its Lease as they should be, for ever.
pub(crate) async fn keep(
    client: kube::Client,
    options: NodeOptions,
    machine: Machine,
    cri: Cri,
    net: watch::Receiver<NetStatus>,
    events: Events,
) {
    events.node(&options.name, false, "Starting", "Starting kubelet.".into());
    let mut told: Option<Told> = None;
    tokio::spawn(keep_lease(client.clone(), options.name.clone()));
    let api: Api<Node> = Api::all(client);
    let mut net = net;
    // An agent that was restarted must not report its node unready for the moment that its own network takes to start.
    if api.get(&options.name).await.is_ok_and(|node| is_ready(&node)) {
        let ready = net.wait_for(|status| *status == NetStatus::Ready);
        let _ = tokio::time::timeout(HEARTBEAT, ready).await;
    }
    let mut beats = 0;
    loop {
        let forced = beats % STATUS_EVERY == 0;
        let now = match heartbeat(&api, &options, &machine, &cri, &net, forced, SystemClock.now()).await {
            Ok(Some(now)) => now,
            // Somebody else wrote the node at this moment: it is read again, soon.
            Ok(None) => {
                tokio::time::sleep(AFTER_CONFLICT).await;
                continue;
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the node's status is not written");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        beats += 1;
        let ready = now.ready;
        if told.as_ref().map(|before| before.ready) != Some(ready) {
            let status = if ready { "NodeReady" } else { "NodeNotReady" };
            events.node(&options.name, false, status, format!("Node {} status is now: {status}", options.name));
        }
        // Who joins a machine looks here.
        if told.as_ref() != Some(&now) {
            match ready {
                true => tracing::info!(node = options.name, "the node is ready"),
                false => tracing::warn!(node = options.name, why = now.message, "the node is not ready"),
            }
        }
        told = Some(now);
        // Before the node is ready, look often: pods wait for it.
        let wait = if ready { HEARTBEAT } else { Duration::from_millis(500) };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            Ok(()) = net.changed() => {}
        }
    }
}

/// What the node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    ready: bool,
    message: String,
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// What was told; nothing when somebody else was writing.
async fn heartbeat(
    api: &Api<Node>,
    options: &NodeOptions,
    machine: &Machine,
    cri: &Cri,
    net: &watch::Receiver<NetStatus>,
    forced: bool,
    now: Timestamp,
) -> anyhow::Result<Option<Told>> {
    let mut health = NodeHealth::default();
    let mut runtime_version = String::new();
    match cri.info().await {
        Ok(info) => {
            runtime_version = info.version;
            health.runtime_error = info.runtime_error;
            health.network_error = info.network_error;
        }
        Err(error) => health.runtime_error = Some(format!("container runtime is down: {}", error.message())),
    }
    if let NetStatus::NotReady(why) = &*net.borrow() {
        health.network_error.get_or_insert_with(|| format!("the node's network is not ready: {why}"));
    }
    let pressure = pressure(&options.data_dir, options.eviction_disk_percent);
    (health.memory_pressure, health.disk_pressure) = (pressure.memory, pressure.disk);
    let images = cri.image_list().await.unwrap_or_default();
    let mut images: Vec<ContainerImage> = images
        .into_iter()
        .map(|i| ContainerImage {
            names: Some(i.names.into_iter().rev().collect()),
            size_bytes: i64::try_from(i.bytes).ok(),
        })
        .collect();
    images.sort_by_key(|i| std::cmp::Reverse(i.size_bytes));
    images.truncate(IMAGES);
    let mut status = NodeStatus {
        capacity: Some(capacity(machine, options.max_pods)),
        allocatable: Some(capacity(machine, options.max_pods)),
        addresses: Some(vec![
            NodeAddress { type_: "InternalIP".into(), address: options.ip.to_string() },
            NodeAddress { type_: "Hostname".into(), address: options.name.clone() },
        ]),
        node_info: Some(system_info(&runtime_version)),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: 10250 }) }),
        images: Some(images),
        ..NodeStatus::default()
    };
    let mut node = get_or_make(api, options).await?;
    let before = node.status.take().unwrap_or_default();
    let known = before.conditions.clone().unwrap_or_default();
    let mut conditions = node_conditions(&health, &known, now);
    let own =
        |c: &NodeCondition| matches!(c.type_.as_str(), "MemoryPressure" | "DiskPressure" | "PIDPressure" | "Ready");
    // Compared with what the API server has, not with what was sent: it may have said meanwhile that the node is lost.
    let essence = |c: &NodeCondition| (c.type_.clone(), c.status.clone(), c.reason.clone(), c.message.clone());
    let unchanged = conditions.iter().all(|c| known.iter().any(|k| essence(k) == essence(c)))
        && before.images == status.images
        && before.node_info == status.node_info
        && before.addresses == status.addresses
        && before.capacity == status.capacity;
    let ready = conditions.iter().find(|c| c.type_ == "Ready");
    let told = ready.map(|c| Told { ready: c.status == "True", message: c.message.clone().unwrap_or_default() });
    if unchanged && !forced {
        return Ok(told);
    }
    conditions.extend(known.into_iter().filter(|c| !own(c)));
    status.conditions = Some(conditions);
    status.volumes_attached = before.volumes_attached;
    status.volumes_in_use = before.volumes_in_use;
    node.status = Some(status);
    match api.replace_status(&options.name, &PostParams::default(), &node).await {
        Ok(_) => Ok(told),
        Err(error) if is_conflict(&error) => Ok(None),
        Err(error) => Err(error).context("write the node's status"),
    }
}

async fn get_or_make(api: &Api<Node>, options: &NodeOptions) -> anyhow::Result<Node> {
    match api.get(&options.name).await {
        Ok(node) => return Ok(node),
        Err(error) if is_not_found(&error) => {}
        Err(error) => return Err(error).context("read the node"),
    }
    // Nodes that share a machine share its host name: the node's own name is what users look for.
    let node = new_node(options, &options.name)?;
    match api.create(&PostParams::default(), &node).await {
        Ok(node) => {
            tracing::info!(node = options.name, "stage 5: the node is registered");
            Ok(node)
        }
        Err(error) if is_conflict(&error) => api.get(&options.name).await.context("read the node"),
        Err(error) => Err(error).context("register the node"),
    }
}

/// The Lease tells the control plane that this node lives; the Node's status only what it is like.
pub(crate) async fn keep_lease(client: kube::Client, name: String) {
    let api: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let nodes: Api<Node> = Api::all(client);
    let mut held = None;
    loop {
        let wait = match renew_lease(&api, &nodes, &name, &mut held, SystemClock.now()).await {
            Ok(()) => HEARTBEAT,
            Err(error) => {
                tracing::debug!(%error, "the node's lease is not renewed");
                Duration::from_secs(1)
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// Writes over the lease as it was `held` last, and reads it only where that fails: one request for each heartbeat.
pub(crate) async fn renew_lease(
    api: &Api<Lease>,
    nodes: &Api<Node>,
    name: &str,
    held: &mut Option<Lease>,
    now: Timestamp,
) -> Result<(), kube::Error> {
    let spec = LeaseSpec {
        holder_identity: Some(name.to_owned()),
        lease_duration_seconds: Some(LEASE_SECONDS),
        renew_time: Some(MicroTime(now)),
        ..LeaseSpec::default()
    };
    let before = match held.take() {
        Some(lease) => Ok(lease),
        None => api.get(name).await,
    };
    let written = match before {
        Ok(mut lease) => {
            lease.spec = Some(spec);
            api.replace(name, &PostParams::default(), &lease).await
        }
        Err(error) if is_not_found(&error) => {
            let owner = nodes.get(name).await?;
            let owner = OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: name.to_owned(),
                uid: owner.metadata.uid.unwrap_or_default(),
                ..OwnerReference::default()
            };
            let metadata = ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some("kube-node-lease".into()),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            };
            api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await
        }
        Err(error) => Err(error),
    };
    *held = Some(written?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_read_as_kubectl_writes_them() {
        let taint = parse_taint("dedicated=gpu:NoSchedule").unwrap();
        assert_eq!(
            (taint.key.as_str(), taint.value.as_deref(), taint.effect.as_str()),
            ("dedicated", Some("gpu"), "NoSchedule")
        );
        assert_eq!(parse_taint("maintenance:NoExecute").unwrap().value, None);
        assert!(parse_taint("nonsense").is_err());
    }
}
