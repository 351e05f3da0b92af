//! What a plan is made of.
//!
//! A plan leaves its executor no choices: names, bodies and preconditions are decided here. Phases run in order; the actions
//! of one phase run side by side, and a phase starts only when the one before it succeeded whole. Whatever is left when a
//! phase fails is planned again from what is true then, so a plan never needs to be undone.

use std::borrow::Cow;
use std::fmt::Debug;

use galley_types::ResourceName;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::{Value, json};

use crate::meta;

/// One write to the cluster's API, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Action<R> {
    /// `pods`, `deployments.apps`.
    pub resource: ResourceName,
    /// Empty for cluster-scoped resources.
    pub namespace: String,
    /// `metadata.name`; for a create that leaves the name to the API server: `generateName`.
    pub name: String,
    /// What to do.
    pub verb: Verb,
    /// Why.
    pub because: R,
    /// The event that tells users it worked. `{name}` in its message becomes the written object's name.
    pub on_success: Option<Note>,
    /// The event that tells users it did not. `{error}` in its message becomes the API's answer.
    pub on_failure: Option<Note>,
}

/// What to do to the object.
#[derive(Debug, Clone, PartialEq)]
pub enum Verb {
    /// Create it.
    Create {
        /// The object.
        body: Value,
    },
    /// Bind the pod to a node (`pods/binding`). All bindings of a phase are one batch of the store.
    Bind {
        /// The pod's uid.
        uid: String,
        /// The node's name.
        node: String,
    },
    /// Set a condition of the pod's status. All conditions of a phase are one batch of the store.
    Condition {
        /// The pod's uid.
        uid: String,
        /// It takes the place of the condition of its `type`.
        condition: Value,
        /// `status.nominatedNodeName`: leave it, take it away, or set it.
        nominated: Option<Option<String>>,
    },
    /// Delete the pod if its disruption budgets allow it (`pods/eviction`).
    Evict {
        /// The pod's uid.
        uid: String,
        /// `gracePeriodSeconds`.
        grace_period_seconds: Option<i64>,
    },
    /// Replace it if it is still at the `metadata.resourceVersion` in `body`.
    Update {
        /// The object.
        body: Value,
        /// `status`.
        subresource: Option<&'static str>,
    },
    /// Patch it. A `metadata.uid` or `metadata.resourceVersion` in the patch is a precondition.
    Patch {
        /// The patch.
        body: Value,
        /// How to read it.
        form: PatchForm,
        /// `status`.
        subresource: Option<&'static str>,
    },
    /// Delete all objects of the resource in the namespace, at once: for what nobody waits for.
    DeleteAll,
    /// Delete it if it still is the object with this uid.
    Delete {
        /// `preconditions.uid`.
        uid: String,
        /// `preconditions.resourceVersion`, where a change since must stop the deletion.
        resource_version: Option<String>,
        /// `propagationPolicy`.
        propagation: Option<Propagation>,
        /// `gracePeriodSeconds`.
        grace_period_seconds: Option<i64>,
    },
}

/// Which patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchForm {
    /// RFC 7386.
    Merge,
    /// Lists by their merge keys.
    Strategic,
    /// RFC 6902.
    Json,
}

/// `propagationPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Dependents stay.
    Orphan,
    /// Dependents go afterwards.
    Background,
    /// Dependents go first.
    Foreground,
}

/// How an event is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// `Normal`
    Normal,
    /// `Warning`
    Warning,
}

/// An event to record about an object (core/v1 `Event`).
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// `involvedObject`.
    pub about: ObjectReference,
    /// `type`.
    pub severity: Severity,
    /// `reason`: `ScalingReplicaSet`.
    pub reason: Cow<'static, str>,
    /// `message`.
    pub message: String,
}

impl Note {
    /// `Normal`.
    pub fn normal(about: &ObjectReference, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            about: about.clone(),
            severity: Severity::Normal,
            reason: Cow::Borrowed(reason),
            message: message.into(),
        }
    }

    /// `Warning`.
    pub fn warning(about: &ObjectReference, reason: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::normal(about, reason, message) }
    }
}

/// The last attempt at this key that did not go through: what a status condition like `ReplicaFailure` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What was tried.
    pub verb: FailedVerb,
    /// Of which resource.
    pub resource: ResourceName,
    /// The API's answer, in its words.
    pub message: String,
}

/// The kind of write that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedVerb {
    /// A create.
    Create,
    /// An update or patch.
    Write,
    /// A delete.
    Delete,
}

/// What to do about one key.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan<R> {
    /// Actions: phases in order, side by side within one.
    pub phases: Vec<Vec<Action<R>>>,
    /// Why there is nothing to do, where there is nothing to do.
    pub nothing: Option<R>,
    /// When to plan again even if nothing changes.
    pub wake_at: Option<Timestamp>,
    /// Events to record whatever becomes of the actions.
    pub notes: Vec<Note>,
}

impl<R> Default for Plan<R> {
    fn default() -> Self {
        Self { phases: Vec::new(), nothing: None, wake_at: None, notes: Vec::new() }
    }
}

impl<R: Debug> Plan<R> {
    /// An empty plan, to be filled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing to do, because ...
    pub fn nothing(because: R) -> Self {
        Self { nothing: Some(because), ..Self::default() }
    }

    /// Whether there is nothing to apply.
    pub fn is_quiet(&self) -> bool {
        self.phases.iter().all(Vec::is_empty)
    }

    /// Adds an action beside those of the current phase.
    pub fn push(&mut self, action: Action<R>) {
        match self.phases.last_mut() {
            Some(phase) => phase.push(action),
            None => self.phases.push(vec![action]),
        }
    }

    /// What is pushed from here on starts when everything before it has succeeded.
    pub fn barrier(&mut self) {
        if self.phases.last().is_some_and(|phase| !phase.is_empty()) {
            self.phases.push(Vec::new());
        }
    }

    /// Plan again at `at` at the latest.
    pub fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }

    /// The plan, or `because` as the reason for doing nothing when it has no action.
    #[must_use]
    pub fn or_nothing(mut self, because: R) -> Self {
        self.phases.retain(|phase| !phase.is_empty());
        if self.phases.is_empty() {
            self.nothing = Some(because);
        }
        self
    }

    /// All actions in order.
    pub fn actions(&self) -> impl Iterator<Item = &Action<R>> {
        self.phases.iter().flatten()
    }

    /// The plan with its reasons as text, for an executor that only logs them.
    pub fn explain(self) -> Plan<String> {
        let text = |reason: R| format!("{reason:?}");
        Plan {
            phases: self
                .phases
                .into_iter()
                .map(|phase| {
                    phase
                        .into_iter()
                        .map(|a| Action {
                            resource: a.resource,
                            namespace: a.namespace,
                            name: a.name,
                            verb: a.verb,
                            because: text(a.because),
                            on_success: a.on_success,
                            on_failure: a.on_failure,
                        })
                        .collect()
                })
                .collect(),
            nothing: self.nothing.map(text),
            wake_at: self.wake_at,
            notes: self.notes,
        }
    }
}

impl<R> Action<R> {
    fn new(resource: &str, namespace: &str, name: &str, verb: Verb, because: R) -> Self {
        Self {
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            verb,
            because,
            on_success: None,
            on_failure: None,
        }
    }

    /// Creates `body`, whose metadata holds the name or `generateName`.
    pub fn create(resource: &str, namespace: &str, body: Value, because: R) -> Self {
        let named = |field: &str| body["metadata"][field].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let name = named("name").or_else(|| named("generateName")).unwrap_or_default();
        Self::new(resource, namespace, &name, Verb::Create { body }, because)
    }

    /// Replaces the whole object.
    pub fn update<T: Serialize>(resource: &str, meta: &ObjectMeta, object: &T, because: R) -> Self {
        let verb = Verb::Update { body: meta::to_value(object), subresource: None };
        Self::new(resource, meta::namespace(meta), meta::name(meta), verb, because)
    }

    /// Replaces the object's status.
    pub fn update_status<T: Serialize>(resource: &str, meta: &ObjectMeta, object: &T, because: R) -> Self {
        let verb = Verb::Update { body: meta::to_value(object), subresource: Some("status") };
        Self::new(resource, meta::namespace(meta), meta::name(meta), verb, because)
    }

    /// A merge patch of an object that must still be as `meta` says (uid and revision).
    pub fn merge(resource: &str, meta: &ObjectMeta, patch: Value, because: R) -> Self {
        let mut body = patch;
        body["metadata"]["uid"] = json!(meta.uid);
        body["metadata"]["resourceVersion"] = json!(meta.resource_version);
        let verb = Verb::Patch { body, form: PatchForm::Merge, subresource: None };
        Self::new(resource, meta::namespace(meta), meta::name(meta), verb, because)
    }

    /// Deletes an object, with the API's default propagation and grace.
    pub fn delete(resource: &str, meta: &ObjectMeta, because: R) -> Self {
        let verb = Verb::Delete {
            uid: meta::uid(meta).to_owned(),
            resource_version: None,
            propagation: None,
            grace_period_seconds: None,
        };
        Self::new(resource, meta::namespace(meta), meta::name(meta), verb, because)
    }

    /// Deletes an object in the background.
    pub fn delete_background(resource: &str, meta: &ObjectMeta, because: R) -> Self {
        let mut action = Self::delete(resource, meta, because);
        if let Verb::Delete { propagation, .. } = &mut action.verb {
            *propagation = Some(Propagation::Background);
        }
        action
    }

    /// Tells users when it worked.
    #[must_use]
    pub fn telling(mut self, note: Note) -> Self {
        self.on_success = Some(note);
        self
    }

    /// Tells users when it did not.
    #[must_use]
    pub fn or_telling(mut self, note: Note) -> Self {
        self.on_failure = Some(note);
        self
    }
}
