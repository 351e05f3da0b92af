//! Two nodes in private network namespaces on one switch, with real links, real nftables and the real CNI plugins.
//!
//! ```text
//!   outside 10.89.7.1 ──┬── switch (bridge) ──┬── node a 10.89.7.11 ── pods 10.244.1.0/24
//!                       └─────────────────────┴── node b 10.89.7.12 ── pods 10.244.2.0/24
//! ```
//!
//! Everything goes away when the lab is dropped, also after a failed assertion.

use std::fs::File;
use std::future::Future;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use galley_node_net::{ClusterView, Dialer, NetConfig, NetStatus, Overlay};
use k8s_openapi::api::core::v1::Node;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{oneshot, watch};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Longer than anything here takes on a machine that is busy with other builds.
pub const PATIENCE: Duration = Duration::from_secs(20);

fn tool(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// A network namespace of its own.
pub struct Space {
    name: String,
    /// Threads that run in it; they end when their sender is dropped.
    background: std::sync::Mutex<Vec<(oneshot::Sender<()>, std::thread::JoinHandle<()>)>>,
}

impl Space {
    pub fn new(role: &str) -> Arc<Self> {
        let name = format!("gt{}-{}-{role}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        assert!(tool("ip", &["netns", "add", &name]).status.success(), "needs root and iproute2");
        let space = Arc::new(Self { name, background: Default::default() });
        space.ip("link set lo up");
        space
    }

    pub fn ip(&self, words: &str) {
        let mut arguments = vec!["-n", self.name.as_str()];
        arguments.extend(words.split_whitespace());
        let output = tool("ip", &arguments);
        assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What a tool prints when it runs in here.
    pub fn print(&self, command: &str) -> String {
        let path = format!("--net=/run/netns/{}", self.name);
        let mut arguments = vec![path.as_str()];
        arguments.extend(command.split_whitespace());
        let output = tool("nsenter", &arguments);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// Runs a future on a thread in here.
    pub fn run<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        std::thread::scope(|scope| scope.spawn(|| self.block_on(future)).join().unwrap())
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    /// Runs a future on a thread in here until the space goes.
    pub fn background(self: &Arc<Self>, future: impl Future<Output = ()> + Send + 'static) {
        let (stop, stopped) = oneshot::channel::<()>();
        let space = self.name.clone();
        let thread = std::thread::spawn(move || {
            let space = Self { name: space, background: Default::default() };
            space.block_on(async {
                tokio::select! {
                    () = future => {}
                    _ = stopped => {}
                }
            });
            // The name belongs to the original.
            std::mem::forget(space);
        });
        self.background.lock().unwrap().push((stop, thread));
    }

    pub fn stop_background(&self) {
        for (stop, thread) in self.background.lock().unwrap().drain(..) {
            drop(stop);
            let _ = thread.join();
        }
    }

    /// Asks a TCP server for its greeting.
    pub fn ask(&self, ip: Ipv4Addr, port: u16) -> Result<String, std::io::ErrorKind> {
        self.run(async {
            let asked = async {
                let mut stream = TcpStream::connect((ip, port)).await?;
                let mut text = String::new();
                stream.read_to_string(&mut text).await?;
                std::io::Result::Ok(text)
            };
            match tokio::time::timeout(Duration::from_secs(3), asked).await {
                Ok(Ok(text)) => Ok(text),
                Ok(Err(error)) => Err(error.kind()),
                Err(_) => Err(std::io::ErrorKind::TimedOut),
            }
        })
    }

    /// A TCP and a UDP server that say `greeting` and, after a space, who asked.
    pub fn greet(self: &Arc<Self>, port: u16, greeting: &'static str) {
        let (ready, bound) = std::sync::mpsc::channel();
        self.background(async move {
            let tcp = TcpListener::bind(("0.0.0.0", port)).await.unwrap();
            let udp = UdpSocket::bind(("0.0.0.0", port)).await.unwrap();
            ready.send(()).unwrap();
            let mut buffer = [0; 64];
            loop {
                tokio::select! {
                    Ok((mut stream, client)) = tcp.accept() => {
                        let _ = stream.write_all(format!("{greeting} {}", client.ip()).as_bytes()).await;
                    }
                    Ok((_, client)) = udp.recv_from(&mut buffer) => {
                        let _ = udp.send_to(greeting.as_bytes(), client).await;
                    }
                }
            }
        });
        bound.recv_timeout(PATIENCE).unwrap();
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.stop_background();
        tool("ip", &["netns", "del", &self.name]);
    }
}

/// Waits until a condition holds.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Says `api` to whoever connects.
pub struct ApiServer;

impl Dialer for ApiServer {
    type Stream = DuplexStream;

    async fn dial(&self) -> std::io::Result<DuplexStream> {
        let (ours, mut theirs) = tokio::io::duplex(64);
        tokio::spawn(async move {
            let _ = theirs.write_all(b"api").await;
            let _ = theirs.shutdown().await;
        });
        Ok(ours)
    }
}

/// A pod: a namespace that the CNI plugin attached to its node.
pub struct Pod {
    pub space: Arc<Space>,
    pub ip: Ipv4Addr,
}

pub struct LabNode {
    pub name: &'static str,
    pub ip: Ipv4Addr,
    pub space: Arc<Space>,
    pub view: watch::Sender<Option<ClusterView>>,
    status: watch::Receiver<NetStatus>,
    pub config: NetConfig,
    directory: tempfile::TempDir,
}

impl LabNode {
    fn new(name: &'static str, number: u8, overlay: Overlay, outside: &Space) -> Self {
        let space = Space::new(name);
        let ip = Ipv4Addr::new(10, 89, 7, number);
        outside.ip(&format!("link add to-{name} type veth peer name eth0 netns {}", space.name));
        outside.ip(&format!("link set to-{name} up master switch"));
        space.ip(&format!("addr add {ip}/24 dev eth0"));
        space.ip("link set eth0 up");
        space.ip("route add default via 10.89.7.1");
        let directory = tempfile::tempdir().unwrap();
        let mut config = NetConfig::new(name, ip);
        config.overlay = overlay;
        config.cni_conf_dir = directory.path().join("net.d");
        config.cni_state_dir = directory.path().join("state");
        config.resolv_conf = directory.path().join("resolv.conf");
        let (view, _) = watch::channel(None);
        let (_, status) = watch::channel(NetStatus::NotReady("new".into()));
        let mut node = Self { name, ip, space, view, status, config, directory };
        node.start();
        node
    }

    /// Starts the agent's network.
    pub fn start(&mut self) {
        let (sender, status) = watch::channel(NetStatus::NotReady("new".into()));
        self.status = status;
        let (config, view) = (self.config.clone(), self.view.subscribe());
        self.space.background(galley_node_net::run(config, view, Arc::new(ApiServer), sender, std::future::pending()));
    }

    pub fn wait_ready(&self) {
        let mut told = NetStatus::Ready;
        eventually("the network is ready", || {
            let status = self.status.borrow().clone();
            if status != told {
                eprintln!("{}: {status:?}", self.name);
                told.clone_from(&status);
            }
            (status == NetStatus::Ready).then_some(())
        });
    }

    pub fn resolv_conf(&self, text: &str) {
        std::fs::write(self.directory.path().join("resolv.conf"), text).unwrap();
    }

    /// Attaches a new pod as containerd would.
    pub fn pod(&self, role: &str) -> Pod {
        let space = Space::new(role);
        let list: Value =
            serde_json::from_slice(&std::fs::read(self.config.cni_conf_dir.join("10-galley.conflist")).unwrap())
                .unwrap();
        let mut plugin = list["plugins"][0].clone();
        plugin["name"] = list["name"].clone();
        plugin["cniVersion"] = list["cniVersion"].clone();
        let file = self.directory.path().join(format!("{}.json", space.name));
        std::fs::write(&file, plugin.to_string()).unwrap();
        let output = Command::new("nsenter")
            .args([
                &format!("--net=/run/netns/{}", self.space.name),
                &format!("/usr/lib/cni/{}", plugin["type"].as_str().unwrap()),
            ])
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", &space.name)
            .env("CNI_NETNS", format!("/run/netns/{}", space.name))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/usr/lib/cni")
            .stdin(File::open(&file).unwrap())
            .output()
            .unwrap();
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        let address = result["ips"][0]["address"].as_str().unwrap_or_else(|| panic!("{result}"));
        let ip = address.split('/').next().unwrap().parse().unwrap();
        Pod { space, ip }
    }
}

pub struct Lab {
    pub a: LabNode,
    pub b: LabNode,
    pub outside: Arc<Space>,
    pub view: ClusterView,
}

impl Lab {
    pub fn new(overlay: Overlay) -> Self {
        let outside = Space::new("outside");
        outside.ip("link add switch type bridge");
        outside.ip("addr add 10.89.7.1/24 dev switch");
        outside.ip("link set switch up");
        let a = LabNode::new("a", 11, overlay, &outside);
        let b = LabNode::new("b", 12, overlay, &outside);
        let nodes = [(&a, "10.244.1.0/24"), (&b, "10.244.2.0/24")];
        let nodes = nodes.map(|(node, range)| {
            let node = json!({
                "metadata": { "name": node.name },
                "spec": { "podCIDR": range },
                "status": { "addresses": [{ "type": "InternalIP", "address": node.ip }] },
            });
            Arc::new(serde_json::from_value::<Node>(node).unwrap())
        });
        let mut lab = Self { a, b, outside, view: ClusterView { nodes: nodes.into(), ..ClusterView::default() } };
        lab.publish();
        lab.a.wait_ready();
        lab.b.wait_ready();
        lab
    }

    /// Tells both nodes what the cluster says now.
    pub fn publish(&mut self) {
        for node in [&self.a, &self.b] {
            node.view.send_replace(Some(self.view.clone()));
        }
    }

    /// Replaces a Service and its endpoints: (pod, the node it is on).
    pub fn service(&mut self, spec: Value, status: Value, endpoints: &[(&Pod, &str)]) {
        let name = spec["name"].as_str().unwrap().to_owned();
        let mut body = spec.clone();
        body.as_object_mut().unwrap().remove("name");
        let metadata = json!({ "namespace": "default", "name": name });
        let service = serde_json::from_value(json!({ "metadata": metadata, "spec": body, "status": status })).unwrap();
        let ports: Vec<Value> = spec["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|port| json!({ "name": port["name"], "port": 8080, "protocol": port["protocol"] }))
            .collect();
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(pod, node)| json!({ "addresses": [pod.ip], "nodeName": node, "conditions": { "ready": true } }))
            .collect();
        let slice = serde_json::from_value(json!({
            "metadata": { "namespace": "default", "name": name, "labels": { "kubernetes.io/service-name": name } },
            "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
        }))
        .unwrap();
        self.view.services.retain(|service| service.metadata.name.as_deref() != Some(&name));
        self.view.endpoint_slices.retain(|slice| slice.metadata.name.as_deref() != Some(&name));
        self.view.services.push(Arc::new(service));
        self.view.endpoint_slices.push(Arc::new(slice));
        self.publish();
    }
}
