//! A simulated cluster for plan tests: it applies plans as the API would (names, uids, revisions, preconditions,
//! finalizers), refuses what the API would refuse, and is stepped until planning is quiet.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::action::{Action, PatchForm, Plan, Verb};

type Key = (String, String, String);

/// More steps than any plan under test needs: a world that is not quiet by then is fighting itself.
const PATIENCE: usize = 200;

/// The simulated cluster.
#[derive(Debug)]
pub struct World {
    /// The time.
    pub now: Timestamp,
    objects: BTreeMap<Key, Value>,
    serial: u64,
    /// What was applied, in words: `create pods default/web-1`.
    pub log: Vec<String>,
}

impl Default for World {
    fn default() -> Self {
        let now = "2026-01-01T00:00:00Z".parse().expect("a constant");
        Self { now, objects: BTreeMap::new(), serial: 0, log: Vec::new() }
    }
}

impl World {
    /// An empty cluster at a fixed time.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets time pass.
    pub fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    /// Creates an object as a user would; answers its name.
    pub fn create(&mut self, resource: &str, object: &impl Serialize) -> String {
        let mut body = serde_json::to_value(object).expect("plain data");
        self.serial += 1;
        let serial = self.serial;
        let now = json!(crate::time::seconds(self.now));
        let meta = &mut body["metadata"];
        if meta["name"].is_null() {
            let prefix = meta["generateName"].as_str().expect("name or generateName");
            meta["name"] = json!(format!("{prefix}{serial:05}"));
        }
        meta["uid"] = json!(format!("uid-{serial}"));
        meta["resourceVersion"] = json!(serial.to_string());
        if meta["creationTimestamp"].is_null() {
            meta["creationTimestamp"] = now;
        }
        if body.get("spec").is_some() {
            body["metadata"]["generation"] = json!(1);
        }
        let name = body["metadata"]["name"].as_str().expect("just set").to_owned();
        let namespace = body["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let before = self.objects.insert((resource.into(), namespace, name.clone()), body);
        assert!(before.is_none(), "{resource} {name} already exists");
        name
    }

    /// One object.
    pub fn get<T: DeserializeOwned>(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.objects.get(&(resource.into(), namespace.into(), name.into())).map(decode)
    }

    /// All objects of a resource.
    pub fn list<T: DeserializeOwned>(&self, resource: &str) -> Vec<Arc<T>> {
        self.objects.iter().filter(|((r, ..), _)| r == resource).map(|(_, value)| decode(value)).collect()
    }

    /// Changes an object as a user (or the node) would; a change of `spec` raises the generation.
    pub fn edit(&mut self, resource: &str, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        let mut body = self.objects.get(&key).unwrap_or_else(|| panic!("{key:?} is not there")).clone();
        let spec = body["spec"].clone();
        change(&mut body);
        if body["spec"] != spec {
            let generation = body["metadata"]["generation"].as_i64().unwrap_or(0);
            body["metadata"]["generation"] = json!(generation + 1);
        }
        self.put(key, body);
    }

    /// Removes an object, or marks it when it has finalizers.
    pub fn delete(&mut self, resource: &str, namespace: &str, name: &str) {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        let Some(mut body) = self.objects.get(&key).cloned() else { return };
        if body["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()) {
            if body["metadata"]["deletionTimestamp"].is_null() {
                body["metadata"]["deletionTimestamp"] = json!(crate::time::seconds(self.now));
                self.put(key, body);
            }
        } else {
            self.objects.remove(&key);
        }
    }

    /// Makes every pod that is not `Running` yet run and be ready.
    pub fn start_pods(&mut self) {
        let now = json!(crate::time::seconds(self.now));
        let pods: Vec<Key> = self.objects.keys().filter(|(resource, ..)| resource == "pods").cloned().collect();
        for (resource, namespace, name) in pods {
            let phase = self.objects[&(resource.clone(), namespace.clone(), name.clone())]["status"]["phase"].clone();
            if phase.is_null() || phase == "Pending" {
                self.edit(&resource, &namespace, &name, |pod| {
                    pod["status"]["phase"] = json!("Running");
                    pod["status"]["conditions"] =
                        json!([{"type": "Ready", "status": "True", "lastTransitionTime": now.clone()}]);
                });
            }
        }
    }

    fn put(&mut self, key: Key, mut body: Value) {
        self.serial += 1;
        body["metadata"]["resourceVersion"] = json!(self.serial.to_string());
        let finalized = body["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        if finalized && !body["metadata"]["deletionTimestamp"].is_null() {
            self.objects.remove(&key);
        } else {
            self.objects.insert(key, body);
        }
    }

    /// Applies a plan, whole.
    pub fn apply<R: Debug>(&mut self, plan: Plan<R>) {
        for action in plan.phases.into_iter().flatten() {
            self.apply_one(action);
        }
    }

    fn apply_one<R: Debug>(&mut self, action: Action<R>) {
        let Action { resource, namespace, name, verb, because, .. } = action;
        let resource = resource.as_str();
        let key = (resource.to_owned(), namespace.clone(), name.clone());
        let current = self.objects.get(&key).cloned();
        let there = || current.clone().unwrap_or_else(|| panic!("{key:?} is not there ({because:?})"));
        match verb {
            Verb::Create { body } => {
                let name = self.create(resource, &body);
                self.log.push(format!("create {resource} {namespace}/{name}"));
            }
            Verb::Bind { uid, node } => {
                assert_eq!(there()["metadata"]["uid"], json!(uid), "another {key:?}");
                self.edit(resource, &namespace, &name, |pod| pod["spec"]["nodeName"] = json!(node));
                self.log.push(format!("bind {resource} {namespace}/{name} {node}"));
            }
            Verb::Condition { uid, condition, .. } => {
                assert_eq!(there()["metadata"]["uid"], json!(uid), "another {key:?}");
                self.log.push(format!("condition {resource} {namespace}/{name} {}", condition["type"]));
                self.edit(resource, &namespace, &name, |pod| {
                    let mut conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
                    conditions.retain(|old| old["type"] != condition["type"]);
                    conditions.push(condition);
                    pod["status"]["conditions"] = json!(conditions);
                });
            }
            Verb::Evict { uid, .. } => {
                assert_eq!(there()["metadata"]["uid"], json!(uid), "another {key:?}");
                self.delete(resource, &namespace, &name);
                self.log.push(format!("evict {resource} {namespace}/{name}"));
            }
            Verb::Update { body, subresource } => {
                let mut new = there();
                assert_eq!(body["metadata"]["resourceVersion"], new["metadata"]["resourceVersion"], "conflict");
                if subresource == Some("status") {
                    new["status"] = body["status"].clone();
                    self.put(key, new);
                } else {
                    let status = new["status"].clone();
                    self.edit(resource, &namespace, &name, |old| {
                        *old = body;
                        old["status"] = status;
                    });
                }
                self.log.push(format!("update {resource} {namespace}/{name} {}", subresource.unwrap_or("")));
            }
            Verb::Patch { body, form, .. } => {
                assert_eq!(form, PatchForm::Merge, "the world merges only");
                let old = there();
                for field in ["uid", "resourceVersion"] {
                    let wanted = &body["metadata"][field];
                    assert!(wanted.is_null() || *wanted == old["metadata"][field], "conflict on {field} of {key:?}");
                }
                self.edit(resource, &namespace, &name, |object| merge(object, &body));
                self.log.push(format!("patch {resource} {namespace}/{name}"));
            }
            Verb::DeleteAll => {
                self.objects.retain(|(r, ns, _), _| r != resource || *ns != namespace);
                self.log.push(format!("delete all {resource} {namespace}"));
            }
            Verb::Delete { uid, .. } => {
                if let Some(old) = current {
                    assert_eq!(old["metadata"]["uid"], json!(uid), "another {key:?}");
                    self.delete(resource, &namespace, &name);
                    self.log.push(format!("delete {resource} {namespace}/{name}"));
                }
            }
        }
    }

    /// Plans and applies until the plan is quiet, then asserts that planning again is quiet too.
    pub fn settle<R: Debug>(&mut self, mut plan: impl FnMut(&Self) -> Plan<R>) -> Plan<R> {
        for _ in 0..PATIENCE {
            let next = plan(self);
            if next.is_quiet() {
                let again = plan(self);
                assert!(again.is_quiet(), "planning again is not empty: {again:?}");
                return next;
            }
            self.apply(next);
        }
        panic!("not quiet after {PATIENCE} steps: {:#?}", self.log);
    }
}

fn decode<T: DeserializeOwned>(value: &Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value.clone()).expect("objects of the world decode"))
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            target.as_object_mut().expect("an object").remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}
