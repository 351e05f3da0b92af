//! Conversions between the versions that serve the same stored objects.
//!
//! Most built-in versions differ in `apiVersion` only. Events (core/v1 and events.k8s.io/v1) and
//! HorizontalPodAutoscalers (v1 and v2) differ in shape.

use galley_kube::Resource;
use serde_json::{Map, Value, json};

use crate::value::{map_at, root, text};

/// Whether stored bytes are served as they are.
pub fn is_identity(resource: &Resource, body: &[u8]) -> bool {
    if !resource.is_storage_version() {
        return false;
    }
    // A custom object may have been stored when another version was the storage version.
    resource.custom.is_none() || {
        let lead = format!("{{\"apiVersion\":\"{}\",", resource.api_version());
        body.starts_with(lead.as_bytes())
    }
}

/// From the version that `resource` serves to the one objects are stored in.
pub fn to_storage(resource: &Resource, object: &mut Value) {
    match (resource.group.as_str(), resource.version.as_str(), resource.plural.as_str()) {
        ("events.k8s.io", _, "events") => event_to_core(object),
        ("autoscaling", "v1", "horizontalpodautoscalers") if resource.storage_version != "v1" => hpa_v1_to_v2(object),
        _ => {}
    }
    let root = root(object);
    root.insert("apiVersion".into(), json!(resource.storage_api_version()));
    root.insert("kind".into(), json!(resource.kind));
}

/// From the stored version to the one that `resource` serves.
pub fn from_storage(resource: &Resource, object: &mut Value) {
    match (resource.group.as_str(), resource.version.as_str(), resource.plural.as_str()) {
        ("events.k8s.io", _, "events") => event_from_core(object),
        ("autoscaling", "v1", "horizontalpodautoscalers") if resource.storage_version != "v1" => hpa_v2_to_v1(object),
        _ => {}
    }
    let root = root(object);
    root.insert("apiVersion".into(), json!(resource.api_version()));
    root.insert("kind".into(), json!(resource.kind));
}

/// The names of the same event fields: core/v1 beside events.k8s.io/v1.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(map: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = map.remove(from) {
        map.insert(to.into(), value);
    }
}

fn event_to_core(event: &mut Value) {
    let map = root(event);
    for (core, events) in EVENT_FIELDS {
        rename(map, events, core);
    }
}

fn event_from_core(event: &mut Value) {
    let map = root(event);
    for (core, events) in EVENT_FIELDS {
        rename(map, core, events);
    }
    // eventTime is required there.
    map.entry("eventTime").or_insert(Value::Null);
}

/// Where v1 keeps what it has no fields for.
const METRICS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/metrics";

fn hpa_v1_to_v2(hpa: &mut Value) {
    let target = map_at(hpa, &["spec"]).remove("targetCPUUtilizationPercentage");
    let kept = hpa
        .pointer("/metadata/annotations/autoscaling.alpha.kubernetes.io~1metrics")
        .and_then(Value::as_str)
        .and_then(|text| serde_json::from_str::<Vec<Value>>(text).ok());
    let mut metrics = kept.unwrap_or_default();
    if let Some(target) = target.filter(|t| !t.is_null()) {
        metrics.insert(
            0,
            json!({"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": target}}}),
        );
    }
    if let Some(Value::Object(annotations)) = hpa.pointer_mut("/metadata/annotations") {
        annotations.remove(METRICS_ANNOTATION);
    }
    if !metrics.is_empty() {
        map_at(hpa, &["spec"]).insert("metrics".into(), json!(metrics));
    }
    if let Some(Value::Object(status)) = hpa.get_mut("status")
        && let Some(current) = status.remove("currentCPUUtilizationPercentage")
    {
        status.insert(
            "currentMetrics".into(),
            json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": current}}}]),
        );
    }
}

fn hpa_v2_to_v1(hpa: &mut Value) {
    let metrics = match map_at(hpa, &["spec"]).remove("metrics") {
        Some(Value::Array(metrics)) => metrics,
        _ => Vec::new(),
    };
    map_at(hpa, &["spec"]).remove("behavior");
    let is_cpu = |metric: &Value| {
        text(metric, "/type") == "Resource"
            && text(metric, "/resource/name") == "cpu"
            && metric.pointer("/resource/target/averageUtilization").is_some()
    };
    let (cpu, others): (Vec<Value>, Vec<Value>) = metrics.into_iter().partition(is_cpu);
    if let Some(target) = cpu.first().and_then(|m| m.pointer("/resource/target/averageUtilization")) {
        map_at(hpa, &["spec"]).insert("targetCPUUtilizationPercentage".into(), target.clone());
    }
    if !others.is_empty() {
        let text = Value::Array(others).to_string();
        map_at(hpa, &["metadata", "annotations"]).insert(METRICS_ANNOTATION.into(), json!(text));
    }
    if let Some(Value::Object(status)) = hpa.get_mut("status") {
        status.remove("conditions");
        let current = status.remove("currentMetrics");
        let cpu = current.as_ref().and_then(Value::as_array).into_iter().flatten().find_map(|m| {
            (text(m, "/resource/name") == "cpu").then(|| m.pointer("/resource/current/averageUtilization")).flatten()
        });
        if let Some(cpu) = cpu {
            status.insert("currentCPUUtilizationPercentage".into(), cpu.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_survives_both_ways() {
        let core = json!({"involvedObject": {"name": "x"}, "message": "m", "source": {"component": "c"},
            "count": 2, "firstTimestamp": "a", "lastTimestamp": "b", "reportingComponent": "r", "eventTime": null});
        let mut event = core.clone();
        event_from_core(&mut event);
        assert_eq!(event["regarding"]["name"], "x");
        assert_eq!(event["note"], "m");
        assert_eq!(event["reportingController"], "r");
        event_to_core(&mut event);
        assert_eq!(event, core);
    }

    #[test]
    fn an_autoscalers_cpu_target_moves_between_versions() {
        let mut hpa = json!({"spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 80}});
        hpa_v1_to_v2(&mut hpa);
        assert_eq!(hpa.pointer("/spec/metrics/0/resource/target/averageUtilization"), Some(&json!(80)));
        hpa_v2_to_v1(&mut hpa);
        assert_eq!(hpa, json!({"spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 80}}));
    }
}
