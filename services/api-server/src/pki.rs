//! Certificates: the installation's CA, a CA for each cluster, and what they sign.
//!
//! All keys are ECDSA P-256: every TLS client knows it, and making one takes a tenth of a millisecond, so that a cluster's
//! PKI costs nothing noticeable. Private keys are kept by the store, encrypted; serving keys are never written down at all.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

/// Certificates are valid from a little before now, for clients whose clocks are late (kubeadm does the same); short-lived ones
/// from less, because their owners renew them by what is left of the whole.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// A CA outlives everything it signs; as kubeadm's.
const AUTHORITY_LIFETIME: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);
/// Serving certificates live in memory and are made anew when a process starts or a cluster is loaded.
const SERVER_LIFETIME: SignedDuration = SignedDuration::from_hours(365 * 24);

/// The name that replicas expect of each other. Below no domain that a cluster can have.
pub(crate) const PEER_NAME: &str = "replica.galley.internal";
/// The group of replicas' certificates: whatever else the installation's CA signs is no replica.
pub(crate) const PEER_GROUP: &str = "galley:replicas";

/// Why a key or certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A new key could not be made.
    #[error("a key cannot be made")]
    Key(#[source] rcgen::Error),
    /// A stored authority cannot be used.
    #[error("the authority's certificate or key is unusable")]
    Authority(#[source] rcgen::Error),
    /// A stored certificate is no PEM.
    #[error("the authority's certificate is no PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// A certificate could not be signed.
    #[error("a certificate for {subject:?} cannot be made")]
    Sign {
        /// Its common name.
        subject: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// A host name that no certificate can hold.
    #[error("{0:?} is no name for a certificate")]
    Name(String),
    /// A request that is malformed or not signed by its own key.
    #[error("the certificate signing request is invalid")]
    Request(#[source] rcgen::Error),
}

/// An authority about to be stored.
#[derive(Clone)]
pub struct NewAuthority {
    /// PEM.
    pub certificate: String,
    /// PEM, PKCS #8.
    pub key: String,
}

/// A client's certificate with its key, both PEM.
#[derive(Clone)]
pub struct ClientCredential {
    /// PEM.
    pub certificate: String,
    /// PEM, PKCS #8.
    pub key: String,
}

/// Makes a CA.
pub fn authority_create(common_name: &str, now: Timestamp) -> Result<NewAuthority, PkiError> {
    let key = key_create()?;
    let mut params = params(common_name, None, now, AUTHORITY_LIFETIME);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    let certificate =
        params.self_signed(&key).map_err(|source| PkiError::Sign { subject: common_name.to_owned(), source })?;
    Ok(NewAuthority { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Whether a certificate signing request (PEM) is well-formed and signed by its own key.
pub fn check_request(request: &str) -> Result<(), PkiError> {
    CertificateSigningRequestParams::from_pem(request).map(drop).map_err(PkiError::Request)
}

/// Makes a key pair.
pub fn key_create() -> Result<KeyPair, PkiError> {
    KeyPair::generate().map_err(PkiError::Key)
}

/// A CA, ready to sign.
pub struct Authority {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

impl Authority {
    /// From its PEM texts.
    pub fn open(certificate: &str, key: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key).map_err(PkiError::Authority)?;
        let issuer = Issuer::from_ca_cert_pem(certificate, key).map_err(PkiError::Authority)?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(PkiError::Pem)?;
        Ok(Self { certificate: der, pem: certificate.to_owned(), issuer })
    }

    /// DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// `sha256:` and the hex of the SHA-256 of the public key's DER: what an agent pins.
    pub fn hash(&self) -> String {
        spki_hash(&self.certificate)
    }

    /// A certificate for a server with these DNS names and addresses.
    pub fn server_certificate(
        &self,
        key: &KeyPair,
        names: &[String],
        now: Timestamp,
    ) -> Result<CertificateDer<'static>, PkiError> {
        let subject = names.first().map_or("galley", String::as_str);
        let mut params = params(subject, None, now, SERVER_LIFETIME);
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.parse::<IpAddr>() {
                Ok(address) => Ok(SanType::IpAddress(address)),
                Err(_) => {
                    let dns = name.as_str().try_into().map_err(|_| PkiError::Name(name.clone()))?;
                    Ok(SanType::DnsName(dns))
                }
            })
            .collect::<Result<_, PkiError>>()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let signed = params
            .signed_by(key, &self.issuer)
            .map_err(|source| PkiError::Sign { subject: subject.to_owned(), source })?;
        Ok(signed.into())
    }

    /// A certificate by which a replica of the installation is known to the others, on either side of a connection.
    pub(crate) fn peer_certificate(&self, key: &KeyPair, now: Timestamp) -> Result<CertificateDer<'static>, PkiError> {
        let mut params = params(PEER_NAME, Some(PEER_GROUP), now, SERVER_LIFETIME);
        let name = PEER_NAME.try_into().map_err(|_| PkiError::Name(PEER_NAME.to_owned()))?;
        params.subject_alt_names = vec![SanType::DnsName(name)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let signed = params
            .signed_by(key, &self.issuer)
            .map_err(|source| PkiError::Sign { subject: PEER_NAME.to_owned(), source })?;
        Ok(signed.into())
    }

    /// A certificate and key for a client: `user` becomes the CN, `group` the O.
    pub fn client_certificate(
        &self,
        user: &str,
        group: &str,
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<ClientCredential, PkiError> {
        let key = key_create()?;
        let signed = client_params(user, group, lifetime, now)
            .signed_by(&key, &self.issuer)
            .map_err(|source| PkiError::Sign { subject: user.to_owned(), source })?;
        Ok(ClientCredential { certificate: signed.pem(), key: key.serialize_pem() })
    }

    /// Signs the key in a request. Of the request only the key counts: the caller says who it is for.
    pub fn sign_request(
        &self,
        request: &str,
        user: &str,
        group: &str,
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<String, PkiError> {
        let mut request = CertificateSigningRequestParams::from_pem(request).map_err(PkiError::Request)?;
        request.params = client_params(user, group, lifetime, now);
        let signed =
            request.signed_by(&self.issuer).map_err(|source| PkiError::Sign { subject: user.to_owned(), source })?;
        Ok(signed.pem())
    }
}

/// `sha256:` and the hex of the SHA-256 of a certificate's public key (SubjectPublicKeyInfo, DER). Empty for garbage.
pub fn spki_hash(certificate: &CertificateDer<'_>) -> String {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return String::new();
    };
    let digest = Sha256::digest(parsed.public_key().raw);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn client_params(user: &str, group: &str, lifetime: SignedDuration, now: Timestamp) -> CertificateParams {
    let mut params = params(user, Some(group), now, lifetime);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn params(common_name: &str, group: Option<&str>, now: Timestamp, lifetime: SignedDuration) -> CertificateParams {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    // Every certificate made here is of one group: a DistinguishedName of `rcgen` holds one value for each type.
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.not_before = instant(now - BACKDATE.min(lifetime / 10));
    params.not_after = instant(now + lifetime);
    params.serial_number = Some(serial());
    params.use_authority_key_identifier_extension = true;
    params
}

/// 127 random bits: positive, and never the same twice for one issuer.
fn serial() -> SerialNumber {
    let mut bytes = rand::random::<[u8; 16]>();
    bytes[0] &= 0x7f;
    SerialNumber::from_slice(&bytes)
}

fn instant(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at.as_second()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity;

    fn now() -> Timestamp {
        "2026-03-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_client_certificate_names_its_user_and_group() {
        let ca = authority_create("c1", now()).unwrap();
        let ca = Authority::open(&ca.certificate, &ca.key).unwrap();
        let client =
            ca.client_certificate("galley:admin", "system:masters", SignedDuration::from_hours(1), now()).unwrap();
        let der = CertificateDer::from_pem_slice(client.certificate.as_bytes()).unwrap();
        let actor = identity::of_certificate(&der).unwrap();
        assert_eq!(actor.username, "galley:admin");
        assert_eq!(actor.groups, ["system:masters", "system:authenticated"]);
    }

    #[test]
    fn a_signing_request_cannot_choose_its_subject() {
        let ca = authority_create("c1", now()).unwrap();
        let ca = Authority::open(&ca.certificate, &ca.key).unwrap();
        let key = key_create().unwrap();
        let mut wish = CertificateParams::new(vec!["evil".to_owned()]).unwrap();
        wish.distinguished_name.push(DnType::OrganizationName, "system:masters");
        let csr = wish.serialize_request(&key).unwrap().pem().unwrap();
        let signed =
            ca.sign_request(&csr, "system:node:n1", "system:nodes", SignedDuration::from_hours(1), now()).unwrap();
        let der = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
        let actor = identity::of_certificate(&der).unwrap();
        assert_eq!(actor.username, "system:node:n1");
        assert_eq!(actor.groups, ["system:nodes", "system:authenticated"]);
        assert!(matches!(
            ca.sign_request("garbage", "u", "g", SignedDuration::from_hours(1), now()),
            Err(PkiError::Request(_))
        ));
    }

    #[test]
    fn a_hash_pins_a_key() {
        let ca = authority_create("c1", now()).unwrap();
        let ca = Authority::open(&ca.certificate, &ca.key).unwrap();
        assert_eq!(ca.hash().len(), "sha256:".len() + 64);
        assert_eq!(spki_hash(&CertificateDer::from(vec![1, 2, 3])), "");
    }
}
