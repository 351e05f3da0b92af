//! ServiceAccount: every namespace has one called `default`, which pods use that name none.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use serde_json::json;

use crate::action::{Action, Plan};
use crate::meta;

/// What events and audit call the controller.
pub const COMPONENT: &str = "service-account-controller";
/// The name that every namespace has.
pub const NAME: &str = "default";

/// What a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The namespace, if it is there.
    pub namespace: Option<Arc<Namespace>>,
    /// Whether its `default` ServiceAccount is.
    pub exists: bool,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The namespace does not have it.
    Missing,
    /// It has.
    Exists,
    /// The namespace is not there, or on its way out.
    NamespaceGoes,
}

/// Observed -> actions.
pub fn plan(observed: &Observed) -> Plan<Reason> {
    let namespace = observed.namespace.as_deref().filter(|n| !meta::is_deleting(&n.metadata));
    let Some(namespace) = namespace else { return Plan::nothing(Reason::NamespaceGoes) };
    let mut plan = Plan::new();
    if !observed.exists {
        let name = meta::name(&namespace.metadata);
        let body = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": name}});
        plan.push(Action::create("serviceaccounts", name, body, Reason::Missing));
    }
    plan.or_nothing(Reason::Exists)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    #[test]
    fn each_living_namespace_gets_its_default_account_once() {
        let mut world = World::new();
        world.create("namespaces", &json!({"metadata": {"name": "team"}}));
        let observe = |w: &World| {
            plan(&Observed {
                namespace: w.get("namespaces", "", "team"),
                exists: w.get::<serde_json::Value>("serviceaccounts", "team", NAME).is_some(),
            })
        };
        world.settle(observe);
        assert_eq!(world.log, ["create serviceaccounts team/default"]);
        world.delete("serviceaccounts", "team", NAME);
        world.edit("namespaces", "", "team", |n| n["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
        assert_eq!(world.settle(observe).nothing, Some(Reason::NamespaceGoes));
    }
}
