//! The objects that a pod refers to: ConfigMaps, Secrets, tokens of its service account, bound volumes.

use std::collections::BTreeMap;

use galley_node_plan::env;
use galley_node_plan::env::EnvSources;
use galley_node_plan::image::{Credential, credentials};
use galley_node_volumes::{Sources, TokenKey, references};
use galley_types::{Clock, SystemClock};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use kube::api::{Api, PostParams};

use super::Host;
use crate::api::is_not_found;

/// Tokens of one pod, renewed at four fifths of their life.
#[derive(Debug, Default)]
pub(super) struct Tokens(BTreeMap<TokenKey, (String, Timestamp)>);

/// A read that failed for another reason than 'not there'.
#[derive(Debug, thiserror::Error)]
#[error("failed to sync {kind} cache: {name}: {source}")]
pub(super) struct ReadError {
    kind: &'static str,
    name: String,
    #[source]
    source: Box<kube::Error>,
}

fn failed(kind: &'static str, name: &str) -> impl FnOnce(kube::Error) -> ReadError {
    move |source| ReadError { kind, name: name.to_owned(), source: Box::new(source) }
}

impl Host {
    fn namespaced<K>(&self, pod: &Pod) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), pod.metadata.namespace.as_deref().unwrap_or("default"))
    }

    async fn config_map(&self, pod: &Pod, name: &str) -> Result<Option<ConfigMap>, ReadError> {
        self.namespaced::<ConfigMap>(pod).get_opt(name).await.map_err(failed("configmap", name))
    }

    async fn secret(&self, pod: &Pod, name: &str) -> Result<Option<Secret>, ReadError> {
        self.namespaced::<Secret>(pod).get_opt(name).await.map_err(failed("secret", name))
    }

    /// What the pod's volumes need.
    pub(super) async fn volume_sources(&self, pod: &Pod, tokens: &mut Tokens) -> Result<Sources, ReadError> {
        let wanted = references(pod);
        let mut sources = Sources::default();
        for name in wanted.config_maps {
            if let Some(map) = self.config_map(pod, &name).await? {
                sources.config_maps.insert(name, map);
            }
        }
        for name in wanted.secrets {
            if let Some(secret) = self.secret(pod, &name).await? {
                sources.secrets.insert(name, secret);
            }
        }
        for key in wanted.tokens {
            let token = self.token(pod, &key, tokens).await?;
            sources.tokens.insert(key, token);
        }
        for name in wanted.claims {
            let claim = self.namespaced::<PersistentVolumeClaim>(pod).get_opt(&name).await;
            let claim = claim.map_err(failed("persistentvolumeclaim", &name))?;
            let bound = claim.filter(|c| c.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound"));
            let Some(volume) = bound.and_then(|c| c.spec).and_then(|s| s.volume_name) else { continue };
            let api: Api<PersistentVolume> = Api::all(self.client.clone());
            let found = api.get_opt(&volume).await.map_err(failed("persistentvolume", &volume))?;
            if let Some(spec) = found.and_then(|v| v.spec) {
                sources.claims.insert(name, spec);
            }
        }
        Ok(sources)
    }

    async fn token(&self, pod: &Pod, key: &TokenKey, tokens: &mut Tokens) -> Result<String, ReadError> {
        let now = SystemClock.now();
        if let Some((token, renew_at)) = tokens.0.get(key)
            && *renew_at > now
        {
            return Ok(token.clone());
        }
        let account =
            pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_else(|| "default".into());
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!key.audience.is_empty()).then(|| vec![key.audience.clone()]),
                expiration_seconds: Some(key.expiration),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            }),
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = self.namespaced(pod);
        let answer = api.create_token_request(&account, &PostParams::default(), &request).await;
        let status = answer.map_err(failed("serviceaccount token", &account))?.status.unwrap_or_default();
        let life = status.expiration_timestamp.map_or(SignedDuration::ZERO, |t| t.0.duration_since(now));
        let token = status.token.unwrap_or_default();
        let renew_at = now.saturating_add(life * 4 / 5).unwrap_or(now);
        tokens.0.insert(key.clone(), (token.clone(), renew_at));
        Ok(token)
    }

    /// What a container's environment needs.
    pub(super) async fn env_sources(&self, pod: &Pod, container: &Container) -> Result<EnvSources, ReadError> {
        let (maps, secrets) = env::referenced(container);
        let mut sources = EnvSources { services: self.known_services(), ..EnvSources::default() };
        for name in maps {
            if let Some(map) = self.config_map(pod, &name).await? {
                sources.config_maps.insert(name, map);
            }
        }
        for name in secrets {
            if let Some(secret) = self.secret(pod, &name).await? {
                sources.secrets.insert(name, secret);
            }
        }
        Ok(sources)
    }

    fn known_services(&self) -> Vec<Service> {
        let services = self.services.borrow().clone();
        services.iter().flat_map(|s| s.iter()).map(|s| Service::clone(s)).collect()
    }

    /// Logins for an image from the pod's pull secrets. Secrets that are not there are passed over, as Kubernetes does.
    pub(super) async fn pull_credentials(&self, pod: &Pod, image: &str) -> Vec<Credential> {
        let mut secrets = Vec::new();
        for reference in pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()) {
            match self.namespaced::<Secret>(pod).get(&reference.name).await {
                Ok(secret) => secrets.push(secret),
                Err(error) if is_not_found(&error) => {}
                Err(error) => tracing::warn!(secret = reference.name, %error, "a pull secret cannot be read"),
            }
        }
        credentials(image, &secrets)
    }
}
