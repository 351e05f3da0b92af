//! Finished Jobs with `ttlSecondsAfterFinished` go when that is over, their pods first.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;

use crate::action::{Action, Plan, Propagation, Verb};
use crate::{job, meta, time};

/// What events and audit call the controller.
pub const COMPONENT: &str = "ttl-after-finished-controller";

/// Why a plan does something, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The object is gone.
    Gone,
    /// It has no time to live, is not finished, or is being deleted.
    NotConcerned,
    /// Its time is not over.
    NotYet,
    /// Its time is over.
    Expired,
}

/// Observed -> actions.
pub fn plan(observed: &Job, now: Timestamp) -> Plan<Reason> {
    let ttl = observed.spec.as_ref().and_then(|s| s.ttl_seconds_after_finished);
    let ended = job::finished(observed).and_then(|c| c.last_transition_time.as_ref());
    let (Some(ttl), Some(ended)) = (ttl, ended) else { return Plan::nothing(Reason::NotConcerned) };
    if meta::is_deleting(&observed.metadata) {
        return Plan::nothing(Reason::NotConcerned);
    }
    let at = time::after(ended.0, ttl.into());
    if at > now {
        let mut plan = Plan::nothing(Reason::NotYet);
        plan.wake(at);
        return plan;
    }
    let mut action = Action::delete(job::RESOURCE, &observed.metadata, Reason::Expired);
    if let Verb::Delete { propagation, .. } = &mut action.verb {
        *propagation = Some(Propagation::Foreground);
    }
    let mut plan = Plan::new();
    plan.push(action);
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_finished_job_goes_when_its_time_is_over() {
        let job: Job = serde_json::from_value(json!({
            "metadata": {"name": "a", "uid": "u"}, "spec": {"ttlSecondsAfterFinished": 60, "template": {}},
            "status": {"conditions": [
                {"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        }))
        .unwrap();
        let at = |text: &str| plan(&job, text.parse().unwrap());
        let early = at("2026-01-01T00:00:30Z");
        assert_eq!((early.nothing, early.wake_at), (Some(Reason::NotYet), "2026-01-01T00:01:00Z".parse().ok()));
        assert_eq!(at("2026-01-01T00:01:00Z").phases[0][0].because, Reason::Expired);
    }
}
