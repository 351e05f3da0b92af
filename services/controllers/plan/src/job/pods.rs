//! A Job's pods: which to make, which to take away.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{FINALIZER, INDEX, INDEX_FAILURES, Reason, Sync};
use crate::action::{Action, Note};
use crate::{meta, pod, template};

/// The completion index of a pod.
pub fn index(pod: &Pod) -> Option<i32> {
    meta::annotation(&pod.metadata, INDEX)?.parse().ok()
}

/// Failures of the pod's index before this pod.
pub fn index_failures(pod: &Pod) -> i32 {
    meta::annotation(&pod.metadata, INDEX_FAILURES).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// When the last container ended, or the deletion was asked for.
pub fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let containers = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref()).into_iter().flatten();
    let ended = containers.filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    let ready = pod::condition(pod, "Ready").and_then(|c| c.last_transition_time.as_ref());
    let deleted = pod.metadata.deletion_timestamp.as_ref();
    let created = pod.metadata.creation_timestamp.as_ref();
    ended.map(|t| t.0).max().or_else(|| deleted.or(ready).or(created).map(|t| t.0))
}

/// Active pods that must go: those of indexes that are not wanted or wanted once, then `at_least` in all, the least ready first.
pub fn surplus<'a>(
    active: &[&'a Pod],
    at_least: usize,
    completions: Option<i32>,
    done: &BTreeSet<i32>,
) -> Vec<&'a Pod> {
    let mut rest: Vec<&Pod> = active.to_vec();
    rest.sort_by_key(|p| (pod::node(p).is_some(), pod::phase(p) == "Running", pod::is_ready(p)));
    let mut victims = Vec::new();
    if let Some(completions) = completions {
        let mut seen = BTreeSet::new();
        // The furthest pod of an index stays: look at those first.
        let mut kept = Vec::new();
        for pod in rest.into_iter().rev() {
            match index(pod) {
                Some(index) if index < completions && !done.contains(&index) && seen.insert(index) => kept.push(pod),
                _ => victims.push(pod),
            }
        }
        kept.reverse();
        // Of several indexes, the highest go first.
        kept.sort_by_key(|p| std::cmp::Reverse(index(p)));
        rest = kept;
    }
    let more = at_least.saturating_sub(victims.len());
    victims.extend(rest.into_iter().take(more));
    victims
}

/// Creates `missing` pods, for the lowest indexes that have none.
pub fn create(sync: &Sync<'_>, missing: usize) -> Vec<Action<Reason>> {
    let reference = meta::controller_reference("batch/v1", "Job", &sync.job.metadata);
    let namespace = meta::namespace(&sync.job.metadata);
    let mut body = template::pod(&sync.spec.template, namespace, &reference);
    match body["metadata"]["finalizers"].as_array_mut() {
        Some(finalizers) => finalizers.push(json!(FINALIZER)),
        None => body["metadata"]["finalizers"] = json!([FINALIZER]),
    }
    let action = |body: Value| {
        Action::create("pods", namespace, body, Reason::TooFew)
            .telling(Note::normal(&sync.about, "SuccessfulCreate", "Created pod: {name}"))
            .or_telling(Note::warning(&sync.about, "FailedCreate", "Error creating: {error}"))
    };
    if !sync.indexed {
        return (0..missing).map(|_| action(body.clone())).collect();
    }
    let held: BTreeSet<i32> = sync
        .pods
        .iter()
        .filter(|p| pod::is_active(p) || (sync.replaces_failed_only && pod::is_terminating(p)))
        .filter_map(|p| index(p))
        .collect();
    let free = (0..sync.completions())
        .filter(|i| !held.contains(i) && !sync.done.contains(i) && !sync.failed_indexes.contains(i));
    free.take(missing).map(|index| action(indexed(sync, body.clone(), index))).collect()
}

fn indexed(sync: &Sync<'_>, mut body: Value, number: i32) -> Value {
    let job = meta::name(&sync.job.metadata);
    let text = number.to_string();
    body["metadata"]["generateName"] = json!(format!("{job}-{number}-"));
    body["metadata"]["annotations"][INDEX] = json!(text);
    body["metadata"]["labels"][INDEX] = json!(text);
    if sync.spec.backoff_limit_per_index.is_some() {
        let before = sync.pods.iter().filter(|p| index(p) == Some(number) && !pod::is_active(p));
        let failures = before.map(|p| index_failures(p) + 1).max().unwrap_or(0);
        body["metadata"]["annotations"][INDEX_FAILURES] = json!(failures.to_string());
    }
    if body["spec"]["hostname"].is_null() {
        body["spec"]["hostname"] = json!(format!("{job}-{number}"));
    }
    let path = format!("metadata.labels['{INDEX}']");
    for field in ["containers", "initContainers"] {
        for container in body["spec"][field].as_array_mut().into_iter().flatten() {
            let variable = json!({"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"fieldPath": path}}});
            match container["env"].as_array_mut() {
                Some(env) if env.iter().any(|v| v["name"] == "JOB_COMPLETION_INDEX") => {}
                Some(env) => env.push(variable),
                None => container["env"] = json!([variable]),
            }
        }
    }
    body
}
