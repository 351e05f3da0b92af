//! Conditions of pods that the scheduler writes, in batches as it writes bindings: what `kubectl describe` shows of a pod that
//! finds no node. A write of `pods/status` like any other, `managedFields` included, but for thousands of pods at once.

use std::sync::Arc;

use galley_authz::Actor;
use galley_kube::apply::Writer;
use galley_kube::{Resource, Status};
use galley_store::{Draft, Object};
use jiff::Timestamp;
use serde_json::{Value, json};

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
