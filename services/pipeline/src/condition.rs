//! Conditions of pods that the scheduler writes, in batches as it writes bindings: what `kubectl describe` shows of a pod that
//! finds no node. A write of `pods/status` like any other, `managedFields` included, but for thousands of pods at once.

use std::borrow::Cow;
use std::sync::Arc;

use galley_authz::Actor;
use galley_kube::apply::Writer;
use galley_kube::{Resource, Status};
use galley_store::{Draft, Object};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::api::{ClusterApi, WriteOptions};
use crate::create::manager;
use crate::members::Members;
use crate::value::{array_mut, root};
use crate::{encode, rules};

/// The selectable field that says where room is made for a pod.
const NOMINATED: &str = "status.nominatedNodeName";

/// A condition of a pod.
#[derive(Debug, Clone, Default)]
pub struct PodCondition {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid, or empty: whichever has the name.
    pub uid: String,
    /// The condition; it takes the place of the one of its `type`.
    pub condition: Value,
    /// `status.nominatedNodeName`: leave it, take it away, or set it.
    pub nominated: Option<Option<String>>,
}

impl ClusterApi {
    /// Sets conditions of pods in one batch of the store, answering each in order. What changes nothing writes nothing.
    pub async fn pod_conditions(
        &self,
        actor: &Actor,
        conditions: Vec<PodCondition>,
        options: &WriteOptions,
    ) -> Vec<Result<Arc<Object>, Status>> {
        let pods = match self.builtin("pods") {
            Ok(pods) => pods,
            Err(status) => return conditions.iter().map(|_| Err(status.clone())).collect(),
        };
        let manager = manager(options, actor);
        let named = |wanted: &PodCondition| wanted.pod.clone();
        self.edit_all(&pods, &conditions, named, options, |wanted| {
            let stored = self.pod(&pods, &wanted.namespace, &wanted.pod, &wanted.uid)?;
            let draft = tell(&pods, &stored, wanted, manager, self.clock.now())?;
            Ok((stored, draft))
        })
        .await
    }
}

/// The pod with the condition; `None` if it says so already.
fn tell(
    pods: &Resource,
    stored: &Object,
    wanted: &PodCondition,
    manager: &str,
    now: Timestamp,
) -> Result<Option<Draft>, Status> {
    match tell_first(pods, stored, wanted, manager, now)? {
        Some(draft) => Ok(Some(draft)),
        None => tell_any(pods, stored, wanted, manager, now),
    }
}

/// What is read of an entry of `managedFields`.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow, default)]
    manager: Cow<'a, str>,
    operation: Operation,
    #[serde(borrow, default, rename = "apiVersion")]
    api_version: Cow<'a, str>,
    #[serde(borrow, default)]
    subresource: Cow<'a, str>,
    #[serde(borrow, default)]
    time: Cow<'a, str>,
    #[serde(borrow, rename = "fieldsV1")]
    fields: &'a RawValue,
}

#[derive(Deserialize, PartialEq, Eq)]
enum Operation {
    Apply,
    Update,
}

/// The first condition of a pod whose status nobody has written, which is what a flood of pods without a node consists of:
/// texts are put together, nothing is decoded. `None` where it is not so simple.
fn tell_first(
    pods: &Resource,
    stored: &Object,
    wanted: &PodCondition,
    manager: &str,
    now: Timestamp,
) -> Result<Option<Draft>, Status> {
    let mut pod = Members::parse(&stored.body)?;
    let text = pod.text("status").unwrap_or("null").to_owned();
    let mut status = Members::parse(text.as_bytes())?;
    let nominates = stored.fields.get(NOMINATED).is_some() || wanted.nominated.as_ref().is_some_and(Option::is_some);
    let (Some(condition), false) = (wanted.condition.as_object(), nominates || status.text("conditions").is_some())
    else {
        return Ok(None);
    };
    let Some(kind) = condition.get("type").and_then(Value::as_str) else { return Ok(None) };
    let text = pod.text("metadata").unwrap_or("null").to_owned();
    let mut metadata = Members::parse(text.as_bytes())?;
    let now = crate::time::seconds(now);
    let api_version = pods.api_version();
    let kept = metadata.text("managedFields").unwrap_or("[]");
    let mut entries: Vec<&RawValue> = serde_json::from_str(kept).map_err(Status::internal)?;
    // Entries are ordered: appliers, then by time, manager and the rest.
    let mut place = 0;
    for (at, entry) in entries.iter().enumerate() {
        let entry: Entry<'_> = serde_json::from_str(entry.get()).map_err(Status::internal)?;
        if !entry.subresource.is_empty() || entry.fields.get().contains("\"f:status\"") {
            return Ok(None);
        }
        let ours = (now.as_str(), manager, api_version.as_str());
        if entry.operation == Operation::Apply || (&*entry.time, &*entry.manager, &*entry.api_version) <= ours {
            place = at + 1;
        }
    }
    let mut owned: Map<String, Value> = condition.keys().map(|name| (format!("f:{name}"), json!({}))).collect();
    owned.insert(".".into(), json!({}));
    let item = format!("k:{}", json!({ "type": kind }));
    let entry = json!({"apiVersion": api_version, "fieldsType": "FieldsV1", "manager": manager,
        "operation": "Update", "subresource": "status", "time": now,
        "fieldsV1": {"f:status": {"f:conditions": {".": {}, item: owned}}}});
    let entry = serde_json::value::to_raw_value(&entry).map_err(Status::internal)?;
    entries.insert(place, &entry);
    let managed = serde_json::value::to_raw_value(&entries).map_err(Status::internal)?;
    metadata.set("managedFields", &managed)?;
    status.set("conditions", &[condition])?;
    let status = status.to_raw()?;
    pod.set("status", &status)?;
    let (head, tail) = encode::halves_with(&pod, &metadata)?;
    Ok(Some(Draft {
        key: stored.key.clone(),
        uid: stored.uid.clone(),
        labels: stored.labels.clone(),
        fields: stored.fields.clone(),
        head,
        tail,
    }))
}

/// Any condition.
fn tell_any(
    pods: &Resource,
    stored: &Object,
    wanted: &PodCondition,
    manager: &str,
    now: Timestamp,
) -> Result<Option<Draft>, Status> {
    let mut pod = Members::parse(&stored.body)?;
    // The spec stays as it is, and owns no field that changes: the record of managers is kept over the rest.
    let old = json!({"metadata": pod.value("metadata")?, "status": pod.value("status")?});
    let mut new = old.clone();
    let status = root(&mut new["status"]);
    let conditions = array_mut(status, "conditions");
    match conditions.iter_mut().find(|condition| condition["type"] == wanted.condition["type"]) {
        Some(condition) => *condition = wanted.condition.clone(),
        None => conditions.push(wanted.condition.clone()),
    }
    match &wanted.nominated {
        None => {}
        Some(None) => drop(status.remove("nominatedNodeName")),
        Some(Some(node)) => drop(status.insert("nominatedNodeName".into(), json!(node))),
    }
    if new == old {
        return Ok(None);
    }
    rules::manage_fields(pods, Some(&old), &mut new, &Writer { manager, subresource: "status", now });
    pod.set("metadata", &new["metadata"])?;
    pod.set("status", &new["status"])?;
    let (head, tail) = encode::halves_of(&pod)?;
    let nominated = new["status"]["nominatedNodeName"].as_str().filter(|node| !node.is_empty());
    let others = stored.fields.iter().filter(|(name, _)| *name != NOMINATED);
    Ok(Some(Draft {
        key: stored.key.clone(),
        uid: stored.uid.clone(),
        labels: stored.labels.clone(),
        fields: others.chain(nominated.map(|node| (NOMINATED, node))).collect(),
        head,
        tail,
    }))
}

#[cfg(test)]
mod tests {
    use galley_store::ObjectKey;
    use galley_types::Revision;

    use super::*;

    #[test]
    fn the_first_condition_of_a_pod_is_what_any_condition_would_be() {
        let pods = crate::testing::resource("", "pods");
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "\"no\" node",
            "lastProbeTime": null, "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let entry = |operation: &str, manager: &str, time: &str, fields: Value| {
            json!({"manager": manager, "operation": operation, "apiVersion": "v1", "time": time,
                "fieldsType": "FieldsV1", "fieldsV1": fields})
        };
        let spec = || json!({"f:spec": {"f:nodeName": {}}});
        for (managed, simple) in [
            (json!(null), true),
            (json!([entry("Update", "kubectl", "2025-12-31T00:00:00Z", spec())]), true),
            (json!([entry("Update", "a", "2026-01-01T00:00:00Z", spec())]), true),
            (json!([entry("Apply", "z", "2026-02-01T00:00:00Z", spec())]), true),
            // Theirs comes after ours.
            (json!([entry("Update", "z", "2026-01-01T00:00:00Z", spec())]), true),
            (
                json!([
                    entry("Update", "a", "2026-01-01T00:00:00Z", spec()),
                    entry("Update", "z", "2026-01-01T00:00:00Z", spec())
                ]),
                true,
            ),
            // Theirs concerns the status.
            (json!([entry("Update", "a", "2025-12-31T00:00:00Z", json!({"f:status": {"f:phase": {}}}))]), false),
        ] {
            let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "uid": "u"},
                "spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Pending", "qosClass": "BestEffort"}});
            if !managed.is_null() {
                pod["metadata"]["managedFields"] = managed.clone();
            }
            let key = ObjectKey::new(&pods.name(), "n", "a");
            let stored = Object::commit(encode::draft(&pods, key, &pod).unwrap(), Revision(1));
            let wanted = PodCondition { condition: condition.clone(), ..PodCondition::default() };
            let first = tell_first(&pods, &stored, &wanted, "default-scheduler", now).unwrap();
            assert_eq!(first.is_some(), simple, "{managed}");
            let any = tell_any(&pods, &stored, &wanted, "default-scheduler", now).unwrap().expect("a change");
            let any = Object::commit(any, Revision(2));
            let told = Object::commit(
                first.unwrap_or_else(|| tell(&pods, &stored, &wanted, "default-scheduler", now).unwrap().unwrap()),
                Revision(2),
            );
            assert_eq!((told.value().unwrap(), &told.fields), (any.value().unwrap(), &any.fields), "{managed}");
            assert_eq!(told.body, any.body, "{managed}");
        }
    }

    #[test]
    fn a_condition_is_set_once_and_its_manager_recorded() {
        let pods = crate::testing::resource("", "pods");
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "uid": "u"},
            "spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "Unknown"}, {"type": "Other", "status": "True"}]}});
        let key = ObjectKey::new(&pods.name(), "n", "a");
        let stored = Object::commit(encode::draft(&pods, key.clone(), &pod).unwrap(), Revision(1));
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable"});
        let wanted = PodCondition {
            condition: condition.clone(),
            nominated: Some(Some("n1".into())),
            ..PodCondition::default()
        };
        let draft = tell(&pods, &stored, &wanted, "default-scheduler", now).unwrap().expect("a change");
        let told = Object::commit(draft, Revision(2));
        let tree = told.value().unwrap();
        assert_eq!(tree["spec"], pod["spec"]);
        assert_eq!(tree["status"]["conditions"], json!([condition, {"type": "Other", "status": "True"}]));
        let managed = &tree["metadata"]["managedFields"][0];
        assert_eq!((&managed["manager"], &managed["subresource"]), (&json!("default-scheduler"), &json!("status")));
        assert!(managed["fieldsV1"]["f:status"]["f:nominatedNodeName"].is_object(), "{managed}");
        assert!(managed["fieldsV1"]["f:spec"].is_null(), "{managed}");
        // As if it had been decoded and encoded whole.
        let whole = Object::commit(encode::draft(&pods, key, &tree).unwrap(), Revision(2));
        assert_eq!((&told.body, &told.fields), (&whole.body, &whole.fields));

        assert!(tell(&pods, &told, &wanted, "default-scheduler", now).unwrap().is_none(), "it says so already");
        let wanted = PodCondition { nominated: Some(None), ..wanted };
        let draft = tell(&pods, &told, &wanted, "default-scheduler", now).unwrap().expect("a change");
        assert_eq!(draft.fields.get(NOMINATED), None);
    }
}
