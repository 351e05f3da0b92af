//! Nodes without containers, hundreds to a process, for load tests of the control plane: each registers, renews its lease, tells
//! its status as often as a kubelet does, and says of every pod bound to it that it runs; a deleted pod is gone at once. The
//! nodes may be those of one cluster or of many.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use futures::StreamExt as _;
use galley_node_plan::node::{NodeHealth, node_conditions};
use galley_types::{Clock, SystemClock};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStatus, HostIP, Node, NodeAddress,
    NodeStatus, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, DeleteParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::Semaphore;

use crate::api::{is_conflict, is_not_found};
use crate::node::{Machine, NodeOptions, capacity, new_node, renew_lease, system_info};

#[derive(Debug, Args)]
pub(crate) struct SimulatedArgs {
    /// How many nodes in each cluster.
    #[arg(long, default_value_t = 10)]
    count: u32,
    /// The cluster, with a user that may act for nodes.
    #[arg(long, env = "KUBECONFIG", required_unless_present = "kubeconfigs")]
    kubeconfig: Option<PathBuf>,
    /// Many clusters instead: each file in this directory is the kubeconfig of one.
    #[arg(long, value_name = "DIR")]
    kubeconfigs: Option<PathBuf>,
    /// Nodes are named PREFIX-0, PREFIX-1, ...
    #[arg(long, default_value = "sim")]
    prefix: String,
    /// CPUs of each node.
    #[arg(long, default_value_t = 32)]
    cpus: i64,
    /// Memory of each node, GiB.
    #[arg(long, default_value_t = 256)]
    memory_gib: i64,
    /// The most pods that a node takes.
    #[arg(long, default_value_t = 110)]
    max_pods: u32,
    /// Requests under way at a time.
    #[arg(long, default_value_t = 32)]
    parallel: usize,
    /// Labels of the Node objects: `key=value,...`.
    #[arg(long, value_delimiter = ',')]
    labels: Vec<String>,
}

const LEASE: Duration = Duration::from_secs(10);
/// How often a node's status is told though nothing changed: kubelet's `nodeStatusReportFrequency`.
const REPORT: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_secs(1);

pub(crate) async fn run(args: SimulatedArgs) -> anyhow::Result<()> {
    let permits = Arc::new(Semaphore::new(args.parallel));
    let paths: Vec<PathBuf> = match (&args.kubeconfigs, &args.kubeconfig) {
        (Some(directory), _) => {
            let files = std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
            files.map(|file| Ok(file?.path())).collect::<std::io::Result<_>>()?
        }
        (None, one) => one.iter().cloned().collect(),
    };
    let clusters = paths.len();
    let args = Arc::new(args);
    let mut joining = tokio::task::JoinSet::new();
    for path in paths {
        joining.spawn(join(Arc::clone(&args), path, Arc::clone(&permits)));
    }
    let mut following = Vec::with_capacity(clusters);
    while let Some(joined) = joining.join_next().await {
        following.push(joined??);
    }
    tracing::info!(clusters, nodes = args.count, "simulated nodes are registered");
    for cluster in following {
        cluster.await?;
    }
    Ok(())
}

/// Registers the nodes of one cluster and keeps them alive; what is answered ends with the watch of their pods.
async fn join(
    args: Arc<SimulatedArgs>,
    path: PathBuf,
    permits: Arc<Semaphore>,
) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let kubeconfig = Kubeconfig::read_from(&path).with_context(|| format!("read {}", path.display()))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = kube::Client::try_from(config)?;
    let names: Vec<String> = (0..args.count).map(|n| format!("{}-{n}", args.prefix)).collect();
    let ips: HashMap<String, String> = names.iter().enumerate().map(|(n, name)| (name.clone(), node_ip(n))).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for name in &names {
        let (client, permits) = (client.clone(), Arc::clone(&permits));
        let options = NodeOptions {
            name: name.clone(),
            ip: ips[name].parse::<IpAddr>()?,
            labels: args.labels.clone(),
            taints: Vec::new(),
            provider_id: None,
            max_pods: args.max_pods,
            data_dir: PathBuf::new(),
            eviction_disk_percent: 0,
        };
        let machine = Machine { cpus: args.cpus, memory: args.memory_gib << 30, disk: 100 << 30 };
        tasks.spawn(async move {
            {
                let _permit = permits.acquire().await;
                register(&client, &options, &machine).await.with_context(|| format!("register {}", options.name))?;
            }
            tokio::spawn(keep_lease(client.clone(), options.name.clone(), Arc::clone(&permits)));
            tokio::spawn(keep_status(client, options, machine, permits));
            anyhow::Ok(())
        });
    }
    while let Some(result) = tasks.join_next().await {
        result??;
    }
    Ok(tokio::spawn(follow(client, ips, permits)))
}

/// Spread over the interval too.
async fn keep_status(client: kube::Client, options: NodeOptions, machine: Machine, permits: Arc<Semaphore>) {
    let mut wait = REPORT.mul_f64(rand::random::<f64>());
    loop {
        tokio::time::sleep(wait).await;
        wait = REPORT;
        let _permit = permits.acquire().await;
        if let Err(error) = register(&client, &options, &machine).await {
            tracing::debug!(node = options.name, %error, "a node's status is not told");
        }
    }
}

fn node_ip(n: usize) -> String {
    let n = u32::try_from(n).unwrap_or(0);
    Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 24, 0, 1)) + n).to_string()
}

/// Makes the node if it is not there, and tells its status.
async fn register(client: &kube::Client, options: &NodeOptions, machine: &Machine) -> anyhow::Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    loop {
        let mut node = match api.get(&options.name).await {
            Err(error) if is_not_found(&error) => {
                api.create(&PostParams::default(), &new_node(options, &options.name)?).await?
            }
            other => other?,
        };
        let old = node.status.take().unwrap_or_default();
        node.status = Some(NodeStatus {
            capacity: Some(capacity(machine, options.max_pods)),
            allocatable: Some(capacity(machine, options.max_pods)),
            addresses: Some(vec![
                NodeAddress { type_: "InternalIP".into(), address: options.ip.to_string() },
                NodeAddress { type_: "Hostname".into(), address: options.name.clone() },
            ]),
            conditions: Some(node_conditions(
                &NodeHealth::default(),
                old.conditions.as_deref().unwrap_or_default(),
                SystemClock.now(),
            )),
            node_info: Some(system_info("simulated://0.1")),
            ..old
        });
        match api.replace_status(&options.name, &PostParams::default(), &node).await {
            Ok(_) => return Ok(()),
            Err(error) if is_conflict(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Spread over the interval, so that leases do not come in bursts.
async fn keep_lease(client: kube::Client, name: String, permits: Arc<Semaphore>) {
    let api: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let nodes: Api<Node> = Api::all(client);
    let mut first = true;
    let mut held = None;
    loop {
        {
            let _permit = permits.acquire().await;
            if let Err(error) = renew_lease(&api, &nodes, &name, &mut held, SystemClock.now()).await {
                tracing::debug!(node = name, %error, "a lease is not renewed");
            }
        }
        let wait = if std::mem::take(&mut first) { LEASE.mul_f64(rand::random::<f64>()) } else { LEASE };
        tokio::time::sleep(wait).await;
    }
}

/// One watch for all nodes of the process.
async fn follow(client: kube::Client, ips: HashMap<String, String>, permits: Arc<Semaphore>) {
    let ips = Arc::new(ips);
    let mut events = Box::pin(watcher(Api::<Pod>::all(client.clone()), watcher::Config::default()));
    let mut seen: HashSet<String> = HashSet::new();
    let mut next_ip: u32 = 0;
    while let Some(event) = events.next().await {
        let pod = match event {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) => pod,
            Ok(Event::Delete(pod)) => {
                seen.remove(pod.metadata.uid.as_deref().unwrap_or_default());
                continue;
            }
            Ok(Event::Init | Event::InitDone) => continue,
            Err(error) => {
                tracing::debug!(%error, "the watch of pods failed");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let Some(host) = pod.spec.as_ref().and_then(|s| s.node_name.as_ref()).and_then(|n| ips.get(n)).cloned() else {
            continue;
        };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let deleted = pod.metadata.deletion_timestamp.is_some();
        let pending = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending") == "Pending";
        if !deleted && (!pending || !seen.insert(uid)) {
            continue;
        }
        next_ip += 1;
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 1)) + next_ip).to_string();
        let (client, permits) = (client.clone(), Arc::clone(&permits));
        tokio::spawn(async move {
            let _permit = permits.acquire().await;
            if let Err(error) = answer(client, pod, host, ip, deleted).await {
                tracing::debug!(%error, "a pod is not answered");
            }
        });
    }
}

async fn answer(
    client: kube::Client,
    mut pod: Pod,
    host: String,
    ip: String,
    deleted: bool,
) -> Result<(), kube::Error> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(client, pod.metadata.namespace.as_deref().unwrap_or("default"));
    if deleted {
        return api.delete(&name, &DeleteParams::default().grace_period(0)).await.map(|_| ());
    }
    loop {
        pod.status = Some(status(&pod, &host, &ip));
        match api.replace_status(&name, &PostParams::default(), &pod).await {
            Ok(_) => return Ok(()),
            Err(error) if is_conflict(&error) => pod = api.get(&name).await?,
            Err(error) => return Err(error),
        }
    }
}

/// Pods that are to end have ended well; others run and are ready.
fn status(pod: &Pod, host: &str, ip: &str) -> PodStatus {
    let now = Time(SystemClock.now());
    let spec = pod.spec.clone().unwrap_or_default();
    let ends = spec.restart_policy.as_deref().is_some_and(|p| p != "Always");
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let of = |c: &k8s_openapi::api::core::v1::Container, ended: bool| ContainerStatus {
        name: c.name.clone(),
        image: c.image.clone().unwrap_or_default(),
        container_id: Some(format!("simulated://{:032x}", rand::random::<u128>())),
        ready: !ended,
        started: Some(!ended),
        state: Some(if ended {
            ContainerState {
                terminated: Some(ContainerStateTerminated {
                    reason: Some("Completed".into()),
                    started_at: Some(now.clone()),
                    finished_at: Some(now.clone()),
                    ..ContainerStateTerminated::default()
                }),
                ..ContainerState::default()
            }
        } else {
            ContainerState {
                running: Some(ContainerStateRunning { started_at: Some(now.clone()) }),
                ..ContainerState::default()
            }
        }),
        ..ContainerStatus::default()
    };
    let old = pod.status.clone().unwrap_or_default();
    let condition = |type_: &str, good: bool| PodCondition {
        type_: type_.into(),
        status: if good { "True" } else { "False" }.into(),
        reason: (!good).then(|| "PodCompleted".into()),
        last_transition_time: Some(now.clone()),
        ..PodCondition::default()
    };
    let mut conditions = vec![
        condition("PodReadyToStartContainers", !ends),
        condition("Initialized", true),
        condition("Ready", !ends),
        condition("ContainersReady", !ends),
    ];
    let foreign = old.conditions.iter().flatten();
    conditions.extend(foreign.filter(|c| !crate::pods::is_node_condition(&c.type_)).cloned());
    PodStatus {
        phase: Some(if ends { "Succeeded" } else { "Running" }.into()),
        conditions: Some(conditions),
        host_ip: Some(host.into()),
        host_ips: Some(vec![HostIP { ip: host.into() }]),
        pod_ip: Some(ip.into()),
        pod_ips: Some(vec![PodIP { ip: ip.into() }]),
        start_time: Some(now.clone()),
        container_statuses: Some(spec.containers.iter().map(|c| of(c, ends)).collect()),
        init_container_statuses: (!init.is_empty())
            .then(|| init.iter().map(|c| of(c, c.restart_policy.as_deref() != Some("Always") || ends)).collect()),
        qos_class: old.qos_class,
        ..PodStatus::default()
    }
}
