//! A container's environment: service variables, `envFrom`, `env` with references, and `$(VAR)` expansion.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, Secret, Service};

use crate::downward::{RuntimeFacts, field, resource};

/// The objects that a pod's environment refers to, read beforehand; `None` in a map is 'looked up and not there'.
#[derive(Debug, Clone, Default)]
pub struct EnvSources {
    pub config_maps: BTreeMap<String, ConfigMap>,
    pub secrets: BTreeMap<String, Secret>,
    /// Services of the pod's namespace, and `kubernetes` of `default`.
    pub services: Vec<Service>,
}

/// Why an environment cannot be made; shown as the message of `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvError {
    ConfigMapMissing { name: String },
    SecretMissing { name: String },
    ConfigMapKeyMissing { namespace: String, name: String, key: String },
    SecretKeyMissing { namespace: String, name: String, key: String },
    UnknownField { path: String },
    ContainerMissing { name: String },
}

impl fmt::Display for EnvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConfigMapMissing { name } => write!(f, "configmap {name:?} not found"),
            Self::SecretMissing { name } => write!(f, "secret {name:?} not found"),
            Self::ConfigMapKeyMissing { namespace, name, key } => {
                write!(f, "couldn't find key {key} in ConfigMap {namespace}/{name}")
            }
            Self::SecretKeyMissing { namespace, name, key } => {
                write!(f, "couldn't find key {key} in Secret {namespace}/{name}")
            }
            Self::UnknownField { path } => write!(f, "unsupported fieldPath: {path}"),
            Self::ContainerMissing { name } => write!(f, "container {name} not found"),
        }
    }
}

impl std::error::Error for EnvError {}

/// Names of the ConfigMaps and Secrets that a container's environment refers to.
pub fn referenced(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for from in container.env_from.iter().flatten() {
        maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    (maps, secrets)
}

/// The environment of a container, names unique, in the order in which they were first set.
pub fn environment(
    pod: &Pod,
    container: &Container,
    sources: &EnvSources,
    facts: &RuntimeFacts,
) -> Result<Vec<(String, String)>, EnvError> {
    let mut env = Env::default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let service_env = service_variables(&sources.services, namespace, links);
    from_sources(container, sources, &mut env)?;
    for var in container.env.iter().flatten() {
        let value = match &var.value_from {
            None => Some(expand(var.value.as_deref().unwrap_or_default(), |name| {
                env.get(name).or_else(|| lookup(&service_env, name)).map(str::to_owned)
            })),
            Some(_) => referenced_value(pod, container, var, sources, facts, namespace)?,
        };
        if let Some(value) = value {
            env.set(&var.name, value);
        }
    }
    for (name, value) in service_env {
        if env.get(&name).is_none() {
            env.set(&name, value);
        }
    }
    Ok(env.vars)
}

#[derive(Default)]
struct Env {
    vars: Vec<(String, String)>,
}

impl Env {
    fn get(&self, name: &str) -> Option<&str> {
        lookup(&self.vars, name)
    }

    fn set(&mut self, name: &str, value: String) {
        match self.vars.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => self.vars.push((name.into(), value)),
        }
    }
}

fn lookup<'a>(vars: &'a [(String, String)], name: &str) -> Option<&'a str> {
    vars.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

fn from_sources(container: &Container, sources: &EnvSources, env: &mut Env) -> Result<(), EnvError> {
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let mut add = |key: &str, value: String| {
            let name = format!("{prefix}{key}");
            if valid_name(&name) {
                env.set(&name, value);
            }
        };
        if let Some(reference) = &from.config_map_ref {
            match sources.config_maps.get(&reference.name) {
                Some(map) => map.data.iter().flatten().for_each(|(k, v)| add(k, v.clone())),
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::ConfigMapMissing { name: reference.name.clone() }),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match sources.secrets.get(&reference.name) {
                Some(secret) => {
                    secret.data.iter().flatten().for_each(|(k, v)| add(k, String::from_utf8_lossy(&v.0).into_owned()))
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::SecretMissing { name: reference.name.clone() }),
            }
        }
    }
    Ok(())
}

/// Any printable ASCII but `=` (relaxed names, Kubernetes 1.34 on).
fn valid_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=')
}

fn referenced_value(
    pod: &Pod,
    container: &Container,
    var: &EnvVar,
    sources: &EnvSources,
    facts: &RuntimeFacts,
    namespace: &str,
) -> Result<Option<String>, EnvError> {
    let Some(source) = &var.value_from else { return Ok(None) };
    if let Some(selector) = &source.field_ref {
        return field(pod, selector, facts).map(Some).map_err(|e| EnvError::UnknownField { path: e.path });
    }
    if let Some(selector) = &source.resource_field_ref {
        let of = match selector.container_name.as_deref().filter(|n| !n.is_empty()) {
            None => container.clone(),
            Some(name) => {
                let spec = pod.spec.as_ref();
                let found = spec.and_then(|s| {
                    s.containers.iter().chain(s.init_containers.iter().flatten()).find(|c| c.name == name)
                });
                found.cloned().ok_or_else(|| EnvError::ContainerMissing { name: name.into() })?
            }
        };
        return resource(&of, selector, facts).map(Some).map_err(|e| EnvError::UnknownField { path: e.path });
    }
    if let Some(key) = &source.config_map_key_ref {
        let optional = key.optional == Some(true);
        let Some(map) = sources.config_maps.get(&key.name) else {
            return if optional { Ok(None) } else { Err(EnvError::ConfigMapMissing { name: key.name.clone() }) };
        };
        let value = map.data.as_ref().and_then(|d| d.get(&key.key));
        let missing = || EnvError::ConfigMapKeyMissing {
            namespace: namespace.into(),
            name: key.name.clone(),
            key: key.key.clone(),
        };
        return match value {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(missing()),
        };
    }
    if let Some(key) = &source.secret_key_ref {
        let optional = key.optional == Some(true);
        let Some(secret) = sources.secrets.get(&key.name) else {
            return if optional { Ok(None) } else { Err(EnvError::SecretMissing { name: key.name.clone() }) };
        };
        let value = secret.data.as_ref().and_then(|d| d.get(&key.key));
        let missing =
            || EnvError::SecretKeyMissing { namespace: namespace.into(), name: key.name.clone(), key: key.key.clone() };
        return match value {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => Err(missing()),
        };
    }
    Ok(None)
}

/// Replaces `$(NAME)` by its value where there is one; `$$` is a dollar sign. What cannot be replaced stays as it is.
pub fn expand(text: &str, value_of: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(tail) = rest.strip_prefix("$$") {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = rest.strip_prefix("$(").and_then(|r| r.split_once(')')) {
            match value_of(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&rest[..name.len() + 3]),
            }
            rest = tail;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    out
}

/// `NAME_SERVICE_HOST` and what else Docker's links made popular. Without links only the `kubernetes` Service is there.
fn service_variables(services: &[Service], namespace: &str, links: bool) -> Vec<(String, String)> {
    let mut vars = Vec::new();
    for service in services {
        let (name, of) = (service.metadata.name.as_deref(), service.metadata.namespace.as_deref());
        let (Some(name), Some(of)) = (name, of) else { continue };
        let api_server = of == "default" && name == "kubernetes";
        if !(api_server || links && of == namespace) {
            continue;
        }
        let Some(spec) = &service.spec else { continue };
        let ip = spec.cluster_ip.as_deref().unwrap_or_default();
        if ip.is_empty() || ip == "None" {
            continue;
        }
        let prefix = name.to_uppercase().replace('-', "_");
        let ports = spec.ports.as_deref().unwrap_or_default();
        let Some(first) = ports.first() else { continue };
        vars.push((format!("{prefix}_SERVICE_HOST"), ip.into()));
        vars.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
        for port in ports {
            if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                let port_name = port_name.to_uppercase().replace('-', "_");
                vars.push((format!("{prefix}_SERVICE_PORT_{port_name}"), port.port.to_string()));
            }
        }
        for (index, port) in ports.iter().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            if index == 0 {
                vars.push((format!("{prefix}_PORT"), url.clone()));
            }
            let one = format!("{prefix}_PORT_{}_{protocol}", port.port);
            vars.push((one.clone(), url));
            vars.push((format!("{one}_PROTO"), protocol.to_lowercase()));
            vars.push((format!("{one}_PORT"), port.port.to_string()));
            vars.push((format!("{one}_ADDR"), ip.into()));
        }
    }
    vars
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{container, pod};
    use k8s_openapi::ByteString;
    use serde_json::json;

    fn env_of(container_env: serde_json::Value, sources: &EnvSources) -> Result<Vec<(String, String)>, EnvError> {
        let mut c = container("app");
        c.env = serde_json::from_value(container_env["env"].clone()).unwrap();
        c.env_from = serde_json::from_value(container_env["envFrom"].clone()).unwrap();
        environment(&pod("web", vec![c.clone()]), &c, sources, &RuntimeFacts::default())
    }

    fn sources() -> EnvSources {
        let map = ConfigMap { data: Some([("color".into(), "red".into())].into()), ..Default::default() };
        let secret =
            Secret { data: Some([("pass".into(), ByteString(b"s3cret".to_vec()))].into()), ..Default::default() };
        EnvSources {
            config_maps: [("settings".into(), map)].into(),
            secrets: [("login".into(), secret)].into(),
            services: Vec::new(),
        }
    }

    #[test]
    fn references_and_expansion_make_the_environment() {
        let env = env_of(
            json!({"envFrom": [{"prefix": "P_", "configMapRef": {"name": "settings"}}],
                "env": [
                    {"name": "PASS", "valueFrom": {"secretKeyRef": {"name": "login", "key": "pass"}}},
                    {"name": "LINE", "value": "$(P_color)-$(PASS)-$(NONE)-$$(PASS)"},
                    {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "MAYBE", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k", "optional": true}}}]}),
            &sources(),
        );
        let wanted = [("P_color", "red"), ("PASS", "s3cret"), ("LINE", "red-s3cret-$(NONE)-$(PASS)"), ("ME", "web")];
        let wanted: Vec<(String, String)> = wanted.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        assert_eq!(env.unwrap(), wanted);
    }

    #[test]
    fn what_is_missing_is_named_as_kubectl_users_know_it() {
        for (env, text) in [
            (json!({"envFrom": [{"configMapRef": {"name": "gone"}}]}), "configmap \"gone\" not found"),
            (json!({"envFrom": [{"secretRef": {"name": "gone"}}]}), "secret \"gone\" not found"),
            (
                json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "size"}}}]}),
                "couldn't find key size in ConfigMap default/settings",
            ),
            (
                json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "login", "key": "user"}}}]}),
                "couldn't find key user in Secret default/login",
            ),
        ] {
            assert_eq!(env_of(env, &sources()).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn services_of_the_namespace_become_variables() {
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "my-db", "namespace": "default"},
            "spec": {"clusterIP": "10.96.1.2", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]}}))
        .unwrap();
        let vars = service_variables(std::slice::from_ref(&service), "default", true);
        assert!(vars.contains(&("MY_DB_SERVICE_HOST".into(), "10.96.1.2".into())));
        assert!(vars.contains(&("MY_DB_SERVICE_PORT_SQL".into(), "5432".into())));
        assert!(vars.contains(&("MY_DB_PORT_5432_TCP_ADDR".into(), "10.96.1.2".into())));
        assert_eq!(service_variables(&[service], "default", false), []);
    }
}
