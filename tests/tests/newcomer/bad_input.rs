//! Mistakes, and what kubectl says of them.

use anyhow::{Context, Result};
use galley_tests::World;
use serde_json::Value;

use crate::{Namespace, contains};

fn refused(ns: &Namespace<'_>, manifest: &str) -> Result<String> {
    ns.apply(manifest).err().map(|error| format!("{error:#}")).with_context(|| format!("accepted: {manifest}"))
}

pub fn manifests(world: &mut World) -> Result<()> {
    let ns = Namespace::new(world, "mistakes")?;
    let pod = |spec: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: x}}\nspec: {spec}\n");
    for (manifest, wanted) in [
        (
            pod("{containers: [{name: c, image: i, imagePullPolic: Always}]}"),
            r#"strict decoding error: unknown field "spec.containers[0].imagePullPolic""#,
        ),
        (pod("{containers: [{name: c}]}"), "spec.containers[0].image: Required value"),
        (pod("{containers: []}"), "spec.containers: Required value"),
        (
            pod("{containers: [{name: Bad_Name, image: i}]}"),
            r#"spec.containers[0].name: Invalid value: "Bad_Name": a lowercase RFC 1123 label must consist of"#,
        ),
        (
            pod("{containers: [{name: c, image: i, ports: [{containerPort: 99999}]}]}"),
            "must be between 1 and 65535, inclusive",
        ),
        (
            pod("{restartPolicy: Sometimes, containers: [{name: c, image: i}]}"),
            r#"spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never""#,
        ),
        (pod("{serviceAccountName: nobody, containers: [{name: c, image: i}]}"), r#"serviceaccount "nobody" not found"#),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {replicas: many, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}\n".into(),
            "cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: c, image: i}]}}}\n".into(),
            "`selector` does not match template `labels`",
        ),
        ("apiVersion: v1\nkind: Nonsense\nmetadata: {name: x}\n".into(), r#"no matches for kind "Nonsense" in version "v1""#),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {type: NodePort, ports: [{port: 80, nodePort: 80}]}\n".into(),
            "provided port is not in the valid range. The range of valid ports is 30000-32767",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: nowhere}\n".into(),
            "does not match the namespace",
        ),
    ] {
        contains(&refused(&ns, &manifest)?, wanted)?;
    }
    contains(&ns.fails(&["-n", "nowhere", "create", "configmap", "x"])?, r#"namespaces "nowhere" not found"#)?;
    ns.run(&["create", "configmap", "fixed"])?;
    ns.run(&["patch", "configmap", "fixed", "-p", r#"{"immutable":true}"#])?;
    let changed = ns.fails(&["patch", "configmap", "fixed", "-p", r#"{"data":{"a":"b"}}"#])?;
    contains(&changed, "field is immutable when `immutable` is set")?;
    // Larger than 3 MiB.
    let path = world.directory.join("large.json");
    let data = "x".repeat(3 * 1024 * 1024);
    std::fs::write(
        &path,
        format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"large"}},"data":{{"d":"{data}"}}}}"#),
    )?;
    let path = path.display().to_string();
    let large = ns.fails(&["create", "--validate=false", "-f", &path])?;
    anyhow::ensure!(
        large.contains("request entity too large")
            || large.contains("RequestEntityTooLarge")
            || large.contains("limit is 3145728"),
        "{large}"
    );
    Ok(())
}

pub fn containers(world: &mut World) -> Result<()> {
    let ns = Namespace::new(world, "broken")?;
    let pod = |name: &str, container: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers: [{{name: c, {container}}}]\n"
        )
    };
    let busybox = r#"image: "galley.dev/busybox:1""#;
    let manifest = [
        pod("no-image", r#"image: "registry.invalid/nothing:1""#),
        pod("no-entrypoint", r#"image: "galley.dev/empty:1""#),
        pod("no-command", &format!("{busybox}, command: [/does/not/exist]")),
        pod("no-config", &format!("{busybox}, env: [{{name: X, valueFrom: {{configMapKeyRef: {{name: absent, key: k}}}}}}]")),
        pod("crash", &format!("{busybox}, command: [sh, -c, 'exit 3']")),
        pod("greedy", &format!("{busybox}, command: [sh, -c, 'x=x; while true; do x=$x$x; done'], resources: {{limits: {{memory: 32Mi}}}}")),
        pod("unplaceable", &format!("{busybox}, resources: {{requests: {{cpu: '1000'}}}}")),
    ]
    .concat();
    ns.apply(&manifest)?;
    let reason = |pod: &Value, wanted: &[&str]| {
        let state = &pod["status"]["containerStatuses"][0];
        ["waiting", "terminated"]
            .iter()
            .flat_map(|kind| [&state["state"][kind]["reason"], &state["lastState"][kind]["reason"]])
            .any(|reason| wanted.iter().any(|w| reason == w))
    };
    for (name, wanted) in [
        ("no-image", &["ImagePullBackOff"] as &[&str]),
        ("no-entrypoint", &["CreateContainerError"]),
        ("no-command", &["StartError", "RunContainerError"]),
        ("no-config", &["CreateContainerConfigError"]),
        ("crash", &["CrashLoopBackOff"]),
        ("greedy", &["OOMKilled"]),
    ] {
        ns.until(&["pod", name], 90, &format!("{name} to say {wanted:?}"), |pod| reason(pod, wanted))?;
    }
    let events = ns.run(&["describe", "pods"])?;
    for wanted in [
        "Failed to pull image \"registry.invalid/nothing:1\"",
        "Error: ErrImagePull",
        "Back-off pulling image",
        "Error: ImagePullBackOff",
        "no command specified",
        "configmap \"absent\" not found",
        "Back-off restarting failed container",
        "0/2 nodes are available: 2 Insufficient cpu",
    ] {
        contains(&events, wanted)?;
    }
    contains(
        &ns.run(&[
            "get",
            "pod",
            "crash",
            "-o",
            "jsonpath={.status.containerStatuses[0].lastState.terminated.exitCode}",
        ])?,
        "3",
    )?;
    Ok(())
}
