//! ResourceQuota: see `galley_controllers_plan::quota`. What an object uses is counted as admission counts it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use galley_controllers_plan::Plan;
use galley_controllers_plan::quota::{COMPONENT, plan};
use galley_pipeline::{Usage, quota_covers, usage};
use galley_store::{DecodeError, EventKind, ObjectKey};
use galley_types::{ResourceName, Revision};
use k8s_openapi::api::core::v1::ResourceQuota;

use crate::controller::{Context, Controller, Wake};
use crate::view::{Change, View};

/// The controller.
#[derive(Debug, Default)]
pub struct Quotas {
    /// What each object uses, at the revision at which it was counted.
    counted: HashMap<ObjectKey, (Revision, Arc<Usage>)>,
}

impl Controller for Quotas {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, view: &View, wake: &mut Wake) {
        let key = change.key();
        if key.namespace.is_empty() {
            return;
        }
        if change.resource() == "resourcequotas" {
            wake.key(key.clone());
            return;
        }
        let gone = change.kind == EventKind::Deleted;
        if gone {
            self.counted.remove(key);
        }
        // Of a pod, its phase; of other objects, any change may be one of type or size.
        let phase = |of: &crate::view::Seen| of.object.fields.get("status.phase").map(str::to_owned);
        let counts = gone
            || change.before.is_none_or(|before| match change.resource() {
                "pods" => phase(before) != phase(change.now),
                "services" | "persistentvolumeclaims" => true,
                _ => false,
            });
        if counts {
            for seen in view.in_namespace("resourcequotas", &key.namespace) {
                wake.key(seen.object.key.clone());
            }
        }
    }

    fn plan(&mut self, key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let view = context.view;
        let Some(seen) = view.at(key) else { return Ok(Plan::nothing("the quota is gone".into())) };
        let quota: Arc<ResourceQuota> = seen.object.typed()?;
        let value = seen.object.value()?;
        let spec = quota.spec.as_ref();
        let scoped = spec.is_some_and(|s| s.scopes.is_some() || s.scope_selector.is_some());
        let hard = spec.and_then(|s| s.hard.as_ref());
        let resources: BTreeSet<ResourceName> =
            hard.into_iter().flat_map(|h| h.keys()).map(|k| counted_in(k)).collect();
        let mut used = Usage::new();
        for resource in resources {
            for object in view.in_namespace(resource.as_str(), &key.namespace).map(|seen| &seen.object) {
                if scoped && !quota_covers(&value, resource.as_str(), &object.value()?) {
                    continue;
                }
                let counted = self.counted.get(&object.key).filter(|(at, _)| *at == object.revision);
                let amounts = match counted {
                    Some((_, amounts)) => amounts.clone(),
                    None => {
                        let amounts = Arc::new(usage(resource.as_str(), &object.value()?));
                        self.counted.insert(object.key.clone(), (object.revision, amounts.clone()));
                        amounts
                    }
                };
                for (name, amount) in &*amounts {
                    *used.entry(name.clone()).or_default() += *amount;
                }
            }
        }
        Ok(plan(&quota, &used).explain())
    }
}

/// The resource whose objects use what a quota's key names.
fn counted_in(key: &str) -> ResourceName {
    if let Some(counted) = key.strip_prefix("count/") {
        return counted.into();
    }
    match key {
        "services" | "services.nodeports" | "services.loadbalancers" => "services".into(),
        "configmaps" | "secrets" | "persistentvolumeclaims" | "replicationcontrollers" | "resourcequotas" => key.into(),
        "requests.storage" => "persistentvolumeclaims".into(),
        other if other.contains("storageclass.storage.k8s.io/") => "persistentvolumeclaims".into(),
        _ => "pods".into(),
    }
}
