//! Workloads on real containers.

use anyhow::{Context, Result, ensure};
use galley_tests::{World, condition, items, names};
use serde_json::Value;

use crate::{Namespace, contains};

const EVERYTHING: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: green, file.txt: from the config map}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {password: hunter2}
---
apiVersion: v1
kind: Pod
metadata: {name: full, labels: {app: full}}
spec:
  terminationGracePeriodSeconds: 2
  initContainers:
  - name: prepare
    image: galley.dev/busybox:1
    command: [sh, -c, "echo prepared > /shared/init"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: sidecar
    image: galley.dev/busybox:1
    restartPolicy: Always
    command: [sh, -c, "echo sidecar > /shared/sidecar; trap exit TERM; while true; do sleep 0.2; done"]
    volumeMounts: [{name: shared, mountPath: /shared}]
    startupProbe: {exec: {command: [test, -f, /shared/sidecar]}, periodSeconds: 1}
  containers:
  - name: main
    image: galley.dev/busybox:1
    command: [sh, -c, "mkdir -p /www && echo up > /www/index.html && httpd -p 8080 -h /www && trap 'exit 5' TERM && while true; do sleep 0.2; done"]
    ports: [{containerPort: 8080, name: http}]
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: password}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: GREETING, value: "hello $(COLOUR)"}
    envFrom: [{configMapRef: {name: settings}, prefix: S_}]
    volumeMounts:
    - {name: shared, mountPath: /shared}
    - {name: settings, mountPath: /etc/settings}
    - {name: keys, mountPath: /etc/keys, readOnly: true}
    readinessProbe: {httpGet: {port: http, path: /index.html}, periodSeconds: 1}
    livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 2}
    resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {memory: 64Mi}}
  volumes:
  - {name: shared, emptyDir: {}}
  - {name: settings, configMap: {name: settings}}
  - {name: keys, secret: {secretName: keys}}
"#;

pub fn everything(world: &mut World) -> Result<()> {
    let ns = Namespace::new(world, "everything")?;
    ns.apply(EVERYTHING)?;
    let ready = ns.until(&["pod", "full"], 60, "the pod to be ready", |pod| condition(pod, "Ready") == "True");
    let pod = ready.with_context(|| ns.run(&["describe", "pod", "full"]).unwrap_or_default())?;
    ensure!(pod["status"]["qosClass"] == "Burstable", "{}", pod["status"]);
    contains(&ns.run(&["get", "pod", "full"])?, "2/2")?;
    let inside = |command: &str| ns.run(&["exec", "full", "-c", "main", "--", "sh", "-c", command]);
    for (command, wanted) in [
        ("cat /shared/init /shared/sidecar", "prepared\nsidecar"),
        ("echo $COLOUR $PASSWORD $GREETING", "green hunter2 hello green"),
        ("echo $S_colour", "green"),
        ("echo $NODE", "node-"),
        ("cat /etc/settings/file.txt", "from the config map"),
        ("cat /etc/keys/password", "hunter2"),
        ("cat /var/run/secrets/kubernetes.io/serviceaccount/namespace", "everything"),
        ("cat /etc/resolv.conf", "search everything.svc.cluster.local svc.cluster.local cluster.local"),
    ] {
        contains(&inside(command)?, wanted)?;
    }
    let described = ns.run(&["describe", "pod", "full"])?;
    for wanted in ["Successfully assigned everything/full to node-", "Started container main", "Burstable"] {
        contains(&described, wanted)?;
    }
    // A container that dies is restarted in place.
    let uid = pod["metadata"]["uid"].clone();
    inside("kill 1").ok();
    let restarted = ns.until(&["pod", "full"], 60, "the container to be restarted", |pod| {
        pod["status"]["containerStatuses"][0]["restartCount"] == 1 && condition(pod, "Ready") == "True"
    })?;
    ensure!(restarted["metadata"]["uid"] == uid, "the same pod");
    // A change of the ConfigMap reaches the volume.
    ns.run(&["patch", "configmap", "settings", "-p", r#"{"data":{"file.txt":"changed"}}"#])?;
    galley_harness::wait::until("the mounted file to change", std::time::Duration::from_secs(100), || {
        Ok((inside("cat /etc/settings/file.txt")?.trim() == "changed").then_some(()))
    })?;
    ns.run(&["delete", "pod", "full", "--timeout=30s"]).map(drop)
}

fn manifest(version: &str, replicas: u32) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: galley.dev/busybox:1
        command: [sh, -c, "mkdir -p /www && echo {version} > /www/index.html && exec httpd -f -p 8080 -h /www"]
        readinessProbe: {{httpGet: {{port: 8080}}, periodSeconds: 1}}
"#
    )
}

pub fn all_ready(list: &Value, count: usize) -> bool {
    let ready = items(list).iter().filter(|pod| condition(pod, "Ready") == "True");
    ready.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).count() == count
}

pub fn deployment(world: &mut World) -> Result<()> {
    let ns = Namespace::new(world, "deployment")?;
    ns.apply(&manifest("one", 3))?;
    ns.rolled_out("deployment/web")?;
    let shown = ns.run(&["get", "deployment", "web"])?;
    contains(&shown, "3/3")?;
    // Scale, and heal.
    ns.run(&["scale", "deployment", "web", "--replicas=4"])?;
    ns.until(&["pods"], 60, "4 ready pods", |pods| all_ready(pods, 4))?;
    let victim = names(&ns.get(&["pods"])?).first().context("a pod")?.clone();
    ns.run(&["delete", "pod", &victim])?;
    let healed = ns.until(&["pods"], 60, "4 ready pods again", |pods| all_ready(pods, 4))?;
    ensure!(!names(&healed).contains(&victim), "the deleted pod does not come back by its name");
    // Roll, look back, undo, restart.
    ns.apply(&manifest("two", 4))?;
    ns.rolled_out("deployment/web")?;
    let page = |pod: &str| ns.run(&["exec", pod, "--", "cat", "/www/index.html"]);
    let any = |ns: &Namespace<'_>| -> Result<String> {
        let pods = ns.until(&["pods"], 60, "4 ready pods", |pods| all_ready(pods, 4) && items(pods).len() == 4)?;
        names(&pods).first().cloned().context("a pod")
    };
    contains(&page(&any(&ns)?)?, "two")?;
    let history = ns.run(&["rollout", "history", "deployment/web"])?;
    contains(&history, "1 ")?;
    contains(&history, "2 ")?;
    ns.run(&["rollout", "undo", "deployment/web"])?;
    ns.rolled_out("deployment/web")?;
    contains(&page(&any(&ns)?)?, "one")?;
    ns.run(&["rollout", "restart", "deployment/web"])?;
    ns.rolled_out("deployment/web")?;
    ns.run(&["wait", "--for=condition=Available", "deployment/web", "--timeout=30s"])?;
    contains(&ns.run(&["describe", "deployment", "web"])?, "ScalingReplicaSet")?;
    contains(&ns.run(&["events", "--for", "deployment/web"])?, "Scaled up replica set")?;
    // Its pods go with it.
    ns.run(&["delete", "deployment", "web", "--cascade=foreground", "--timeout=60s"])?;
    ns.until(&["pods,replicasets"], 30, "all to be gone", |list| items(list).is_empty()).map(drop)
}

const OTHERS: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: sum}
spec:
  completions: 2
  parallelism: 2
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: "galley.dev/busybox:1", command: [sh, -c, "echo $((20 + 22))"]}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
  schedule: "0 0 1 1 *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{name: c, image: "galley.dev/busybox:1", command: [date]}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: "galley.dev/busybox:1", command: [sleep, infinity]}]
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: "galley.dev/busybox:1", command: [sleep, infinity]}]
"#;

pub fn others(world: &mut World) -> Result<()> {
    let ns = Namespace::new(world, "others")?;
    ns.apply(OTHERS)?;
    ns.run(&["wait", "--for=condition=Complete", "job/sum", "--timeout=60s"])?;
    contains(&ns.run(&["logs", "job/sum"])?, "42")?;
    contains(&ns.run(&["get", "job", "sum"])?, "2/2")?;
    ns.rolled_out("daemonset/everywhere")?;
    let pods = ns.get(&["pods", "-l", "app=everywhere"])?;
    let mut nodes: Vec<&Value> = items(&pods).iter().map(|p| &p["spec"]["nodeName"]).collect();
    nodes.sort_by_key(|n| n.to_string());
    ensure!(nodes == ["node-1", "node-2"], "one on each node: {nodes:?}");
    ns.rolled_out("statefulset/db")?;
    let found = ns.run(&["exec", "db-0", "--", "nslookup", "db-1.db.others.svc.cluster.local"])?;
    let address = ns.get(&["pod", "db-1"])?["status"]["podIP"].as_str().context("an address")?.to_owned();
    contains(&found, &address)?;
    ns.run(&["create", "job", "now", "--from=cronjob/tick"])?;
    ns.run(&["wait", "--for=condition=Complete", "job/now", "--timeout=60s"]).map(drop)
}
