//! LimitRanger: a namespace's LimitRanges give containers the requests and limits they do not name, and bound the others.

use galley_kube::Status;
use galley_types::Quantity;
use serde_json::{Map, Value, json};

use crate::admission::Request;
use crate::value::{array, at, map_at, object_mut, root, text};

pub(super) fn admit(request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
    let ranges = request.fetch_all("limitranges", request.namespace);
    for range in &ranges {
        default_containers(range, pod);
    }
    let errors: Vec<String> = ranges.iter().flat_map(|range| violations(range, pod)).collect();
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(request.forbidden(one)),
        many => Err(request.forbidden(&format!("[{}]", many.join(", ")))),
    }
}

pub(super) fn admit_claim(request: &Request<'_>, claim: &Value) -> Result<(), Status> {
    let asked = claim.pointer("/spec/resources/requests").cloned().unwrap_or_default();
    let errors: Vec<String> = request
        .fetch_all("limitranges", request.namespace)
        .iter()
        .flat_map(|range| {
            items(range, "PersistentVolumeClaim")
                .flat_map(|item| bounds(item, "PersistentVolumeClaim", &asked, &asked))
                .collect::<Vec<_>>()
        })
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(request.forbidden(&errors.join(", "))) }
}

fn items<'a>(range: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    array(range, "/spec/limits").iter().filter(move |item| text(item, "/type") == kind)
}

fn default_containers(range: &Value, pod: &mut Value) {
    let mut noted = Vec::new();
    for item in items(range, "Container") {
        for list in ["initContainers", "containers"] {
            let Some(Value::Array(containers)) = map_at(pod, &["spec"]).get_mut(list) else { continue };
            for container in containers {
                let name = text(container, "/name").to_owned();
                let resources = object_mut(root(container), "resources");
                for (target, source) in [("limits", "default"), ("requests", "defaultRequest")] {
                    let Some(Value::Object(defaults)) = item.get(source) else { continue };
                    let have = object_mut(resources, target);
                    let missing: Vec<_> = defaults.iter().filter(|(key, _)| !have.contains_key(*key)).collect();
                    for (key, value) in &missing {
                        have.insert((*key).clone(), (*value).clone());
                    }
                    if !missing.is_empty() {
                        let keys: Vec<&str> = missing.iter().map(|(key, _)| key.as_str()).collect();
                        let what = if target == "limits" { "limit" } else { "request" };
                        noted.push(format!("{} {what} for container {name}", keys.join(", ")));
                    }
                }
                resources.retain(|_, value| value.as_object().is_none_or(|map| !map.is_empty()));
            }
        }
    }
    if !noted.is_empty() {
        let note = format!("LimitRanger plugin set: {}", noted.join("; "));
        map_at(pod, &["metadata", "annotations"]).insert("kubernetes.io/limit-ranger".into(), json!(note));
    }
}

fn violations(range: &Value, pod: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    for item in items(range, "Container") {
        for list in ["containers", "initContainers"] {
            for container in array(pod, &format!("/spec/{list}")) {
                errors.extend(bounds(
                    item,
                    "Container",
                    at(container, "/resources/requests").unwrap_or(&Value::Null),
                    at(container, "/resources/limits").unwrap_or(&Value::Null),
                ));
            }
        }
    }
    for item in items(range, "Pod") {
        let (requests, limits) = (pod_total(pod, "requests"), pod_total(pod, "limits"));
        errors.extend(bounds(item, "Pod", &requests, &limits));
    }
    errors
}

fn pod_total(pod: &Value, list: &str) -> Value {
    let totals = super::quota::pod_resources(pod, list);
    Value::Object(totals.into_iter().map(|(key, value)| (key, json!(value.to_string()))).collect::<Map<_, _>>())
}

fn bounds(item: &Value, kind: &str, requests: &Value, limits: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    let parse = |value: Option<&Value>| -> Option<Quantity> { super::quota::quantity(value?) };
    let each = |list: &str| item.get(list).and_then(Value::as_object).into_iter().flatten();
    for (key, bound) in each("min") {
        let Some(minimum) = parse(Some(bound)) else { continue };
        let shown = shown(bound);
        match (parse(requests.get(key)), parse(limits.get(key))) {
            (None, _) => errors.push(format!("minimum {key} usage per {kind} is {shown}.  No request is specified")),
            (Some(request), _) if request < minimum => errors.push(format!(
                "minimum {key} usage per {kind} is {shown}, but request is {}",
                self::shown(requests.get(key).unwrap_or(&Value::Null))
            )),
            (_, Some(limit)) if limit < minimum => errors.push(format!(
                "minimum {key} usage per {kind} is {shown}, but limit is {}",
                self::shown(limits.get(key).unwrap_or(&Value::Null))
            )),
            _ => {}
        }
    }
    for (key, bound) in each("max") {
        let Some(maximum) = parse(Some(bound)) else { continue };
        let shown = shown(bound);
        match (parse(requests.get(key)), parse(limits.get(key))) {
            (_, None) => errors.push(format!("maximum {key} usage per {kind} is {shown}.  No limit is specified")),
            (_, Some(limit)) if limit > maximum => errors.push(format!(
                "maximum {key} usage per {kind} is {shown}, but limit is {}",
                self::shown(limits.get(key).unwrap_or(&Value::Null))
            )),
            (Some(request), _) if request > maximum => errors.push(format!(
                "maximum {key} usage per {kind} is {shown}, but request is {}",
                self::shown(requests.get(key).unwrap_or(&Value::Null))
            )),
            _ => {}
        }
    }
    for (key, bound) in each("maxLimitRequestRatio") {
        let ratio = |q: Quantity| q.millis() as f64;
        let (Some(bound_q), Some(request), Some(limit)) =
            (parse(Some(bound)), parse(requests.get(key)), parse(limits.get(key)))
        else {
            continue;
        };
        let actual = ratio(limit) / ratio(request).max(1.0);
        if actual > ratio(bound_q) / 1000.0 {
            errors.push(format!(
                "{key} max limit to request ratio per {kind} is {}, but provided ratio is {actual:.6}",
                shown(bound)
            ));
        }
    }
    errors
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_without_limits_gets_the_namespaces() {
        let range = json!({"spec": {"limits": [{"type": "Container", "default": {"cpu": "500m"},
            "defaultRequest": {"cpu": "100m"}}]}});
        let mut pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "resources": {"limits": {"cpu": "1"},
            "requests": {"cpu": "1"}}}]}});
        default_containers(&range, &mut pod);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}})
        );
        assert_eq!(pod["spec"]["containers"][1]["resources"]["limits"]["cpu"], "1");
        assert_eq!(
            pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
            "LimitRanger plugin set: cpu limit for container a; cpu request for container a"
        );
    }

    #[test]
    fn bounds_are_told_as_kubernetes_tells_them() {
        let item = json!({"min": {"cpu": "100m"}, "max": {"cpu": "1"}});
        let told = |requests: Value, limits: Value| bounds(&item, "Container", &requests, &limits);
        assert_eq!(told(json!({"cpu": "500m"}), json!({"cpu": "1"})), Vec::<String>::new());
        assert_eq!(
            told(json!({"cpu": "50m"}), json!({"cpu": "2"})),
            [
                "minimum cpu usage per Container is 100m, but request is 50m",
                "maximum cpu usage per Container is 1, but limit is 2"
            ]
        );
    }
}
