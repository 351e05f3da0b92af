//! Authorization against a cluster's own objects: where roles, bindings and pods are found.

use std::collections::HashMap;
use std::sync::Arc;

use galley_authz::node::NodePods;
use galley_authz::rbac::{self, Grants, Roles};
use galley_authz::{Actor, Attributes, Decision, node};
use galley_store::{ClusterStore, ObjectKey, Scope};
use galley_types::{ResourceName, Revision};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use serde::de::DeserializeOwned;

use crate::api::ClusterApi;

const GROUP: &str = "rbac.authorization.k8s.io";
/// What [`Grants`] are derived from.
const KINDS: [&str; 4] = [
    "clusterroles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
];
/// Actors of a cluster (in a namespace each) whose grants are kept: more than are at work in one, few enough to start over.
const ACTORS: usize = 1024;

/// What roles grant the actors that were seen lately. Without it every request would look through all bindings.
#[derive(Debug, Default)]
pub(crate) struct KnownGrants {
    touched: Revision,
    by_actor: HashMap<String, Arc<Grants>>,
}

/// Everything that grants depend on, each part with its length before it, so that no two actors have one name.
fn name_of(actor: &Actor, namespace: &str) -> String {
    let parts = [namespace, &actor.username].into_iter().chain(actor.groups.iter().map(String::as_str));
    parts.fold(String::with_capacity(160), |mut name, part| {
        name.push_str(&part.len().to_string());
        name.push(':');
        name.push_str(part);
        name
    })
}

impl ClusterApi {
    /// Whether an actor may do this: by being a node, or by a role.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let mut reason = String::new();
        if let Some(name) = attributes.actor.node() {
            match node::authorize(self, name, attributes) {
                allowed @ Decision::Allow { .. } => return allowed,
                Decision::NoOpinion { reason: why } => reason = why,
            }
        }
        if rbac::is_master(attributes.actor) {
            return Decision::Allow { reason: String::new() };
        }
        match self.grants(attributes.actor, rbac::namespace_of(attributes)).decide(attributes) {
            Decision::NoOpinion { reason: why } if why.is_empty() => Decision::NoOpinion { reason },
            decision => decision,
        }
    }

    /// What roles grant an actor: worked out when it is first seen, and again after a role or binding changed.
    fn grants(&self, actor: &Actor, namespace: &str) -> Arc<Grants> {
        // Before looking: a change in between makes what is kept old at the next request.
        let touched = self.store.touched(&KINDS);
        let who = name_of(actor, namespace);
        {
            let known = self.shared.grants.lock();
            if known.touched == touched
                && let Some(grants) = known.by_actor.get(&who)
            {
                return Arc::clone(grants);
            }
        }
        let grants = Arc::new(Grants::of(self, actor, namespace));
        let mut known = self.shared.grants.lock();
        if known.touched != touched || known.by_actor.len() >= ACTORS {
            known.by_actor.clear();
            known.touched = touched;
        }
        known.by_actor.insert(who, Arc::clone(&grants));
        grants
    }

    /// The rules that an actor has in a namespace.
    pub fn rules_of(&self, actor: &Actor, namespace: &str) -> Vec<PolicyRule> {
        rbac::rules_of(self, actor, namespace)
    }
}

fn one<T: DeserializeOwned + Send + Sync + 'static>(
    store: &ClusterStore,
    plural: &str,
    namespace: &str,
    name: &str,
) -> Option<Arc<T>> {
    store.get(&ObjectKey::new(&ResourceName::new(plural, GROUP), namespace, name))?.typed().ok()
}

fn all<T: DeserializeOwned + Send + Sync + 'static>(
    store: &ClusterStore,
    plural: &str,
    namespace: Option<&str>,
) -> Vec<Arc<T>> {
    let scope = Scope { resource: ResourceName::new(plural, GROUP), namespace: namespace.map(Into::into) };
    store.list(&scope).objects.iter().filter_map(|object| object.typed().ok()).collect()
}

impl Roles for ClusterApi {
    fn cluster_role(&self, name: &str) -> Option<Arc<ClusterRole>> {
        one(&self.store, "clusterroles", "", name)
    }

    fn cluster_roles(&self) -> Vec<Arc<ClusterRole>> {
        all(&self.store, "clusterroles", None)
    }

    fn role(&self, namespace: &str, name: &str) -> Option<Arc<Role>> {
        one(&self.store, "roles", namespace, name)
    }

    fn cluster_role_bindings(&self) -> Vec<Arc<ClusterRoleBinding>> {
        all(&self.store, "clusterrolebindings", None)
    }

    fn role_bindings(&self, namespace: &str) -> Vec<Arc<RoleBinding>> {
        all(&self.store, "rolebindings", Some(namespace))
    }
}

impl NodePods for ClusterApi {
    fn refers(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let scope = Scope { resource: "pods".into(), namespace: Some(namespace.into()) };
        self.store
            .list(&scope)
            .objects
            .iter()
            .filter(|pod| pod.fields.get("spec.nodeName").is_some_and(|on| on == node))
            .filter_map(|pod| pod.typed::<Pod>().ok())
            .any(|pod| pod_refers(&pod, resource, name))
    }

    fn is_on(&self, node: &str, namespace: &str, name: &str) -> bool {
        match self.store.get(&ObjectKey::new(&"pods".into(), namespace, name)) {
            Some(pod) => pod.fields.get("spec.nodeName").is_some_and(|on| on == node),
            None => true,
        }
    }
}

/// Whether a pod's spec names this object of its namespace.
fn pod_refers(pod: &Pod, resource: &str, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let volumes = || spec.volumes.iter().flatten();
    let containers = || {
        let ephemeral = spec.ephemeral_containers.iter().flatten();
        let plain = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        plain.map(|c| (&c.env, &c.env_from)).chain(ephemeral.map(|c| (&c.env, &c.env_from)))
    };
    let sources = || {
        let projected = volumes().filter_map(|volume| volume.projected.as_ref());
        projected.flat_map(|projected| projected.sources.iter().flatten())
    };
    match resource {
        "serviceaccounts" => spec.service_account_name.as_deref() == Some(name),
        "persistentvolumeclaims" => {
            volumes().any(|v| v.persistent_volume_claim.as_ref().is_some_and(|claim| claim.claim_name == name))
        }
        "secrets" => {
            spec.image_pull_secrets.iter().flatten().any(|secret| secret.name == name)
                || volumes().any(|v| v.secret.as_ref().is_some_and(|s| s.secret_name.as_deref() == Some(name)))
                || sources().any(|source| source.secret.as_ref().is_some_and(|s| s.name == name))
                || containers().any(|(env, env_from)| {
                    env.iter().flatten().any(|env| {
                        let from = env.value_from.as_ref().and_then(|from| from.secret_key_ref.as_ref());
                        from.is_some_and(|from| from.name == name)
                    }) || env_from.iter().flatten().any(|f| f.secret_ref.as_ref().is_some_and(|s| s.name == name))
                })
        }
        "configmaps" => {
            volumes().any(|v| v.config_map.as_ref().is_some_and(|map| map.name == name))
                || sources().any(|source| source.config_map.as_ref().is_some_and(|map| map.name == name))
                || containers().any(|(env, env_from)| {
                    env.iter().flatten().any(|env| {
                        let from = env.value_from.as_ref().and_then(|from| from.config_map_key_ref.as_ref());
                        from.is_some_and(|from| from.name == name)
                    }) || env_from.iter().flatten().any(|f| f.config_map_ref.as_ref().is_some_and(|m| m.name == name))
                })
        }
        _ => false,
    }
}
