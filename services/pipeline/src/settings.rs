//! A cluster's address ranges and certificate authority: what is decided when the cluster is made.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::Ipv4Net;

/// What the API and the controllers need to know of a cluster beside its objects.
#[derive(Debug, Clone)]
pub struct Settings {
    /// ClusterIPs come from here; the first address is the `kubernetes` Service's.
    pub service_cidr: Ipv4Net,
    /// The cluster DNS's Service address, never given to another Service.
    pub cluster_dns: Ipv4Addr,
    /// NodePorts come from here.
    pub node_ports: RangeInclusive<u16>,
    /// Each node gets a /24 of this for its pods.
    pub pod_cidr: Ipv4Net,
    /// The cluster's CA certificate (PEM), published to pods as `kube-root-ca.crt`. Empty: nothing is published.
    pub root_ca: Arc<str>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            service_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16),
            cluster_dns: Ipv4Addr::new(10, 96, 0, 10),
            node_ports: 30000..=32767,
            pod_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16),
            root_ca: "".into(),
        }
    }
}

impl Settings {
    /// The `kubernetes` Service's ClusterIP: the first address of the range.
    pub fn kubernetes_ip(&self) -> Ipv4Addr {
        self.service_cidr.hosts().next().unwrap_or(self.service_cidr.addr())
    }
}
