//! Defaults of HorizontalPodAutoscalers.

use serde_json::{Map, Value, json};

use super::{child, get, set};
use crate::Resource;

pub(super) fn autoscaler(resource: &Resource, object: &mut Map<String, Value>) {
    let v2 = resource.version == "v2";
    let spec = child(object, "spec");
    set(spec, "minReplicas", 1);
    if v2 && spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        spec.insert(
            "metrics".into(),
            json!([{"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]),
        );
    }
    if let Some(behavior) = get(spec, "behavior") {
        if let Some(up) = get(behavior, "scaleUp") {
            set(up, "stabilizationWindowSeconds", 0);
            set(up, "selectPolicy", "Max");
            set(
                up,
                "policies",
                json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]),
            );
        }
        if let Some(down) = get(behavior, "scaleDown") {
            set(down, "selectPolicy", "Max");
            set(down, "policies", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
        }
    }
    let status = child(object, "status");
    if v2 {
        set(status, "currentMetrics", Value::Null);
        set(status, "desiredReplicas", 0);
    } else {
        set(status, "currentReplicas", 0);
        set(status, "desiredReplicas", 0);
    }
}
