use super::*;

fn documents() -> Documents {
    Documents::builtin()
}

fn parse(document: Bytes) -> Value {
    serde_json::from_slice(&document).unwrap()
}

#[test]
fn every_builtin_kind_has_a_definition_with_its_kind() {
    let documents = documents();
    for resource in &documents.resources {
        let name = documents.name_of(resource).unwrap_or_else(|| panic!("no name for {}", gvk(resource)));
        let definition = documents.definitions.get(&name).unwrap_or_else(|| panic!("no definition for {name}"));
        assert_eq!(definition["x-kubernetes-group-version-kind"][0]["kind"], resource.kind);
    }
}

#[test]
fn a_group_version_refers_only_to_what_it_carries() {
    let documents = documents();
    for version in ["v1", "apps/v1", "batch/v1", "rbac.authorization.k8s.io/v1", "apiextensions.k8s.io/v1"] {
        let document = parse(documents.v3(version, &[]).unwrap());
        let mut referred = Vec::new();
        references(&document, &mut referred);
        for name in referred {
            assert!(document["components"]["schemas"][&name].is_object(), "{version} lacks {name}");
        }
    }
    assert!(documents.v3("nothing/v1", &[]).is_none());
}

#[test]
fn explain_finds_the_kind_of_a_path_and_its_descriptions() {
    let document = parse(documents().v3("apps/v1", &[]).unwrap());
    let path = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    assert_eq!(path["get"]["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    let takes = |name: &str| path["patch"]["parameters"].as_array().unwrap().iter().any(|p| p["name"] == name);
    assert!(takes("fieldValidation") && takes("dryRun"));
    let spec = &document["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["replicas"];
    assert!(spec["description"].as_str().unwrap().contains("Number of desired pods"));
}

#[test]
fn lists_that_merge_say_by_which_key() {
    let document = parse(documents().v3("v1", &[]).unwrap());
    let containers = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
}

#[test]
fn version_2_has_plain_references_into_its_definitions() {
    let document = parse(documents().v2(&[]));
    let mut referred = Vec::new();
    references(&document, &mut referred);
    for name in referred {
        assert!(document["definitions"][&name].is_object(), "v2 lacks {name}");
    }
    assert!(!document.to_string().contains("components/schemas"));
    let spec = &document["definitions"]["io.k8s.api.apps.v1.Deployment"]["properties"]["spec"];
    assert_eq!(spec["$ref"], "#/definitions/io.k8s.api.apps.v1.DeploymentSpec");
}

#[test]
fn a_custom_kind_is_published_and_changes_the_hash_of_its_version_only() {
    let documents = documents();
    let resource = Resource {
        group: "galley.dev".into(),
        version: "v1".into(),
        kind: "NodeGroup".into(),
        plural: "nodegroups".into(),
        singular: "nodegroup".into(),
        namespaced: false,
        verbs: ["get", "list", "create", "patch"].map(String::from).to_vec(),
        short_names: vec![],
        categories: vec![],
        subresources: vec![],
        storage_version: "v1".into(),
        custom: None,
    };
    let schema =
        json!({"type": "object", "properties": {"spec": {"type": "object", "description": "What is wanted."}}});
    let custom = [CustomKind { resource: &resource, schema: Some(&schema) }];
    let document = parse(documents.v3("galley.dev/v1", &custom).unwrap());
    let kind = &document["components"]["schemas"]["dev.galley.v1.NodeGroup"];
    assert_eq!(kind["properties"]["spec"]["description"], "What is wanted.");
    assert_eq!(kind["x-kubernetes-group-version-kind"][0]["kind"], "NodeGroup");
    let patches = &document["paths"]["/apis/galley.dev/v1/nodegroups/{name}"]["patch"]["requestBody"]["content"];
    assert!(patches["application/merge-patch+json"].is_object());
    assert!(patches["application/strategic-merge-patch+json"].is_null(), "kubectl apply would use it");
    let (before, after) = (parse(documents.v3_index(&[])), parse(documents.v3_index(&custom)));
    assert!(after["paths"]["apis/galley.dev/v1"].is_object());
    assert_eq!(before["paths"]["apis/apps/v1"], after["paths"]["apis/apps/v1"]);
    assert!(parse(documents.v2(&custom))["definitions"]["dev.galley.v1.NodeGroup"].is_object());
}
