//! What a class thinks of each node, as far as pods on it do not matter: NodeUnschedulable, NodeName, TaintToleration,
//! NodeAffinity and the scores that go with them. Kept for the class, and refreshed only for nodes that changed.

use std::sync::Arc;

use crate::explain::{Plugin, UNSCHEDULABLE_TAINT};
use crate::pod::{Effect, NodeInfo, PodClass, Taint};
use crate::snapshot::{ClassId, Slot, Snapshot};

/// A static filter's objection. None of them goes away by removing pods from the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StaticFailure {
    Unschedulable,
    Name,
    Taint(Arc<Taint>),
    Affinity,
    /// The pod names the nodes it can run on, and this is none of them.
    NotNamed,
}

impl StaticFailure {
    pub(crate) fn plugin(&self) -> Plugin {
        match self {
            Self::Unschedulable => Plugin::NodeUnschedulable,
            Self::Name => Plugin::NodeName,
            Self::Taint(_) => Plugin::TaintToleration,
            Self::Affinity | Self::NotNamed => Plugin::NodeAffinity,
        }
    }
}

/// By slot. See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct StaticView {
    seen: u64,
    images_seen: u64,
    pub verdict: Vec<Option<StaticFailure>>,
    /// The pod's node selector and required affinity admit the node.
    pub admits: Vec<bool>,
    /// No taint that forbids and is not tolerated.
    pub tolerates: Vec<bool>,
    /// Taints to prefer to avoid.
    pub avoid: Vec<i64>,
    /// Sum of the weights of preferred node affinity terms that match.
    pub preferred: Vec<i64>,
    /// ImageLocality, 0 to 100.
    pub images: Vec<i64>,
}

/// Below this an image is no reason to prefer a node (23 MiB), above 1,000 MiB for each container it counts no more.
const IMAGE_FLOOR: i64 = 23 << 20;
const IMAGE_CEILING: i64 = 1000 << 20;

impl Snapshot {
    /// Brings the class's view up to date.
    pub(crate) fn refresh_statics(&mut self, class_id: ClassId) {
        let (generation, image_generation, slots) = (self.generation, self.image_generation, self.nodes.len());
        let mut view = std::mem::take(&mut self.classes[class_id].statics);
        let class = self.classes[class_id].class.clone();
        if view.seen != generation {
            view.verdict.resize(slots, None);
            view.admits.resize(slots, false);
            view.tolerates.resize(slots, false);
            view.avoid.resize(slots, 0);
            view.preferred.resize(slots, 0);
            view.images.resize(slots, 0);
            let names = class.node_terms.as_ref().and_then(crate::selector::NodeSelector::names);
            let seen = view.seen;
            for slot in self.live.iter().copied().filter(|s| self.node_generation[*s] > seen) {
                view.judge(&class, names.as_deref(), slot, self.node(slot));
            }
            view.seen = generation;
        }
        if view.images_seen != image_generation {
            let known = class.images.iter().any(|i| self.image_nodes.contains_key(i));
            for slot in self.live.iter().copied() {
                view.images[slot] = if known { self.image_score(&class, slot) } else { 0 };
            }
            view.images_seen = image_generation;
        }
        self.classes[class_id].statics = view;
    }

    fn image_score(&self, class: &PodClass, slot: Slot) -> i64 {
        let node = self.node(slot);
        let nodes = self.live.len().max(1) as f64;
        let sum: i64 = class
            .images
            .iter()
            .filter_map(|image| {
                let size = *node.images.get(image)? as f64;
                Some((size * f64::from(*self.image_nodes.get(image)?) / nodes) as i64)
            })
            .sum();
        let ceiling = IMAGE_CEILING * i64::try_from(class.containers.max(1)).unwrap_or(1);
        100 * (sum.clamp(IMAGE_FLOOR, ceiling) - IMAGE_FLOOR) / (ceiling - IMAGE_FLOOR)
    }
}

impl StaticView {
    fn judge(&mut self, class: &PodClass, names: Option<&[Arc<str>]>, slot: Slot, node: &NodeInfo) {
        let admits = class.node_labels.matches(&node.labels)
            && class.node_terms.as_ref().is_none_or(|terms| terms.matches(&node.name, &node.labels));
        let hated = node.taints.iter().find(|t| t.effect.forbids() && !class.tolerates(t));
        self.admits[slot] = admits;
        self.tolerates[slot] = hated.is_none();
        self.avoid[slot] = node.taints.iter().filter(|t| class.prefers_to_avoid(t)).count() as i64;
        self.preferred[slot] = class
            .preferred_nodes
            .iter()
            .filter(|(_, term)| term.matches(&node.name, &node.labels))
            .map(|(weight, _)| i64::from(*weight))
            .sum();
        let cordoned = || {
            let taint = Taint { key: UNSCHEDULABLE_TAINT.into(), value: String::new(), effect: Effect::NoSchedule };
            node.unschedulable && !class.tolerates(&taint)
        };
        self.verdict[slot] = if names.is_some_and(|names| !names.contains(&node.name)) {
            Some(StaticFailure::NotNamed)
        } else if cordoned() {
            Some(StaticFailure::Unschedulable)
        } else if class.required_node.as_ref().is_some_and(|n| *n != node.name) {
            Some(StaticFailure::Name)
        } else if let Some(taint) = hated {
            Some(StaticFailure::Taint(Arc::new(taint.clone())))
        } else if !admits {
            Some(StaticFailure::Affinity)
        } else {
            None
        };
    }
}
