//! `Table` output (meta/v1): what `kubectl get` prints. The server decides the columns and renders the cells, so every
//! client shows the same.
//!
//! One function for each kind gives its columns and one its row; kinds without an entry get name and creation time, custom
//! resources their `additionalPrinterColumns`.

mod apps;
mod core;
mod custom;
mod human;
mod other;
mod pod;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::resource::Resource;
pub use custom::PrinterColumn;
pub use human::duration;

/// `?includeObject=`: what each row carries of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// The object.
    Object,
}

/// A column: name, OpenAPI type and format, priority (0 is always shown, 1 with `-o wide`).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Column {
    name: String,
    kind: String,
    format: String,
    description: String,
    priority: i64,
}

/// The rows of one kind.
struct Printer {
    columns: Vec<Column>,
    row: Box<dyn Fn(&Value, Timestamp) -> Vec<Value> + Send + Sync>,
}

/// Columns from `("Name", "type")` pairs; a name that ends in `*` is shown with `-o wide` only.
fn columns(list: &[(&str, &str)]) -> Vec<Column> {
    list.iter()
        .map(|(name, kind)| {
            let wide = name.ends_with('*');
            let name = name.trim_end_matches('*');
            Column {
                name: name.into(),
                kind: (*kind).into(),
                format: if name == "Name" { "name".into() } else { String::new() },
                description: describe(name),
                priority: i64::from(wide),
            }
        })
        .collect()
}

fn describe(name: &str) -> String {
    match name {
        "Name" => "The object's name, unique for its resource within its namespace.".into(),
        "Age" | "Created At" => "How long ago the object was created, by the server's clock.".into(),
        other => format!("{other} of the object, as the server sees it."),
    }
}

/// The `Table` of `objects`. `metadata` is the list's (`resourceVersion`, `continue`, ...); a watch event's table leaves it
/// empty and sends its columns only once (`with_columns`).
pub fn render(
    resource: &Resource,
    custom: Option<&[PrinterColumn]>,
    objects: &[&Value],
    include: IncludeObject,
    metadata: Value,
    with_columns: bool,
    now: Timestamp,
) -> Value {
    let printer = printer(resource, custom);
    let rows: Vec<Value> = objects.iter().map(|object| row(&printer, object, include, now)).collect();
    let definitions: Vec<Value> = printer
        .columns
        .iter()
        .filter(|_| with_columns)
        .map(|c| {
            json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority})
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": if with_columns { Value::Array(definitions) } else { Value::Null }, "rows": rows,
    })
}

fn row(printer: &Printer, object: &Value, include: IncludeObject, now: Timestamp) -> Value {
    let mut row = json!({"cells": (printer.row)(object, now)});
    match include {
        IncludeObject::None => row["object"] = Value::Null,
        IncludeObject::Metadata => {
            row["object"] = json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
            });
        }
        IncludeObject::Object => row["object"] = object.clone(),
    }
    if object["kind"] == "Pod" && matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        row["conditions"] = json!([{
            "type": "Completed", "status": "True", "reason": object["status"]["phase"],
            "message": if object["status"]["phase"] == "Succeeded" { "The pod has completed successfully." } else { "The pod failed." },
        }]);
    }
    row
}

fn printer(resource: &Resource, custom: Option<&[PrinterColumn]>) -> Printer {
    if let Some(custom) = custom {
        return custom::printer(custom);
    }
    let (list, row) = match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pod::POD,
        ("", "nodes") => core::NODE,
        ("", "namespaces") => core::NAMESPACE,
        ("", "services") => core::SERVICE,
        ("", "endpoints") => core::ENDPOINTS,
        ("", "configmaps") => core::CONFIG_MAP,
        ("", "secrets") => core::SECRET,
        ("", "serviceaccounts") => core::SERVICE_ACCOUNT,
        ("", "events") | ("events.k8s.io", "events") => core::EVENT,
        ("", "persistentvolumes") => core::PERSISTENT_VOLUME,
        ("", "persistentvolumeclaims") => core::PERSISTENT_VOLUME_CLAIM,
        ("", "resourcequotas") => core::RESOURCE_QUOTA,
        ("", "podtemplates") => core::POD_TEMPLATE,
        ("", "replicationcontrollers") => apps::REPLICATION_CONTROLLER,
        ("apps", "deployments") => apps::DEPLOYMENT,
        ("apps", "replicasets") => apps::REPLICA_SET,
        ("apps", "daemonsets") => apps::DAEMON_SET,
        ("apps", "statefulsets") => apps::STATEFUL_SET,
        ("apps", "controllerrevisions") => apps::CONTROLLER_REVISION,
        ("batch", "jobs") => apps::JOB,
        ("batch", "cronjobs") => apps::CRON_JOB,
        ("autoscaling", "horizontalpodautoscalers") => apps::AUTOSCALER,
        ("policy", "poddisruptionbudgets") => apps::DISRUPTION_BUDGET,
        ("networking.k8s.io", "ingresses") => other::INGRESS,
        ("networking.k8s.io", "ingressclasses") => other::INGRESS_CLASS,
        ("networking.k8s.io", "networkpolicies") => other::NETWORK_POLICY,
        ("discovery.k8s.io", "endpointslices") => other::ENDPOINT_SLICE,
        ("coordination.k8s.io", "leases") => other::LEASE,
        ("rbac.authorization.k8s.io", "rolebindings") => other::ROLE_BINDING,
        ("rbac.authorization.k8s.io", "clusterrolebindings") => other::CLUSTER_ROLE_BINDING,
        ("storage.k8s.io", "storageclasses") => other::STORAGE_CLASS,
        ("scheduling.k8s.io", "priorityclasses") => other::PRIORITY_CLASS,
        ("certificates.k8s.io", "certificatesigningrequests") => other::SIGNING_REQUEST,
        ("apiregistration.k8s.io", "apiservices") => other::API_SERVICE,
        ("node.k8s.io", "runtimeclasses") => other::RUNTIME_CLASS,
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations" | "mutatingwebhookconfigurations") => {
            other::WEBHOOKS
        }
        _ => core::DEFAULT,
    };
    Printer { columns: columns(list), row: Box::new(row) }
}

/// Columns and row function of a built-in kind.
type Entry = (&'static [(&'static str, &'static str)], fn(&Value, Timestamp) -> Vec<Value>);

fn name(object: &Value) -> Value {
    object["metadata"]["name"].clone()
}

fn age(object: &Value, now: Timestamp) -> Value {
    json!(human::since(&object["metadata"]["creationTimestamp"], now))
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn or_none(text: String) -> Value {
    json!(if text.is_empty() { "<none>".into() } else { text })
}

/// `a=b,c=d`, or `<none>`.
fn labels(map: &Value) -> Value {
    let pairs: Vec<String> =
        map.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", text(value))).collect();
    or_none(pairs.join(","))
}

/// A LabelSelector as `kubectl get -o wide` shows it.
fn label_selector(selector: &Value) -> Value {
    let mut parts: Vec<String> = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", text(value)))
        .collect();
    for expression in items(&selector["matchExpressions"]) {
        let key = text(&expression["key"]);
        let values: Vec<&str> = items(&expression["values"]).iter().map(text).collect();
        parts.push(match text(&expression["operator"]) {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    or_none(parts.join(","))
}

/// Names and images of a pod spec's containers, comma-separated.
fn containers(spec: &Value) -> (Value, Value) {
    let join = |field: &str| items(&spec["containers"]).iter().map(|c| text(&c[field])).collect::<Vec<_>>().join(",");
    (json!(join("name")), json!(join("image")))
}

#[cfg(test)]
mod tests;
