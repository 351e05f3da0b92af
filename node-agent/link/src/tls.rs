//! Whom the node believes: first a hash, then the cluster's certificate authority.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::identity::Identity;

/// Why no TLS connection could be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The text is no hash of a key.
    #[error("`{0}` is not sha256: and 64 hexadecimal digits")]
    CaHash(String),
    /// The text is no URL of a server.
    #[error("`{0}` is not https://HOST:PORT")]
    Url(String),
    /// A certificate or key in a file is damaged.
    #[error("a certificate or key of this node is unusable")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// What the node has does not make a TLS configuration.
    #[error("the certificates of this node are unusable")]
    Config(#[source] rustls::Error),
    /// Nobody answers.
    #[error("{address} cannot be reached")]
    Connect {
        address: String,
        #[source]
        source: std::io::Error,
    },
    /// The server belongs to another installation, or somebody stands in between.
    #[error("{address} is not trusted")]
    OtherAuthority {
        address: String,
        #[source]
        source: OtherAuthority,
    },
    /// The server is not who it should be, or breaks off.
    #[error("{address} is not trusted")]
    Handshake {
        address: String,
        #[source]
        source: std::io::Error,
    },
}

/// `sha256:` and the hash of a certificate authority's public key (its DER SubjectPublicKeyInfo).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CaHash([u8; 32]);

impl FromStr for CaHash {
    type Err = TlsError;

    fn from_str(text: &str) -> Result<Self, TlsError> {
        let wrong = || TlsError::CaHash(text.to_owned());
        let digits =
            text.strip_prefix("sha256:").filter(|digits| digits.len() == 64 && digits.is_ascii()).ok_or_else(wrong)?;
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(hash))
    }
}

impl fmt::Debug for CaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Which key was named, and which was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its certificate authority must have the key {wanted:?} (--ca-hash), but has {shown:?}")]
pub struct OtherAuthority {
    wanted: CaHash,
    shown: CaHash,
}

/// Believes a server whose chain leads to the authority with this hash.
#[derive(Debug)]
struct Pinned {
    hash: CaHash,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn hash_of(certificate: &CertificateDer<'_>) -> Option<CaHash> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        Some(CaHash(Sha256::digest(parsed.tbs_certificate.subject_pki.raw).into()))
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority = chain.iter().find(|certificate| Self::hash_of(certificate) == Some(self.hash));
        let Some(authority) = authority else {
            // The last of the chain is its authority, where there is one.
            let shown = chain.last().or(Some(leaf)).and_then(Self::hash_of);
            let shown = shown.ok_or(rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
            let wrong = OtherAuthority { wanted: self.hash, shown };
            return Err(rustls::Error::Other(OtherError(Arc::new(wrong))));
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(leaf, chain, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// For the time before the node has joined.
pub fn pinned(hash: CaHash) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { hash, provider }))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// For a node that has joined: the cluster's authority, and the node's own certificate.
pub fn mutual(identity: &Identity) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(identity.ca.as_bytes()) {
        roots.add(certificate.map_err(TlsError::Pem)?).map_err(TlsError::Config)?;
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(TlsError::Pem)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain.map_err(TlsError::Pem)?, key)
        .map_err(TlsError::Config)?;
    // The tunnel is an upgrade, which only HTTP/1.1 has.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// `HOST:PORT` and the host of a server's URL.
pub fn address(server: &str) -> Result<(String, String), TlsError> {
    let wrong = || TlsError::Url(server.to_owned());
    let uri: http::Uri = server.parse().map_err(|_| wrong())?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("https")).ok_or_else(wrong)?;
    let address = format!("{host}:{}", uri.port_u16().unwrap_or(443));
    Ok((address, host.trim_matches(['[', ']']).to_owned()))
}

/// What [`Pinned`] said, through the layers that it came through.
fn other_authority(error: &std::io::Error) -> Option<OtherAuthority> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::Other(OtherError(wrong)) => wrong.downcast_ref().copied(),
        _ => None,
    }
}

/// Connects to a server, which must show a certificate for `name`.
pub async fn connect(config: Arc<ClientConfig>, address: &str, name: &str) -> Result<TlsStream<TcpStream>, TlsError> {
    let server_name = ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Url(name.to_owned()))?;
    let stream = TcpStream::connect(address)
        .await
        .map_err(|source| TlsError::Connect { address: address.to_owned(), source })?;
    // Requests are small and many.
    let _ = stream.set_nodelay(true);
    let connected = TlsConnector::from(config).connect(server_name, stream).await;
    connected.map_err(|source| match other_authority(&source) {
        Some(source) => TlsError::OtherAuthority { address: address.to_owned(), source },
        None => TlsError::Handshake { address: address.to_owned(), source },
    })
}
