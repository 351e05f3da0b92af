//! The downward API: a pod's own fields and resources, for its environment and volumes.

use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector};

use crate::qos::effective;
use crate::quantity::milli;

/// A selector that selects nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownField {
    pub path: String,
}

impl std::fmt::Display for UnknownField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unsupported fieldPath: {}", self.path)
    }
}

impl std::error::Error for UnknownField {}

/// Values that only the node knows when a container starts.
#[derive(Debug, Clone, Default)]
pub struct RuntimeFacts {
    pub host_ips: Vec<String>,
    pub pod_ips: Vec<String>,
    /// Allocatable of the node: what `limits.cpu` means for a container without a limit, in thousandths of a CPU.
    pub node_milli_cpu: i64,
    /// Bytes.
    pub node_memory: i64,
    /// Bytes.
    pub node_ephemeral_storage: i64,
}

/// The value of a `fieldRef`. Maps (`metadata.labels`) print as in a downward API file: `key="value"` lines, sorted.
pub fn field(pod: &Pod, selector: &ObjectFieldSelector, facts: &RuntimeFacts) -> Result<String, UnknownField> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| Ok(value.cloned().unwrap_or_default());
    match selector.field_path.as_str() {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => Ok(map_lines(meta.labels.as_ref())),
        "metadata.annotations" => Ok(map_lines(meta.annotations.as_ref())),
        "spec.nodeName" => text(spec.and_then(|s| s.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|s| s.service_account_name.as_ref())),
        "status.hostIP" => text(facts.host_ips.first()),
        "status.hostIPs" => Ok(facts.host_ips.join(",")),
        "status.podIP" => text(facts.pod_ips.first()),
        "status.podIPs" => Ok(facts.pod_ips.join(",")),
        path => {
            let unknown = || UnknownField { path: path.into() };
            let (map, key) = path.strip_suffix("']").and_then(|p| p.split_once("['")).ok_or_else(unknown)?;
            let map = match map {
                "metadata.labels" => meta.labels.as_ref(),
                "metadata.annotations" => meta.annotations.as_ref(),
                _ => return Err(unknown()),
            };
            text(map.and_then(|m| m.get(key)))
        }
    }
}

fn map_lines(map: Option<&std::collections::BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect();
    lines.join("\n")
}

/// The value of a `resourceFieldRef` of `container`, divided by the divisor and rounded up.
pub fn resource(
    container: &Container,
    selector: &ResourceFieldSelector,
    facts: &RuntimeFacts,
) -> Result<String, UnknownField> {
    let unknown = || UnknownField { path: selector.resource.clone() };
    let of_node = |name: &str| match name {
        "cpu" => facts.node_milli_cpu,
        "memory" => facts.node_memory.saturating_mul(1000),
        _ => facts.node_ephemeral_storage.saturating_mul(1000),
    };
    let value = effective(container, &selector.resource, of_node).ok_or_else(unknown)?;
    let divisor = selector.divisor.as_ref().map(milli).filter(|d| *d > 0).unwrap_or(1000);
    Ok(((i128::from(value) + i128::from(divisor) - 1) / i128::from(divisor)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{container, pod, resources};
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    #[test]
    fn fields_of_the_pod_are_found() {
        let mut p = pod("web", vec![container("app")]);
        p.metadata.labels = Some([("a".into(), "1".into()), ("b/c".into(), "x \"y\"".into())].into());
        let facts = RuntimeFacts { pod_ips: vec!["10.0.0.1".into(), "fd::1".into()], ..Default::default() };
        for (path, value) in [
            ("metadata.name", "web"),
            ("metadata.labels['b/c']", "x \"y\""),
            ("metadata.labels", "a=\"1\"\nb/c=\"x \\\"y\\\"\""),
            ("status.podIP", "10.0.0.1"),
            ("status.podIPs", "10.0.0.1,fd::1"),
        ] {
            let selector = ObjectFieldSelector { field_path: path.into(), ..Default::default() };
            assert_eq!(field(&p, &selector, &facts).unwrap(), value, "{path}");
        }
        let selector = ObjectFieldSelector { field_path: "spec.bogus".into(), ..Default::default() };
        assert!(field(&p, &selector, &facts).is_err());
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let mut c = container("app");
        c.resources = Some(resources(&[("cpu", "250m")], &[("memory", "100Mi")]));
        let facts = RuntimeFacts { node_milli_cpu: 4000, ..Default::default() };
        for (name, divisor, value) in [
            ("requests.cpu", "1", "1"),
            ("requests.cpu", "1m", "250"),
            ("limits.memory", "1Mi", "100"),
            ("limits.memory", "0", "104857600"),
            ("limits.cpu", "1", "4"),
        ] {
            let selector = ResourceFieldSelector {
                resource: name.into(),
                divisor: Some(Quantity(divisor.into())),
                container_name: None,
            };
            assert_eq!(resource(&c, &selector, &facts).unwrap(), value, "{name} / {divisor}");
        }
    }
}
