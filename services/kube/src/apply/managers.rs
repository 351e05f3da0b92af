//! `metadata.managedFields`: who owns which fields.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::set::Set;

/// How a manager wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// One manager's fields.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
    pub(super) time: String,
    pub(super) set: Set,
}

impl Entry {
    /// Whether the same manager wrote in the same way. An applier is the same in all versions.
    pub(super) fn is_by(&self, manager: &str, operation: Operation, api_version: &str, subresource: &str) -> bool {
        self.manager == manager
            && self.operation == operation
            && self.subresource == subresource
            && (operation == Operation::Apply || self.api_version == api_version)
    }

    /// As conflicts name it.
    pub(super) fn shown(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// The entries of an object; `None` when it has none that can be read.
pub(super) fn decode(object: &Value) -> Option<Vec<Entry>> {
    let entries = object.get("metadata")?.get("managedFields")?.as_array()?;
    let text = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    entries
        .iter()
        .map(|entry| {
            let operation = match entry.get("operation").and_then(Value::as_str)? {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            };
            Some(Entry {
                manager: text(entry, "manager"),
                operation,
                api_version: text(entry, "apiVersion"),
                subresource: text(entry, "subresource"),
                time: text(entry, "time"),
                set: Set::from_value(entry.get("fieldsV1").unwrap_or(&Value::Null)),
            })
        })
        .collect()
}

/// Whether a writer asks for the entries to be forgotten: `managedFields: [{}]`, or an empty list.
pub(super) fn is_reset(object: &Value) -> bool {
    let entries = object.get("metadata").and_then(|m| m.get("managedFields")).and_then(Value::as_array);
    entries.is_some_and(|entries| {
        entries.is_empty() || (entries.len() == 1 && entries[0].as_object().is_some_and(Map::is_empty))
    })
}

/// Writes the entries that own something: appliers first, then by time and name.
pub(super) fn encode(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.set.is_empty());
    entries.sort_by(|a, b| {
        (a.operation, &a.time, &a.manager, &a.api_version, &a.subresource).cmp(&(
            b.operation,
            &b.time,
            &b.manager,
            &b.api_version,
            &b.subresource,
        ))
    });
    let Some(metadata) =
        object.as_object_mut().map(|o| o.entry("metadata").or_insert_with(|| json!({}))).and_then(Value::as_object_mut)
    else {
        return;
    };
    if entries.is_empty() {
        metadata.remove("managedFields");
        return;
    }
    let entries: Vec<Value> = entries
        .into_iter()
        .map(|entry| {
            let mut value = json!({
                "manager": entry.manager,
                "operation": if entry.operation == Operation::Apply { "Apply" } else { "Update" },
                "apiVersion": entry.api_version,
                "fieldsType": "FieldsV1",
                "fieldsV1": entry.set.into_value(),
            });
            if !entry.time.is_empty() {
                value["time"] = json!(entry.time);
            }
            if !entry.subresource.is_empty() {
                value["subresource"] = json!(entry.subresource);
            }
            value
        })
        .collect();
    metadata.insert("managedFields".into(), Value::Array(entries));
}

/// More managers that update than this are told apart no longer: as in the API server, the oldest become one. Without a
/// limit, an object that many short-lived clients write would grow for ever.
const UPDATERS_MAX: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// Joins the oldest updaters until there are few enough.
pub(super) fn cap(entries: &mut Vec<Entry>) {
    let count = |entries: &[Entry]| {
        entries.iter().filter(|e| e.operation == Operation::Update && e.subresource.is_empty()).count()
    };
    while count(entries) > UPDATERS_MAX {
        let oldest = entries
            .iter()
            .enumerate()
            .filter(|(_, e)| e.operation == Operation::Update && e.subresource.is_empty() && e.manager != ANCIENT)
            .min_by(|(_, a), (_, b)| (&a.time, &a.manager).cmp(&(&b.time, &b.manager)))
            .map(|(at, _)| at);
        let Some(oldest) = oldest.map(|at| entries.remove(at)) else { return };
        match entries.iter_mut().find(|e| e.manager == ANCIENT && e.api_version == oldest.api_version) {
            Some(ancient) => {
                ancient.set.unite(oldest.set);
                ancient.time = ancient.time.clone().max(oldest.time);
            }
            // The first of its version only changes its name; the next one joins it.
            None => entries.push(Entry { manager: ANCIENT.into(), ..oldest }),
        }
    }
}

pub(super) fn time_text(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
