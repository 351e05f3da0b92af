//! NodeRestriction: a node changes itself, its lease and its pods, and nothing else; TaintNodesByCondition: a node starts as
//! not ready, so that no pod lands on it before it says otherwise.

use galley_kube::Status;
use serde_json::{Value, json};

use crate::admission::Request;
use crate::strategy::Part;
use crate::value::{array, array_mut, map_at, text};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const LEASES: &str = "kube-node-lease";
const MIRROR: &str = "/metadata/annotations/kubernetes.io~1config.mirror";

/// Gives a new node the not-ready taint.
pub(super) fn taint_new(node: &mut Value) {
    let taints = array_mut(map_at(node, &["spec"]), "taints");
    if !taints.iter().any(|taint| text(taint, "/key") == NOT_READY && text(taint, "/effect") == "NoSchedule") {
        taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
}

pub(super) fn admit(request: &Request<'_>, part: Part<'_>, old: Option<&Value>, new: &Value) -> Result<(), Status> {
    let Some(node) = request.actor.node() else { return Ok(()) };
    verdict(request, node, part, old, new).map_err(|why| request.forbidden(&why))
}

fn verdict(request: &Request<'_>, node: &str, part: Part<'_>, old: Option<&Value>, new: &Value) -> Result<(), String> {
    match (request.resource.group.as_str(), request.resource.plural.as_str()) {
        ("", "pods") => match old {
            None if new.pointer(MIRROR).is_none() => Err(format!(
                "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
            )),
            None if text(new, "/spec/nodeName") != node => {
                Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"))
            }
            None => Ok(()),
            Some(_) if part != Part::Sub("status") => Err(format!("node {node:?} can only update pod status")),
            Some(old) if text(old, "/spec/nodeName") != node => {
                Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"))
            }
            Some(_) => Ok(()),
        },
        ("", "nodes") if request.name != node => {
            Err(format!("node {node:?} is not allowed to modify node {:?}", request.name))
        }
        ("", "nodes") => match old {
            Some(old) if array(old, "/spec/taints") != array(new, "/spec/taints") => {
                Err(format!("node {node:?} is not allowed to modify taints"))
            }
            _ => Ok(()),
        },
        ("coordination.k8s.io", "leases") => lease(node, request.namespace, request.name),
        _ => Ok(()),
    }
}

fn lease(node: &str, namespace: &str, name: &str) -> Result<(), String> {
    if namespace != LEASES {
        return Err(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    if name != node {
        return Err("can only access node lease with the same name as the requesting node".into());
    }
    Ok(())
}

pub(super) fn admit_delete(request: &Request<'_>) -> Result<(), Status> {
    let Some(node) = request.actor.node() else { return Ok(()) };
    let verdict = match (request.resource.group.as_str(), request.resource.plural.as_str()) {
        ("", "pods") => {
            let pod = request.api.get(request.resource, request.namespace, request.name)?;
            if pod.fields.get("spec.nodeName").is_some_and(|on| on == node) {
                Ok(())
            } else {
                Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
            }
        }
        ("", "nodes") if request.name != node => {
            Err(format!("node {node:?} is not allowed to modify node {:?}", request.name))
        }
        ("coordination.k8s.io", "leases") => lease(node, request.namespace, request.name),
        _ => Ok(()),
    };
    verdict.map_err(|why| request.forbidden(&why))
}
