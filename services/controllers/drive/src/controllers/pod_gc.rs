//! Pod garbage: see `galley_controllers_plan::pod_gc`.
//!
//! Three kinds of keys: a node (the pods bound to it), a pod (that has no node), and `""` for all pods that ended.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use galley_controllers_plan::{Plan, meta, pod_gc};
use galley_store::{DecodeError, EventKind, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::controller::{Context, Controller, Wake};
use crate::view::{Change, View};

/// The controller.
#[derive(Debug, Default)]
pub struct PodGc {
    /// Since when nodes that pods are bound to are known to be missing.
    missing: HashMap<Arc<str>, Timestamp>,
    ended: BTreeSet<ObjectKey>,
}

impl Controller for PodGc {
    fn name(&self) -> &'static str {
        pod_gc::COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, view: &View, wake: &mut Wake) {
        let (key, object) = (change.key(), &change.now.object);
        let gone = change.kind == EventKind::Deleted;
        match change.resource() {
            "nodes" => wake.key(key.clone()),
            "pods" => {
                let phase = object.fields.get("status.phase");
                if !gone && matches!(phase, Some("Succeeded" | "Failed")) {
                    self.ended.insert(key.clone());
                    if self.ended.len() > pod_gc::KEPT {
                        wake.object("pods", "", "");
                    }
                } else {
                    self.ended.remove(key);
                }
                let node = object.fields.get("spec.nodeName").filter(|node| !node.is_empty());
                match node {
                    Some(node) if !gone && (change.now.deleting || view.get("nodes", "", node).is_none()) => {
                        wake.object("nodes", "", node);
                    }
                    None if !gone && change.now.deleting => wake.key(key.clone()),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let (view, now) = (context.view, context.now);
        if key.resource.as_str() == "nodes" {
            let node = view.typed(key)?;
            let pods: Vec<Arc<Pod>> =
                view.pods_on(&key.name).map(|seen| seen.object.typed()).collect::<Result<_, _>>()?;
            let missing_since = if node.is_some() || pods.is_empty() {
                self.missing.remove(&key.name);
                now
            } else {
                *self.missing.entry(key.name.clone()).or_insert(now)
            };
            return Ok(pod_gc::plan_node(&pod_gc::OnNode { node, missing_since, pods }, now).explain());
        }
        if !key.name.is_empty() {
            return Ok(pod_gc::plan_unplaced(view.typed::<Pod>(key)?.as_deref()).explain());
        }
        let mut ended = Vec::new();
        for pod in &self.ended {
            ended.extend(view.typed::<Pod>(pod)?.filter(|p| !meta::is_deleting(&p.metadata)));
        }
        Ok(pod_gc::plan_ended(&ended, pod_gc::KEPT).explain())
    }
}
