//! What a node does over time, seen on a running one: logs that are rotated, gRPC probes, a certificate that is renewed.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use galley_cloud_local::LocalNode;
use galley_harness::wait;
use galley_tests::{World, condition};
use serde_json::Value;

use crate::{Namespace, contains};

/// Lines of 1,000 bytes: more than the 10 MiB at which a log is rotated, then one now and then.
const CHATTY: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: chatty}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: galley.dev/busybox:1
    command:
    - sh
    - -c
    - |
      x=$(head -c 990 /dev/zero | tr '\0' x); n=0
      while [ $n -lt 11000 ]; do echo $n $x; n=$((n+1)); done
      while true; do echo $n $x; n=$((n+1)); sleep 0.05; done
"#;

/// Files below a directory whose name starts so.
fn found(directory: &Path, start: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(self::found(&path, start));
        } else if entry.file_name().to_string_lossy().starts_with(start) {
            found.push(path);
        }
    }
    found
}

fn number(line: &str) -> Result<u64> {
    let word = line.split(' ').next().unwrap_or_default();
    word.parse().with_context(|| format!("no number: {}", line.chars().take(80).collect::<String>()))
}

pub fn log_rotation(world: &mut World) -> Result<()> {
    let ns = Namespace::new(world, "chatty")?;
    ns.apply(CHATTY)?;
    ns.until(&["pod", "chatty"], 60, "the pod to run", |pod| pod["status"]["phase"] == "Running")?;
    let mut follow =
        world.kubectl.command().args(["-n", "chatty", "logs", "-f", "chatty"]).stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(follow.stdout.take().context("output")?).lines();
    let logs = world.nodes[0].agent_data_dir().join("logs");
    let rotated = || !found(&logs, "0.log.").is_empty();
    // From the first line over the rotation to fifty lines after it, none is missing and none comes twice.
    let read = || -> Result<u64> {
        let (mut next, mut after) = (0, 0);
        for line in lines {
            let n = number(&line?)?;
            ensure!(n == next, "after line {next} comes {n}");
            next = n + 1;
            // Looked at where lines come slowly, so that the search costs nothing.
            if n > 11_000 && (after > 0 || rotated()) {
                after += 1;
            }
            if after == 50 {
                return Ok(n);
            }
        }
        anyhow::bail!("the log ended after line {next}")
    };
    let last = read();
    follow.kill()?;
    follow.wait()?;
    let last = last?;
    // Without -f: what is in the newest file, to its end.
    let now = ns.run(&["logs", "chatty"])?;
    let numbers: Vec<u64> = now.lines().map(number).collect::<Result<_>>()?;
    ensure!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "a gap in the newest log file");
    ensure!(numbers.first().is_some_and(|n| *n > 0) && numbers.last().is_some_and(|n| *n >= last), "{numbers:?}");
    ensure!(ns.run(&["logs", "chatty", "--tail=3"])?.lines().count() == 3);
    ns.run(&["delete", "pod", "chatty", "--timeout=30s"])?;
    wait::until("its logs to be deleted", Duration::from_secs(20), || {
        Ok(found(&logs, "0.log.").is_empty().then_some(()))
    })
}

const GRPC: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: well}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: galley.dev/in-cluster-client:1
    args: [grpc-health]
    startupProbe: {grpc: {port: 9000}, periodSeconds: 1}
    readinessProbe: {grpc: {port: 9000, service: well}, periodSeconds: 1}
    livenessProbe: {grpc: {port: 9000}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: sick}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: galley.dev/in-cluster-client:1
    args: [grpc-health]
    readinessProbe: {grpc: {port: 9000, service: sick}, periodSeconds: 1}
    livenessProbe: {grpc: {port: 9000, service: nobody}, periodSeconds: 1, failureThreshold: 3}
"#;

pub fn grpc_probes(world: &mut World) -> Result<()> {
    let ns = Namespace::new(world, "grpc")?;
    ns.apply(GRPC)?;
    ns.until(&["pod", "well"], 60, "the healthy pod to be ready", |pod| condition(pod, "Ready") == "True")?;
    let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(0);
    let sick = ns.until(&["pod", "sick"], 60, "the unhealthy pod to be restarted", |pod| restarts(pod) > 0)?;
    ensure!(condition(&sick, "Ready") == "False", "{}", sick["status"]);
    let events = ns.run(&["describe", "pod", "sick"])?;
    for wanted in [
        "Readiness probe failed: service unhealthy (responded with \"NOT_SERVING\")",
        "Liveness probe failed: health rpc probe failed: rpc error: code = NotFound desc = unknown service nobody",
        "failed liveness probe, will be restarted",
    ] {
        contains(&events, wanted)?;
    }
    let well = ns.get(&["pod", "well"])?;
    ensure!(restarts(&well) == 0 && condition(&well, "Ready") == "True", "{}", well["status"]);
    Ok(())
}

/// The installation gives nodes certificates for a minute: each is renewed while this waits.
pub fn renewal(world: &mut World) -> Result<()> {
    let mut node = world.nodes[0].clone();
    let renewed = renewed_under_way(world, &mut node);
    world.nodes[0] = node;
    renewed
}

fn renewed_under_way(world: &World, node: &mut LocalNode) -> Result<()> {
    let ns = Namespace::new(world, "renewal")?;
    let overrides = r#"{"spec":{"nodeName":"node-1","terminationGracePeriodSeconds":1}}"#;
    ns.run(&["run", "p", "--image=galley.dev/busybox:1", "--overrides", overrides, "--", "sleep", "infinity"])?;
    let before = ns.until(&["pod", "p"], 60, "the pod to be ready", |pod| condition(pod, "Ready") == "True")?;
    let identity = node.agent_data_dir().join("identity.json");
    let certificate = || -> Result<Value> {
        let identity: Value = serde_json::from_slice(&std::fs::read(&identity)?)?;
        Ok(identity["certificate"].clone())
    };
    let old = certificate()?;
    // A stream that was opened under the old certificate lives on.
    let mut exec = world
        .kubectl
        .command()
        .args(["-n", "renewal", "exec", "-i", "p", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = exec.stdin.take().context("input")?;
    let mut output = BufReader::new(exec.stdout.take().context("output")?).lines();
    let mut say = |word: &str| -> Result<()> {
        writeln!(input, "{word}")?;
        let heard = output.next().context("output")??;
        ensure!(heard == word, "{heard}");
        Ok(())
    };
    let outcome = say("before").and_then(|()| {
        let renewed = || Ok((certificate()? != old).then_some(()));
        wait::until("the certificate to be renewed", Duration::from_secs(70), renewed)?;
        say("after")
    });
    exec.kill()?;
    exec.wait()?;
    outcome?;
    contains(&std::fs::read_to_string(node.agent_log())?, "the node has a new certificate")?;
    // The new one is good for a connection as well, which the restarted agent makes with it.
    node.restart_agent().context("restart the agent")?;
    wait::until("exec to work again", Duration::from_secs(30), || ns.run(&["exec", "p", "--", "true"]).map(Some))?;
    let after = ns.get(&["pod", "p"])?;
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    ensure!(id(&before) == id(&after), "the pod was disturbed: {}", after["status"]);
    Ok(())
}
