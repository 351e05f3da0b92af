//! Writes the CNI network list. containerd watches the directory: the node's network is 'ready' for it once the file is there.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use galley_node_plan::net::cni::{Attachment, BRIDGE, network_list};
use ipnet::Ipv4Net;

use crate::NetConfig;
use crate::command;

/// The file's name: early in the alphabet, because containerd takes the first.
const FILE: &str = "10-galley.conflist";

/// The network list could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the CNI network list {} cannot be written", path.display())]
pub struct CniError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Makes the file say this; leaves it alone when it already does.
pub async fn configure(
    config: &NetConfig,
    pod_cidr: Ipv4Net,
    mtu: u32,
    attachment: Attachment,
) -> Result<(), CniError> {
    let list = network_list(pod_cidr, mtu, attachment, &config.cni_state_dir);
    let text = format!("{list:#}\n");
    let path = config.cni_conf_dir.join(FILE);
    if tokio::fs::read_to_string(&path).await.is_ok_and(|found| found == text) {
        return Ok(());
    }
    let target = path.clone();
    let written = tokio::task::spawn_blocking(move || write_atomically(&target, text.as_bytes())).await;
    written.map_err(io::Error::other).and_then(|result| result).map_err(|source| CniError { path, source })
}

/// Removes the file and the bridge.
pub async fn cleanup(config: &NetConfig) {
    let _ = tokio::fs::remove_file(config.cni_conf_dir.join(FILE)).await;
    let _ = command::ip(&format!("link del {BRIDGE}")).await;
    let _ = tokio::fs::remove_dir_all(&config.cni_state_dir).await;
}

/// Readers see the old content or the new, also after a power failure.
fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(directory)?;
    // containerd reads only known endings, so that it never sees this one.
    let temporary = path.with_extension("tmp");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    std::fs::File::open(directory)?.sync_all()
}
