//! What files a volume holds: pure, from the pod and the objects that it refers to.

use std::collections::{BTreeMap, BTreeSet};

use galley_node_plan::downward::{self, RuntimeFacts};
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, PersistentVolumeSpec, Pod, Secret, Volume, VolumeProjection,
};

use crate::error::VolumeError;

/// One file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Relative to the volume.
    pub path: String,
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// One service account token of a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenKey {
    /// The audience asked for; empty is the API server.
    pub audience: String,
    /// Seconds.
    pub expiration: i64,
}

/// The objects that a pod's volumes refer to, as read.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub config_maps: BTreeMap<String, ConfigMap>,
    pub secrets: BTreeMap<String, Secret>,
    pub tokens: BTreeMap<TokenKey, String>,
    /// Claim name -> the volume that it is bound to.
    pub claims: BTreeMap<String, PersistentVolumeSpec>,
}

/// Names of what a pod's volumes refer to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    pub config_maps: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
    pub tokens: BTreeSet<TokenKey>,
    pub claims: BTreeSet<String>,
}

/// Kubernetes' default for files of these volumes.
const DEFAULT_MODE: i32 = 0o644;
/// One hour, the default of projected tokens.
const TOKEN_SECONDS: i64 = 3600;

/// What a pod's volumes refer to.
pub fn references(pod: &Pod) -> References {
    let mut found = References::default();
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        found.config_maps.extend(volume.config_map.as_ref().map(|c| c.name.clone()));
        found.secrets.extend(volume.secret.as_ref().and_then(|s| s.secret_name.clone()));
        found.claims.extend(claim_name(pod, volume));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            found.config_maps.extend(source.config_map.as_ref().map(|c| c.name.clone()));
            found.secrets.extend(source.secret.as_ref().map(|s| s.name.clone()));
            found.tokens.extend(token_key(source));
        }
    }
    found
}

/// The claim of a volume: by name, or the pod's own for an ephemeral one.
pub(crate) fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    if let Some(claim) = &volume.persistent_volume_claim {
        return Some(claim.claim_name.clone());
    }
    volume.ephemeral.as_ref()?;
    Some(format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name))
}

fn token_key(source: &VolumeProjection) -> Option<TokenKey> {
    let token = source.service_account_token.as_ref()?;
    Some(TokenKey {
        audience: token.audience.clone().unwrap_or_default(),
        expiration: token.expiration_seconds.unwrap_or(TOKEN_SECONDS),
    })
}

/// The files of a volume that is made of API objects; `None` for volumes that are directories.
pub fn payload(
    pod: &Pod,
    volume: &Volume,
    sources: &Sources,
    facts: &RuntimeFacts,
) -> Result<Option<Vec<File>>, VolumeError> {
    let mut files = Files::default();
    if let Some(source) = &volume.config_map {
        files.mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        files.config_map(&source.name, source.items.as_deref(), source.optional, sources)?;
    } else if let Some(source) = &volume.secret {
        files.mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let name = source.secret_name.as_deref().unwrap_or_default();
        files.secret(name, source.items.as_deref(), source.optional, sources)?;
    } else if let Some(source) = &volume.downward_api {
        files.mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        files.downward(pod, source.items.as_deref().unwrap_or_default(), facts)?;
    } else if let Some(projected) = &volume.projected {
        files.mode = projected.default_mode.unwrap_or(DEFAULT_MODE);
        for source in projected.sources.iter().flatten() {
            files.projection(pod, &volume.name, source, sources, facts)?;
        }
    } else {
        return Ok(None);
    }
    Ok(Some(files.files))
}

#[derive(Default)]
struct Files {
    files: Vec<File>,
    mode: i32,
}

impl Files {
    fn add(&mut self, path: &str, bytes: Vec<u8>, mode: Option<i32>) {
        let mode = u32::try_from(mode.unwrap_or(self.mode)).unwrap_or(0o644) & 0o7777;
        self.files.retain(|f| f.path != path);
        self.files.push(File { path: path.into(), bytes, mode });
    }

    /// All keys, or the listed ones under their paths.
    fn keys(
        &mut self,
        kind: &'static str,
        all: BTreeMap<String, Vec<u8>>,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), VolumeError> {
        let Some(items) = items.filter(|i| !i.is_empty()) else {
            all.into_iter().for_each(|(key, bytes)| self.add(&key, bytes, None));
            return Ok(());
        };
        for item in items {
            match all.get(&item.key) {
                Some(bytes) => self.add(&item.path, bytes.clone(), item.mode),
                None if optional => {}
                None => return Err(VolumeError::KeyMissing { kind, key: item.key.clone() }),
            }
        }
        Ok(())
    }

    fn config_map(
        &mut self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        sources: &Sources,
    ) -> Result<(), VolumeError> {
        let optional = optional == Some(true);
        let Some(map) = sources.config_maps.get(name) else {
            return if optional { Ok(()) } else { Err(VolumeError::ConfigMapMissing { name: name.into() }) };
        };
        let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
        let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
        self.keys("config", text.chain(binary).collect(), items, optional)
    }

    fn secret(
        &mut self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        sources: &Sources,
    ) -> Result<(), VolumeError> {
        let optional = optional == Some(true);
        let Some(secret) = sources.secrets.get(name) else {
            return if optional { Ok(()) } else { Err(VolumeError::SecretMissing { name: name.into() }) };
        };
        let all = secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect();
        self.keys("secret", all, items, optional)
    }

    fn downward(
        &mut self,
        pod: &Pod,
        items: &[DownwardAPIVolumeFile],
        facts: &RuntimeFacts,
    ) -> Result<(), VolumeError> {
        for item in items {
            let unknown = |e: downward::UnknownField| VolumeError::UnknownField { path: e.path };
            let value = if let Some(selector) = &item.field_ref {
                downward::field(pod, selector, facts).map_err(unknown)?
            } else if let Some(selector) = &item.resource_field_ref {
                let name = selector.container_name.as_deref().unwrap_or_default();
                let mut containers =
                    pod.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
                let container = containers
                    .find(|c| c.name == name)
                    .ok_or_else(|| VolumeError::UnknownField { path: selector.resource.clone() })?;
                downward::resource(container, selector, facts).map_err(unknown)?
            } else {
                String::new()
            };
            self.add(&item.path, value.into_bytes(), item.mode);
        }
        Ok(())
    }

    fn projection(
        &mut self,
        pod: &Pod,
        volume: &str,
        source: &VolumeProjection,
        sources: &Sources,
        facts: &RuntimeFacts,
    ) -> Result<(), VolumeError> {
        if let Some(map) = &source.config_map {
            self.config_map(&map.name, map.items.as_deref(), map.optional, sources)?;
        }
        if let Some(secret) = &source.secret {
            self.secret(&secret.name, secret.items.as_deref(), secret.optional, sources)?;
        }
        if let Some(own) = &source.downward_api {
            self.downward(pod, own.items.as_deref().unwrap_or_default(), facts)?;
        }
        if let (Some(token), Some(key)) = (&source.service_account_token, token_key(source)) {
            let text = sources.tokens.get(&key);
            let text = text.ok_or_else(|| VolumeError::TokenMissing { volume: volume.into() })?;
            self.add(&token.path, text.clone().into_bytes(), None);
        }
        if source.cluster_trust_bundle.is_some() || source.pod_certificate.is_some() {
            return Err(VolumeError::Unsupported);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use serde_json::json;

    fn pod(volume: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "app"}], "volumes": [volume]}}))
        .unwrap()
    }

    fn sources() -> Sources {
        let data = [("a".to_owned(), "1".to_owned()), ("b".into(), "2".into())];
        let map = ConfigMap { data: Some(data.into()), ..Default::default() };
        let secret = Secret { data: Some([("k".into(), ByteString(vec![1, 2]))].into()), ..Default::default() };
        let key = TokenKey { audience: String::new(), expiration: 3607 };
        Sources {
            config_maps: [("m".into(), map)].into(),
            secrets: [("s".into(), secret)].into(),
            tokens: [(key, "jwt".into())].into(),
            claims: BTreeMap::new(),
        }
    }

    fn files(volume: serde_json::Value) -> Result<Vec<(String, String, u32)>, String> {
        let p = pod(volume);
        let v = &p.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0];
        let found = payload(&p, v, &sources(), &RuntimeFacts::default()).map_err(|e| e.to_string())?.unwrap();
        Ok(found.into_iter().map(|f| (f.path, String::from_utf8_lossy(&f.bytes).into_owned(), f.mode)).collect())
    }

    #[test]
    fn volumes_of_objects_hold_their_keys() {
        let f = |path: &str, text: &str, mode: u32| (path.to_owned(), text.to_owned(), mode);
        for (volume, wanted) in [
            (json!({"name": "v", "configMap": {"name": "m"}}), vec![f("a", "1", 0o644), f("b", "2", 0o644)]),
            (
                json!({"name": "v", "configMap": {"name": "m", "defaultMode": 256,
                    "items": [{"key": "a", "path": "x/y", "mode": 511}]}}),
                vec![f("x/y", "1", 0o777)],
            ),
            (json!({"name": "v", "secret": {"secretName": "s"}}), vec![f("k", "\u{1}\u{2}", 0o644)]),
            (json!({"name": "v", "configMap": {"name": "gone", "optional": true}}), vec![]),
            (
                json!({"name": "v", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                    {"configMap": {"name": "m", "items": [{"key": "b", "path": "ca.crt"}]}},
                    {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}),
                vec![f("token", "jwt", 0o644), f("ca.crt", "2", 0o644), f("namespace", "ns", 0o644)],
            ),
        ] {
            assert_eq!(files(volume.clone()).unwrap(), wanted, "{volume}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for (volume, text) in [
            (json!({"name": "v", "configMap": {"name": "gone"}}), "configmap \"gone\" not found"),
            (json!({"name": "v", "secret": {"secretName": "gone"}}), "secret \"gone\" not found"),
            (
                json!({"name": "v", "configMap": {"name": "m", "items": [{"key": "z", "path": "z"}]}}),
                "references non-existent config key: z",
            ),
        ] {
            assert_eq!(files(volume).unwrap_err(), text);
        }
    }
}
