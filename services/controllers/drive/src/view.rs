//! A cluster's objects as controllers read them: by key, by uid, by owner, by label, by node. A reconcile never scans.
//!
//! The view follows one watch of everything, so it is the cluster at exactly one revision. It is owned by the cluster's
//! driver and needs no lock; its objects are those of the store's cache, shared. `Event` objects are left out: they are many,
//! own nothing and are owned by nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};

use galley_controllers_plan::meta::selects;
use galley_store::{DecodeError, EventKind, Object, ObjectKey};
use galley_types::{ResourceName, Revision};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use memchr::memmem;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Resources whose objects are found by label.
const BY_LABEL: &[&str] = &["pods"];
/// Resources that controllers adopt, so that those without a controller must be found.
const ADOPTABLE: &[&str] = &["pods", "replicasets.apps", "controllerrevisions.apps", "jobs.batch"];
/// Resources that are not kept.
const LEFT_OUT: &[&str] = &["events", "events.events.k8s.io"];

/// One entry of `metadata.ownerReferences`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// `apps/v1`
    #[serde(default)]
    pub api_version: String,
    /// `ReplicaSet`
    #[serde(default)]
    pub kind: String,
    /// Its name.
    #[serde(default)]
    pub name: Arc<str>,
    /// Its uid: who it is, whatever the name says.
    #[serde(default)]
    pub uid: Arc<str>,
    /// Whether it manages the object.
    #[serde(default)]
    pub controller: bool,
    /// Whether its foreground deletion waits for the object.
    #[serde(default)]
    pub block_owner_deletion: bool,
}

/// An object and what of its metadata is looked at all the time.
#[derive(Debug)]
pub struct Seen {
    /// The object.
    pub object: Arc<Object>,
    /// `metadata.ownerReferences`
    pub owners: Vec<Owner>,
    /// `metadata.finalizers`
    pub finalizers: Vec<String>,
    /// Whether deletion was asked for.
    pub deleting: bool,
}

#[derive(Deserialize, Default)]
struct Partial {
    #[serde(default)]
    metadata: PartialMeta,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct PartialMeta {
    #[serde(default)]
    owner_references: Option<Vec<Owner>>,
    #[serde(default)]
    finalizers: Option<Vec<String>>,
    #[serde(default)]
    deletion_timestamp: Option<serde::de::IgnoredAny>,
}

impl Seen {
    /// Reads the metadata, if the bytes can hold any that matters.
    fn of(object: Arc<Object>) -> Self {
        static FIELDS: LazyLock<[memmem::Finder<'static>; 3]> = LazyLock::new(|| {
            ["\"ownerReferences\"", "\"finalizers\"", "\"deletionTimestamp\""].map(memmem::Finder::new)
        });
        let mentioned = FIELDS.iter().any(|field| field.find(&object.body).is_some());
        let metadata = if mentioned {
            serde_json::from_slice::<Partial>(&object.body).unwrap_or_default().metadata
        } else {
            PartialMeta::default()
        };
        Self {
            object,
            owners: metadata.owner_references.unwrap_or_default(),
            finalizers: metadata.finalizers.unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
        }
    }

    /// The owner that manages the object.
    pub fn controller(&self) -> Option<&Owner> {
        self.owners.iter().find(|owner| owner.controller)
    }
}

/// One change, seen after the view has it.
#[derive(Debug)]
pub struct Change<'a> {
    /// What happened.
    pub kind: EventKind,
    /// The object (its last state, if it was deleted).
    pub now: &'a Seen,
    /// The state before, if there was one.
    pub before: Option<&'a Seen>,
}

impl Change<'_> {
    /// Which resource.
    pub fn resource(&self) -> &str {
        self.now.object.key.resource.as_str()
    }

    /// Which object.
    pub fn key(&self) -> &ObjectKey {
        &self.now.object.key
    }

    /// The controllers of the object, now and before.
    pub fn controllers(&self) -> impl Iterator<Item = &Owner> {
        let before = self.before.and_then(Seen::controller);
        let now = self.now.controller();
        now.into_iter().chain(before.filter(move |before| now.is_none_or(|now| now.uid != before.uid)))
    }
}

#[derive(Debug, Default)]
struct Table {
    namespaces: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Seen>>,
    /// By namespace, then by `name=value`.
    labels: HashMap<Arc<str>, HashMap<Box<str>, BTreeSet<Arc<str>>>>,
    orphans: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    by_label: bool,
    adoptable: bool,
}

/// The cluster at [`View::revision`]. What is iterated is sorted: the same cluster is planned for in the same order.
#[derive(Debug, Default)]
pub struct View {
    revision: Revision,
    tables: BTreeMap<ResourceName, Table>,
    uids: HashMap<Arc<str>, ObjectKey>,
    owned: HashMap<Arc<str>, BTreeSet<ObjectKey>>,
    on_node: HashMap<Arc<str>, BTreeSet<ObjectKey>>,
}

impl View {
    /// An empty cluster before its first revision.
    pub fn new() -> Self {
        Self::default()
    }

    /// The revision that the view shows.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Moves on without a change.
    pub fn progress(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    /// Whether objects of this resource are kept.
    pub fn keeps(resource: &str) -> bool {
        !LEFT_OUT.contains(&resource)
    }

    /// Takes a committed object in; answers the state before.
    pub fn put(&mut self, object: Arc<Object>) -> Option<Seen> {
        self.revision = self.revision.max(object.revision);
        let key = object.key.clone();
        if !Self::keeps(key.resource.as_str()) {
            return None;
        }
        let before = self.take(&key);
        let seen = Seen::of(object);
        self.uids.insert(seen.object.uid.clone(), key.clone());
        for owner in &seen.owners {
            self.owned.entry(owner.uid.clone()).or_default().insert(key.clone());
        }
        if key.resource.as_str() == "pods"
            && let Some(node) = seen.object.fields.get("spec.nodeName").filter(|node| !node.is_empty())
        {
            self.on_node.entry(node.into()).or_default().insert(key.clone());
        }
        let table = self.tables.entry(key.resource.clone()).or_insert_with(|| Table {
            by_label: BY_LABEL.contains(&key.resource.as_str()),
            adoptable: ADOPTABLE.contains(&key.resource.as_str()),
            ..Table::default()
        });
        if table.by_label {
            let labels = table.labels.entry(key.namespace.clone()).or_default();
            for (label, value) in &seen.object.labels {
                let pair = pair(label, value);
                match labels.get_mut(pair.as_str()) {
                    Some(names) => names.insert(key.name.clone()),
                    None => labels.entry(pair.into()).or_default().insert(key.name.clone()),
                };
            }
        }
        if table.adoptable && seen.controller().is_none() {
            table.orphans.entry(key.namespace.clone()).or_default().insert(key.name.clone());
        }
        table.namespaces.entry(key.namespace.clone()).or_default().insert(key.name.clone(), seen);
        before
    }

    /// Takes a deleted object out; answers the state before.
    pub fn remove(&mut self, last: &Object) -> Option<Seen> {
        self.revision = self.revision.max(last.revision);
        self.take(&last.key)
    }

    fn take(&mut self, key: &ObjectKey) -> Option<Seen> {
        let table = self.tables.get_mut(&key.resource)?;
        let namespace = table.namespaces.get_mut(&key.namespace)?;
        let seen = namespace.remove(&key.name)?;
        if namespace.is_empty() {
            table.namespaces.remove(&key.namespace);
        }
        if let Some(labels) = table.labels.get_mut(&key.namespace) {
            for (label, value) in &seen.object.labels {
                let pair = pair(label, value);
                if let Some(names) = labels.get_mut(pair.as_str()) {
                    names.remove(&key.name);
                    if names.is_empty() {
                        labels.remove(pair.as_str());
                    }
                }
            }
            if labels.is_empty() {
                table.labels.remove(&key.namespace);
            }
        }
        if let Some(orphans) = table.orphans.get_mut(&key.namespace) {
            orphans.remove(&key.name);
            if orphans.is_empty() {
                table.orphans.remove(&key.namespace);
            }
        }
        for owner in &seen.owners {
            forget(&mut self.owned, &owner.uid, key);
        }
        if let Some(node) = seen.object.fields.get("spec.nodeName") {
            forget(&mut self.on_node, node, key);
        }
        if self.uids.get(&seen.object.uid) == Some(key) {
            self.uids.remove(&seen.object.uid);
        }
        Some(seen)
    }

    /// One object.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<&Seen> {
        self.tables.get(resource)?.namespaces.get(namespace)?.get(name)
    }

    /// One object by its key.
    pub fn at(&self, key: &ObjectKey) -> Option<&Seen> {
        self.get(key.resource.as_str(), &key.namespace, &key.name)
    }

    /// One object by its key, decoded.
    pub fn typed<T>(&self, key: &ObjectKey) -> Result<Option<Arc<T>>, DecodeError>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        self.at(key).map(|seen| seen.object.typed()).transpose()
    }

    /// The object with this uid.
    pub fn by_uid(&self, uid: &str) -> Option<&Seen> {
        self.at(self.uids.get(uid)?)
    }

    /// All objects of a resource in a namespace (`""` for cluster-scoped resources), by name.
    pub fn in_namespace(&self, resource: &str, namespace: &str) -> impl Iterator<Item = &Seen> {
        self.tables.get(resource).and_then(|t| t.namespaces.get(namespace)).into_iter().flat_map(|t| t.values())
    }

    /// All objects of a resource.
    pub fn all(&self, resource: &str) -> impl Iterator<Item = &Seen> {
        self.tables.get(resource).into_iter().flat_map(|t| t.namespaces.values()).flat_map(|t| t.values())
    }

    /// Every object of every resource.
    pub fn everything(&self) -> impl Iterator<Item = &Seen> {
        self.tables.values().flat_map(|t| t.namespaces.values()).flat_map(|t| t.values())
    }

    /// The resources of which there are objects.
    pub fn resources(&self) -> impl Iterator<Item = &ResourceName> {
        self.tables.iter().filter(|(_, table)| !table.namespaces.is_empty()).map(|(name, _)| name)
    }

    /// Every object that names this uid among its owners.
    pub fn owned_by(&self, uid: &str) -> impl Iterator<Item = &Seen> {
        self.owned.get(uid).into_iter().flatten().filter_map(|key| self.at(key))
    }

    /// Objects of a resource that this uid manages.
    pub fn controlled_by(&self, resource: &str, uid: &str) -> impl Iterator<Item = &Seen> {
        self.owned_by(uid).filter(move |seen| {
            seen.object.key.resource.as_str() == resource && seen.controller().is_some_and(|owner| &*owner.uid == uid)
        })
    }

    /// Objects of an adoptable resource in a namespace that nobody manages.
    pub fn orphans(&self, resource: &str, namespace: &str) -> impl Iterator<Item = &Seen> {
        let table = self.tables.get(resource);
        let names = table.and_then(|t| t.orphans.get(namespace));
        let objects = table.and_then(|t| t.namespaces.get(namespace));
        names.into_iter().flatten().filter_map(move |name| objects?.get(name))
    }

    /// What a controller may own: the objects it manages, and the orphans that its selector matches, decoded.
    pub fn claimable<T>(
        &self,
        resource: &str,
        namespace: &str,
        uid: &str,
        selector: &LabelSelector,
    ) -> Result<Vec<Arc<T>>, DecodeError>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        let orphans = self.orphans(resource, namespace).filter(|seen| selects(selector, Some(&seen.object.labels)));
        self.controlled_by(resource, uid).chain(orphans).map(|seen| seen.object.typed()).collect()
    }

    /// Pods in a namespace that a selector matches, by its rarest label where it names one.
    pub fn selected_pods<'a>(
        &'a self,
        namespace: &str,
        selector: &'a LabelSelector,
    ) -> Box<dyn Iterator<Item = &'a Seen> + 'a> {
        let Some(table) = self.tables.get("pods") else { return Box::new(std::iter::empty()) };
        let Some(objects) = table.namespaces.get(namespace) else { return Box::new(std::iter::empty()) };
        let matches = |seen: &&Seen| selects(selector, Some(&seen.object.labels));
        let labels = table.labels.get(namespace);
        let mut rarest: Option<&BTreeSet<Arc<str>>> = None;
        for (key, value) in selector.match_labels.iter().flatten() {
            let Some(names) = labels.and_then(|labels| labels.get(pair(key, value).as_str())) else {
                return Box::new(std::iter::empty());
            };
            if rarest.is_none_or(|rarest| names.len() < rarest.len()) {
                rarest = Some(names);
            }
        }
        match rarest {
            Some(names) => Box::new(names.iter().filter_map(move |name| objects.get(name)).filter(matches)),
            None => Box::new(objects.values().filter(matches)),
        }
    }

    /// Pods bound to a node.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Seen> {
        self.on_node.get(node).into_iter().flatten().filter_map(|key| self.at(key))
    }
}

/// A label as the index names it. Names of labels have no `=`.
fn pair(label: &str, value: &str) -> String {
    format!("{label}={value}")
}

fn forget(index: &mut HashMap<Arc<str>, BTreeSet<ObjectKey>>, at: &str, key: &ObjectKey) {
    if let Some(keys) = index.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(at);
        }
    }
}
