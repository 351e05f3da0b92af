//! The Service `default/kubernetes`: see `galley_controllers_plan::kubernetes_service`.

use galley_controllers_plan::{Plan, kubernetes_service as plan};
use galley_kube::kubernetes_service::{NAME, NAMESPACE};
use galley_store::{DecodeError, ObjectKey};

use crate::controller::{Context, Controller, Wake};
use crate::view::{Change, View};

/// Keeps the API server's addresses where pods look for them. Its one key is the namespace `default`.
#[derive(Debug)]
pub struct KubernetesService;

impl Controller for KubernetesService {
    fn name(&self) -> &'static str {
        plan::COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, _: &View, wake: &mut Wake) {
        let key = change.key();
        let concerned = match change.resource() {
            "namespaces" => *key.name == *NAMESPACE,
            "services" | "endpoints" | "endpointslices.discovery.k8s.io" => {
                *key.namespace == *NAMESPACE && *key.name == *NAME
            }
            _ => false,
        };
        if concerned {
            wake.object("namespaces", "", NAMESPACE);
        }
    }

    fn plan(&mut self, key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let view = context.view;
        let at = |resource: &str| ObjectKey::new(&resource.into(), NAMESPACE, NAME);
        let observed = plan::Observed {
            namespace: view.typed(key)?,
            wanted: plan::Objects::at(context.settings.kubernetes_ip()),
            found: plan::Objects {
                service: view.typed(&at("services"))?,
                endpoints: view.typed(&at("endpoints"))?,
                slice: view.typed(&at("endpointslices.discovery.k8s.io"))?,
            },
        };
        Ok(plan::plan(&observed).explain())
    }
}
