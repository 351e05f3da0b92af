//! Why is my pod pending: the counts by reason that `kubectl describe pod` shows, and which filters must change their mind.

use std::collections::BTreeMap;

use crate::filter::{Failure, LACKS_CPU, LACKS_EPHEMERAL, LACKS_EXTENDED_SHIFT, LACKS_MEMORY, LACKS_PODS};
use crate::pod::PodClass;
use crate::snapshot::Slot;
use crate::statics::StaticFailure;
use crate::volumes::VolumeFailure;

/// The taint that stands for `spec.unschedulable`.
pub(crate) const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// A filter, by kube-scheduler's name for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Plugin {
    /// `spec.unschedulable`.
    NodeUnschedulable = 1,
    /// `spec.nodeName`.
    NodeName = 1 << 1,
    /// Taints with NoSchedule and NoExecute.
    TaintToleration = 1 << 2,
    /// Node selector and required node affinity.
    NodeAffinity = 1 << 3,
    /// Host ports.
    NodePorts = 1 << 4,
    /// Requests against what is allocatable.
    NodeResourcesFit = 1 << 5,
    /// Claims and their volumes.
    VolumeBinding = 1 << 6,
    /// Zone labels of volumes.
    VolumeZone = 1 << 7,
    /// `DoNotSchedule` constraints.
    PodTopologySpread = 1 << 8,
    /// Required affinity and anti-affinity, also of placed pods.
    InterPodAffinity = 1 << 9,
    /// `spec.schedulingGates`.
    SchedulingGates = 1 << 10,
}

/// Which filters objected: a pod is tried again when something happened that one of them looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PluginSet(u16);

impl PluginSet {
    /// With this one too.
    pub fn insert(&mut self, plugin: Plugin) {
        self.0 |= plugin as u16;
    }

    /// Whether it objected.
    pub fn contains(self, plugin: Plugin) -> bool {
        self.0 & plugin as u16 != 0
    }

    /// Whether none did.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl From<Plugin> for PluginSet {
    fn from(plugin: Plugin) -> Self {
        Self(plugin as u16)
    }
}

/// One failure's plugin and the reasons it counts under.
fn reasons(failure: &Failure, class: &PodClass) -> (Plugin, Vec<String>) {
    let one = |plugin, text: &str| (plugin, vec![text.to_owned()]);
    match failure {
        Failure::Static(s) => {
            let text = match s {
                StaticFailure::Unschedulable => "node(s) were unschedulable".into(),
                StaticFailure::Name => "node(s) didn't match the requested node name".into(),
                StaticFailure::Taint(taint) => {
                    format!("node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value)
                }
                StaticFailure::Affinity => "node(s) didn't match Pod's node affinity/selector".into(),
                StaticFailure::NotNamed => "node(s) didn't satisfy plugin(s) [NodeAffinity]".into(),
            };
            (s.plugin(), vec![text])
        }
        Failure::Ports => one(Plugin::NodePorts, "node(s) didn't have free ports for the requested pod ports"),
        Failure::Resources { lacks, .. } => {
            let mut all = Vec::new();
            for (bit, text) in [
                (LACKS_PODS, "Too many pods"),
                (LACKS_CPU, "Insufficient cpu"),
                (LACKS_MEMORY, "Insufficient memory"),
                (LACKS_EPHEMERAL, "Insufficient ephemeral-storage"),
            ] {
                if lacks & bit != 0 {
                    all.push(text.to_owned());
                }
            }
            let extended = class.requests.extended.iter().filter(|(_, amount)| **amount > 0);
            for (at, (name, _)) in extended.enumerate().take(60) {
                if lacks & (1 << (LACKS_EXTENDED_SHIFT as usize + at)) != 0 {
                    all.push(format!("Insufficient {name}"));
                }
            }
            (Plugin::NodeResourcesFit, all)
        }
        Failure::Volume(v) => match v {
            VolumeFailure::Affinity => {
                one(Plugin::VolumeBinding, "node(s) didn't match PersistentVolume's node affinity")
            }
            VolumeFailure::NoneToBind => {
                one(Plugin::VolumeBinding, "node(s) didn't find available persistent volumes to bind")
            }
            VolumeFailure::BoundToNothing => {
                one(Plugin::VolumeBinding, "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
            }
            VolumeFailure::Zone => one(Plugin::VolumeZone, "node(s) had no available volume zone"),
        },
        Failure::SpreadLabel => one(
            Plugin::PodTopologySpread,
            "node(s) didn't match pod topology spread constraints (missing required label)",
        ),
        Failure::Spread => one(Plugin::PodTopologySpread, "node(s) didn't match pod topology spread constraints"),
        Failure::Affinity => one(Plugin::InterPodAffinity, "node(s) didn't match pod affinity rules"),
        Failure::AntiAffinity => one(Plugin::InterPodAffinity, "node(s) didn't match pod anti-affinity rules"),
        Failure::RefusedByOthers => {
            one(Plugin::InterPodAffinity, "node(s) didn't satisfy existing pods anti-affinity rules")
        }
    }
}

/// `0/3 nodes are available: 1 a, 2 b.` Reasons are ordered as texts, count first, as kube-scheduler does.
pub(crate) fn counted<'a>(nodes: usize, reasons: impl Iterator<Item = (&'a str, usize)>) -> String {
    let mut parts: Vec<String> = reasons.map(|(text, count)| format!("{count} {text}")).collect();
    parts.sort();
    let mut message = format!("0/{nodes} nodes are available:");
    if !parts.is_empty() {
        message = format!("{message} {}.", parts.join(", "));
    }
    message
}

/// Every node's objection, summed up.
pub(crate) fn diagnose(class: &PodClass, failures: &[(Slot, Failure)]) -> (String, PluginSet) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut plugins = PluginSet::default();
    for (_, failure) in failures {
        let (plugin, texts) = reasons(failure, class);
        plugins.insert(plugin);
        for text in texts {
            *counts.entry(text).or_insert(0) += 1;
        }
    }
    (counted(failures.len(), counts.iter().map(|(text, n)| (text.as_str(), *n))), plugins)
}
