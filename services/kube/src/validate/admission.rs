//! Webhook configurations.

use galley_types::names;
use serde_json::Value;

use super::{Errors, Get, Path};

pub(super) fn webhooks(errors: &mut Errors, object: &Value, mutating: bool) {
    let list = object.list("webhooks");
    let path = Path::root("webhooks");
    for (at, webhook) in list.iter().enumerate() {
        let path = path.index(at);
        let name = webhook.text("name");
        qualified(errors, name, &path.field("name"));
        if !name.is_empty() && list[..at].iter().any(|other| other.text("name") == name) {
            errors.duplicate(&path.field("name"), name);
        }
        rules(errors, webhook.list("rules"), &path.field("rules"));
        errors.maybe_one_of(&path.field("failurePolicy"), webhook.text("failurePolicy"), &["Fail", "Ignore"]);
        errors.maybe_one_of(&path.field("matchPolicy"), webhook.text("matchPolicy"), &["Equivalent", "Exact"]);
        let effects = webhook.text("sideEffects");
        if effects.is_empty() {
            errors.required(&path.field("sideEffects"), "must specify one of None, NoneOnDryRun");
        } else {
            errors.one_of(&path.field("sideEffects"), effects, &["None", "NoneOnDryRun"]);
        }
        if let Some(seconds) = webhook.int("timeoutSeconds").filter(|s| !(1..=30).contains(s)) {
            let detail = "the timeout value must be between 1 and 30 seconds";
            errors.invalid(&path.field("timeoutSeconds"), seconds, detail);
        }
        errors.selector(&path.field("namespaceSelector"), webhook.at("namespaceSelector"));
        errors.selector(&path.field("objectSelector"), webhook.at("objectSelector"));
        if mutating {
            let policy = webhook.text("reinvocationPolicy");
            errors.maybe_one_of(&path.field("reinvocationPolicy"), policy, &["IfNeeded", "Never"]);
        }
        client(errors, webhook.at("clientConfig"), &path.field("clientConfig"));
        let versions = webhook.list("admissionReviewVersions");
        let versions_path = path.field("admissionReviewVersions");
        if versions.is_empty() {
            errors.required(&versions_path, "must specify one of v1, v1beta1");
        } else if !versions.iter().any(|v| v == "v1" || v == "v1beta1") {
            errors.invalid(&versions_path, versions.to_vec(), "must include at least one of v1, v1beta1");
        }
    }
}

/// A name with at least three segments.
fn qualified(errors: &mut Errors, name: &str, path: &Path<'_>) {
    let complaints = names::dns1123_subdomain(name);
    if name.is_empty() {
        errors.required(path, "");
    } else if !complaints.is_empty() {
        errors.invalid(path, name, &complaints.join(","));
    } else if name.split('.').count() < 3 {
        errors.invalid(path, name, "should be a domain with at least three segments separated by dots");
    }
}

fn rules(errors: &mut Errors, rules: &[Value], path: &Path<'_>) {
    for (at, rule) in rules.iter().enumerate() {
        let path = path.index(at);
        for field in ["operations", "apiGroups", "apiVersions", "resources"] {
            if rule.list(field).is_empty() {
                errors.required(&path.field(field), "");
            }
        }
        let operations = path.field("operations");
        for (at, operation) in rule.list("operations").iter().enumerate() {
            let known = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
            errors.one_of(&operations.index(at), operation.as_str().unwrap_or(""), &known);
        }
        for field in ["apiGroups", "apiVersions"] {
            let list = rule.list(field);
            if list.len() > 1 && list.iter().any(|value| value == "*") {
                errors.invalid(&path.field(field), list.to_vec(), "if '*' is present, must not specify other values");
            }
        }
        errors.maybe_one_of(&path.field("scope"), rule.text("scope"), &["*", "Cluster", "Namespaced"]);
    }
}

fn client(errors: &mut Errors, client: &Value, path: &Path<'_>) {
    match (client.at("url").as_str(), client.has("service")) {
        (None, false) | (Some(_), true) => errors.required(path, "exactly one of url or service is required"),
        (Some(url), false) => {
            if !url.starts_with("https://") {
                let scheme = url.split("://").next().unwrap_or("");
                let detail = "'https' is the only allowed URL scheme; desired format: https://host[/path]";
                errors.invalid(&path.field("url"), scheme, detail);
            }
        }
        (None, true) => {
            let (service, path) = (client.at("service"), path.field("service"));
            for (field, why) in [("name", "service name is required"), ("namespace", "service namespace is required")] {
                if service.text(field).is_empty() {
                    errors.required(&path.field(field), why);
                }
            }
            if let Some(port) = service.int("port").filter(|p| !(1..=65535).contains(p)) {
                let detail = "port is not valid: must be between 1 and 65535, inclusive";
                errors.invalid(&path.field("port"), port, detail);
            }
            let target = service.text("path");
            if !target.is_empty() && !target.starts_with('/') {
                errors.invalid(&path.field("path"), target, "must start with a '/'");
            }
        }
    }
}
