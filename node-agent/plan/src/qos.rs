//! From resource requests and limits to QoS classes and cgroup numbers.

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::{milli, whole};

/// `status.qosClass`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The cgroup numbers of one container. Zero leaves a value to the runtime's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CgroupLimits {
    /// 2 to 262144; weight relative to siblings.
    pub cpu_shares: i64,
    /// Microseconds of CPU for each period; 0 is unlimited.
    pub cpu_quota: i64,
    /// Microseconds.
    pub cpu_period: i64,
    /// Bytes; 0 is unlimited.
    pub memory_limit: i64,
    /// -1000 to 1000; higher is killed first.
    pub oom_score_adj: i64,
}

const CPU_PERIOD: i64 = 100_000;
const SHARES_MIN: i64 = 2;
const SHARES_MAX: i64 = 262_144;
/// The kernel refuses quotas below one millisecond.
const QUOTA_MIN: i64 = 1_000;

fn request<'a>(resources: Option<&'a ResourceRequirements>, name: &str) -> Option<&'a Quantity> {
    resources?.requests.as_ref()?.get(name)
}

fn limit<'a>(resources: Option<&'a ResourceRequirements>, name: &str) -> Option<&'a Quantity> {
    resources?.limits.as_ref()?.get(name)
}

/// The class of a pod: Guaranteed if every container limits cpu and memory and requests exactly that, BestEffort if none asks
/// for anything, Burstable else.
pub fn qos_class(spec: &PodSpec) -> QosClass {
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    if let Some(class) = pod_level_class(spec) {
        return class;
    }
    let mut any = false;
    let mut guaranteed = true;
    for c in containers() {
        for resource in ["cpu", "memory"] {
            let asks = |q: Option<&Quantity>| q.map(milli).filter(|m| *m > 0);
            let (requested, limited) =
                (asks(request(c.resources.as_ref(), resource)), asks(limit(c.resources.as_ref(), resource)));
            any |= requested.is_some() || limited.is_some();
            guaranteed &= limited.is_some() && requested.or(limited) == limited;
        }
    }
    match (any, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

/// Resources given to the pod as a whole decide alone.
fn pod_level_class(spec: &PodSpec) -> Option<QosClass> {
    let pod = spec.resources.as_ref()?;
    if pod.requests.as_ref().is_none_or(|r| r.is_empty()) && pod.limits.as_ref().is_none_or(|l| l.is_empty()) {
        return None;
    }
    let guaranteed = ["cpu", "memory"].iter().all(|r| {
        let limit = limit(Some(pod), r).map(milli);
        limit.is_some() && request(Some(pod), r).map(milli).or(limit) == limit
    });
    Some(if guaranteed { QosClass::Guaranteed } else { QosClass::Burstable })
}

/// 1024 shares are one CPU.
pub fn cpu_shares(milli_cpu: i64) -> i64 {
    if milli_cpu == 0 { SHARES_MIN } else { (milli_cpu * 1024 / 1000).clamp(SHARES_MIN, SHARES_MAX) }
}

/// The numbers for one container of a pod on a node with so much memory (bytes).
pub fn container_limits(spec: &PodSpec, container: &Container, node_memory: i64) -> CgroupLimits {
    let resources = container.resources.as_ref();
    let cpu_request = request(resources, "cpu").or_else(|| limit(resources, "cpu")).map_or(0, milli);
    let cpu_limit = limit(resources, "cpu").map_or(0, milli);
    let memory_request = request(resources, "memory").or_else(|| limit(resources, "memory")).map_or(0, whole);
    CgroupLimits {
        cpu_shares: cpu_shares(cpu_request),
        cpu_quota: if cpu_limit == 0 { 0 } else { (cpu_limit * CPU_PERIOD / 1000).max(QUOTA_MIN) },
        cpu_period: CPU_PERIOD,
        memory_limit: limit(resources, "memory").map_or(0, whole),
        oom_score_adj: oom_score(qos_class(spec), spec, memory_request, node_memory),
    }
}

/// Guaranteed pods go last, BestEffort first, Burstable by the share of the node's memory that they asked for.
fn oom_score(class: QosClass, spec: &PodSpec, memory_request: i64, node_memory: i64) -> i64 {
    if spec.priority.is_some_and(|p| p >= 2_000_000_000) {
        return -997; // system-node-critical and system-cluster-critical
    }
    match class {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let share = if node_memory > 0 { 1000 * memory_request / node_memory } else { 0 };
            (1000 - share).clamp(3, 999)
        }
    }
}

/// The numbers of the pod's own cgroup: the sums of its containers; unlimited if one container is.
pub fn pod_limits(spec: &PodSpec) -> CgroupLimits {
    let mut limits = CgroupLimits { cpu_period: CPU_PERIOD, ..CgroupLimits::default() };
    let mut cpu_requests = 0;
    let (mut cpu_limit, mut memory_limit) = (Some(0), Some(0));
    for c in &spec.containers {
        let resources = c.resources.as_ref();
        cpu_requests += request(resources, "cpu").or_else(|| limit(resources, "cpu")).map_or(0, milli);
        cpu_limit = cpu_limit.zip(limit(resources, "cpu").map(milli)).map(|(a, b)| a + b);
        memory_limit = memory_limit.zip(limit(resources, "memory").map(whole)).map(|(a, b)| a + b);
    }
    // Init containers run alone or beside: any of them without a limit lifts the pod's.
    for c in spec.init_containers.iter().flatten() {
        let resources = c.resources.as_ref();
        let sidecar = c.restart_policy.as_deref() == Some("Always");
        let join =
            |sum: Option<i64>, own: Option<i64>| sum.zip(own).map(|(a, b)| if sidecar { a + b } else { a.max(b) });
        cpu_limit = join(cpu_limit, limit(resources, "cpu").map(milli));
        memory_limit = join(memory_limit, limit(resources, "memory").map(whole));
    }
    limits.cpu_shares = cpu_shares(cpu_requests);
    limits.cpu_quota = cpu_limit.filter(|l| *l > 0).map_or(0, |l| (l * CPU_PERIOD / 1000).max(QUOTA_MIN));
    limits.memory_limit = memory_limit.unwrap_or(0);
    limits
}

/// The effective value of a resource of a container for the downward API, in thousandths.
pub(crate) fn effective(
    container: &Container,
    selector: &str,
    node_allocatable_milli: impl Fn(&str) -> i64,
) -> Option<i64> {
    let (kind, resource) = selector.split_once('.')?;
    let resources = container.resources.as_ref();
    match kind {
        "limits" => {
            let own = limit(resources, resource).map(milli).filter(|m| *m > 0);
            Some(own.unwrap_or_else(|| {
                if matches!(resource, "cpu" | "memory" | "ephemeral-storage") {
                    node_allocatable_milli(resource)
                } else {
                    0
                }
            }))
        }
        "requests" => Some(request(resources, resource).map_or(0, milli)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{container, pod_spec, resources};

    fn spec(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> PodSpec {
        let mut c = container("app");
        c.resources = Some(resources(requests, limits));
        pod_spec(vec![c])
    }

    #[test]
    fn the_class_follows_requests_and_limits() {
        let all = [("cpu", "100m"), ("memory", "64Mi")];
        for (requests, limits, class) in [
            (&[][..], &[][..], QosClass::BestEffort),
            (&all[..], &all[..], QosClass::Guaranteed),
            (&[][..], &all[..], QosClass::Guaranteed),
            (&all[..], &[][..], QosClass::Burstable),
            (&all[..1], &all[..], QosClass::Guaranteed),
            (&[("cpu", "50m")][..], &all[..], QosClass::Burstable),
        ] {
            assert_eq!(qos_class(&spec(requests, limits)), class, "{requests:?} {limits:?}");
        }
    }

    #[test]
    fn limits_become_cgroup_numbers() {
        let spec = spec(&[("cpu", "250m"), ("memory", "100")], &[("cpu", "500m"), ("memory", "1Ki")]);
        let limits = container_limits(&spec, &spec.containers[0], 1000);
        let wanted = CgroupLimits {
            cpu_shares: 256,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            memory_limit: 1024,
            oom_score_adj: 900,
        };
        assert_eq!(limits, wanted);
    }

    #[test]
    fn a_pod_without_requests_is_best_effort_and_goes_first() {
        let spec = spec(&[], &[]);
        let limits = container_limits(&spec, &spec.containers[0], 1000);
        assert_eq!((limits.cpu_shares, limits.cpu_quota, limits.oom_score_adj), (2, 0, 1000));
    }
}
