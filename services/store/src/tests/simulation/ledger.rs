//! What really happened to a cluster, from the database itself.

use std::collections::BTreeMap;

use galley_types::Revision;
use serde_json::Value;

use super::super::support::value_of;
use crate::backend::ChangeRow;
use crate::*;

#[derive(Debug)]
pub struct Entry {
    pub kind: EventKind,
    pub key: ObjectKey,
    value: String,
    told: String,
}

/// Every change of a cluster by its revision.
#[derive(Debug)]
pub struct Ledger(BTreeMap<Revision, Entry>);

/// `Modified pods/n/a=value`.
pub fn tell_change(kind: EventKind, key: &ObjectKey, value: &str) -> String {
    format!("{kind:?} {}/{}/{}={value}", key.resource, key.namespace, key.name)
}

pub fn is_in(scope: &Scope, key: &ObjectKey) -> bool {
    scope.resource == key.resource && scope.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
}

impl Ledger {
    pub fn of(rows: Vec<ChangeRow>) -> Self {
        let entry = |row: ChangeRow| {
            let meta: Value = serde_json::from_str(&row.meta).expect("labels");
            let value = meta["l"]["value"].as_str().expect("a value").to_owned();
            let told = tell_change(row.kind, &row.key, &value);
            (row.revision, Entry { kind: row.kind, key: row.key, value, told })
        };
        Self(rows.into_iter().map(entry).collect())
    }

    pub fn told(&self, revision: Revision) -> Option<&str> {
        self.0.get(&revision).map(|entry| entry.told.as_str())
    }

    /// Revisions have no gap, and each change follows from the one before.
    pub fn is_whole(&self) {
        let revisions: Vec<u64> = self.0.keys().map(|revision| revision.0).collect();
        assert_eq!(revisions, (1..=self.0.len() as u64).collect::<Vec<_>>(), "no gap");
        let mut there = BTreeMap::new();
        for entry in self.0.values() {
            let before = match entry.kind {
                EventKind::Added | EventKind::Modified => there.insert(&entry.key, &entry.value),
                EventKind::Deleted => there.remove(&entry.key),
            };
            assert_eq!(before.is_some(), entry.kind != EventKind::Added, "{}", entry.told);
        }
    }

    /// Changes in scope after one revision and up to another.
    pub fn between(&self, scope: &Scope, after: Revision, until: Revision) -> Vec<(Revision, &str)> {
        let range = self.0.range(after.next()..).take_while(|(revision, _)| **revision <= until);
        range.filter(|(_, entry)| is_in(scope, &entry.key)).map(|(at, entry)| (*at, entry.told.as_str())).collect()
    }

    /// A list is what the changes up to its revision lead to.
    pub fn agrees_with(&self, scope: &Scope, listing: &Listing) {
        let mut expected = BTreeMap::new();
        for (revision, entry) in self.0.range(..=listing.revision).filter(|(_, entry)| is_in(scope, &entry.key)) {
            match entry.kind {
                EventKind::Added | EventKind::Modified => expected.insert(&entry.key, (*revision, entry.value.clone())),
                EventKind::Deleted => expected.remove(&entry.key),
            };
        }
        let listed: Vec<_> =
            listing.objects.iter().map(|object| (&object.key, (object.revision, value_of(object)))).collect();
        assert_eq!(listed, expected.into_iter().collect::<Vec<_>>(), "{scope:?} as it was at {}", listing.revision);
    }
}
