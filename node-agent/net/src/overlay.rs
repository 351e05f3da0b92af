//! Applies the paths to other nodes' pods.

use std::net::Ipv4Addr;

use galley_node_plan::net::overlay::{
    self, Mac, Paths, Peer, ROUTE_PROTOCOL, VXLAN_LINK, VXLAN_OVERHEAD, direct_paths, vxlan_paths,
};
use ipnet::Ipv4Net;
use serde_json::Value;

use crate::command::{self, CommandError};
use crate::host::Uplink;
use crate::{NetConfig, Overlay};

/// The MTU of pods' links.
pub fn pod_mtu(config: &NetConfig, uplink: &Uplink) -> u32 {
    match config.overlay {
        Overlay::Vxlan { .. } => uplink.mtu.saturating_sub(VXLAN_OVERHEAD),
        Overlay::Routes => uplink.mtu,
    }
}

/// Makes the kernel have paths to exactly these peers.
pub async fn sync(
    config: &NetConfig,
    uplink: &Uplink,
    own_pod_cidr: Ipv4Net,
    peers: &[Peer],
) -> Result<(), CommandError> {
    let (link, wanted, onlink) = match config.overlay {
        Overlay::Vxlan { vni, port } => {
            vxlan_link(vni, port, config.node_ip, own_pod_cidr, pod_mtu(config, uplink)).await?;
            (VXLAN_LINK, vxlan_paths(peers), true)
        }
        Overlay::Routes => {
            let _ = command::ip(&format!("link del {VXLAN_LINK}")).await;
            (uplink.name.as_str(), direct_paths(peers), false)
        }
    };
    let found = paths(link, matches!(config.overlay, Overlay::Vxlan { .. })).await?;
    let batches = overlay::diff(&wanted, &found, link, onlink);
    if !batches.bridge.is_empty() {
        command::run("bridge", &["-batch", "-"], &format!("{}\n", batches.bridge.join("\n"))).await?;
    }
    if !batches.ip.is_empty() {
        command::run("ip", &["-batch", "-"], &format!("{}\n", batches.ip.join("\n"))).await?;
    }
    Ok(())
}

async fn paths(link: &str, vxlan: bool) -> Result<Paths, CommandError> {
    let protocol = ROUTE_PROTOCOL.to_string();
    let routes = command::json("ip", &["-j", "-4", "route", "show", "dev", link, "proto", &protocol]).await?;
    if !vxlan {
        // Neighbours of a real link are the kernel's own business.
        return Ok(overlay::parse_paths(&routes, &Value::Null, &Value::Null));
    }
    let neighbours = command::json("ip", &["-j", "-4", "neigh", "show", "dev", link, "nud", "permanent"]).await?;
    let fdb = command::json("bridge", &["-j", "fdb", "show", "dev", link]).await?;
    Ok(overlay::parse_paths(&routes, &neighbours, &fdb))
}

async fn vxlan_link(
    vni: u32,
    port: u16,
    node_ip: Ipv4Addr,
    own_pod_cidr: Ipv4Net,
    mtu: u32,
) -> Result<(), CommandError> {
    let mac = Mac::of_node(node_ip);
    let found = command::json("ip", &["-j", "-d", "link", "show", VXLAN_LINK]).await.ok();
    let right = found.as_ref().and_then(|links| links.get(0)).map(|link| {
        let data = link.pointer("/linkinfo/info_data");
        let data = |key: &str| data.and_then(|data| data.get(key));
        data("id").and_then(Value::as_u64) == Some(vni.into())
            && data("port").and_then(Value::as_u64) == Some(port.into())
            && data("local").and_then(Value::as_str) == Some(&node_ip.to_string())
            && link.get("address").and_then(Value::as_str) == Some(&mac.to_string())
    });
    if right == Some(false) {
        command::ip(&format!("link del {VXLAN_LINK}")).await?;
    }
    if right != Some(true) {
        let options = format!("type vxlan id {vni} local {node_ip} dstport {port} nolearning");
        command::ip(&format!("link add {VXLAN_LINK} address {mac} {options}")).await?;
    }
    command::ip(&format!("link set {VXLAN_LINK} mtu {mtu} up")).await?;
    command::ip(&format!("addr replace {}/32 dev {VXLAN_LINK}", own_pod_cidr.network())).await
}

/// Removes the link, or the routes.
pub async fn cleanup() {
    let _ = command::ip(&format!("link del {VXLAN_LINK}")).await;
    let _ = command::ip(&format!("route flush proto {ROUTE_PROTOCOL}")).await;
}
