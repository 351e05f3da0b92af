//! Which UDP flows are stale after a change.
//!
//! A UDP 'connection' never ends while its client goes on sending, so conntrack would keep sending to an endpoint that is gone, or
//! keep dropping for a Service that had none when the first packet came. TCP clients see a reset and come again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use super::frontends::{Frontend, Protocol};

/// Where clients send to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    Address(Ipv4Addr, u16),
    /// Any address of the node.
    NodePort(u16),
}

/// The UDP destinations and who answers them.
pub type UdpServices = BTreeMap<Destination, BTreeSet<SocketAddrV4>>;

/// Flows to be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stale {
    /// Those that were translated to this endpoint.
    Translated(Destination, SocketAddrV4),
    /// All, because the first packets found no endpoint.
    Untranslated(Destination),
}

/// The UDP side of the Services.
pub fn udp_services(frontends: &[Frontend]) -> UdpServices {
    let mut services = UdpServices::new();
    for frontend in frontends.iter().filter(|frontend| frontend.protocol == Protocol::Udp) {
        let ips =
            std::iter::once(&frontend.cluster_ip).chain(&frontend.load_balancer_ips).chain(&frontend.external_ips);
        for ip in ips {
            services.insert(Destination::Address(*ip, frontend.port), frontend.endpoints.clone());
        }
        if let Some(port) = frontend.node_port {
            services.insert(Destination::NodePort(port), frontend.endpoints.clone());
        }
    }
    services
}

/// What to forget when the Services change from `before` to `after`.
pub fn stale_flows(before: &UdpServices, after: &UdpServices) -> BTreeSet<Stale> {
    let none = BTreeSet::new();
    let mut stale = BTreeSet::new();
    for (destination, endpoints) in before {
        let now = after.get(destination).unwrap_or(&none);
        stale.extend(endpoints.difference(now).map(|endpoint| Stale::Translated(*destination, *endpoint)));
    }
    for (destination, endpoints) in after {
        let had_none = before.get(destination).is_none_or(BTreeSet::is_empty);
        if had_none && !endpoints.is_empty() {
            stale.insert(Stale::Untranslated(*destination));
        }
    }
    stale
}
