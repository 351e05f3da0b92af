//! Services as nftables: from [`Frontend`]s to the table `galley-proxy`.
//!
//! ```text
//!  prerouting/output (nat) ──► services ──┬─ service-ips        ip . proto . port ──► svc-… | loc-… | ext-…
//!                                         └─ service-nodeports  proto . port      ──► ext-…
//!   svc-…  one of all endpoints        dnat to numgen random mod N map { … }
//!   loc-…  one of this node's
//!   ext-…  traffic from outside: masquerade, then svc-… (policy Cluster); or loc-… (policy Local)
//!   end-…  one endpoint; only Services with session affinity have these, each with the set of clients that stick to it
//!  prerouting -110 (filter)   firewall-ips: source ranges of load balancers
//!  input, forward, output     no-endpoint-ips, no-endpoint-nodeports: reject, so that clients fail at once
//!  postrouting (nat)          masquerade what was marked, and pods that reach themselves through a Service
//! ```
//!
//! One lookup finds the Service whatever their number, and one rule holds all endpoints of a Service: a changed endpoint rewrites
//! one chain of one rule. A packet's first lookup decides for its connection; conntrack does the rest.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;

use super::fnv1a;
use super::frontends::{Frontend, TrafficPolicy};
use super::nftables::{CollectionKind, Ruleset};

/// The table's name.
pub const TABLE: &str = "galley-proxy";

/// The mark of packets whose source must become this node's, so that the answer comes back through it. The bit that
/// kube-proxy uses for the same.
const MASQUERADE_MARK: &str = "0x4000";

/// nftables cuts names at 127 bytes; the prefix and the hash keep what is left unique.
const NAME_MAX: usize = 100;

/// What [`ruleset`] needs to know about the node and the cluster.
#[derive(Debug, Clone)]
pub struct ProxyOptions {
    /// The range that ClusterIPs come from.
    pub service_cidr: Ipv4Net,
    /// Pod ranges of all nodes, to tell pods' traffic from others'.
    pub pod_cidrs: BTreeSet<Ipv4Net>,
    /// This node's pod range.
    pub own_pod_cidr: Option<Ipv4Net>,
}

struct Names {
    suffix: String,
}

impl Names {
    fn of(frontend: &Frontend) -> Self {
        let Frontend { namespace, service, port_name, protocol, port, .. } = frontend;
        let hash = fnv1a(&[namespace, service, port_name, protocol.lower(), &port.to_string()]);
        let mut suffix = format!("{hash:016x}-{namespace}/{service}/{protocol}/{port_name}");
        suffix.truncate(NAME_MAX);
        Self { suffix }
    }

    fn cluster(&self) -> String {
        format!("svc-{}", self.suffix)
    }

    fn local(&self) -> String {
        format!("loc-{}", self.suffix)
    }

    fn external(&self) -> String {
        format!("ext-{}", self.suffix)
    }

    fn firewall(&self) -> String {
        format!("fw-{}", self.suffix)
    }

    fn endpoint(&self, endpoint: SocketAddrV4) -> String {
        let hash = fnv1a(&[&self.suffix]);
        format!("end-{hash:016x}-{}/{}", endpoint.ip(), endpoint.port())
    }

    /// The clients of an endpoint. The timeout is part of the name, because a set's cannot be changed.
    fn clients(&self, endpoint: SocketAddrV4, seconds: u32) -> String {
        let hash = fnv1a(&[&self.suffix]);
        format!("aff-{hash:016x}-{}/{}/{seconds}", endpoint.ip(), endpoint.port())
    }
}

/// What becomes of packets that no endpoint can take.
#[derive(Clone, Copy)]
enum Refusal {
    /// There is no endpoint at all: tell the client.
    Reject,
    /// Another node has one, and the policy forbids this one to forward: stay silent, as the API promises.
    Drop,
}

impl Refusal {
    fn verdict(self) -> String {
        match self {
            Self::Reject => "goto refuse".into(),
            Self::Drop => "drop".into(),
        }
    }
}

/// The whole table.
pub fn ruleset(frontends: &[Frontend], options: &ProxyOptions) -> Ruleset {
    let mut rules = skeleton(options);
    for frontend in frontends {
        service_port(&mut rules, frontend, options);
    }
    rules
}

fn set_of<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    format!("{{ {} }}", values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(", "))
}

fn skeleton(options: &ProxyOptions) -> Ruleset {
    let mut rules = Ruleset::new(TABLE);
    let by_ip = "type ipv4_addr . inet_proto . inet_service : verdict;";
    let by_port = "type inet_proto . inet_service : verdict;";
    rules.collection(CollectionKind::Set, "cluster-ips", "type ipv4_addr;");
    rules.collection(CollectionKind::Set, "hairpin", "type ipv4_addr . ipv4_addr;");
    rules.collection(CollectionKind::Map, "service-ips", by_ip);
    rules.collection(CollectionKind::Map, "service-nodeports", by_port);
    rules.collection(CollectionKind::Map, "no-endpoint-ips", by_ip);
    rules.collection(CollectionKind::Map, "no-endpoint-nodeports", by_port);
    rules.collection(CollectionKind::Map, "firewall-ips", by_ip);

    let ip_key = "ip daddr . meta l4proto . th dport";
    let port_key = "meta l4proto . th dport";
    // 127.0.0.0/8 is left out: packets with such a source cannot leave the loopback link.
    let own_address = "ip daddr != 127.0.0.0/8 fib daddr type local";
    let from_pods = if options.pod_cidrs.is_empty() {
        String::new()
    } else {
        format!("ip saddr != {} ", set_of(&options.pod_cidrs))
    };
    rules.chain("refuse", vec!["reject".into()]);
    rules.chain(
        "services",
        vec![
            format!("{from_pods}ip daddr @cluster-ips meta mark set meta mark | {MASQUERADE_MARK}"),
            format!("{ip_key} vmap @service-ips"),
            format!("{own_address} {port_key} vmap @service-nodeports"),
        ],
    );
    rules.base_chain(
        "nat-prerouting",
        "type nat hook prerouting priority -100; policy accept;",
        vec!["jump services".into()],
    );
    rules.base_chain("nat-output", "type nat hook output priority -100; policy accept;", vec!["jump services".into()]);
    rules.base_chain(
        "nat-postrouting",
        "type nat hook postrouting priority 100; policy accept;",
        vec![
            // The mark is taken off, so that an encapsulated packet is not masqueraded a second time.
            format!(
                "meta mark & {MASQUERADE_MARK} != 0 meta mark set meta mark ^ {MASQUERADE_MARK} masquerade fully-random"
            ),
            "ip saddr . ip daddr @hairpin masquerade fully-random".into(),
        ],
    );
    rules.base_chain(
        "filter-prerouting",
        "type filter hook prerouting priority -110; policy accept;",
        vec![format!("ct state new {ip_key} vmap @firewall-ips")],
    );
    rules.base_chain(
        "filter-input",
        "type filter hook input priority -10; policy accept;",
        vec![
            format!("ct state new {ip_key} vmap @no-endpoint-ips"),
            format!("ct state new {own_address} {port_key} vmap @no-endpoint-nodeports"),
        ],
    );
    rules.base_chain(
        "filter-forward",
        "type filter hook forward priority -10; policy accept;",
        vec![
            format!("ct state new {ip_key} vmap @no-endpoint-ips"),
            // What still has a Service's address here is for a port that no Service has.
            "ct state new ip daddr @cluster-ips goto refuse".into(),
            format!("ct state new ip daddr {} drop", options.service_cidr),
        ],
    );
    // After the node's own translation (-100), so that only what found no endpoint is refused.
    rules.base_chain(
        "filter-output",
        "type filter hook output priority -90; policy accept;",
        vec![
            format!("ct state new {ip_key} vmap @no-endpoint-ips"),
            "ct state new ip daddr @cluster-ips goto refuse".into(),
        ],
    );
    rules
}

fn service_port(rules: &mut Ruleset, frontend: &Frontend, options: &ProxyOptions) {
    let names = Names::of(frontend);
    let any = !frontend.endpoints.is_empty();
    let here = !frontend.local_endpoints.is_empty();
    let at = |ip: Ipv4Addr| format!("{ip} . {} . {}", frontend.protocol, frontend.port);
    let exposed: Vec<Ipv4Addr> = frontend.load_balancer_ips.iter().chain(&frontend.external_ips).copied().collect();
    let from_outside = frontend.node_port.is_some() || !exposed.is_empty();
    let local_inside = frontend.internal_policy == TrafficPolicy::Local;
    let local_outside = from_outside && frontend.external_policy == TrafficPolicy::Local;

    rules.element("cluster-ips", frontend.cluster_ip.to_string(), String::new());

    if any && (from_outside || !local_inside) {
        balance(rules, frontend, &names, &names.cluster(), &frontend.endpoints);
    }
    if here && (local_inside || local_outside) {
        balance(rules, frontend, &names, &names.local(), &frontend.local_endpoints);
    }
    // Only this node's pods can reach themselves through this node's rules.
    for endpoint in &frontend.local_endpoints {
        rules.element("hairpin", format!("{0} . {0}", endpoint.ip()), String::new());
    }

    match (local_inside, any, here) {
        (false, true, _) => rules.element("service-ips", at(frontend.cluster_ip), format!("goto {}", names.cluster())),
        (true, _, true) => rules.element("service-ips", at(frontend.cluster_ip), format!("goto {}", names.local())),
        (true, true, false) => rules.element("no-endpoint-ips", at(frontend.cluster_ip), Refusal::Drop.verdict()),
        (_, false, _) => rules.element("no-endpoint-ips", at(frontend.cluster_ip), Refusal::Reject.verdict()),
    }

    if from_outside && any {
        external(rules, frontend, &names, options);
        for ip in &exposed {
            rules.element("service-ips", at(*ip), format!("goto {}", names.external()));
        }
        if let Some(port) = frontend.node_port {
            let key = format!("{} . {port}", frontend.protocol);
            rules.element("service-nodeports", key, format!("goto {}", names.external()));
        }
    }
    let refusal = match (any, local_outside && !here) {
        (false, _) => Some(Refusal::Reject),
        (true, true) => Some(Refusal::Drop),
        (true, false) => None,
    };
    if let Some(refusal) = refusal {
        for ip in &exposed {
            rules.element("no-endpoint-ips", at(*ip), refusal.verdict());
        }
        if let Some(port) = frontend.node_port {
            rules.element("no-endpoint-nodeports", format!("{} . {port}", frontend.protocol), refusal.verdict());
        }
    }

    if !frontend.source_ranges.is_empty() && !frontend.load_balancer_ips.is_empty() {
        rules.chain(&names.firewall(), vec![format!("ip saddr != {} drop", set_of(merged(&frontend.source_ranges)))]);
        for ip in &frontend.load_balancer_ips {
            rules.element("firewall-ips", at(*ip), format!("goto {}", names.firewall()));
        }
    }
}

/// An anonymous set refuses overlapping ranges.
fn merged(ranges: &[Ipv4Net]) -> Vec<Ipv4Net> {
    Ipv4Net::aggregate(&ranges.to_vec())
}

/// How traffic from outside goes on to the endpoints.
fn external(rules: &mut Ruleset, frontend: &Frontend, names: &Names, options: &ProxyOptions) {
    let mut chain = Vec::new();
    match frontend.external_policy {
        TrafficPolicy::Cluster => {
            chain.push(format!("meta mark set meta mark | {MASQUERADE_MARK}"));
            chain.push(format!("goto {}", names.cluster()));
        }
        TrafficPolicy::Local => {
            // Pods and the node itself are inside the cluster, whatever address they used: all endpoints are theirs.
            if let Some(pods) = options.own_pod_cidr {
                chain.push(format!("ip saddr {pods} goto {}", names.cluster()));
            }
            chain.push(format!("fib saddr type local meta mark set meta mark | {MASQUERADE_MARK}"));
            chain.push(format!("fib saddr type local goto {}", names.cluster()));
            if !frontend.local_endpoints.is_empty() {
                chain.push(format!("goto {}", names.local()));
            }
        }
    }
    rules.chain(&names.external(), chain);
}

/// A chain that picks one of `endpoints`.
fn balance(rules: &mut Ruleset, frontend: &Frontend, names: &Names, chain: &str, endpoints: &BTreeSet<SocketAddrV4>) {
    let translate = |target: String| format!("meta l4proto {} dnat to {target}", frontend.protocol);
    let numbered = |value: &dyn Fn(&SocketAddrV4) -> String| {
        set_of(endpoints.iter().enumerate().map(|(index, endpoint)| format!("{index} : {}", value(endpoint))))
    };
    let count = endpoints.len();
    let Some(seconds) = frontend.affinity_seconds else {
        let rule = match (count, endpoints.first()) {
            (1, Some(only)) => translate(only.to_string()),
            _ => {
                let map = numbered(&|endpoint| format!("{} . {}", endpoint.ip(), endpoint.port()));
                translate(format!("numgen random mod {count} map {map}"))
            }
        };
        rules.chain(chain, vec![rule]);
        return;
    };
    let mut stick = Vec::new();
    for endpoint in endpoints {
        let (end, clients) = (names.endpoint(*endpoint), names.clients(*endpoint, seconds));
        rules.dynamic_set(&clients, &format!("type ipv4_addr; flags dynamic,timeout; timeout {seconds}s;"));
        // Going through the endpoint's chain again also renews the client's time.
        rules.chain(&end, vec![format!("update @{clients} {{ ip saddr }}"), translate(endpoint.to_string())]);
        stick.push(format!("ip saddr @{clients} goto {end}"));
    }
    let map = numbered(&|endpoint| format!("goto {}", names.endpoint(*endpoint)));
    stick.push(format!("numgen random mod {count} vmap {map}"));
    rules.chain(chain, stick);
}
