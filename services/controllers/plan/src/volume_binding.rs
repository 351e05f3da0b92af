//! PersistentVolumes and claims: binds a claim to a volume that exists. Volumes are not made here.
//!
//! Binding is two objects that point at each other. The volume is written first (it can be promised to one claim only: its
//! resourceVersion decides a race), then the claim; each plan does what is missing, so it may stop between any two writes.

use std::sync::Arc;

use galley_types::Quantity;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use serde_json::json;

use crate::action::{Action, Note, PatchForm, Plan, Verb};
use crate::meta;

/// What events and audit call the controller.
pub const COMPONENT: &str = "persistentvolume-controller";
/// Where claims are.
pub const CLAIMS: &str = "persistentvolumeclaims";
/// Where volumes are.
pub const VOLUMES: &str = "persistentvolumes";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The two belong together.
    Match,
    /// The phase is an old one.
    PhaseChanged,
    /// Nothing to do.
    AsWanted,
    /// No volume fits, or the claim waits for its pod.
    Waits,
}

/// What a claim's plan is made from.
#[derive(Debug, Clone, Default)]
pub struct ObservedClaim {
    /// The claim.
    pub claim: Arc<PersistentVolumeClaim>,
    /// Its volume if it names one; otherwise all volumes of its class.
    pub volumes: Vec<Arc<PersistentVolume>>,
    /// Its class binds when a pod is placed.
    pub waits_for_consumer: bool,
}

/// Plans for a claim.
pub fn plan_claim(observed: &ObservedClaim) -> Plan<Reason> {
    let claim = &*observed.claim;
    let mut plan = Plan::new();
    let Some(spec) = claim.spec.as_ref().filter(|_| !meta::is_deleting(&claim.metadata)) else {
        return Plan::nothing(Reason::AsWanted);
    };
    let named = spec.volume_name.as_deref().filter(|n| !n.is_empty());
    let chosen = match named {
        Some(name) => observed.volumes.iter().find(|v| meta::name(&v.metadata) == name),
        None => choose(observed),
    };
    let about = meta::reference("v1", "PersistentVolumeClaim", &claim.metadata);
    let Some(volume) = chosen else {
        if named.is_some() && phase(claim) == "Bound" {
            plan.notes.push(Note::warning(
                &about,
                "ClaimLost",
                "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
            ));
            plan.push(set_phase(CLAIMS, &claim.metadata, "Lost"));
        } else if named.is_none() && observed.waits_for_consumer {
            let message = "waiting for first consumer to be created before binding";
            plan.notes.push(Note::normal(&about, "WaitForFirstConsumer", message));
        } else if named.is_none() {
            let message = "no persistent volumes available for this claim and no storage class is set";
            plan.notes.push(Note::normal(&about, "FailedBinding", message));
        }
        if phase(claim).is_empty() {
            plan.push(set_phase(CLAIMS, &claim.metadata, "Pending"));
        }
        return plan.or_nothing(Reason::Waits);
    };
    let promised = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    if promised.is_some_and(|r| !is_claim(r, claim)) {
        return plan.or_nothing(Reason::Waits);
    }
    if promised.is_none_or(|r| r.uid.as_deref().unwrap_or_default().is_empty()) {
        plan.push(promise(volume, claim));
        return plan;
    }
    let annotated = meta::annotation(&claim.metadata, BIND_COMPLETED).is_some();
    if named.is_none() || !annotated {
        let mut annotations = json!({BIND_COMPLETED: "yes"});
        if named.is_none() {
            annotations[BY_CONTROLLER] = json!("yes");
        }
        let patch =
            json!({"metadata": {"annotations": annotations}, "spec": {"volumeName": meta::name(&volume.metadata)}});
        plan.push(Action::merge(CLAIMS, &claim.metadata, patch, Reason::Match));
    } else if phase(claim) != "Bound" {
        let volume = volume.spec.as_ref();
        let mut bound = claim.clone();
        let status = bound.status.get_or_insert_default();
        status.phase = Some("Bound".into());
        status.access_modes = volume.and_then(|v| v.access_modes.clone());
        status.capacity = volume.and_then(|v| v.capacity.clone());
        plan.push(Action::update_status(CLAIMS, &claim.metadata, &bound, Reason::Match));
    }
    plan.or_nothing(Reason::AsWanted)
}

/// Plans for a volume, given the claim that it is promised to (if that exists).
pub fn plan_volume(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Plan<Reason> {
    let mut plan = Plan::new();
    let promised = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    let now = volume.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
    let wanted = match (promised, claim) {
        (None, _) => "Available",
        (Some(r), Some(claim)) if is_claim(r, claim) => {
            let back = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref());
            if back == Some(meta::name(&volume.metadata)) { "Bound" } else { "Available" }
        }
        // Reserved by name for a claim that may still come.
        (Some(r), None) if r.uid.as_deref().unwrap_or_default().is_empty() => "Available",
        (Some(_), _) => "Released",
    };
    if wanted != now {
        plan.push(set_phase(VOLUMES, &volume.metadata, wanted));
    }
    plan.or_nothing(Reason::AsWanted)
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

fn set_phase(
    resource: &str,
    of: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    phase: &str,
) -> Action<Reason> {
    let body = json!({"status": {"phase": phase}});
    let mut action = Action::merge(resource, of, body, Reason::PhaseChanged);
    if let Verb::Patch { subresource, form: PatchForm::Merge, .. } = &mut action.verb {
        *subresource = Some("status");
    }
    action
}

fn is_claim(reference: &ObjectReference, claim: &PersistentVolumeClaim) -> bool {
    let uid = reference.uid.as_deref().unwrap_or_default();
    reference.namespace == claim.metadata.namespace
        && reference.name == claim.metadata.name
        && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
}

fn promise(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Action<Reason> {
    let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.metadata.namespace,
        "name": claim.metadata.name, "uid": claim.metadata.uid});
    let patch = json!({"metadata": {"annotations": {BY_CONTROLLER: "yes"}}, "spec": {"claimRef": reference}});
    Action::merge(VOLUMES, &volume.metadata, patch, Reason::Match)
}

/// The volume promised to the claim, or else the smallest that does (none while the claim waits for its pod).
fn choose(observed: &ObservedClaim) -> Option<&Arc<PersistentVolume>> {
    let claim = &*observed.claim;
    let promised = |v: &PersistentVolume| v.spec.as_ref().and_then(|s| s.claim_ref.clone());
    let living = || observed.volumes.iter().filter(|v| !meta::is_deleting(&v.metadata));
    let reserved = living().find(|v| promised(v).is_some_and(|r| is_claim(&r, claim)));
    if reserved.is_some() || observed.waits_for_consumer {
        return reserved;
    }
    living()
        .filter(|v| promised(v).is_none() && suits(v, claim))
        .min_by_key(|v| (size(v.spec.as_ref().and_then(|s| s.capacity.as_ref())), v.metadata.name.clone()))
}

fn size(list: Option<&std::collections::BTreeMap<String, Amount>>) -> i64 {
    list.and_then(|l| l.get("storage")).and_then(|a| a.0.parse::<Quantity>().ok()).map_or(0, |q| q.units())
}

fn suits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(has), Some(wants)) = (&volume.spec, &claim.spec) else { return false };
    let class = |name: &Option<String>| name.clone().unwrap_or_default();
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".into());
    let modes = has.access_modes.as_deref().unwrap_or_default();
    class(&has.storage_class_name) == class(&wants.storage_class_name)
        && mode(&has.volume_mode) == mode(&wants.volume_mode)
        && wants.access_modes.iter().flatten().all(|m| modes.contains(m))
        && size(has.capacity.as_ref()) >= size(wants.resources.as_ref().and_then(|r| r.requests.as_ref()))
        && wants.selector.as_ref().is_none_or(|s| meta::selects(s, volume.metadata.labels.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    fn world(waits: bool) -> (World, impl FnMut(&World) -> Plan<Reason>) {
        let mut world = World::new();
        for (name, size) in [("small", "1Gi"), ("right", "5Gi"), ("large", "50Gi")] {
            world.create(
                VOLUMES,
                &json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"]}}),
            );
        }
        world.create(
            CLAIMS,
            &json!({"metadata": {"name": "data", "namespace": "d"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "2Gi"}}}}),
        );
        let observe = move |w: &World| {
            let claim = w.get::<PersistentVolumeClaim>(CLAIMS, "d", "data");
            if let Some(claim) = &claim {
                let plan = plan_claim(&ObservedClaim {
                    claim: claim.clone(),
                    volumes: w.list(VOLUMES),
                    waits_for_consumer: waits,
                });
                if !plan.is_quiet() {
                    return plan;
                }
            }
            let plans = w.list::<PersistentVolume>(VOLUMES).into_iter().map(|v| plan_volume(&v, claim.as_deref()));
            plans.into_iter().find(|p| !p.is_quiet()).unwrap_or_else(|| Plan::nothing(Reason::AsWanted))
        };
        (world, observe)
    }

    fn phase_of(world: &World, resource: &str, namespace: &str, name: &str) -> String {
        let object = world.get::<serde_json::Value>(resource, namespace, name).unwrap();
        object["status"]["phase"].as_str().unwrap_or_default().to_owned()
    }

    #[test]
    fn a_claim_gets_the_smallest_volume_that_does_and_releases_it_when_it_goes() {
        let (mut world, mut observe) = world(false);
        world.settle(&mut observe);
        let claim = world.get::<PersistentVolumeClaim>(CLAIMS, "d", "data").unwrap();
        assert_eq!(claim.spec.as_ref().unwrap().volume_name.as_deref(), Some("right"));
        assert_eq!(phase_of(&world, CLAIMS, "d", "data"), "Bound");
        assert_eq!(phase_of(&world, VOLUMES, "", "right"), "Bound");
        assert_eq!(phase_of(&world, VOLUMES, "", "small"), "Available");
        world.delete(CLAIMS, "d", "data");
        world.settle(&mut observe);
        assert_eq!(phase_of(&world, VOLUMES, "", "right"), "Released");
    }

    #[test]
    fn a_claim_that_waits_for_its_pod_takes_only_what_the_scheduler_promised() {
        let (mut world, mut observe) = world(true);
        world.settle(&mut observe);
        assert_eq!(phase_of(&world, CLAIMS, "d", "data"), "Pending");
        let uid = world.get::<PersistentVolumeClaim>(CLAIMS, "d", "data").unwrap().metadata.uid.clone();
        world.edit(VOLUMES, "", "large", |v| {
            v["spec"]["claimRef"] = json!({"namespace": "d", "name": "data", "uid": uid});
        });
        world.settle(&mut observe);
        assert_eq!(phase_of(&world, VOLUMES, "", "large"), "Bound");
    }
}
