//! Defaults of what extends the API: CRDs, webhooks, admission policies.

use serde_json::{Map, Value, json};

use super::{child, get, items, set, text};

type Object = Map<String, Value>;

pub(super) fn custom_resource_definition(object: &mut Object) {
    let spec = child(object, "spec");
    let conversion = child(spec, "conversion");
    set(conversion, "strategy", "None");
    if let Some(service) =
        get(conversion, "webhook").and_then(|w| get(w, "clientConfig")).and_then(|c| get(c, "service"))
    {
        set(service, "port", 443);
    }
    let names = child(spec, "names");
    let kind = text(names, "kind").to_owned();
    if !kind.is_empty() {
        set(names, "singular", kind.to_lowercase());
        set(names, "listKind", format!("{kind}List"));
    }
}

pub(super) fn webhooks(object: &mut Object, mutating: bool) {
    for webhook in items(object, "webhooks") {
        set(webhook, "failurePolicy", "Fail");
        set(webhook, "matchPolicy", "Equivalent");
        set(webhook, "namespaceSelector", json!({}));
        set(webhook, "objectSelector", json!({}));
        set(webhook, "timeoutSeconds", 10);
        if mutating {
            set(webhook, "reinvocationPolicy", "Never");
        }
        if let Some(service) = get(webhook, "clientConfig").and_then(|c| get(c, "service")) {
            set(service, "port", 443);
        }
        for rule in items(webhook, "rules") {
            set(rule, "scope", "*");
        }
    }
}

pub(super) fn policy(object: &mut Object) {
    let spec = child(object, "spec");
    set(spec, "failurePolicy", "Fail");
    if let Some(constraints) = get(spec, "matchConstraints") {
        set(constraints, "matchPolicy", "Equivalent");
        set(constraints, "namespaceSelector", json!({}));
        set(constraints, "objectSelector", json!({}));
        for list in ["resourceRules", "excludeResourceRules"] {
            for rule in items(constraints, list) {
                set(rule, "scope", "*");
            }
        }
    }
}
