//! Job: see `galley_controllers_plan::job`. A key is a Job, or a pod that a Job left behind with its finalizer.

use galley_controllers_plan::job::{COMPONENT, FINALIZER, Observed, RESOURCE, Reason, plan, release_orphan};
use galley_controllers_plan::{Plan, meta, ttl};
use galley_store::{DecodeError, EventKind, ObjectKey};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use crate::controller::{Context, Controller, Wake};
use crate::view::{Change, Owner, Seen, View};

/// The controller.
#[derive(Debug)]
pub struct Jobs;

fn is_job(owner: &Owner) -> bool {
    owner.kind == "Job" && owner.api_version.starts_with("batch/")
}

fn is_tracked(pod: &Seen) -> bool {
    pod.finalizers.iter().any(|finalizer| finalizer == FINALIZER)
}

/// Nobody will count this pod any more.
fn is_left_behind(pod: &Seen, view: &View) -> bool {
    is_tracked(pod) && pod.controller().is_none_or(|owner| is_job(owner) && view.by_uid(&owner.uid).is_none())
}

impl Controller for Jobs {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, view: &View, wake: &mut Wake) {
        match change.resource() {
            RESOURCE => {
                wake.key(change.key().clone());
                if change.kind == EventKind::Deleted {
                    for pod in view.controlled_by("pods", &change.now.object.uid).filter(|pod| is_tracked(pod)) {
                        wake.key(pod.object.key.clone());
                    }
                }
            }
            "pods" => {
                wake.controllers(change, RESOURCE, is_job);
                if change.kind != EventKind::Deleted && is_left_behind(change.now, view) {
                    wake.key(change.key().clone());
                }
                if change.now.controller().is_none() {
                    for seen in view.in_namespace(RESOURCE, &change.key().namespace) {
                        let Ok(job) = seen.object.typed::<Job>() else { continue };
                        let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
                        if selector.is_some_and(|s| meta::selects(s, Some(&change.now.object.labels))) {
                            wake.key(seen.object.key.clone());
                        }
                    }
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let view = context.view;
        let gone = || Plan::nothing(Reason::Gone).explain();
        if key.resource.as_str() == "pods" {
            let Some(seen) = view.at(key).filter(|seen| is_left_behind(seen, view)) else { return Ok(gone()) };
            return Ok(release_orphan(&*seen.object.typed::<Pod>()?).explain());
        }
        let Some(job) = view.typed::<Job>(key)? else { return Ok(gone()) };
        let selector = job.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
        let pods = view.claimable("pods", &key.namespace, meta::uid(&job.metadata), &selector)?;
        let observed = Observed { job, pods, failure: context.failure.cloned() };
        Ok(plan(&observed, context.now).explain())
    }
}

/// Finished Jobs whose time is over: see `galley_controllers_plan::ttl`.
#[derive(Debug)]
pub struct TimeToLive;

impl Controller for TimeToLive {
    fn name(&self) -> &'static str {
        ttl::COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, _view: &View, wake: &mut Wake) {
        if change.resource() == RESOURCE && change.kind != EventKind::Deleted {
            wake.key(change.key().clone());
        }
    }

    fn plan(&mut self, key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let Some(job) = context.view.typed::<Job>(key)? else {
            return Ok(Plan::nothing(ttl::Reason::Gone).explain());
        };
        Ok(ttl::plan(&job, context.now).explain())
    }
}
