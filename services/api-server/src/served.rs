//! What serving a cluster needs beside its objects: its CA, its keys, its TLS configuration.

use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};

use galley_kube::Status;
use galley_pipeline::{TokenClaims, TokenSigner};
use galley_store::{Cluster, ClusterKeys};
use jiff::Timestamp;
use rcgen::KeyPair;
use rustls::ServerConfig;
use uuid::Uuid;

use crate::pki::{Authority, PkiError};
use crate::service_account::{Bound, Claims, KeyError, Reference, ServiceAccountKey};
use crate::tls::{self, PeerVerifier, TlsError};

/// A cluster's keys, ready for use. A few kilobytes; does not keep the cluster's objects in memory.
#[derive(Debug)]
pub struct ServedCluster {
    /// Its row.
    pub info: Cluster,
    /// Signs its clients' and servers' certificates.
    pub authority: Authority,
    /// Signs its service account tokens.
    pub tokens: Arc<ServiceAccountKey>,
    pub(crate) tls: Arc<ServerConfig>,
    pub(crate) verifier: Arc<PeerVerifier>,
}

/// Why a cluster cannot be served though its row is there.
#[derive(Debug, thiserror::Error)]
pub enum ServedError {
    /// Its CA is unusable.
    #[error("the cluster's CA is unusable")]
    Pki(#[from] PkiError),
    /// Its TLS configuration cannot be made.
    #[error("the cluster's TLS configuration cannot be made")]
    Tls(#[from] TlsError),
    /// Its service account key is unusable.
    #[error("the cluster's service account key is unusable")]
    Key(#[from] KeyError),
}

impl ServedCluster {
    /// `key` is the serving key, one for all clusters of a process.
    pub(crate) fn new(
        info: Cluster,
        keys: &ClusterKeys,
        key: &KeyPair,
        domain: &str,
        now: Timestamp,
    ) -> Result<Self, ServedError> {
        let authority = Authority::open(&info.ca_certificate, &keys.ca_key)?;
        let certificate = authority.server_certificate(key, &server_names(&info, domain), now)?;
        let verifier = PeerVerifier::new(&authority)?;
        let tls = tls::cluster(&verifier, certificate, &authority, key)?;
        let issuer = format!("https://kubernetes.default.svc.{}", info.network.cluster_domain);
        let tokens = Arc::new(ServiceAccountKey::open(&keys.service_account_key, issuer)?);
        Ok(Self { info, authority, tokens, tls, verifier })
    }
}

/// The names that clients may know the cluster's API by: from outside, from pods, on the node.
fn server_names(info: &Cluster, domain: &str) -> Vec<String> {
    let mut names = vec![format!("{}.{domain}", info.host_label)];
    names.extend(["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned));
    names.push(format!("kubernetes.default.svc.{}", info.network.cluster_domain));
    names.extend(first_address(&info.network.service_cidr).map(|a| a.to_string()));
    names.extend(["localhost", "127.0.0.1"].map(str::to_owned));
    names
}

/// The first address of the range is the `kubernetes` Service's.
fn first_address(cidr: &str) -> Option<Ipv4Addr> {
    let base: Ipv4Addr = cidr.split('/').next()?.parse().ok()?;
    Some(Ipv4Addr::from(u32::from(base).checked_add(1)?))
}

/// Signs what the pipeline's TokenRequests ask for.
///
/// Controllers may use a cluster before anybody has asked for its keys: they sign nothing.
#[derive(Debug, Default)]
pub(crate) struct Signer(OnceLock<Arc<ServiceAccountKey>>);

impl Signer {
    pub(crate) fn give(&self, key: &Arc<ServiceAccountKey>) {
        let _ = self.0.set(Arc::clone(key));
    }
}

impl TokenSigner for Signer {
    fn sign(&self, claims: &TokenClaims) -> Result<String, Status> {
        let key = self.0.get().ok_or_else(|| Status::internal("the cluster's keys are not loaded"))?;
        let bound = |kind: &str| {
            let bound = claims.bound.as_ref().filter(|bound| bound.kind == kind)?;
            Some(Reference { name: bound.name.clone(), uid: bound.uid.clone() })
        };
        let node = claims.node.as_ref().map(|(name, uid)| Reference { name: name.clone(), uid: uid.clone() });
        let claims = Claims {
            aud: claims.audiences.clone(),
            exp: claims.expires_at.as_second(),
            iat: claims.issued_at.as_second(),
            iss: key.issuer().to_owned(),
            jti: Uuid::new_v4().to_string(),
            kubernetes: Bound {
                namespace: claims.namespace.clone(),
                serviceaccount: Reference {
                    name: claims.service_account.clone(),
                    uid: claims.service_account_uid.clone(),
                },
                pod: bound("Pod"),
                secret: bound("Secret"),
                node: bound("Node").or(node),
            },
            nbf: claims.issued_at.as_second(),
            sub: format!("system:serviceaccount:{}:{}", claims.namespace, claims.service_account),
        };
        key.sign(&claims).ok_or_else(|| Status::internal("the token cannot be signed"))
    }

    fn default_audiences(&self) -> Vec<String> {
        self.0.get().map(|key| key.audiences()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::first_address;

    #[test]
    fn the_kubernetes_service_has_the_first_address() {
        assert_eq!(first_address("10.96.0.0/16").unwrap().to_string(), "10.96.0.1");
        assert!(first_address("none").is_none());
    }
}
