//! The bridge, and each node's namespace and link. Every step looks first and makes only what is not there.

use std::net::Ipv4Addr;
use std::path::Path;

use crate::command::{ip, run};
use crate::config::LocalCloud;
use crate::error::LocalError;

/// Makes the bridge with its address, and lets nodes reach the world behind this machine.
pub fn ensure_bridge(cloud: &LocalCloud) -> Result<(), LocalError> {
    let bridge = cloud.bridge();
    if ip(&format!("link show {bridge}")).is_err() {
        ip(&format!("link add {bridge} type bridge"))?;
    }
    ip(&format!("addr replace {} dev {bridge}", cloud.subnet))?;
    ip(&format!("link set {bridge} up"))?;
    let path = Path::new("/proc/sys/net/ipv4/ip_forward");
    if !std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "1") {
        std::fs::write(path, "1").map_err(LocalError::file(path))?;
    }
    let (table, subnet) = (cloud.table(), cloud.subnet.trunc());
    let rules = format!(
        "add table ip {table}; flush table ip {table}; \
         add chain ip {table} postrouting {{ type nat hook postrouting priority 100; }}; \
         add rule ip {table} postrouting ip saddr {subnet} oifname != {{ \"{bridge}\", \"lo\" }} masquerade"
    );
    run("nft", &[&rules])?;
    firewall_holes(&bridge)
        .iter()
        .try_for_each(|rule| if iptables("-C", rule).is_ok() { Ok(()) } else { iptables("-I", rule) })
}

fn iptables(verb: &str, rule: &[&str; 5]) -> Result<(), LocalError> {
    run("iptables", &[&["-w", verb], rule.as_slice()].concat()).map(drop)
}

/// The rules without which this machine's firewall would cut the nodes off: Docker and ufw drop what they do not know. Nothing
/// where everything is let through anyway.
fn firewall_holes(bridge: &str) -> Vec<[&str; 5]> {
    let drops = |chain: &str| {
        let policy = format!("-P {chain} DROP");
        run("iptables", &["-w", "-S", chain]).is_ok_and(|rules| rules.lines().any(|line| line == policy))
    };
    let rules = [
        ["FORWARD", "-i", bridge, "-j", "ACCEPT"],
        ["FORWARD", "-o", bridge, "-j", "ACCEPT"],
        ["INPUT", "-i", bridge, "-j", "ACCEPT"],
    ];
    rules.into_iter().filter(|rule| drops(rule[0])).collect()
}

/// Removes the bridge; its nodes must be gone.
pub fn remove_bridge(cloud: &LocalCloud) {
    for rule in firewall_holes(&cloud.bridge()) {
        let _ = iptables("-D", &rule);
    }
    let _ = ip(&format!("link del {}", cloud.bridge()));
    let table = cloud.table();
    let _ = run("nft", &[&format!("add table ip {table}; delete table ip {table}")]);
}

/// Makes a node's namespace, with one link to the bridge.
pub fn ensure_node(cloud: &LocalCloud, node: &str, address: Ipv4Addr) -> Result<(), LocalError> {
    let namespace = cloud.namespace(node);
    let (link, bridge) = (cloud.link(address), cloud.bridge());
    if !namespace_path(cloud, node).exists() {
        ip(&format!("netns add {namespace}"))?;
    }
    ip(&format!("-n {namespace} link set lo up"))?;
    if ip(&format!("-n {namespace} link show eth0")).is_err() {
        // A link of the same name can only be the lost end of an earlier life.
        let _ = ip(&format!("link del {link}"));
        ip(&format!("link add {link} type veth peer name eth0 netns {namespace}"))?;
    }
    ip(&format!("link set {link} master {bridge} up"))?;
    ip(&format!("-n {namespace} addr replace {address}/{} dev eth0", cloud.subnet.prefix_len()))?;
    ip(&format!("-n {namespace} link set eth0 up"))?;
    ip(&format!("-n {namespace} route replace default via {}", cloud.gateway())).map(drop)
}

/// Where `ip netns` keeps the namespace.
pub fn namespace_path(cloud: &LocalCloud, node: &str) -> std::path::PathBuf {
    Path::new("/run/netns").join(cloud.namespace(node))
}

/// Unplugs a node: to the others it looks like one that lost its power.
pub fn unplug(cloud: &LocalCloud, address: Ipv4Addr) {
    let _ = ip(&format!("link set {} down", cloud.link(address)));
}

/// Removes a node's link and namespace.
pub fn remove_node(cloud: &LocalCloud, node: &str, address: Ipv4Addr) {
    let _ = ip(&format!("link del {}", cloud.link(address)));
    let _ = ip(&format!("netns del {}", cloud.namespace(node)));
}
