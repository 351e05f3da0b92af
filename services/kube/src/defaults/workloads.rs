//! Defaults of what makes pods: Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs, CronJobs; and of PodDisruptionBudgets.

use serde_json::{Map, Value, json};

use super::{child, get, items, pod_template, set, text};

type Object = Map<String, Value>;

pub(super) fn deployment(object: &mut Object) {
    let spec = child(object, "spec");
    set(spec, "replicas", 1);
    set(spec, "revisionHistoryLimit", 10);
    set(spec, "progressDeadlineSeconds", 600);
    let strategy = child(spec, "strategy");
    set(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        let rolling = child(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", "25%");
        set(rolling, "maxSurge", "25%");
    }
    pod_template(spec);
    child(object, "status");
}

pub(super) fn replica_set(object: &mut Object) {
    let spec = child(object, "spec");
    set(spec, "replicas", 1);
    pod_template(spec);
    set(child(object, "status"), "replicas", 0);
}

pub(super) fn replication_controller(object: &mut Object) {
    let spec = child(object, "spec");
    set(spec, "replicas", 1);
    pod_template(spec);
    let labels = spec.get("template").and_then(|t| t.pointer("/metadata/labels")).cloned();
    if let Some(labels) = labels {
        set(spec, "selector", labels.clone());
        set(child(object, "metadata"), "labels", labels);
    }
    set(child(object, "status"), "replicas", 0);
}

pub(super) fn stateful_set(object: &mut Object) {
    let spec = child(object, "spec");
    set(spec, "podManagementPolicy", "OrderedReady");
    set(spec, "replicas", 1);
    set(spec, "revisionHistoryLimit", 10);
    let strategy = child(spec, "updateStrategy");
    set(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        set(child(strategy, "rollingUpdate"), "partition", 0);
    }
    let retention = child(spec, "persistentVolumeClaimRetentionPolicy");
    set(retention, "whenDeleted", "Retain");
    set(retention, "whenScaled", "Retain");
    for claim in items(spec, "volumeClaimTemplates") {
        set(claim, "apiVersion", "v1");
        set(claim, "kind", "PersistentVolumeClaim");
        super::storage::persistent_volume_claim(claim);
    }
    pod_template(spec);
    set(child(object, "status"), "replicas", 0);
}

pub(super) fn daemon_set(object: &mut Object) {
    let spec = child(object, "spec");
    set(spec, "revisionHistoryLimit", 10);
    let strategy = child(spec, "updateStrategy");
    set(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        let rolling = child(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", 1);
        set(rolling, "maxSurge", 0);
    }
    pod_template(spec);
    let status = child(object, "status");
    for count in ["currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady"] {
        set(status, count, 0);
    }
}

pub(super) fn job(object: &mut Object) {
    let spec = child(object, "spec");
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        set(spec, "completions", 1);
    }
    set(spec, "parallelism", 1);
    // Retries are counted for each index where that is asked for, and then not in sum.
    let backoff = if spec.contains_key("backoffLimitPerIndex") { i32::MAX } else { 6 };
    set(spec, "backoffLimit", backoff);
    set(spec, "completionMode", "NonIndexed");
    set(spec, "suspend", false);
    set(spec, "manualSelector", false);
    let replacement = if spec.contains_key("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    set(spec, "podReplacementPolicy", replacement);
    if let Some(policy) = get(spec, "podFailurePolicy") {
        for rule in items(policy, "rules") {
            for condition in items(rule, "onPodConditions") {
                set(condition, "status", "True");
            }
        }
    }
    pod_template(spec);
    let labels = spec.get("template").and_then(|t| t.pointer("/metadata/labels")).cloned();
    if let Some(labels) = labels {
        let metadata = child(object, "metadata");
        if metadata.get("labels").and_then(Value::as_object).is_none_or(Map::is_empty) {
            metadata.insert("labels".into(), labels);
        }
    }
    child(object, "status");
}

pub(super) fn cron_job(object: &mut Object) {
    let spec = child(object, "spec");
    set(spec, "concurrencyPolicy", "Allow");
    set(spec, "suspend", false);
    set(spec, "successfulJobsHistoryLimit", 3);
    set(spec, "failedJobsHistoryLimit", 1);
    let template = child(spec, "jobTemplate");
    child(template, "metadata");
    pod_template(child(template, "spec"));
    child(object, "status");
}

pub(super) fn disruption_budget(object: &mut Object) {
    child(object, "spec");
    let status = child(object, "status");
    for count in ["currentHealthy", "desiredHealthy", "disruptionsAllowed", "expectedPods"] {
        set(status, count, json!(0));
    }
}
