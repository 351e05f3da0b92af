//! A running node: the parts, wired.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use galley_node_cri::Cri;
use galley_node_cri::cgroup::Cgroups;
use galley_node_link::{Identity, Link};
use galley_node_net::{ClusterView, NetConfig, NetStatus};
use galley_tunnel::{Header, Inbound, TunnelStream, write_line};
use galley_types::SystemClock;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::kubelet::Kubelet;
use crate::node::{Machine, NodeOptions};
use crate::pods::{Host, Manager, PodTable};
use crate::{NodeArgs, events, gc, node, watching};

/// Connecting to what the control plane wants to reach from here.
const DIAL: Duration = Duration::from_secs(10);
/// An agent that was told to stop is gone in less.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// Runs until SIGTERM or SIGINT. Containers go on without the agent.
pub(crate) async fn run(identity: Identity, args: NodeArgs) -> anyhow::Result<()> {
    let name = identity.node_name.clone();
    let data_dir = std::path::absolute(&args.data_dir)?;
    std::fs::create_dir_all(data_dir.join("pods"))?;
    let _lock = lock(&data_dir).await?;
    let machine = Machine::look(&data_dir)?;
    let ip = match args.node_ip {
        Some(ip) => ip,
        None => default_ip(&identity.server)?,
    };
    let socket = PathBuf::from(args.cri_socket.trim_start_matches("unix://"));
    let cri = Cri::new(&socket, &name);
    let cgroups = Cgroups::detect(&args.cgroup_root)?;
    tracing::info!(node = name, %ip, cgroups = cgroups.version(), socket = %socket.display(), "the node starts");

    let (link, driver, inbound) = Link::new(identity.clone(), data_dir.clone(), Arc::new(SystemClock));
    tokio::spawn(driver.run());
    let client = link.client();
    let events = events::Events::start(client.clone(), name.clone());
    let services = watching::follow::<Service>(Api::all(client.clone()), None);
    let pods = watching::follow::<Pod>(Api::all(client.clone()), Some(format!("spec.nodeName={name}")));

    let (net_tx, net_rx) = watch::channel(NetStatus::NotReady("starting".into()));
    start_net(&identity, &args, &name, ip, &data_dir, &client, services.clone(), link, net_tx)?;

    let options = NodeOptions {
        name: name.clone(),
        ip,
        labels: args.labels,
        taints: args.taints,
        provider_id: args.provider_id,
        max_pods: args.max_pods,
        data_dir: data_dir.clone(),
        eviction_disk_percent: args.eviction_hard_nodefs_percent,
    };
    let host = Arc::new(Host {
        node: name,
        ips: vec![ip.to_string()],
        pods_dir: data_dir.join("pods"),
        logs_dir: data_dir.join("logs"),
        data_dir,
        machine: machine.clone(),
        cri: cri.clone(),
        cgroups,
        client: client.clone(),
        events: events.clone(),
        services,
        cluster_dns: vec![identity.cluster_dns.clone()],
        cluster_domain: identity.cluster_domain.clone(),
        image_gc_percent: args.image_gc_high_threshold_percent,
        eviction_disk_percent: args.eviction_hard_nodefs_percent,
    });
    let table = PodTable::default();
    tokio::spawn(serve(inbound, Arc::new(Kubelet::new(Arc::clone(&host), table.clone()))));
    tokio::spawn(node::keep(client, options, machine, cri, net_rx, events));
    tokio::spawn(gc::keep(Arc::clone(&host), table.clone()));
    tokio::spawn(Manager::new(host, table).run(pods));

    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        result = tokio::signal::ctrl_c() => result.context("wait for a signal")?,
    }
    tracing::info!("the agent stops; containers go on");
    Ok(())
}

fn start_net(
    identity: &Identity,
    args: &NodeArgs,
    name: &str,
    ip: IpAddr,
    data_dir: &Path,
    client: &kube::Client,
    services: watch::Receiver<watching::Set<Service>>,
    link: Link,
    status: watch::Sender<NetStatus>,
) -> anyhow::Result<()> {
    let IpAddr::V4(ip) = ip else { anyhow::bail!("--node-ip must be an IPv4 address") };
    let mut config = NetConfig::new(name, ip);
    let parse = |what: &str, text: &str| format!("the cluster's {what} {text:?} is not understood");
    config.service_cidr =
        identity.service_cidr.parse().with_context(|| parse("serviceCidr", &identity.service_cidr))?;
    config.cluster_dns = identity.cluster_dns.parse().with_context(|| parse("clusterDns", &identity.cluster_dns))?;
    config.cluster_domain.clone_from(&identity.cluster_domain);
    config.cni_conf_dir.clone_from(&args.cni_conf_dir);
    config.cni_state_dir = data_dir.join("cni");
    let slices = watching::follow::<EndpointSlice>(Api::all(client.clone()), None);
    let nodes = watching::follow::<Node>(Api::all(client.clone()), None);
    let (view_tx, view_rx) = watch::channel(None);
    tokio::spawn(join_view(services, slices, nodes, view_tx));
    tokio::spawn(galley_node_net::run(config, view_rx, Arc::new(link), status, std::future::pending::<()>()));
    Ok(())
}

/// Two agents of one node would take the connection from each other for ever: the second waits for the first to end, a while.
async fn lock(data_dir: &Path) -> anyhow::Result<std::fs::File> {
    let path = data_dir.join("agent.lock");
    let file = std::fs::File::create(&path).with_context(|| format!("open {}", path.display()))?;
    let deadline = tokio::time::Instant::now() + LOCK_LIMIT;
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return Err(error).with_context(|| format!("another agent runs on {}", data_dir.display())),
        }
    }
}

/// Answers the streams that the control plane opens.
async fn serve(mut inbound: mpsc::Receiver<Inbound>, kubelet: Arc<Kubelet>) {
    while let Some(Inbound { header, stream }) = inbound.recv().await {
        match header.parse::<Header>() {
            Ok(Header::Kubelet) => {
                tokio::spawn(Arc::clone(&kubelet).serve(stream));
            }
            Ok(Header::Dial { host, port }) => {
                tokio::spawn(dial(stream, host, port));
            }
            Ok(Header::Api | Header::Kubernetes) | Err(_) => {
                tracing::warn!(header, "the control plane opened a stream of an unknown kind");
            }
        }
    }
}

async fn dial(mut stream: TunnelStream, host: String, port: u16) {
    let connected = tokio::time::timeout(DIAL, TcpStream::connect((host.as_str(), port))).await;
    let mut target = match connected {
        Ok(Ok(target)) => target,
        Ok(Err(error)) => {
            let _ = write_line(&mut stream, &format!("error: dial tcp {host}:{port}: {error}")).await;
            return;
        }
        Err(_) => {
            let _ = write_line(&mut stream, &format!("error: dial tcp {host}:{port}: i/o timeout")).await;
            return;
        }
    };
    if write_line(&mut stream, "ok").await.is_ok() {
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut target).await;
    }
}

/// Puts the three sets together once all are there, and again whenever one changes.
async fn join_view(
    mut services: watch::Receiver<watching::Set<Service>>,
    mut slices: watch::Receiver<watching::Set<EndpointSlice>>,
    mut nodes: watch::Receiver<watching::Set<Node>>,
    view: watch::Sender<Option<ClusterView>>,
) {
    loop {
        let sets = (
            services.borrow_and_update().clone(),
            slices.borrow_and_update().clone(),
            nodes.borrow_and_update().clone(),
        );
        if let (Some(services), Some(slices), Some(nodes)) = sets {
            view.send_replace(Some(ClusterView {
                services: services.to_vec(),
                endpoint_slices: slices.to_vec(),
                nodes: nodes.to_vec(),
            }));
        }
        let changed = tokio::select! {
            r = services.changed() => r,
            r = slices.changed() => r,
            r = nodes.changed() => r,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// The address from which this machine reaches the control plane. Connecting a UDP socket sends nothing.
fn default_ip(server: &str) -> anyhow::Result<IpAddr> {
    let server = server.trim_start_matches("https://").trim_end_matches('/');
    let server = if server.contains(':') { server.to_owned() } else { format!("{server}:443") };
    let server = server.as_str();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(server).with_context(|| format!("find the way to {server}"))?;
    Ok(socket.local_addr()?.ip())
}
