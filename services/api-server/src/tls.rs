//! TLS configurations: one for the management API, one for each cluster.

use std::sync::{Arc, LazyLock};

use galley_authz::Actor;
use jiff::Timestamp;
use parking_lot::Mutex;
use rcgen::KeyPair;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ProducesTickets, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};

use crate::identity;
use crate::pki::Authority;

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate or key is unusable.
    #[error("the TLS certificate or key is unusable")]
    Config(#[from] rustls::Error),
    /// A certificate cannot be made.
    #[error("a certificate cannot be made")]
    Pki(#[from] crate::pki::PkiError),
    /// The CA cannot verify clients.
    #[error("the CA cannot verify client certificates")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

/// One for all configurations.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));
    Arc::clone(&PROVIDER)
}

/// Seals sessions into tickets that clients keep, under a key of this process that changes every few hours: a client that comes
/// back saves a handshake, and nothing is kept here for thousands of clusters.
///
/// One for all clusters: a ticket is good for the server name only that it was given for, and the certificate in it is checked
/// against the cluster's CA at every connection ([`PeerVerifier::peer`]), so it opens nothing elsewhere.
fn ticketer() -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    static TICKETER: Mutex<Option<Arc<dyn ProducesTickets>>> = Mutex::new(None);
    let mut ticketer = TICKETER.lock();
    if let Some(made) = &*ticketer {
        return Ok(Arc::clone(made));
    }
    Ok(Arc::clone(ticketer.insert(ring::Ticketer::new()?)))
}

fn finish(
    builder: rustls::ConfigBuilder<ServerConfig, rustls::server::WantsServerCert>,
    chain: Vec<CertificateDer<'static>>,
    key: &KeyPair,
) -> Result<Arc<ServerConfig>, TlsError> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Tickets instead of sessions kept here: see `ticketer`.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.ticketer = ticketer()?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// For the management API: clients show no certificates.
pub(crate) fn management(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Result<Arc<ServerConfig>, TlsError> {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?.with_no_client_auth();
    finish(builder, chain, key)
}

/// For a cluster: clients may show certificates.
pub(crate) fn cluster(
    verifier: &Arc<PeerVerifier>,
    certificate: CertificateDer<'static>,
    authority: &Authority,
    key: &KeyPair,
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::clone(verifier) as _);
    finish(builder, vec![certificate, authority.certificate().clone()], key)
}

/// Who is at the other end of a connection, as far as TLS knows.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    /// No certificate.
    Unknown,
    /// A certificate of the cluster's CA.
    Known(Arc<Actor>),
    /// A certificate that is expired, of another CA, or names nobody.
    Invalid,
}

/// Lets every certificate through the handshake if its owner holds the key, and says afterwards whether it is good.
///
/// A wrong certificate is then answered in HTTP, with the 401 that kubectl explains ("You must be logged in to the
/// server"), instead of with a broken handshake.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    strict: Arc<dyn ClientCertVerifier>,
}

impl PeerVerifier {
    pub(crate) fn new(authority: &Authority) -> Result<Arc<Self>, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate().clone())?;
        let strict = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .allow_unauthenticated()
            .build()
            .map_err(TlsError::Verifier)?;
        Ok(Arc::new(Self { strict }))
    }

    /// Whom the certificates of a finished handshake stand for.
    pub(crate) fn peer(&self, certificates: Option<&[CertificateDer<'_>]>, now: Timestamp) -> Peer {
        let Some((first, rest)) = certificates.and_then(<[_]>::split_first) else {
            return Peer::Unknown;
        };
        let seconds = u64::try_from(now.as_second()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        if let Err(error) = self.strict.verify_client_cert(first, rest, now) {
            tracing::debug!(%error, "client certificate refused");
            return Peer::Invalid;
        }
        identity::of_certificate(first).map_or(Peer::Invalid, |actor| Peer::Known(Arc::new(actor)))
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.strict.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.strict.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.strict.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.strict.supported_verify_schemes()
    }
}

/// Between replicas: both sides show certificates of the installation's CA.
pub(crate) fn replicas(
    authority: &Authority,
    now: Timestamp,
) -> Result<(Arc<ServerConfig>, Arc<rustls::ClientConfig>), TlsError> {
    let key = crate::pki::key_create()?;
    let certificate = authority.peer_certificate(&key, now)?;
    let chain = vec![certificate, authority.certificate().clone()];
    let private = || PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone())?;
    let roots = Arc::new(roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider())
        .build()
        .map_err(TlsError::Verifier)?;
    let mut server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), private())?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, private())?;
    client.alpn_protocols = vec![b"h2".to_vec()];
    Ok((Arc::new(server), Arc::new(client)))
}

/// For pods, whose certificates nobody vouches for.
pub(crate) fn unverified_client() -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider())))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
