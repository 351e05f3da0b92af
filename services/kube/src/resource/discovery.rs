//! Discovery: what `/api`, `/apis` and below say of a catalog, in the form of old clients (one document for each group and
//! version) and in the aggregated form (`apidiscovery.k8s.io/v2`) that spares new ones those requests.

use serde_json::{Map, Value, json};

use super::{Catalog, Resource, Subresource};

/// `APIVersions`: what `/api` says. `server_address` is `host:port`.
pub fn api_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

/// `APIGroupList`: what `/apis` says.
pub fn api_group_list(catalog: &Catalog) -> Value {
    let groups: Vec<Value> =
        catalog.groups().into_iter().map(|group| group_body(catalog, group)).map(Value::Object).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `APIGroup`: what `/apis/<group>` says.
pub fn api_group(catalog: &Catalog, group: &str) -> Option<Value> {
    if group.is_empty() || !catalog.has_group(group) {
        return None;
    }
    let mut body = group_body(catalog, group);
    body.insert("kind".into(), json!("APIGroup"));
    body.insert("apiVersion".into(), json!("v1"));
    Some(Value::Object(body))
}

fn group_body(catalog: &Catalog, group: &str) -> Map<String, Value> {
    let versions: Vec<Value> = catalog
        .versions(group)
        .into_iter()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    let mut body = Map::new();
    body.insert("name".into(), json!(group));
    body.insert("preferredVersion".into(), versions[0].clone());
    body.insert("versions".into(), Value::Array(versions));
    body
}

/// `APIResourceList`: what `/api/v1` and `/apis/<group>/<version>` say.
pub fn api_resource_list(catalog: &Catalog, group: &str, version: &str) -> Option<Value> {
    if !catalog.has_version(group, version) {
        return None;
    }
    let mut resources = Vec::new();
    for resource in catalog.iter().filter(|r| r.group == group && r.version == version) {
        resources.push(legacy_resource(resource));
        resources.extend(resource.subresources.iter().map(|s| legacy_subresource(resource, s)));
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut list = json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": resources});
    if !group.is_empty() {
        list["apiVersion"] = json!("v1");
    }
    Some(list)
}

fn legacy_resource(resource: &Resource) -> Value {
    let mut body = json!({
        "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
        "kind": resource.kind, "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        body["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        body["categories"] = json!(resource.categories);
    }
    body
}

fn legacy_subresource(resource: &Resource, subresource: &Subresource) -> Value {
    let mut body = json!({
        "name": format!("{}/{}", resource.plural, subresource.name), "singularName": "",
        "namespaced": resource.namespaced, "kind": subresource.kind, "verbs": subresource.verbs,
    });
    if let Some((group, version)) = &subresource.group_version {
        body["group"] = json!(group);
        body["version"] = json!(version);
    }
    body
}

/// `APIGroupDiscoveryList` for `/api` (`core`) or `/apis`.
pub fn aggregated(catalog: &Catalog, core: bool) -> Value {
    let groups = if core { vec![""] } else { catalog.groups() };
    let items: Vec<Value> = groups
        .into_iter()
        .map(|group| {
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            let versions: Vec<Value> = catalog
                .versions(group)
                .into_iter()
                .map(|version| {
                    let resources: Vec<Value> = catalog
                        .iter()
                        .filter(|r| r.group == group && r.version == version)
                        .map(|r| aggregated_resource(r))
                        .collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resource(resource: &Resource) -> Value {
    let mut body = json!({
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        body["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        body["categories"] = json!(resource.categories);
    }
    if !resource.subresources.is_empty() {
        let subresources: Vec<Value> = resource
            .subresources
            .iter()
            .map(|s| {
                let (group, version) = match &s.group_version {
                    Some((group, version)) => (group, version),
                    None => (&resource.group, &resource.version),
                };
                json!({
                    "subresource": s.name, "verbs": s.verbs,
                    "responseKind": {"group": group, "version": version, "kind": s.kind},
                })
            })
            .collect();
        body["subresources"] = json!(subresources);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::builtin;

    #[test]
    fn old_and_aggregated_discovery_tell_the_same() {
        let groups = api_group_list(builtin());
        let aggregated = aggregated(builtin(), false);
        let names = |list: &Value, pointer: &str| -> Vec<String> {
            list.as_array().unwrap().iter().map(|g| g.pointer(pointer).unwrap().as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(&groups["groups"], "/name"), names(&aggregated["items"], "/metadata/name"));
        assert!(!names(&groups["groups"], "/name").is_empty());
        let list = api_resource_list(builtin(), "apps", "v1").unwrap();
        assert_eq!(list["groupVersion"], "apps/v1");
        let scale = list["resources"].as_array().unwrap().iter().find(|r| r["name"] == "deployments/scale").unwrap();
        assert_eq!((&scale["group"], &scale["kind"]), (&json!("autoscaling"), &json!("Scale")));
        assert!(api_resource_list(builtin(), "apps", "v2").is_none());
        assert_eq!(api_group(builtin(), "autoscaling").unwrap()["preferredVersion"]["version"], "v2");
    }

    #[test]
    fn the_core_group_has_its_own_documents() {
        let core = super::aggregated(builtin(), true);
        assert_eq!(core["items"].as_array().unwrap().len(), 1);
        assert_eq!(core["items"][0]["versions"][0]["version"], "v1");
        assert_eq!(api_resource_list(builtin(), "", "v1").unwrap()["groupVersion"], "v1");
        assert_eq!(api_versions("127.0.0.1:6443")["versions"], json!(["v1"]));
    }
}
