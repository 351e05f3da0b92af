//! What says where a pod may run: affinity, tolerations, spreading, node selectors.

use galley_types::names;
use serde_json::{Value, json};

use super::{Errors, Get, Path};
use crate::status::FieldError;

pub(super) fn scheduling(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    errors.labels(&path.field("nodeSelector"), spec.at("nodeSelector"));
    affinity(errors, spec.at("affinity"), &path.field("affinity"));
    tolerations(errors, spec.list("tolerations"), &path.field("tolerations"));
    spread(errors, spec.list("topologySpreadConstraints"), &path.field("topologySpreadConstraints"));
    let gates = path.field("schedulingGates");
    let mut seen: Vec<&str> = Vec::new();
    for (at, gate) in spec.list("schedulingGates").iter().enumerate() {
        let name = gate.text("name");
        errors.named(&gates.index(at), name, names::qualified_name(name));
        if seen.contains(&name) {
            errors.duplicate(&gates.index(at), name);
        }
        seen.push(name);
    }
    if !seen.is_empty() && !spec.text("nodeName").is_empty() {
        errors.forbidden(&path.field("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
}

fn affinity(errors: &mut Errors, affinity: &Value, path: &Path<'_>) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let node = affinity.at("nodeAffinity");
    let node_path = path.field("nodeAffinity");
    if node.has(REQUIRED) {
        let path = node_path.field(REQUIRED);
        let path = path.field("nodeSelectorTerms");
        let terms = node.at(REQUIRED).list("nodeSelectorTerms");
        if terms.is_empty() {
            errors.required(&path, "must have at least one node selector term");
        }
        for (at, term) in terms.iter().enumerate() {
            node_term(errors, term, &path.index(at));
        }
    }
    let preferred = node_path.field(PREFERRED);
    for (at, term) in node.list(PREFERRED).iter().enumerate() {
        let path = preferred.index(at);
        errors.in_range(&path.field("weight"), term.int("weight").unwrap_or(0), 1, 100);
        node_term(errors, term.at("preference"), &path.field("preference"));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (path, pods) = (path.field(kind), affinity.at(kind));
        let required = path.field(REQUIRED);
        for (at, term) in pods.list(REQUIRED).iter().enumerate() {
            pod_term(errors, term, &required.index(at));
        }
        let preferred = path.field(PREFERRED);
        for (at, term) in pods.list(PREFERRED).iter().enumerate() {
            let path = preferred.index(at);
            errors.in_range(&path.field("weight"), term.int("weight").unwrap_or(0), 1, 100);
            pod_term(errors, term.at("podAffinityTerm"), &path.field("podAffinityTerm"));
        }
    }
}

/// A term of a node selector; also of PersistentVolumes.
pub(super) fn node_term(errors: &mut Errors, term: &Value, path: &Path<'_>) {
    for list in ["matchExpressions", "matchFields"] {
        let path = path.field(list);
        for (at, expression) in term.list(list).iter().enumerate() {
            let path = path.index(at);
            let values = expression.list("values");
            match expression.text("operator") {
                "In" | "NotIn" if values.is_empty() => {
                    errors.required(&path.field("values"), "must be specified when `operator` is 'In' or 'NotIn'");
                }
                "Exists" | "DoesNotExist" if !values.is_empty() => {
                    let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    errors.forbidden(&path.field("values"), detail);
                }
                "Gt" | "Lt" if values.len() != 1 => {
                    let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                    errors.required(&path.field("values"), detail);
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
                other => errors.invalid(&path.field("operator"), other, "not a valid selector operator"),
            }
            let key = expression.text("key");
            errors.named(&path.field("key"), key, names::qualified_name(key));
        }
    }
}

fn pod_term(errors: &mut Errors, term: &Value, path: &Path<'_>) {
    errors.selector(&path.field("labelSelector"), term.at("labelSelector"));
    errors.selector(&path.field("namespaceSelector"), term.at("namespaceSelector"));
    let key = term.text("topologyKey");
    if key.is_empty() {
        errors.required(&path.field("topologyKey"), "can not be empty");
    } else {
        errors.named(&path.field("topologyKey"), key, names::qualified_name(key));
    }
}

fn tolerations(errors: &mut Errors, tolerations: &[Value], path: &Path<'_>) {
    const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    for (at, toleration) in tolerations.iter().enumerate() {
        let path = path.index(at);
        let (key, operator, effect) = (toleration.text("key"), toleration.text("operator"), toleration.text("effect"));
        if !key.is_empty() {
            errors.named(&path.field("key"), key, names::qualified_name(key));
        }
        if key.is_empty() && operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(&path.field("operator"), operator, detail);
        }
        if toleration.has("tolerationSeconds") && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(&path.field("effect"), effect, detail);
        }
        match operator {
            "" | "Equal" => {
                let value = toleration.text("value");
                errors.named(&path.field("operator"), value, names::label_value(value));
            }
            "Exists" => {
                if !toleration.text("value").is_empty() {
                    let detail = "value must be empty when `operator` is 'Exists'";
                    errors.invalid(&path.field("operator"), toleration.clone(), detail);
                }
            }
            "Gt" | "Lt" => {}
            other => errors.not_supported(&path.field("operator"), other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            errors.not_supported(&path.field("effect"), effect, &EFFECTS);
        }
    }
}

fn spread(errors: &mut Errors, constraints: &[Value], path: &Path<'_>) {
    for (at, constraint) in constraints.iter().enumerate() {
        let path = path.index(at);
        let skew = constraint.int("maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.invalid(&path.field("maxSkew"), skew, "must be greater than 0");
        }
        let key = constraint.text("topologyKey");
        if key.is_empty() {
            errors.required(&path.field("topologyKey"), "can not be empty");
        } else {
            errors.named(&path.field("topologyKey"), key, names::qualified_name(key));
        }
        let unsatisfiable = constraint.text("whenUnsatisfiable");
        let choices = ["DoNotSchedule", "ScheduleAnyway"];
        if !choices.contains(&unsatisfiable) {
            errors.push(FieldError::not_supported(path.field("whenUnsatisfiable"), &json!(unsatisfiable), &choices));
        }
        if let Some(domains) = constraint.int("minDomains") {
            if domains <= 0 {
                errors.invalid(&path.field("minDomains"), domains, "must be greater than 0");
            }
            if unsatisfiable != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {unsatisfiable}");
                errors.invalid(&path.field("minDomains"), domains, &detail);
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            errors.maybe_one_of(&path.field(field), constraint.text(field), &["Honor", "Ignore"]);
        }
        errors.selector(&path.field("labelSelector"), constraint.at("labelSelector"));
        let same = |other: &Value| other.text("topologyKey") == key && other.text("whenUnsatisfiable") == unsatisfiable;
        if constraints[..at].iter().any(same) {
            errors.duplicate(&path.field("{topologyKey, whenUnsatisfiable}"), format!("{{{key}, {unsatisfiable}}}"));
        }
    }
}
