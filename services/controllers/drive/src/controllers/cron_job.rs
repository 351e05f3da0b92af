//! CronJob: see `galley_controllers_plan::cron_job`.

use galley_controllers_plan::cron_job::{COMPONENT, Observed, RESOURCE, Reason, plan};
use galley_controllers_plan::{Plan, job, meta};
use galley_store::{DecodeError, ObjectKey};
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, Job};

use crate::controller::{Context, Controller, Wake};
use crate::view::{Change, View};

/// The controller.
#[derive(Debug)]
pub struct CronJobs;

impl Controller for CronJobs {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, _view: &View, wake: &mut Wake) {
        match change.resource() {
            RESOURCE => wake.key(change.key().clone()),
            job::RESOURCE => {
                wake.controllers(change, RESOURCE, |owner| owner.kind == "CronJob");
            }
            _ => {}
        }
    }

    fn plan(&mut self, key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let Some(cron_job) = context.view.typed::<CronJob>(key)? else {
            return Ok(Plan::nothing(Reason::Gone).explain());
        };
        let owned = context.view.controlled_by(job::RESOURCE, meta::uid(&cron_job.metadata));
        let jobs = owned.map(|seen| seen.object.typed::<Job>()).collect::<Result<_, _>>()?;
        let zone = match cron_job.spec.time_zone.as_deref() {
            None | Some("") => Some(TimeZone::UTC),
            Some(name) => TimeZone::get(name).ok(),
        };
        Ok(plan(&Observed { cron_job, jobs, zone }, context.now).explain())
    }
}
