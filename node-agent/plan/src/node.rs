//! The Node object's conditions, with the reasons that kubectl users know.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What the agent measured about its node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeHealth {
    /// Why the runtime does not answer or is not ready.
    pub runtime_error: Option<String>,
    /// Why pods would get no network.
    pub network_error: Option<String>,
    pub memory_pressure: bool,
    pub disk_pressure: bool,
    pub pid_pressure: bool,
}

/// The four conditions, transition times kept from `old` where the status did not change.
pub fn node_conditions(health: &NodeHealth, old: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
    let pressure = |type_: &str, on: bool, has: (&str, &str), has_not: (&str, &str)| {
        let (reason, message) = if on { has } else { has_not };
        condition(type_, on, reason, message)
    };
    let errors: Vec<String> = [&health.runtime_error, &health.network_error].into_iter().flatten().cloned().collect();
    let ready = if errors.is_empty() {
        condition("Ready", true, "KubeletReady", "kubelet is posting ready status")
    } else {
        condition("Ready", false, "KubeletNotReady", &format!("[{}]", errors.join(", ")))
    };
    let all = vec![
        pressure(
            "MemoryPressure",
            health.memory_pressure,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            health.disk_pressure,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            health.pid_pressure,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        ready,
    ];
    let timed = |mut c: NodeCondition| {
        let before = old.iter().find(|o| o.type_ == c.type_ && o.status == c.status);
        c.last_transition_time = before.and_then(|o| o.last_transition_time.clone()).or(Some(Time(now)));
        c.last_heartbeat_time = Some(Time(now));
        c
    };
    all.into_iter().map(timed).collect()
}

fn condition(type_: &str, on: bool, reason: &str, message: &str) -> NodeCondition {
    NodeCondition {
        type_: type_.into(),
        status: if on { "True" } else { "False" }.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        ..NodeCondition::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transition_time_changes_only_with_the_status() {
        let (early, late) = (Timestamp::from_second(10).unwrap(), Timestamp::from_second(20).unwrap());
        let first = node_conditions(&NodeHealth::default(), &[], early);
        let broken = NodeHealth { network_error: Some("no CNI".into()), ..NodeHealth::default() };
        let second = node_conditions(&broken, &first, late);
        let times: Vec<(&str, Timestamp)> =
            second.iter().map(|c| (c.type_.as_str(), c.last_transition_time.as_ref().unwrap().0)).collect();
        assert_eq!(
            times,
            [("MemoryPressure", early), ("DiskPressure", early), ("PIDPressure", early), ("Ready", late)]
        );
    }
}
