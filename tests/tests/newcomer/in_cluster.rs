//! Pods reach the API server at `kubernetes.default.svc`.

use anyhow::{Context, Result};
use galley_tests::{World, condition};

use crate::{Namespace, contains};

const MANIFEST: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: client}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get, list]}
- {apiGroups: [""], resources: [configmaps], verbs: ["*"]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: client}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: client}
subjects: [{kind: ServiceAccount, name: default, namespace: inside}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  restartPolicy: Never
  containers: [{name: c, image: "galley.dev/in-cluster-client:1", env: [{name: API_ENDPOINT, value: "API-ENDPOINT"}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: curious}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "galley.dev/busybox:1", command: [sleep, infinity]}]
"#;

/// What the `kubernetes` Service leads to, in each form that users look at.
fn endpoint(world: &World) -> Result<String> {
    let slice = world.kubectl.get(&["endpointslice", "kubernetes"])?;
    let address = slice["endpoints"][0]["addresses"][0].as_str().context("an address")?;
    let endpoint = format!("{address}:{}", slice["ports"][0]["port"]);
    contains(&world.kubectl.run(&["get", "endpoints", "kubernetes"])?, &endpoint)?;
    contains(&world.kubectl.run(&["describe", "service", "kubernetes"])?, &endpoint)?;
    Ok(endpoint)
}

pub fn client_library(world: &mut World) -> Result<()> {
    let ns = Namespace::new(world, "inside")?;
    let endpoint = endpoint(world).context("where the API server is")?;
    ns.apply(&MANIFEST.replace("API-ENDPOINT", &endpoint))?;
    let pod = ns.until(&["pod", "client"], 90, "the client to end", |pod| {
        matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
    })?;
    let said = ns.run(&["logs", "client"])?;
    contains(&said, "in-cluster client: all well").with_context(|| pod["status"].to_string())?;
    ns.until(&["pod", "curious"], 60, "the pod to be ready", |pod| condition(pod, "Ready") == "True")?;
    let resolved = ns.run(&["exec", "curious", "--", "nslookup", "kubernetes.default.svc.cluster.local"])?;
    contains(&resolved, "10.96.0.1")
}
