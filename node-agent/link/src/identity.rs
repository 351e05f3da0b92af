//! What makes this machine this node: kept in one file, so that key and certificate can never be of two different times.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

const FILE: &str = "identity.json";

/// A node of a cluster.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    pub node_name: String,
    pub cluster_id: String,
    pub cluster_name: String,
    /// `https://HOST:PORT`.
    pub server: String,
    /// What the server's certificate is for, and what the connection asks for (SNI).
    pub server_name: String,
    pub service_cidr: String,
    pub cluster_dns: String,
    pub cluster_domain: String,
    /// The cluster's authority, PEM.
    pub ca: String,
    /// PEM.
    pub certificate: String,
    /// PEM. Never leaves the node.
    pub key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { node_name, cluster_id, server, server_name, .. } = self;
        f.debug_struct("Identity")
            .field("node_name", node_name)
            .field("cluster_id", cluster_id)
            .field("server", server)
            .field("server_name", server_name)
            .finish_non_exhaustive()
    }
}

/// The node's identity cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("{} cannot be used", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file is damaged.
    #[error("{} is damaged; delete it and join again", path.display())]
    Damaged {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

impl Identity {
    /// The identity in this directory, if the machine has joined.
    pub fn load(data_dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = data_dir.join(FILE);
        match std::fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map(Some).map_err(|source| IdentityError::Damaged { path, source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(IdentityError::File { path, source }),
        }
    }

    /// Keeps the identity in this directory, readable for root only.
    pub fn save(&self, data_dir: &Path) -> Result<(), IdentityError> {
        let path = data_dir.join(FILE);
        let text =
            serde_json::to_vec_pretty(self).map_err(|source| IdentityError::Damaged { path: path.clone(), source })?;
        write_private(data_dir, &path, &text).map_err(|source| IdentityError::File { path, source })
    }

    /// From when to when the certificate is valid; `None` when it cannot be read.
    pub fn validity(&self) -> Option<(Timestamp, Timestamp)> {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes()).ok()?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).ok()?;
        let validity = parsed.validity();
        let time = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
        Some((time(validity.not_before)?, time(validity.not_after)?))
    }

    /// When to ask for the next certificate: when two thirds of the time are over, so that a control plane that is away for days
    /// costs no node.
    pub fn renewal(&self) -> Option<Timestamp> {
        let (from, to) = self.validity()?;
        let third = (to.as_second() - from.as_second()) / 3;
        Timestamp::from_second(to.as_second() - third).ok()
    }

    /// Whether the certificate is of no use any more.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.validity().is_none_or(|(_, to)| to <= now)
    }
}

/// Readers see the old content or the new, and nobody but root sees either.
fn write_private(directory: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let temporary = path.with_extension("tmp");
    let _ = std::fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}
