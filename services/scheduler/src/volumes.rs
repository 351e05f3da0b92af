//! Persistent volumes: a claim that is bound ties its pod to the nodes its volume can be reached from; one that waits for
//! its first consumer is given a volume together with the node. Volumes are not made here, only found.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::storage::v1::StorageClass;

use crate::pod::{NodeInfo, PodClass};
use crate::selector::{Labels, NodeSelector, Selector};

/// Labels of a volume that name where it can be reached.
const ZONE_LABELS: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

type ClaimKey = (Arc<str>, Arc<str>);

#[derive(Debug, Clone)]
struct Claim {
    volume: Option<Arc<str>>,
    class: Arc<str>,
    modes: Vec<String>,
    request: i64,
    selector: Option<Selector>,
    terminating: bool,
    block: bool,
}

#[derive(Debug, Clone)]
struct Volume {
    affinity: Option<NodeSelector>,
    /// Label and the values it may have on the node.
    zones: Vec<(String, Vec<String>)>,
    claim: Option<ClaimKey>,
    class: Arc<str>,
    modes: Vec<String>,
    capacity: i64,
    labels: Labels,
    terminating: bool,
    block: bool,
}

/// A claim and the volume chosen for it: to be bound before its pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimBinding {
    /// The claim, in the pod's namespace.
    pub claim: Arc<str>,
    /// The volume.
    pub volume: Arc<str>,
}

/// Why a node does not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VolumeFailure {
    Affinity,
    Zone,
    NoneToBind,
    BoundToNothing,
}

/// What a pod's claims ask of its node.
#[derive(Debug, Default)]
pub(crate) struct Wants {
    bound: Vec<Arc<str>>,
    waiting: Vec<Arc<str>>,
    namespace: Arc<str>,
}

/// Claims, volumes and classes.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    claims: HashMap<ClaimKey, Claim>,
    volumes: HashMap<Arc<str>, Volume>,
    /// Classes whose claims wait for their first consumer.
    waiting_classes: std::collections::HashSet<Arc<str>>,
    /// Volumes given away and not yet seen bound.
    assumed: HashMap<Arc<str>, ClaimKey>,
}

impl Volumes {
    pub(crate) fn set_claim(&mut self, claim: &core::PersistentVolumeClaim) {
        let Some((key, spec)) = claim_key(claim).zip(claim.spec.as_ref()) else { return };
        let request = spec.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get("storage"));
        self.claims.insert(
            key,
            Claim {
                volume: spec.volume_name.as_deref().filter(|v| !v.is_empty()).map(Arc::from),
                class: spec.storage_class_name.as_deref().unwrap_or_default().into(),
                modes: spec.access_modes.clone().unwrap_or_default(),
                request: request.map_or(0, bytes),
                selector: spec.selector.as_ref().map(|s| Selector::new(Some(s))),
                terminating: claim.metadata.deletion_timestamp.is_some(),
                block: spec.volume_mode.as_deref() == Some("Block"),
            },
        );
    }

    pub(crate) fn remove_claim(&mut self, namespace: &str, name: &str) {
        let key = (namespace.into(), name.into());
        self.claims.remove(&key);
        self.assumed.retain(|_, claim| *claim != key);
    }

    pub(crate) fn set_volume(&mut self, volume: &core::PersistentVolume) {
        let Some(spec) = &volume.spec else { return };
        let name: Arc<str> = volume.metadata.name.as_deref().unwrap_or_default().into();
        let labels = volume.metadata.labels.clone().unwrap_or_default();
        let claim = spec
            .claim_ref
            .as_ref()
            .map(|r| (r.namespace.as_deref().unwrap_or_default().into(), r.name.as_deref().unwrap_or_default().into()));
        if claim.is_some() {
            self.assumed.remove(&name);
        }
        let zones = ZONE_LABELS
            .iter()
            .filter_map(|key| labels.get(*key).map(|v| ((*key).to_owned(), v.split("__").map(String::from).collect())))
            .collect();
        self.volumes.insert(
            name,
            Volume {
                affinity: spec.node_affinity.as_ref().and_then(|a| a.required.as_ref()).map(NodeSelector::new),
                zones,
                claim,
                class: spec.storage_class_name.as_deref().unwrap_or_default().into(),
                modes: spec.access_modes.clone().unwrap_or_default(),
                capacity: spec.capacity.as_ref().and_then(|c| c.get("storage")).map_or(0, bytes),
                labels,
                terminating: volume.metadata.deletion_timestamp.is_some(),
                block: spec.volume_mode.as_deref() == Some("Block"),
            },
        );
    }

    pub(crate) fn remove_volume(&mut self, name: &str) {
        self.volumes.remove(name);
        self.assumed.remove(name);
    }

    pub(crate) fn set_class(&mut self, class: &StorageClass) {
        let name: Arc<str> = class.metadata.name.as_deref().unwrap_or_default().into();
        if class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer") {
            self.waiting_classes.insert(name);
        } else {
            self.waiting_classes.remove(&name);
        }
    }

    pub(crate) fn remove_class(&mut self, name: &str) {
        self.waiting_classes.remove(name);
    }

    /// What the pod's claims want, or why no node will do until a claim changes.
    pub(crate) fn wants(&self, class: &PodClass) -> Result<Wants, String> {
        let mut wants = Wants { namespace: class.namespace.clone(), ..Wants::default() };
        for name in &class.claims {
            let Some(claim) = self.claims.get(&(class.namespace.clone(), name.clone())) else {
                return Err(format!("persistentvolumeclaim \"{name}\" not found"));
            };
            if claim.terminating {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            match &claim.volume {
                Some(volume) => wants.bound.push(volume.clone()),
                None if self.waiting_classes.contains(&claim.class) => wants.waiting.push(name.clone()),
                None => return Err("pod has unbound immediate PersistentVolumeClaims".into()),
            }
        }
        Ok(wants)
    }

    pub(crate) fn check(&self, wants: &Wants, node: &NodeInfo) -> Option<VolumeFailure> {
        for name in &wants.bound {
            let Some(volume) = self.volumes.get(name) else { return Some(VolumeFailure::BoundToNothing) };
            if !volume.reachable_from(node) {
                return Some(VolumeFailure::Affinity);
            }
            let zone_fits =
                |(key, values): &(String, Vec<String>)| node.labels.get(key).is_some_and(|v| values.contains(v));
            if !volume.zones.iter().all(zone_fits) {
                return Some(VolumeFailure::Zone);
            }
        }
        if !wants.waiting.is_empty() && self.choose(wants, node).is_none() {
            return Some(VolumeFailure::NoneToBind);
        }
        None
    }

    /// A volume for each waiting claim, the smallest that does.
    pub(crate) fn choose(&self, wants: &Wants, node: &NodeInfo) -> Option<Vec<ClaimBinding>> {
        let mut chosen: Vec<ClaimBinding> = Vec::new();
        for name in &wants.waiting {
            let key = (wants.namespace.clone(), name.clone());
            let claim = self.claims.get(&key)?;
            let free = |volume_name: &Arc<str>, volume: &Volume| {
                volume.claim.as_ref().map_or_else(
                    || self.assumed.get(volume_name).is_none_or(|by| *by == key),
                    |reserved| *reserved == key,
                ) && !chosen.iter().any(|c| c.volume == *volume_name)
            };
            let best = self
                .volumes
                .iter()
                .filter(|(volume_name, v)| free(volume_name, v) && v.suits(claim) && v.reachable_from(node))
                .min_by_key(|(volume_name, v)| (v.capacity, (*volume_name).clone()))?;
            chosen.push(ClaimBinding { claim: name.clone(), volume: best.0.clone() });
        }
        Some(chosen)
    }

    pub(crate) fn assume(&mut self, namespace: &Arc<str>, bindings: &[ClaimBinding]) {
        for b in bindings {
            self.assumed.insert(b.volume.clone(), (namespace.clone(), b.claim.clone()));
        }
    }

    /// The pod's placement was given up.
    pub(crate) fn forget(&mut self, class: &PodClass) {
        self.assumed.retain(|_, (namespace, claim)| *namespace != class.namespace || !class.claims.contains(claim));
    }
}

impl Volume {
    fn reachable_from(&self, node: &NodeInfo) -> bool {
        self.affinity.as_ref().is_none_or(|a| a.matches(&node.name, &node.labels))
    }

    fn suits(&self, claim: &Claim) -> bool {
        !self.terminating
            && self.block == claim.block
            && self.class == claim.class
            && self.capacity >= claim.request
            && claim.modes.iter().all(|m| self.modes.contains(m))
            && claim.selector.as_ref().is_none_or(|s| s.matches(&self.labels))
    }
}

fn claim_key(claim: &core::PersistentVolumeClaim) -> Option<ClaimKey> {
    Some((claim.metadata.namespace.as_deref()?.into(), claim.metadata.name.as_deref()?.into()))
}

fn bytes(quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity) -> i64 {
    quantity.0.parse().unwrap_or(galley_types::Quantity::ZERO).units()
}
