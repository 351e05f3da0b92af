//! ClusterRole aggregation: see `galley_controllers_plan::cluster_role`.

use std::collections::BTreeSet;
use std::sync::Arc;

use galley_controllers_plan::Plan;
use galley_controllers_plan::cluster_role::{COMPONENT, RESOURCE, gathers, plan};
use galley_store::{DecodeError, EventKind, ObjectKey};
use k8s_openapi::api::rbac::v1::ClusterRole;

use crate::controller::{Context, Controller, Wake};
use crate::view::{Change, View};

/// The controller.
#[derive(Debug, Default)]
pub struct ClusterRoles {
    /// Roles that gather others' rules: few, of a hundred.
    gathering: BTreeSet<Arc<str>>,
}

impl Controller for ClusterRoles {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, _: &View, wake: &mut Wake) {
        if change.resource() != RESOURCE {
            return;
        }
        let key = change.key();
        let Ok(role) = change.now.object.typed::<ClusterRole>() else { return };
        if role.aggregation_rule.is_some() && change.kind != EventKind::Deleted {
            self.gathering.insert(key.name.clone());
        } else {
            self.gathering.remove(&key.name);
        }
        for name in &self.gathering {
            wake.object(RESOURCE, "", name);
        }
    }

    fn plan(&mut self, key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let Some(role) = context.view.typed::<ClusterRole>(key)? else {
            return Ok(Plan::nothing("the role is gone".into()));
        };
        let mut gathered = Vec::new();
        if role.aggregation_rule.is_some() {
            for seen in context.view.all(RESOURCE) {
                let other = seen.object.typed::<ClusterRole>()?;
                if gathers(&role, &other) {
                    gathered.push(other);
                }
            }
        }
        Ok(plan(&role, &gathered).explain())
    }
}
