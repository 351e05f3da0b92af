//! The loop that keeps the node's network as the cluster says.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use galley_node_plan::net::cni::Attachment;
use galley_node_plan::net::conntrack::{UdpServices, stale_flows, udp_services};
use galley_node_plan::net::frontends::{FrontendOptions, frontends, health_checks};
use galley_node_plan::net::overlay::{TABLE as NET_TABLE, masquerade, peers};
use galley_node_plan::net::proxy::{ProxyOptions, TABLE as PROXY_TABLE, ruleset};
use galley_node_plan::net::zone::Zone;
use galley_node_plan::net::{node_name, pod_cidr};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cni::CniError;
use crate::command::{self, CommandError};
use crate::dns::Upstream;
use crate::health::HealthPorts;
use crate::host::{self, HostError};
use crate::nft::Table;
use crate::{ClusterView, Dialer, NetConfig, NetStatus, apiserver, cni, conntrack, dns, nft, overlay};

/// Changes that come within this time are applied together: a rollout is many, and each costs a process.
const GATHER: Duration = Duration::from_millis(20);
/// How often the kernel is looked at for changes that somebody else made. Reading the rules of 5,000 Services takes seconds.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// After a failure.
const RETRY: Duration = Duration::from_secs(2);
/// Where pods reach the API server at the `kubernetes` Service's address: the Service's port, and the one that the Service's
/// endpoint names, for those who read endpoints and connect by themselves.
const API_PORTS: [u16; 2] = [443, 6443];
/// Until a port is free that an earlier agent still holds.
const REBIND: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error("the node is not ready for pods' network")]
    Host(#[source] HostError),
    #[error("pods of other nodes cannot be reached")]
    Overlay(#[source] CommandError),
    #[error("pods cannot reach the outside")]
    Masquerade(#[source] CommandError),
    #[error("Services are not up to date")]
    Services(#[source] CommandError),
    #[error("containerd was not told of the network")]
    Cni(#[source] CniError),
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

/// Runs the node's network until `shutdown` resolves.
///
/// `view` is `None` until the caller has listed Services, EndpointSlices and Nodes for the first time: what an earlier agent
/// set up stays untouched until then. Failures are retried and told in `status`; nothing that fails here ends the agent, and
/// what is set up stays when it ends.
pub async fn run<D: Dialer>(
    config: NetConfig,
    view: watch::Receiver<Option<ClusterView>>,
    dialer: Arc<D>,
    status: watch::Sender<NetStatus>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let (zone, zone_reader) = watch::channel(None);
    let dns_address = SocketAddrV4::new(config.cluster_dns, 53);
    let [service, endpoint] = API_PORTS.map(|port| SocketAddrV4::new(config.kubernetes_ip(), port));
    let upstream = Arc::new(Upstream::new(config.resolv_conf.clone(), config.service_cidr));
    let domain: Arc<str> = config.cluster_domain.trim_end_matches('.').to_ascii_lowercase().into();
    let names = || dns::serve(dns_address, zone_reader.clone(), domain.clone(), upstream.clone());
    let names = forever("cluster DNS", names);
    let api = |address| {
        let dialer = dialer.clone();
        forever("the way to the API server", move || apiserver::serve(address, dialer.clone()))
    };
    let keep = async {
        let attachment = prepare(&config, &status).await;
        let state = State {
            config: &config,
            attachment,
            zone,
            net: Table::default(),
            proxy: Table::default(),
            udp: None,
            health: HealthPorts::default(),
        };
        tokio::join!(state.keep(view, &status), names, api(service), api(endpoint))
    };
    tokio::select! {
        _ = keep => {}
        () = shutdown => {}
    }
}

/// Repeats a server that ended.
async fn forever<F: Future<Output = std::io::Error>>(what: &str, serve: impl Fn() -> F) {
    let mut told = false;
    loop {
        let error = serve().await;
        if !told {
            tracing::warn!(%error, "{what} is not served; trying on");
            told = true;
        }
        tokio::time::sleep(REBIND).await;
    }
}

async fn prepare(config: &NetConfig, status: &watch::Sender<NetStatus>) -> Attachment {
    loop {
        let prepared = async {
            let attachment = host::prepare().await?;
            host::service_link(&[config.cluster_dns, config.kubernetes_ip()]).await?;
            Ok(attachment)
        };
        match prepared.await {
            Ok(attachment) => return attachment,
            Err(error) => tell(status, NetStatus::NotReady(chain(&SyncError::Host(error)))),
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn tell(status: &watch::Sender<NetStatus>, now: NetStatus) {
    status.send_if_modified(|before| {
        if *before == now {
            return false;
        }
        match &now {
            NetStatus::Ready => tracing::info!("the network is ready"),
            NetStatus::NotReady(reason) => tracing::warn!(%reason, "the network is not ready"),
        }
        *before = now;
        true
    });
}

struct State<'a> {
    config: &'a NetConfig,
    attachment: Attachment,
    zone: watch::Sender<Option<Arc<Zone>>>,
    net: Table,
    proxy: Table,
    /// `None` until the first look: what an earlier agent left is not known.
    udp: Option<UdpServices>,
    health: HealthPorts,
}

impl State<'_> {
    async fn keep(mut self, mut view: watch::Receiver<Option<ClusterView>>, status: &watch::Sender<NetStatus>) {
        let mut look_again = Instant::now() + LOOK_AGAIN;
        loop {
            let current = view.borrow_and_update().clone();
            let wake = match current {
                None => {
                    tell(status, NetStatus::NotReady("the cluster's Services and nodes are not known yet".into()));
                    look_again
                }
                Some(current) => {
                    if Instant::now() >= look_again {
                        self.net.forget();
                        self.proxy.forget();
                        look_again = Instant::now() + LOOK_AGAIN;
                    }
                    match self.sync(&current).await {
                        Ok(now) => {
                            tell(status, now);
                            look_again
                        }
                        Err(error) => {
                            tell(status, NetStatus::NotReady(chain(&error)));
                            Instant::now() + RETRY
                        }
                    }
                }
            };
            tokio::select! {
                changed = view.changed() => match changed {
                    Ok(()) => tokio::time::sleep(GATHER).await,
                    // Nobody will change anything any more, but the kernel's state is still looked after.
                    Err(_) => tokio::time::sleep_until(wake).await,
                },
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    async fn sync(&mut self, view: &ClusterView) -> Result<NetStatus, SyncError> {
        let config = self.config;
        let zone = Zone::new(
            &config.cluster_domain,
            config.cluster_dns,
            config.service_cidr,
            &view.services,
            &view.endpoint_slices,
        );
        self.zone.send_replace(Some(Arc::new(zone)));

        let own = view.nodes.iter().find(|node| node_name(node) == config.node_name);
        let own_pod_cidr = own.and_then(|node| pod_cidr(node));
        let pod_cidrs: BTreeSet<_> = view.nodes.iter().filter_map(|node| pod_cidr(node)).collect();
        self.sync_services(
            view,
            &ProxyOptions { service_cidr: config.service_cidr, pod_cidrs: pod_cidrs.clone(), own_pod_cidr },
        )
        .await?;

        let Some(own_pod_cidr) = own_pod_cidr else {
            return Ok(NetStatus::NotReady("the node has no podCIDR yet".into()));
        };
        let uplink = host::uplink(config.node_ip).await.map_err(SyncError::Host)?;
        let peers = peers(&view.nodes, &config.node_name);
        overlay::sync(config, &uplink, own_pod_cidr, &peers).await.map_err(SyncError::Overlay)?;
        self.net.sync(&masquerade(own_pod_cidr, &pod_cidrs)).await.map_err(SyncError::Masquerade)?;
        // Last: once the list is there, containerd starts pods.
        let mtu = overlay::pod_mtu(config, &uplink);
        cni::configure(config, own_pod_cidr, mtu, self.attachment).await.map_err(SyncError::Cni)?;
        Ok(NetStatus::Ready)
    }

    async fn sync_services(&mut self, view: &ClusterView, options: &ProxyOptions) -> Result<(), SyncError> {
        let frontends = frontends(
            &view.services,
            &view.endpoint_slices,
            &FrontendOptions {
                node_name: self.config.node_name.clone(),
                own_addresses: [self.config.cluster_dns, self.config.kubernetes_ip()].into(),
                external_ips: self.config.external_ips,
            },
        );
        self.proxy.sync(&ruleset(&frontends, options)).await.map_err(SyncError::Services)?;
        let udp = udp_services(&frontends);
        if let Some(before) = &self.udp {
            conntrack::forget(&stale_flows(before, &udp)).await;
        }
        self.udp = Some(udp);
        self.health.sync(health_checks(&frontends));
        Ok(())
    }
}

/// Removes everything that [`run`] made: nftables tables, links, addresses, routes, the CNI network list.
pub async fn cleanup(config: &NetConfig) {
    nft::cleanup(PROXY_TABLE).await;
    nft::cleanup(NET_TABLE).await;
    overlay::cleanup().await;
    cni::cleanup(config).await;
    let _ = command::ip(&format!("link del {}", host::SERVICE_LINK)).await;
}
