//! CronJob: a Job at every time that its schedule names.
//!
//! A Job's name holds its time, so making it twice is impossible, and a controller that was killed after making it sees that
//! it is there. `status.lastScheduleTime` only moves on; times missed while nobody looked are not made up for, but for the
//! newest. Source: Kubernetes documentation, 'CronJob'.

pub mod schedule;

use std::cmp::Reverse;
use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use self::schedule::Schedule;
use crate::action::{Action, Note, Plan};
use crate::{job, meta};

/// Where CronJobs are.
pub const RESOURCE: &str = "cronjobs.batch";
/// What events and audit call the controller.
pub const COMPONENT: &str = "cronjob-controller";
/// The time that a Job stands for.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this are worth a warning.
const MANY_MISSED: usize = 100;

/// Why a plan does something, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The object is gone or has no spec.
    Gone,
    /// The object is being deleted.
    BeingDeleted,
    /// `spec.suspend`
    Suspended,
    /// The schedule or the time zone cannot be understood.
    Unintelligible,
    /// More finished Jobs than the history limits.
    HistoryTooLong,
    /// A time has come.
    Due,
    /// `Replace`: the Job before has to go.
    Replaced,
    /// `Forbid`: the Job before still runs.
    StillRunning,
    /// The time came too long ago.
    TooLate,
    /// The status does not say what is observed.
    StatusIsOld,
    /// The next time is to come.
    NotYet,
}

/// What a plan is made from.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The CronJob.
    pub cron_job: Arc<CronJob>,
    /// Jobs that it controls.
    pub jobs: Vec<Arc<Job>>,
    /// Its time zone: that of `spec.timeZone`, or UTC; `None` if there is no zone of that name.
    pub zone: Option<TimeZone>,
}

/// Observed -> actions.
pub fn plan(observed: &Observed, now: Timestamp) -> Plan<Reason> {
    let cron_job = &*observed.cron_job;
    let spec = &cron_job.spec;
    let about = meta::reference("batch/v1", "CronJob", &cron_job.metadata);
    let mut plan = Plan::new();
    let mut status = cron_job.status.clone().unwrap_or_default();

    let running: Vec<&Arc<Job>> = observed.jobs.iter().filter(|j| job::finished(j).is_none()).collect();
    tell_ended(&status.active.take().unwrap_or_default(), &observed.jobs, &about, &mut plan);
    status.active = Some(running.iter().map(|j| active(j)).collect::<Vec<_>>()).filter(|list| !list.is_empty());
    let successful = observed.jobs.iter().filter_map(|j| j.status.as_ref()?.completion_time.clone());
    status.last_successful_time = successful.chain(status.last_successful_time).max();

    if meta::is_deleting(&cron_job.metadata) {
        return Plan::nothing(Reason::BeingDeleted);
    }
    clean_up(spec, &observed.jobs, &about, &mut plan);
    let idle = if spec.suspend == Some(true) {
        Reason::Suspended
    } else {
        let due = due(observed, spec, &about, now, &mut plan);
        match due {
            Err(idle) => idle,
            Ok(at) => {
                start(observed, spec, &about, at, &running, &mut plan);
                status.last_schedule_time = Some(Time(at));
                Reason::NotYet
            }
        }
    };
    plan.barrier();
    if cron_job.status.as_ref() != Some(&status) {
        let updated = CronJob { status: Some(status), ..cron_job.clone() };
        plan.push(Action::update_status(RESOURCE, &cron_job.metadata, &updated, Reason::StatusIsOld));
    }
    plan.or_nothing(idle)
}

/// The time that a Job is to be started for now, or why none is.
fn due(
    observed: &Observed,
    spec: &CronJobSpec,
    about: &ObjectReference,
    now: Timestamp,
    plan: &mut Plan<Reason>,
) -> Result<Timestamp, Reason> {
    let Some(zone) = &observed.zone else {
        let text = format!("invalid timeZone: {:?}: unknown time zone", spec.time_zone.as_deref().unwrap_or_default());
        plan.notes.push(Note::warning(about, "UnknownTimeZone", text));
        return Err(Reason::Unintelligible);
    };
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(bad) => {
            let text = format!("unparseable schedule: {:?} : {}", spec.schedule, bad.why);
            plan.notes.push(Note::warning(about, "UnparseableSchedule", text));
            return Err(Reason::Unintelligible);
        }
    };
    let cron_job = &*observed.cron_job;
    let last = cron_job.status.as_ref().and_then(|s| s.last_schedule_time.as_ref());
    let created = cron_job.metadata.creation_timestamp.as_ref();
    let mut from = last.or(created).map_or(now, |t| t.0);
    let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    if let Some(deadline) = deadline {
        from = from.max(now.checked_sub(deadline).unwrap_or(Timestamp::MIN));
    }
    let mut missed = 0;
    let mut latest = None;
    let mut next = schedule.next(from, zone);
    while let Some(at) = next.filter(|at| *at <= now) {
        latest = Some(at);
        missed += 1;
        if missed > MANY_MISSED {
            // Too many to walk through: go on shortly before now.
            let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            plan.notes.push(Note::warning(about, "TooManyMissedTimes", text));
            latest = most_recent(&schedule, zone, at, now);
            next = schedule.next(now, zone);
            break;
        }
        next = schedule.next(at, zone);
    }
    if let Some(next) = next {
        plan.wake(next);
    }
    let Some(at) = latest else { return Err(Reason::NotYet) };
    if deadline.is_some_and(|deadline| at.checked_add(deadline).is_ok_and(|end| end < now)) {
        let text = format!("Missed scheduled time to start a job: {}", at.strftime("%a, %d %b %Y %H:%M:%S +0000"));
        plan.notes.push(Note::warning(about, "MissSchedule", text));
        return Err(Reason::TooLate);
    }
    let running =
        observed.jobs.iter().any(|j| job::finished(j).is_none() && meta::name(&j.metadata) != name(cron_job, at));
    if running && spec.concurrency_policy.as_deref() == Some("Forbid") {
        let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
        plan.notes.push(Note::normal(about, "JobAlreadyActive", text));
        return Err(Reason::StillRunning);
    }
    Ok(at)
}

/// The last time at or before `now`, found by halving from a time before it.
fn most_recent(schedule: &Schedule, zone: &TimeZone, known: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let mut before = known;
    let mut span = now.duration_since(known);
    while span > SignedDuration::from_secs(30) {
        span = span.checked_div(2)?;
        let middle = now.checked_sub(span).ok()?;
        match schedule.next(middle, zone).filter(|at| *at <= now) {
            Some(at) => before = at,
            None => break,
        }
    }
    while let Some(at) = schedule.next(before, zone).filter(|at| *at <= now) {
        before = at;
    }
    Some(before)
}

fn name(cron_job: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", meta::name(&cron_job.metadata), at.as_second() / 60)
}

fn start(
    observed: &Observed,
    spec: &CronJobSpec,
    about: &ObjectReference,
    at: Timestamp,
    running: &[&Arc<Job>],
    plan: &mut Plan<Reason>,
) {
    let cron_job = &*observed.cron_job;
    let name = name(cron_job, at);
    if observed.jobs.iter().any(|j| meta::name(&j.metadata) == name) {
        return;
    }
    if spec.concurrency_policy.as_deref() == Some("Replace") {
        for job in running.iter().filter(|j| !meta::is_deleting(&j.metadata)) {
            plan.push(delete(job, about, Reason::Replaced));
        }
        plan.barrier();
    }
    let zone = observed.zone.clone().unwrap_or(TimeZone::UTC);
    let template = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = template.annotations.unwrap_or_default();
    let scheduled = at.to_zoned(zone).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    annotations.insert(SCHEDULED.into(), scheduled.replace("+00:00", "Z"));
    let mut body: Value = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": meta::namespace(&cron_job.metadata),
            "annotations": annotations,
            "ownerReferences": [meta::controller_reference("batch/v1", "CronJob", &cron_job.metadata)],
        },
        "spec": meta::to_value(&spec.job_template.spec),
    });
    if let Some(labels) = template.labels {
        body["metadata"]["labels"] = json!(labels);
    }
    plan.push(
        Action::create(job::RESOURCE, meta::namespace(&cron_job.metadata), body, Reason::Due)
            .telling(Note::normal(about, "SuccessfulCreate", "Created job {name}"))
            .or_telling(Note::warning(about, "FailedCreate", "Error creating job: {error}")),
    );
}

fn delete(job: &Job, about: &ObjectReference, because: Reason) -> Action<Reason> {
    let text = format!("Deleted job {}", meta::name(&job.metadata));
    Action::delete_background(job::RESOURCE, &job.metadata, because)
        .telling(Note::normal(about, "SuccessfulDelete", text))
        .or_telling(Note::warning(about, "FailedDelete", "Deleted job: {error}"))
}

fn active(job: &Job) -> ObjectReference {
    // The revision would make every change of a Job a change of the CronJob.
    ObjectReference { resource_version: None, ..meta::reference("batch/v1", "Job", &job.metadata) }
}

fn tell_ended(known: &[ObjectReference], jobs: &[Arc<Job>], about: &ObjectReference, plan: &mut Plan<Reason>) {
    for reference in known {
        let name = reference.name.as_deref().unwrap_or_default();
        match jobs.iter().find(|j| j.metadata.uid == reference.uid) {
            None => plan.notes.push(Note::normal(about, "MissingJob", format!("Active job went missing: {name}"))),
            Some(job) => {
                if let Some(ended) = job::finished(job) {
                    let text = format!("Saw completed job: {name}, condition: {}", ended.type_);
                    plan.notes.push(Note::normal(about, "SawCompletedJob", text));
                }
            }
        }
    }
}

fn clean_up(spec: &CronJobSpec, jobs: &[Arc<Job>], about: &ObjectReference, plan: &mut Plan<Reason>) {
    let limits = [
        ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
        ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
    ];
    for (kind, limit) in limits {
        let mut finished: Vec<&Arc<Job>> = jobs
            .iter()
            .filter(|j| !meta::is_deleting(&j.metadata) && job::finished(j).is_some_and(|c| c.type_ == kind))
            .collect();
        let started = |j: &Job| j.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
        finished.sort_by_key(|j| Reverse((started(j), j.metadata.name.clone())));
        for job in finished.into_iter().skip(usize::try_from(limit).unwrap_or(0)) {
            plan.push(delete(job, about, Reason::HistoryTooLong));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    fn world_with(spec: Value) -> World {
        let mut world = World::new();
        let mut cron_job = json!({
            "apiVersion": "batch/v1", "kind": "CronJob",
            "metadata": {"name": "tick", "namespace": "default"},
            "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {"spec": {"containers": []}}}}},
        });
        for (key, value) in spec.as_object().unwrap() {
            cron_job["spec"][key] = value.clone();
        }
        world.create(RESOURCE, &cron_job);
        world
    }

    fn settle(world: &mut World) -> Plan<Reason> {
        world.settle(|w| {
            let cron_job = w.get(RESOURCE, "default", "tick").unwrap();
            plan(&Observed { cron_job, jobs: w.list(job::RESOURCE), zone: Some(TimeZone::UTC) }, w.now)
        })
    }

    fn jobs(world: &World) -> Vec<String> {
        world.list::<Job>(job::RESOURCE).iter().map(|j| meta::name(&j.metadata).to_owned()).collect()
    }

    fn finish(world: &mut World, name: &str) {
        let now = json!(world.now);
        world.edit(job::RESOURCE, "default", name, |j| {
            j["status"] = json!({"startTime": now, "completionTime": now,
                "conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": now}]});
        });
    }

    #[test]
    fn a_job_is_made_when_its_time_comes_and_not_again() {
        let mut world = world_with(json!({}));
        let last = settle(&mut world);
        assert_eq!(last.nothing, Some(Reason::NotYet));
        assert_eq!(last.wake_at, Some(crate::time::after(world.now, 60)));
        assert!(jobs(&world).is_empty());
        world.pass(60);
        settle(&mut world);
        assert_eq!(jobs(&world), [format!("tick-{}", world.now.as_second() / 60)]);
        let status = world.get::<CronJob>(RESOURCE, "default", "tick").unwrap().status.clone().unwrap();
        assert_eq!((status.last_schedule_time.map(|t| t.0), status.active.unwrap().len()), (Some(world.now), 1));
        world.pass(30);
        settle(&mut world);
        assert_eq!(jobs(&world).len(), 1);
    }

    #[test]
    fn only_the_newest_missed_time_is_made_up_for() {
        for minutes in [7, 5_000] {
            let mut world = world_with(json!({}));
            settle(&mut world);
            world.pass(minutes * 60 + 20);
            settle(&mut world);
            assert_eq!(jobs(&world), [format!("tick-{}", world.now.as_second() / 60)]);
        }
    }

    #[test]
    fn concurrency_policies_forbid_or_replace() {
        for (policy, left) in [("Allow", 2), ("Forbid", 1), ("Replace", 1)] {
            let mut world = world_with(json!({"concurrencyPolicy": policy}));
            world.pass(60);
            settle(&mut world);
            let first = jobs(&world);
            world.pass(60);
            settle(&mut world);
            assert_eq!(jobs(&world).len(), left, "{policy}");
            assert_eq!(jobs(&world).contains(&first[0]), policy != "Replace", "{policy}");
        }
    }

    #[test]
    fn history_is_kept_to_its_limits_and_a_suspended_one_starts_nothing() {
        let mut world = world_with(json!({"successfulJobsHistoryLimit": 2}));
        for _ in 0..4 {
            world.pass(60);
            settle(&mut world);
            let newest = jobs(&world).pop().unwrap();
            finish(&mut world, &newest);
        }
        settle(&mut world);
        assert_eq!(jobs(&world).len(), 2);
        world.edit(RESOURCE, "default", "tick", |c| c["spec"]["suspend"] = json!(true));
        world.pass(60);
        assert_eq!(settle(&mut world).nothing, Some(Reason::Suspended));
        assert_eq!(jobs(&world).len(), 2);
    }

    #[test]
    fn a_time_too_long_ago_is_missed() {
        let mut world = world_with(json!({"schedule": "0 * * * *", "startingDeadlineSeconds": 30}));
        world.pass(3_600 + 40);
        assert_eq!(settle(&mut world).nothing, Some(Reason::NotYet));
        assert!(jobs(&world).is_empty());
    }
}
