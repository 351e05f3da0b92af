//! ClusterRole aggregation: a role with an `aggregationRule` holds the rules of all roles that its selectors match.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use crate::action::{Action, Plan};
use crate::meta;

/// Where ClusterRoles are.
pub const RESOURCE: &str = "clusterroles.rbac.authorization.k8s.io";
/// What events and audit call the controller.
pub const COMPONENT: &str = "clusterrole-aggregation-controller";

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The rules of the roles that it gathers changed.
    RulesDiffer,
    /// It holds them.
    AsWanted,
    /// It gathers none.
    NotAggregating,
}

/// Whether a role gathers another's rules.
pub fn gathers(role: &ClusterRole, other: &ClusterRole) -> bool {
    let selectors = role.aggregation_rule.as_ref().and_then(|a| a.cluster_role_selectors.as_ref());
    let labels = other.metadata.labels.as_ref();
    role.metadata.name != other.metadata.name
        && selectors.into_iter().flatten().any(|selector| meta::selects(selector, labels))
}

/// Plans for a role, given the roles that it gathers, by name.
pub fn plan(role: &ClusterRole, gathered: &[Arc<ClusterRole>]) -> Plan<Reason> {
    if role.aggregation_rule.is_none() {
        return Plan::nothing(Reason::NotAggregating);
    }
    let mut rules: Vec<PolicyRule> = Vec::new();
    for rule in gathered.iter().flat_map(|r| r.rules.iter().flatten()) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    let mut plan = Plan::new();
    if role.rules.as_deref().unwrap_or_default() != rules {
        let updated = ClusterRole { rules: Some(rules), ..role.clone() };
        plan.push(Action::update(RESOURCE, &role.metadata, &updated, Reason::RulesDiffer));
    }
    plan.or_nothing(Reason::AsWanted)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::world::World;

    #[test]
    fn rules_of_labelled_roles_are_gathered_once() {
        let mut world = World::new();
        let rule = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
        world.create(
            RESOURCE,
            &json!({"metadata": {"name": "view"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}]}}),
        );
        for name in ["a", "b"] {
            world.create(RESOURCE, &json!({"metadata": {"name": name, "labels": {"to": "view"}}, "rules": [rule]}));
        }
        world.create(RESOURCE, &json!({"metadata": {"name": "other"}, "rules": [rule]}));
        world.settle(|w| {
            let role = w.get::<ClusterRole>(RESOURCE, "", "view").unwrap();
            let all = w.list::<ClusterRole>(RESOURCE);
            let gathered: Vec<_> = all.into_iter().filter(|other| gathers(&role, other)).collect();
            assert_eq!(gathered.len(), 2);
            plan(&role, &gathered)
        });
        assert_eq!(world.get::<ClusterRole>(RESOURCE, "", "view").unwrap().rules.as_ref().unwrap().len(), 1);
    }
}
