//! Table tests of both authorizers.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use serde_json::{Value, json};

use crate::node::{self, NodePods};
use crate::rbac::{self, Roles};
use crate::{Actor, Attributes, Target};

#[derive(Default)]
struct World {
    cluster_roles: Vec<Arc<ClusterRole>>,
    roles: Vec<Arc<Role>>,
    cluster_role_bindings: Vec<Arc<ClusterRoleBinding>>,
    role_bindings: Vec<Arc<RoleBinding>>,
}

impl Roles for World {
    fn cluster_role(&self, name: &str) -> Option<Arc<ClusterRole>> {
        self.cluster_roles.iter().find(|role| role.metadata.name.as_deref() == Some(name)).cloned()
    }

    fn cluster_roles(&self) -> Vec<Arc<ClusterRole>> {
        self.cluster_roles.clone()
    }

    fn role(&self, namespace: &str, name: &str) -> Option<Arc<Role>> {
        let is = |role: &&Arc<Role>| {
            role.metadata.name.as_deref() == Some(name) && role.metadata.namespace.as_deref() == Some(namespace)
        };
        self.roles.iter().find(is).cloned()
    }

    fn cluster_role_bindings(&self) -> Vec<Arc<ClusterRoleBinding>> {
        self.cluster_role_bindings.clone()
    }

    fn role_bindings(&self, namespace: &str) -> Vec<Arc<RoleBinding>> {
        let of = |binding: &&Arc<RoleBinding>| binding.metadata.namespace.as_deref() == Some(namespace);
        self.role_bindings.iter().filter(of).cloned().collect()
    }
}

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).expect("a valid fixture"))
}

fn world() -> World {
    World {
        cluster_roles: vec![
            parse(json!({"metadata": {"name": "reader", "labels": {"to": "all"}}, "rules": [
                {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]}]})),
            parse(json!({"metadata": {"name": "scaler", "labels": {"to": "all"}}, "rules": [
                {"apiGroups": ["apps"], "resources": ["*/scale"], "verbs": ["update"]},
                {"nonResourceURLs": ["/metrics", "/debug/*"], "verbs": ["get"]}]})),
            parse(json!({"metadata": {"name": "all"}, "rules": [],
                "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "all"}}]}})),
        ],
        roles: vec![parse(json!({"metadata": {"name": "one", "namespace": "a"}, "rules": [
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["x"], "verbs": ["*"]}]}))],
        cluster_role_bindings: vec![
            parse(json!({"metadata": {"name": "jane"}, "subjects": [{"kind": "User", "name": "jane"}],
                "roleRef": {"apiGroup": "", "kind": "ClusterRole", "name": "reader"}})),
            parse(json!({"metadata": {"name": "ops"}, "subjects": [{"kind": "Group", "name": "ops"}],
                "roleRef": {"apiGroup": "", "kind": "ClusterRole", "name": "all"}})),
            parse(json!({"metadata": {"name": "lost"}, "subjects": [{"kind": "User", "name": "lost"}],
                "roleRef": {"apiGroup": "", "kind": "ClusterRole", "name": "gone"}})),
        ],
        role_bindings: vec![
            parse(json!({"metadata": {"name": "robot", "namespace": "a"},
                "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "a"}],
                "roleRef": {"apiGroup": "", "kind": "Role", "name": "one"}})),
            parse(json!({"metadata": {"name": "r", "namespace": "a"}, "subjects": [{"kind": "User", "name": "joe"}],
                "roleRef": {"apiGroup": "", "kind": "ClusterRole", "name": "reader"}})),
        ],
    }
}

fn actor(username: &str, groups: &[&str]) -> Actor {
    Actor {
        username: username.into(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        ..Actor::default()
    }
}

/// `verb resource[/sub][.group] namespace name`, `-` for none.
fn target<'a>(words: &'a str) -> (&'a str, Target<'a>) {
    let mut parts = words.split(' ');
    let mut part = || match parts.next() {
        None | Some("-") => "",
        Some(text) => text,
    };
    let (verb, what, namespace, name) = (part(), part(), part(), part());
    if what.starts_with('/') {
        return (verb, Target::Path(what));
    }
    let (resource, group) = what.split_once('.').unwrap_or((what, ""));
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    (verb, Target::Resource { group, resource, subresource, namespace, name, selected: &[] })
}

#[test]
fn rules_allow_what_they_name_and_nothing_else() {
    let world = world();
    let robot = "system:serviceaccount:a:robot";
    for (user, groups, asked, allowed) in [
        ("jane", &[][..], "list pods default", true),
        ("jane", &[], "list pods", true),
        ("jane", &[], "get pods/log default x", true),
        ("jane", &[], "get pods/exec default x", false),
        ("jane", &[], "delete pods default x", false),
        ("jane", &[], "list pods.metrics.k8s.io default", false),
        ("joe", &[], "list pods a", true),
        ("joe", &[], "list pods b", false),
        ("joe", &[], "list pods", false),
        (robot, &[], "update configmaps a x", true),
        (robot, &[], "update configmaps a y", false),
        (robot, &[], "list configmaps a", false),
        ("x", &["ops"], "update deployments/scale.apps a x", true),
        ("x", &["ops"], "update deployments.apps a x", false),
        ("x", &["ops"], "list pods", true),
        ("x", &["ops"], "get /metrics", true),
        ("x", &["ops"], "get /debug/pprof", true),
        ("x", &["ops"], "get /healthz", false),
        ("x", &[rbac::MASTERS], "delete nodes - x", true),
        ("lost", &[], "list pods", false),
    ] {
        let actor = actor(user, groups);
        let (verb, target) = target(asked);
        let decision = rbac::authorize(&world, &Attributes { actor: &actor, verb, target });
        assert_eq!(decision.is_allowed(), allowed, "{user} {groups:?} {asked}");
    }
}

#[test]
fn a_binding_to_nothing_says_so() {
    let actor = actor("lost", &[]);
    let (verb, target) = target("list pods");
    let decision = rbac::authorize(&world(), &Attributes { actor: &actor, verb, target });
    assert_eq!(decision.reason(), "RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found");
}

#[test]
fn denials_read_as_kubernetes_words_them() {
    let actor = actor("x", &[]);
    for (asked, told) in [
        (
            "list pods default",
            "User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"",
        ),
        (
            "list deployments.apps",
            "User \"x\" cannot list resource \"deployments\" in API group \"apps\" at the cluster scope",
        ),
        (
            "create pods/exec default p",
            "User \"x\" cannot create resource \"pods/exec\" in API group \"\" in the namespace \"default\"",
        ),
        ("get /metrics", "User \"x\" cannot get path \"/metrics\""),
    ] {
        let (verb, target) = target(asked);
        assert_eq!(Attributes { actor: &actor, verb, target }.denial(), told);
    }
}

#[test]
fn nobody_grants_more_than_he_has() {
    let rule = |value: Value| -> PolicyRule { serde_json::from_value(value).expect("a rule") };
    let owned = [rule(json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}))];
    let all = [rule(json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}))];
    let wanted = [rule(json!({"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["get"]}))];
    assert!(rbac::uncovered(&all, &wanted).is_empty());
    let missing = rbac::uncovered(&owned, &wanted);
    assert_eq!(missing.len(), 1);
    assert_eq!(rbac::describe(&missing[0]), "{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}");
    assert!(!rbac::uncovered(&owned, &all).is_empty());
}

struct OnePod;

impl NodePods for OnePod {
    fn refers(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
        node == "n1" && namespace == "a" && matches!((resource, name), ("secrets", "s") | ("serviceaccounts", "sa"))
    }

    fn is_on(&self, node: &str, namespace: &str, name: &str) -> bool {
        node == "n1" && namespace == "a" && name == "p"
    }
}

#[test]
fn a_node_reaches_its_own_objects_only() {
    let selected = [("spec.nodeName".to_owned(), "n1".to_owned())];
    let actor = actor("system:node:n1", &["system:nodes"]);
    for (asked, allowed) in [
        ("get secrets a s", true),
        ("get secrets a other", false),
        ("list secrets a", false),
        ("update secrets a s", false),
        ("create serviceaccounts/token a sa", true),
        ("create serviceaccounts/token a other", false),
        ("get pods a p", true),
        ("get pods a q", false),
        ("list pods", false),
        ("patch pods/status a p", true),
        ("patch pods a p", false),
        ("patch nodes/status - n1", true),
        ("patch nodes/status - n2", false),
        ("update leases.coordination.k8s.io kube-node-lease n1", true),
        ("update leases.coordination.k8s.io kube-node-lease n2", false),
        ("update leases.coordination.k8s.io kube-system n1", false),
        ("list services", true),
        ("create deployments.apps a", false),
    ] {
        let (verb, target) = target(asked);
        let decision = node::authorize(&OnePod, "n1", &Attributes { actor: &actor, verb, target });
        assert_eq!(decision.is_allowed(), allowed, "{asked}");
    }
    let target =
        Target::Resource { group: "", resource: "pods", subresource: "", namespace: "", name: "", selected: &selected };
    assert!(node::authorize(&OnePod, "n1", &Attributes { actor: &actor, verb: "watch", target }).is_allowed());
    assert!(!node::authorize(&OnePod, "n2", &Attributes { actor: &actor, verb: "watch", target }).is_allowed());
}
