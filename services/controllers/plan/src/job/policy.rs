//! `podFailurePolicy` and `successPolicy`.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{Job, PodFailurePolicy, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::indexes;
use crate::meta;

/// What a failed pod means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It counts towards the backoff limit.
    Count,
    /// It does not.
    Ignore,
    /// Its index has failed.
    FailIndex,
    /// The Job has failed; why.
    FailJob(String),
}

/// Judges a failed pod by the first rule that matches.
pub fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let Some(policy) = policy else { return Verdict::Count };
    for (number, rule) in policy.rules.iter().enumerate() {
        let Some(matched) = matches(rule, pod) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{matched} matching FailJob rule at index {number}")),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

fn matches(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
    let status = pod.status.as_ref()?;
    if let Some(wanted) = &rule.on_exit_codes {
        let regular = status.container_statuses.iter().flatten();
        return regular.chain(status.init_container_statuses.iter().flatten()).find_map(|container| {
            let code = exit_code(container)?;
            let named = wanted.container_name.as_ref().is_none_or(|name| *name == container.name);
            let listed = wanted.values.contains(&code);
            let hit = if wanted.operator == "NotIn" { !listed } else { listed };
            (named && code != 0 && hit).then(|| {
                format!("Container {} for pod {namespace}/{name} failed with exit code {code}", container.name)
            })
        });
    }
    rule.on_pod_conditions.iter().flatten().find_map(|wanted| {
        let status = wanted.status.as_deref().unwrap_or("True");
        let found = pod.status.as_ref()?.conditions.as_ref()?.iter();
        let mut found = found.filter(|c| c.type_ == wanted.type_ && c.status == status);
        found.next().map(|c| format!("Pod {namespace}/{name} has condition {}", c.type_))
    })
}

fn exit_code(container: &ContainerStatus) -> Option<i32> {
    Some(container.state.as_ref()?.terminated.as_ref()?.exit_code)
}

/// The rule of the success policy that the succeeded indexes satisfy.
pub fn succeeded(job: &Job, done: &BTreeSet<i32>, completions: i32) -> Option<String> {
    let policy = job.spec.as_ref()?.success_policy.as_ref()?;
    policy.rules.iter().enumerate().find_map(|(number, rule)| {
        let candidates: BTreeSet<i32> = match &rule.succeeded_indexes {
            Some(text) => indexes::parse(text, completions),
            None => (0..completions).collect(),
        };
        let count = candidates.intersection(done).count();
        let needed = rule.succeeded_count.map_or(candidates.len(), |n| usize::try_from(n).unwrap_or(0));
        (count >= needed).then(|| format!("Matched rules at index {number}"))
    })
}
