//! Namespace: see `galley_controllers_plan::namespace`.

use std::collections::HashSet;
use std::sync::Arc;

use galley_controllers_plan::Plan;
use galley_controllers_plan::namespace::{COMPONENT, Content, Observed, plan};
use galley_store::{DecodeError, EventKind, ObjectKey};
use k8s_openapi::api::core::v1::Namespace;

use crate::controller::{Context, Controller, Wake};
use crate::view::{Change, View};

/// The controller.
#[derive(Debug, Default)]
pub struct Namespaces {
    /// Those that are being deleted: the only ones whose contents matter here.
    going: HashSet<Arc<str>>,
}

impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, _: &View, wake: &mut Wake) {
        let key = change.key();
        if change.resource() == "namespaces" {
            if change.kind == EventKind::Deleted {
                self.going.remove(&key.name);
            } else if change.now.deleting {
                self.going.insert(key.name.clone());
                wake.key(key.clone());
            }
        } else if self.going.contains(&key.namespace) {
            wake.object("namespaces", "", &key.namespace);
        }
    }

    fn plan(&mut self, key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let view = context.view;
        let namespace = view.typed::<Namespace>(key)?;
        let mut contents = Vec::new();
        if self.going.contains(&key.name) {
            for resource in view.resources() {
                contents.extend(view.in_namespace(resource.as_str(), &key.name).map(|seen| Content {
                    resource: resource.clone(),
                    name: seen.object.key.name.clone(),
                    uid: seen.object.uid.clone(),
                    deleting: seen.deleting,
                    finalizers: seen.finalizers.clone(),
                }));
            }
            contents.sort_by(|a, b| (&a.resource, &a.name).cmp(&(&b.resource, &b.name)));
        }
        Ok(plan(&Observed { namespace, contents }, context.now).explain())
    }
}
