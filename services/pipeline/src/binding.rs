//! `pods/binding`: the scheduler's decision becomes `spec.nodeName`. Decisions come in batches, and are committed in one.

use std::sync::Arc;

use galley_authz::Actor;
use galley_kube::{Resource, Status};
use galley_store::{CommitError, Object, Write};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::api::{ClusterApi, WriteOptions, commit_status};
use crate::encode;
use crate::value::{array, array_mut, map_at, text};

/// How often a binding is computed again after the pod's status changed in between.
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
        let mut answers: Vec<Option<Result<Arc<Object>, Status>>> = bindings.iter().map(|_| None).collect();
        for _ in 0..ATTEMPTS {
            let mut writes = Vec::new();
            let mut asked = Vec::new();
            for (index, binding) in bindings.iter().enumerate() {
                if answers[index].is_some() {
                    continue;
                }
                match self.bound(&pods, binding) {
                    Ok((stored, new)) if options.dry_run => {
                        answers[index] = Some(encode::unstored(&pods, stored.key.clone(), &new).map(Arc::new));
                    }
                    Ok((stored, new)) => match encode::draft(&pods, stored.key.clone(), &new) {
                        Ok(draft) => {
                            writes.push(Write::Update { draft, expected: stored.revision });
                            asked.push(index);
                        }
                        Err(status) => answers[index] = Some(Err(status)),
                    },
                    Err(status) => answers[index] = Some(Err(status)),
                }
            }
            if writes.is_empty() {
                break;
            }
            for (index, answer) in asked.into_iter().zip(self.store.commit_all(writes).await) {
                answers[index] = match answer {
                    Err(CommitError::Conflict { .. }) => None,
                    Err(error) => Some(Err(commit_status(&pods, &bindings[index].pod, error))),
                    Ok(object) => Some(Ok(object)),
                };
            }
        }
        let lost = |binding: &Binding| Status::conflict("", "pods", &binding.pod, crate::api::MODIFIED);
        answers
            .into_iter()
            .zip(&bindings)
            .map(|(answer, binding)| answer.unwrap_or_else(|| Err(lost(binding))))
            .collect()
    }

    fn bound(&self, pods: &Resource, binding: &Binding) -> Result<(Arc<Object>, Value), Status> {
        let stored = self.get(pods, &binding.namespace, &binding.pod)?;
        if !binding.uid.is_empty() && *binding.uid != *stored.uid {
            let why = format!(
                "Precondition failed: UID in precondition: {}, UID in object meta: {}",
                binding.uid, stored.uid
            );
            return Err(Status::conflict("", "pods", &binding.pod, &why));
        }
        let mut pod = stored.value().map_err(Status::internal)?;
        assign(&mut pod, binding, self.clock.now())?;
        Ok((stored, pod))
    }
}

/// Puts the node into the pod, unless it has one or is going away.
fn assign(pod: &mut Value, binding: &Binding, now: Timestamp) -> Result<(), Status> {
    let refuse = |why: String| Err(Status::conflict("", "pods/binding", &binding.pod, &why));
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        return refuse(format!("pod {} is being deleted, cannot be assigned to a host", binding.pod));
    }
    let assigned = text(pod, "/spec/nodeName");
    if !assigned.is_empty() {
        return refuse(format!("pod {} is already assigned to node {assigned:?}", binding.pod));
    }
    if !array(pod, "/spec/schedulingGates").is_empty() {
        return refuse(format!("pod {} has non-empty .spec.schedulingGates", binding.pod));
    }
    map_at(pod, &["spec"]).insert("nodeName".into(), json!(binding.node));
    if !binding.annotations.is_empty() {
        let annotations = map_at(pod, &["metadata", "annotations"]);
        for (key, value) in &binding.annotations {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let status = map_at(pod, &["status"]);
    let conditions = array_mut(status, "conditions");
    let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": crate::time::seconds(now)});
    match conditions.iter_mut().find(|condition| condition["type"] == "PodScheduled") {
        Some(condition) => *condition = scheduled,
        None => conditions.push(scheduled),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_assigned_once() {
        let binding = Binding { pod: "a".into(), node: "n1".into(), ..Binding::default() };
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut pod = json!({"metadata": {"name": "a"}, "spec": {}, "status": {"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}});
        assign(&mut pod, &binding, now).unwrap();
        assert_eq!(pod["spec"]["nodeName"], "n1");
        assert_eq!(pod["status"]["conditions"][0]["status"], "True");
        let refused = assign(&mut pod, &binding, now).unwrap_err();
        assert!(refused.message.ends_with("pod a is already assigned to node \"n1\""), "{refused}");
        let mut gated = json!({"metadata": {"name": "a"}, "spec": {"schedulingGates": [{"name": "g"}]}});
        assert_eq!(assign(&mut gated, &binding, now).unwrap_err().code, 409);
    }
}
