//! A pod as the scheduler sees it: what identifies it, and the class that decides where it can go.
//!
//! Pods of one workload are equal in everything that placement looks at. That part is a [`PodClass`]: it is compiled once,
//! compared and hashed, and what is known about it (which nodes its affinity admits, which counters it moves) is
//! kept once for all its pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;

use crate::resources::{Resources, pod_requests};
use crate::selector::{Labels, NodeSelector, NodeTerm, Selector};

/// One pod.
#[derive(Debug, Clone)]
pub struct PodInfo {
    /// `metadata.uid`: what pods are told apart by.
    pub uid: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.creationTimestamp`: among equal priorities the older goes first.
    pub created: Timestamp,
    /// `status.startTime`; of two victims the one that started later is the lesser loss.
    pub started: Option<Timestamp>,
    /// Has a `metadata.deletionTimestamp`.
    pub terminating: bool,
    /// `status.nominatedNodeName`: where room was made for it.
    pub nominated: Option<Arc<str>>,
    /// Names in `spec.schedulingGates`.
    pub gates: Vec<String>,
    pub(crate) class: Arc<PodClass>,
}

/// Everything that decides where a pod can go and where it goes best.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct PodClass {
    pub namespace: Arc<str>,
    pub labels: Labels,
    pub priority: i32,
    pub preempts: bool,
    pub requests: Resources,
    pub counted_cpu: i64,
    pub counted_memory: i64,
    pub required_node: Option<Arc<str>>,
    pub tolerations: Vec<Toleration>,
    pub node_labels: Selector,
    pub node_terms: Option<NodeSelector>,
    pub preferred_nodes: Vec<(i32, NodeTerm)>,
    pub ports: Vec<HostPort>,
    /// All terms together, with the topology key of each: a pod counts when it matches every term.
    pub affinity: Option<(Matcher, Vec<Arc<str>>)>,
    /// Each required affinity term by itself: what attracts others to this pod.
    pub affinity_terms: Vec<Term>,
    pub anti_affinity: Vec<Term>,
    /// Negative weights repel.
    pub preferred_pods: Vec<(i64, Term)>,
    pub spread: Vec<Spread>,
    pub images: Vec<Arc<str>>,
    pub containers: usize,
    pub claims: Vec<Arc<str>>,
}

/// `spec.tolerations[]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Toleration {
    key: String,
    exists: bool,
    value: String,
    effect: String,
}

/// `spec.taints[]` of a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Taint {
    pub key: String,
    pub value: String,
    pub effect: Effect,
}

/// What a taint does to pods that do not tolerate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Effect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}

impl Effect {
    fn name(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
            Self::NoExecute => "NoExecute",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::NoSchedule, Self::PreferNoSchedule, Self::NoExecute].into_iter().find(|e| e.name() == text)
    }

    /// Whether it keeps new pods away (instead of only making the node less liked).
    pub(crate) fn forbids(self) -> bool {
        matches!(self, Self::NoSchedule | Self::NoExecute)
    }
}

impl Toleration {
    fn new(t: &core::Toleration) -> Self {
        Self {
            key: t.key.clone().unwrap_or_default(),
            exists: t.operator.as_deref() == Some("Exists"),
            value: t.value.clone().unwrap_or_default(),
            effect: t.effect.clone().unwrap_or_default(),
        }
    }

    fn tolerates(&self, taint: &Taint) -> bool {
        (self.effect.is_empty() || self.effect == taint.effect.name())
            && (self.key.is_empty() || self.key == taint.key)
            && (self.exists || (!self.key.is_empty() && self.value == taint.value))
    }
}

/// A port on the node's own addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct HostPort {
    pub ip: Arc<str>,
    pub protocol: Arc<str>,
    pub port: i32,
}

impl HostPort {
    /// Two uses of a port clash when they are on one address, or one of them is on all.
    pub(crate) fn clashes(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || &*self.ip == "0.0.0.0" || &*other.ip == "0.0.0.0")
    }
}

/// Which namespaces' pods a term looks at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Namespaces {
    names: Vec<Arc<str>>,
    /// By the namespace's labels.
    pub selector: Option<Selector>,
}

/// Which pods: those that match all of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Matcher(Vec<(Namespaces, Selector)>);

impl Matcher {
    pub(crate) fn matches(&self, class: &PodClass, namespace_labels: Option<&Labels>) -> bool {
        self.0.iter().all(|(namespaces, selector)| {
            let here = namespaces.names.contains(&class.namespace)
                || namespaces.selector.as_ref().is_some_and(|s| {
                    namespace_labels.map_or_else(|| s.matches(&Labels::new()), |labels| s.matches(labels))
                });
            here && selector.matches(&class.labels)
        })
    }

    pub(crate) fn depends_on_namespace_labels(&self) -> bool {
        self.0.iter().any(|(namespaces, _)| namespaces.selector.is_some())
    }
}

/// A pod affinity term: which pods, and what 'near' means.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Term {
    pub matcher: Matcher,
    pub topology_key: Arc<str>,
}

impl Term {
    fn new(term: &core::PodAffinityTerm, namespace: &Arc<str>, labels: &Labels) -> Self {
        let selector = match &term.label_selector {
            None => Selector::nothing(),
            some => Selector::new(some.as_ref()).with_own(
                labels,
                term.match_label_keys.as_deref().unwrap_or_default(),
                term.mismatch_label_keys.as_deref().unwrap_or_default(),
            ),
        };
        let mut names: Vec<Arc<str>> = term.namespaces.iter().flatten().map(|n| n.as_str().into()).collect();
        if names.is_empty() && term.namespace_selector.is_none() {
            names.push(namespace.clone());
        }
        names.sort();
        names.dedup();
        let by_labels = term.namespace_selector.as_ref().map(|s| Selector::new(Some(s)));
        Self {
            matcher: Matcher(vec![(Namespaces { names, selector: by_labels }, selector)]),
            topology_key: term.topology_key.as_str().into(),
        }
    }
}

/// `spec.topologySpreadConstraints[]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Spread {
    pub topology_key: Arc<str>,
    pub selector: Selector,
    pub max_skew: u32,
    pub min_domains: u32,
    /// `DoNotSchedule`.
    pub hard: bool,
    /// `nodeAffinityPolicy: Honor`: nodes that the pod's own affinity excludes do not count.
    pub honor_affinity: bool,
    /// `nodeTaintsPolicy: Honor`: nodes whose taints the pod does not tolerate do not count.
    pub honor_taints: bool,
    /// Comes from the scheduler's defaults: a node without the label is still a candidate.
    pub by_default: bool,
}

impl Spread {
    fn new(c: &core::TopologySpreadConstraint, labels: &Labels) -> Self {
        Self {
            topology_key: c.topology_key.as_str().into(),
            selector: Selector::new(c.label_selector.as_ref()).with_own(
                labels,
                c.match_label_keys.as_deref().unwrap_or_default(),
                &[],
            ),
            max_skew: u32::try_from(c.max_skew).unwrap_or(1).max(1),
            min_domains: c.min_domains.and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
            hard: c.when_unsatisfiable == "DoNotSchedule",
            honor_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: c.node_taints_policy.as_deref() == Some("Honor"),
            by_default: false,
        }
    }

    /// What applies to a pod that states no constraint and belongs to a Service or workload (Kubernetes documentation,
    /// 'Built-in default constraints').
    fn defaults(selector: &Selector) -> Vec<Self> {
        [("kubernetes.io/hostname", 3), ("topology.kubernetes.io/zone", 5)]
            .map(|(key, max_skew)| Self {
                topology_key: key.into(),
                selector: selector.clone(),
                max_skew,
                min_domains: 1,
                hard: false,
                honor_affinity: true,
                honor_taints: false,
                by_default: true,
            })
            .into()
    }
}

impl PodInfo {
    /// Compiles a pod. `siblings` selects the pods of the Services and the workload that this one belongs to: they are
    /// spread over hosts and zones where the pod itself states no constraint.
    pub fn new(pod: &core::Pod, siblings: Option<&Selector>) -> Self {
        let meta = &pod.metadata;
        let text = |t: &Option<String>| -> Arc<str> { t.as_deref().unwrap_or_default().into() };
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        Self {
            uid: text(&meta.uid),
            name: text(&meta.name),
            created: meta.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0),
            started: status.and_then(|s| s.start_time.as_ref()).map(|t| t.0),
            terminating: meta.deletion_timestamp.is_some(),
            nominated: status.and_then(|s| s.nominated_node_name.as_deref()).filter(|n| !n.is_empty()).map(Arc::from),
            gates: spec
                .and_then(|s| s.scheduling_gates.as_ref())
                .map(|gates| gates.iter().map(|g| g.name.clone()).collect())
                .unwrap_or_default(),
            class: Arc::new(PodClass::new(pod, siblings)),
        }
    }

    /// `metadata.namespace`.
    pub fn namespace(&self) -> &Arc<str> {
        &self.class.namespace
    }

    /// `spec.priority`.
    pub fn priority(&self) -> i32 {
        self.class.priority
    }

    /// `metadata.labels`.
    pub fn labels(&self) -> &Labels {
        &self.class.labels
    }
}

impl PodClass {
    fn new(pod: &core::Pod, siblings: Option<&Selector>) -> Self {
        let namespace: Arc<str> = pod.metadata.namespace.as_deref().unwrap_or_default().into();
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let default_spec = core::PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&default_spec);
        let (requests, counted_cpu, counted_memory) = pod_requests(pod);
        let affinity = spec.affinity.as_ref();
        let node_affinity = affinity.and_then(|a| a.node_affinity.as_ref());
        let pod_affinity = affinity.and_then(|a| a.pod_affinity.as_ref());
        let pod_anti = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let term = |t: &core::PodAffinityTerm| Term::new(t, &namespace, &labels);
        let terms =
            |list: Option<&Vec<core::PodAffinityTerm>>| -> Vec<Term> { list.into_iter().flatten().map(term).collect() };
        let affinity_terms =
            terms(pod_affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()));
        let anti_affinity =
            terms(pod_anti.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()));
        let weighted = |list: Option<&Vec<core::WeightedPodAffinityTerm>>, sign: i64| -> Vec<(i64, Term)> {
            list.into_iter().flatten().map(|w| (sign * i64::from(w.weight), term(&w.pod_affinity_term))).collect()
        };
        let mut preferred_pods =
            weighted(pod_affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()), 1);
        preferred_pods.extend(weighted(
            pod_anti.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
            -1,
        ));
        let mut spread: Vec<Spread> =
            spec.topology_spread_constraints.iter().flatten().map(|c| Spread::new(c, &labels)).collect();
        if spread.is_empty()
            && let Some(siblings) = siblings
        {
            spread = Spread::defaults(siblings);
        }
        Self {
            priority: spec.priority.unwrap_or(0),
            preempts: spec.preemption_policy.as_deref() != Some("Never"),
            requests,
            counted_cpu,
            counted_memory,
            required_node: spec.node_name.as_deref().filter(|n| !n.is_empty()).map(Arc::from),
            tolerations: spec.tolerations.iter().flatten().map(Toleration::new).collect(),
            node_labels: Selector::equal_to(spec.node_selector.iter().flatten()),
            node_terms: node_affinity
                .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
                .map(NodeSelector::new),
            preferred_nodes: node_affinity
                .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
                .into_iter()
                .flatten()
                .map(|p| (p.weight, NodeTerm::new(&p.preference)))
                .collect(),
            ports: host_ports(spec),
            affinity: (!affinity_terms.is_empty()).then(|| {
                let matchers = affinity_terms.iter().flat_map(|t| t.matcher.0.iter().cloned()).collect();
                (Matcher(matchers), affinity_terms.iter().map(|t| t.topology_key.clone()).collect())
            }),
            affinity_terms,
            anti_affinity,
            preferred_pods,
            spread,
            images: spec
                .init_containers
                .iter()
                .flatten()
                .chain(&spec.containers)
                .filter_map(|c| c.image.as_deref())
                .map(|image| normalized_image(image).into())
                .collect(),
            containers: spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len),
            claims: claims(pod),
            namespace,
            labels,
        }
    }

    pub(crate) fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|t| t.tolerates(taint))
    }

    /// Taints that only make a node less liked are tolerated by tolerations of that effect or of any.
    pub(crate) fn prefers_to_avoid(&self, taint: &Taint) -> bool {
        taint.effect == Effect::PreferNoSchedule && !self.tolerates(taint)
    }
}

/// `nginx` is known to nodes as `nginx:latest`.
pub(crate) fn normalized_image(image: &str) -> String {
    let after_slash = image.rfind('/').map_or(0, |i| i + 1);
    if image[after_slash..].contains(':') || image.contains('@') { image.into() } else { format!("{image}:latest") }
}

fn host_ports(spec: &core::PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let port = p.host_port.filter(|port| *port > 0)?;
            Some(HostPort {
                ip: p.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0").into(),
                protocol: p.protocol.as_deref().unwrap_or("TCP").into(),
                port,
            })
        })
        .collect()
}

/// Names of the PersistentVolumeClaims that the pod mounts; an ephemeral volume's claim is named after pod and volume.
fn claims(pod: &core::Pod) -> Vec<Arc<str>> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
    let mut out: Vec<Arc<str>> = Vec::new();
    for v in volumes.into_iter().flatten() {
        if let Some(claim) = &v.persistent_volume_claim {
            out.push(claim.claim_name.as_str().into());
        } else if v.ephemeral.is_some() {
            out.push(format!("{name}-{}", v.name).into());
        }
    }
    out.sort();
    out.dedup();
    out
}

/// A node as the scheduler sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeInfo {
    pub name: Arc<str>,
    pub labels: Labels,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    pub max_pods: i64,
    pub images: BTreeMap<Arc<str>, i64>,
}

impl NodeInfo {
    pub(crate) fn new(node: &core::Node) -> Self {
        let spec = node.spec.as_ref();
        let (allocatable, max_pods) = Resources::allocatable(node.status.as_ref());
        Self {
            name: node.metadata.name.as_deref().unwrap_or_default().into(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec
                .and_then(|s| s.taints.as_ref())
                .into_iter()
                .flatten()
                .filter_map(|t| {
                    Some(Taint {
                        key: t.key.clone(),
                        value: t.value.clone().unwrap_or_default(),
                        effect: Effect::parse(&t.effect)?,
                    })
                })
                .collect(),
            unschedulable: spec.and_then(|s| s.unschedulable).unwrap_or(false),
            allocatable,
            max_pods,
            images: node
                .status
                .as_ref()
                .and_then(|s| s.images.as_ref())
                .into_iter()
                .flatten()
                .flat_map(|i| {
                    let size = i.size_bytes.unwrap_or(0);
                    i.names.iter().flatten().map(move |n| (normalized_image(n).into(), size))
                })
                .collect(),
        }
    }
}
