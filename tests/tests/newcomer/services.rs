//! Services of each type, reached as users reach them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use galley_harness::wait;
use galley_tests::{World, condition, items};

use crate::{Namespace, contains};

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: web, version: "1"}}
    spec:
      terminationGracePeriodSeconds: 10
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: web
        image: galley.dev/busybox:1
        command: [sh, -c, "mkdir -p /www && hostname > /www/index.html && exec httpd -f -p 8080 -h /www"]
        readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 3}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client-1}
spec: {nodeName: node-1, containers: [{name: c, image: "galley.dev/busybox:1", command: [sleep, infinity]}], terminationGracePeriodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: client-2}
spec: {nodeName: node-2, containers: [{name: c, image: "galley.dev/busybox:1", command: [sleep, infinity]}], terminationGracePeriodSeconds: 1}
"#;

/// The body of `GET /`, from this machine.
fn fetch(address: &str) -> Result<String> {
    let target = address.parse().with_context(|| format!("{address} is no address"))?;
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    contains(&answer, "200 OK")?;
    Ok(answer.rsplit("\r\n\r\n").next().unwrap_or_default().trim().to_owned())
}

fn start<'a>(world: &'a World, name: &'static str) -> Result<Namespace<'a>> {
    let ns = Namespace::new(world, name)?;
    ns.apply(WEB)?;
    ns.rolled_out("deployment/web")?;
    for client in ["client-1", "client-2"] {
        ns.until(&["pod", client], 60, "the client to be ready", |pod| condition(pod, "Ready") == "True")?;
    }
    Ok(ns)
}

pub fn reachable(world: &mut World) -> Result<()> {
    let ns = start(world, "services")?;
    // By cluster IP and name, from a pod on each node: every backend answers.
    for client in ["client-1", "client-2"] {
        let mut seen = std::collections::BTreeSet::new();
        wait::until("both backends to answer", Duration::from_secs(30), || {
            seen.insert(ns.run(&["exec", client, "--", "wget", "-q", "-O", "-", "http://web"])?);
            Ok((seen.len() == 2).then_some(()))
        })
        .with_context(|| format!("from {client}"))?;
        for name in ["web.services", "web.services.svc", "web.services.svc.cluster.local"] {
            ns.run(&["exec", client, "--", "wget", "-q", "-O", "-", &format!("http://{name}")])?;
        }
    }
    let pods = ns.get(&["pods", "-l", "app=web"])?;
    let resolved = ns.run(&["exec", "client-1", "--", "nslookup", "headless.services.svc.cluster.local"])?;
    for pod in items(&pods) {
        contains(&resolved, pod["status"]["podIP"].as_str().context("an address")?)?;
    }
    // From this machine, at every node's port.
    let port = ns.get(&["service", "outside"])?["spec"]["ports"][0]["nodePort"].as_u64().context("a node port")?;
    for node in &world.nodes {
        let address = format!("{}:{port}", node.address());
        wait::until("the node port to answer", Duration::from_secs(20), || fetch(&address).map(Some))
            .with_context(|| address.clone())?;
    }
    // From this machine, at the balancer's address.
    let service = ns.until(&["service", "balanced"], 60, "the balancer's address", |service| {
        service["status"]["loadBalancer"]["ingress"][0]["ip"].is_string()
    })?;
    let address = format!("{}:80", service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap_or_default());
    let mut seen = std::collections::BTreeSet::new();
    wait::until("both backends to answer at the balancer", Duration::from_secs(30), || {
        seen.insert(fetch(&address)?);
        Ok((seen.len() == 2).then_some(()))
    })
    .with_context(|| address.clone())?;
    contains(&ns.run(&["describe", "service", "balanced"])?, "EnsuredLoadBalancer")?;
    // No backend left: refused at once, not a time-out.
    ns.run(&["scale", "deployment", "web", "--replicas=0"])?;
    ns.until(&["endpointslices", "-l", "kubernetes.io/service-name=web"], 40, "no endpoints", |slices| {
        items(slices).iter().all(|s| s["endpoints"].as_array().is_none_or(Vec::is_empty))
    })?;
    wait::until("the service to refuse", Duration::from_secs(10), || {
        let refused = ns.fails(&["exec", "client-1", "--", "wget", "-q", "-O", "-", "http://web"])?;
        Ok(refused.contains("refused").then_some(()))
    })
}

pub fn rolling_update(world: &mut World) -> Result<()> {
    let ns = start(world, "rolling")?;
    let port = ns.get(&["service", "outside"])?["spec"]["ports"][0]["nodePort"].as_u64().context("a node port")?;
    let address = format!("{}:{port}", world.nodes[0].address());
    wait::until("the node port to answer", Duration::from_secs(20), || fetch(&address).map(Some))?;
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, sent, address) = (stop.clone(), sent.clone(), address.clone());
            std::thread::spawn(move || -> Result<()> {
                while !stop.load(Ordering::Relaxed) {
                    let number = sent.fetch_add(1, Ordering::Relaxed);
                    fetch(&address).with_context(|| format!("request {number}"))?;
                }
                Ok(())
            })
        })
        .collect();
    let version = r#"{"spec":{"template":{"metadata":{"labels":{"version":"2"}}}}}"#;
    let rolled = ns
        .run(&["patch", "deployment", "web", "-p", version])
        .and_then(|_| ns.rolled_out("deployment/web"))
        .and_then(|()| ns.run(&["rollout", "undo", "deployment/web"]))
        .and_then(|_| ns.rolled_out("deployment/web"));
    stop.store(true, Ordering::Relaxed);
    let outcomes: Vec<_> = clients.into_iter().map(|c| c.join().expect("a client thread ends")).collect();
    rolled?;
    for outcome in outcomes {
        outcome.context("a request failed during the update")?;
    }
    let sent = sent.load(Ordering::Relaxed);
    println!("        {sent} requests during a rolling update and back, none failed");
    ensure!(sent > 50, "only {sent} requests were sent");
    Ok(())
}
