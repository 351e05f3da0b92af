//! What travels back over the node's tunnel: logs, exec, attach, copies, forwarded ports.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use galley_harness::wait;
use galley_tests::{World, condition};

use crate::{Namespace, contains};

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: talk
    image: galley.dev/busybox:1
    stdin: true
    command: [sh, -c, "echo first; n=0; while read -t 1 line || true; do [ -n \"$line\" ] && echo got $line; line=; n=$((n+1)); echo tick $n; done"]
  - name: web
    image: galley.dev/busybox:1
    command: [sh, -c, "mkdir /www; echo forwarded > /www/index.html; exec httpd -f -p 8080 -h /www"]
"#;

pub fn all(world: &mut World) -> Result<()> {
    let ns = Namespace::new(world, "streams")?;
    ns.apply(POD)?;
    ns.until(&["pod", "p"], 60, "the pod to be ready", |pod| condition(pod, "Ready") == "True")?;
    logs(&ns)?;
    exec(world, &ns)?;
    copy(&ns).context("kubectl cp")?;
    forward(world).context("kubectl port-forward")?;
    attach(world).context("kubectl attach")
}

fn logs(ns: &Namespace<'_>) -> Result<()> {
    contains(&ns.run(&["logs", "p", "-c", "talk"])?, "first")?;
    let mut follow = ns
        .world
        .kubectl
        .command()
        .args(["--namespace", "streams", "logs", "-f", "p", "-c", "talk", "--tail=1"])
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(follow.stdout.take().context("output")?).lines().take(4);
    let followed = lines.collect::<Result<Vec<_>, _>>()?;
    follow.kill()?;
    follow.wait()?;
    ensure!(followed.len() == 4 && followed[1..].iter().all(|l| l.starts_with("tick")), "{followed:?}");
    let stamped = ns.run(&["logs", "p", "-c", "talk", "--timestamps", "--tail=1"])?;
    ensure!(stamped.starts_with("20"), "a time before the line: {stamped}");
    contains(&ns.fails(&["logs", "p", "-c", "nothing"])?, "container nothing is not valid for pod p")
}

fn exec(world: &World, ns: &Namespace<'_>) -> Result<()> {
    contains(&ns.run(&["exec", "p", "-c", "web", "--", "echo", "hello"])?, "hello")?;
    let code = world.kubectl.try_run(&["-n", "streams", "exec", "p", "-c", "web", "--", "sh", "-c", "exit 7"])?;
    ensure!(code.status.code() == Some(7), "{code:?}");
    let counted = ns.input(&["exec", "-i", "p", "-c", "web", "--", "wc", "-c"], &"x".repeat(100_000))?;
    contains(&counted, "100000")?;
    let terminal = format!(
        "{:?} --kubeconfig {:?} -n streams exec -it p -c web -- sh -c 'tty && stty size'",
        world.kubectl.command().get_program(),
        world.galley.kubeconfig("test")
    );
    let output = Command::new("script").args(["-qec", &terminal, "/dev/null"]).stdin(Stdio::null()).output()?;
    contains(&String::from_utf8_lossy(&output.stdout), "/dev/pts/")
}

fn copy(ns: &Namespace<'_>) -> Result<()> {
    let directory = &ns.world.directory;
    let (there, back) = (directory.join("there"), directory.join("back"));
    std::fs::write(&there, "copied and back".repeat(10_000))?;
    let text = |path: &std::path::Path| path.display().to_string();
    ns.run(&["cp", &text(&there), "p:/tmp-file", "-c", "web"])?;
    ns.run(&["cp", "p:/tmp-file", &text(&back), "-c", "web"])?;
    ensure!(std::fs::read(&there)? == std::fs::read(&back)?, "the copy differs");
    Ok(())
}

fn forward(world: &World) -> Result<()> {
    let mut forward = world
        .kubectl
        .command()
        .args(["-n", "streams", "port-forward", "pod/p", ":8080"])
        .stdout(Stdio::piped())
        .spawn()?;
    // Read to the end of its life: kubectl ends when nobody takes what it prints.
    let mut lines = BufReader::new(forward.stdout.take().context("output")?).lines();
    let line = lines.next().context("a line")??;
    let port: u16 = line
        .split("127.0.0.1:")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .and_then(|port| port.parse().ok())
        .with_context(|| line.clone())?;
    let mut answers = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        answers.push(answer);
    }
    forward.kill()?;
    forward.wait()?;
    drop(lines);
    answers.iter().try_for_each(|answer| contains(answer, "forwarded"))
}

fn attach(world: &World) -> Result<()> {
    let mut attach = world
        .kubectl
        .command()
        .args(["-n", "streams", "attach", "-i", "p", "-c", "talk"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut input = attach.stdin.take().context("input")?;
    let mut lines = BufReader::new(attach.stdout.take().context("output")?).lines();
    lines.next().context("output of the container")??;
    input.write_all(b"there\n")?;
    let heard = wait::until("the container to answer", Duration::from_secs(15), || {
        let line = lines.next().context("more output")??;
        Ok(line.contains("got there").then_some(()))
    });
    attach.kill()?;
    attach.wait()?;
    heard
}
