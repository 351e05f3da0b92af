//! Why a volume is not there. The texts are shown in `FailedMount` events.

use std::io;

/// A volume that cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("configmap {name:?} not found")]
    ConfigMapMissing { name: String },
    #[error("secret {name:?} not found")]
    SecretMissing { name: String },
    #[error("references non-existent {kind} key: {key}")]
    KeyMissing { kind: &'static str, key: String },
    #[error("no token of service account for volume {volume:?} yet")]
    TokenMissing { volume: String },
    #[error("persistentvolumeclaim {name:?} not found or not bound")]
    ClaimUnbound { name: String },
    #[error("unsupported fieldPath: {path}")]
    UnknownField { path: String },
    #[error("hostPath type check failed: {path} is not a {wanted}")]
    HostPathType { path: String, wanted: &'static str },
    #[error("volumes of this type are not supported by this node")]
    Unsupported,
    #[error("no volume {name:?} in the pod")]
    NoVolume { name: String },
    #[error("subPath {path:?} leaves its volume")]
    SubPathEscapes { path: String },
    #[error("subPathExpr {expression:?} needs a variable that is not set")]
    SubPathVariable { expression: String },
    #[error("{action} {path}: {source}")]
    Host {
        action: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
}

impl VolumeError {
    pub(crate) fn host(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Host { action, path, source }
    }
}

/// An error of one volume, as events name it.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
pub struct SetUpError {
    pub volume: String,
    #[source]
    pub source: VolumeError,
}
