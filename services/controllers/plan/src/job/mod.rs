//! Job: pods that run to their end.
//!
//! A finished pod is counted exactly once, also when the controller is killed between any two writes. Each pod carries a
//! finalizer; its uid goes into `status.uncountedTerminatedPods`, then the finalizer goes, and only when it is gone does the
//! uid become a number:
//! ```text
//! pod ends --> uid is uncounted (status) --> finalizer removed --> succeeded/failed + 1, uid forgotten (status)
//! ```
//! Indexed Jobs count indexes, which is safe to repeat by itself.
//! Conditions: `FailureTarget`/`SuccessCriteriaMet` when the outcome is known, `Failed`/`Complete` when the last pod is gone.
//! Source: Kubernetes documentation, 'Jobs', and the batch/v1 API reference.

pub mod indexes;
mod pods;
mod policy;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use self::policy::Verdict;
use crate::action::{Action, Failure, Note, Plan};
use crate::meta::{self, Claim};
use crate::pod;
use crate::replicas::count;
use crate::time::{self, positive};

/// Where Jobs are.
pub const RESOURCE: &str = "jobs.batch";
/// What events and audit call the controller.
pub const COMPONENT: &str = "job-controller";
/// Keeps a pod until it is counted.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// The completion index of a pod: annotation and label.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often the pods of an index failed before this one.
pub const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// Pods created or deleted, and uids noted, in one plan.
const BURST: usize = 500;
/// The pause after a failed pod doubles from this ...
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(10);
/// ... to this.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_secs(600);

/// Why a plan does something, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The object is gone or has no spec.
    Gone,
    /// Another controller manages it (`spec.managedBy`).
    ManagedElsewhere,
    /// An orphan matches the selector.
    Adopted,
    /// A pod's labels no longer match.
    Released,
    /// Fewer pods than can run now.
    TooFew,
    /// More pods than may run now.
    TooMany,
    /// The Job is suspended.
    Suspended,
    /// The outcome is known: no pod is needed any more.
    OutcomeKnown,
    /// The pod is counted, or its Job is finished or gone.
    Counted,
    /// The status does not say what is observed.
    StatusIsOld,
    /// The Job is finished.
    Finished,
    /// A failed pod is not replaced before its pause is over.
    Pausing,
    /// Pods run.
    Running,
}

/// What a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The Job.
    pub job: Arc<Job>,
    /// Pods it controls, and pods of its namespace that nobody controls.
    pub pods: Vec<Arc<Pod>>,
    /// The last attempt, if it failed.
    pub failure: Option<Failure>,
}

/// Whether and since when the Job is finished.
pub fn finished(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")
}

/// Lets go of a pod whose Job is gone.
pub fn release_orphan(pod: &Pod) -> Plan<Reason> {
    let mut plan = Plan::new();
    if meta::has_finalizer(&pod.metadata, FINALIZER) {
        plan.push(meta::remove_finalizer("pods", &pod.metadata, FINALIZER, Reason::Counted));
    }
    plan.or_nothing(Reason::Gone)
}

/// Observed -> actions.
pub fn plan(observed: &Observed, now: Timestamp) -> Plan<Reason> {
    let job = &*observed.job;
    let Some(spec) = &job.spec else { return Plan::nothing(Reason::Gone) };
    if spec.managed_by.as_deref().is_some_and(|by| by != "kubernetes.io/job-controller") {
        return Plan::nothing(Reason::ManagedElsewhere);
    }
    let mut plan = Plan::new();
    let mut claimed = Vec::new();
    let reference = meta::controller_reference("batch/v1", "Job", &job.metadata);
    for pod in &observed.pods {
        let matches = spec
            .selector
            .as_ref()
            .is_some_and(|s| !meta::selects_everything(s) && meta::selects(s, pod.metadata.labels.as_ref()));
        match meta::claim(&pod.metadata, &job.metadata, matches) {
            Claim::Owned => claimed.push(pod),
            Claim::Adopt => plan.push(meta::adopt("pods", &pod.metadata, &reference, Reason::Adopted)),
            Claim::Release => plan.push(meta::release("pods", &pod.metadata, &reference.uid, Reason::Released)),
            Claim::Ignore => {}
        }
    }
    if !plan.is_quiet() {
        return plan;
    }
    if finished(job).is_some() {
        for pod in claimed.iter().filter(|p| meta::has_finalizer(&p.metadata, FINALIZER)) {
            plan.push(meta::remove_finalizer("pods", &pod.metadata, FINALIZER, Reason::Counted));
        }
        return plan.or_nothing(Reason::Finished);
    }
    Sync::new(job, spec, &claimed, now).plan()
}

/// How a Job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    good: bool,
    reason: String,
    message: String,
}

impl Outcome {
    fn bad(reason: &str, message: impl Into<String>) -> Self {
        Self { good: false, reason: reason.into(), message: message.into() }
    }

    fn good(reason: &str, message: impl Into<String>) -> Self {
        Self { good: true, reason: reason.into(), message: message.into() }
    }
}

/// One look at a Job that is not finished.
struct Sync<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    about: ObjectReference,
    pods: Vec<&'a Pod>,
    active: Vec<&'a Pod>,
    status: JobStatus,
    indexed: bool,
    suspended: bool,
    /// `Failed`: only pods that have ended are replaced.
    replaces_failed_only: bool,
    done: BTreeSet<i32>,
    failed_indexes: BTreeSet<i32>,
    now: Timestamp,
    wake_at: Option<Timestamp>,
    notes: Vec<Note>,
}

impl<'a> Sync<'a> {
    fn new(job: &'a Job, spec: &'a JobSpec, pods: &[&'a Arc<Pod>], now: Timestamp) -> Self {
        let pods: Vec<&Pod> = pods.iter().map(|p| &***p).collect();
        let active = pods.iter().copied().filter(|p| pod::is_active(p)).collect();
        let replaces_failed_only = spec.pod_replacement_policy.as_deref() == Some("Failed")
            || (spec.pod_replacement_policy.is_none() && spec.pod_failure_policy.is_some());
        Self {
            job,
            spec,
            about: meta::reference("batch/v1", "Job", &job.metadata),
            pods,
            active,
            status: job.status.clone().unwrap_or_default(),
            indexed: spec.completion_mode.as_deref() == Some("Indexed"),
            suspended: spec.suspend == Some(true),
            replaces_failed_only,
            done: BTreeSet::new(),
            failed_indexes: BTreeSet::new(),
            now,
            wake_at: None,
            notes: Vec::new(),
        }
    }

    fn parallelism(&self) -> i32 {
        self.spec.parallelism.unwrap_or(1)
    }

    fn completions(&self) -> i32 {
        self.spec.completions.unwrap_or(0)
    }

    /// Ended badly; a pod that is being deleted may never get to say so.
    fn has_failed(&self, pod: &Pod) -> bool {
        pod::phase(pod) == "Failed"
            || (!self.replaces_failed_only && meta::is_deleting(&pod.metadata) && pod::phase(pod) != "Succeeded")
    }

    fn plan(mut self) -> Plan<Reason> {
        let had_start = self.status.start_time.is_some();
        if !had_start && !self.suspended {
            self.status.start_time = Some(Time(time::seconds(self.now)));
        }
        self.settle_uncounted();
        self.count_indexes();
        let outcome = self.outcome();
        let freed = self.note_ended(outcome.as_ref());
        let mut changes = Vec::new();
        let mut active = count(self.active.len());
        let terminating = count(self.pods.iter().filter(|p| pod::is_terminating(p)).count());
        let mut outcome = outcome;
        if outcome.is_some() {
            changes.extend(self.delete(&self.active, Reason::OutcomeKnown));
            active = 0;
        } else if !meta::is_deleting(&self.job.metadata) {
            active += self.manage(terminating, &mut changes);
            outcome = self.completion(active, terminating);
        }
        if outcome.is_none() {
            self.mark_suspended();
        }
        self.status.active = positive(active, self.status.active);
        self.status.ready = Some(count(self.active.iter().filter(|p| pod::is_ready(p)).count()));
        self.status.terminating = Some(terminating);
        if let Some(outcome) = outcome {
            let quiet = self.active.is_empty() && terminating == 0;
            self.conclude(&outcome, quiet);
        }
        self.finish(freed, changes)
    }

    fn finish(self, freed: Vec<&'a Pod>, changes: Vec<Action<Reason>>) -> Plan<Reason> {
        let mut plan = Plan { wake_at: self.wake_at, ..Plan::new() };
        if self.job.status.as_ref() != Some(&self.status) {
            let updated = Job { status: Some(self.status), ..self.job.clone() };
            let mut action = Action::update_status(RESOURCE, &self.job.metadata, &updated, Reason::StatusIsOld);
            let mut notes = self.notes.into_iter();
            action.on_success = notes.next();
            plan.push(action);
            plan.notes.extend(notes);
        }
        // Counted on paper first: only then may a pod go.
        plan.barrier();
        for pod in freed {
            plan.push(meta::remove_finalizer("pods", &pod.metadata, FINALIZER, Reason::Counted));
        }
        for change in changes {
            plan.push(change);
        }
        let idle = if plan.wake_at.is_some() { Reason::Pausing } else { Reason::Running };
        plan.or_nothing(idle)
    }

    /// Uids whose pods are free become numbers.
    fn settle_uncounted(&mut self) {
        let held: BTreeSet<&str> = self
            .pods
            .iter()
            .filter(|p| meta::has_finalizer(&p.metadata, FINALIZER))
            .map(|p| meta::uid(&p.metadata))
            .collect();
        let mut uncounted = self.status.uncounted_terminated_pods.take().unwrap_or_default();
        let settle = |uids: &mut Option<Vec<String>>| {
            let before = uids.as_ref().map_or(0, Vec::len);
            if let Some(uids) = uids {
                uids.retain(|uid| held.contains(uid.as_str()));
            }
            *uids = uids.take().filter(|uids| !uids.is_empty());
            count(before - uids.as_ref().map_or(0, Vec::len))
        };
        let (succeeded, failed) = (settle(&mut uncounted.succeeded), settle(&mut uncounted.failed));
        self.status.uncounted_terminated_pods = Some(uncounted);
        if succeeded > 0 {
            self.status.succeeded = Some(self.status.succeeded.unwrap_or(0) + succeeded);
        }
        if failed > 0 {
            self.status.failed = Some(self.status.failed.unwrap_or(0) + failed);
        }
    }

    fn uncounted(&mut self) -> &mut UncountedTerminatedPods {
        self.status.uncounted_terminated_pods.get_or_insert_default()
    }

    fn count_indexes(&mut self) {
        if !self.indexed {
            return;
        }
        let completions = self.completions();
        self.done = indexes::parse(self.status.completed_indexes.as_deref().unwrap_or_default(), completions);
        let succeeded = self.pods.iter().filter(|p| pod::phase(p) == "Succeeded");
        self.done.extend(succeeded.filter_map(|p| pods::index(p)).filter(|index| *index < completions));
        self.status.completed_indexes = Some(indexes::format(&self.done)).filter(|text| !text.is_empty());
        self.status.succeeded = positive(count(self.done.len()), self.status.succeeded);
        if let Some(limit) = self.spec.backoff_limit_per_index {
            self.failed_indexes =
                indexes::parse(self.status.failed_indexes.as_deref().unwrap_or_default(), completions);
            let failed: Vec<&Pod> = self.pods.iter().copied().filter(|p| self.has_failed(p)).collect();
            for pod in failed {
                let Some(index) = pods::index(pod).filter(|index| !self.done.contains(index)) else { continue };
                let verdict = policy::judge(self.spec.pod_failure_policy.as_ref(), pod);
                let over = verdict == Verdict::Count && pods::index_failures(pod) + 1 > limit;
                if over || verdict == Verdict::FailIndex {
                    self.failed_indexes.insert(index);
                }
            }
            self.status.failed_indexes = Some(indexes::format(&self.failed_indexes));
        }
    }

    /// Succeeded so far, counted or not.
    fn succeeded(&self) -> i32 {
        if self.indexed {
            return count(self.done.len());
        }
        let uncounted = self.status.uncounted_terminated_pods.as_ref().and_then(|u| u.succeeded.as_ref());
        let known = uncounted.map_or(0, Vec::len);
        let new = self.pods.iter().filter(|p| {
            pod::phase(p) == "Succeeded"
                && meta::has_finalizer(&p.metadata, FINALIZER)
                && uncounted.is_none_or(|u| !u.iter().any(|uid| uid == meta::uid(&p.metadata)))
        });
        self.status.succeeded.unwrap_or(0) + count(known + new.count())
    }

    /// Failed so far, counted or not, but for those that the policy ignores.
    fn failed(&self) -> i32 {
        let uncounted = self.status.uncounted_terminated_pods.as_ref().and_then(|u| u.failed.as_ref());
        let known = uncounted.map_or(0, Vec::len);
        let new = self.pods.iter().filter(|p| {
            self.has_failed(p)
                && meta::has_finalizer(&p.metadata, FINALIZER)
                && uncounted.is_none_or(|u| !u.iter().any(|uid| uid == meta::uid(&p.metadata)))
                && policy::judge(self.spec.pod_failure_policy.as_ref(), p) != Verdict::Ignore
        });
        self.status.failed.unwrap_or(0) + count(known + new.count())
    }

    fn condition(&self, kind: &str) -> Option<&JobCondition> {
        self.status.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == "True")
    }

    /// What is decided already, or is decided by what is seen now; completion is decided later.
    fn outcome(&mut self) -> Option<Outcome> {
        let known = |c: &JobCondition, good: bool| Outcome {
            good,
            reason: c.reason.clone().unwrap_or_default(),
            message: c.message.clone().unwrap_or_default(),
        };
        if let Some(condition) = self.condition("FailureTarget") {
            return Some(known(condition, false));
        }
        if let Some(condition) = self.condition("SuccessCriteriaMet") {
            return Some(known(condition, true));
        }
        let judged = self.pods.iter().filter(|p| pod::phase(p) == "Failed");
        for pod in judged {
            if let Verdict::FailJob(why) = policy::judge(self.spec.pod_failure_policy.as_ref(), pod) {
                return Some(Outcome::bad("PodFailurePolicy", why));
            }
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        if self.failed() > limit || self.restarts() > limit {
            return Some(Outcome::bad("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
        }
        if let Some(deadline) = self.deadline() {
            if deadline <= self.now {
                let text = "Job was active longer than specified deadline";
                return Some(Outcome::bad("DeadlineExceeded", text));
            }
            self.wake(deadline);
        }
        if self.indexed {
            if let Some(why) = policy::succeeded(self.job, &self.done, self.completions()) {
                return Some(Outcome::good("SuccessPolicy", why));
            }
            if self.spec.max_failed_indexes.is_some_and(|most| count(self.failed_indexes.len()) > most) {
                let text = "Job has exceeded the specified maximal number of failed indexes";
                return Some(Outcome::bad("MaxFailedIndexesExceeded", text));
            }
            let over = count(self.failed_indexes.len() + self.done.len()) >= self.completions();
            if !self.failed_indexes.is_empty() && over {
                return Some(Outcome::bad("FailedIndexes", "Job has failed indexes"));
            }
        }
        None
    }

    /// Restarts in place of pods that restart on failure: they count as failures too.
    fn restarts(&self) -> i32 {
        let on_failure =
            self.spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) == Some("OnFailure");
        if !on_failure {
            return -1;
        }
        let pods = self.pods.iter().filter(|p| matches!(pod::phase(p), "Running" | "Pending"));
        let restarts: i32 = pods
            .filter_map(|p| p.status.as_ref())
            .flat_map(|s| s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten()))
            .map(|c| c.restart_count)
            .sum();
        // With a limit of 0, the first restart is one too many; otherwise the limit itself is.
        if self.spec.backoff_limit == Some(0) { restarts } else { restarts + i32::from(restarts > 0) }
    }

    fn deadline(&self) -> Option<Timestamp> {
        let seconds = self.spec.active_deadline_seconds.filter(|_| !self.suspended)?;
        Some(time::after(self.status.start_time.as_ref()?.0, seconds))
    }

    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }

    /// Notes the uids of pods that ended; answers the pods that may lose their finalizer once the status says so.
    fn note_ended(&mut self, outcome: Option<&Outcome>) -> Vec<&'a Pod> {
        let lost = outcome.is_some_and(|outcome| !outcome.good);
        let mut freed = Vec::new();
        for pod in self.pods.clone() {
            if freed.len() >= BURST || !meta::has_finalizer(&pod.metadata, FINALIZER) {
                continue;
            }
            let uid = meta::uid(&pod.metadata).to_owned();
            if pod::phase(pod) == "Succeeded" {
                // Of an indexed Job the index is counted, and stands in the status already.
                if !self.indexed {
                    note(&mut self.uncounted().succeeded, uid);
                }
                freed.push(pod);
            } else if self.has_failed(pod) || lost {
                let ignored = policy::judge(self.spec.pod_failure_policy.as_ref(), pod) == Verdict::Ignore;
                if lost || !ignored {
                    note(&mut self.uncounted().failed, uid);
                }
                freed.push(pod);
            }
        }
        freed
    }

    /// Creates and deletes pods; answers by how many the active ones change.
    fn manage(&mut self, terminating: i32, changes: &mut Vec<Action<Reason>>) -> i32 {
        let active = count(self.active.len());
        if self.suspended {
            changes.extend(self.delete(&self.active, Reason::Suspended));
            return -active;
        }
        let succeeded = self.succeeded();
        let wanted = match self.spec.completions {
            None if succeeded > 0 => active,
            None => self.parallelism(),
            Some(completions) => {
                let left = completions - succeeded - count(self.failed_indexes.len());
                left.min(self.parallelism()).max(0)
            }
        };
        let surplus = usize::try_from(active - wanted).unwrap_or(0);
        let victims = pods::surplus(&self.active, surplus, self.indexed.then(|| self.completions()), &self.done);
        if !victims.is_empty() {
            changes.extend(self.delete(&victims, Reason::TooMany));
            return -count(victims.len());
        }
        let held = if self.replaces_failed_only { terminating } else { 0 };
        let missing = wanted - active - held;
        if missing <= 0 {
            return 0;
        }
        if let Some(at) = self.pause_until() {
            self.wake(at);
            return 0;
        }
        let missing = usize::try_from(missing).unwrap_or(0).min(BURST);
        let created = pods::create(self, missing);
        let n = count(created.len());
        changes.extend(created);
        n
    }

    /// A failed pod is replaced after a pause that doubles with every failure in a row.
    fn pause_until(&self) -> Option<Timestamp> {
        if self.spec.backoff_limit_per_index.is_some() {
            return None;
        }
        let mut ended: Vec<(Timestamp, bool)> = self
            .pods
            .iter()
            .filter(|p| pod::phase(p) == "Succeeded" || self.has_failed(p))
            .map(|p| (pods::ended_at(p).unwrap_or(self.now), pod::phase(p) == "Succeeded"))
            .collect();
        ended.sort_unstable();
        let failures = ended.iter().rev().take_while(|(_, good)| !good).count();
        let (last, _) = ended.last().filter(|_| failures > 0)?;
        let doublings = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(16);
        let pause = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
        last.checked_add(pause).ok().filter(|at| *at > self.now)
    }

    fn completion(&self, active: i32, terminating: i32) -> Option<Outcome> {
        let succeeded = self.succeeded();
        let complete = match self.spec.completions {
            None => succeeded > 0 && active == 0 && terminating == 0,
            Some(completions) => succeeded >= completions && active <= 0,
        };
        complete.then(|| Outcome::good("CompletionsReached", "Reached expected number of succeeded pods"))
    }

    fn delete(&self, pods: &[&'a Pod], because: Reason) -> Vec<Action<Reason>> {
        pods.iter()
            .take(BURST)
            .map(|pod| {
                let name = meta::name(&pod.metadata);
                Action::delete("pods", &pod.metadata, because.clone())
                    .telling(Note::normal(&self.about, "SuccessfulDelete", format!("Deleted pod: {name}")))
                    .or_telling(Note::warning(&self.about, "FailedDelete", "Error deleting: {error}"))
            })
            .collect()
    }

    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) -> bool {
        let now = Some(Time(time::seconds(self.now)));
        let conditions = self.status.conditions.get_or_insert_default();
        if conditions.iter().any(|c| c.type_ == kind && c.status == status) {
            return false;
        }
        conditions.retain(|c| c.type_ != kind);
        conditions.push(JobCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_probe_time: now.clone(),
            last_transition_time: now,
        });
        true
    }

    fn mark_suspended(&mut self) {
        let known = self.status.conditions.iter().flatten().any(|c| c.type_ == "Suspended");
        if self.suspended {
            if self.set("Suspended", "True", "JobSuspended", "Job suspended") {
                self.notes.push(Note::normal(&self.about, "Suspended", "Job suspended"));
            }
        } else if known && self.set("Suspended", "False", "JobResumed", "Job resumed") {
            self.notes.push(Note::normal(&self.about, "Resumed", "Job resumed"));
            self.status.start_time = Some(Time(time::seconds(self.now)));
        }
    }

    /// Tells the outcome; as the last word when no pod is left and every pod is counted.
    fn conclude(&mut self, outcome: &Outcome, quiet: bool) {
        let target = if outcome.good { "SuccessCriteriaMet" } else { "FailureTarget" };
        self.set(target, "True", &outcome.reason, &outcome.message);
        let uncounted = self.uncounted();
        let counted = uncounted.succeeded.is_none() && uncounted.failed.is_none();
        if !quiet || !counted {
            return;
        }
        if outcome.good {
            self.set("Complete", "True", &outcome.reason, &outcome.message);
            self.status.completion_time = Some(Time(time::seconds(self.now)));
            self.notes.push(Note::normal(&self.about, "Completed", "Job completed"));
        } else {
            self.set("Failed", "True", &outcome.reason, &outcome.message);
            let mut note = Note::warning(&self.about, "Failed", outcome.message.clone());
            note.reason = outcome.reason.clone().into();
            self.notes.push(note);
        }
    }
}

fn note(uids: &mut Option<Vec<String>>, uid: String) {
    let uids = uids.get_or_insert_default();
    if !uids.contains(&uid) {
        uids.push(uid);
    }
}

#[cfg(test)]
mod tests;
