//! Secrets at rest: each cluster has a data key, wrapped by a master key that the database never sees.
//!
//! ```text
//! master key (KMS, or a file) --wraps--> data key of a cluster --AES-256-GCM--> bodies of Secrets, private keys
//! ```
//!
//! A dump of the database shows no plaintext, ciphertext moved to another object or cluster does not open (its place is the
//! associated data), and deleting the wrapped key shreds everything that it protected, backups of the rows included.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use galley_types::ClusterId;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use crate::object::ObjectKey;

/// Bytes of an AES-256 key.
pub const KEY_BYTES: usize = 32;

/// Why something could not be encrypted, decrypted or (un)wrapped.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The operating system gives no randomness.
    #[error("no randomness from the operating system")]
    NoRandomness,
    /// Wrong key, or the ciphertext was changed or moved.
    #[error("ciphertext does not open: {what}")]
    DoesNotOpen {
        /// What was to be opened.
        what: &'static str,
    },
    /// The master key's file cannot be read or made.
    #[error("master key file {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The master key's file is not 32 bytes.
    #[error("master key file {path} has {bytes} bytes, not {KEY_BYTES}")]
    FileLength {
        /// Which file.
        path: PathBuf,
        /// How long it is.
        bytes: usize,
    },
    /// A key service's call failed.
    #[error("key service: {operation}")]
    Service {
        /// Which call.
        operation: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What wraps clusters' data keys: KMS, or a [`LocalKey`].
///
/// Guarantee asked of an implementation: what `wrap` returned for a cluster opens with `unwrap` for that cluster, and for no
/// other.
pub trait KeyWrapper: Send + Sync + std::fmt::Debug {
    /// The wrapped form of a data key, to be stored.
    fn wrap<'a>(&'a self, cluster: ClusterId, key: &'a [u8; KEY_BYTES]) -> BoxFuture<'a, Result<Vec<u8>, KeyError>>;
    /// The data key again.
    fn unwrap<'a>(&'a self, cluster: ClusterId, wrapped: &'a [u8]) -> BoxFuture<'a, Result<[u8; KEY_BYTES], KeyError>>;
}

/// A master key in this process: for one machine.
pub struct LocalKey(LessSafeKey);

impl LocalKey {
    /// From the key's bytes.
    pub fn from_bytes(key: &[u8; KEY_BYTES]) -> Self {
        Self(aes(key))
    }

    /// From a file of 32 bytes, made (mode 0600) when it is not there.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::File { path: path.to_owned(), source };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let key = random::<KEY_BYTES>()?;
                write_private(path, &key).map_err(failed)?;
                key.to_vec()
            }
            Err(error) => return Err(failed(error)),
        };
        let key = <&[u8; KEY_BYTES]>::try_from(bytes.as_slice())
            .map_err(|_| KeyError::FileLength { path: path.to_owned(), bytes: bytes.len() })?;
        Ok(Self::from_bytes(key))
    }
}

/// Temporary file, fsync, rename: a crash leaves a whole key or none.
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let temporary = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    std::fs::File::open(directory)?.sync_all()
}

impl std::fmt::Debug for LocalKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LocalKey")
    }
}

impl KeyWrapper for LocalKey {
    fn wrap<'a>(&'a self, cluster: ClusterId, key: &'a [u8; KEY_BYTES]) -> BoxFuture<'a, Result<Vec<u8>, KeyError>> {
        Box::pin(async move { seal(&self.0, cluster.as_uuid().as_bytes(), key) })
    }

    fn unwrap<'a>(&'a self, cluster: ClusterId, wrapped: &'a [u8]) -> BoxFuture<'a, Result<[u8; KEY_BYTES], KeyError>> {
        Box::pin(async move {
            let plain = open(&self.0, cluster.as_uuid().as_bytes(), wrapped, "data key")?;
            plain.as_slice().try_into().map_err(|_| KeyError::DoesNotOpen { what: "data key" })
        })
    }
}

/// A cluster's data key, ready for use.
#[derive(Clone)]
pub(crate) struct DataKey {
    key: Arc<LessSafeKey>,
    cluster: ClusterId,
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DataKey({})", self.cluster)
    }
}

impl DataKey {
    pub(crate) fn new(cluster: ClusterId, key: &[u8; KEY_BYTES]) -> Self {
        Self { key: Arc::new(aes(key)), cluster }
    }

    pub(crate) fn seal_object(&self, key: &ObjectKey, body: &[u8]) -> Result<Bytes, KeyError> {
        seal(&self.key, &self.place_of(key), body).map(Bytes::from)
    }

    pub(crate) fn open_object(&self, key: &ObjectKey, sealed: &[u8]) -> Result<Bytes, KeyError> {
        open(&self.key, &self.place_of(key), sealed, "object").map(Bytes::from)
    }

    pub(crate) fn seal_named(&self, name: &'static str, plain: &[u8]) -> Result<Vec<u8>, KeyError> {
        seal(&self.key, &self.place(&[name]), plain)
    }

    pub(crate) fn open_named(&self, name: &'static str, sealed: &[u8]) -> Result<Vec<u8>, KeyError> {
        open(&self.key, &self.place(&[name]), sealed, name)
    }

    fn place_of(&self, key: &ObjectKey) -> Vec<u8> {
        self.place(&[key.resource.as_str(), &key.namespace, &key.name])
    }

    fn place(&self, parts: &[&str]) -> Vec<u8> {
        let mut place = self.cluster.as_uuid().as_bytes().to_vec();
        for part in parts {
            place.push(0);
            place.extend_from_slice(part.as_bytes());
        }
        place
    }
}

/// Random bytes of the operating system: keys and tokens.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| KeyError::NoRandomness)?;
    Ok(bytes)
}

fn aes(key: &[u8; KEY_BYTES]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("AES-256 takes 32 bytes"))
}

/// Nonce, ciphertext, tag. Random nonces are safe for 2^32 messages under one key: a cluster's Secrets stay far below.
fn seal(key: &LessSafeKey, place: &[u8], plain: &[u8]) -> Result<Vec<u8>, KeyError> {
    let nonce = random::<NONCE_LEN>()?;
    let mut sealed = Vec::with_capacity(NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
    sealed.extend_from_slice(plain);
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut sealed)
        .map_err(|_| KeyError::NoRandomness)?;
    sealed.splice(0..0, nonce);
    Ok(sealed)
}

fn open(key: &LessSafeKey, place: &[u8], sealed: &[u8], what: &'static str) -> Result<Vec<u8>, KeyError> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(KeyError::DoesNotOpen { what })?;
    let mut plain = sealed.to_vec();
    let length = key
        .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(place), &mut plain)
        .map_err(|_| KeyError::DoesNotOpen { what })?
        .len();
    plain.truncate(length);
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> ClusterId {
        ClusterId::from_trusted_row(uuid::Uuid::new_v4())
    }

    #[test]
    fn a_sealed_object_opens_only_in_its_place() {
        let key = DataKey::new(cluster(), &[7; KEY_BYTES]);
        let here = ObjectKey::new(&"secrets".into(), "a", "b");
        let there = ObjectKey::new(&"secrets".into(), "a", "c");
        let sealed = key.seal_object(&here, b"hunter2").expect("seals");
        assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
        assert_eq!(&key.open_object(&here, &sealed).expect("opens")[..], b"hunter2");
        assert!(key.open_object(&there, &sealed).is_err());
        let other = DataKey::new(cluster(), &[7; KEY_BYTES]);
        assert!(other.open_object(&here, &sealed).is_err(), "another cluster with the same key");
    }

    #[tokio::test]
    async fn a_wrapped_key_opens_only_for_its_cluster() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("master.key");
        let id = cluster();
        let wrapped = LocalKey::from_file(&path).expect("made").wrap(id, &[3; KEY_BYTES]).await.expect("wraps");
        let again = LocalKey::from_file(&path).expect("read");
        assert_eq!(again.unwrap(id, &wrapped).await.expect("opens"), [3; KEY_BYTES]);
        assert!(again.unwrap(cluster(), &wrapped).await.is_err());
    }
}
