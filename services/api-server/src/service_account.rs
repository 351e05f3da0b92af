//! Service account tokens: JWTs (RFC 7519, ES256) signed with the cluster's key.
//!
//! A token counts as long as its account and the object it is bound to exist with the same uid: deleting a pod ends the
//! tokens that were mounted into it. Signatures are checked once and remembered; existence is checked for each request,
//! which is a lookup in memory.

use std::collections::{BTreeMap, HashMap};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use galley_authz::Actor;
use galley_store::{ClusterStore, ObjectKey};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;

use crate::identity::AUTHENTICATED;

/// Verified tokens that are remembered for each cluster. A token costs about a kilobyte.
const REMEMBERED: usize = 1024;
/// A pod's token outlives its deletion by the time that its graceful end may take (as in Kubernetes).
const DELETION_LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// Why a token is not accepted. Clients are told only `Unauthorized`; the rest is for the log and for TokenReviews.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not three parts of base64url JSON with our claims.
    #[error("the token is malformed")]
    Malformed,
    /// Not signed by this cluster.
    #[error("the token's signature is invalid")]
    Signature,
    /// Of another issuer.
    #[error("the token is of another issuer")]
    Issuer,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYet,
    /// For somebody else.
    #[error("token audiences {token:?} is invalid for the target audiences {wanted:?}")]
    Audience {
        /// In the token.
        token: Vec<String>,
        /// Accepted here.
        wanted: Vec<String>,
    },
    /// The account, or what the token is bound to, is gone.
    #[error("service account token has been invalidated: {kind} {name:?} is gone")]
    Gone {
        /// `ServiceAccount`, `Pod`, ...
        kind: &'static str,
        /// Which.
        name: String,
    },
}

/// Why a stored key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not PEM.
    #[error("the service account key is no PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// Not a P-256 key.
    #[error("the service account key is unusable: {0}")]
    Rejected(ring::error::KeyRejected),
}

/// A name and the uid it must have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    #[serde(default)]
    pub uid: String,
}

/// The private claim `kubernetes.io`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The account's namespace.
    pub namespace: String,
    /// The account.
    pub serviceaccount: Reference,
    /// Bound to this pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The pod's node, or bound to this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// Bound to this Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Audiences.
    pub aud: Vec<String>,
    /// Expiry, seconds since 1970.
    pub exp: i64,
    /// Issued at.
    pub iat: i64,
    /// Issuer.
    pub iss: String,
    /// Names the token.
    #[serde(default)]
    pub jti: String,
    /// Who and what.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bound,
    /// Not before.
    pub nbf: i64,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
}

/// A cluster's key for service account tokens.
pub struct ServiceAccountKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    key_id: String,
    issuer: String,
    verified: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

impl std::fmt::Debug for ServiceAccountKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceAccountKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl ServiceAccountKey {
    /// From PKCS #8 PEM. `issuer` is the URL in `iss`.
    pub fn open(pem: &str, issuer: String) -> Result<Self, KeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(KeyError::Pem)?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &random)
            .map_err(KeyError::Rejected)?;
        let key_id = URL_SAFE_NO_PAD.encode(Sha256::digest(pair.public_key().as_ref()));
        Ok(Self { pair, random, key_id, issuer, verified: Mutex::default() })
    }

    /// The URL in `iss`.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whom a token without wishes is for.
    pub fn audiences(&self) -> Vec<String> {
        vec![self.issuer.clone()]
    }

    /// Signs. `None`: the operating system has no randomness.
    pub fn sign(&self, claims: &Claims) -> Option<String> {
        let header = json!({"alg": "ES256", "kid": self.key_id});
        let part = |value: &[u8]| URL_SAFE_NO_PAD.encode(value);
        let body = serde_json::to_vec(claims).ok()?;
        let text = format!("{}.{}", part(header.to_string().as_bytes()), part(&body));
        let signature = self.pair.sign(&self.random, text.as_bytes()).ok()?;
        Some(format!("{text}.{}", part(signature.as_ref())))
    }

    /// Checks the signature.
    fn claims(&self, token: &str) -> Result<Arc<Claims>, TokenError> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(known) = self.verified.lock().get(&digest) {
            return Ok(Arc::clone(known));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, body) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed);
        let header: Value = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
        if header["alg"] != "ES256" {
            return Err(TokenError::Signature);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| TokenError::Signature)?;
        let claims: Arc<Claims> = Arc::new(serde_json::from_slice(&decode(body)?).map_err(|_| TokenError::Malformed)?);
        let mut verified = self.verified.lock();
        if verified.len() >= REMEMBERED {
            verified.clear();
        }
        verified.insert(digest, Arc::clone(&claims));
        Ok(claims)
    }

    /// The account that `token` stands for now, and which of `audiences` it is for (empty: the API server's own).
    pub fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
        store: &ClusterStore,
        now: Timestamp,
    ) -> Result<(Actor, Vec<String>), TokenError> {
        let claims = self.claims(token)?;
        let second = now.as_second();
        if claims.iss != self.issuer {
            return Err(TokenError::Issuer);
        }
        if second >= claims.exp {
            return Err(TokenError::Expired);
        }
        if second < claims.nbf - 5 {
            return Err(TokenError::NotYet);
        }
        let wanted = if audiences.is_empty() { self.audiences() } else { audiences.to_vec() };
        let shared: Vec<String> = wanted.iter().filter(|a| claims.aud.contains(a)).cloned().collect();
        if shared.is_empty() {
            return Err(TokenError::Audience { token: claims.aud.clone(), wanted });
        }
        check_alive(&claims.kubernetes, store, now)?;
        Ok((actor(&claims), shared))
    }

    /// The public key as a JWK set (RFC 7517).
    pub fn jwks(&self) -> Value {
        // 0x04, then X and Y of 32 bytes each.
        let point = self.pair.public_key().as_ref();
        let coordinate = |from: usize| URL_SAFE_NO_PAD.encode(point.get(from..from + 32).unwrap_or_default());
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": coordinate(1), "y": coordinate(33),
        }]})
    }

    /// The OpenID discovery document.
    pub fn discovery(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

fn check_alive(bound: &Bound, store: &ClusterStore, now: Timestamp) -> Result<(), TokenError> {
    let check = |kind: &'static str, resource: &str, namespace: &str, wanted: &Reference| {
        let gone = || TokenError::Gone { kind, name: wanted.name.clone() };
        let object = store.get(&ObjectKey::new(&resource.into(), namespace, &wanted.name)).ok_or_else(gone)?;
        if *object.uid != *wanted.uid {
            return Err(gone());
        }
        // At every request: next to none of them is going away.
        let tree = object.may_have("deletionTimestamp").then(|| object.value().ok()).flatten();
        let deleted = tree.and_then(|value| value["metadata"]["deletionTimestamp"].as_str()?.parse::<Timestamp>().ok());
        match deleted {
            Some(at) if now > at + DELETION_LEEWAY => Err(gone()),
            _ => Ok(()),
        }
    };
    check("ServiceAccount", "serviceaccounts", &bound.namespace, &bound.serviceaccount)?;
    if let Some(pod) = &bound.pod {
        check("Pod", "pods", &bound.namespace, pod)?;
    } else if let Some(secret) = &bound.secret {
        check("Secret", "secrets", &bound.namespace, secret)?;
    } else if let Some(node) = &bound.node {
        check("Node", "nodes", "", node)?;
    }
    Ok(())
}

fn actor(claims: &Claims) -> Actor {
    let bound = &claims.kubernetes;
    let mut extra = BTreeMap::new();
    let mut put = |key: &str, value: &str| {
        if !value.is_empty() {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        }
    };
    if !claims.jti.is_empty() {
        put("credential-id", &format!("JTI={}", claims.jti));
    }
    if let Some(pod) = &bound.pod {
        put("pod-name", &pod.name);
        put("pod-uid", &pod.uid);
    }
    if let Some(node) = &bound.node {
        put("node-name", &node.name);
        put("node-uid", &node.uid);
    }
    Actor {
        username: format!("system:serviceaccount:{}:{}", bound.namespace, bound.serviceaccount.name),
        uid: bound.serviceaccount.uid.clone(),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{}", bound.namespace),
            AUTHENTICATED.to_owned(),
        ],
        extra,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

    fn key() -> ServiceAccountKey {
        let pem = crate::pki::key_create().unwrap().serialize_pem();
        ServiceAccountKey::open(&pem, ISSUER.into()).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            aud: vec![ISSUER.into()],
            exp: 2_000,
            iat: 1_000,
            iss: ISSUER.into(),
            jti: "t1".into(),
            kubernetes: Bound {
                namespace: "default".into(),
                serviceaccount: Reference { name: "app".into(), uid: "u1".into() },
                pod: Some(Reference { name: "web".into(), uid: "u2".into() }),
                node: Some(Reference { name: "n1".into(), uid: "u3".into() }),
                secret: None,
            },
            nbf: 1_000,
            sub: "system:serviceaccount:default:app".into(),
        }
    }

    #[test]
    fn a_token_is_accepted_by_the_key_that_signed_it_only() {
        let key = key();
        let token = key.sign(&claims()).unwrap();
        assert_eq!(*key.claims(&token).unwrap(), claims());
        assert!(matches!(self::key().claims(&token), Err(TokenError::Signature)));
        let (head, _) = token.rsplit_once('.').unwrap();
        assert!(matches!(key.claims(&format!("{head}.AAAA")), Err(TokenError::Signature)));
        assert!(matches!(key.claims("a.b"), Err(TokenError::Malformed)));
        assert!(matches!(key.claims("no token"), Err(TokenError::Malformed)));
    }

    #[test]
    fn an_unsigned_token_is_refused() {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let body = serde_json::to_string(&claims()).unwrap();
        let token = format!("{}.{}.", part(r#"{"alg":"none"}"#), part(&body));
        assert!(matches!(key().claims(&token), Err(TokenError::Signature)));
    }

    #[test]
    fn an_account_is_known_by_its_name_and_groups() {
        let actor = actor(&claims());
        assert_eq!(actor.username, "system:serviceaccount:default:app");
        assert_eq!(actor.groups, ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]);
        assert_eq!(actor.extra["authentication.kubernetes.io/node-name"], ["n1"]);
    }

    #[test]
    fn the_jwk_set_holds_the_public_point() {
        let set = key().jwks();
        assert_eq!(set["keys"][0]["crv"], "P-256");
        assert_eq!(set["keys"][0]["x"].as_str().unwrap().len(), 43);
        assert_eq!(set["keys"][0]["y"].as_str().unwrap().len(), 43);
    }
}
