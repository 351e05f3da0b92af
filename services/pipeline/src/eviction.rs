//! `pods/eviction`: a deletion that asks the pod's PodDisruptionBudget first.
//!
//! The budget's `status.disruptionsAllowed` is taken down in the same write that names the pod in `disruptedPods`, so two
//! evictions never spend one allowance; the disruption controller counts afresh once it has seen the pod go.

use std::sync::Arc;

use galley_authz::Actor;
use galley_kube::{Cause, Reason, Status};
use galley_store::{CommitError, Object, Scope, Write};
use galley_types::LabelSelector;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::{ClusterApi, DeleteOptions, MODIFIED, Written, commit_status};
use crate::encode;
use crate::value::{array, int, map_at, text};

const BUDGETS: &str = "poddisruptionbudgets.policy";
/// As often as the API server of Kubernetes tries.
const ATTEMPTS: usize = 20;

/// Whether a budget lets a pod go.
#[derive(Debug, Clone, PartialEq)]
enum Verdict {
    /// Without touching the budget.
    Free,
    /// With this new state of the budget.
    Spend(Value),
}

impl ClusterApi {
    /// Evicts a pod, or answers 429 while its budget does not allow it.
    pub async fn evict(
        &self,
        actor: &Actor,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Written, Status> {
        let pods = self.builtin("pods")?;
        let budgets = self.builtin(BUDGETS)?;
        for _ in 0..ATTEMPTS {
            let stored = self.get(&pods, namespace, name)?;
            let pod = stored.value().map_err(Status::internal)?;
            if !is_disruptive(&pod) {
                return self.delete(actor, &pods, namespace, name, options).await;
            }
            let Some((budget, value)) = self.budget_of(namespace, &stored)? else {
                return self.delete(actor, &pods, namespace, name, options).await;
            };
            match spend(&value, &pod, self.clock.now())? {
                Verdict::Spend(new) if !options.dry_run => {
                    let draft = encode::draft(&budgets, budget.key.clone(), &new)?;
                    match self.store.commit(Write::Update { draft, expected: budget.revision }).await {
                        Err(CommitError::Conflict { .. }) => continue,
                        Err(error) => return Err(commit_status(&budgets, &budget.key.name, error)),
                        Ok(_) => {}
                    }
                }
                Verdict::Spend(_) | Verdict::Free => {}
            }
            let mut options = options.clone();
            options.preconditions.uid.get_or_insert_with(|| stored.uid.to_string());
            return self.delete(actor, &pods, namespace, name, &options).await;
        }
        Err(Status::conflict("policy", "poddisruptionbudgets", name, MODIFIED))
    }

    /// The one budget that selects the pod.
    fn budget_of(&self, namespace: &str, pod: &Object) -> Result<Option<(Arc<Object>, Value)>, Status> {
        let scope = Scope { resource: BUDGETS.into(), namespace: Some(namespace.into()) };
        let mut found = None;
        for budget in self.store.list(&scope).objects {
            let value = budget.value().map_err(Status::internal)?;
            let selector = value.pointer("/spec/selector").unwrap_or(&Value::Null);
            if !LabelSelector::from_value(selector).is_ok_and(|selector| selector.matches(&pod.labels)) {
                continue;
            }
            if found.is_some() {
                let why =
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(Status::new(500, Reason::InternalError, why));
            }
            found = Some((budget, value));
        }
        Ok(found)
    }
}

/// A pod that runs, and whose end somebody may notice.
fn is_disruptive(pod: &Value) -> bool {
    !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed" | "Pending" | "")
        && pod.pointer("/metadata/deletionTimestamp").is_none()
}

fn is_ready(pod: &Value) -> bool {
    array(pod, "/status/conditions").iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn spend(budget: &Value, pod: &Value, now: Timestamp) -> Result<Verdict, Status> {
    let name = text(budget, "/metadata/name");
    let count = |pointer: &str| int(budget, pointer).unwrap_or(0);
    if !is_ready(pod) {
        let healthy =
            count("/status/currentHealthy") >= count("/status/desiredHealthy") && count("/status/desiredHealthy") > 0;
        if text(budget, "/spec/unhealthyPodEvictionPolicy") == "AlwaysAllow" || healthy {
            return Ok(Verdict::Free);
        }
    }
    if count("/status/observedGeneration") < count("/metadata/generation") {
        return Err(refuse(format!("The disruption budget {name} is still being processed by the server."), 10));
    }
    let allowed = count("/status/disruptionsAllowed");
    if allowed <= 0 {
        let (needs, has) = (count("/status/desiredHealthy"), count("/status/currentHealthy"));
        return Err(refuse(
            format!("The disruption budget {name} needs {needs} healthy pods and has {has} currently"),
            0,
        ));
    }
    let mut new = budget.clone();
    let status = map_at(&mut new, &["status"]);
    status.insert("disruptionsAllowed".into(), json!(allowed - 1));
    let disrupted = crate::value::object_mut(status, "disruptedPods");
    disrupted.insert(text(pod, "/metadata/name").into(), json!(crate::time::seconds(now)));
    Ok(Verdict::Spend(new))
}

fn refuse(why: String, retry_after_seconds: u32) -> Status {
    let text = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::new(429, Reason::TooManyRequests, text);
    status.retry_after_seconds = retry_after_seconds;
    status.causes.push(Cause { reason: "DisruptionBudget", message: why, field: String::new() });
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn budget(allowed: i64, observed: i64) -> Value {
        json!({"metadata": {"name": "b", "generation": 1}, "spec": {},
            "status": {"disruptionsAllowed": allowed, "observedGeneration": observed,
                "currentHealthy": 2, "desiredHealthy": 2, "expectedPods": 2}})
    }

    fn ready_pod() -> Value {
        json!({"metadata": {"name": "p"}, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}]}})
    }

    #[test]
    fn an_allowance_is_spent_once_for_each_pod() {
        let Verdict::Spend(spent) = spend(&budget(1, 1), &ready_pod(), now()).unwrap() else { panic!("not spent") };
        assert_eq!(spent["status"]["disruptionsAllowed"], 0);
        assert_eq!(spent["status"]["disruptedPods"]["p"], "2026-01-01T00:00:00Z");
        let refused = spend(&spent, &ready_pod(), now()).unwrap_err();
        assert_eq!(refused.code, 429);
        assert_eq!(refused.causes[0].message, "The disruption budget b needs 2 healthy pods and has 2 currently");
    }

    #[test]
    fn a_budget_that_is_not_counted_yet_refuses() {
        assert_eq!(spend(&budget(1, 0), &ready_pod(), now()).unwrap_err().retry_after_seconds, 10);
    }

    #[test]
    fn an_unready_pod_goes_freely_while_enough_others_are_healthy() {
        let unready = json!({"metadata": {"name": "p"}, "status": {"phase": "Running"}});
        assert_eq!(spend(&budget(0, 1), &unready, now()).unwrap(), Verdict::Free);
    }
}
