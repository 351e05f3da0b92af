//! Service account tokens: what a token says, and the trait through which the API server's keys sign it.

use galley_authz::Actor;
use galley_kube::{Resource, Status};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::api::{ClusterApi, WriteOptions};
use crate::value::{array, int, text};

/// Kubernetes refuses shorter tokens.
const MIN_SECONDS: i64 = 600;
/// `expirationSeconds` when the request has none.
const DEFAULT_SECONDS: i64 = 3600;
/// `1 << 32`, the longest that may be asked for.
const MAX_SECONDS: i64 = 1 << 32;

/// The object whose deletion ends a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundObject {
    /// `Pod`, `Secret` or `Node`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What a service account token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenClaims {
    /// The account's namespace.
    pub namespace: String,
    /// The account's name.
    pub service_account: String,
    /// The account's uid.
    pub service_account_uid: String,
    /// Whom it is for; empty: the API server itself.
    pub audiences: Vec<String>,
    /// `iat`, `nbf`.
    pub issued_at: Timestamp,
    /// `exp`.
    pub expires_at: Timestamp,
    /// The object it is bound to.
    pub bound: Option<BoundObject>,
    /// Name and uid of the node that the bound pod runs on.
    pub node: Option<(String, String)>,
}

/// Signs tokens with the cluster's key.
pub trait TokenSigner: Send + Sync + std::fmt::Debug {
    /// A signed JWT that says `claims`.
    fn sign(&self, claims: &TokenClaims) -> Result<String, Status>;

    /// The audiences of a token that asks for none.
    fn default_audiences(&self) -> Vec<String>;
}

impl ClusterApi {
    /// `POST serviceaccounts/NAME/token`: the TokenRequest with its status filled in.
    pub async fn create_token(
        &self,
        _actor: &Actor,
        namespace: &str,
        name: &str,
        body: Value,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        let accounts = self.builtin("serviceaccounts")?;
        let account = self.get(&accounts, namespace, name)?;
        let pod = self.bound_object(namespace, &body)?;
        let now = self.clock.now();
        let seconds = int(&body, "/spec/expirationSeconds").unwrap_or(DEFAULT_SECONDS);
        if !(MIN_SECONDS..=MAX_SECONDS).contains(&seconds) {
            let why = if seconds < MIN_SECONDS {
                "may not specify a duration less than 10 minutes"
            } else {
                "may not specify a duration larger than 2^32 seconds"
            };
            return Err(Status::invalid(
                "authentication.k8s.io",
                "TokenRequest",
                "",
                &[galley_kube::FieldError {
                    field: "spec.expirationSeconds".into(),
                    reason: "FieldValueInvalid",
                    message: format!("Invalid value: {seconds}: {why}"),
                }],
            ));
        }
        let Some(signer) = &self.signer else {
            return Err(Status::internal("this cluster has no key to sign tokens with"));
        };
        let mut audiences: Vec<String> =
            array(&body, "/spec/audiences").iter().filter_map(Value::as_str).map(str::to_owned).collect();
        if audiences.is_empty() {
            audiences = signer.default_audiences();
        }
        let expires_at = now + SignedDuration::from_secs(seconds);
        let claims = TokenClaims {
            namespace: namespace.into(),
            service_account: name.into(),
            service_account_uid: account.uid.to_string(),
            audiences: audiences.clone(),
            issued_at: now,
            expires_at,
            node: pod.as_ref().and_then(|(_, node)| node.clone()),
            bound: pod.map(|(bound, _)| bound),
        };
        let token = if options.dry_run { String::new() } else { signer.sign(&claims)? };
        let mut answer = body;
        let spec = crate::value::map_at(&mut answer, &["spec"]);
        spec.insert("audiences".into(), json!(audiences));
        spec.insert("expirationSeconds".into(), json!(seconds));
        let root = crate::value::root(&mut answer);
        root.insert("kind".into(), json!("TokenRequest"));
        root.insert("apiVersion".into(), json!("authentication.k8s.io/v1"));
        root.insert(
            "metadata".into(),
            json!({"name": name, "namespace": namespace,
            "creationTimestamp": crate::time::seconds(now)}),
        );
        root.insert("status".into(), json!({"token": token, "expirationTimestamp": crate::time::seconds(expires_at)}));
        Ok(answer)
    }

    /// The object that the request binds its token to, and the node of a bound pod.
    fn bound_object(
        &self,
        namespace: &str,
        body: &Value,
    ) -> Result<Option<(BoundObject, Option<(String, String)>)>, Status> {
        let kind = text(body, "/spec/boundObjectRef/kind");
        if kind.is_empty() {
            return Ok(None);
        }
        let (name, uid) = (text(body, "/spec/boundObjectRef/name"), text(body, "/spec/boundObjectRef/uid"));
        let plural = match kind {
            "Pod" => "pods",
            "Secret" => "secrets",
            "Node" => "nodes",
            other => {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount to object of type {other}"
                )));
            }
        };
        let resource = self.builtin(plural)?;
        let object = self.get(&resource, namespace, name)?;
        if !uid.is_empty() && uid != &*object.uid {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(Status::conflict("", plural, name, &why));
        }
        let node = object.fields.get("spec.nodeName").map(|node| {
            let key = galley_store::ObjectKey::new(&"nodes".into(), "", node);
            (node.to_owned(), self.store.get(&key).map(|node| node.uid.to_string()).unwrap_or_default())
        });
        let bound = BoundObject { kind: kind.into(), name: name.into(), uid: object.uid.to_string() };
        Ok(Some((bound, node)))
    }

    /// A built-in resource that this module cannot do without.
    pub(crate) fn builtin(&self, name: &str) -> Result<std::sync::Arc<Resource>, Status> {
        self.resource(name).ok_or_else(|| Status::internal(format!("the resource {name} is not served")))
    }
}
