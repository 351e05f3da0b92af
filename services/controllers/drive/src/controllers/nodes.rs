//! What concerns nodes: address ranges, heartbeats and taints, eviction. See `galley_controllers_plan::{node_ipam,
//! node_lifecycle, taint_eviction}`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use galley_controllers_plan::{Plan, node_ipam, node_lifecycle, pod, taint_eviction};
use galley_store::{DecodeError, EventKind, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};

use crate::controller::{Context, Controller, Wake};
use crate::view::{Change, Seen, View};

/// Where agents renew their Leases.
const LEASES: &str = "kube-node-lease";

/// Gives each node its pod range.
#[derive(Debug)]
pub struct NodeIpam;

/// Watches heartbeats, and taints nodes.
#[derive(Debug, Default)]
pub struct NodeLifecycle {
    /// Nodes that were heard of since they were last planned for.
    fresh: HashSet<Arc<str>>,
    /// When each node was last heard of.
    heard: HashMap<Arc<str>, Timestamp>,
}

/// Evicts pods from tainted nodes.
#[derive(Debug, Default)]
pub struct TaintEviction {
    first_seen: HashMap<Arc<str>, taint_eviction::FirstSeen>,
}

impl Controller for NodeIpam {
    fn name(&self) -> &'static str {
        node_ipam::COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, _: &View, wake: &mut Wake) {
        if change.resource() != "nodes" {
            return;
        }
        // A node that goes leaves a range that another may wait for.
        let lacks =
            |node: &Node| node.spec.as_ref().is_none_or(|s| s.pod_cidr.as_deref().unwrap_or_default().is_empty());
        if change.kind == EventKind::Deleted || change.now.object.typed::<Node>().is_ok_and(|node| lacks(&node)) {
            wake.object("nodes", "", "");
        }
    }

    fn plan(&mut self, _: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let nodes = context.view.all("nodes").map(|seen| seen.object.typed()).collect::<Result<_, _>>()?;
        let observed = node_ipam::Observed { nodes, pod_cidr: context.settings.pod_cidr };
        Ok(node_ipam::plan(&observed).explain())
    }
}

fn ready(node: &Node) -> Option<&NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready")
}

fn is_silent(seen: &Seen) -> bool {
    seen.object.typed::<Node>().is_ok_and(|node| ready(&node).is_some_and(|c| c.status == "Unknown"))
}

impl Controller for NodeLifecycle {
    fn name(&self) -> &'static str {
        node_lifecycle::COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, view: &View, wake: &mut Wake) {
        let key = change.key();
        let gone = change.kind == EventKind::Deleted;
        match change.resource() {
            "leases.coordination.k8s.io" if &*key.namespace == LEASES && !gone => {
                self.fresh.insert(key.name.clone());
                wake.object("nodes", "", &key.name);
            }
            "nodes" if gone => {
                self.fresh.remove(&key.name);
                self.heard.remove(&key.name);
                wake_silent(view, wake);
            }
            "nodes" => {
                let beat = |seen: &Seen| {
                    let node = seen.object.typed::<Node>().ok()?;
                    ready(&node).and_then(|c| c.last_heartbeat_time.clone())
                };
                if change.before.is_none_or(|before| beat(before) != beat(change.now)) {
                    self.fresh.insert(key.name.clone());
                }
                // The first node that is heard of again ends the truce for the others.
                if change.before.is_some_and(|before| is_silent(before) != is_silent(change.now)) {
                    wake_silent(view, wake);
                }
                wake.key(key.clone());
            }
            "pods" => {
                let node = change.now.object.fields.get("spec.nodeName").filter(|node| !node.is_empty());
                if let Some(node) = node
                    && !gone
                    && view.get("nodes", "", node).is_some_and(is_silent)
                {
                    wake.object("nodes", "", node);
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let (view, now) = (context.view, context.now);
        if self.fresh.remove(&key.name) {
            self.heard.insert(key.name.clone(), now);
        }
        let Some(seen) = view.at(key) else {
            self.heard.remove(&key.name);
            return Ok(node_lifecycle::plan(&node_lifecycle::Observed::default(), now).explain());
        };
        // Silence counts from when it could have been broken: a node must not pay for an outage of the database.
        let heard = (*self.heard.entry(key.name.clone()).or_insert(now)).max(context.hearing_since);
        let silent = is_silent(seen);
        let mut pods = Vec::new();
        if silent {
            for pod in view.pods_on(&key.name) {
                pods.push(pod.object.typed::<Pod>()?);
            }
        }
        let observed = node_lifecycle::Observed {
            node: Some(seen.object.typed()?),
            heard,
            grace: context.node_monitor_grace_period,
            any_heard: !silent || view.all("nodes").any(|other| !is_silent(other)),
            pods,
        };
        Ok(node_lifecycle::plan(&observed, now).explain())
    }
}

fn wake_silent(view: &View, wake: &mut Wake) {
    for seen in view.all("nodes").filter(|seen| is_silent(seen)) {
        wake.key(seen.object.key.clone());
    }
}

impl Controller for TaintEviction {
    fn name(&self) -> &'static str {
        taint_eviction::COMPONENT
    }

    fn changed(&mut self, change: &Change<'_>, view: &View, wake: &mut Wake) {
        let key = change.key();
        let evicting = |seen: &Seen| {
            seen.object.typed::<Node>().is_ok_and(|node| taint_eviction::evicting(&node).next().is_some())
        };
        match change.resource() {
            "nodes" => {
                if change.kind == EventKind::Deleted {
                    self.first_seen.remove(&key.name);
                } else if evicting(change.now) || change.before.is_some_and(evicting) {
                    wake.key(key.clone());
                }
            }
            "pods" if change.kind != EventKind::Deleted && !change.now.deleting => {
                let node = change.now.object.fields.get("spec.nodeName").filter(|node| !node.is_empty());
                if let Some(node) = node
                    && view.get("nodes", "", node).is_some_and(evicting)
                {
                    wake.object("nodes", "", node);
                }
            }
            _ => {}
        }
    }

    fn plan(&mut self, key: &ObjectKey, context: &Context<'_>) -> Result<Plan<String>, DecodeError> {
        let (view, now) = (context.view, context.now);
        let node = view.typed::<Node>(key)?;
        let taints: Vec<_> = node.iter().flat_map(|node| taint_eviction::evicting(node)).collect();
        let mut pods = Vec::new();
        let mut first_seen = taint_eviction::FirstSeen::new();
        if taints.is_empty() {
            self.first_seen.remove(&key.name);
        } else {
            let before = self.first_seen.remove(&key.name).unwrap_or_default();
            for taint in taints {
                let id = (taint.key.clone(), taint.value.clone().unwrap_or_default());
                let since = before.get(&id).copied().unwrap_or(now);
                first_seen.insert(id, since);
            }
            self.first_seen.insert(key.name.clone(), first_seen.clone());
            for seen in view.pods_on(&key.name) {
                let found = seen.object.typed::<Pod>()?;
                if !pod::is_terminal(&found) {
                    pods.push(found);
                }
            }
        }
        Ok(taint_eviction::plan(&taint_eviction::Observed { node, pods, first_seen }, now).explain())
    }
}
