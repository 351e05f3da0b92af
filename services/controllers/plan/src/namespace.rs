//! Namespace: one that is being deleted loses everything in it, says what is left, and then its finalizer.
//!
//! Conditions and their texts: Kubernetes API reference, `NamespaceCondition`; users see them in `kubectl describe
//! namespace` when one does not go away.

use std::collections::BTreeMap;
use std::sync::Arc;

use galley_types::ResourceName;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::action::{Action, Plan, Propagation, Verb};
use crate::{meta, time};

/// What events and audit call the controller.
pub const COMPONENT: &str = "namespace-controller";
/// The finalizer in `spec.finalizers` that this controller answers for.
const FINALIZER: &str = "kubernetes";
/// Objects deleted by one plan: the next goes on.
const AT_A_TIME: usize = 2_000;

/// An object in the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// `pods`
    pub resource: ResourceName,
    /// Its name.
    pub name: Arc<str>,
    /// Its uid.
    pub uid: Arc<str>,
    /// Whether it was asked to go already.
    pub deleting: bool,
    /// What it waits for.
    pub finalizers: Vec<String>,
}

/// What a plan is made from.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The namespace, if it is there.
    pub namespace: Option<Arc<Namespace>>,
    /// Everything in it but events. Only looked at when it is being deleted.
    pub contents: Vec<Content>,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its namespace is being deleted.
    NamespaceGoes,
    /// What is left changed.
    ConditionsChanged,
    /// Nothing is left.
    Empty,
    /// Its contents are on their way out.
    WaitsForContents,
    /// It is not being deleted, or finalized already.
    Lives,
}

/// Observed -> actions.
pub fn plan(observed: &Observed, now: Timestamp) -> Plan<Reason> {
    let Some(namespace) = observed.namespace.as_deref().filter(|n| meta::is_deleting(&n.metadata)) else {
        return Plan::nothing(Reason::Lives);
    };
    let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.clone()).unwrap_or_default();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        return Plan::nothing(Reason::Lives);
    }
    let name = meta::name(&namespace.metadata);
    let mut plan = Plan::new();
    for content in observed.contents.iter().filter(|c| !c.deleting).take(AT_A_TIME) {
        plan.push(Action {
            resource: content.resource.clone(),
            namespace: name.into(),
            name: content.name.to_string(),
            verb: Verb::Delete {
                uid: content.uid.to_string(),
                resource_version: None,
                propagation: Some(Propagation::Background),
                grace_period_seconds: None,
            },
            because: Reason::NamespaceGoes,
            on_success: None,
            on_failure: None,
        });
    }
    if !plan.is_quiet() {
        return plan;
    }
    if observed.contents.is_empty() {
        plan.push(Action {
            resource: "events".into(),
            namespace: name.into(),
            name: String::new(),
            verb: Verb::DeleteAll,
            because: Reason::NamespaceGoes,
            on_success: None,
            on_failure: None,
        });
        plan.barrier();
        let mut finalized = namespace.clone();
        let left: Vec<String> = finalizers.into_iter().filter(|f| f != FINALIZER).collect();
        finalized.spec.get_or_insert_default().finalizers = Some(left);
        let mut action = Action::update("namespaces", &namespace.metadata, &finalized, Reason::Empty);
        if let Verb::Update { subresource, .. } = &mut action.verb {
            *subresource = Some("finalize");
        }
        plan.push(action);
        return plan;
    }
    let mut told = namespace.clone();
    let status = told.status.get_or_insert_default();
    let before = status.conditions.clone().unwrap_or_default();
    let after = conditions(&before, &observed.contents, now);
    if after != before {
        status.conditions = Some(after);
        plan.push(Action::update_status("namespaces", &namespace.metadata, &told, Reason::ConditionsChanged));
    }
    plan.or_nothing(Reason::WaitsForContents)
}

/// The namespace's conditions while this is left in it.
fn conditions(before: &[NamespaceCondition], left: &[Content], now: Timestamp) -> Vec<NamespaceCondition> {
    let mut remaining: BTreeMap<String, usize> = BTreeMap::new();
    let mut waiting: BTreeMap<&str, usize> = BTreeMap::new();
    for content in left {
        *remaining.entry(format!("{}.{}", content.resource.plural(), content.resource.group())).or_default() += 1;
        for finalizer in &content.finalizers {
            *waiting.entry(finalizer).or_default() += 1;
        }
    }
    let list = |parts: Vec<String>| parts.join(", ");
    let remaining = list(remaining.iter().map(|(what, n)| format!("{what} has {n} resource instances")).collect());
    let waiting_for = list(waiting.iter().map(|(what, n)| format!("{what} in {n} resource instances")).collect());
    let wanted = [
        (
            "NamespaceDeletionDiscoveryFailure",
            None,
            "ResourcesDiscovered",
            "All resources successfully discovered".into(),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".into(),
        ),
        (
            "NamespaceDeletionContentFailure",
            None,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".into(),
        ),
        (
            "NamespaceContentRemaining",
            Some(()),
            "SomeResourcesRemain",
            format!("Some resources are remaining: {remaining}"),
        ),
        if waiting.is_empty() {
            (
                "NamespaceFinalizersRemaining",
                None,
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished".into(),
            )
        } else {
            (
                "NamespaceFinalizersRemaining",
                Some(()),
                "SomeFinalizersRemain",
                format!("Some content in the namespace has finalizers remaining: {waiting_for}"),
            )
        },
    ];
    let of_ours = |c: &&NamespaceCondition| wanted.iter().any(|(kind, ..)| *kind == c.type_);
    let mut out: Vec<NamespaceCondition> = before.iter().filter(|c| !of_ours(c)).cloned().collect();
    for (kind, holds, reason, message) in &wanted {
        let status = if holds.is_some() { "True" } else { "False" };
        let old = before.iter().find(|c| c.type_ == *kind && c.status == status);
        out.push(NamespaceCondition {
            type_: (*kind).into(),
            status: status.into(),
            reason: Some((*reason).into()),
            message: Some(message.clone()),
            last_transition_time: old
                .and_then(|c| c.last_transition_time.clone())
                .or_else(|| Some(Time(time::seconds(now)))),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::world::World;

    fn observe(world: &World) -> Plan<Reason> {
        let content = |resource: &str| {
            world
                .list::<Value>(resource)
                .iter()
                .map(|o| Content {
                    resource: resource.into(),
                    name: o["metadata"]["name"].as_str().unwrap().into(),
                    uid: o["metadata"]["uid"].as_str().unwrap().into(),
                    deleting: o["metadata"]["deletionTimestamp"].is_string(),
                    finalizers: serde_json::from_value(o["metadata"]["finalizers"].clone()).unwrap_or_default(),
                })
                .collect::<Vec<_>>()
        };
        let contents = [content("pods"), content("widgets.example.com")].concat();
        plan(&Observed { namespace: world.get("namespaces", "", "team"), contents }, world.now)
    }

    #[test]
    fn everything_goes_and_then_the_finalizer() {
        let mut world = World::new();
        world.create(
            "namespaces",
            &json!({"metadata": {"name": "team", "finalizers": ["test/hold"]}, "spec": {"finalizers": ["kubernetes"]}}),
        );
        world.create("pods", &json!({"metadata": {"name": "p", "namespace": "team"}}));
        world.create(
            "widgets.example.com",
            &json!({"metadata": {"name": "w", "namespace": "team", "finalizers": ["example.com/hold"]}}),
        );
        assert_eq!(world.settle(observe).nothing, Some(Reason::Lives));
        world.delete("namespaces", "", "team");
        assert_eq!(world.settle(observe).nothing, Some(Reason::WaitsForContents));
        assert!(world.list::<Value>("pods").is_empty());
        let namespace = world.get::<Namespace>("namespaces", "", "team").unwrap();
        let conditions = namespace.status.as_ref().unwrap().conditions.as_ref().unwrap();
        let message = |kind: &str| conditions.iter().find(|c| c.type_ == kind).unwrap().message.clone().unwrap();
        assert_eq!(
            message("NamespaceContentRemaining"),
            "Some resources are remaining: widgets.example.com has 1 resource instances"
        );
        assert_eq!(
            message("NamespaceFinalizersRemaining"),
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        );
        world.edit("widgets.example.com", "team", "w", |w| w["metadata"]["finalizers"] = json!([]));
        let last = observe(&world);
        assert!(last.actions().any(|a| matches!(a.verb, Verb::DeleteAll) && a.resource.as_str() == "events"));
        assert!(matches!(
            &last.actions().last().unwrap().verb,
            Verb::Update { subresource: Some("finalize"), body } if body["spec"]["finalizers"] == json!([])
        ));
    }
}
