//! Root CA publisher: the cluster's CA certificate as a ConfigMap in every namespace, where pods' API access mounts it from.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use serde_json::json;

use crate::action::{Action, Plan};
use crate::meta;

/// What events and audit call the controller.
pub const COMPONENT: &str = "root-ca-cert-publisher";
/// The ConfigMap in each namespace.
pub const NAME: &str = "kube-root-ca.crt";

const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
     endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
     distributions of Kubernetes clusters.";

/// What a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The namespace, if it is there.
    pub namespace: Option<Arc<Namespace>>,
    /// What it has.
    pub published: Option<Arc<ConfigMap>>,
    /// The CA certificate, PEM.
    pub root_ca: Arc<str>,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The namespace does not have it.
    Missing,
    /// It says something else.
    Differs,
    /// It has it.
    Published,
    /// The namespace is not there, or on its way out.
    NamespaceGoes,
    /// The cluster has no CA to publish.
    NoCertificate,
}

/// Observed -> actions.
pub fn plan(observed: &Observed) -> Plan<Reason> {
    if observed.root_ca.is_empty() {
        return Plan::nothing(Reason::NoCertificate);
    }
    let namespace = observed.namespace.as_deref().filter(|n| !meta::is_deleting(&n.metadata));
    let Some(namespace) = namespace else { return Plan::nothing(Reason::NamespaceGoes) };
    let namespace = meta::name(&namespace.metadata);
    let data = json!({"ca.crt": &*observed.root_ca});
    let mut plan = Plan::new();
    match observed.published.as_deref() {
        None => {
            let body = json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": NAME, "namespace": namespace,
                             "annotations": {"kubernetes.io/description": DESCRIPTION}},
                "data": data,
            });
            plan.push(Action::create("configmaps", namespace, body, Reason::Missing));
        }
        Some(published) => {
            let map = published.data.as_ref();
            let right =
                map.is_some_and(|d| d.len() == 1 && d.get("ca.crt").map(String::as_str) == Some(&observed.root_ca));
            if !right {
                let fixed = ConfigMap {
                    data: Some([("ca.crt".to_owned(), observed.root_ca.to_string())].into()),
                    ..published.clone()
                };
                plan.push(Action::update("configmaps", &published.metadata, &fixed, Reason::Differs));
            }
        }
    }
    plan.or_nothing(Reason::Published)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    #[test]
    fn the_certificate_is_published_and_mended() {
        let mut world = World::new();
        world.create("namespaces", &json!({"metadata": {"name": "team"}}));
        let observe = |w: &World| {
            plan(&Observed {
                namespace: w.get("namespaces", "", "team"),
                published: w.get("configmaps", "team", NAME),
                root_ca: "PEM".into(),
            })
        };
        world.settle(observe);
        world.edit("configmaps", "team", NAME, |m| m["data"]["ca.crt"] = json!("forged"));
        world.settle(observe);
        let map = world.get::<ConfigMap>("configmaps", "team", NAME).unwrap();
        assert_eq!(map.data.as_ref().unwrap()["ca.crt"], "PEM");
        assert_eq!(plan(&Observed::default()).nothing, Some(Reason::NoCertificate));
    }
}
