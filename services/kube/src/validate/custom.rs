//! CustomResourceDefinitions: names, versions, and schemas that are structural.
//!
//! A schema that is not structural cannot be pruned or defaulted, so it is refused here; a running definition never has one.

use galley_types::names;
use regex::Regex;
use serde_json::Value;

use super::{Errors, Get, Path, node};
use crate::crd::{self, Schema};
use crate::status::FieldError;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const APPROVED: &str = "api-approved.kubernetes.io";

pub(super) fn definition(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    let (spec, path) = (object.at("spec"), Path::root("spec"));
    let (group, plural) = (spec.text("group"), node(spec, &["names", "plural"]).as_str().unwrap_or(""));
    let name = object.at("metadata").text("name");
    if name != format!("{plural}.{group}") {
        let path = Path::root("metadata");
        errors.invalid(&path.field("name"), name, "must be spec.names.plural+\".\"+spec.group");
    }
    if group.is_empty() {
        errors.required(&path.field("group"), "");
    } else {
        let complaints = names::dns1123_subdomain(group);
        if complaints.is_empty() && !group.contains('.') {
            errors.invalid(&path.field("group"), group, "should be a domain with at least one dot");
        }
        errors.named(&path.field("group"), group, complaints);
    }
    approval(errors, object, group);
    errors.one_of(&path.field("scope"), spec.text("scope"), &["Cluster", "Namespaced"]);
    accepted_names(errors, spec.at("names"), &path.field("names"));
    versions(errors, spec.list("versions"), &path.field("versions"));
    conversion(errors, spec.at("conversion"), &path.field("conversion"));
    if let Some(old) = old {
        update(errors, object, old, &path);
    }
}

/// Groups of the Kubernetes project itself.
fn approval(errors: &mut Errors, object: &Value, group: &str) {
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|owner| group == *owner || group.strip_suffix(owner).is_some_and(|rest| rest.ends_with('.')));
    let annotated = node(object, &["metadata", "annotations", APPROVED]).as_str().is_some_and(|a| !a.is_empty());
    if protected && !annotated {
        let path = Path::root("metadata");
        let path = path.field("annotations");
        errors.required(
            &path.key(APPROVED),
            &format!(
                "protected groups must have approval annotation {APPROVED:?}, see \
                 https://github.com/kubernetes/enhancements/pull/1111"
            ),
        );
    }
}

fn accepted_names(errors: &mut Errors, given: &Value, path: &Path<'_>) {
    for field in ["plural", "singular"] {
        errors.required_name(&path.field(field), given.text(field), names::dns1035_label);
    }
    for field in ["kind", "listKind"] {
        let name = given.text(field);
        let complaints = names::dns1035_label(&name.to_lowercase());
        if name.is_empty() {
            errors.required(&path.field(field), "");
        } else if !complaints.is_empty() {
            let detail = format!("may have mixed case, but should otherwise match: {}", complaints.join(","));
            errors.invalid(&path.field(field), name, &detail);
        }
    }
    if !given.text("kind").is_empty() && given.text("kind") == given.text("listKind") {
        errors.invalid(&path.field("listKind"), given.text("listKind"), "kind and listKind may not be the same");
    }
    for list in ["shortNames", "categories"] {
        let path = path.field(list);
        for (at, name) in given.list(list).iter().enumerate() {
            let name = name.as_str().unwrap_or("");
            errors.named(&path.index(at), name, names::dns1035_label(name));
        }
    }
}

fn versions(errors: &mut Errors, versions: &[Value], path: &Path<'_>) {
    let stored = versions.iter().filter(|version| version.flag("storage")).count();
    if stored != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.invalid(path, versions.to_vec(), detail);
    }
    for (at, version) in versions.iter().enumerate() {
        let path = path.index(at);
        let name = version.text("name");
        errors.named(&path.field("name"), name, names::dns1035_label(name));
        if versions[..at].iter().any(|other| other.text("name") == name) {
            errors.invalid(&path, name, "must contain unique version names");
        }
        let schema_path = path.field("schema");
        let schema_path = schema_path.field("openAPIV3Schema");
        let schema = version.at("schema").at("openAPIV3Schema");
        if schema.is_null() {
            errors.required(&schema_path, "schemas are required");
        } else {
            root_schema(errors, schema, &schema_path);
        }
        scale(errors, version.at("subresources").at("scale"), &path.field("subresources").field("scale"));
        let columns = path.field("additionalPrinterColumns");
        for (at, column) in version.list("additionalPrinterColumns").iter().enumerate() {
            let path = columns.index(at);
            errors.required_text(&path.field("name"), column.text("name"));
            let kinds = ["boolean", "date", "integer", "number", "string"];
            let kind = column.text("type");
            if kind.is_empty() {
                errors.required(&path.field("type"), "must be one of boolean,date,integer,number,string");
            } else if !kinds.contains(&kind) {
                errors.invalid(&path.field("type"), kind, "must be one of boolean,date,integer,number,string");
            }
            errors.required_text(&path.field("jsonPath"), column.text("jsonPath"));
        }
    }
}

fn scale(errors: &mut Errors, scale: &Value, path: &Path<'_>) {
    if scale.is_null() {
        return;
    }
    for (field, parent) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let value = scale.text(field);
        if value.is_empty() {
            errors.required(&path.field(field), "");
        } else if !value.starts_with(parent) {
            let detail = format!("should be a json path under {}", parent.trim_end_matches('.'));
            errors.invalid(&path.field(field), value, &detail);
        }
    }
    let selector = scale.text("labelSelectorPath");
    if !selector.is_empty() && !selector.starts_with(".spec.") && !selector.starts_with(".status.") {
        let detail = "should be a json path under either .spec or .status";
        errors.invalid(&path.field("labelSelectorPath"), selector, detail);
    }
}

fn conversion(errors: &mut Errors, conversion: &Value, path: &Path<'_>) {
    match conversion.text("strategy") {
        "None" => {
            if conversion.has("webhook") {
                errors.forbidden(&path.field("webhook"), "should not be set when strategy is not set to Webhook");
            }
        }
        "Webhook" => {
            let webhook = path.field("webhook");
            let client = webhook.field("clientConfig");
            if !conversion.at("webhook").has("clientConfig") {
                errors.required(&client, "required when strategy is set to Webhook");
            } else if conversion.at("webhook").list("conversionReviewVersions").is_empty() {
                errors.required(&webhook.field("conversionReviewVersions"), "");
            }
        }
        "" => errors.required(&path.field("strategy"), ""),
        other => errors.not_supported(&path.field("strategy"), other, &["None", "Webhook"]),
    }
}

fn root_schema(errors: &mut Errors, schema: &Value, path: &Path<'_>) {
    match schema.text("type") {
        "" => errors.required(&path.field("type"), "must not be empty at the root"),
        "object" => {}
        other => errors.invalid(&path.field("type"), other, "must be object at the root"),
    }
    structure(errors, schema, path);
    let parsed = Schema::parse(schema);
    defaults(errors, schema, &parsed, path);
}

/// What every level of a structural schema must have.
fn structure(errors: &mut Errors, schema: &Value, path: &Path<'_>) {
    let kind = schema.text("type");
    if !kind.is_empty() && !TYPES.contains(&kind) {
        errors.not_supported(&path.field("type"), kind, &TYPES);
    }
    if schema.flag("uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(&path.field("uniqueItems"), detail);
    }
    if schema.has("properties") && schema.has("additionalProperties") {
        let detail = "additionalProperties and properties are mutual exclusive";
        errors.forbidden(&path.field("additionalProperties"), detail);
    }
    if schema.has("$ref") {
        errors.forbidden(&path.field("$ref"), "$ref is not supported");
    }
    if let Some(pattern) = schema.at("pattern").as_str()
        && let Err(error) = Regex::new(pattern)
    {
        let detail = format!("must be a valid regular expression, but isn't: {error}");
        errors.invalid(&path.field("pattern"), pattern, &detail);
    }
    list_type(errors, schema, path);
    let properties = path.field("properties");
    for (name, property) in schema.map("properties").into_iter().flatten() {
        typed(errors, property, &properties.key(name), "must not be empty for specified object fields");
    }
    if schema.at("additionalProperties").is_object() {
        let path = path.field("additionalProperties");
        typed(errors, schema.at("additionalProperties"), &path, "must not be empty for specified object fields");
    }
    let items = path.field("items");
    if schema.at("items").is_object() {
        typed(errors, schema.at("items"), &items, "must not be empty for specified array items");
    } else if kind == "array" {
        errors.required(&items, "must be specified");
    }
}

fn typed(errors: &mut Errors, schema: &Value, path: &Path<'_>, missing: &str) {
    let any = schema.flag("x-kubernetes-int-or-string") || schema.flag("x-kubernetes-preserve-unknown-fields");
    if schema.text("type").is_empty() && !any {
        errors.required(&path.field("type"), missing);
    }
    structure(errors, schema, path);
}

fn list_type(errors: &mut Errors, schema: &Value, path: &Path<'_>) {
    let kind_path = path.field("x-kubernetes-list-type");
    let kind = schema.text("x-kubernetes-list-type");
    if kind.is_empty() {
        return;
    }
    if schema.text("type") != "array" {
        errors.invalid(
            &path.field("type"),
            schema.text("type"),
            "must be array if x-kubernetes-list-type is specified",
        );
    }
    errors.one_of(&kind_path, kind, &["atomic", "map", "set"]);
    let keys = schema.list("x-kubernetes-list-map-keys");
    let keys_path = path.field("x-kubernetes-list-map-keys");
    if kind == "map" && keys.is_empty() {
        errors.required(&keys_path, "must not be empty if x-kubernetes-list-type is map");
    }
    for (at, key) in keys.iter().enumerate() {
        let name = key.as_str().unwrap_or("");
        if !schema.at("items").at("properties").has(name) {
            let detail = "entries must all be names of item properties";
            errors.invalid(&keys_path.index(at), name, detail);
        } else if !schema.at("items").list("required").contains(key)
            && !node(schema, &["items", "properties", name]).has("default")
        {
            let path = path.field("items");
            let path = path.field("properties");
            let path = path.key(name);
            errors.required(
                &path.field("default"),
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            );
        }
    }
}

/// Defaults must be values that the schema would accept.
fn defaults(errors: &mut Errors, source: &Value, schema: &Schema, path: &Path<'_>) {
    if let Some(default) = &schema.default {
        for problem in crd::validate(default, schema) {
            let path = path.field("default");
            let field = if problem.field == "<nil>" { path.to_string() } else { format!("{path}.{}", problem.field) };
            errors.push(FieldError { field, ..problem });
        }
    }
    let properties = path.field("properties");
    for (name, property) in source.map("properties").into_iter().flatten() {
        if let Some(schema) = schema.member(name) {
            defaults(errors, property, schema, &properties.key(name));
        }
    }
    if let Some(schema) = &schema.items {
        defaults(errors, source.at("items"), schema, &path.field("items"));
    }
}

fn update(errors: &mut Errors, new: &Value, old: &Value, path: &Path<'_>) {
    let established = old
        .at("status")
        .list("conditions")
        .iter()
        .any(|condition| condition.text("type") == "Established" && condition.text("status") == "True");
    let (spec, was) = (new.at("spec"), old.at("spec"));
    if established {
        errors.immutable(&path.field("scope"), spec.at("scope"), was.at("scope"));
        let names = path.field("names");
        errors.immutable(&names.field("kind"), spec.at("names").at("kind"), was.at("names").at("kind"));
    }
    errors.immutable(&path.field("group"), spec.at("group"), was.at("group"));
    let names = path.field("names");
    errors.immutable(&names.field("plural"), spec.at("names").at("plural"), was.at("names").at("plural"));
    let stored = Path::root("status");
    let stored = stored.field("storedVersions");
    for (at, version) in old.at("status").list("storedVersions").iter().enumerate() {
        let name = version.as_str().unwrap_or("");
        if !spec.list("versions").iter().any(|v| v.text("name") == name) {
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until \
                 a storage migration ensures no data remains persisted in {name} and removes {name} from \
                 status.storedVersions"
            );
            errors.invalid(&stored.index(at), name, &detail);
        }
    }
}
