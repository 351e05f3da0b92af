//! Requests and limits.

use galley_types::{Quantity, names};
use serde_json::Value;

use super::{Errors, Get, Path};

/// Resource names without a domain that containers may ask for.
fn is_standard(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.")
}

/// Whether more may be promised than there is.
fn may_overcommit(name: &str) -> bool {
    is_native(name) && !name.starts_with("hugepages-")
}

pub(super) fn quantity(value: &Value) -> Quantity {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(Quantity::ZERO)
}

fn amount(errors: &mut Errors, name: &str, value: &Value, path: &Path<'_>) {
    let amount = quantity(value);
    if amount.is_negative() {
        errors.invalid(path, value.clone(), "must be greater than or equal to 0");
    }
    if (is_extended(name) || name == "pods") && !amount.is_whole() {
        errors.invalid(path, value.clone(), "must be an integer");
    }
}

/// The name of a container's resource.
fn container_resource(errors: &mut Errors, name: &str, path: &Path<'_>) {
    let complaints = names::qualified_name(name);
    let valid = complaints.is_empty();
    errors.named(path, name, complaints);
    if valid && !name.contains('/') {
        if !is_standard(name) {
            errors.invalid(path, name, "must be a standard resource type or fully qualified");
            errors.invalid(path, name, "must be a standard resource for containers");
        }
    } else if valid && is_native(name) {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

/// `resources` of a container.
pub(super) fn requirements(errors: &mut Errors, resources: &Value, path: &Path<'_>) {
    let (limits, requests) = (resources.at("limits"), resources.at("requests"));
    let empty = serde_json::Map::new();
    let limits_path = path.field("limits");
    for (name, value) in limits.as_object().unwrap_or(&empty) {
        container_resource(errors, name, &limits_path);
        amount(errors, name, value, &limits_path.key(name));
    }
    let requests_path = path.field("requests");
    for (name, value) in requests.as_object().unwrap_or(&empty) {
        container_resource(errors, name, &requests_path);
        amount(errors, name, value, &requests_path.key(name));
        let request = quantity(value);
        match limits.get(name) {
            Some(limit) => {
                let limit_amount = quantity(limit);
                if !may_overcommit(name) && request != limit_amount {
                    let detail = format!("must be equal to {name} limit of {limit_amount}");
                    errors.invalid(&requests_path, value.clone(), &detail);
                } else if request > limit_amount {
                    let detail = format!("must be less than or equal to {name} limit of {limit_amount}");
                    errors.invalid(&requests_path, value.clone(), &detail);
                }
            }
            None if !may_overcommit(name) => {
                errors.required(&limits_path, "Limit must be set for non overcommitable resources");
            }
            None => {}
        }
    }
    let asks_for = |name: &str| limits.get(name).is_some() || requests.get(name).is_some();
    let huge = |list: &Value| list.as_object().is_some_and(|l| l.keys().any(|name| name.starts_with("hugepages-")));
    if (huge(limits) || huge(requests)) && !asks_for("cpu") && !asks_for("memory") {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
    let claims = path.field("claims");
    for (at, claim) in resources.list("claims").iter().enumerate() {
        errors.required_text(&claims.index(at), claim.text("name"));
    }
}
