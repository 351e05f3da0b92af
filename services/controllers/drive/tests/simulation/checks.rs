//! What must be so in a world at rest: what there is is what was asked for, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::world::World;

/// Everything that is not as it should be.
pub async fn broken(world: &World) -> Vec<String> {
    let objects = world.calm_api().await.store().list_all().objects;
    let mut state = State { of: BTreeMap::new(), uids: BTreeSet::new(), broken: Vec::new() };
    for object in objects {
        let value = object.value().expect("JSON");
        state.uids.insert(object.uid.to_string());
        state.of.entry(object.key.resource.as_str().to_owned()).or_default().push(value);
    }
    state.everything();
    state.pods();
    state.deployments();
    state.replica_sets();
    state.stateful_sets();
    state.daemon_sets();
    state.jobs();
    let mut expected = world.nodes.lock().names();
    expected.retain(|name| !state.all("nodes").iter().any(|node| text(node, "/metadata/name") == name));
    state.hold(expected.is_empty(), || format!("nodes are missing: {expected:?}"));
    state.broken
}

struct State {
    of: BTreeMap<String, Vec<Value>>,
    uids: BTreeSet<String>,
    broken: Vec<String>,
}

fn text<'a>(value: &'a Value, at: &str) -> &'a str {
    value.pointer(at).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, at: &str) -> i64 {
    value.pointer(at).and_then(Value::as_i64).unwrap_or(0)
}

fn place(value: &Value) -> String {
    format!("{} {}/{}", text(value, "/kind"), text(value, "/metadata/namespace"), text(value, "/metadata/name"))
}

fn controller(value: &Value) -> Option<&Value> {
    value["metadata"]["ownerReferences"].as_array()?.iter().find(|owner| owner["controller"] == true)
}

impl State {
    fn hold(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(what());
        }
    }

    fn all(&self, resource: &str) -> Vec<Value> {
        self.of.get(resource).cloned().unwrap_or_default()
    }

    fn controlled<'a>(&'a self, resource: &str, owner: &'a Value) -> Vec<&'a Value> {
        let of = self.of.get(resource).map(Vec::as_slice).unwrap_or_default();
        let mine = |object: &&Value| {
            controller(object).is_some_and(|by| by["uid"] == owner["metadata"]["uid"] && by["kind"] == owner["kind"])
        };
        of.iter().filter(mine).collect()
    }

    fn pods_of<'a>(&'a self, owner: &'a Value) -> Vec<&'a Value> {
        self.controlled("pods", owner)
    }

    /// Nothing is on its way out, nothing has lost its owner or its namespace.
    fn everything(&mut self) {
        let namespaces: BTreeSet<String> =
            self.all("namespaces").iter().map(|namespace| text(namespace, "/metadata/name").to_owned()).collect();
        for object in self.of.values().flatten().cloned().collect::<Vec<_>>() {
            let what = place(&object);
            self.hold(object["metadata"]["deletionTimestamp"].is_null(), || format!("{what} is still being deleted"));
            let namespace = text(&object, "/metadata/namespace");
            self.hold(namespace.is_empty() || namespaces.contains(namespace), || format!("{what} has no namespace"));
            for owner in object["metadata"]["ownerReferences"].as_array().into_iter().flatten() {
                let there = self.uids.contains(text(owner, "/uid"));
                self.hold(there, || format!("{what} has lost its owner {}", text(owner, "/name")));
            }
        }
    }

    fn pods(&mut self) {
        let nodes: BTreeSet<String> =
            self.all("nodes").iter().map(|node| text(node, "/metadata/name").to_owned()).collect();
        for pod in self.all("pods") {
            let (what, node, phase) = (place(&pod), text(&pod, "/spec/nodeName"), text(&pod, "/status/phase"));
            let settled = matches!(phase, "Running" | "Succeeded" | "Failed");
            self.hold(settled || nodes.is_empty(), || format!("{what} is {phase:?} on {node:?}"));
            self.hold(node.is_empty() || nodes.contains(node), || format!("{what} is on {node}, which is no more"));
        }
    }

    fn deployments(&mut self) {
        let there_are_nodes = !self.all("nodes").is_empty();
        for deployment in self.all("deployments.apps") {
            let (what, wanted) = (place(&deployment), number(&deployment, "/spec/replicas"));
            let sets = self.controlled("replicasets.apps", &deployment);
            let mut replicas: Vec<i64> = sets.iter().map(|set| number(set, "/spec/replicas")).collect();
            replicas.retain(|n| *n > 0);
            let expected = if wanted == 0 { vec![] } else { vec![wanted] };
            self.hold(replicas == expected || !there_are_nodes, || format!("{what} wants {wanted} of {replicas:?}"));
            let status = &deployment["status"];
            let told = number(status, "/observedGeneration") == number(&deployment, "/metadata/generation")
                && number(status, "/updatedReplicas") == wanted
                && number(status, "/availableReplicas") == wanted;
            self.hold(told || !there_are_nodes, || format!("{what} tells {status}"));
        }
    }

    fn replica_sets(&mut self) {
        for set in self.all("replicasets.apps") {
            let (what, wanted) = (place(&set), number(&set, "/spec/replicas"));
            let active = self.pods_of(&set).into_iter().filter(|pod| text(pod, "/status/phase") != "Failed").count();
            self.hold(i64::try_from(active) == Ok(wanted), || format!("{what} wants {wanted} pods of {active}"));
            let status = &set["status"];
            let told = number(status, "/observedGeneration") == number(&set, "/metadata/generation")
                && number(status, "/replicas") == wanted;
            self.hold(told, || format!("{what} tells {status}"));
        }
    }

    fn stateful_sets(&mut self) {
        let there_are_nodes = !self.all("nodes").is_empty();
        for set in self.all("statefulsets.apps") {
            let (what, wanted) = (place(&set), number(&set, "/spec/replicas"));
            let mut names: Vec<&str> = self.pods_of(&set).into_iter().map(|pod| text(pod, "/metadata/name")).collect();
            names.sort_unstable();
            let expected: Vec<String> = (0..wanted).map(|n| format!("{}-{n}", text(&set, "/metadata/name"))).collect();
            let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
            self.hold(names == expected || !there_are_nodes, || format!("{what} wants {expected:?}, not {names:?}"));
            let status = &set["status"];
            let told = number(status, "/readyReplicas") == wanted
                && status["currentRevision"] == status["updateRevision"]
                && number(status, "/observedGeneration") == number(&set, "/metadata/generation");
            self.hold(told || !there_are_nodes, || format!("{what} tells {status}"));
        }
    }

    fn daemon_sets(&mut self) {
        let mut nodes: Vec<String> =
            self.all("nodes").iter().map(|node| text(node, "/metadata/name").to_owned()).collect();
        nodes.sort_unstable();
        for set in self.all("daemonsets.apps") {
            let what = place(&set);
            let mut on: Vec<String> =
                self.pods_of(&set).into_iter().map(|pod| text(pod, "/spec/nodeName").to_owned()).collect();
            on.sort_unstable();
            self.hold(on == nodes, || format!("{what} runs on {on:?} of {nodes:?}"));
            let count = i64::try_from(nodes.len()).unwrap_or(0);
            let status = &set["status"];
            let told = number(status, "/numberReady") == count && number(status, "/updatedNumberScheduled") == count;
            self.hold(told, || format!("{what} tells {status}"));
        }
    }

    fn jobs(&mut self) {
        let there_are_nodes = !self.all("nodes").is_empty();
        for job in self.all("jobs.batch") {
            let (what, status) = (place(&job), &job["status"]);
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            let ended =
                conditions.iter().any(|c| (c["type"] == "Complete" || c["type"] == "Failed") && c["status"] == "True");
            self.hold(ended || !there_are_nodes, || format!("{what} tells {status}"));
            let held: Vec<String> = self
                .pods_of(&job)
                .into_iter()
                .filter(|pod| !pod["metadata"]["finalizers"].is_null() && pod["metadata"]["finalizers"] != json!([]))
                .map(place)
                .collect();
            self.hold(held.is_empty() || !ended, || format!("{what} holds {held:?}"));
        }
    }
}
