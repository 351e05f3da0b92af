//! PodDisruptionBudgets, HorizontalPodAutoscalers, PriorityClasses, Leases.

use galley_types::names;
use serde_json::{Value, json};

use super::workloads::int_or_percent;
use super::{Errors, Get, Path};

pub(super) fn disruption_budget(errors: &mut Errors, object: &Value) {
    let (spec, path) = (object.at("spec"), Path::root("spec"));
    if spec.has("minAvailable") && spec.has("maxUnavailable") {
        errors.invalid(&path, spec.clone(), "minAvailable and maxUnavailable cannot be both set");
    }
    for field in ["minAvailable", "maxUnavailable"] {
        if spec.has(field) {
            int_or_percent(errors, spec.at(field), &path.field(field));
        }
    }
    errors.selector(&path.field("selector"), spec.at("selector"));
    if let Some(policy) = spec.at("unhealthyPodEvictionPolicy").as_str() {
        let known = ["AlwaysAllow", "IfHealthyBudget"];
        if !known.contains(&policy) {
            errors.not_supported(&path.field("unhealthyPodEvictionPolicy"), policy, &known);
        }
    }
}

pub(super) fn autoscaler(errors: &mut Errors, object: &Value) {
    let (spec, path) = (object.at("spec"), Path::root("spec"));
    let (least, most) = (spec.int("minReplicas"), spec.int("maxReplicas").unwrap_or(0));
    if let Some(least) = least.filter(|n| *n < 1) {
        errors.invalid(&path.field("minReplicas"), least, "must be greater than or equal to 1");
    }
    if most < 1 {
        errors.invalid(&path.field("maxReplicas"), most, "must be greater than 0");
    }
    if least.is_some_and(|least| most < least) {
        errors.invalid(&path.field("maxReplicas"), most, "must be greater than or equal to `minReplicas`");
    }
    let (target, path) = (spec.at("scaleTargetRef"), path.field("scaleTargetRef"));
    for field in ["kind", "name"] {
        let value = target.text(field);
        if value.is_empty() {
            errors.required(&path.field(field), "");
        } else {
            errors.named(&path.field(field), value, names::path_segment(value));
        }
    }
}

/// User-made classes stay below those of the system.
const USER_PRIORITY_MAX: i64 = 1_000_000_000;

pub(super) fn priority_class(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    let name = object.at("metadata").text("name");
    let value = object.int("value").unwrap_or(0);
    let system =
        matches!((name, value), ("system-node-critical", 2_000_001_000) | ("system-cluster-critical", 2_000_000_000));
    if name.starts_with("system-") && !system {
        let detail = "priority class names with 'system-' prefix are reserved for system use only. error: only system \
                      priority classes may have them";
        errors.forbidden(&Path::root("metadata").field("name"), detail);
    } else if value > USER_PRIORITY_MAX && !system {
        let detail = format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
        errors.forbidden(&Path::root("value"), &detail);
    }
    errors.maybe_one_of(
        &Path::root("preemptionPolicy"),
        object.text("preemptionPolicy"),
        &["PreemptLowerPriority", "Never"],
    );
    if let Some(old) = old {
        let (new_value, old_value) = (json!(value), json!(old.int("value").unwrap_or(0)));
        if new_value != old_value {
            errors.forbidden(&Path::root("value"), "may not be changed in an update.");
        }
        errors.immutable(&Path::root("preemptionPolicy"), object.at("preemptionPolicy"), old.at("preemptionPolicy"));
    }
}

pub(super) fn lease(errors: &mut Errors, object: &Value) {
    let (spec, path) = (object.at("spec"), Path::root("spec"));
    if let Some(seconds) = spec.int("leaseDurationSeconds").filter(|s| *s <= 0) {
        errors.invalid(&path.field("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    errors.non_negative(&path.field("leaseTransitions"), spec.int("leaseTransitions"));
    if spec.at("holderIdentity").as_str() == Some("") {
        errors.invalid(&path.field("holderIdentity"), "", "must not be empty");
    }
}

pub(super) fn runtime_class(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    errors.required_name(&Path::root("handler"), object.text("handler"), names::dns1123_label);
    if let Some(old) = old {
        errors.immutable(&Path::root("handler"), object.at("handler"), old.at("handler"));
    }
}
