//! Who a request is from, after impersonation, and whether it may be made.

use std::collections::BTreeMap;

use galley_authz::{Actor, Attributes, Target};
use galley_kube::{Reason, Status};
use galley_pipeline::ClusterApi;
use http::HeaderMap;
use http::header::HeaderName;

use super::path::ResourcePath;
use super::query::{self, Query};

const USER: HeaderName = HeaderName::from_static("impersonate-user");
const UID: HeaderName = HeaderName::from_static("impersonate-uid");
const GROUP: HeaderName = HeaderName::from_static("impersonate-group");
const EXTRA: &str = "impersonate-extra-";

/// 403 unless the actor may do this to the resource that the path names.
pub fn resource(api: &ClusterApi, actor: &Actor, verb: &str, path: &ResourcePath, query: &Query) -> Result<(), Status> {
    let selected =
        if matches!(verb, "list" | "watch" | "deletecollection") { query::required_fields(query) } else { Vec::new() };
    // A list of one name is a request for that object.
    let name = match selected.iter().find(|(field, _)| field == "metadata.name") {
        Some((_, name)) if path.name.is_empty() => name,
        _ => &path.name,
    };
    // A namespace is its own namespace to RBAC.
    let namespace = if path.resource == "namespaces" && path.group.is_empty() { &path.name } else { &path.namespace };
    let target = Target::Resource {
        group: &path.group,
        resource: &path.resource,
        subresource: &path.subresource,
        namespace,
        name,
        selected: &selected,
    };
    let attributes = Attributes { actor, verb, target };
    let decision = api.authorize(&attributes);
    if decision.is_allowed() {
        return Ok(());
    }
    let mut why = attributes.denial();
    if !decision.reason().is_empty() {
        why = format!("{why}: {}", decision.reason());
    }
    Err(Status::forbidden(&path.group, &path.resource, name, &why))
}

/// 403 unless the actor may reach a path that is no resource.
pub fn path(api: &ClusterApi, actor: &Actor, verb: &str, path: &str) -> Result<(), Status> {
    let attributes = Attributes { actor, verb, target: Target::Path(path) };
    if api.authorize(&attributes).is_allowed() {
        return Ok(());
    }
    Err(Status::new(403, Reason::Forbidden, format!("forbidden: {}", attributes.denial())))
}

/// The user that the request wants to be, if it may; `None` when it wants to be itself.
pub fn impersonated(api: &ClusterApi, actor: &Actor, headers: &HeaderMap) -> Result<Option<Actor>, Status> {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let groups: Vec<String> =
        headers.get_all(&GROUP).iter().filter_map(|value| value.to_str().ok().map(str::to_owned)).collect();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let (Some(key), Ok(value)) = (name.as_str().strip_prefix(EXTRA), value.to_str()) {
            extra.entry(key.to_owned()).or_default().push(value.to_owned());
        }
    }
    let (username, uid) = (text(&USER), text(&UID));
    if username.is_empty() {
        if groups.is_empty() && extra.is_empty() && uid.is_empty() {
            return Ok(None);
        }
        return Err(Status::internal("requested without impersonating a user"));
    }
    let mut wanted = Actor { username: username.to_owned(), uid: uid.to_owned(), groups, extra };
    let may = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let target = Target::Resource { group, resource, subresource, namespace, name, selected: &[] };
        let attributes = Attributes { actor, verb: "impersonate", target };
        if api.authorize(&attributes).is_allowed() {
            return Ok(());
        }
        Err(Status::forbidden(group, resource, name, &attributes.denial()))
    };
    match wanted.service_account() {
        Some((namespace, name)) => may("", "serviceaccounts", "", namespace, name)?,
        None => may("", "users", "", "", username)?,
    }
    for group in &wanted.groups {
        may("", "groups", "", "", group)?;
    }
    if !wanted.uid.is_empty() {
        may("authentication.k8s.io", "uids", "", "", &wanted.uid)?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            may("authentication.k8s.io", "userextras", key, "", value)?;
        }
    }
    if wanted.groups.is_empty()
        && let Some((namespace, _)) = wanted.service_account()
    {
        wanted.groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
    }
    let class = if wanted.username == "system:anonymous" { "system:unauthenticated" } else { "system:authenticated" };
    if !wanted.groups.iter().any(|group| group == class) {
        wanted.groups.push(class.into());
    }
    Ok(Some(wanted))
}
