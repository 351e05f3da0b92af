//! Server-side apply, and the record of who owns which field of an object (`metadata.managedFields`) that every write keeps.
//!
//! ```text
//! apply(live, applied):  merge applied into live by the schema
//!                        take out what this manager applied before, applies no more, and nobody else owns
//!                        a field that changed and that somebody else owns is a conflict, unless forced
//!                        this manager now owns exactly what it applied
//! update(live, new):     what changed now belongs to this manager, and to nobody else
//! ```
//!
//! Without the record, two controllers that write one object undo each other's work silently. Source: Kubernetes'
//! "Server-Side Apply", and the `managedFields` of kube-apiserver 1.36.

mod compare;
mod managers;
mod merge;
mod set;
pub(crate) mod shape;

use jiff::Timestamp;
use serde_json::{Value, json};

use self::managers::{Entry, Operation};
use self::set::Set;
use self::shape::Shape;
use crate::Resource;
use crate::schema;
use crate::status::{Cause, Reason, Status};

/// Who writes, and how.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// `fieldManager`.
    pub manager: &'a str,
    /// `status`, `scale`; empty for the object itself.
    pub subresource: &'a str,
    /// The time of the write.
    pub now: Timestamp,
}

/// Nobody owns what the system writes.
const UNOWNED: [&[&str]; 10] = [
    &["f:apiVersion"],
    &["f:kind"],
    &["f:metadata", "f:name"],
    &["f:metadata", "f:namespace"],
    &["f:metadata", "f:creationTimestamp"],
    &["f:metadata", "f:selfLink"],
    &["f:metadata", "f:uid"],
    &["f:metadata", "f:generation"],
    &["f:metadata", "f:managedFields"],
    &["f:metadata", "f:resourceVersion"],
];

fn shape_of(resource: &Resource) -> Shape<'_> {
    match (&resource.custom, schema::kind(&resource.api_version(), &resource.kind)) {
        (Some(custom), _) => Shape::CustomObject(&custom.schema),
        (None, Some(ty)) => Shape::of_type(ty),
        (None, None) => Shape::Unknown,
    }
}

/// Takes out what a write through this endpoint cannot set.
fn strip(set: &mut Set, resource: &Resource, subresource: &str) {
    for path in UNOWNED {
        set.remove_path(path);
    }
    set.remove_member("f:metadata");
    match subresource {
        "status" => set.remove_path(&["f:spec"]),
        "" if resource.subresource("status").is_some() => set.remove_path(&["f:status"]),
        _ => {}
    }
}

/// Rewrites `new`'s managedFields for a create (`live` is `None`), update or patch by `writer`.
///
/// `new` is the object about to be stored, defaults and admission's changes included. Its own managedFields, if it carries
/// any, replace the live ones first: that is how a client edits them.
pub fn update(resource: &Resource, live: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let mut entries = if managers::is_reset(new) {
        Vec::new()
    } else {
        managers::decode(new)
            .filter(|entries| !entries.is_empty())
            .or_else(|| live.and_then(managers::decode))
            .unwrap_or_default()
    };
    let empty = json!({"metadata": {}, "spec": {}, "status": {}});
    let mut difference = compare::compare(live.unwrap_or(&empty), new, shape_of(resource));
    strip(&mut difference.changed, resource, writer.subresource);
    strip(&mut difference.removed, resource, writer.subresource);
    if !difference.is_empty() {
        let api_version = resource.api_version();
        let mut owned = Set::default();
        entries.retain_mut(|entry| {
            entry.set.subtract(&difference.removed);
            if entry.is_by(writer.manager, Operation::Update, &api_version, writer.subresource) {
                owned.unite(std::mem::take(&mut entry.set));
                return false;
            }
            entry.set.subtract(&difference.changed);
            true
        });
        owned.unite(difference.changed);
        entries.push(Entry {
            manager: writer.manager.to_owned(),
            operation: Operation::Update,
            api_version,
            subresource: writer.subresource.to_owned(),
            time: managers::time_text(writer.now),
            set: owned,
        });
        managers::cap(&mut entries);
    }
    managers::encode(new, entries);
}

/// Applies a configuration. The result is the object to default, validate and store; its managedFields are final, so it must
/// not go through [`update`] again. Equal to `live` when there is nothing to do.
///
/// Errors: 400 for a configuration with managedFields, 409 with a cause for each conflict.
pub fn apply(
    resource: &Resource,
    live: Option<&Value>,
    applied: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, Status> {
    if applied.get("metadata").and_then(|m| m.get("managedFields")).is_some_and(|m| !m.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let shape = shape_of(resource);
    let nothing = json!({});
    let before = live.unwrap_or(&nothing);
    let mut entries = live.and_then(managers::decode).unwrap_or_default();
    let mut set = compare::fields_of(applied, shape);
    strip(&mut set, resource, writer.subresource);

    let ours = |entry: &Entry| entry.is_by(writer.manager, Operation::Apply, "", writer.subresource);
    let last = entries.iter().find(|entry| ours(entry)).map(|entry| entry.set.clone());
    let mut merged = merge::merge(before.clone(), applied, shape);
    if let Some(last) = &last {
        let mut gone = last.clone();
        gone.subtract(&set);
        let mut kept = set.clone();
        for entry in entries.iter().filter(|entry| !ours(entry)) {
            kept.unite(entry.set.clone());
        }
        merge::remove(&mut merged, &gone, &kept, shape);
    }

    let mut difference = compare::compare(before, &merged, shape);
    strip(&mut difference.changed, resource, writer.subresource);
    strip(&mut difference.removed, resource, writer.subresource);
    let conflicts: Vec<(String, Vec<String>)> = entries
        .iter()
        .filter(|entry| !ours(entry))
        .map(|entry| (entry.shown(), entry.set.intersection(&difference.changed).paths()))
        .filter(|(_, paths)| !paths.is_empty())
        .collect();
    if !conflicts.is_empty() && !force && !is_migration(before, &conflicts, last.is_none(), writer.manager, shape) {
        return Err(conflict_status(&conflicts));
    }
    if live.is_some() && merged == *before && last.as_ref() == Some(&set) {
        return Ok(before.clone());
    }
    entries.retain_mut(|entry| {
        entry.set.subtract(&difference.changed);
        entry.set.subtract(&difference.removed);
        !entry.is_by(writer.manager, Operation::Apply, "", writer.subresource)
    });
    entries.push(Entry {
        manager: writer.manager.to_owned(),
        operation: Operation::Apply,
        api_version: resource.api_version(),
        subresource: writer.subresource.to_owned(),
        time: managers::time_text(writer.now),
        set,
    });
    managers::encode(&mut merged, entries);
    Ok(merged)
}

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// kubectl's first server-side apply of what it applied itself from the client before is no conflict.
fn is_migration(
    live: &Value,
    conflicts: &[(String, Vec<String>)],
    first: bool,
    manager: &str,
    shape: Shape<'_>,
) -> bool {
    if manager != "kubectl" || !first {
        return false;
    }
    let last_applied = live.pointer("/metadata/annotations").and_then(|a| a.get(LAST_APPLIED)).and_then(Value::as_str);
    let Some(last_applied) = last_applied.and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
        return false;
    };
    let allowed = compare::fields_of(&last_applied, shape).paths();
    conflicts.iter().all(|(_, paths)| paths.iter().all(|path| allowed.contains(path)))
}

fn conflict_status(conflicts: &[(String, Vec<String>)]) -> Status {
    let count: usize = conflicts.iter().map(|(_, paths)| paths.len()).sum();
    let message = match conflicts {
        [(manager, paths)] if count == 1 => {
            format!("Apply failed with 1 conflict: conflict with {manager}: {}", paths[0])
        }
        _ => {
            let mut lines = Vec::new();
            for (manager, paths) in conflicts {
                lines.push(format!("conflicts with {manager}:"));
                lines.extend(paths.iter().map(|path| format!("- {path}")));
            }
            format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
        }
    };
    let mut status = Status::new(409, Reason::Conflict, message);
    status.causes = conflicts
        .iter()
        .flat_map(|(manager, paths)| {
            paths.iter().map(move |path| Cause {
                reason: "FieldManagerConflict",
                message: format!("conflict with {manager}"),
                field: path.clone(),
            })
        })
        .collect();
    status
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
