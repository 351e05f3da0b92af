//! Priority: a pod's `priorityClassName` becomes its `priority` and `preemptionPolicy`.

use std::sync::Arc;

use galley_kube::Status;
use serde_json::{Value, json};

use crate::admission::Request;
use crate::value::{int, map_at, text};

const CLASSES: &str = "priorityclasses.scheduling.k8s.io";

/// What a priority class gives to its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Class {
    name: String,
    value: i64,
    policy: String,
}

impl Class {
    fn of(object: &Value) -> Self {
        let policy = match text(object, "/preemptionPolicy") {
            "" => "PreemptLowerPriority",
            policy => policy,
        };
        Self {
            name: text(object, "/metadata/name").into(),
            value: int(object, "/value").unwrap_or(0),
            policy: policy.into(),
        }
    }
}

pub(super) fn admit(request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
    let name = text(pod, "/spec/priorityClassName").to_owned();
    let class = if name.is_empty() {
        default_class(&request.fetch_all(CLASSES, ""))
    } else {
        match request.fetch(CLASSES, "", &name) {
            Some(found) => Some(Class::of(&found)),
            None => return Err(request.forbidden(&format!("no PriorityClass with name {name} was found"))),
        }
    };
    apply(pod, class).map_err(|why| request.forbidden(&why))
}

/// The class marked `globalDefault`; of several the one with the lowest value.
fn default_class(classes: &[Arc<Value>]) -> Option<Class> {
    classes
        .iter()
        .filter(|class| class["globalDefault"] == true)
        .map(|class| Class::of(class))
        .min_by_key(|class| class.value)
}

fn apply(pod: &mut Value, class: Option<Class>) -> Result<(), String> {
    let (name, value, policy) = match class {
        Some(class) => (class.name, class.value, class.policy),
        None => (String::new(), 0, "PreemptLowerPriority".to_owned()),
    };
    if let Some(asked) = int(pod, "/spec/priority")
        && asked != value
    {
        return Err(format!(
            "the integer value of priority ({asked}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        ));
    }
    let asked = text(pod, "/spec/preemptionPolicy");
    if !asked.is_empty() && asked != policy {
        return Err(format!(
            "the string value of PreemptionPolicy ({asked}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        ));
    }
    let spec = map_at(pod, &["spec"]);
    if !name.is_empty() {
        spec.insert("priorityClassName".into(), json!(name));
    }
    spec.insert("priority".into(), json!(value));
    spec.insert("preemptionPolicy".into(), json!(policy));
    Ok(())
}

/// There is at most one global default.
pub(super) fn admit_class(request: &Request<'_>, class: &Value) -> Result<(), Status> {
    if class["globalDefault"] != true {
        return Ok(());
    }
    let other = request
        .fetch_all(CLASSES, "")
        .into_iter()
        .find(|other| other["globalDefault"] == true && text(other, "/metadata/name") != request.name);
    match other {
        Some(other) => Err(request.forbidden(&format!(
            "PriorityClass {} is already marked as default. Only one default can exist",
            text(&other, "/metadata/name")
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_gets_the_value_and_policy_of_its_class() {
        let class = json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"});
        let mut pod = json!({"spec": {"priorityClassName": "high"}});
        apply(&mut pod, Some(Class::of(&class))).unwrap();
        assert_eq!(pod["spec"], json!({"priorityClassName": "high", "priority": 1000, "preemptionPolicy": "Never"}));
        let mut plain = json!({"spec": {}});
        apply(&mut plain, None).unwrap();
        assert_eq!(plain["spec"]["priority"], 0);
        assert!(apply(&mut json!({"spec": {"priority": 7}}), None).unwrap_err().contains("(7) must not be provided"));
    }

    #[test]
    fn the_lowest_of_two_defaults_wins() {
        let class = |name: &str, value: i64| {
            Arc::new(json!({"metadata": {"name": name}, "value": value, "globalDefault": true}))
        };
        assert_eq!(default_class(&[class("a", 5), class("b", 2)]).map(|c| c.name).as_deref(), Some("b"));
    }
}
