//! Carries a plan out through the cluster's API: phases in order, the actions of a phase side by side.
//!
//! Side by side matters: the store commits what waits together in one batch, so a thousand creates cost a few commits. A phase
//! starts with a few actions and grows fourfold (from one, after a failure), so that a quota that is used up is asked a few
//! times and not a thousand.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use galley_authz::Actor;
use galley_controllers_plan::{Action, FailedVerb, Failure, Note, PatchForm, Plan, Propagation, Verb};
use galley_kube::{Reason, Status};
use galley_pipeline::{
    Binding, ClusterApi, DeleteOptions, Patch, PatchKind, PodCondition, Preconditions, WriteOptions,
};
use galley_store::{Object, Scope};
use serde_json::Value;
use tracing::debug;

use crate::events::EventWrite;

/// What became of one action.
#[derive(Debug)]
pub struct Outcome {
    /// The action, with its reason as text.
    pub action: Action<String>,
    /// The written object. `None`: it was to be deleted and is gone.
    pub result: Result<Option<Arc<Object>>, Status>,
}

/// What became of a plan.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) outcomes: Vec<Outcome>,
    /// The first action that failed.
    pub(crate) failure: Option<Failure>,
    pub(crate) failed: bool,
    pub(crate) notes: Vec<Note>,
}

/// Events written in one batch of the store.
const EVENTS: usize = 256;
const FIRST_BATCH: usize = 16;
const GROWTH: usize = 4;

/// Applies `plan` as `actor`. `gently`: the last attempt failed.
pub(crate) async fn apply(api: &ClusterApi, actor: &Actor, plan: Plan<String>, gently: bool) -> Applied {
    let mut applied = Applied { notes: plan.notes, ..Applied::default() };
    let options = WriteOptions { field_manager: actor_name(actor).to_owned(), ..WriteOptions::default() };
    for phase in plan.phases {
        // Bindings are one call, and one batch of the store, however many; conditions as well.
        let (bindings, others): (Vec<_>, Vec<_>) =
            phase.into_iter().partition(|action| matches!(action.verb, Verb::Bind { .. }));
        for outcome in bind(api, actor, &options, bindings).await {
            applied.take(outcome);
        }
        let (conditions, mut others): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|action| matches!(action.verb, Verb::Condition { .. }));
        for outcome in tell(api, actor, &options, conditions).await {
            applied.take(outcome);
        }
        let mut batch = if gently { 1 } else { FIRST_BATCH };
        let mut waiting = others.drain(..);
        loop {
            let running: FuturesUnordered<_> = waiting
                .by_ref()
                .take(batch)
                .map(|action| async {
                    let result = apply_one(api, actor, &options, &action).await;
                    Outcome { action, result }
                })
                .collect();
            if running.is_empty() {
                break;
            }
            for outcome in running.collect::<Vec<_>>().await {
                applied.take(outcome);
            }
            if applied.failed {
                return applied;
            }
            batch *= GROWTH;
        }
    }
    applied
}

async fn bind(api: &ClusterApi, actor: &Actor, options: &WriteOptions, actions: Vec<Action<String>>) -> Vec<Outcome> {
    if actions.is_empty() {
        return Vec::new();
    }
    let wanted = actions.iter().filter_map(|action| match &action.verb {
        Verb::Bind { uid, node } => Some(binding(action, uid, node)),
        _ => None,
    });
    let results = api.bind_all(actor, wanted.collect(), options).await;
    actions.into_iter().zip(results).map(|(action, result)| Outcome { action, result: result.map(Some) }).collect()
}

fn binding(action: &Action<String>, uid: &str, node: &str) -> Binding {
    Binding {
        namespace: action.namespace.clone(),
        pod: action.name.clone(),
        uid: uid.to_owned(),
        node: node.to_owned(),
        ..Binding::default()
    }
}

async fn tell(api: &ClusterApi, actor: &Actor, options: &WriteOptions, actions: Vec<Action<String>>) -> Vec<Outcome> {
    if actions.is_empty() {
        return Vec::new();
    }
    let wanted = actions.iter().filter_map(|action| match &action.verb {
        Verb::Condition { uid, condition, nominated } => Some(pod_condition(action, uid, condition, nominated)),
        _ => None,
    });
    let results = api.pod_conditions(actor, wanted.collect(), options).await;
    actions.into_iter().zip(results).map(|(action, result)| Outcome { action, result: result.map(Some) }).collect()
}

fn pod_condition(
    action: &Action<String>,
    uid: &str,
    condition: &Value,
    nominated: &Option<Option<String>>,
) -> PodCondition {
    PodCondition {
        namespace: action.namespace.clone(),
        pod: action.name.clone(),
        uid: uid.to_owned(),
        condition: condition.clone(),
        nominated: nominated.clone(),
    }
}

fn actor_name(actor: &Actor) -> &str {
    actor.username.rsplit(':').next().unwrap_or_default()
}

impl Applied {
    fn take(&mut self, outcome: Outcome) {
        let action = &outcome.action;
        match &outcome.result {
            Ok(written) => {
                let name = written.as_ref().map_or(action.name.as_str(), |object| &object.key.name);
                debug!(resource = %action.resource, namespace = %action.namespace, name, because = action.because, "applied");
                self.notes.extend(action.on_success.as_ref().map(|note| fill(note, "{name}", name)));
            }
            Err(status) => {
                debug!(
                    resource = %action.resource, namespace = %action.namespace, name = action.name,
                    because = action.because, error = status.message, "not applied"
                );
                // Somebody was faster: look again. That is no failure that users should hear of.
                if !self.failed && !is_stale(status) {
                    self.failure = Some(Failure {
                        verb: match action.verb {
                            Verb::Create { .. } => FailedVerb::Create,
                            Verb::Update { .. } | Verb::Patch { .. } | Verb::Bind { .. } | Verb::Condition { .. } => {
                                FailedVerb::Write
                            }
                            Verb::Delete { .. } | Verb::DeleteAll | Verb::Evict { .. } => FailedVerb::Delete,
                        },
                        resource: action.resource.clone(),
                        message: status.message.clone(),
                    });
                }
                self.failed = true;
                if !is_stale(status) {
                    self.notes.extend(action.on_failure.as_ref().map(|note| fill(note, "{error}", &status.message)));
                }
            }
        }
        self.outcomes.push(outcome);
    }
}

fn fill(note: &Note, what: &str, with: &str) -> Note {
    let mut note = note.clone();
    note.message = note.message.replace(what, with);
    note
}

/// The plan was made from something that is no longer so.
fn is_stale(status: &Status) -> bool {
    matches!(status.reason, Reason::Conflict | Reason::NotFound | Reason::AlreadyExists)
}

async fn apply_one(
    api: &ClusterApi,
    actor: &Actor,
    options: &WriteOptions,
    action: &Action<String>,
) -> Result<Option<Arc<Object>>, Status> {
    let Some(resource) = api.resource(action.resource.as_str()) else {
        return Err(Status::not_found(action.resource.group(), action.resource.plural(), &action.name));
    };
    let (namespace, name) = (action.namespace.as_str(), action.name.as_str());
    let written = match &action.verb {
        Verb::Create { body } => api.create(actor, &resource, namespace, body.clone(), options).await,
        Verb::Bind { uid, node } => {
            return api.bind(actor, binding(action, uid, node), options).await.map(Some);
        }
        Verb::Condition { uid, condition, nominated } => {
            let wanted = vec![pod_condition(action, uid, condition, nominated)];
            let written = api.pod_conditions(actor, wanted, options).await.pop();
            return written.unwrap_or_else(|| Err(Status::internal("no answer"))).map(Some);
        }
        Verb::Evict { uid, grace_period_seconds } => {
            let options = DeleteOptions {
                grace_period_seconds: *grace_period_seconds,
                preconditions: Preconditions { uid: Some(uid.clone()), resource_version: None },
                propagation: None,
                dry_run: false,
            };
            api.evict(actor, namespace, name, &options).await
        }
        Verb::Update { body, subresource } => {
            api.update(actor, &resource, namespace, name, *subresource, body.clone(), options).await
        }
        Verb::Patch { body, form, subresource } => {
            let kind = match form {
                PatchForm::Merge => PatchKind::Merge,
                PatchForm::Strategic => PatchKind::Strategic,
                PatchForm::Json => PatchKind::Json,
            };
            let patch = Patch { kind, body: body.clone() };
            api.patch(actor, &resource, namespace, name, *subresource, patch, options).await
        }
        Verb::DeleteAll => {
            let scope = Scope { resource: action.resource.clone(), namespace: Some(namespace.into()) };
            let options = DeleteOptions::default();
            let listing = api.store().list(&scope);
            let deletions =
                listing.objects.iter().map(|o| api.delete(actor, &resource, namespace, &o.key.name, &options));
            for deleted in futures::future::join_all(deletions).await {
                match deleted {
                    Err(status) if status.reason != Reason::NotFound => return Err(status),
                    _ => {}
                }
            }
            return Ok(None);
        }
        Verb::Delete { uid, resource_version, propagation, grace_period_seconds } => {
            let options = DeleteOptions {
                grace_period_seconds: *grace_period_seconds,
                preconditions: Preconditions { uid: Some(uid.clone()), resource_version: resource_version.clone() },
                propagation: propagation.map(|p| match p {
                    Propagation::Orphan => galley_pipeline::Propagation::Orphan,
                    Propagation::Background => galley_pipeline::Propagation::Background,
                    Propagation::Foreground => galley_pipeline::Propagation::Foreground,
                }),
                dry_run: false,
            };
            match api.delete(actor, &resource, namespace, name, &options).await {
                Err(status) if status.reason == Reason::NotFound => return Ok(None),
                other => other,
            }
        }
    };
    written.map(|written| Some(written.object))
}

/// Writes events side by side. Best effort: an event that cannot be written is dropped.
pub(crate) async fn record(api: &ClusterApi, writes: Vec<EventWrite>) {
    let Some(resource) = api.resource("events") else { return };
    let actor = Actor::controller("event-recorder");
    let options = WriteOptions::default();
    let (api, resource, actor, options) = (api, &*resource, &actor, &options);
    let mut counts = Vec::new();
    let mut fresh = Vec::new();
    for write in writes {
        match write {
            EventWrite::Create { body } => fresh.push(body),
            EventWrite::Count { namespace, name, patch, body } => counts.push((namespace, name, patch, body)),
        }
    }
    // New ones first: what is counted may be among them.
    while !fresh.is_empty() {
        let rest = fresh.split_off(fresh.len().min(EVENTS));
        for written in api.create_events(actor, std::mem::replace(&mut fresh, rest)).await {
            if let Err(status) = written {
                debug!(error = status.message, "an event was not recorded");
            }
        }
    }
    let running: FuturesUnordered<_> = counts
        .into_iter()
        .map(|(namespace, name, patch, body)| async move {
            let patch = Patch { kind: PatchKind::Merge, body: patch };
            let written = match api.patch(actor, resource, &namespace, &name, None, patch, options).await {
                Err(status) if status.reason == Reason::NotFound => {
                    api.create(actor, resource, &namespace, body, options).await
                }
                other => other,
            };
            if let Err(status) = written {
                debug!(error = status.message, "an event was not recorded");
            }
        })
        .collect();
    running.collect::<Vec<()>>().await;
}
