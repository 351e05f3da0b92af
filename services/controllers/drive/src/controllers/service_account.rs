//! ServiceAccount and root CA: what each namespace is given. See `galley_controllers_plan::{service_account, root_ca}`.

use galley_controllers_plan::{Plan, root_ca, service_account};
use galley_store::{DecodeError, ObjectKey};
use k8s_openapi::api::core::v1::Namespace;

use crate::controller::{Context, Controller, Wake};
use crate::view::{Change, View};

/// Makes the `default` ServiceAccount of each namespace.
#[derive(Debug)]
pub struct ServiceAccounts;

/// Publishes the cluster's CA in each namespace.
#[derive(Debug)]
pub struct RootCa;

/// A namespace concerns itself; the object in it, its namespace.
fn wake_namespace(change: &Change<'_>, resource: &str, name: &str, wake: &mut Wake) {
    let key = change.key();
    if change.resource() == "namespaces" {
        wake.key(key.clone());
    } else if change.resource() == resource && *key.name == *name {
        wake.object("namespaces", "", &key.namespace);
    }
}

impl Controller for ServiceAccounts {
    fn name(&self) -> &'static str {
        service_account::COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, _: &View, wake: &mut Wake) {
        wake_namespace(change, "serviceaccounts", service_account::NAME, wake);
    }

    fn plan(&mut self, key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let observed = service_account::Observed {
            namespace: context.view.typed::<Namespace>(key)?,
            exists: context.view.get("serviceaccounts", &key.name, service_account::NAME).is_some(),
        };
        Ok(service_account::plan(&observed).explain())
    }
}

impl Controller for RootCa {
    fn name(&self) -> &'static str {
        root_ca::COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, _: &View, wake: &mut Wake) {
        wake_namespace(change, "configmaps", root_ca::NAME, wake);
    }

    fn plan(&mut self, key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let published = context.view.get("configmaps", &key.name, root_ca::NAME);
        let observed = root_ca::Observed {
            namespace: context.view.typed::<Namespace>(key)?,
            published: published.map(|seen| seen.object.typed()).transpose()?,
            root_ca: context.settings.root_ca.clone(),
        };
        Ok(root_ca::plan(&observed).explain())
    }
}
