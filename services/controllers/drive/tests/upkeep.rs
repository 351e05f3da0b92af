//! Namespaces, budgets, quotas, roles and volumes over the real pipeline and a store in memory.

mod support;

use serde_json::{Value, json};
use support::World;

fn pod(name: &str, namespace: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "example.com/app:1",
            "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "1"}}}]},
    })
}

async fn add_node(world: &World) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    world.create("nodes", node).await;
}

fn in_namespace(world: &World, resource: &str, namespace: &str) -> usize {
    world.list(resource).iter().filter(|o| o["metadata"]["namespace"] == namespace).count()
}

#[tokio::test]
async fn a_deleted_namespace_takes_everything_along_and_says_what_it_waits_for() {
    let world = World::start().await;
    world.create("namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})).await;
    world.until("its account", |w| in_namespace(w, "serviceaccounts", "team") == 1).await;
    for i in 0..40 {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("m{i}"), "namespace": "team"}});
        world.create("configmaps", map).await;
    }
    let held = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "held", "namespace": "team",
        "finalizers": ["example.com/hold"]}});
    world.create("secrets", held).await;
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "team"},
        "involvedObject": {"kind": "Secret", "namespace": "team", "name": "held"}});
    world.create("events", event).await;
    world.delete("namespaces", "team", None).await;
    world
        .until("it says what it waits for", |w| {
            let namespace = w.get("namespaces", "team").unwrap_or_default();
            namespace["status"]["conditions"].to_string().contains("example.com/hold in 1 resource instances")
        })
        .await;
    assert_eq!(in_namespace(&world, "configmaps", "team"), 0);
    world.merge_in("team", "secrets", "held", None, json!({"metadata": {"finalizers": null}})).await;
    world.until("it is gone", |w| w.get("namespaces", "team").is_none()).await;
    assert_eq!(in_namespace(&world, "events", "team"), 0);
}

#[tokio::test]
async fn a_budget_counts_its_pods_and_evictions() {
    let world = World::start().await;
    add_node(&world).await;
    for name in ["a", "b", "c"] {
        world.create("pods", pod(name, "default")).await;
    }
    world.start_pods().await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}});
    world.create("poddisruptionbudgets.policy", budget).await;
    let figures = |w: &World| {
        let status = w.get("poddisruptionbudgets.policy", "web").map(|b| b["status"].clone()).unwrap_or_default();
        (status["disruptionsAllowed"].as_i64(), status["currentHealthy"].as_i64(), status["expectedPods"].as_i64())
    };
    world.until("one may go", |w| figures(w) == (Some(1), Some(3), Some(3))).await;
    world.delete("pods", "a", None).await;
    world.until("none may go", |w| figures(w).0 == Some(0)).await;
}

#[tokio::test]
async fn a_quota_tells_what_is_used() {
    let world = World::start().await;
    add_node(&world).await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "default"},
        "spec": {"hard": {"pods": "5", "requests.cpu": "2", "limits.cpu": "4", "count/configmaps": "9"}}});
    world.create("resourcequotas", quota).await;
    let used = |w: &World| w.get("resourcequotas", "q").map(|q| q["status"]["used"].clone()).unwrap_or_default();
    world.until("the first figures", |w| used(w)["pods"] == "0").await;
    world.create("pods", pod("a", "default")).await;
    world.create("pods", pod("b", "default")).await;
    world.until("two pods", |w| used(w)["pods"] == "2" && used(w)["requests.cpu"] == "500m").await;
    assert_eq!(used(&world)["limits.cpu"], "2");
    world.merge("pods", "a", Some("status"), json!({"status": {"phase": "Succeeded"}})).await;
    world.until("one pod", |w| used(w)["pods"] == "1").await;
}

#[tokio::test]
async fn an_aggregated_role_follows_the_roles_it_gathers() {
    let world = World::start().await;
    let role = |name: &str, more: Value| {
        let mut role =
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}});
        for (key, value) in more.as_object().expect("an object") {
            if key == "labels" {
                role["metadata"]["labels"] = value.clone();
            } else {
                role[key] = value.clone();
            }
        }
        role
    };
    let resource = "clusterroles.rbac.authorization.k8s.io";
    let rule = json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "all"}}]}});
    world.create(resource, role("all", rule)).await;
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    world.create(resource, role("part", json!({"labels": {"to": "all"}, "rules": rules}))).await;
    world.until("the rules", |w| w.get(resource, "all").is_some_and(|r| r["rules"] == rules)).await;
}

#[tokio::test]
async fn a_claim_is_bound_to_a_volume_and_its_pod_follows() {
    let world = World::start().await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"disk": "here"}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
                   "conditions": [{"type": "Ready", "status": "True"}]}});
    world.create("nodes", node).await;
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local"},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"});
    world.create("storageclasses.storage.k8s.io", class).await;
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v1"},
        "spec": {"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
                 "local": {"path": "/mnt/v1"},
                 "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                     {"key": "disk", "operator": "In", "values": ["here"]}]}]}}}});
    world.create("persistentvolumes", volume).await;
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "local",
                 "resources": {"requests": {"storage": "1Gi"}}}});
    world.create("persistentvolumeclaims", claim).await;
    let mut with_claim = pod("a", "default");
    with_claim["spec"]["nodeName"] = Value::Null;
    with_claim["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    world.create("pods", with_claim).await;
    world
        .until("the claim is bound", |w| {
            w.get("persistentvolumeclaims", "data")
                .is_some_and(|c| c["status"]["phase"] == "Bound" && c["spec"]["volumeName"] == "v1")
        })
        .await;
    world.until("the pod is bound", |w| w.get("pods", "a").is_some_and(|p| p["spec"]["nodeName"] == "n1")).await;
}

#[tokio::test]
async fn the_api_servers_service_comes_back_with_its_endpoints() {
    let world = World::start().await;
    let address = |w: &World, resource: &str, at: &str| {
        w.get(resource, "kubernetes").and_then(|o| o.pointer(at).and_then(Value::as_str).map(str::to_owned))
    };
    let whole = |w: &World| {
        address(w, "services", "/spec/clusterIP").as_deref() == Some("10.96.0.1")
            && address(w, "endpoints", "/subsets/0/addresses/0/ip").as_deref() == Some("10.96.0.1")
            && address(w, "endpointslices.discovery.k8s.io", "/endpoints/0/addresses/0").as_deref() == Some("10.96.0.1")
    };
    world.until("all three are there", whole).await;
    for resource in ["endpointslices.discovery.k8s.io", "endpoints", "services"] {
        let before = world.get(resource, "kubernetes").expect("there")["metadata"]["uid"].clone();
        world.delete(resource, "kubernetes", None).await;
        let anew =
            |w: &World| whole(w) && w.get(resource, "kubernetes").is_some_and(|o| o["metadata"]["uid"] != before);
        world.until("all three are there again", anew).await;
    }
    // Nobody mirrors what is written beside it.
    assert_eq!(world.list("endpointslices.discovery.k8s.io").len(), 1);
}
