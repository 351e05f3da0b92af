//! Table tests of every filter, score and text, and the property that no binding violates a filter.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::filter::Cycle;
use crate::{Budget, Outcome, PodInfo, Selector, Snapshot, Unschedulable, schedule_batch};

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// A node with 4 CPUs, 8 GiB and room for 10 pods, and `more` merged in.
fn node(name: &str, more: Value) -> core::Node {
    let mut value = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}},
    });
    merge(&mut value, more);
    serde_json::from_value(value).expect("a node")
}

/// A pod `default/name` with one container, and `more` merged in.
fn pod(name: &str, more: Value) -> Arc<PodInfo> {
    let mut value = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"containers": [{"name": "c", "image": "app"}]},
    });
    merge(&mut value, more);
    let pod: core::Pod = serde_json::from_value(value).expect("a pod");
    Arc::new(PodInfo::new(&pod, None))
}

fn asking(cpu: &str) -> Value {
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

fn with(mut a: Value, b: Value) -> Value {
    merge(&mut a, b);
    a
}

fn cluster(nodes: impl IntoIterator<Item = core::Node>) -> Snapshot {
    let mut snapshot = Snapshot::new();
    for n in nodes {
        snapshot.set_node(&n);
    }
    snapshot
}

fn three() -> Snapshot {
    cluster(["n1", "n2", "n3"].map(|n| node(n, json!({}))))
}

fn run(snapshot: &mut Snapshot, pods: &[Arc<PodInfo>]) -> Vec<Outcome> {
    let outcomes = schedule_batch(snapshot, pods, &mut StdRng::seed_from_u64(7));
    snapshot.audit();
    outcomes
}

fn placed(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Placed { node, .. } => node,
        Outcome::Unschedulable(u) => panic!("not placed: {}", u.message),
    }
}

fn refused(outcome: &Outcome) -> &Unschedulable {
    match outcome {
        Outcome::Unschedulable(u) => u,
        Outcome::Placed { node, .. } => panic!("placed on {node}"),
    }
}

const FUTILE: &str = "Preemption is not helpful for scheduling.";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod.";

#[test]
fn each_filter_says_what_users_know() {
    let term =
        |labels: Value| json!({"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"});
    let anti = |labels: Value| json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term(labels)]}}}});
    let near = |labels: Value| json!({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term(labels)]}}}});
    let web = json!({"metadata": {"labels": {"app": "web"}}});
    let cases: Vec<(Value, Option<Value>, Value, &str, &str)> = vec![
        // (node, pod that is there, pod that comes, reason, preemption)
        (json!({"spec": {"unschedulable": true}}), None, json!({}), "node(s) were unschedulable", FUTILE),
        (
            json!({}),
            None,
            json!({"spec": {"nodeName": "other"}}),
            "node(s) didn't match the requested node name",
            FUTILE,
        ),
        (
            json!({"spec": {"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]}}),
            None,
            json!({}),
            "node(s) had untolerated taint {a: b}",
            FUTILE,
        ),
        (
            json!({}),
            None,
            json!({"spec": {"nodeSelector": {"disk": "ssd"}}}),
            "node(s) didn't match Pod's node affinity/selector",
            FUTILE,
        ),
        (
            json!({}),
            None,
            json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n9"]}]}]}}}}}),
            "node(s) didn't satisfy plugin(s) [NodeAffinity]",
            FUTILE,
        ),
        (
            json!({}),
            Some(json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}})),
            json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80, "hostIP": "10.0.0.1"}]}]}}),
            "node(s) didn't have free ports for the requested pod ports",
            NO_VICTIMS,
        ),
        (json!({"status": {"allocatable": {"pods": "1"}}}), Some(json!({})), json!({}), "Too many pods", NO_VICTIMS),
        (json!({}), Some(asking("3")), asking("2"), "Insufficient cpu", NO_VICTIMS),
        (json!({}), None, asking("5"), "Insufficient cpu", FUTILE),
        (
            json!({}),
            None,
            json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"memory": "9Gi"}}}]}}),
            "Insufficient memory",
            FUTILE,
        ),
        (
            json!({}),
            None,
            json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"ephemeral-storage": "1Gi"}}}]}}),
            "Insufficient ephemeral-storage",
            FUTILE,
        ),
        (
            json!({"status": {"allocatable": {"nvidia.com/gpu": "2"}}}),
            Some(json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"nvidia.com/gpu": "1"}}}]}})),
            json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"nvidia.com/gpu": "2"}}}]}}),
            "Insufficient nvidia.com/gpu",
            NO_VICTIMS,
        ),
        (json!({}), None, near(json!({"app": "web"})), "node(s) didn't match pod affinity rules", FUTILE),
        (
            json!({}),
            Some(web.clone()),
            anti(json!({"app": "web"})),
            "node(s) didn't match pod anti-affinity rules",
            NO_VICTIMS,
        ),
        (
            json!({}),
            Some(anti(json!({"app": "web"}))),
            web.clone(),
            "node(s) didn't satisfy existing pods anti-affinity rules",
            NO_VICTIMS,
        ),
        (
            json!({}),
            None,
            json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}]}}),
            "node(s) didn't match pod topology spread constraints (missing required label)",
            FUTILE,
        ),
        (
            json!({}),
            Some(web.clone()),
            with(
                web.clone(),
                json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "minDomains": 2,
                "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "web"}}}]}}),
            ),
            "node(s) didn't match pod topology spread constraints",
            NO_VICTIMS,
        ),
        (
            json!({}),
            None,
            json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}}),
            "persistentvolumeclaim \"data\" not found",
            FUTILE,
        ),
    ];
    for (node_more, there, comes, reason, preemption) in cases {
        let mut snapshot = cluster([node("n1", node_more)]);
        if let Some(there) = there {
            snapshot.set_pod(pod("there", there), "n1");
        }
        let outcomes = run(&mut snapshot, &[pod("comes", comes)]);
        let count = if reason.starts_with("persistent") { "" } else { "1 " };
        assert_eq!(
            refused(&outcomes[0]).message,
            format!("0/1 nodes are available: {count}{reason}. preemption: 0/1 nodes are available: 1 {preemption}"),
        );
    }
}

#[test]
fn reasons_are_counted_over_nodes() {
    let tainted = json!({"spec": {"taints": [{"key": "a", "value": "b", "effect": "NoExecute"}]}});
    let mut snapshot = cluster([node("n1", tainted), node("n2", json!({})), node("n3", json!({}))]);
    for n in ["n2", "n3"] {
        snapshot.set_pod(pod(n, asking("4")), n);
    }
    let outcomes = run(&mut snapshot, &[pod("p", asking("1"))]);
    assert_eq!(
        refused(&outcomes[0]).message,
        "0/3 nodes are available: 1 node(s) had untolerated taint {a: b}, 2 Insufficient cpu. preemption: 0/3 nodes \
         are available: 1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod."
    );
}

#[test]
fn without_nodes_the_text_is_short() {
    let outcomes = run(&mut Snapshot::new(), &[pod("p", json!({}))]);
    assert_eq!(refused(&outcomes[0]).message, "no nodes available to schedule pods");
}

#[test]
fn pods_spread_over_equally_good_nodes_and_fill_the_emptiest_first() {
    let mut snapshot = three();
    let pods: Vec<_> = (0..6).map(|i| pod(&format!("p{i}"), asking("500m"))).collect();
    let mut per_node: HashMap<String, usize> = HashMap::new();
    for outcome in run(&mut snapshot, &pods) {
        *per_node.entry(placed(&outcome).to_owned()).or_default() += 1;
    }
    assert!(per_node.values().all(|n| *n == 2), "{per_node:?}");
}

#[test]
fn equal_seeds_give_equal_placements() {
    let pods: Vec<_> = (0..20).map(|i| pod(&format!("p{i}"), json!({}))).collect();
    let nodes = |seed| -> Vec<String> {
        schedule_batch(&mut three(), &pods, &mut StdRng::seed_from_u64(seed)).iter().map(|o| placed(o).into()).collect()
    };
    assert_eq!(nodes(1), nodes(1));
}

#[test]
fn tolerations_match_by_key_value_and_effect() {
    let taint = json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}});
    for (toleration, fits) in [
        (json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}), true),
        (json!({"key": "k", "value": "v"}), true),
        (json!({"key": "k", "operator": "Exists"}), true),
        (json!({"operator": "Exists"}), true),
        (json!({"key": "k", "value": "w"}), false),
        (json!({"key": "other", "operator": "Exists"}), false),
        (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false),
    ] {
        let mut snapshot = cluster([node("n1", taint.clone())]);
        let outcomes = run(&mut snapshot, &[pod("p", json!({"spec": {"tolerations": [toleration]}}))]);
        assert_eq!(matches!(outcomes[0], Outcome::Placed { .. }), fits, "{toleration}");
    }
}

#[test]
fn a_cordoned_node_takes_pods_that_tolerate_it() {
    let mut snapshot = cluster([node("n1", json!({"spec": {"unschedulable": true}}))]);
    let daemon = json!({"spec": {"tolerations": [
        {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}]}});
    assert_eq!(placed(&run(&mut snapshot, &[pod("p", daemon)])[0]), "n1");
}

#[test]
fn preferences_decide_between_equal_nodes() {
    let preferring = json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 5, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}}}});
    let near_cache = json!({"spec": {"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 5, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app": "cache"}}}}]}}}});
    let far_from_cache = json!({"spec": {"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 5, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app": "cache"}}}}]}}}});
    let spread = json!({"metadata": {"labels": {"app": "cache"}}, "spec": {"topologySpreadConstraints": [{"maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": "cache"}}}]}});
    // n1: the plain node, n2: with an SSD and the cache, n3: to be avoided.
    for (more, want) in [
        (preferring, "n2"),
        (near_cache, "n2"),
        (far_from_cache, "n1"),
        (spread, "n1"),
        (json!({"spec": {"containers": [{"name": "c", "image": "large"}]}}), "n2"),
    ] {
        let mut snapshot = cluster([
            node("n1", json!({})),
            node(
                "n2",
                json!({"metadata": {"labels": {"disk": "ssd"}},
                       "status": {"images": [{"names": ["large"], "sizeBytes": 3_000_000_000_i64}]}}),
            ),
            node("n3", json!({"spec": {"taints": [{"key": "a", "effect": "PreferNoSchedule"}]}})),
        ]);
        snapshot.set_pod(pod("cache", json!({"metadata": {"labels": {"app": "cache"}}})), "n2");
        assert_eq!(placed(&run(&mut snapshot, &[pod("p", more.clone())])[0]), want, "{more}");
    }
}

#[test]
fn the_first_of_a_group_that_wants_to_be_together_goes_anywhere_and_the_others_follow() {
    let mut snapshot = cluster(
        ["n1", "n2", "n3"]
            .map(|n| node(n, json!({"metadata": {"labels": {"zone": if n == "n3" { "b" } else { "a" }}}}))),
    );
    let together = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"affinity": {"podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "zone"}]}}}});
    let pods: Vec<_> = (0..8).map(|i| pod(&format!("p{i}"), together.clone())).collect();
    let zones: Vec<bool> = run(&mut snapshot, &pods).iter().map(|o| placed(o) == "n3").collect();
    assert!(zones.iter().all(|z| *z == zones[0]));
}

#[test]
fn namespace_selectors_look_at_the_labels_of_namespaces() {
    let anti = json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {}, "namespaceSelector": {"matchLabels": {"team": "a"}},
         "topologyKey": "kubernetes.io/hostname"}]}}}});
    let mut snapshot = cluster([node("n1", json!({}))]);
    snapshot.set_pod(pod("there", json!({"metadata": {"namespace": "other"}})), "n1");
    assert_eq!(placed(&run(&mut snapshot, &[pod("p1", anti.clone())])[0]), "n1");
    snapshot.remove_pod("p1");
    snapshot.set_namespace("other", &[("team".to_owned(), "a".to_owned())].into());
    assert!(refused(&run(&mut snapshot, &[pod("p2", anti)])[0]).message.contains("anti-affinity"));
}

#[test]
fn match_label_keys_keep_revisions_apart() {
    let rolled = |revision: &str| {
        json!({"metadata": {"labels": {"app": "web", "rev": revision}}, "spec": {"affinity": {"podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": {"matchLabels": {"app": "web"}},
                "matchLabelKeys": ["rev"], "topologyKey": "kubernetes.io/hostname"}]}}}})
    };
    let mut snapshot = cluster([node("n1", json!({}))]);
    let outcomes = run(&mut snapshot, &[pod("a", rolled("1")), pod("b", rolled("2")), pod("c", rolled("2"))]);
    placed(&outcomes[0]);
    placed(&outcomes[1]);
    refused(&outcomes[2]);
}

#[test]
fn hard_spread_keeps_zones_level_and_ignores_nodes_that_affinity_excludes() {
    let zoned = |n: &str, zone: &str| node(n, json!({"metadata": {"labels": {"zone": zone}}}));
    let mut snapshot = cluster([zoned("n1", "a"), zoned("n2", "a"), zoned("n3", "b"), zoned("n4", "c")]);
    let spread = json!({"metadata": {"labels": {"app": "web"}}, "spec": {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["c"]}]}]}}},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}}]}});
    let pods: Vec<_> = (0..8).map(|i| pod(&format!("p{i}"), spread.clone())).collect();
    let in_b = run(&mut snapshot, &pods).iter().filter(|o| placed(o) == "n3").count();
    assert_eq!(in_b, 4);
}

#[test]
fn a_node_that_moves_to_another_zone_takes_its_pods_along() {
    let zoned = |n: &str, zone: &str| node(n, json!({"metadata": {"labels": {"zone": zone}}}));
    let mut snapshot = cluster([zoned("n1", "a"), zoned("n2", "b")]);
    let anti = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"affinity": {"podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "zone"}]}}}});
    snapshot.set_pod(pod("a", anti.clone()), "n1");
    snapshot.set_node(&zoned("n1", "b"));
    snapshot.audit();
    refused(&run(&mut snapshot, &[pod("b", anti)])[0]);
}

#[test]
fn pods_of_a_node_that_is_not_known_yet_count_when_it_comes() {
    let mut snapshot = Snapshot::new();
    snapshot.set_pod(pod("early", asking("3")), "n1");
    snapshot.set_node(&node("n1", json!({})));
    refused(&run(&mut snapshot, &[pod("p", asking("2"))])[0]);
    snapshot.remove_node("n1");
    snapshot.remove_pod("early");
    snapshot.set_node(&node("n1", json!({})));
    placed(&run(&mut snapshot, &[pod("p", asking("2"))])[0]);
}

#[test]
fn a_claim_that_waits_gets_a_volume_that_its_node_can_reach() {
    let mut snapshot = three();
    let object = |v: Value| v;
    snapshot.set_storage_class(
        &serde_json::from_value(object(json!({"metadata": {"name": "local"},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"})))
        .expect("a class"),
    );
    snapshot.set_claim(&serde_json::from_value(json!({"metadata": {"name": "data", "namespace": "default"},
        "spec": {"storageClassName": "local", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})).expect("a claim"));
    for (name, node, size) in [("small", "n1", "500Mi"), ("right", "n2", "1Gi"), ("large", "n3", "9Gi")] {
        snapshot.set_volume(
            &serde_json::from_value(json!({"metadata": {"name": name}, "spec": {
            "storageClassName": "local", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}}}))
            .expect("a volume"),
        );
    }
    let mounting = json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
    let outcomes = run(&mut snapshot, &[pod("p", mounting)]);
    let Outcome::Placed { node, claims } = &outcomes[0] else { panic!("{outcomes:?}") };
    let volume = if &**node == "n2" { "right" } else { "large" };
    assert_eq!((&*claims[0].claim, &*claims[0].volume), ("data", volume));
}

// Preemption.

fn ranked(priority: i32, cpu: &str) -> Value {
    with(asking(cpu), json!({"spec": {"priority": priority}}))
}

fn victims(outcome: &Outcome) -> (&str, Vec<&str>) {
    let preemption = refused(outcome).preemption.as_ref().expect("room to be made");
    (&preemption.node, preemption.victims.iter().map(|v| &*v.name).collect())
}

#[test]
fn the_fewest_and_least_important_pods_leave() {
    let mut snapshot = cluster([node("n1", json!({})), node("n2", json!({}))]);
    for (name, priority, cpu, at) in [
        ("mid", 5, "2", "n1"),
        ("low", 1, "2", "n1"),
        ("low1", 1, "1", "n2"),
        ("low2", 1, "1", "n2"),
        ("top", 9, "2", "n2"),
    ] {
        snapshot.set_pod(pod(name, ranked(priority, cpu)), at);
    }
    let outcomes = run(&mut snapshot, &[pod("p", ranked(8, "2"))]);
    assert_eq!(victims(&outcomes[0]), ("n1", vec!["low"]));
    assert_eq!(refused(&outcomes[0]).message, "0/2 nodes are available: 2 Insufficient cpu.");
}

#[test]
fn a_budget_is_respected_where_another_node_will_do() {
    let guarded = |priority, cpu| with(ranked(priority, cpu), json!({"metadata": {"labels": {"app": "db"}}}));
    let mut snapshot = cluster([node("n1", json!({})), node("n2", json!({}))]);
    snapshot.set_pod(pod("guarded", guarded(1, "4")), "n1");
    snapshot.set_pod(pod("free", ranked(2, "4")), "n2");
    snapshot.set_budgets(vec![Budget {
        namespace: "default".into(),
        selector: Selector::everything(),
        allowed: 0,
        disrupted: Default::default(),
    }]);
    assert_eq!(victims(&run(&mut snapshot, &[pod("p", ranked(8, "4"))])[0]), ("n2", vec!["free"]));
}

#[test]
fn promised_room_is_kept_and_two_pods_do_not_ask_the_same_victim_twice() {
    let mut snapshot = three();
    for n in ["n1", "n2", "n3"] {
        snapshot.set_pod(pod(&format!("low-{n}"), ranked(1, "4")), n);
    }
    let pods = [pod("p1", ranked(8, "4")), pod("p2", ranked(8, "4")), pod("p3", ranked(0, "1"))];
    let outcomes = run(&mut snapshot, &pods);
    let (first, second) = (victims(&outcomes[0]), victims(&outcomes[1]));
    assert_ne!(first.0, second.0);
    assert!(refused(&outcomes[2]).preemption.is_none());
    // The victim leaves: its room is p1's, not p3's.
    snapshot.remove_pod(&format!("low-{}", first.0));
    refused(&run(&mut snapshot, &[pod("p3", ranked(0, "1"))])[0]);
    let mut p1 = (*pods[0]).clone();
    p1.nominated = Some(first.0.into());
    assert_eq!(placed(&run(&mut snapshot, &[Arc::new(p1)])[0]), first.0);
}

#[test]
fn a_pod_whose_policy_is_never_waits() {
    let mut snapshot = cluster([node("n1", json!({}))]);
    snapshot.set_pod(pod("low", ranked(1, "4")), "n1");
    let polite = with(ranked(8, "4"), json!({"spec": {"preemptionPolicy": "Never"}}));
    let outcomes = run(&mut snapshot, &[pod("p", polite)]);
    assert_eq!(
        refused(&outcomes[0]).message,
        "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."
    );
}

#[test]
fn a_pod_waits_for_victims_that_are_leaving_its_node() {
    let mut snapshot = cluster([node("n1", json!({}))]);
    snapshot.set_pod(pod("low", ranked(1, "4")), "n1");
    let first = pod("p", ranked(8, "4"));
    victims(&run(&mut snapshot, std::slice::from_ref(&first))[0]);
    let mut again = (*first).clone();
    again.nominated = Some("n1".into());
    let outcomes = run(&mut snapshot, &[Arc::new(again)]);
    assert!(refused(&outcomes[0]).message.ends_with("not eligible due to a terminating pod on the nominated node."));
}

#[test]
fn anti_affinity_is_resolved_by_preemption() {
    let anti = |priority: i32| {
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"priority": priority, "affinity": {"podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}]}}}})
    };
    let mut snapshot = cluster([node("n1", json!({}))]);
    snapshot.set_pod(pod("low", anti(1)), "n1");
    assert_eq!(victims(&run(&mut snapshot, &[pod("p", anti(2))])[0]), ("n1", vec!["low"]));
}

// Properties.

fn any_pod(at: usize) -> impl Strategy<Value = Arc<PodInfo>> {
    let app = prop::sample::select(vec!["a", "b", "c"]);
    let other = prop::sample::select(vec!["a", "b", "c"]);
    let key = prop::sample::select(vec!["kubernetes.io/hostname", "zone"]);
    (app, other, key, 0..7u8, 0..1500u32, any::<bool>(), 0..3i32).prop_map(
        move |(app, other, key, kind, cpu, tolerant, priority)| {
            let selector = json!({"matchLabels": {"app": other}});
            let term = json!([{"labelSelector": selector, "topologyKey": key}]);
            let mut value = with(
                asking(&format!("{cpu}m")),
                json!({"metadata": {"labels": {"app": app}}, "spec": {"priority": priority}}),
            );
            let required = "requiredDuringSchedulingIgnoredDuringExecution";
            let more = match kind {
                0 => json!({"spec": {"affinity": {"podAntiAffinity": {required: term}}}}),
                1 => json!({"spec": {"affinity": {"podAffinity": {required: term}}}}),
                2 => json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key,
                    "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}]}}),
                3 => json!({"spec": {"nodeSelector": {"zone": if tolerant { "z0" } else { "z1" }}}}),
                4 => json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}]}}),
                5 => json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key,
                    "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": selector}]}}),
                _ => json!({}),
            };
            merge(&mut value, more);
            if tolerant {
                merge(&mut value, json!({"spec": {"tolerations": [{"operator": "Exists"}]}}));
            }
            pod(&format!("p{at}"), value)
        },
    )
}

fn any_pods() -> impl Strategy<Value = Vec<Arc<PodInfo>>> {
    (1..40usize).prop_flat_map(|n| (0..n).map(any_pod).collect::<Vec<_>>())
}

fn varied() -> Snapshot {
    cluster((0..6).map(|i| {
        let mut more = json!({"metadata": {"labels": {"zone": format!("z{}", i % 2)}}});
        if i == 5 {
            merge(&mut more, json!({"spec": {"taints": [{"key": "t", "effect": "NoSchedule"}]}}));
        }
        node(&format!("n{i}"), more)
    }))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_binding_violates_a_filter(pods in any_pods(), seed in any::<u64>()) {
        let mut snapshot = varied();
        let mut rng = StdRng::seed_from_u64(seed);
        // A second world, which sees each binding only through `set_pod`, must agree to each.
        let mut witness = varied();
        let mut bound = Vec::new();
        for pod in &pods {
            let outcome = schedule_batch(&mut snapshot, std::slice::from_ref(pod), &mut rng).remove(0);
            let cycle = Cycle::new(&mut witness, pod).expect("no claims");
            match outcome {
                Outcome::Placed { node, .. } => {
                    let slot = witness.slot_of(&node).expect("a node");
                    prop_assert_eq!(cycle.check(&witness, slot), None);
                    witness.set_pod(pod.clone(), &node);
                    bound.push(pod.clone());
                }
                Outcome::Unschedulable(u) => {
                    for slot in witness.live.clone() {
                        prop_assert!(cycle.check(&witness, slot).is_some(), "would fit: {}", u.message);
                    }
                    // Room promised to one pod would make the worlds differ.
                    if let Some(preemption) = u.preemption {
                        prop_assert!(preemption.victims.iter().all(|v| v.priority() < pod.priority()));
                        snapshot.unnominate(&pod.uid);
                        snapshot.doomed.clear();
                    }
                }
            }
            snapshot.audit();
        }
        for pod in bound {
            snapshot.remove_pod(&pod.uid);
        }
        snapshot.audit();
        prop_assert!(snapshot.cpu.requested.iter().all(|n| *n == 0));
    }

    #[test]
    fn preemption_makes_room_that_suffices(pods in any_pods(), seed in any::<u64>()) {
        let mut snapshot = varied();
        let mut rng = StdRng::seed_from_u64(seed);
        for pod in &pods {
            let outcome = schedule_batch(&mut snapshot, std::slice::from_ref(pod), &mut rng).remove(0);
            let Outcome::Unschedulable(Unschedulable { preemption: Some(p), .. }) = outcome else { continue };
            for victim in &p.victims {
                snapshot.remove_pod(&victim.uid);
            }
            let mut again = (**pod).clone();
            again.nominated = Some(p.node.clone());
            let outcome = schedule_batch(&mut snapshot, &[Arc::new(again)], &mut rng).remove(0);
            let got_its_node = matches!(&outcome, Outcome::Placed { node, .. } if *node == p.node);
            prop_assert!(got_its_node, "{:?}", outcome);
        }
    }
}
