//! Role-based access control (Kubernetes docs, "Using RBAC Authorization").
//!
//! Rules only allow; what no rule allows is refused. A ClusterRole with an aggregation rule stands for all ClusterRoles whose
//! labels it selects, whatever its own `rules` say at the moment.

use std::collections::BTreeSet;
use std::sync::Arc;

use galley_types::LabelSelector;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};

use crate::attributes::joined;
use crate::{Actor, Attributes, Decision, Target};

/// Whoever is in it may do everything.
pub const MASTERS: &str = "system:masters";

/// Where a cluster's roles and bindings are found.
pub trait Roles {
    /// A ClusterRole by name.
    fn cluster_role(&self, name: &str) -> Option<Arc<ClusterRole>>;
    /// All ClusterRoles.
    fn cluster_roles(&self) -> Vec<Arc<ClusterRole>>;
    /// A Role by namespace and name.
    fn role(&self, namespace: &str, name: &str) -> Option<Arc<Role>>;
    /// All ClusterRoleBindings.
    fn cluster_role_bindings(&self) -> Vec<Arc<ClusterRoleBinding>>;
    /// The RoleBindings of a namespace.
    fn role_bindings(&self, namespace: &str) -> Vec<Arc<RoleBinding>>;
}

/// Whether RBAC allows a request.
pub fn authorize(roles: &impl Roles, attributes: &Attributes<'_>) -> Decision {
    if is_master(attributes.actor) {
        return Decision::Allow { reason: String::new() };
    }
    Grants::of(roles, attributes.actor, namespace_of(attributes)).decide(attributes)
}

/// Whether an actor may do everything, whatever roles say.
pub fn is_master(actor: &Actor) -> bool {
    actor.groups.iter().any(|group| group == MASTERS)
}

/// What roles say of one actor in one namespace (and at the cluster scope): worked out from all bindings once, good for as long as
/// no role or binding changes.
#[derive(Debug)]
pub struct Grants {
    /// Which binding, in words, and the rules that it grants; in the order of bindings.
    granted: Vec<(String, Vec<PolicyRule>)>,
    /// Bindings of roles that are not there.
    problems: Vec<String>,
}

impl Grants {
    /// Looks at every binding.
    pub fn of(roles: &impl Roles, actor: &Actor, namespace: &str) -> Self {
        let (mut granted, mut problems) = (Vec::new(), Vec::new());
        visit(roles, actor, namespace, &mut problems, &mut |binding, rules| granted.push((binding, rules)));
        Self { granted, problems }
    }

    /// Whether they allow a request of this actor in this namespace.
    pub fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        let found = self.granted.iter().find(|(_, rules)| rules.iter().any(|rule| allows(rule, attributes)));
        match found {
            Some((binding, _)) => Decision::Allow { reason: format!("RBAC: allowed by {binding}") },
            None if self.problems.is_empty() => Decision::NoOpinion { reason: String::new() },
            None => Decision::NoOpinion { reason: format!("RBAC: {}", self.problems.join(", ")) },
        }
    }
}

/// The namespace whose roles count for a request; empty where only the cluster's do.
pub fn namespace_of<'a>(attributes: &Attributes<'a>) -> &'a str {
    match attributes.target {
        Target::Resource { namespace, .. } => namespace,
        Target::Path(_) => "",
    }
}

/// Every rule that an actor has in a namespace (and at the cluster scope).
pub fn rules_of(roles: &impl Roles, actor: &Actor, namespace: &str) -> Vec<PolicyRule> {
    if is_master(actor) {
        let all = || vec!["*".to_owned()];
        return vec![
            PolicyRule { api_groups: Some(all()), resources: Some(all()), verbs: all(), ..PolicyRule::default() },
            PolicyRule { non_resource_urls: Some(all()), verbs: all(), ..PolicyRule::default() },
        ];
    }
    let mut found = Vec::new();
    visit(roles, actor, namespace, &mut Vec::new(), &mut |_, rules| found.extend(rules));
    found
}

/// Shows each binding of the actor, in words, and its rules.
fn visit(
    roles: &impl Roles,
    actor: &Actor,
    namespace: &str,
    problems: &mut Vec<String>,
    each: &mut dyn FnMut(String, Vec<PolicyRule>),
) {
    for binding in roles.cluster_role_bindings() {
        let Some(subject) = subject_of(&binding.subjects, actor, "") else { continue };
        match rules_of_role(roles, &binding.role_ref, "") {
            Ok(rules) => {
                let name = binding.metadata.name.as_deref().unwrap_or_default();
                let told = format!(
                    "ClusterRoleBinding {name:?} of ClusterRole {:?} to {}",
                    binding.role_ref.name,
                    shown(subject)
                );
                each(told, rules);
            }
            Err(problem) => problems.push(problem),
        }
    }
    if namespace.is_empty() {
        return;
    }
    for binding in roles.role_bindings(namespace) {
        let Some(subject) = subject_of(&binding.subjects, actor, namespace) else { continue };
        match rules_of_role(roles, &binding.role_ref, namespace) {
            Ok(rules) => {
                let name = binding.metadata.name.as_deref().unwrap_or_default();
                let told = format!(
                    "RoleBinding \"{name}/{namespace}\" of {} {:?} to {}",
                    binding.role_ref.kind,
                    binding.role_ref.name,
                    shown(subject)
                );
                each(told, rules);
            }
            Err(problem) => problems.push(problem),
        }
    }
}

fn subject_of<'a>(subjects: &'a Option<Vec<Subject>>, actor: &Actor, namespace: &str) -> Option<&'a Subject> {
    subjects.iter().flatten().find(|subject| match subject.kind.as_str() {
        "User" => subject.name == actor.username,
        "Group" => actor.groups.contains(&subject.name),
        "ServiceAccount" => {
            let of = subject.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(namespace);
            actor.service_account() == Some((of, subject.name.as_str()))
        }
        _ => false,
    })
}

fn shown(subject: &Subject) -> String {
    match (&subject.kind, &subject.namespace) {
        (kind, Some(namespace)) if kind == "ServiceAccount" => format!("{kind} \"{}/{namespace}\"", subject.name),
        (kind, _) => format!("{kind} {:?}", subject.name),
    }
}

/// The rules that a binding refers to.
pub fn rules_of_role(roles: &impl Roles, role: &RoleRef, namespace: &str) -> Result<Vec<PolicyRule>, String> {
    if role.kind == "Role" {
        return match roles.role(namespace, &role.name) {
            Some(role) => Ok(role.rules.clone().unwrap_or_default()),
            None => Err(format!("role.rbac.authorization.k8s.io {:?} not found", role.name)),
        };
    }
    match roles.cluster_role(&role.name) {
        Some(role) => Ok(effective_rules(roles, &role)),
        None => Err(format!("clusterrole.rbac.authorization.k8s.io {:?} not found", role.name)),
    }
}

/// A ClusterRole's rules, with those that it aggregates.
pub fn effective_rules(roles: &impl Roles, role: &ClusterRole) -> Vec<PolicyRule> {
    let mut seen = BTreeSet::new();
    let mut rules = Vec::new();
    aggregate(roles, role, &mut seen, &mut rules);
    rules
}

fn aggregate(roles: &impl Roles, role: &ClusterRole, seen: &mut BTreeSet<String>, rules: &mut Vec<PolicyRule>) {
    // Aggregation may name itself in a circle.
    if !seen.insert(role.metadata.name.clone().unwrap_or_default()) {
        return;
    }
    let selectors = role.aggregation_rule.iter().flat_map(|rule| rule.cluster_role_selectors.iter().flatten());
    let selectors: Vec<LabelSelector> = selectors
        .filter_map(|selector| LabelSelector::from_value(&serde_json::to_value(selector).ok()?).ok())
        .collect();
    if selectors.is_empty() {
        rules.extend(role.rules.iter().flatten().cloned());
        return;
    }
    let none = std::collections::BTreeMap::new();
    for other in roles.cluster_roles() {
        let labels = other.metadata.labels.as_ref().unwrap_or(&none);
        if selectors.iter().any(|selector| selector.matches(labels)) {
            aggregate(roles, &other, seen, rules);
        }
    }
}

/// Whether one rule allows a request.
pub fn allows(rule: &PolicyRule, attributes: &Attributes<'_>) -> bool {
    if !rule.verbs.iter().any(|verb| verb == "*" || verb == attributes.verb) {
        return false;
    }
    match attributes.target {
        Target::Path(path) => rule.non_resource_urls.iter().flatten().any(|url| path_matches(url, path)),
        Target::Resource { group, resource, subresource, name, .. } => {
            rule.api_groups.iter().flatten().any(|g| g == "*" || g == group)
                && rule.resources.iter().flatten().any(|r| resource_matches(r, resource, subresource))
                && name_matches(&rule.resource_names, name)
        }
    }
}

fn name_matches(names: &Option<Vec<String>>, name: &str) -> bool {
    names.as_ref().is_none_or(|names| names.is_empty() || names.iter().any(|n| n == name))
}

/// `*`, `pods`, `pods/log`, `*/scale`.
fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    rule == "*"
        || rule == joined(resource, subresource)
        || (!subresource.is_empty() && rule.strip_prefix("*/") == Some(subresource))
}

/// `*`, `/apis`, `/apis/*`.
fn path_matches(rule: &str, path: &str) -> bool {
    rule == "*" || rule == path || rule.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

/// The parts of `wanted` that no rule of `owned` covers. Empty: whoever has `owned` may grant `wanted`.
pub fn uncovered(owned: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    wanted.iter().flat_map(atoms).filter(|atom| !owned.iter().any(|rule| covers(rule, atom))).collect()
}

/// A rule as rules of one verb and one group, resource and name each.
fn atoms(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut atoms = Vec::new();
    for verb in &rule.verbs {
        for url in rule.non_resource_urls.iter().flatten() {
            atoms.push(PolicyRule {
                verbs: vec![verb.clone()],
                non_resource_urls: Some(vec![url.clone()]),
                ..PolicyRule::default()
            });
        }
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                let atom = PolicyRule {
                    verbs: vec![verb.clone()],
                    api_groups: Some(vec![group.clone()]),
                    resources: Some(vec![resource.clone()]),
                    ..PolicyRule::default()
                };
                let names = rule.resource_names.iter().flatten();
                let mut named: Vec<PolicyRule> =
                    names.map(|name| PolicyRule { resource_names: Some(vec![name.clone()]), ..atom.clone() }).collect();
                if named.is_empty() {
                    named.push(atom);
                }
                atoms.append(&mut named);
            }
        }
    }
    atoms
}

fn covers(rule: &PolicyRule, atom: &PolicyRule) -> bool {
    let first = |list: &Option<Vec<String>>| list.iter().flatten().next().cloned().unwrap_or_default();
    if !rule.verbs.iter().any(|verb| verb == "*" || Some(verb) == atom.verbs.first()) {
        return false;
    }
    if let Some(url) = atom.non_resource_urls.iter().flatten().next() {
        return rule.non_resource_urls.iter().flatten().any(|owned| path_matches(owned, url));
    }
    let (group, resource, name) = (first(&atom.api_groups), first(&atom.resources), first(&atom.resource_names));
    let (plural, subresource) = resource.split_once('/').unwrap_or((&resource, ""));
    rule.api_groups.iter().flatten().any(|g| *g == "*" || *g == group)
        && rule.resources.iter().flatten().any(|r| resource_matches(r, plural, subresource))
        && (rule.resource_names.as_ref().is_none_or(Vec::is_empty)
            || (!name.is_empty() && name_matches(&rule.resource_names, &name)))
}

/// A rule as messages about escalation show it.
pub fn describe(rule: &PolicyRule) -> String {
    let mut parts = Vec::new();
    for (label, list) in [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.resource_names),
        ("NonResourceURLs", &rule.non_resource_urls),
    ] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            parts.push(format!("{label}:{}", quoted(list)));
        }
    }
    parts.push(format!("Verbs:{}", quoted(&rule.verbs)));
    format!("{{{}}}", parts.join(", "))
}

fn quoted(list: &[String]) -> String {
    let texts: Vec<String> = list.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", texts.join(" "))
}
