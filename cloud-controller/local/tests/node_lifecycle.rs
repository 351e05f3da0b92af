//! A node on this machine with a real containerd, from nothing to nothing. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use galley_cloud_local::{LocalCloud, LocalNode, NodeSpec, NodeState, oci, stop_all};

static NEXT: AtomicU8 = AtomicU8::new(0);

/// A cloud of the test's own, that goes with it.
struct Cloud {
    cloud: LocalCloud,
    directory: tempfile::TempDir,
}

impl Cloud {
    fn new() -> Self {
        let number = u8::try_from(std::process::id() % 60).unwrap() * 2 + NEXT.fetch_add(1, Ordering::Relaxed) + 100;
        let directory = tempfile::tempdir().unwrap();
        let cloud = LocalCloud::of_prefix(&format!("t{}", std::process::id()), number, directory.path());
        Self { cloud, directory }
    }

    /// An agent that only waits, and says with what it was started.
    fn agent(&self) -> PathBuf {
        let path = self.directory.path().join("agent");
        if !path.exists() {
            std::fs::write(&path, "#!/bin/sh\necho started \"$@\"\nwhile :; do sleep 1000; done\n").unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&path, mode).unwrap();
        }
        path
    }

    fn spec(&self, name: &str) -> NodeSpec {
        NodeSpec {
            name: name.into(),
            agent: Some(self.agent()),
            agent_arguments: vec!["join".into(), "--token".into(), "secret".into()],
            registry_mirrors: vec!["docker.io=http://10.0.0.1:5000".parse().unwrap()],
            images: Vec::new(),
        }
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let _ = stop_all(&self.cloud, true);
    }
}

fn ctr(node: &LocalNode, arguments: &[&str]) -> String {
    let socket = node.containerd_socket();
    let mut command = Command::new("ctr");
    command.arg("--address").arg(socket).args(["--namespace", "k8s.io"]).args(arguments);
    let output = command.output().unwrap();
    assert!(output.status.success(), "ctr {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn run_container(node: &LocalNode, id: &str, cgroup: &str) -> i32 {
    // What the node's own configuration gives containers that come through CRI.
    let runc = node.containerd_socket().with_file_name("runc").display().to_string();
    ctr(node, &["run", "--detach", "--runc-root", &runc, "--cgroup", cgroup, oci::PAUSE_IMAGE, id]);
    let tasks = ctr(node, &["tasks", "ls"]);
    let line = tasks.lines().find(|line| line.starts_with(id)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn runs(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}/ns/net")).exists() && std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok()
}

fn agent_pid(cloud: &LocalCloud, name: &str) -> i64 {
    let text = std::fs::read(cloud.node_dir(name).join("node.json")).unwrap();
    serde_json::from_slice::<serde_json::Value>(&text).unwrap()["agent"]["pid"].as_i64().unwrap()
}

/// Everything on the machine that has the cloud's name in it.
fn traces(cloud: &LocalCloud) -> Vec<String> {
    let mut found = Vec::new();
    let mut add = |what: &str, text: String| {
        let of_ours = |line: &&str| {
            line.contains(&format!("{}-", cloud.prefix)) || line.contains(&cloud.run_dir.display().to_string())
        };
        found.extend(text.lines().filter(of_ours).map(|line| format!("{what}: {line}")));
    };
    let print = |program: &str, arguments: &[&str]| {
        String::from_utf8_lossy(&Command::new(program).args(arguments).output().unwrap().stdout).into_owned()
    };
    add("mount", std::fs::read_to_string("/proc/self/mountinfo").unwrap());
    add("namespace", print("ip", &["netns"]));
    add("link", print("ip", &["-o", "link"]));
    add("process", print("ps", &["-eo", "args"]));
    add("cgroup", print("find", &["/sys/fs/cgroup", "-type", "d", "-path", &format!("*/{}/*", cloud.prefix)]));
    found
}

#[test]
fn a_node_starts_dies_comes_back_and_leaves_nothing() {
    let cloud = Cloud::new();
    let mut node = LocalNode::start(&cloud.cloud, cloud.spec("node-1")).unwrap();
    assert_eq!(node.state(), NodeState::Running);
    assert!(ctr(&node, &["images", "ls", "-q"]).contains(oci::PAUSE_IMAGE));
    let log = std::fs::read_to_string(node.agent_log()).unwrap();
    assert!(log.contains(&format!("--node-name node-1 --node-ip {}", node.address())), "{log}");

    let cgroup = format!("{}/pod", cloud.cloud.cgroup_root("node-1"));
    let container = run_container(&node, "one", &cgroup);
    let agent = agent_pid(&cloud.cloud, "node-1");
    let again = LocalNode::start(&cloud.cloud, cloud.spec("node-1")).unwrap();
    assert_eq!((again.address(), agent_pid(&cloud.cloud, "node-1")), (node.address(), agent), "it runs already");

    node.restart_agent().unwrap();
    assert_ne!(agent_pid(&cloud.cloud, "node-1"), agent);
    assert!(runs(container), "containers do not notice the agent's restart");

    node.kill().unwrap();
    assert_eq!(LocalNode::open(&cloud.cloud, "node-1").unwrap().state(), NodeState::Stopped);
    assert!(!runs(container), "a node that lost its power runs nothing");

    let mut node = LocalNode::start(&cloud.cloud, cloud.spec("node-1")).unwrap();
    assert_eq!(node.address(), again.address(), "the same node comes back");
    let other = LocalNode::start(&cloud.cloud, cloud.spec("node-2")).unwrap();
    assert_ne!(other.address(), node.address());
    let ping = |from: &LocalNode, to: &LocalNode| {
        let target = to.address().to_string();
        Command::new("nsenter").args(from.enter(["ping", "-c1", "-W5", &target])).output().unwrap().status.success()
    };
    assert!(ping(&node, &other) || Command::new("ping").output().is_err(), "nodes reach each other");

    let container = run_container(&node, "two", &cgroup);
    node.stop().unwrap();
    node.stop().unwrap();
    assert!(!runs(container));
    assert_eq!(node.state(), NodeState::Stopped);
    stop_all(&cloud.cloud, false).unwrap();
    assert_eq!(traces(&cloud.cloud), Vec::<String>::new());
    assert_eq!(cloud.cloud.nodes(), ["node-1", "node-2"], "disks stay");
    stop_all(&cloud.cloud, true).unwrap();
    assert!(cloud.cloud.nodes().is_empty());
}

#[test]
fn a_node_whose_agent_ends_at_once_says_what_the_agent_said() {
    let cloud = Cloud::new();
    let mut spec = cloud.spec("broken");
    let agent = cloud.directory.path().join("broken");
    std::fs::write(&agent, "#!/bin/sh\necho the token is spent\nexit 1\n").unwrap();
    std::fs::set_permissions(&agent, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    spec.agent = Some(agent);
    let error = LocalNode::start(&cloud.cloud, spec).unwrap_err();
    assert!(error.to_string().ends_with("the token is spent"), "{error}");
}
