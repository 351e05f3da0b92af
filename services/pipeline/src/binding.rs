//! `pods/binding`: the scheduler's decision becomes `spec.nodeName`. Decisions come in batches, and are committed in one.

use std::sync::Arc;

use galley_authz::Actor;
use galley_kube::{Resource, Status};
use galley_store::{CommitError, Draft, Object, Write};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::api::{ClusterApi, WriteOptions, commit_status};
use crate::encode;
use crate::members::Members;
use crate::value::{array_mut, root, text};

/// The selectable field that says where a pod is.
const NODE_NAME: &str = "spec.nodeName";
/// How often an edit is computed again after the object changed in between.
const ATTEMPTS: usize = 8;

/// A pod and the node it goes to.
#[derive(Debug, Clone, Default)]
pub struct Binding {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid, or empty: whichever has the name.
    pub uid: String,
    /// The node's name.
    pub node: String,
    /// Annotations that the pod gets with it.
    pub annotations: Map<String, Value>,
}

impl Binding {
    /// From a `Binding` body posted for `pod`.
    pub fn from_body(namespace: &str, pod: &str, body: &Value) -> Result<Self, Status> {
        let kind = text(body, "/target/kind");
        let node = text(body, "/target/name");
        if !matches!(kind, "" | "Node") || node.is_empty() {
            let (field, reason, message) = if node.is_empty() {
                ("target.name", "FieldValueRequired", "Required value".to_owned())
            } else {
                let message = format!("Unsupported value: {kind:?}: supported values: \"Node\", \"<empty>\"");
                ("target.kind", "FieldValueNotSupported", message)
            };
            return Err(Status::invalid(
                "",
                "Binding",
                pod,
                &[galley_kube::FieldError { field: field.into(), reason, message }],
            ));
        }
        Ok(Self {
            namespace: namespace.into(),
            pod: pod.into(),
            uid: text(body, "/metadata/uid").into(),
            node: node.into(),
            annotations: body.pointer("/metadata/annotations").and_then(Value::as_object).cloned().unwrap_or_default(),
        })
    }
}

impl ClusterApi {
    /// Binds one pod.
    pub async fn bind(&self, actor: &Actor, binding: Binding, options: &WriteOptions) -> Result<Arc<Object>, Status> {
        self.bind_all(actor, vec![binding], options).await.pop().unwrap_or_else(|| Err(Status::internal("no answer")))
    }

    /// Binds pods in one batch of the store, answering each in order.
    pub async fn bind_all(
        &self,
        _actor: &Actor,
        bindings: Vec<Binding>,
        options: &WriteOptions,
    ) -> Vec<Result<Arc<Object>, Status>> {
        let pods = match self.builtin("pods") {
            Ok(pods) => pods,
            Err(status) => return bindings.iter().map(|_| Err(status.clone())).collect(),
        };
        let named = |binding: &Binding| binding.pod.clone();
        self.edit_all(&pods, &bindings, named, options, |binding| {
            let (stored, draft) = self.bound(&pods, binding)?;
            Ok((stored, Some(draft)))
        })
        .await
    }

    /// Edits objects in one batch of the store, answering each in order. An edit answers what it was made of and the new state;
    /// none where there is nothing to write. One that loses a race is made again.
    pub(crate) async fn edit_all<E>(
        &self,
        resource: &Resource,
        edits: &[E],
        named: impl Fn(&E) -> String,
        options: &WriteOptions,
        edit: impl Fn(&E) -> Result<(Arc<Object>, Option<Draft>), Status>,
    ) -> Vec<Result<Arc<Object>, Status>> {
        let mut answers: Vec<Option<Result<Arc<Object>, Status>>> = edits.iter().map(|_| None).collect();
        for _ in 0..ATTEMPTS {
            let mut writes = Vec::new();
            let mut asked = Vec::new();
            for (index, wanted) in edits.iter().enumerate() {
                if answers[index].is_some() {
                    continue;
                }
                match edit(wanted) {
                    Ok((stored, None)) => answers[index] = Some(Ok(stored)),
                    Ok((stored, Some(draft))) if options.dry_run => {
                        answers[index] = Some(Ok(Arc::new(Object::commit(draft, stored.revision))));
                    }
                    Ok((stored, Some(draft))) => {
                        writes.push(Write::Update { draft, expected: stored.revision });
                        asked.push(index);
                    }
                    Err(status) => answers[index] = Some(Err(status)),
                }
            }
            if writes.is_empty() {
                break;
            }
            for (index, answer) in asked.into_iter().zip(self.store.commit_all(writes).await) {
                answers[index] = match answer {
                    Err(CommitError::Conflict { .. }) => None,
                    Err(error) => Some(Err(commit_status(resource, &named(&edits[index]), error))),
                    Ok(object) => Some(Ok(object)),
                };
            }
        }
        let lost = |edit: &E| Status::conflict(&resource.group, &resource.plural, &named(edit), crate::api::MODIFIED);
        let answers = answers.into_iter().zip(edits);
        answers.map(|(answer, edit)| answer.unwrap_or_else(|| Err(lost(edit)))).collect()
    }

    /// A pod, if it is the one that is meant.
    pub(crate) fn pod(&self, pods: &Resource, namespace: &str, name: &str, uid: &str) -> Result<Arc<Object>, Status> {
        let stored = self.get(pods, namespace, name)?;
        if uid.is_empty() || *uid == *stored.uid {
            return Ok(stored);
        }
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", stored.uid);
        Err(Status::conflict("", "pods", name, &why))
    }

    fn bound(&self, pods: &Resource, binding: &Binding) -> Result<(Arc<Object>, Draft), Status> {
        let stored = self.pod(pods, &binding.namespace, &binding.pod, &binding.uid)?;
        let draft = assign(&stored, binding, self.clock.now())?;
        Ok((stored, draft))
    }
}

/// Puts the node into the pod, unless it has one or is going away.
fn assign(stored: &Object, binding: &Binding, now: Timestamp) -> Result<Draft, Status> {
    let refuse = |why: String| Err(Status::conflict("", "pods/binding", &binding.pod, &why));
    let mut pod = Members::parse(&stored.body)?;
    let mut metadata = pod.members("metadata")?;
    if metadata.text("deletionTimestamp").is_some() {
        return refuse(format!("pod {} is being deleted, cannot be assigned to a host", binding.pod));
    }
    let mut spec = pod.members("spec")?;
    if let Value::String(assigned) = spec.value("nodeName")?
        && !assigned.is_empty()
    {
        return refuse(format!("pod {} is already assigned to node {assigned:?}", binding.pod));
    }
    if spec.value("schedulingGates")?.as_array().is_some_and(|gates| !gates.is_empty()) {
        return refuse(format!("pod {} has non-empty .spec.schedulingGates", binding.pod));
    }
    let mut status = pod.value("status")?;
    let conditions = array_mut(root(&mut status), "conditions");
    let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": crate::time::seconds(now)});
    match conditions.iter_mut().find(|condition| condition["type"] == "PodScheduled") {
        Some(condition) => *condition = scheduled,
        None => conditions.push(scheduled),
    }
    spec.set("nodeName", &binding.node)?;
    let annotated = if binding.annotations.is_empty() {
        None
    } else {
        let mut annotations = metadata.value("annotations")?;
        root(&mut annotations).extend(binding.annotations.clone());
        metadata.set("annotations", &annotations)?;
        Some(metadata)
    };
    let spec = spec.to_raw()?;
    let annotated = annotated.map(|metadata| metadata.to_raw()).transpose()?;
    pod.set("spec", &spec)?;
    pod.set("status", &status)?;
    if let Some(metadata) = &annotated {
        pod.set("metadata", metadata)?;
    }
    let (head, tail) = encode::halves_of(&pod)?;
    let others = stored.fields.iter().filter(|(name, _)| *name != NODE_NAME);
    Ok(Draft {
        key: stored.key.clone(),
        uid: stored.uid.clone(),
        labels: stored.labels.clone(),
        fields: others.chain([(NODE_NAME, binding.node.as_str())]).collect(),
        head,
        tail,
    })
}

#[cfg(test)]
mod tests {
    use galley_store::ObjectKey;
    use galley_types::Revision;

    use super::*;

    fn stored(pod: &Value) -> Object {
        let pods = crate::testing::resource("", "pods");
        let key = ObjectKey::new(&pods.name(), "n", "a");
        Object::commit(encode::draft(&pods, key, pod).unwrap(), Revision(7))
    }

    #[test]
    fn a_pod_is_assigned_once() {
        let binding = Binding { pod: "a".into(), node: "n1".into(), ..Binding::default() };
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let pod = json!({"metadata": {"name": "a", "managedFields": [{"manager": "m"}]}, "spec": {"containers": []},
            "status": {"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}});
        let pods = crate::testing::resource("", "pods");
        let bound = Object::commit(assign(&stored(&pod), &binding, now).unwrap(), Revision(8));
        let tree = bound.value().unwrap();
        assert_eq!(tree["spec"], json!({"containers": [], "nodeName": "n1"}));
        assert_eq!(tree["status"]["conditions"].as_array().map(Vec::len), Some(1));
        assert_eq!(tree["status"]["conditions"][0]["status"], "True");
        // As if it had been decoded and encoded whole.
        let whole = Object::commit(encode::draft(&pods, bound.key.clone(), &tree).unwrap(), Revision(8));
        assert_eq!((&bound.body, &bound.fields, &bound.labels), (&whole.body, &whole.fields, &whole.labels));

        let refused = assign(&bound, &binding, now).unwrap_err();
        assert!(refused.message.ends_with("pod a is already assigned to node \"n1\""), "{refused}");
        let gated = json!({"metadata": {"name": "a"}, "spec": {"schedulingGates": [{"name": "g"}]}});
        assert_eq!(assign(&stored(&gated), &binding, now).unwrap_err().code, 409);
        let going = json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {}});
        assert_eq!(assign(&stored(&going), &binding, now).unwrap_err().code, 409);
    }

    #[test]
    fn a_binding_may_annotate_the_pod() {
        let annotations = json!({"b": "2"}).as_object().cloned().unwrap_or_default();
        let binding = Binding { pod: "a".into(), node: "n1".into(), annotations, ..Binding::default() };
        let pod = json!({"metadata": {"name": "a", "annotations": {"a": "1"}, "labels": {"l": "v"}}, "spec": {}});
        let bound = assign(&stored(&pod), &binding, "2026-01-01T00:00:00Z".parse().unwrap()).unwrap();
        let bound = Object::commit(bound, Revision(8)).value().unwrap();
        assert_eq!(
            bound["metadata"],
            json!({"name": "a", "annotations": {"a": "1", "b": "2"}, "labels": {"l": "v"},
            "resourceVersion": "8"})
        );
        assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    }
}
