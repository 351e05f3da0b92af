//! Deployments, ReplicaSets, ReplicationControllers, StatefulSets, DaemonSets.

use galley_types::{IntOrString, LabelSelector, names};
use serde_json::{Value, json};

use super::{Errors, Get, Path, node, pod, support};

const ALWAYS: &[&str] = &["Always"];

/// The selector must be there, must not be empty, and must select what the template makes.
fn selector(errors: &mut Errors, spec: &Value, path: &Path<'_>, empty: &str) {
    let selector = spec.at("selector");
    let selector_path = path.field("selector");
    if selector.is_null() {
        errors.required(&selector_path, "");
    } else {
        errors.selector(&selector_path, selector);
        if selector.map("matchLabels").is_none() && selector.list("matchExpressions").is_empty() {
            errors.invalid(&selector_path, selector.clone(), empty);
        }
    }
    matches_template(errors, spec, path);
}

fn matches_template(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let Ok(selector) = LabelSelector::from_value(spec.at("selector")) else { return };
    let labels = node(spec, &["template", "metadata", "labels"]);
    if !selector.is_everything() && !spec.at("selector").is_null() && !selector.matches_value(labels) {
        let shown = if labels.is_null() { json!({}) } else { labels.clone() };
        let path = path.field("template");
        let path = path.field("metadata");
        errors.invalid(&path.field("labels"), shown, "`selector` does not match template `labels`");
    }
}

fn template(errors: &mut Errors, spec: &Value, path: &Path<'_>, kind: &str) {
    let path = path.field("template");
    pod::template(errors, spec, &path, Some(ALWAYS));
    if node(spec, &["template", "spec", "activeDeadlineSeconds"]).is_i64() {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.forbidden(&path.field("spec").field("activeDeadlineSeconds"), &detail);
    }
}

fn counts(errors: &mut Errors, spec: &Value, path: &Path<'_>, fields: &[&str]) {
    for field in fields {
        errors.non_negative(&path.field(field), spec.int(field));
    }
}

/// A number, or a percentage of at most 100.
pub(super) fn int_or_percent(errors: &mut Errors, value: &Value, path: &Path<'_>) {
    match value {
        Value::Number(number) => errors.non_negative(path, number.as_i64()),
        Value::String(text) => {
            errors.named(path, text, names::percent(text));
        }
        _ => errors.invalid(path, value.clone(), "must be an integer or percentage (e.g '5%%')"),
    }
}

fn at_most_all(errors: &mut Errors, value: &Value, path: &Path<'_>) {
    if let Some(text) = value.as_str()
        && IntOrString::from(text).percent().is_some_and(|percent| percent > 100)
    {
        errors.invalid(path, text, "must not be greater than 100%");
    }
}

/// Whether a rollout could not move: nothing may be added and nothing taken away.
fn is_none_at_all(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => IntOrString::from(text.as_str()).percent() == Some(0),
        _ => value.is_null(),
    }
}

fn rolling_update(errors: &mut Errors, rolling: &Value, path: &Path<'_>) {
    let (unavailable, surge) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
    let unavailable_path = path.field("maxUnavailable");
    int_or_percent(errors, unavailable, &unavailable_path);
    int_or_percent(errors, surge, &path.field("maxSurge"));
    if is_none_at_all(unavailable) && is_none_at_all(surge) {
        errors.invalid(&unavailable_path, unavailable.clone(), "may not be 0 when `maxSurge` is 0");
    }
    at_most_all(errors, unavailable, &unavailable_path);
}

pub(super) fn deployment(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    let (spec, path) = (object.at("spec"), Path::root("spec"));
    counts(errors, spec, &path, &["replicas"]);
    selector(errors, spec, &path, "empty selector is invalid for deployment");
    template(errors, spec, &path, "ReplicaSet");
    let (strategy, strategy_path) = (spec.at("strategy"), path.field("strategy"));
    match strategy.text("type") {
        "Recreate" => {
            if strategy.has("rollingUpdate") {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                errors.forbidden(&strategy_path.field("rollingUpdate"), detail);
            }
        }
        "RollingUpdate" => {
            let path = strategy_path.field("rollingUpdate");
            if strategy.has("rollingUpdate") {
                rolling_update(errors, strategy.at("rollingUpdate"), &path);
            } else {
                errors.required(&path, "this should be defaulted and never be nil");
            }
        }
        other => errors.not_supported(&strategy_path.field("type"), other, &["Recreate", "RollingUpdate"]),
    }
    counts(errors, spec, &path, &["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"]);
    if let Some(deadline) = spec.int("progressDeadlineSeconds")
        && deadline <= spec.int("minReadySeconds").unwrap_or(0)
    {
        let detail = "must be greater than minReadySeconds";
        errors.invalid(&path.field("progressDeadlineSeconds"), deadline, detail);
    }
    immutable_selector(errors, spec, old, &path);
}

fn immutable_selector(errors: &mut Errors, spec: &Value, old: Option<&Value>, path: &Path<'_>) {
    if let Some(old) = old {
        errors.immutable(&path.field("selector"), spec.at("selector"), node(old, &["spec", "selector"]));
    }
}

pub(super) fn replica_set(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    let (spec, path) = (object.at("spec"), Path::root("spec"));
    counts(errors, spec, &path, &["replicas", "minReadySeconds"]);
    selector(errors, spec, &path, "empty selector is invalid for deployment");
    template(errors, spec, &path, "ReplicaSet");
    immutable_selector(errors, spec, old, &path);
}

pub(super) fn replication_controller(errors: &mut Errors, object: &Value) {
    let (spec, path) = (object.at("spec"), Path::root("spec"));
    counts(errors, spec, &path, &["minReadySeconds", "replicas"]);
    errors.labels(&path.field("selector"), spec.at("selector"));
    let labels = support::label_map(spec.at("selector"));
    if labels.is_empty() {
        errors.required(&path.field("selector"), "");
    } else {
        let template_labels = node(spec, &["template", "metadata", "labels"]);
        if !LabelSelector::from_labels(labels).matches_value(template_labels) {
            let path = path.field("template");
            let path = path.field("metadata");
            errors.invalid(
                &path.field("labels"),
                template_labels.clone(),
                "`selector` does not match template `labels`",
            );
        }
    }
    template(errors, spec, &path, "ReplicationController");
}

pub(super) fn daemon_set(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    let (spec, path) = (object.at("spec"), Path::root("spec"));
    selector(errors, spec, &path, "empty selector is invalid for daemonset");
    template(errors, spec, &path, "DaemonSet");
    counts(errors, spec, &path, &["minReadySeconds", "revisionHistoryLimit"]);
    let (strategy, strategy_path) = (spec.at("updateStrategy"), path.field("updateStrategy"));
    match strategy.text("type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            let rolling = strategy.at("rollingUpdate");
            let path = strategy_path.field("rollingUpdate");
            let (unavailable, surge) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
            int_or_percent(errors, unavailable, &path.field("maxUnavailable"));
            int_or_percent(errors, surge, &path.field("maxSurge"));
            at_most_all(errors, unavailable, &path.field("maxUnavailable"));
            match (is_none_at_all(unavailable), is_none_at_all(surge)) {
                (true, true) => {
                    errors.invalid(
                        &path.field("maxUnavailable"),
                        unavailable.clone(),
                        "cannot be 0 when maxSurge is 0",
                    );
                }
                (false, false) => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    errors.invalid(&path.field("maxSurge"), surge.clone(), detail);
                }
                _ => {}
            }
        }
        other => errors.not_supported(&strategy_path.field("type"), other, &["RollingUpdate", "OnDelete"]),
    }
    immutable_selector(errors, spec, old, &path);
}

pub(super) fn stateful_set(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    let (spec, path) = (object.at("spec"), Path::root("spec"));
    let management = spec.text("podManagementPolicy");
    if management.is_empty() {
        errors.required(&path.field("podManagementPolicy"), "");
    } else if !matches!(management, "OrderedReady" | "Parallel") {
        let detail = "must be 'OrderedReady' or 'Parallel'";
        errors.invalid(&path.field("podManagementPolicy"), management, detail);
    }
    let (strategy, strategy_path) = (spec.at("updateStrategy"), path.field("updateStrategy"));
    match strategy.text("type") {
        "OnDelete" => {
            if strategy.has("rollingUpdate") {
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                errors.invalid(&strategy_path.field("rollingUpdate"), strategy.at("rollingUpdate").clone(), detail);
            }
        }
        "RollingUpdate" => {
            let rolling = strategy.at("rollingUpdate");
            errors.non_negative(&strategy_path.field("rollingUpdate").field("partition"), rolling.int("partition"));
        }
        "" => errors.required(&strategy_path, ""),
        _ => errors.invalid(&strategy_path, strategy.clone(), "must be 'RollingUpdate' or 'OnDelete'"),
    }
    let (retention, retention_path) =
        (spec.at("persistentVolumeClaimRetentionPolicy"), path.field("persistentVolumeClaimRetentionPolicy"));
    for field in ["whenDeleted", "whenScaled"] {
        errors.maybe_one_of(&retention_path.field(field), retention.text(field), &["Retain", "Delete"]);
    }
    counts(errors, spec, &path, &["replicas", "minReadySeconds", "revisionHistoryLimit"]);
    errors.non_negative(&path.field("ordinals").field("start"), spec.at("ordinals").int("start"));
    selector(errors, spec, &path, "empty selector is invalid for statefulset");
    let service = spec.text("serviceName");
    if !service.is_empty() {
        errors.named(&path.field("serviceName"), service, names::dns1123_subdomain(service));
    }
    // Volumes that the claims will add are known to the mounts.
    template(errors, &with_claim_volumes(spec), &path, "StatefulSet");
    if let Some(old) = old {
        stateful_set_update(errors, spec, old.at("spec"), &path);
    }
}

fn with_claim_volumes(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let claims: Vec<Value> = spec
        .list("volumeClaimTemplates")
        .iter()
        .map(|claim| {
            let name = claim.at("metadata").text("name");
            json!({"name": name, "persistentVolumeClaim": {"claimName": format!("{name}-x")}})
        })
        .collect();
    if claims.is_empty() {
        return spec;
    }
    if let Some(pod) = spec.pointer_mut("/template/spec").and_then(Value::as_object_mut) {
        let volumes = pod.entry("volumes").or_insert_with(|| json!([]));
        if let Some(volumes) = volumes.as_array_mut() {
            volumes.retain(|v| !claims.iter().any(|c| c["name"] == v["name"]));
            volumes.extend(claims);
        }
    }
    spec
}

fn stateful_set_update(errors: &mut Errors, new: &Value, old: &Value, path: &Path<'_>) {
    const CHANGEABLE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let fixed = |spec: &Value| {
        let mut spec = spec.as_object().cloned().unwrap_or_default();
        spec.retain(|field, _| !CHANGEABLE.contains(&field.as_str()));
        spec
    };
    if fixed(new) != fixed(old) {
        errors.forbidden(
            path,
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}
