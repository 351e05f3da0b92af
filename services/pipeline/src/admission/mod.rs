//! Admission: what the cluster's own objects say about a write, after decoding and before validation. Each module is one of
//! Kubernetes' admission plugins as a pure function; the code here fetches what it needs and keeps their order.

pub mod limits;
pub mod nodes;
pub mod priority;
pub mod quota;
pub mod rbac;
pub mod service_account;
pub mod services;
pub mod tolerations;

use std::sync::Arc;

use galley_authz::Actor;
use galley_kube::{Resource, Status};
use galley_store::{Object, ObjectKey, Scope};
use serde_json::Value;

use crate::api::ClusterApi;
use crate::strategy::Part;

/// A write under admission.
pub(crate) struct Request<'a> {
    pub(crate) api: &'a ClusterApi,
    pub(crate) actor: &'a Actor,
    pub(crate) resource: &'a Resource,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

impl Request<'_> {
    fn is(&self, group: &str, plural: &str) -> bool {
        self.resource.group == group && self.resource.plural == plural
    }

    /// `pods "x" is forbidden: why`.
    pub(crate) fn forbidden(&self, why: &str) -> Status {
        Status::forbidden(&self.resource.group, &self.resource.plural, self.name, why)
    }

    /// An object as a tree that is decoded once and kept with it.
    fn fetch(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.api.store.get(&ObjectKey::new(&resource.into(), namespace, name))?.typed().ok()
    }

    fn fetch_all(&self, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
        self.list(resource, namespace).iter().filter_map(|object| object.typed().ok()).collect()
    }

    fn list(&self, resource: &str, namespace: &str) -> Vec<Arc<Object>> {
        let namespace = (!namespace.is_empty()).then(|| namespace.into());
        self.api.store.list(&Scope { resource: resource.into(), namespace }).objects
    }
}

/// Admits a create; `object` may be changed.
pub(crate) fn create(request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
    nodes::admit(request, Part::Main, None, object)?;
    if request.is("", "pods") {
        limits::admit(request, object)?;
        let account = service_account::name(object).to_owned();
        let found = request.fetch("serviceaccounts", request.namespace, &account);
        service_account::admit(request, object, found.as_deref(), &crate::names::suffix(request.api.store.entropy()))?;
        priority::admit(request, object)?;
        tolerations::admit(object);
    } else if request.is("", "persistentvolumeclaims") {
        limits::admit_claim(request, object)?;
    } else if request.is("", "nodes") {
        nodes::taint_new(object);
    } else if request.is("scheduling.k8s.io", "priorityclasses") {
        priority::admit_class(request, object)?;
    }
    rbac::admit(request, None, object)?;
    Ok(())
}

/// Admits an update of `part`; `new` may be changed.
pub(crate) fn update(request: &Request<'_>, part: Part<'_>, old: &Value, new: &mut Value) -> Result<(), Status> {
    nodes::admit(request, part, Some(old), new)?;
    if request.is("", "pods") && part == Part::Sub("ephemeralcontainers") {
        service_account::mount_in_ephemeral(new);
    }
    if part == Part::Main {
        rbac::admit(request, Some(old), new)?;
        if request.is("scheduling.k8s.io", "priorityclasses") {
            priority::admit_class(request, new)?;
        }
    }
    Ok(())
}

/// Namespaces that a cluster cannot be without.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Admits a deletion.
pub(crate) fn delete(
    api: &ClusterApi,
    actor: &Actor,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> Result<(), Status> {
    if resource.group.is_empty() && resource.plural == "namespaces" && IMMORTAL.contains(&name) {
        return Err(Status::forbidden("", "namespaces", name, "this namespace may not be deleted"));
    }
    let request = Request { api, actor, resource, namespace, name };
    nodes::admit_delete(&request)
}
