//! Garbage collection: what is owned goes when its owners are gone.
//!
//! ```text
//! deleting, finalizer orphan             -> dependents forget it, then it may go
//! deleting, finalizer foregroundDeletion -> when no dependent that blocks is left, it may go
//! not deleting, owners: all gone or going in the foreground -> delete
//!                       some solid, some gone               -> forget those that are gone
//! ```
//! Owners are who their uid says, at the name and in the namespace (or cluster scope) that the reference implies; a reference
//! across namespaces is to nobody. Owners of a kind that is not served cannot be judged: their dependents stay.
//! Source: Kubernetes documentation, 'Garbage Collection' and 'Owners and Dependents'.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

use crate::action::{Action, Note, Plan, Propagation, Verb};
use crate::meta;

/// What events and audit call the controller.
pub const COMPONENT: &str = "garbage-collector-controller";
/// Dependents are to stay.
pub const ORPHAN: &str = "orphan";
/// Dependents are to go first.
pub const FOREGROUND: &str = "foregroundDeletion";

/// Why a plan does something, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The object is gone.
    Gone,
    /// Its owner was deleted and leaves it behind.
    Orphaned,
    /// All dependents were orphaned.
    DependentsOrphaned,
    /// No dependent is left that blocks.
    DependentsGone,
    /// Dependents that block are left.
    WaitsForDependents(usize),
    /// No owner is left.
    OwnersGone,
    /// Its owner waits for it to go.
    OwnerWaits,
    /// Some owners are gone, others are not.
    SomeOwnersGone,
    /// Owner and dependent wait for each other.
    Circle,
    /// Somebody else is deleting it.
    BeingDeleted,
    /// It has an owner, or never had one.
    Kept,
    /// An owner's kind is not served.
    CannotTell,
}

/// What is known of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerState {
    /// It is there.
    Solid,
    /// It is there, and waits for its dependents to go.
    WaitsForDependents,
    /// It is not there.
    Absent,
    /// Nobody can tell: its kind is not served, or the reference cannot be resolved.
    Unknown,
    /// It is there, in another namespace.
    ElsewhereInNamespaces,
}

/// An object that names the object as its owner.
#[derive(Debug, Clone)]
pub struct Dependent {
    /// `pods`
    pub resource: String,
    /// Its metadata.
    pub meta: ObjectMeta,
    /// It is itself waiting for its dependents to go.
    pub waits_for_dependents: bool,
}

/// What a plan is made from.
#[derive(Debug, Clone)]
pub struct Observed {
    /// `pods`
    pub resource: String,
    /// The object.
    pub meta: ObjectMeta,
    /// What events are about.
    pub about: ObjectReference,
    /// Each of its owner references, judged.
    pub owners: Vec<(OwnerReference, OwnerState)>,
    /// Who names it as owner.
    pub dependents: Vec<Dependent>,
}

/// Observed -> actions.
pub fn plan(observed: &Observed) -> Plan<Reason> {
    let object = &observed.meta;
    if meta::is_deleting(object) {
        if meta::has_finalizer(object, ORPHAN) {
            return orphan(observed);
        }
        if meta::has_finalizer(object, FOREGROUND) {
            return finish_foreground(observed);
        }
        return Plan::nothing(Reason::BeingDeleted);
    }
    judge(observed)
}

fn orphan(observed: &Observed) -> Plan<Reason> {
    let mut plan = Plan::new();
    for dependent in &observed.dependents {
        let uid = meta::uid(&observed.meta);
        plan.push(meta::release(&dependent.resource, &dependent.meta, uid, Reason::Orphaned));
    }
    plan.barrier();
    plan.push(meta::remove_finalizer(&observed.resource, &observed.meta, ORPHAN, Reason::DependentsOrphaned));
    plan
}

fn finish_foreground(observed: &Observed) -> Plan<Reason> {
    let uid = meta::uid(&observed.meta);
    let blocks = |dependent: &&Dependent| {
        let mut references = dependent.meta.owner_references.iter().flatten();
        references.any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
    };
    let blocking = observed.dependents.iter().filter(blocks).count();
    if blocking > 0 {
        return Plan::nothing(Reason::WaitsForDependents(blocking));
    }
    let mut plan = Plan::new();
    plan.push(meta::remove_finalizer(&observed.resource, &observed.meta, FOREGROUND, Reason::DependentsGone));
    plan
}

fn judge(observed: &Observed) -> Plan<Reason> {
    let object = &observed.meta;
    let is = |wanted: OwnerState| move |owner: &&(OwnerReference, OwnerState)| owner.1 == wanted;
    let mut plan = Plan::new();
    for (owner, _) in observed.owners.iter().filter(is(OwnerState::ElsewhereInNamespaces)) {
        let text = format!(
            "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace {:?}",
            owner.api_version,
            owner.kind,
            meta::namespace(object),
            owner.name,
            owner.uid,
            meta::namespace(object)
        );
        plan.notes.push(Note::warning(&observed.about, "OwnerRefInvalidNamespace", text));
    }
    if observed.owners.is_empty() {
        return Plan::nothing(Reason::Kept);
    }
    if observed.owners.iter().any(|owner| owner.1 == OwnerState::Unknown) {
        plan.nothing = Some(Reason::CannotTell);
        return plan;
    }
    let solid = observed.owners.iter().any(|owner| owner.1 == OwnerState::Solid);
    let waiting = observed.owners.iter().any(|owner| owner.1 == OwnerState::WaitsForDependents);
    if solid {
        let kept: Vec<&OwnerReference> =
            observed.owners.iter().filter(is(OwnerState::Solid)).map(|(owner, _)| owner).collect();
        if kept.len() == observed.owners.len() {
            plan.nothing = Some(Reason::Kept);
            return plan;
        }
        let patch = json!({"metadata": {"ownerReferences": kept}});
        plan.push(Action::merge(&observed.resource, object, patch, Reason::SomeOwnersGone));
        return plan;
    }
    if waiting && !observed.dependents.is_empty() {
        if observed.dependents.iter().any(|dependent| dependent.waits_for_dependents) {
            // Each would wait for the other for ever: this one no longer blocks its owners.
            let mut owners: Vec<OwnerReference> = object.owner_references.clone().unwrap_or_default();
            if owners.iter().any(|owner| owner.block_owner_deletion == Some(true)) {
                owners.iter_mut().for_each(|owner| owner.block_owner_deletion = Some(false));
                let patch = json!({"metadata": {"ownerReferences": owners}});
                plan.push(Action::merge(&observed.resource, object, patch, Reason::Circle));
                return plan;
            }
        }
        plan.push(delete(observed, Propagation::Foreground, Reason::OwnerWaits));
        return plan;
    }
    let propagation = if meta::has_finalizer(object, ORPHAN) {
        Propagation::Orphan
    } else if meta::has_finalizer(object, FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    let because = if waiting { Reason::OwnerWaits } else { Reason::OwnersGone };
    plan.push(delete(observed, propagation, because));
    plan
}

/// Only as it was judged: somebody who gives it an owner meanwhile keeps it.
fn delete(observed: &Observed, with: Propagation, because: Reason) -> Action<Reason> {
    let mut action = Action::delete(&observed.resource, &observed.meta, because);
    if let Verb::Delete { propagation, resource_version, .. } = &mut action.verb {
        *propagation = Some(with);
        resource_version.clone_from(&observed.meta.resource_version);
    }
    action
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(uid: &str) -> OwnerReference {
        OwnerReference {
            api_version: "apps/v1".into(),
            kind: "ReplicaSet".into(),
            name: uid.into(),
            uid: uid.into(),
            controller: None,
            block_owner_deletion: Some(true),
        }
    }

    fn object(states: &[OwnerState]) -> Observed {
        let owners: Vec<_> = states.iter().enumerate().map(|(n, state)| (owner(&format!("o{n}")), *state)).collect();
        Observed {
            resource: "pods".into(),
            meta: ObjectMeta {
                name: Some("a".into()),
                namespace: Some("default".into()),
                uid: Some("u".into()),
                resource_version: Some("7".into()),
                owner_references: Some(owners.iter().map(|(owner, _)| owner.clone()).collect()),
                ..ObjectMeta::default()
            },
            about: ObjectReference::default(),
            owners,
            dependents: Vec::new(),
        }
    }

    fn dependent(of: &str, waits: bool) -> Dependent {
        let meta = ObjectMeta {
            name: Some("d".into()),
            uid: Some("d".into()),
            owner_references: Some(vec![owner(of)]),
            ..ObjectMeta::default()
        };
        Dependent { resource: "pods".into(), meta, waits_for_dependents: waits }
    }

    fn deleting(mut observed: Observed, finalizer: &str) -> Observed {
        observed.meta.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        observed.meta.finalizers = Some(vec![finalizer.into()]);
        observed
    }

    fn reasons(plan: &Plan<Reason>) -> Vec<Reason> {
        plan.actions().map(|action| action.because.clone()).chain(plan.nothing.clone()).collect()
    }

    #[test]
    fn owners_decide() {
        use OwnerState::{Absent, ElsewhereInNamespaces, Solid, Unknown, WaitsForDependents};
        for (owners, reason) in [
            (&[][..], Reason::Kept),
            (&[Solid][..], Reason::Kept),
            (&[Absent], Reason::OwnersGone),
            (&[ElsewhereInNamespaces], Reason::OwnersGone),
            (&[Solid, Absent], Reason::SomeOwnersGone),
            (&[Solid, WaitsForDependents], Reason::SomeOwnersGone),
            (&[Absent, WaitsForDependents], Reason::OwnerWaits),
            (&[Absent, Unknown], Reason::CannotTell),
        ] {
            assert_eq!(reasons(&plan(&object(owners))), [reason], "{owners:?}");
        }
    }

    #[test]
    fn a_deletion_is_of_what_was_judged() {
        let plan = plan(&object(&[OwnerState::Absent]));
        let Verb::Delete { uid, resource_version, propagation, .. } = &plan.phases[0][0].verb else { panic!() };
        assert_eq!((uid.as_str(), resource_version.as_deref()), ("u", Some("7")));
        assert_eq!(*propagation, Some(Propagation::Background));
    }

    #[test]
    fn foreground_goes_down_the_tree_and_waits_for_what_blocks() {
        let mut middle = object(&[OwnerState::WaitsForDependents]);
        middle.dependents = vec![dependent("u", false)];
        let down = plan(&middle);
        let Verb::Delete { propagation, .. } = &down.phases[0][0].verb else { panic!() };
        assert_eq!(*propagation, Some(Propagation::Foreground));

        let mut top = deleting(object(&[]), FOREGROUND);
        top.dependents = vec![dependent("u", false)];
        assert_eq!(reasons(&plan(&top)), [Reason::WaitsForDependents(1)]);
        top.dependents[0].meta.owner_references.as_mut().unwrap()[0].block_owner_deletion = None;
        assert_eq!(reasons(&plan(&top)), [Reason::DependentsGone]);
    }

    #[test]
    fn orphans_are_released_before_their_owner_goes() {
        let mut top = deleting(object(&[]), ORPHAN);
        top.dependents = vec![dependent("u", false), dependent("u", false)];
        let plan = plan(&top);
        assert_eq!(plan.phases.len(), 2);
        assert_eq!(reasons(&plan), [Reason::Orphaned, Reason::Orphaned, Reason::DependentsOrphaned]);
    }

    #[test]
    fn a_circle_of_foreground_deletions_is_broken() {
        let mut middle = object(&[OwnerState::WaitsForDependents]);
        middle.dependents = vec![dependent("u", true)];
        assert_eq!(reasons(&plan(&middle)), [Reason::Circle]);
    }
}
