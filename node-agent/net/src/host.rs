//! What the node's kernel must be told before any pod runs: sysctls, and the link that carries the addresses which this node
//! answers itself.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use galley_node_plan::net::cni::Attachment;
use serde_json::Value;

use crate::command::{self, CommandError};

/// Carries 10.96.0.10 and 10.96.0.1, so that they are ordinary local addresses and need no translation.
pub const SERVICE_LINK: &str = "galley-svc";

/// Why the host could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A sysctl could not be written.
    #[error("{} cannot be set to {value}", path.display())]
    Sysctl {
        path: PathBuf,
        value: &'static str,
        #[source]
        source: io::Error,
    },
    /// A link or an address could not be made.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// No link has the node's address.
    #[error("no link of this node has the address {0}")]
    NoUplink(Ipv4Addr),
}

async fn sysctl(path: &str, value: &'static str) -> Result<(), HostError> {
    let path = Path::new("/proc/sys").join(path);
    if tokio::fs::read_to_string(&path).await.is_ok_and(|found| found.trim() == value) {
        return Ok(());
    }
    tokio::fs::write(&path, value).await.map_err(|source| HostError::Sysctl { path, value, source })
}

/// Sets the sysctls, and says how pods can be attached here.
pub async fn prepare() -> Result<Attachment, HostError> {
    sysctl("net/ipv4/ip_forward", "1").await?;
    // Loose: the answer to a packet that came through the VXLAN may leave by another link.
    sysctl("net/ipv4/conf/all/rp_filter", "2").await?;
    let bridge = "net/bridge/bridge-nf-call-iptables";
    if !Path::new("/proc/sys").join(bridge).exists() {
        // Fails where the kernel has it built in or not at all; what counts is whether the sysctl is there.
        let _ = command::run("modprobe", &["br_netfilter"], "").await;
    }
    Ok(match sysctl(bridge, "1").await {
        Ok(()) => Attachment::Bridge,
        Err(error) => {
            tracing::info!(%error, "no br_netfilter: pods get a link of their own instead of a bridge");
            Attachment::PointToPoint
        }
    })
}

/// Makes the link for addresses that this node answers itself, with exactly these addresses.
pub async fn service_link(addresses: &[Ipv4Addr]) -> Result<(), HostError> {
    if command::json("ip", &["-j", "link", "show", SERVICE_LINK]).await.is_err() {
        // A bridge without ports does the same where the kernel has no dummy links.
        if command::ip(&format!("link add {SERVICE_LINK} type dummy")).await.is_err() {
            command::ip(&format!("link add {SERVICE_LINK} type bridge")).await?;
        }
    }
    command::ip(&format!("link set {SERVICE_LINK} up")).await?;
    for address in addresses {
        command::ip(&format!("addr replace {address}/32 dev {SERVICE_LINK}")).await?;
    }
    Ok(())
}

/// The link that has the node's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    pub name: String,
    pub mtu: u32,
}

/// Finds it.
pub async fn uplink(node_ip: Ipv4Addr) -> Result<Uplink, HostError> {
    let links = command::json("ip", &["-j", "-4", "addr", "show", "to", &format!("{node_ip}/32")]).await?;
    // Links without the address are printed as empty objects.
    let found = links.as_array().into_iter().flatten().find_map(|link| {
        let name = link.get("ifname").and_then(Value::as_str)?.to_owned();
        let mtu = link.get("mtu").and_then(Value::as_u64).and_then(|mtu| u32::try_from(mtu).ok())?;
        Some(Uplink { name, mtu })
    });
    found.ok_or(HostError::NoUplink(node_ip))
}
