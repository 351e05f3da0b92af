use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::*;
use crate::action::Plan;
use crate::world::World;

fn world(service: Value) -> World {
    let mut world = World::new();
    let mut body = json!({"metadata": {"name": "web", "namespace": "d", "labels": {"team": "a"}},
        "spec": {"clusterIP": "10.96.0.7", "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}});
    for (key, value) in service.as_object().unwrap() {
        body["spec"][key] = value.clone();
    }
    world.create("services", &body);
    world
}

fn pod(world: &mut World, name: &str, ip: &str, ready: bool) {
    world.create(
        "pods",
        &json!({"metadata": {"name": name, "namespace": "d", "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "hostname": name, "subdomain": "web",
                     "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": ip, "conditions": [
                {"type": "Ready", "status": if ready { "True" } else { "False" }}]}}),
    );
}

fn observe(world: &World) -> Plan<Reason> {
    slice::plan(&slice::Observed {
        service: world.get("services", "d", "web"),
        deleted: false,
        pods: world.list::<Pod>("pods"),
        slices: world.list("endpointslices.discovery.k8s.io"),
        endpoints: world.get("endpoints", "d", "web"),
        zones: BTreeMap::from([("n1".to_owned(), "z1".to_owned())]),
    })
}

fn slices(world: &World) -> Vec<std::sync::Arc<EndpointSlice>> {
    world.list("endpointslices.discovery.k8s.io")
}

/// (address, ready, serving, terminating)
fn conditions(world: &World) -> Vec<(String, bool, bool, bool)> {
    let mut all = Vec::new();
    for slice in slices(world) {
        for e in slice.endpoints.iter().flatten() {
            let c = e.conditions.clone().unwrap();
            all.push((e.addresses[0].clone(), c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap()));
        }
    }
    all.sort();
    all
}

#[test]
fn a_service_without_pods_has_one_empty_slice_and_empty_endpoints() {
    let mut world = world(json!({}));
    world.settle(observe);
    let slice = &slices(&world)[0];
    assert_eq!((slices(&world).len(), slice.endpoints.as_ref().unwrap().len(), &slice.ports), (1, 0, &None));
    assert_eq!(world.get::<Endpoints>("endpoints", "d", "web").unwrap().subsets, None);
}

#[test]
fn ready_and_unready_pods_are_told_apart() {
    let mut world = world(json!({}));
    pod(&mut world, "a", "10.0.0.1", true);
    pod(&mut world, "b", "10.0.0.2", false);
    world.settle(observe);
    assert_eq!(conditions(&world), [("10.0.0.1".into(), true, true, false), ("10.0.0.2".into(), false, false, false)]);
    let slice = &slices(&world)[0];
    let labels = slice.metadata.labels.as_ref().unwrap();
    assert_eq!((labels[SERVICE_NAME].as_str(), labels["team"].as_str()), ("web", "a"));
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
    let first = &slice.endpoints.as_ref().unwrap()[0];
    assert_eq!((first.zone.as_deref(), first.hostname.as_deref()), (Some("z1"), Some("a")));
    let endpoints = world.get::<Endpoints>("endpoints", "d", "web").unwrap();
    let subset = &endpoints.subsets.as_ref().unwrap()[0];
    assert_eq!(subset.addresses.as_ref().unwrap()[0].ip, "10.0.0.1");
    assert_eq!(subset.not_ready_addresses.as_ref().unwrap()[0].ip, "10.0.0.2");
}

#[test]
fn a_terminating_pod_serves_but_is_not_ready_and_leaves_endpoints() {
    let mut world = world(json!({}));
    pod(&mut world, "a", "10.0.0.1", true);
    world.settle(observe);
    world.edit("pods", "d", "a", |p| {
        p["metadata"]["finalizers"] = json!(["test/hold"]);
        p["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    world.settle(observe);
    assert_eq!(conditions(&world), [("10.0.0.1".into(), false, true, true)]);
    assert_eq!(world.get::<Endpoints>("endpoints", "d", "web").unwrap().subsets, None);
}

#[test]
fn publish_not_ready_addresses_makes_all_ready() {
    let mut world = world(json!({"publishNotReadyAddresses": true, "clusterIP": "None"}));
    pod(&mut world, "a", "10.0.0.1", false);
    world.settle(observe);
    assert_eq!(conditions(&world), [("10.0.0.1".into(), true, false, false)]);
    assert!(slices(&world)[0].metadata.labels.as_ref().unwrap().contains_key(HEADLESS));
    let endpoints = world.get::<Endpoints>("endpoints", "d", "web").unwrap();
    assert!(endpoints.subsets.as_ref().unwrap()[0].not_ready_addresses.is_none());
}

#[test]
fn pods_without_address_or_that_ended_or_without_the_named_port_are_left_out() {
    let mut world = world(json!({}));
    pod(&mut world, "a", "", true);
    pod(&mut world, "b", "10.0.0.2", true);
    world.edit("pods", "d", "b", |p| p["status"]["phase"] = json!("Succeeded"));
    pod(&mut world, "c", "10.0.0.3", true);
    world.edit("pods", "d", "c", |p| p["spec"]["containers"][0]["ports"][0]["name"] = json!("other"));
    world.settle(observe);
    assert!(slices(&world).iter().all(|s| s.ports.is_none()));
    assert_eq!(world.get::<Endpoints>("endpoints", "d", "web").unwrap().subsets, None);
}

#[test]
fn slices_hold_a_hundred_and_change_little() {
    let mut world = world(json!({}));
    for i in 0..250 {
        pod(&mut world, &format!("p{i:03}"), &format!("10.0.1.{i}"), true);
    }
    world.settle(observe);
    let sizes = |w: &World| {
        let mut sizes: Vec<usize> = slices(w).iter().map(|s| s.endpoints.as_ref().unwrap().len()).collect();
        sizes.sort_unstable();
        sizes
    };
    assert_eq!(sizes(&world), [50, 100, 100]);
    world.log.clear();
    world.delete("pods", "d", "p000");
    pod(&mut world, "q", "10.0.2.1", true);
    world.settle(observe);
    let writes = world.log.iter().filter(|l| l.contains("endpointslices")).count();
    assert_eq!((sizes(&world), writes), (vec![50, 100, 100], 1));
    for i in 1..250 {
        world.delete("pods", "d", &format!("p{i:03}"));
    }
    world.settle(observe);
    assert_eq!(sizes(&world), [1]);
}

#[test]
fn a_deleted_service_takes_its_endpoints_along() {
    let mut world = world(json!({}));
    world.settle(observe);
    world.delete("services", "d", "web");
    let plan = slice::plan(&slice::Observed {
        deleted: true,
        endpoints: world.get("endpoints", "d", "web"),
        ..Default::default()
    });
    world.apply(plan);
    assert!(world.get::<Endpoints>("endpoints", "d", "web").is_none());
}

#[test]
fn hints_name_the_zone_of_each_ready_endpoint() {
    let mut world = world(json!({"trafficDistribution": "PreferSameZone"}));
    pod(&mut world, "a", "10.0.0.1", true);
    world.settle(observe);
    let slice = &slices(&world)[0];
    let hints = slice.endpoints.as_ref().unwrap()[0].hints.clone().unwrap();
    assert_eq!(hints.for_zones.unwrap()[0].name, "z1");
}

#[test]
fn endpoints_written_by_hand_are_mirrored_until_the_service_goes() {
    let mut world = World::new();
    world.create(
        "services",
        &json!({"metadata": {"name": "db", "namespace": "d"}, "spec": {"ports": [{"port": 5432}]}}),
    );
    world.create(
        "endpoints",
        &json!({"metadata": {"name": "db", "namespace": "d"}, "subsets": [{"addresses": [{"ip": "192.0.2.1"}],
            "notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": [{"port": 5432}]}]}),
    );
    let observe = |w: &World| {
        mirror::plan(&mirror::Observed {
            endpoints: w.get("endpoints", "d", "db"),
            service: w.get::<Service>("services", "d", "db"),
            slices: w.list("endpointslices.discovery.k8s.io"),
        })
    };
    world.settle(observe);
    let slice = &slices(&world)[0];
    let ready: Vec<_> = slice.endpoints.iter().flatten().map(|e| e.conditions.as_ref().unwrap().ready).collect();
    assert_eq!(ready, [Some(true), Some(false)]);
    assert_eq!(slice.metadata.labels.as_ref().unwrap()[SLICE_MANAGER], mirror::MANAGER);
    world.edit("endpoints", "d", "db", |e| {
        e["metadata"]["labels"] = json!({"endpointslice.kubernetes.io/skip-mirror": "true"})
    });
    world.settle(observe);
    assert!(slices(&world).is_empty());
}
