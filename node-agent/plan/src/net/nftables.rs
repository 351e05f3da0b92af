//! One nftables table as a value, and the difference between two of them.
//!
//! Rewriting a table costs time in the number of all Services for every changed endpoint, and forgets session affinity. So the
//! planner makes a whole [`Ruleset`] (cheap: text in memory), and [`diff`] says what to add, flush and delete.
//!
//! A chain is compared by a fingerprint of its rules, which is written into the comment of its first rule: the kernel prints
//! rules differently from what was written, and this way a restarted agent finds what an earlier one applied
//! ([`Applied::parse`]), also when somebody else changed it in between.
//!
//! Deletions are a second transaction: the kernel frees a chain that a map element pointed at only after the commit that
//! removed the element.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::Value;

use super::fnv1a;

/// Changes when the fixed parts change in a way that a difference cannot express: an old table is then replaced whole.
const SCHEMA: &str = "schema-1";
const FINGERPRINT: &str = "galley:";

/// A table as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// Its name; the family is `ip`.
    pub table: &'static str,
    pub collections: BTreeMap<String, Collection>,
    pub chains: BTreeMap<String, Chain>,
}

/// A set or a verdict map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collection {
    pub kind: CollectionKind,
    /// What stands between the braces of its declaration. A collection with another spec needs another name.
    pub spec: String,
    /// Key to verdict; the verdict is empty in a set. `None` where packets fill it.
    pub elements: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CollectionKind {
    Set,
    Map,
}

impl CollectionKind {
    fn word(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Map => "map",
        }
    }
}

/// A chain and its rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// `type nat hook prerouting priority -100; policy accept;` of a base chain.
    pub hook: Option<String>,
    pub rules: Vec<String>,
}

impl Chain {
    fn fingerprint(&self) -> String {
        if self.rules.is_empty() {
            return String::new();
        }
        let parts: Vec<&str> =
            self.hook.iter().map(String::as_str).chain(self.rules.iter().map(String::as_str)).collect();
        format!("{:016x}", fnv1a(&parts))
    }
}

impl Ruleset {
    /// An empty table.
    pub fn new(table: &'static str) -> Self {
        let mut chains = BTreeMap::new();
        chains.insert(SCHEMA.into(), Chain::default());
        Self { table, collections: BTreeMap::new(), chains }
    }

    /// Declares a collection with managed elements.
    pub fn collection(&mut self, kind: CollectionKind, name: &str, spec: &str) {
        let collection = Collection { kind, spec: spec.into(), elements: Some(BTreeMap::new()) };
        self.collections.insert(name.into(), collection);
    }

    /// Declares a set that packets fill.
    pub fn dynamic_set(&mut self, name: &str, spec: &str) {
        self.collections
            .insert(name.into(), Collection { kind: CollectionKind::Set, spec: spec.into(), elements: None });
    }

    /// Adds an element to a declared collection. The first of two equal keys wins, which only happens when two Services
    /// claim the same address and port.
    pub fn element(&mut self, name: &str, key: String, verdict: String) {
        if let Some(elements) = self.collections.get_mut(name).and_then(|collection| collection.elements.as_mut()) {
            elements.entry(key).or_insert(verdict);
        }
    }

    /// Adds a base chain.
    pub fn base_chain(&mut self, name: &str, hook: &str, rules: Vec<String>) {
        self.chains.insert(name.into(), Chain { hook: Some(hook.into()), rules });
    }

    /// Adds a chain that is jumped to.
    pub fn chain(&mut self, name: &str, rules: Vec<String>) {
        self.chains.insert(name.into(), Chain { hook: None, rules });
    }
}

/// What the kernel has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// False when there is no table, or one of another schema.
    compatible: bool,
    /// Elements of each collection; empty for the dynamic ones.
    collections: BTreeMap<String, (Option<CollectionKind>, BTreeMap<String, String>)>,
    /// Fingerprint of each chain.
    chains: BTreeMap<String, String>,
}

impl Applied {
    /// What the kernel has after `ruleset` was applied.
    pub fn of(ruleset: &Ruleset) -> Self {
        Self {
            compatible: true,
            collections: ruleset
                .collections
                .iter()
                .map(|(name, collection)| {
                    (name.clone(), (Some(collection.kind), collection.elements.clone().unwrap_or_default()))
                })
                .collect(),
            chains: ruleset.chains.iter().map(|(name, chain)| (name.clone(), chain.fingerprint())).collect(),
        }
    }

    /// From the output of `nft -j list table ip <name>`. What cannot be understood gives an incompatible state, which the next
    /// difference replaces whole.
    pub fn parse(json: &Value) -> Self {
        let mut applied = Self::default();
        for entry in json.get("nftables").and_then(Value::as_array).into_iter().flatten() {
            let Some((kind, body)) = entry.as_object().and_then(|object| object.iter().next()) else { continue };
            let name = |key: &str| body.get(key).and_then(Value::as_str).map(str::to_owned);
            match kind.as_str() {
                "set" | "map" => {
                    let Some(name) = name("name") else { continue };
                    let dynamic = body.get("timeout").is_some();
                    let elements = if dynamic { Some(BTreeMap::new()) } else { parse_elements(body) };
                    let Some(elements) = elements else { return Self::default() };
                    let kind = if kind == "set" { CollectionKind::Set } else { CollectionKind::Map };
                    applied.collections.insert(name, (Some(kind), elements));
                }
                "chain" => {
                    let Some(name) = name("name") else { continue };
                    applied.compatible |= name == SCHEMA;
                    applied.chains.entry(name).or_default();
                }
                "rule" => {
                    let Some(chain) = name("chain") else { continue };
                    let fingerprint = applied.chains.entry(chain).or_default();
                    match name("comment").and_then(|comment| comment.strip_prefix(FINGERPRINT).map(str::to_owned)) {
                        Some(found) => *fingerprint = found,
                        // A rule of ours without the comment comes after the first; a first rule without it is foreign.
                        None if fingerprint.is_empty() => *fingerprint = "foreign".into(),
                        None => {}
                    }
                }
                _ => {}
            }
        }
        applied
    }
}

/// `[[{"concat": ["10.96.0.1", "tcp", 80]}, {"goto": {"target": "svc"}}], ...]`, or plain keys in a set.
fn parse_elements(body: &Value) -> Option<BTreeMap<String, String>> {
    let mut elements = BTreeMap::new();
    for element in body.get("elem").and_then(Value::as_array).into_iter().flatten() {
        let (key, verdict) = match element.as_array().map(Vec::as_slice) {
            Some([key, verdict]) => (key, parse_verdict(verdict)?),
            Some(_) => return None,
            None => (element, String::new()),
        };
        elements.insert(parse_key(key)?, verdict);
    }
    Some(elements)
}

fn parse_key(key: &Value) -> Option<String> {
    match key {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Object(object) => {
            let parts = object.get("concat")?.as_array()?;
            parts.iter().map(parse_key).collect::<Option<Vec<_>>>().map(|parts| parts.join(" . "))
        }
        _ => None,
    }
}

fn parse_verdict(verdict: &Value) -> Option<String> {
    let (word, body) = verdict.as_object()?.iter().next()?;
    match body.get("target").and_then(Value::as_str) {
        Some(target) => Some(format!("{word} {target}")),
        None => Some(word.clone()),
    }
}

/// Input for `nft -f -`; each is one transaction, in this order. Empty is nothing to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scripts {
    pub change: String,
    pub remove: String,
}

impl Scripts {
    /// Whether the kernel already has what is wanted.
    pub fn is_empty(&self) -> bool {
        self.change.is_empty() && self.remove.is_empty()
    }
}

/// How to come from `applied` to `desired`.
pub fn diff(desired: &Ruleset, applied: &Applied) -> Scripts {
    let table = desired.table;
    let nothing = Applied { compatible: true, ..Applied::default() };
    let mut change = String::new();
    let applied = if applied.compatible {
        applied
    } else {
        // Adding first makes the deletion right also where no table is.
        let _ = writeln!(change, "add table ip {table}\ndelete table ip {table}\nadd table ip {table}");
        &nothing
    };
    for (name, collection) in &desired.collections {
        if !applied.collections.contains_key(name) {
            let _ = writeln!(change, "add {} ip {table} {name} {{ {} }}", collection.kind.word(), collection.spec);
        }
    }
    for (name, chain) in &desired.chains {
        if !applied.chains.contains_key(name) {
            let hook = chain.hook.as_ref().map(|hook| format!(" {{ {hook} }}")).unwrap_or_default();
            let _ = writeln!(change, "add chain ip {table} {name}{hook}");
        }
    }
    for (name, chain) in &desired.chains {
        let wanted = chain.fingerprint();
        let found = applied.chains.get(name);
        if found == Some(&wanted) {
            continue;
        }
        if found.is_some_and(|found| !found.is_empty()) {
            let _ = writeln!(change, "flush chain ip {table} {name}");
        }
        for (index, rule) in chain.rules.iter().enumerate() {
            let comment = if index == 0 { format!(" comment \"{FINGERPRINT}{wanted}\"") } else { String::new() };
            let _ = writeln!(change, "add rule ip {table} {name} {rule}{comment}");
        }
    }
    for (name, collection) in &desired.collections {
        let Some(wanted) = &collection.elements else { continue };
        let empty = BTreeMap::new();
        let found = applied.collections.get(name).map_or(&empty, |(_, elements)| elements);
        let gone: Vec<&str> = found
            .iter()
            .filter(|(key, verdict)| wanted.get(*key) != Some(verdict))
            .map(|(key, _)| key.as_str())
            .collect();
        let new: Vec<String> = wanted
            .iter()
            .filter(|(key, verdict)| found.get(*key) != Some(verdict))
            .map(|(key, verdict)| if verdict.is_empty() { key.clone() } else { format!("{key} : {verdict}") })
            .collect();
        if !gone.is_empty() {
            let _ = writeln!(change, "delete element ip {table} {name} {{ {} }}", gone.join(", "));
        }
        if !new.is_empty() {
            let _ = writeln!(change, "add element ip {table} {name} {{ {} }}", new.join(", "));
        }
    }
    // Chains that are to go must not hold on to each other, or to sets, when the second transaction deletes them.
    let stale: BTreeSet<&String> = applied.chains.keys().filter(|name| !desired.chains.contains_key(*name)).collect();
    for name in &stale {
        if applied.chains.get(*name).is_some_and(|fingerprint| !fingerprint.is_empty()) {
            let _ = writeln!(change, "flush chain ip {table} {name}");
        }
    }
    let mut remove = String::new();
    for name in stale {
        let _ = writeln!(remove, "delete chain ip {table} {name}");
    }
    for (name, (kind, _)) in &applied.collections {
        if !desired.collections.contains_key(name) {
            let word = kind.unwrap_or(CollectionKind::Set).word();
            let _ = writeln!(remove, "delete {word} ip {table} {name}");
        }
    }
    Scripts { change, remove }
}
