//! A server of one's own joins the cluster over a network, with the one command that `galley node join-command` prints; and
//! what it says when it may not.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use galley_harness::wait;
use galley_tests::{Machine, World, condition};
use jiff::Timestamp;
use serde_json::Value;

use crate::{Namespace, contains};

const NODE: &str = "own";

const MANIFEST: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeName: own
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: galley.dev/busybox:1
    command: [sh, -c, "mkdir /www && echo served by my own machine > /www/index.html && exec httpd -f -p 8080 -h /www"]
    readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "galley.dev/busybox:1", command: [sleep, infinity]}]
"#;

#[expect(clippy::disallowed_methods, reason = "the server's clock is this machine's")]
fn now() -> Timestamp {
    Timestamp::now()
}

pub fn own_server(world: &mut World) -> Result<()> {
    let printed = |more: &[&str]| world.galley.galley(&[&["node", "join-command", "test"], more].concat());
    // Made first: it is to be too old when it is used.
    let short: Value = serde_json::from_str(&printed(&["--ttl", "1s", "-o", "json"])?)?;
    let command = printed(&[])?;
    ensure!(command.starts_with("galley-node-agent join --server https://"), "{command}");

    let machine = Machine::start(world, NODE, 200, &world.image_archives()?).context("start a machine")?;
    let refused = |line: &str, wanted: &[&str]| -> Result<()> {
        let output = machine.output(line)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "{line} succeeded: {said}");
        wanted.iter().try_for_each(|wanted| contains(&said, wanted))
    };
    // Nobody there, somebody else there, and a token that came too late: each is said with its stage, and costs no token.
    let (server, rest) = command.split_once(" --ca-hash ").context("--ca-hash")?;
    let (hash, token) = rest.split_once(" --token ").context("--token")?;
    let gateway = world.galley.options().cloud.gateway();
    let nobody = format!("galley-node-agent join --server https://{gateway}:9 --ca-hash {hash} --token {token}");
    refused(&nobody, &["stage 1", &format!("{gateway}:9 cannot be reached"), "refused"])?;
    let other = format!("sha256:{}", "0".repeat(64));
    let wrong_hash = format!("{server} --ca-hash {other} --token {token}");
    refused(
        &wrong_hash,
        &["stage 1", "is not trusted", &format!("must have the key {other} (--ca-hash), but has {hash}")],
    )?;
    refused(&format!("{server} --ca-hash {hash} --token made-up"), &["stage 2", "403", "there is no such token"])?;
    let expires: Timestamp = short["expiresAt"].as_str().context("expiresAt")?.parse()?;
    wait::until("the token to expire", Duration::from_secs(10), || Ok((now() > expires).then_some(())))?;
    let late = short["joinCommand"].as_str().context("joinCommand")?;
    refused(late, &["stage 2, asking", "for the node `own`", "403", "this token expired"])?;

    // As it was printed.
    let log = world.directory.join("own-agent.log");
    machine.spawn(&command, &log)?;
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    let ready = |node: &Value| condition(node, "Ready") == "True";
    let wait_ready = || {
        wait::until("the node to be there and ready", Duration::from_secs(60), || {
            Ok(ready(&world.kubectl.get(&["node", NODE])?).then_some(()))
        })
    };
    wait_ready().with_context(said)?;
    for stage in ["stage 1", "stage 2", "stage 3", "stage 4", "stage 5", "the node is ready"] {
        contains(&said(), stage)?;
    }
    // The same command on another machine, which has nothing in its data directory.
    let elsewhere = format!("unshare --mount sh -c 'mount -t tmpfs tmpfs /var/lib/galley-node && exec {command}'");
    refused(&elsewhere, &["stage 2", "this token was used", "by the node \"own\""])?;

    {
        let ns = Namespace::new(world, "own-server")?;
        ns.apply(MANIFEST)?;
        for pod in ["web", "client"] {
            let up = ns.until(&["pod", pod], 60, "the pod to be ready", |pod| condition(pod, "Ready") == "True");
            up.with_context(said)?;
        }
        wait::until("the Service to answer on another node", Duration::from_secs(20), || {
            let answer = ns.run(&["exec", "client", "--", "wget", "-q", "-O", "-", "http://web"])?;
            Ok(answer.contains("served by my own machine").then_some(()))
        })?;
        contains(&ns.run(&["exec", "web", "--", "cat", "/www/index.html"])?, "served by my own machine")?;
        full_disk(world, &ns, &machine).context("a disk that is full")?;
    }
    // As its owner takes it out again.
    world.kubectl.run(&["drain", NODE, "--ignore-daemonsets", "--force", "--delete-emptydir-data", "--timeout=60s"])?;
    drop(machine);
    world.kubectl.run(&["delete", "node", NODE]).map(drop)
}

/// The machine's disk is its own and small: the pod goes when it is full, and the node says so.
fn full_disk(world: &World, ns: &Namespace<'_>, machine: &Machine) -> Result<()> {
    machine.run("fallocate -l $(($(stat -f -c '%a * %S' /var/lib) * 95 / 100)) /var/lib/ballast")?;
    let evicted = ns.until(&["pod", "web"], 40, "the pod to be evicted", |pod| pod["status"]["phase"] == "Failed")?;
    ensure!(evicted["status"]["reason"] == "Evicted", "{}", evicted["status"]);
    contains(&evicted["status"]["message"].to_string(), "The node was low on resource: ephemeral-storage")?;
    let (limit, pressed) = (Duration::from_secs(40), |node: &Value| condition(node, "DiskPressure") == "True");
    world.kubectl.wait_for(&["node", machine.name()], limit, "the node to be under disk pressure", pressed)?;
    contains(&ns.run(&["describe", "node", machine.name()])?, "node.kubernetes.io/disk-pressure:NoSchedule")
}
