//! From Services and EndpointSlices to 'this address and port is answered by these endpoints'.
//!
//! One [`Frontend`] is one port of one Service, with everything that the rules need and nothing of the API's shape. The rules of
//! choosing endpoints follow the Kubernetes pages on EndpointSlice conditions and on traffic policies: ready endpoints; when there
//! is none, those that are terminating but still serving, so that a rolling restart of the last endpoint loses no connection.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Deref;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// A Service that another proxy is responsible for carries this label.
const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// An EndpointSlice names its Service by this label.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The API's default of `sessionAffinityConfig.clientIP.timeoutSeconds`: three hours.
const AFFINITY_DEFAULT_SECONDS: u32 = 10_800;

/// The transport of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// From the API's text, where nothing means TCP.
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// As nftables, conntrack and DNS write it.
    pub fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.lower())
    }
}

/// Whom a frontend asks: all endpoints, or only those on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrafficPolicy {
    Cluster,
    Local,
}

impl TrafficPolicy {
    fn parse(text: Option<&str>) -> Self {
        if text == Some("Local") { Self::Local } else { Self::Cluster }
    }
}

/// One port of one Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    pub namespace: String,
    pub service: String,
    /// The port's name; empty where the Service has only one.
    pub port_name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub cluster_ip: Ipv4Addr,
    /// The port on every node's addresses.
    pub node_port: Option<u16>,
    /// Addresses of load balancers that pass packets through unchanged (`ipMode: VIP`).
    pub load_balancer_ips: Vec<Ipv4Addr>,
    /// Who may use them; empty is everybody.
    pub source_ranges: Vec<Ipv4Net>,
    /// `spec.externalIPs`; empty unless they were allowed.
    pub external_ips: Vec<Ipv4Addr>,
    pub external_policy: TrafficPolicy,
    pub internal_policy: TrafficPolicy,
    /// How many seconds a client stays with its endpoint.
    pub affinity_seconds: Option<u32>,
    /// Where the health of this node's endpoints is told to load balancers.
    pub health_check_node_port: Option<u16>,
    /// Endpoints of the whole cluster.
    pub endpoints: BTreeSet<SocketAddrV4>,
    /// Endpoints on this node.
    pub local_endpoints: BTreeSet<SocketAddrV4>,
}

/// What [`frontends`] needs to know about the node and the installation.
#[derive(Debug, Clone)]
pub struct FrontendOptions {
    /// This node, to tell local endpoints.
    pub node_name: String,
    /// ClusterIPs that this node answers itself (the `kubernetes` Service and cluster DNS): no rules are made for them.
    pub own_addresses: BTreeSet<Ipv4Addr>,
    /// Whether `spec.externalIPs` is followed. Off by default: anybody who may create a Service could take over an address
    /// (CVE-2020-8554).
    pub external_ips: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fitness {
    /// Answers, and was told to stop: used only where nothing better is.
    Terminating,
    Ready,
}

fn fitness(endpoint: &Endpoint) -> Option<Fitness> {
    let Some(conditions) = &endpoint.conditions else { return Some(Fitness::Ready) };
    if conditions.ready.unwrap_or(true) {
        return Some(Fitness::Ready);
    }
    // `serving` defaults to `ready` where it is not given, and `ready` is false here.
    let serving = conditions.serving.unwrap_or(false);
    (serving && conditions.terminating.unwrap_or(false)).then_some(Fitness::Terminating)
}

#[derive(Default)]
struct Candidates {
    ready: BTreeSet<SocketAddrV4>,
    terminating: BTreeSet<SocketAddrV4>,
}

impl Candidates {
    fn chosen(self) -> BTreeSet<SocketAddrV4> {
        if self.ready.is_empty() { self.terminating } else { self.ready }
    }

    fn add(&mut self, address: SocketAddrV4, fitness: Fitness) {
        match fitness {
            Fitness::Ready => self.ready.insert(address),
            Fitness::Terminating => self.terminating.insert(address),
        };
    }
}

/// The slices of each Service, by (namespace, name).
fn slices_by_service<S: Deref<Target = EndpointSlice>>(slices: &[S]) -> BTreeMap<(&str, &str), Vec<&EndpointSlice>> {
    let mut map: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let Some(service) = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME)) else {
            continue;
        };
        if slice.address_type == "IPv4" {
            map.entry((namespace, service)).or_default().push(slice);
        }
    }
    map
}

fn candidates(
    slices: &[&EndpointSlice],
    port_name: &str,
    protocol: Protocol,
    node_name: Option<&str>,
) -> BTreeSet<SocketAddrV4> {
    let mut found = Candidates::default();
    for slice in slices {
        let ports = slice.ports.iter().flatten().filter(|port| {
            port.name.as_deref().unwrap_or_default() == port_name
                && Protocol::parse(port.protocol.as_deref()) == Some(protocol)
        });
        for port in ports.filter_map(|port| u16::try_from(port.port?).ok()) {
            for endpoint in slice.endpoints.iter().flatten() {
                if node_name.is_some() && endpoint.node_name.as_deref() != node_name {
                    continue;
                }
                let Some(fitness) = fitness(endpoint) else { continue };
                // Only the first address counts: the others are reserved by the API and mean nothing.
                if let Some(address) = endpoint.addresses.first().and_then(|address| address.parse().ok()) {
                    found.add(SocketAddrV4::new(address, port), fitness);
                }
            }
        }
    }
    found.chosen()
}

fn load_balancer_ips(service: &Service) -> Vec<Ipv4Addr> {
    let Some(ingress) =
        service.status.as_ref().and_then(|status| status.load_balancer.as_ref()).and_then(|lb| lb.ingress.as_ref())
    else {
        return Vec::new();
    };
    // `ipMode: Proxy` asks that packets really go to the balancer: it ends connections or adds headers.
    ingress
        .iter()
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_ref()?.parse().ok())
        .collect()
}

fn port_number(number: Option<i32>) -> Option<u16> {
    number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0)
}

/// The ClusterIP that rules are made for; `None` for headless Services, `ExternalName`, and Services of another proxy.
fn proxied_cluster_ip(service: &Service, spec: &ServiceSpec) -> Option<Ipv4Addr> {
    let of_another = service.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(SERVICE_PROXY_NAME));
    if of_another || spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.iter()).find_map(|ip| ip.parse().ok())
}

/// Every proxied port of every Service, ordered by namespace, name and port, so that equal input gives equal output.
pub fn frontends<S, E>(services: &[S], slices: &[E], options: &FrontendOptions) -> Vec<Frontend>
where
    S: Deref<Target = Service>,
    E: Deref<Target = EndpointSlice>,
{
    let slices = slices_by_service(slices);
    let mut found = Vec::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let Some(cluster_ip) = proxied_cluster_ip(service, spec) else { continue };
        if options.own_addresses.contains(&cluster_ip) {
            continue;
        }
        let namespace = service.metadata.namespace.clone().unwrap_or_default();
        let name = service.metadata.name.clone().unwrap_or_default();
        let slices = slices.get(&(namespace.as_str(), name.as_str())).map(Vec::as_slice).unwrap_or_default();
        let balanced = spec.type_.as_deref() == Some("LoadBalancer");
        let exposed = balanced || spec.type_.as_deref() == Some("NodePort");
        let external_policy = TrafficPolicy::parse(spec.external_traffic_policy.as_deref());
        let affinity_seconds = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
            let configured =
                spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
            configured.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(AFFINITY_DEFAULT_SECONDS)
        });
        for port in spec.ports.iter().flatten() {
            let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else { continue };
            let Some(number) = port_number(Some(port.port)) else { continue };
            let port_name = port.name.clone().unwrap_or_default();
            found.push(Frontend {
                endpoints: candidates(slices, &port_name, protocol, None),
                local_endpoints: candidates(slices, &port_name, protocol, Some(&options.node_name)),
                namespace: namespace.clone(),
                service: name.clone(),
                port_name,
                protocol,
                port: number,
                cluster_ip,
                node_port: if exposed { port_number(port.node_port) } else { None },
                load_balancer_ips: if balanced { load_balancer_ips(service) } else { Vec::new() },
                source_ranges: spec
                    .load_balancer_source_ranges
                    .iter()
                    .flatten()
                    .filter_map(|range| range.trim().parse::<Ipv4Net>().ok())
                    .map(|range| range.trunc())
                    .collect(),
                external_ips: if options.external_ips {
                    spec.external_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect()
                } else {
                    Vec::new()
                },
                external_policy,
                internal_policy: TrafficPolicy::parse(spec.internal_traffic_policy.as_deref()),
                affinity_seconds,
                health_check_node_port: if balanced && external_policy == TrafficPolicy::Local {
                    port_number(spec.health_check_node_port)
                } else {
                    None
                },
            });
        }
    }
    found.sort_by(|a, b| {
        (&a.namespace, &a.service, &a.port_name, a.protocol, a.port).cmp(&(
            &b.namespace,
            &b.service,
            &b.port_name,
            b.protocol,
            b.port,
        ))
    });
    found
}

/// What a health-check node port answers for one Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceHealth {
    pub namespace: String,
    pub service: String,
    /// How many endpoints of the Service this node has; none is 'send nothing here'.
    pub local_endpoints: usize,
}

/// The health-check node ports that must be listened on.
pub fn health_checks(frontends: &[Frontend]) -> BTreeMap<u16, ServiceHealth> {
    let mut ports: BTreeMap<u16, ServiceHealth> = BTreeMap::new();
    for frontend in frontends {
        let Some(port) = frontend.health_check_node_port else { continue };
        let hosts: BTreeSet<_> = frontend.local_endpoints.iter().map(|endpoint| endpoint.ip()).collect();
        let health = ports.entry(port).or_insert_with(|| ServiceHealth {
            namespace: frontend.namespace.clone(),
            service: frontend.service.clone(),
            local_endpoints: 0,
        });
        health.local_endpoints = health.local_endpoints.max(hosts.len());
    }
    ports
}
