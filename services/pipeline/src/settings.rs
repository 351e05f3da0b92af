//! A cluster's address ranges.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

/// What the API needs to know of a cluster beside its objects.
#[derive(Debug, Clone)]
pub struct Settings {
    /// ClusterIPs come from here; the first address is the `kubernetes` Service's.
    pub service_cidr: Ipv4Net,
    /// The cluster DNS's Service address, never given to another Service.
    pub cluster_dns: Ipv4Addr,
    /// NodePorts come from here.
    pub node_ports: RangeInclusive<u16>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            service_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16),
            cluster_dns: Ipv4Addr::new(10, 96, 0, 10),
            node_ports: 30000..=32767,
        }
    }
}

impl Settings {
    /// The `kubernetes` Service's ClusterIP: the first address of the range.
    pub fn kubernetes_ip(&self) -> Ipv4Addr {
        self.service_cidr.hosts().next().unwrap_or(self.service_cidr.addr())
    }
}
