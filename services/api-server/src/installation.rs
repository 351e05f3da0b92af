//! What the installation has once, kept in the store under the master key: its CA.

use galley_store::{Store, StoreError};
use jiff::Timestamp;

use crate::pki::{Authority, PkiError, authority_create};

/// Name of the value in the store: the CA's certificate and key, PEM after PEM.
const CA: &str = "certificate-authority";

/// Why the installation's CA is not there.
#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    /// The store says no.
    #[error("the installation's CA cannot be read or kept")]
    Store(#[from] StoreError),
    /// It cannot be made or used.
    #[error("the installation's CA is unusable")]
    Pki(#[from] PkiError),
    /// What is kept under its name is something else.
    #[error("the installation's CA is malformed")]
    Malformed,
}

/// The CA that signs the management certificate; made when it is not there. All replicas get the same.
pub async fn authority(store: &Store, now: Timestamp) -> Result<Authority, InstallationError> {
    let new = authority_create("galley", now)?;
    let proposed = format!("{}\0{}", new.certificate, new.key);
    let kept = store.installation_value(CA, proposed.as_bytes()).await?;
    let kept = String::from_utf8(kept).map_err(|_| InstallationError::Malformed)?;
    let (certificate, key) = kept.split_once('\0').ok_or(InstallationError::Malformed)?;
    Ok(Authority::open(certificate, key)?)
}
