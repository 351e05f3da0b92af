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
  containers: [{name: c, image: "galley.dev/in-cluster-client:1"}]
---
apiVersion: v1
kind: Pod
metadata: {name: curious}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "galley.dev/busybox:1", command: [sleep, infinity]}]
"#;

pub fn client_library(world: &mut World) -> Result<()> {
    let ns = Namespace::new(world, "inside")?;
    ns.apply(MANIFEST)?;
    let pod = ns.until(&["pod", "client"], 90, "the client to end", |pod| {
        matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
    })?;
    let said = ns.run(&["logs", "client"])?;
    contains(&said, "in-cluster client: all well").with_context(|| pod["status"].to_string())?;
    ns.until(&["pod", "curious"], 60, "the pod to be ready", |pod| condition(pod, "Ready") == "True")?;
    let resolved = ns.run(&["exec", "curious", "--", "nslookup", "kubernetes.default.svc.cluster.local"])?;
    contains(&resolved, "10.96.0.1")
}
