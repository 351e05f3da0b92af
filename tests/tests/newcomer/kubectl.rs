//! Unmodified kubectl on objects that need no node.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use galley_tests::{World, items};

use crate::{Namespace, contains};

pub fn objects(world: &mut World) -> Result<()> {
    let ns = Namespace::new(world, "objects")?;
    ns.run(&["create", "configmap", "one", "--from-literal=a=1"])?;
    ns.run(&["label", "configmap", "one", "tier=front"])?;
    ns.run(&["annotate", "configmap", "one", "note=hello"])?;
    ns.run(&["create", "configmap", "two", "--from-literal=a=2"])?;

    // A watch shows what happens after it began.
    let mut watch = world
        .kubectl
        .command()
        .args(["--namespace", "objects", "get", "configmap", "one", "--watch", "-o", "jsonpath={.data.a}{'\\n'}"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(watch.stdout.take().context("output")?).lines();
    ensure!(lines.next().transpose()?.as_deref() == Some("1"), "the watch starts with what is there");
    ns.run(&["patch", "configmap", "one", "--type=merge", "-p", r#"{"data":{"a":"3"}}"#])?;
    ensure!(lines.next().transpose()?.as_deref() == Some("3"), "the watch shows the change");
    watch.kill()?;
    watch.wait()?;

    let json = r#"[{"op":"replace","path":"/data/a","value":"4"}]"#;
    ns.run(&["patch", "configmap", "one", "--type=json", "-p", json])?;
    ensure!(ns.get(&["configmap", "one"])?["data"]["a"] == "4");
    let labelled = ns.get(&["configmap", "-l", "tier=front"])?;
    ensure!(items(&labelled).len() == 1, "{labelled}");
    let selected = ns.get(&["configmap", "--field-selector", "metadata.name=two"])?;
    ensure!(items(&selected).len() == 1, "{selected}");
    contains(&ns.run(&["get", "configmap", "-o", "wide"])?, "NAME")?;
    contains(&ns.run(&["get", "configmap,serviceaccount"])?, "serviceaccount/default")?;
    contains(&ns.run(&["describe", "configmap", "one"])?, "note: hello")?;
    contains(&ns.fails(&["label", "configmap", "one", "tier=back"])?, "already has a value (front)")?;
    ns.run(&["label", "configmap", "one", "tier=back", "--overwrite"])?;
    ns.run(&["annotate", "configmap", "one", "note-"])?;
    let one = ns.get(&["configmap", "one"])?;
    ensure!(one["metadata"]["labels"]["tier"] == "back" && one["metadata"]["annotations"].is_null(), "{one}");
    let replaced = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one, labels: {tier: back}}\ndata: {a: \"5\"}\n";
    contains(&ns.input(&["replace", "-f", "-"], replaced)?, "configmap/one replaced")?;
    contains(&ns.fails(&["wait", "configmap/one", "--for=jsonpath={.data.a}=6", "--timeout=1s"])?, "timed out")?;
    ns.run(&["wait", "configmap/one", "--for=jsonpath={.data.a}=5", "--timeout=5s"])?;
    let edited = world
        .kubectl
        .command()
        .args(["--namespace", "objects", "edit", "configmap", "two"])
        .env("KUBE_EDITOR", "sed -i s/'a: .*'/'a: edited'/")
        .output()?;
    contains(&String::from_utf8_lossy(&edited.stdout), "configmap/two edited")?;
    ensure!(ns.get(&["configmap", "two"])?["data"]["a"] == "edited");
    ns.run(&["delete", "configmap", "two"])?;
    contains(&ns.fails(&["get", "configmap", "two"])?, r#"Error from server (NotFound): configmaps "two" not found"#)?;
    contains(&ns.fails(&["create", "configmap", "one"])?, r#"configmaps "one" already exists"#)?;
    let dry = ns.run(&["create", "configmap", "dry", "--dry-run=server", "-o", "name"])?;
    contains(&dry, "configmap/dry")?;
    ns.fails(&["get", "configmap", "dry"])?;

    // Finalizers hold an object; removing the last one lets it go.
    ns.run(&["patch", "configmap", "one", "-p", r#"{"metadata":{"finalizers":["example.dev/hold"]}}"#])?;
    ns.run(&["delete", "configmap", "one", "--wait=false"])?;
    ensure!(ns.get(&["configmap", "one"])?["metadata"]["deletionTimestamp"].is_string());
    ns.run(&["patch", "configmap", "one", "--type=json", "-p", r#"[{"op":"remove","path":"/metadata/finalizers"}]"#])?;
    ns.run(&["wait", "--for=delete", "configmap/one", "--timeout=10s"])?;

    // A namespace goes with all that is in it.
    ns.run(&["create", "secret", "generic", "s", "--from-literal=p=w"])?;
    world.kubectl.run(&["delete", "namespace", "objects", "--timeout=30s"])?;
    contains(&world.kubectl.run_failing(&["get", "namespace", "objects"])?, "not found")
}

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: a, image: "galley.dev/busybox:1", env: [{name: X, value: "1"}]}
      - {name: b, image: "galley.dev/busybox:1"}
"#;

pub fn apply(world: &mut World) -> Result<()> {
    let ns = Namespace::new(world, "apply")?;
    contains(&ns.apply(DEPLOYMENT)?, "deployment.apps/web created")?;
    contains(&ns.apply(DEPLOYMENT)?, "deployment.apps/web unchanged")?;
    // A list item is merged by its name, and one that is no longer applied goes.
    let without_b =
        DEPLOYMENT.replace("      - {name: b, image: \"galley.dev/busybox:1\"}\n", "").replace("\"1\"}]", "\"2\"}]");
    contains(&ns.apply(&without_b)?, "configured")?;
    let containers = ns.get(&["deployment", "web"])?["spec"]["template"]["spec"]["containers"].clone();
    ensure!(containers.as_array().is_some_and(|c| c.len() == 1), "{containers}");
    ensure!(containers[0]["env"][0]["value"] == "2", "{containers}");

    // Server-side: conflicts name the manager and the field, force takes over.
    let server_side = ["apply", "--server-side", "--field-manager=ci", "-f", "-"];
    let map =
        |value: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata: {{k: \"{value}\"}}\n");
    contains(&ns.input(&server_side, &map("1"))?, "configmap/m serverside-applied")?;
    let other = ["apply", "--server-side", "--field-manager=human", "-f", "-"];
    let refused = ns.input(&other, &map("2"));
    contains(&format!("{:#}", refused.err().context("a conflict")?), "conflict with \"ci\": .data.k")?;
    ns.input(&["apply", "--server-side", "--force-conflicts", "--field-manager=human", "-f", "-"], &map("2"))?;
    let managers = ns.run(&[
        "get",
        "configmap",
        "m",
        "--show-managed-fields",
        "-o",
        "jsonpath={.metadata.managedFields[*].manager}",
    ])?;
    contains(&managers, "human")?;
    // A field that its only manager no longer applies is removed.
    let empty = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n";
    ns.input(&other, empty)?;
    ensure!(ns.get(&["configmap", "m"])?["data"]["k"].is_null());
    let differs = ns.input(&["diff", "-f", "-"], &without_b)?;
    ensure!(differs.is_empty(), "what is applied does not differ: {differs}");

    // Custom resources: defined, validated, listed with their columns.
    ns.apply(CRD)?;
    ns.run(&["wait", "--for=condition=Established", "crd/widgets.example.dev", "--timeout=10s"])?;
    ns.apply("apiVersion: example.dev/v1\nkind: Widget\nmetadata: {name: w}\nspec: {size: 3}\n")?;
    let shown = ns.run(&["get", "widgets"])?;
    contains(&shown, "SIZE")?;
    contains(&shown, "3")?;
    let bad = ns.apply("apiVersion: example.dev/v1\nkind: Widget\nmetadata: {name: bad}\nspec: {size: big}\n");
    contains(&format!("{:#}", bad.err().context("refused")?), "spec.size")?;
    contains(&ns.run(&["explain", "widget.spec.size"])?, "How large.")?;
    ns.run(&["delete", "crd", "widgets.example.dev", "--timeout=20s"]).map(drop)
}

const CRD: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.dev}
spec:
  group: example.dev
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              size: {type: integer, minimum: 1, description: How large.}
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
"#;

pub fn discovery(world: &mut World) -> Result<()> {
    let kubectl = &world.kubectl;
    let resources = kubectl.run(&["api-resources"])?;
    for line in ["deployments", "deploy", "apps/v1", "customresourcedefinitions"] {
        contains(&resources, line)?;
    }
    contains(&kubectl.run(&["api-versions"])?, "rbac.authorization.k8s.io/v1")?;
    let explained = kubectl.run(&["explain", "deployment.spec.strategy"])?;
    contains(&explained, "rollingUpdate")?;
    contains(&kubectl.run(&["explain", "pod", "--recursive"])?, "topologySpreadConstraints")?;
    contains(&kubectl.run(&["version"])?, "Server Version: v1.36")?;
    contains(&kubectl.run(&["get", "--raw", "/readyz"])?, "ok")?;
    contains(&kubectl.run(&["auth", "can-i", "create", "pods"])?, "yes")?;
    let account = "--as=system:serviceaccount:default:default";
    contains(&String::from_utf8_lossy(&kubectl.try_run(&["auth", "can-i", "create", "pods", account])?.stdout), "no")?;
    contains(&kubectl.run(&["auth", "whoami"])?, "galley:admin")?;
    let token = kubectl.run(&["create", "token", "default"])?;
    ensure!(token.trim().split('.').count() == 3, "a JWT: {token}");
    contains(&kubectl.run_failing(&["top", "nodes"])?, "Metrics API not available")?;
    kubectl.run(&["get", "events", "--all-namespaces"])?;
    contains(&kubectl.run(&["cluster-info"])?, "is running at")
}
