use serde_json::{Value, json};

use super::*;
use crate::patch;
use crate::resource::builtin;

fn deployments() -> &'static Resource {
    builtin().storage("deployments.apps").unwrap()
}

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, subresource: "", now: "2026-01-01T00:00:00Z".parse().unwrap() }
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"}, "spec": spec})
}

fn applied(live: Option<&Value>, spec: Value, manager: &str) -> Result<Value, Status> {
    apply(deployments(), live, &deployment(spec), &writer(manager), false)
}

fn fields(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries.into_iter().find(|e| e["manager"] == manager).map_or(Value::Null, |mut e| e["fieldsV1"].take())
}

fn updated(live: Option<&Value>, change: Value, manager: &str) -> Value {
    let mut new = live.cloned().unwrap_or_else(|| deployment(json!({})));
    patch::merge(&mut new, &change);
    update(deployments(), live, &mut new, &writer(manager));
    new
}

fn web() -> Value {
    json!({"replicas": 3, "template": {"spec": {"containers": [{"name": "web", "image": "nginx",
        "ports": [{"containerPort": 80}]}]}}})
}

#[test]
fn an_applier_owns_what_it_applies() {
    let object = applied(None, web(), "alice").unwrap();
    assert_eq!(object["metadata"]["managedFields"][0]["operation"], "Apply");
    assert_eq!(object["metadata"]["managedFields"][0]["apiVersion"], "apps/v1");
    assert_eq!(
        fields(&object, "alice"),
        json!({"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {
            ".": {}, "f:image": {}, "f:name": {}, "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                ".": {}, "f:containerPort": {}}}}}}}}})
    );
    assert_eq!(applied(Some(&object), web(), "alice").unwrap(), object, "applying again changes nothing");
}

#[test]
fn what_is_no_longer_applied_goes_unless_somebody_else_owns_it() {
    let both = json!({"template": {"metadata": {"labels": {"a": "1", "b": "2"}},
        "spec": {"containers": [{"name": "web", "image": "nginx"}, {"name": "side", "image": "side"}]}}});
    let one = json!({"template": {"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "web", "image": "nginx"}]}}});
    let object = applied(None, both.clone(), "alice").unwrap();
    let smaller = applied(Some(&object), one.clone(), "alice").unwrap();
    assert_eq!(smaller["spec"], one);
    let shared = applied(Some(&object), both, "bob").unwrap();
    let kept = applied(Some(&shared), one, "alice").unwrap();
    assert_eq!(kept["spec"], shared["spec"], "bob still wants it");
}

#[test]
fn a_field_of_another_manager_is_a_conflict() {
    let object = updated(None, json!({"spec": web()}), "kubectl-client-side-apply");
    let error = applied(Some(&object), json!({"replicas": 5}), "alice").unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    assert_eq!((error.code, error.reason), (409, Reason::Conflict));
    assert_eq!(error.causes[0].reason, "FieldManagerConflict");
    assert_eq!(error.causes[0].message, "conflict with \"kubectl-client-side-apply\" using apps/v1");
    assert_eq!(error.causes[0].field, ".spec.replicas");

    let two = json!({"replicas": 5, "template": {"spec": {"containers": [{"name": "web", "image": "nginx:2"}]}}});
    let error = applied(Some(&object), two, "alice").unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n- .spec.replicas\n- \
         .spec.template.spec.containers[name=\"web\"].image"
    );
    let forced =
        apply(deployments(), Some(&object), &deployment(json!({"replicas": 5})), &writer("alice"), true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 5);
    assert!(fields(&forced, "kubectl-client-side-apply")["f:spec"].get("f:replicas").is_none());
    let same = applied(Some(&object), json!({"replicas": 3}), "alice").unwrap();
    assert!(
        fields(&same, "kubectl-client-side-apply")["f:spec"].get("f:replicas").is_some(),
        "equal values are shared"
    );
}

#[test]
fn an_update_takes_over_what_it_changes() {
    let object = applied(None, web(), "alice").unwrap();
    let scaled = updated(Some(&object), json!({"spec": {"replicas": 4}}), "bob");
    assert_eq!(fields(&scaled, "bob"), json!({"f:spec": {"f:replicas": {}}}));
    assert!(fields(&scaled, "alice")["f:spec"].get("f:replicas").is_none());
    let unchanged = updated(Some(&scaled), json!({}), "carol");
    assert_eq!(unchanged["metadata"]["managedFields"], scaled["metadata"]["managedFields"]);
    let emptied = updated(Some(&scaled), json!({"spec": {"replicas": null}}), "carol");
    assert_eq!(fields(&emptied, "bob"), Value::Null, "nobody owns what is gone");
}

#[test]
fn a_create_owns_maps_and_lists_that_it_makes() {
    let object = updated(None, json!({"metadata": {"labels": {"app": "web"}}, "spec": web()}), "kubectl-create");
    let owned = fields(&object, "kubectl-create");
    assert_eq!(owned["f:metadata"], json!({"f:labels": {".": {}, "f:app": {}}}));
    assert!(owned["f:spec"].get(".").is_none());
    let containers = &owned["f:spec"]["f:template"]["f:spec"]["f:containers"];
    assert!(containers.get(".").is_none());
    let ports = &containers["k:{\"name\":\"web\"}"]["f:ports"];
    assert_eq!(ports["."], json!({}));
}

#[test]
fn the_status_endpoint_has_its_own_entries() {
    let object = applied(None, web(), "alice").unwrap();
    let mut new = object.clone();
    new["status"] = json!({"replicas": 3});
    let status_writer = Writer { subresource: "status", ..writer("controller") };
    update(deployments(), Some(&object), &mut new, &status_writer);
    let entry = &new["metadata"]["managedFields"][1];
    assert_eq!((&entry["subresource"], &entry["manager"]), (&json!("status"), &json!("controller")));
    assert_eq!(entry["fieldsV1"], json!({"f:status": {"f:replicas": {}}}));
}

#[test]
fn kubectl_moves_from_client_side_to_server_side_apply_without_conflict() {
    let last = serde_json::to_string(&deployment(json!({"replicas": 3}))).unwrap();
    let object = updated(
        None,
        json!({"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": last}}, "spec": {"replicas": 3}}),
        "kubectl-client-side-apply",
    );
    assert!(applied(Some(&object), json!({"replicas": 5}), "alice").is_err());
    assert_eq!(applied(Some(&object), json!({"replicas": 5}), "kubectl").unwrap()["spec"]["replicas"], 5);
}

#[test]
fn sets_and_keyed_lists_keep_the_items_of_others_in_place() {
    let apply_to = |live: Option<&Value>, items: Value, manager: &str| {
        applied(live, json!({"template": {"spec": {"containers": items}}}), manager).unwrap()
    };
    let object = apply_to(None, json!([{"name": "a"}, {"name": "b"}]), "alice");
    let object = apply_to(Some(&object), json!([{"name": "c"}]), "bob");
    let names = |object: &Value| -> Vec<Value> {
        let containers = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        containers.iter().map(|c| c["name"].clone()).collect()
    };
    assert_eq!(names(&object), ["a", "b", "c"]);
    let object = apply_to(Some(&object), json!([{"name": "b"}, {"name": "a"}]), "alice");
    assert_eq!(names(&object), ["b", "a", "c"]);
}

#[test]
fn managed_fields_are_not_to_be_applied() {
    let mut config = deployment(json!({}));
    config["metadata"]["managedFields"] = json!([]);
    let error = apply(deployments(), None, &config, &writer("alice"), false).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (400, "metadata.managedFields must be nil"));
}

#[test]
fn many_managers_become_few() {
    let mut object = updated(None, json!({}), "first");
    for at in 0..30 {
        let mut labels = serde_json::Map::new();
        labels.insert(format!("l{at}"), json!("x"));
        object = updated(Some(&object), json!({"metadata": {"labels": labels}}), &format!("m{at:02}"));
    }
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 10);
    let ancient = fields(&object, "ancient-changes");
    assert_eq!(
        ancient["f:metadata"]["f:labels"].as_object().unwrap().len(),
        22,
        "21 labels, and that there are labels"
    );
    assert!(entries.iter().any(|e| e["manager"] == "m29"));
}
