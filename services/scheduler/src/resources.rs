//! What a pod asks of a node, and what a node has: the request arithmetic of init containers, sidecars, pod-level
//! resources and overhead (Kubernetes documentation, 'Resource Management for Pods and Containers' and 'Sidecar
//! Containers').

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

fn milli(quantity: &Quantity) -> i64 {
    parse(quantity).millis()
}

fn units(quantity: &Quantity) -> i64 {
    parse(quantity).units()
}

/// An amount that does not parse counts as zero: the API's validation does not let one in.
fn parse(quantity: &Quantity) -> galley_types::Quantity {
    quantity.0.parse().unwrap_or(galley_types::Quantity::ZERO)
}

/// Counted for a container without a CPU request when nodes are compared (never when fit is decided): without it a node
/// full of best-effort pods would look empty.
const UNSTATED_MILLI_CPU: i64 = 100;
/// The same for memory: 200 MiB.
const UNSTATED_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts of every resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral: i64,
    /// Everything else (`nvidia.com/gpu`, `hugepages-2Mi`), by name.
    pub extended: BTreeMap<Arc<str>, i64>,
}

impl Resources {
    fn read<'a>(list: impl Iterator<Item = (&'a String, &'a Quantity)>) -> Self {
        let mut out = Self::default();
        for (name, quantity) in list {
            match name.as_str() {
                "cpu" => out.milli_cpu = milli(quantity),
                "memory" => out.memory = units(quantity),
                "ephemeral-storage" => out.ephemeral = units(quantity),
                "pods" => {}
                other => {
                    out.extended.insert(other.into(), units(quantity));
                }
            }
        }
        out
    }

    /// A node's `status.allocatable`, and how many pods it takes.
    pub(crate) fn allocatable(status: Option<&core::NodeStatus>) -> (Self, i64) {
        let list = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        let pods = list.and_then(|l| l.get("pods")).map_or(0, units);
        (Self::read(list.into_iter().flatten()), pods)
    }

    fn add(&mut self, other: &Self) {
        self.combine(other, |a, b| a.saturating_add(b));
    }

    fn max(&mut self, other: &Self) {
        self.combine(other, std::cmp::Ord::max);
    }

    fn combine(&mut self, other: &Self, f: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = f(self.milli_cpu, other.milli_cpu);
        self.memory = f(self.memory, other.memory);
        self.ephemeral = f(self.ephemeral, other.ephemeral);
        for (name, amount) in &other.extended {
            let mine = self.extended.entry(name.clone()).or_insert(0);
            *mine = f(*mine, *amount);
        }
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.milli_cpu == 0 && self.memory == 0 && self.ephemeral == 0 && self.extended.values().all(|v| *v == 0)
    }
}

/// A pod's requests, and the CPU and memory it is counted with when nodes are compared.
pub(crate) fn pod_requests(pod: &core::Pod) -> (Resources, i64, i64) {
    let Some(spec) = &pod.spec else { return Default::default() };
    let exact = total(spec, false);
    let counted = total(spec, true);
    (exact, counted.milli_cpu, counted.memory)
}

fn total(spec: &core::PodSpec, with_unstated: bool) -> Resources {
    let of = |container: &core::Container| {
        let stated = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        let mut amounts = Resources::read(stated.into_iter().flatten());
        if with_unstated {
            let states = |name: &str| stated.is_some_and(|s| s.contains_key(name));
            if !states("cpu") {
                amounts.milli_cpu = UNSTATED_MILLI_CPU;
            }
            if !states("memory") {
                amounts.memory = UNSTATED_MEMORY;
            }
        }
        amounts
    };
    let mut all = Resources::default();
    for container in &spec.containers {
        all.add(&of(container));
    }
    // A sidecar runs beside everything that starts after it; another init container runs beside the sidecars before it.
    let mut sidecars = Resources::default();
    let mut while_starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let amounts = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            all.add(&amounts);
            sidecars.add(&amounts);
            while_starting.max(&sidecars);
        } else {
            let mut beside = amounts;
            beside.add(&sidecars);
            while_starting.max(&beside);
        }
    }
    all.max(&while_starting);
    if let Some(stated) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let pod_level = Resources::read(stated.iter());
        if stated.contains_key("cpu") {
            all.milli_cpu = pod_level.milli_cpu;
        }
        if stated.contains_key("memory") {
            all.memory = pod_level.memory;
        }
        for (name, amount) in pod_level.extended {
            if name.starts_with("hugepages-") {
                all.extended.insert(name, amount);
            }
        }
    }
    if let Some(overhead) = &spec.overhead {
        all.add(&Resources::read(overhead.iter()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(cpu: &str, sidecar: bool) -> core::Container {
        core::Container {
            resources: Some(core::ResourceRequirements {
                requests: Some([("cpu".to_owned(), Quantity(cpu.into()))].into()),
                ..Default::default()
            }),
            restart_policy: sidecar.then(|| "Always".into()),
            ..Default::default()
        }
    }

    fn cpu(spec: core::PodSpec) -> i64 {
        pod_requests(&core::Pod { spec: Some(spec), ..Default::default() }).0.milli_cpu
    }

    #[test]
    fn a_large_init_container_decides_when_it_exceeds_the_sum() {
        let spec = |init: &str| core::PodSpec {
            containers: vec![container("1", false), container("2", false)],
            init_containers: Some(vec![container(init, false)]),
            ..Default::default()
        };
        assert_eq!((cpu(spec("2")), cpu(spec("5"))), (3000, 5000));
    }

    #[test]
    fn a_sidecar_counts_beside_containers_and_later_init_containers() {
        let spec = core::PodSpec {
            containers: vec![container("1", false)],
            init_containers: Some(vec![container("1", true), container("4", false)]),
            ..Default::default()
        };
        assert_eq!(cpu(spec), 5000);
    }

    #[test]
    fn pod_level_requests_replace_the_sum_and_overhead_comes_on_top() {
        let amounts = |cpu: &str| [("cpu".to_owned(), Quantity(cpu.into()))].into();
        let spec = core::PodSpec {
            containers: vec![container("1", false)],
            resources: Some(core::ResourceRequirements { requests: Some(amounts("3")), ..Default::default() }),
            overhead: Some(amounts("250m")),
            ..Default::default()
        };
        assert_eq!(cpu(spec), 3250);
    }

    #[test]
    fn a_container_without_requests_counts_in_comparisons_only() {
        let pod = core::Pod {
            spec: Some(core::PodSpec { containers: vec![core::Container::default()], ..Default::default() }),
            ..Default::default()
        };
        let (exact, cpu, memory) = pod_requests(&pod);
        assert!(exact.is_zero());
        assert_eq!((cpu, memory), (100, 200 << 20));
    }
}
