//! A pod that the node's own containerd starts gets the node's network: the real CNI plugins, host ports, names. Needs root.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use galley_cloud_local::{LocalCloud, LocalNode, NodeSpec, oci, stop_all};
use galley_node_cri::{ContainerInputs, Cri, SandboxInputs, container_config, log_directory, sandbox_config};
use galley_node_net::{ClusterView, Dialer, NetConfig, NetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};

const PATIENCE: Duration = Duration::from_secs(60);
const BUSYBOX: &str = "galley.dev/busybox:test";

struct Cleanup(LocalCloud);

impl Drop for Cleanup {
    fn drop(&mut self) {
        let _ = stop_all(&self.0, true);
    }
}

struct NoApiServer;

impl Dialer for NoApiServer {
    type Stream = DuplexStream;

    async fn dial(&self) -> std::io::Result<DuplexStream> {
        Err(std::io::ErrorKind::NotConnected.into())
    }
}

/// Runs the agent's network in the node until the sender is dropped.
fn network(
    node: &LocalNode,
    cloud: &LocalCloud,
    directory: &Path,
) -> (watch::Receiver<NetStatus>, oneshot::Sender<()>) {
    let namespace = File::open(format!("/run/netns/{}", cloud.namespace(node.name()))).unwrap();
    let mut config = NetConfig::new(node.name(), node.address());
    config.cni_conf_dir = cloud.node_dir(node.name()).join("cni");
    config.cni_state_dir = directory.join("cni-state");
    let own = json!({
        "metadata": { "name": node.name() },
        "spec": { "podCIDR": "10.244.7.0/24" },
        "status": { "addresses": [{ "type": "InternalIP", "address": node.address() }] },
    });
    let own: Node = serde_json::from_value(own).unwrap();
    let (status, ready) = watch::channel(NetStatus::NotReady("new".into()));
    let (stop, stopped) = oneshot::channel::<()>();
    std::thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let (_view, reader) =
            watch::channel(Some(ClusterView { nodes: vec![Arc::new(own)], ..ClusterView::default() }));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(galley_node_net::run(config, reader, Arc::new(NoApiServer), status, async {
            let _ = stopped.await;
        }));
    });
    (ready, stop)
}

async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("never: {what}"))
}

async fn ask(ip: Ipv4Addr, port: u16) -> Option<String> {
    let asked = async {
        let mut stream = TcpStream::connect((ip, port)).await.ok()?;
        stream.write_all(b"\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    };
    tokio::time::timeout(Duration::from_secs(2), asked).await.ok()?
}

#[tokio::test]
async fn a_pod_gets_an_address_a_host_port_and_names() {
    let directory = tempfile::tempdir().unwrap();
    let number = u8::try_from(std::process::id() % 50).unwrap() + 40;
    let cloud = LocalCloud::of_prefix(&format!("p{}", std::process::id()), number, directory.path());
    let cleanup = Cleanup(cloud.clone());
    let spec = NodeSpec {
        name: "node-1".into(),
        agent: None,
        agent_arguments: Vec::new(),
        registry_mirrors: Vec::new(),
        images: Vec::new(),
    };
    let node = LocalNode::start(&cloud, spec).unwrap();
    node.import_image(&oci::busybox_image(BUSYBOX, Path::new("/bin/busybox")).unwrap()).unwrap();
    let (mut status, _running) = network(&node, &cloud, directory.path());
    status.wait_for(|status| *status == NetStatus::Ready).await.unwrap();

    let cri = Cri::new(&node.containerd_socket(), "node-1");
    eventually("containerd has read the network list", async || {
        cri.info().await.ok().filter(|info| info.network_error.is_none())
    })
    .await;
    let script = "while true; do nslookup ns.dns.cluster.local | tail -n 3 | nc -l -p 80; done";
    let pod = json!({
        "metadata": { "name": "web", "namespace": "default", "uid": "uid-web" },
        "spec": { "containers": [{
            "name": "web", "image": BUSYBOX, "command": ["sh", "-c", script],
            "ports": [{ "containerPort": 80, "hostPort": 18080, "protocol": "TCP" }],
        }] },
    });
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let logs = directory.path().join("logs").join(log_directory(&pod));
    std::fs::create_dir_all(&logs).unwrap();
    let inputs = SandboxInputs {
        node: "node-1".into(),
        cgroup_parent: cloud.cgroup_root("node-1"),
        log_directory: logs.display().to_string(),
        cluster_dns: vec!["10.96.0.10".into()],
        cluster_domain: "cluster.local".into(),
        ..SandboxInputs::default()
    };
    let config = sandbox_config(&pod, &inputs);
    let sandbox = cri.run_sandbox(config.clone()).await.unwrap();
    let image = cri.image(BUSYBOX).await.unwrap().unwrap();
    let container = &pod.spec.as_ref().unwrap().containers[0];
    let inputs = ContainerInputs { node: "node-1".into(), image_ref: image.id, ..ContainerInputs::default() };
    let id = cri.create_container(&sandbox, container_config(&pod, container, &inputs), config).await.unwrap();
    cri.start_container(&id).await.unwrap();

    let text = eventually("the host port answers", async || ask(node.address(), 18080).await).await;
    assert!(text.contains("10.96.0.10"), "the pod resolves names: {text}");
    let observed = cri.observe("uid-web").await.unwrap();
    assert!(observed.sandboxes[0].ips[0].starts_with("10.244.7."), "{observed:?}");

    drop(cleanup);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&directory.path().display().to_string()), "{mounts}");
    assert!(!mounts.contains(&cloud.run_dir.display().to_string()), "{mounts}");
}
