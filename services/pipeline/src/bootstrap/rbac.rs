//! The roles and bindings of every cluster (Kubernetes docs, "Default roles and role bindings").
//!
//! They are told in `rbac.txt` and read once: thousands of clusters are made from one list.

use std::sync::OnceLock;

use galley_types::LabelSelector;
use serde_json::{Value, json};

const GROUP: &str = "rbac.authorization.k8s.io";
const CLUSTER_ROLES: &str = "clusterroles.rbac.authorization.k8s.io";
const CLUSTER_ROLE_BINDINGS: &str = "clusterrolebindings.rbac.authorization.k8s.io";
const ROLES: &str = "roles.rbac.authorization.k8s.io";
const ROLE_BINDINGS: &str = "rolebindings.rbac.authorization.k8s.io";

type Told = (&'static str, &'static str, Value);

/// Resource, namespace and body of each.
pub(super) fn objects() -> Vec<Told> {
    static OBJECTS: OnceLock<Vec<Told>> = OnceLock::new();
    OBJECTS.get_or_init(|| aggregated(read(include_str!("rbac.txt")))).clone()
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    })
}

fn read(text: &'static str) -> Vec<Told> {
    let mut objects: Vec<Told> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        if let Some(rule) = line.strip_prefix("  ") {
            if let Some((_, _, role)) = objects.last_mut()
                && let Some(Value::Array(rules)) = role.get_mut("rules")
            {
                rules.push(read_rule(rule));
            }
            continue;
        }
        let words: Vec<&'static str> = line.split(' ').collect();
        let Some((what, rest)) = words.split_first() else { continue };
        match (*what, rest) {
            ("role", [name, options @ ..]) => {
                let mut role = json!({"metadata": metadata(name), "rules": []});
                for option in options {
                    match option.split_once('=') {
                        Some(("to", target)) => {
                            role["metadata"]["labels"][format!("{GROUP}/aggregate-to-{target}")] = json!("true");
                        }
                        Some(("from", target)) => {
                            role["aggregationRule"] = json!({"clusterRoleSelectors": [
                                {"matchLabels": {format!("{GROUP}/aggregate-to-{target}"): "true"}}]});
                        }
                        _ => {}
                    }
                }
                objects.push((CLUSTER_ROLES, "", role));
            }
            ("namespaced", [namespace, name]) => {
                objects.push((ROLES, namespace, json!({"metadata": metadata(name), "rules": []})));
            }
            ("bind", [name, role, subjects @ ..]) => {
                let binding = json!({"metadata": metadata(name), "subjects": read_subjects(subjects),
                    "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role}});
                objects.push((CLUSTER_ROLE_BINDINGS, "", binding));
            }
            ("bindin", [namespace, name, role, subjects @ ..]) => {
                let binding = json!({"metadata": metadata(name), "subjects": read_subjects(subjects),
                    "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": role}});
                objects.push((ROLE_BINDINGS, namespace, binding));
            }
            ("controller", [name]) => {
                // A controller's role is bound to the account of its name, below its rules.
                let role = format!("system:controller:{name}");
                let subject = json!({"kind": "ServiceAccount", "name": name, "namespace": "kube-system"});
                let binding = json!({"metadata": metadata(&role), "subjects": [subject],
                    "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role}});
                objects.push((CLUSTER_ROLE_BINDINGS, "", binding));
                objects.push((CLUSTER_ROLES, "", json!({"metadata": metadata(&role), "rules": []})));
            }
            _ => {}
        }
    }
    objects
}

fn read_subjects(words: &[&str]) -> Vec<Value> {
    words
        .iter()
        .filter_map(|word| {
            let (kind, name) = word.split_once('=')?;
            Some(match kind {
                "group" => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
                "user" => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
                _ => json!({"kind": "ServiceAccount", "namespace": "kube-system", "name": name}),
            })
        })
        .collect()
}

/// `verbs | group | resources [| names]`, or `verbs | urls`. `core` is the core group.
fn read_rule(line: &str) -> Value {
    let mut parts = line.split('|').map(|part| part.split_whitespace().map(str::to_owned).collect::<Vec<String>>());
    let mut part = || parts.next().unwrap_or_default();
    let (verbs, second, resources, names) = (part(), part(), part(), part());
    let verbs: Vec<String> = verbs
        .into_iter()
        .flat_map(|verb| match verb.as_str() {
            "read" => vec!["get".to_owned(), "list".into(), "watch".into()],
            "write" => ["create", "delete", "deletecollection", "patch", "update"].map(str::to_owned).to_vec(),
            _ => vec![verb],
        })
        .collect();
    if resources.is_empty() {
        return json!({"nonResourceURLs": second, "verbs": verbs});
    }
    let groups: Vec<String> = second.into_iter().map(|g| if g == "core" { String::new() } else { g }).collect();
    let mut rule = json!({"apiGroups": groups, "resources": resources, "verbs": verbs});
    if !names.is_empty() {
        rule["resourceNames"] = json!(names);
    }
    rule
}

/// Fills in the rules of aggregated roles, as far as the list itself knows them.
fn aggregated(mut objects: Vec<Told>) -> Vec<Told> {
    // Three times: `admin` aggregates `edit`, which aggregates `view`.
    for _ in 0..3 {
        let roles: Vec<Value> =
            objects.iter().filter(|(resource, _, _)| *resource == CLUSTER_ROLES).map(|(_, _, o)| o.clone()).collect();
        for (_, _, object) in &mut objects {
            let Some(selector) = object.pointer("/aggregationRule/clusterRoleSelectors/0") else { continue };
            let Ok(selector) = LabelSelector::from_value(selector) else { continue };
            let name = object["metadata"]["name"].clone();
            let mut rules: Vec<Value> = Vec::new();
            let others = roles.iter().filter(|role| role["metadata"]["name"] != name);
            for other in others.filter(|role| selector.matches_value(&role["metadata"]["labels"])) {
                for rule in other["rules"].as_array().into_iter().flatten() {
                    if !rules.contains(rule) {
                        rules.push(rule.clone());
                    }
                }
            }
            object["rules"] = json!(rules);
        }
    }
    objects
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_reads_as_roles_and_bindings() {
        let objects = objects();
        let find = |resource: &str, name: &str| {
            objects.iter().find(|(r, _, o)| *r == resource && o["metadata"]["name"] == name).map(|(_, _, o)| o.clone())
        };
        let admin = find(CLUSTER_ROLES, "cluster-admin").unwrap();
        assert_eq!(admin["rules"][0], json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}));
        assert_eq!(admin["rules"][1], json!({"nonResourceURLs": ["*"], "verbs": ["*"]}));
        let masters = find(CLUSTER_ROLE_BINDINGS, "cluster-admin").unwrap();
        assert_eq!(masters["subjects"][0]["name"], "system:masters");
        let (view, edit, admin) = ("view", "edit", "admin");
        let [view, edit, admin] = [view, edit, admin].map(|name| find(CLUSTER_ROLES, name).unwrap());
        let count = |role: &Value| role["rules"].as_array().map_or(0, Vec::len);
        assert!(0 < count(&view) && count(&view) < count(&edit) && count(&edit) < count(&admin));
        assert!(find(CLUSTER_ROLE_BINDINGS, "system:controller:deployment-controller").is_some());
        for (resource, _, object) in &objects {
            let wanted = if resource.ends_with("bindings.rbac.authorization.k8s.io") { "subjects" } else { "rules" };
            assert!(!object[wanted].as_array().unwrap().is_empty(), "{object}");
        }
    }
}
