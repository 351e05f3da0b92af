//! Operations: what kubectl looks up here is which kind a path serves (`explain`) and whether a verb takes
//! `fieldValidation` and `dryRun` (`apply`).

use galley_kube::Resource;
use serde_json::{Map, Value, json};

use crate::{META, group_version_kind};

/// Bodies of subresources that have a kind of their own.
pub(crate) const SUBRESOURCE_KINDS: &[(&str, &str)] = &[
    ("Scale", "io.k8s.api.autoscaling.v1.Scale"),
    ("Binding", "io.k8s.api.core.v1.Binding"),
    ("Eviction", "io.k8s.api.policy.v1.Eviction"),
    ("TokenRequest", "io.k8s.api.authentication.v1.TokenRequest"),
];

/// Adds the paths of `resource`, whose objects are `name`.
pub(crate) fn add(paths: &mut Map<String, Value>, resource: &Resource, name: &str) {
    let root = if resource.group.is_empty() { "/api" } else { "/apis" };
    let base = format!("{root}/{}", resource.api_version());
    let plural = &resource.plural;
    let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{scope}/{plural}");
    let object = format!("{collection}/{{name}}");
    let has = |verb: &str| resource.verbs.iter().any(|v| v == verb);
    let mut entry = Entry { resource, path: collection.clone(), operations: Map::new() };
    if has("list") {
        entry.add("get", "list", &format!("{name}List"));
    }
    if has("create") {
        entry.add("post", "create", name);
    }
    if has("deletecollection") {
        entry.add("delete", "deletecollection", &format!("{META}.Status"));
    }
    entry.finish(paths);
    let mut entry = Entry { resource, path: object.clone(), operations: Map::new() };
    for (method, verb) in [("get", "get"), ("put", "update"), ("patch", "patch"), ("delete", "delete")] {
        if has(verb) {
            entry.add(method, verb, if verb == "delete" { "" } else { name });
        }
    }
    entry.finish(paths);
    if resource.namespaced && has("list") {
        let mut entry = Entry { resource, path: format!("{base}/{plural}"), operations: Map::new() };
        entry.add("get", "list", &format!("{name}List"));
        entry.finish(paths);
    }
    for sub in &resource.subresources {
        let kind = SUBRESOURCE_KINDS.iter().find(|(kind, _)| *kind == sub.kind).map(|(_, name)| *name);
        let body = kind.unwrap_or(name);
        let mut entry = Entry { resource, path: format!("{object}/{}", sub.name), operations: Map::new() };
        for (method, verb) in [("get", "get"), ("put", "update"), ("patch", "patch"), ("post", "create")] {
            if sub.verbs.iter().any(|v| v == verb) {
                entry.add(method, verb, body);
            }
        }
        entry.finish(paths);
    }
}

struct Entry<'a> {
    resource: &'a Resource,
    path: String,
    operations: Map<String, Value>,
}

impl Entry<'_> {
    fn add(&mut self, method: &str, verb: &str, body: &str) {
        let body = if body.is_empty() { format!("{META}.Status") } else { body.to_owned() };
        let schema = json!({"$ref": format!("#/components/schemas/{body}")});
        let mut parameters = Vec::new();
        let query =
            |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
        if matches!(verb, "create" | "update" | "patch") {
            parameters.extend(["dryRun", "fieldManager", "fieldValidation"].map(query));
        }
        match verb {
            "patch" => parameters
                .push(json!({"name": "force", "in": "query", "schema": {"type": "boolean", "uniqueItems": true}})),
            "delete" | "deletecollection" => parameters.push(query("dryRun")),
            "list" => parameters.extend(
                ["continue", "fieldSelector", "labelSelector", "limit", "resourceVersion", "timeoutSeconds", "watch"]
                    .map(query),
            ),
            _ => {}
        }
        let content = json!({"application/json": {"schema": schema}});
        let mut operation = json!({
            "operationId": format!("{verb}{}", self.path.replace(['/', '{', '}', '.', '-'], "_")),
            "responses": {"200": {"description": "OK", "content": content}},
            "x-kubernetes-action": match verb { "create" => "post", "update" => "put", other => other },
            "x-kubernetes-group-version-kind": group_version_kind(self.resource, &self.resource.kind)[0],
        });
        if !parameters.is_empty() {
            operation["parameters"] = json!(parameters);
        }
        match verb {
            "create" | "update" => {
                operation["requestBody"] = json!({"required": true, "content": {"*/*": {"schema": schema}}})
            }
            "patch" => {
                let patch = json!({"schema": {"type": "object"}});
                let mut content = json!({
                    "application/json-patch+json": patch, "application/merge-patch+json": patch,
                    "application/apply-patch+yaml": patch,
                });
                // kubectl apply decides by this list: custom resources have no strategic merge patch.
                if galley_kube::schema::kind(&self.resource.api_version(), &self.resource.kind).is_some() {
                    content["application/strategic-merge-patch+json"] = patch;
                }
                operation["requestBody"] = json!({"required": true, "content": content});
            }
            _ => {}
        }
        self.operations.insert(method.into(), operation);
    }

    fn finish(mut self, paths: &mut Map<String, Value>) {
        if self.operations.is_empty() {
            return;
        }
        let parameters: Vec<Value> = ["namespace", "name"]
            .iter()
            .filter(|name| self.path.contains(&format!("{{{name}}}")))
            .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}}))
            .collect();
        if !parameters.is_empty() {
            self.operations.insert("parameters".into(), json!(parameters));
        }
        paths.insert(self.path, Value::Object(self.operations));
    }
}

/// OpenAPI v3 operations to v2's: bodies are parameters, parameters carry their type, answers their schema.
pub(crate) fn downgrade(paths: Map<String, Value>) -> Value {
    let mut paths = Value::Object(paths);
    for item in paths.as_object_mut().into_iter().flat_map(|p| p.values_mut()) {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            if method == "parameters" {
                flatten(operation);
                continue;
            }
            flatten(&mut operation["parameters"]);
            let ok = operation["responses"]["200"]["content"]["application/json"]["schema"].take();
            operation["responses"] = json!({"200": {"description": "OK", "schema": ok}});
            operation["produces"] = json!(["application/json", "application/yaml"]);
            operation["consumes"] = json!(["*/*"]);
            if let Some(body) = operation.as_object_mut().and_then(|o| o.remove("requestBody")) {
                let types = body["content"].as_object().cloned().unwrap_or_default();
                operation["consumes"] = types.keys().cloned().collect();
                let schema = types.values().next().map_or(json!({"type": "object"}), |t| t["schema"].clone());
                if operation["parameters"].is_null() {
                    operation["parameters"] = json!([]);
                }
                if let Some(list) = operation["parameters"].as_array_mut() {
                    list.push(json!({"name": "body", "in": "body", "required": true, "schema": schema}));
                }
            }
        }
    }
    crate::facts::downgrade(&mut paths);
    paths
}

fn flatten(parameters: &mut Value) {
    for parameter in parameters.as_array_mut().into_iter().flatten() {
        if let Some(schema) = parameter.as_object_mut().and_then(|p| p.remove("schema")) {
            for (key, value) in schema.as_object().into_iter().flatten() {
                parameter[key] = value.clone();
            }
        }
    }
}
