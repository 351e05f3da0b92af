//! What a new cluster starts with: its namespaces and their default accounts, the `kubernetes` Service with its endpoints,
//! priority classes, and the roles and bindings that users and components expect. One batch of the store, so that a cluster
//! is made in the time of one commit; done again it fills in what is missing and changes nothing.

mod rbac;

use galley_kube::{Status, kubernetes_service};
use galley_store::{CommitError, Write};
use serde_json::{Value, json};

use crate::api::{ClusterApi, commit_status};
use crate::{encode, rules, strategy};

/// The namespaces of every cluster.
const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

impl ClusterApi {
    /// Makes the objects that every cluster has, where they are missing.
    pub async fn bootstrap(&self) -> Result<(), Status> {
        let now = self.clock.now();
        let actor = galley_authz::Actor::controller("bootstrap");
        let mut writes = Vec::new();
        for (resource, namespace, mut object) in self.first_objects() {
            let resource = self.builtin(resource)?;
            let name = crate::value::text(&object, "/metadata/name").to_owned();
            let key = self.key(&resource, namespace, &name);
            if self.store.get(&key).is_some() {
                continue;
            }
            let root = crate::value::root(&mut object);
            root.insert("apiVersion".into(), json!(resource.api_version()));
            root.insert("kind".into(), json!(resource.kind));
            rules::default(&resource, &mut object);
            let uid = self.store.entropy().uuid().to_string();
            strategy::start_metadata(&resource, namespace, &name, &uid, now, &mut object);
            strategy::prepare_create(&resource, &actor, now, &mut object);
            let draft = encode::draft(&resource, key, &object)?;
            writes.push((resource, name, Write::Create(draft)));
        }
        let (named, writes): (Vec<_>, Vec<_>) =
            writes.into_iter().map(|(resource, name, write)| ((resource, name), write)).unzip();
        for ((resource, name), answer) in named.into_iter().zip(self.store.commit_all(writes).await) {
            match answer {
                Ok(_) | Err(CommitError::Exists(_)) => {}
                Err(error) => return Err(commit_status(&resource, &name, error)),
            }
        }
        Ok(())
    }

    /// Resource, namespace, object.
    fn first_objects(&self) -> Vec<(&'static str, &'static str, Value)> {
        let mut objects = Vec::new();
        for namespace in NAMESPACES {
            objects.push(("namespaces", "", json!({"metadata": {"name": namespace}})));
        }
        for namespace in NAMESPACES {
            objects.push(("serviceaccounts", namespace, json!({"metadata": {"name": "default"}})));
        }
        for (name, value, description) in [
            (
                "system-cluster-critical",
                2_000_000_000,
                "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
            ),
            (
                "system-node-critical",
                2_000_001_000,
                "Used for system critical pods that must not be moved from their current node.",
            ),
        ] {
            let class = json!({"metadata": {"name": name}, "value": value, "description": description});
            objects.push(("priorityclasses.scheduling.k8s.io", "", class));
        }
        let service = kubernetes_service::objects(self.settings.kubernetes_ip());
        objects.extend(service.map(|(resource, object)| (resource, kubernetes_service::NAMESPACE, object)));
        let cidr = self.settings.service_cidr.to_string();
        let range = json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": [cidr]}});
        objects.push(("servicecidrs.networking.k8s.io", "", range));
        objects.extend(rbac::objects());
        objects
    }
}
