//! ResourceQuota: a namespace's objects stay within `spec.hard`.
//!
//! Usage is counted from the objects themselves while the namespace's quota lock is held until the commit, so no two creates
//! spend the same remainder. `status.used` is the quota controller's, and only for people to read.

use std::collections::BTreeMap;

use galley_kube::Status;
use galley_types::{LabelSelector, Quantity};
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use crate::admission::Request;
use crate::value::{array, at, text};

/// Amounts by resource name: `pods`, `requests.cpu`, `count/deployments.apps`.
pub type Usage = BTreeMap<String, Quantity>;

/// A JSON number or text as a quantity.
pub(super) fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

/// Holds the namespace's quota lock from the check until the answer is dropped; `None` where no quota is concerned.
pub(crate) async fn admit(
    request: &Request<'_>,
    old: Option<&Value>,
    new: &Value,
) -> Result<Option<OwnedMutexGuard<()>>, Status> {
    if !request.resource.namespaced || request.is("", "resourcequotas") || request.is("", "events") {
        return Ok(None);
    }
    let resource = request.resource.name();
    let delta = difference(usage(resource.as_str(), new), old.map(|old| usage(resource.as_str(), old)));
    if delta.is_empty() || request.fetch_all("resourcequotas", request.namespace).is_empty() {
        return Ok(None);
    }
    let guard = request.api.shared.quota(request.namespace).lock_owned().await;
    let objects = request.fetch_all(resource.as_str(), request.namespace);
    for quota in request.fetch_all("resourcequotas", request.namespace) {
        if !in_scope(&quota, resource.as_str(), new) {
            continue;
        }
        let mut used = Usage::new();
        for object in objects.iter().filter(|object| in_scope(&quota, resource.as_str(), object)) {
            for (key, amount) in usage(resource.as_str(), object) {
                *used.entry(key).or_default() += amount;
            }
        }
        check(&quota, &used, &delta, request.resource.group.is_empty() && request.resource.plural == "pods", new)
            .map_err(|why| request.forbidden(&why))?;
    }
    Ok(Some(guard))
}

/// What grows: amounts that are larger in `new`.
fn difference(new: Usage, old: Option<Usage>) -> Usage {
    let old = old.unwrap_or_default();
    new.into_iter()
        .filter_map(|(key, amount)| {
            let grown = match old.get(&key) {
                Some(before) => amount - *before,
                None => amount,
            };
            (grown > Quantity::default()).then_some((key, grown))
        })
        .collect()
}

fn check(quota: &Value, used: &Usage, delta: &Usage, is_pod: bool, object: &Value) -> Result<(), String> {
    let name = text(quota, "/metadata/name");
    let Some(Value::Object(hard)) = quota.pointer("/spec/hard") else { return Ok(()) };
    if is_pod {
        let missing: Vec<String> = hard.keys().filter(|key| is_unset(key, object)).cloned().collect();
        if !missing.is_empty() {
            let containers = array(object, "/spec/containers").iter().chain(array(object, "/spec/initContainers"));
            let each: Vec<String> = missing
                .iter()
                .map(|key| {
                    let names: Vec<&str> =
                        containers.clone().filter(|c| lacks(key, c)).map(|c| text(c, "/name")).collect();
                    format!("{key} for: {}", names.join(","))
                })
                .collect();
            return Err(format!("failed quota: {name}: must specify {}", each.join("; ")));
        }
    }
    let (mut over, mut requested, mut had, mut limited) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (key, amount) in delta {
        let Some(limit) = hard.get(key).and_then(quantity) else { continue };
        let before = used.get(key).copied().unwrap_or_default();
        if before + *amount > limit {
            over.push(key.clone());
            requested.push(format!("{key}={amount}"));
            had.push(format!("{key}={before}"));
            limited.push(format!("{key}={limit}"));
        }
    }
    if over.is_empty() {
        return Ok(());
    }
    Err(format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        requested.join(","),
        had.join(","),
        limited.join(",")
    ))
}

/// `requests.cpu` -> (`requests`, `cpu`); `cpu` means the request.
fn compute(key: &str) -> Option<(&'static str, &str)> {
    match key {
        "cpu" | "memory" | "ephemeral-storage" => Some(("requests", key)),
        _ => match key.split_once('.') {
            Some(("requests", rest)) if rest != "storage" => Some(("requests", rest)),
            Some(("limits", rest)) => Some(("limits", rest)),
            _ => None,
        },
    }
}

/// Only cpu and memory must be named by every container of a namespace that limits them.
fn is_unset(key: &str, pod: &Value) -> bool {
    array(pod, "/spec/containers").iter().chain(array(pod, "/spec/initContainers")).any(|c| lacks(key, c))
}

fn lacks(key: &str, container: &Value) -> bool {
    let Some((list, resource)) = compute(key) else { return false };
    matches!(resource, "cpu" | "memory")
        && container.get("resources").and_then(|r| r.get(list)).and_then(|l| l.get(resource)).is_none()
}

/// What an object uses of each quota resource.
pub fn usage(resource: &str, object: &Value) -> Usage {
    let one = || Quantity::from_units(1);
    let mut usage = Usage::new();
    let qualified = if resource.contains('.') { resource.to_owned() } else { format!("{resource}.") };
    usage.insert(format!("count/{}", qualified.trim_end_matches('.')), one());
    match resource {
        "pods" => {
            if matches!(text(object, "/status/phase"), "Succeeded" | "Failed") {
                usage.retain(|key, _| key.starts_with("count/"));
                return usage;
            }
            usage.insert("pods".into(), one());
            for list in ["requests", "limits"] {
                for (key, amount) in pod_resources(object, list) {
                    if list == "requests" && matches!(key.as_str(), "cpu" | "memory" | "ephemeral-storage") {
                        usage.insert(key.clone(), amount);
                    }
                    usage.insert(format!("{list}.{key}"), amount);
                }
            }
        }
        "services" => {
            usage.insert("services".into(), one());
            let kind = text(object, "/spec/type");
            let ports = Quantity::from_units(i64::try_from(array(object, "/spec/ports").len()).unwrap_or(i64::MAX));
            if kind == "LoadBalancer" {
                usage.insert("services.loadbalancers".into(), one());
            }
            let allocates = at(object, "/spec/allocateLoadBalancerNodePorts") != Some(&Value::Bool(false));
            if kind == "NodePort" || (kind == "LoadBalancer" && allocates) {
                usage.insert("services.nodeports".into(), ports);
            }
        }
        "persistentvolumeclaims" => {
            usage.insert("persistentvolumeclaims".into(), one());
            let class = text(object, "/spec/storageClassName");
            let storage = at(object, "/spec/resources/requests/storage").and_then(quantity);
            if !class.is_empty() {
                let prefix = format!("{class}.storageclass.storage.k8s.io");
                usage.insert(format!("{prefix}/persistentvolumeclaims"), one());
                if let Some(storage) = &storage {
                    usage.insert(format!("{prefix}/requests.storage"), *storage);
                }
            }
            if let Some(storage) = storage {
                usage.insert("requests.storage".into(), storage);
            }
        }
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => {
            usage.insert(resource.to_owned(), one());
        }
        _ => {}
    }
    usage
}

/// A pod's effective `requests` or `limits`: its containers and sidecars together, or its largest init container if that is
/// more, and the overhead (Kubernetes docs, "Init Containers: resource sharing").
pub fn pod_resources(pod: &Value, list: &str) -> Usage {
    let amounts = |container: &Value| -> Usage {
        let resources = container.get("resources");
        let mut found: Usage = resources
            .and_then(|r| r.get(list))
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.clone(), quantity(value)?)))
            .collect();
        if list == "requests" {
            let limits = resources.and_then(|r| r.get("limits")).and_then(Value::as_object).into_iter().flatten();
            for (key, value) in limits {
                if let Some(limit) = quantity(value) {
                    found.entry(key.clone()).or_insert(limit);
                }
            }
        }
        found
    };
    let add = |total: &mut Usage, more: &Usage| {
        for (key, amount) in more {
            *total.entry(key.clone()).or_default() += *amount;
        }
    };
    let mut total = Usage::new();
    array(pod, "/spec/containers").iter().for_each(|container| add(&mut total, &amounts(container)));
    let (mut sidecars, mut peak) = (Usage::new(), Usage::new());
    for container in array(pod, "/spec/initContainers") {
        let mine = amounts(container);
        if text(container, "/restartPolicy") == "Always" {
            add(&mut sidecars, &mine);
            add(&mut total, &mine);
            continue;
        }
        let mut while_it_runs = sidecars.clone();
        add(&mut while_it_runs, &mine);
        for (key, amount) in while_it_runs {
            let slot = peak.entry(key).or_default();
            if amount > *slot {
                *slot = amount;
            }
        }
    }
    for (key, amount) in peak {
        let slot = total.entry(key).or_default();
        if amount > *slot {
            *slot = amount;
        }
    }
    let overhead: Usage = at(pod, "/spec/overhead")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), quantity(value)?)))
        .collect();
    if list == "requests" || !total.is_empty() {
        for (key, amount) in overhead {
            if list == "requests" || total.contains_key(&key) {
                *total.entry(key).or_default() += amount;
            }
        }
    }
    total
}

/// Whether a quota's scopes cover an object. Scopes are about pods; a quota with scopes covers nothing else.
pub fn in_scope(quota: &Value, resource: &str, object: &Value) -> bool {
    let scopes = array(quota, "/spec/scopes").iter().filter_map(Value::as_str);
    let expressions = array(quota, "/spec/scopeSelector/matchExpressions");
    if array(quota, "/spec/scopes").is_empty() && expressions.is_empty() {
        return true;
    }
    if resource != "pods" {
        return false;
    }
    let holds = |scope: &str| match scope {
        "Terminating" => object.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_i64).is_some(),
        "NotTerminating" => object.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_i64).is_none(),
        "BestEffort" => crate::strategy::qos_class(object) == "BestEffort",
        "NotBestEffort" => crate::strategy::qos_class(object) != "BestEffort",
        "CrossNamespacePodAffinity" => false,
        _ => true,
    };
    scopes.clone().all(holds)
        && expressions.iter().all(|expression| {
            let scope = text(expression, "/scopeName");
            if scope != "PriorityClass" {
                return holds(scope);
            }
            let selector = serde_json::json!({"matchExpressions": [{"key": "class",
                "operator": expression["operator"], "values": expression["values"]}]});
            let class = text(object, "/spec/priorityClassName");
            LabelSelector::from_value(&selector)
                .is_ok_and(|selector| selector.matches_with(|_| (!class.is_empty()).then_some(class)))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(cpu: &str) -> Value {
        json!({"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    #[test]
    fn an_exceeded_quota_is_told_as_kubernetes_tells_it() {
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1", "cpu": "1"}}});
        let used = usage("pods", &pod("500m"));
        let delta = difference(usage("pods", &pod("600m")), None);
        assert_eq!(
            check(&quota, &used, &delta, true, &pod("600m")).unwrap_err(),
            "exceeded quota: q, requested: cpu=600m,pods=1, used: cpu=500m,pods=1, limited: cpu=1,pods=1"
        );
        assert!(check(&quota, &Usage::new(), &delta, true, &pod("600m")).is_ok());
    }

    #[test]
    fn a_quota_of_cpu_wants_requests_named() {
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"requests.cpu": "1"}}});
        let bare = json!({"spec": {"containers": [{"name": "a"}]}});
        assert_eq!(
            check(&quota, &Usage::new(), &usage("pods", &bare), true, &bare).unwrap_err(),
            "failed quota: q: must specify requests.cpu for: a"
        );
    }

    #[test]
    fn a_sidecar_counts_beside_the_containers_and_an_init_container_only_as_a_peak() {
        let pod = json!({"spec": {
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}],
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}},
                {"name": "i", "resources": {"requests": {"cpu": "2"}}}]}});
        assert_eq!(pod_resources(&pod, "requests").get("cpu").map(ToString::to_string).as_deref(), Some("2500m"));
    }

    #[test]
    fn an_update_is_charged_for_its_growth_only() {
        let grown = difference(usage("pods", &pod("3")), Some(usage("pods", &pod("1"))));
        assert_eq!(grown.get("cpu").map(ToString::to_string).as_deref(), Some("2"));
        assert!(!grown.contains_key("pods"));
    }
}
