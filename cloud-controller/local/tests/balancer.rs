//! Load balancers over nodes that are loopback addresses of this machine. Needs no root.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use galley_cloud::{
    CloudError, HealthCheck, Listener, LoadBalancer, LoadBalancerName, LoadBalancers, Protocol, Target,
};
use galley_cloud_local::{BalancerConfig, LocalBalancers, Rhythm};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::AbortHandle;

const PATIENCE: Duration = Duration::from_secs(20);

/// Addresses of this test process: another test at the same time must not listen on them.
fn octet() -> u8 {
    u8::try_from(std::process::id() % 200).unwrap() + 20
}

fn open(directory: &Path) -> LocalBalancers {
    LocalBalancers::open(BalancerConfig {
        range: format!("127.{}.255.0/29", octet()).parse().unwrap(),
        link: None,
        file: directory.join("balancers.json"),
        rhythm: Rhythm { interval: Duration::from_millis(20), timeout: Duration::from_secs(1), failures: 2 },
        drain: Duration::from_millis(100),
    })
    .unwrap()
}

/// A node that says its number, and then echoes.
struct TestNode {
    target: Target,
    task: AbortHandle,
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn node(number: u8, port: u16) -> TestNode {
    let address = Ipv4Addr::new(127, octet(), 0, number);
    let (tcp, udp) =
        (TcpListener::bind((address, port)).await.unwrap(), UdpSocket::bind((address, port)).await.unwrap());
    let task = tokio::spawn(async move {
        let mut buffer = [0; 16];
        let mut conversations = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                Ok((mut stream, _)) = tcp.accept() => {
                    conversations.spawn(async move {
                        let _ = stream.write_u8(number).await;
                        let (mut read, mut write) = stream.split();
                        let _ = tokio::io::copy(&mut read, &mut write).await;
                    });
                }
                Ok((_, client)) = udp.recv_from(&mut buffer) => {
                    let _ = udp.send_to(&[number], client).await;
                }
            }
        }
    });
    TestNode { target: Target { node: format!("node-{number}"), address }, task: task.abort_handle() }
}

fn balancer(service: &str, port: u16, nodes: &[&TestNode]) -> LoadBalancer {
    LoadBalancer {
        name: LoadBalancerName { cluster: "c".into(), namespace: "default".into(), service: service.into() },
        listeners: [Protocol::Tcp, Protocol::Udp]
            .map(|protocol| Listener { protocol, port: 8080, node_port: port })
            .into(),
        targets: nodes.iter().map(|node| node.target.clone()).collect(),
        health: HealthCheck::Tcp { port },
        source_ranges: Vec::new(),
        wanted_address: None,
    }
}

async fn ask(ip: Ipv4Addr) -> std::io::Result<u8> {
    TcpStream::connect((ip, 8080)).await?.read_u8().await
}

async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("never: {what}"))
}

async fn answering(ip: Ipv4Addr) -> BTreeSet<u8> {
    let mut found = BTreeSet::new();
    for _ in 0..8 {
        found.extend(ask(ip).await.ok());
    }
    found
}

#[tokio::test]
async fn connections_go_to_healthy_nodes_and_are_drained_from_others() {
    let directory = tempfile::tempdir().unwrap();
    let balancers = open(directory.path());
    let (one, two) = (node(1, 31001).await, node(2, 31001).await);
    let mut wanted = balancer("web", 31001, &[&one, &two]);
    let ip = balancers.load_balancer_ensure(&wanted).await.unwrap().ip;
    assert_eq!(answering(ip).await, [1, 2].into());

    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    udp.connect((ip, 8080)).await.unwrap();
    let mut buffer = [0; 16];
    eventually("a datagram is answered", async || {
        udp.send(b"?").await.ok()?;
        tokio::time::timeout(Duration::from_millis(200), udp.recv(&mut buffer)).await.ok()?.ok()
    })
    .await;

    // A node dies: nobody notices.
    drop(one);
    eventually("the dead node is found", async || (answering(ip).await == [2].into()).then_some(())).await;
    let one = node(1, 31001).await;
    eventually("it is well again", async || (answering(ip).await == [1, 2].into()).then_some(())).await;

    // A node is taken out: its connections may end, and are cut after a while.
    let mut stream = TcpStream::connect((ip, 8080)).await.unwrap();
    let kept = stream.read_u8().await.unwrap();
    wanted.targets.retain(|target| target.node != format!("node-{kept}"));
    assert_eq!(balancers.load_balancer_ensure(&wanted).await.unwrap().ip, ip);
    assert_eq!(answering(ip).await, [3 - kept].into());
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x', "it still talks");
    assert!(tokio::time::timeout(PATIENCE, stream.read_u8()).await.unwrap().is_err(), "it is cut in the end");

    wanted.source_ranges = vec!["192.0.2.0/24".parse().unwrap()];
    balancers.load_balancer_ensure(&wanted).await.unwrap();
    assert!(ask(ip).await.is_err(), "others are kept out");
    drop(one);
}

#[tokio::test]
async fn an_address_is_kept_over_a_restart_and_given_again_after_deletion() {
    let directory = tempfile::tempdir().unwrap();
    let node = node(3, 31002).await;
    let (web, mut other) = (balancer("web", 31002, &[&node]), balancer("other", 31002, &[&node]));
    let balancers = open(directory.path());
    other.wanted_address = Some(Ipv4Addr::new(127, octet(), 255, 4));
    assert_eq!(Some(balancers.load_balancer_ensure(&other).await.unwrap().ip), other.wanted_address);
    let ip = balancers.load_balancer_ensure(&web).await.unwrap().ip;
    drop(balancers);

    let balancers = open(directory.path());
    assert_eq!(balancers.load_balancer_list().await.unwrap(), [other.name.clone(), web.name.clone()]);
    let again = eventually("the port is free", async || balancers.load_balancer_ensure(&web).await.ok()).await;
    assert_eq!(again.ip, ip);
    assert_eq!(ask(ip).await.unwrap(), 3);

    balancers.load_balancer_delete(&web.name).await.unwrap();
    balancers.load_balancer_delete(&web.name).await.unwrap();
    let refused = async || ask(ip).await.err().filter(|error| error.kind() == ErrorKind::ConnectionRefused);
    eventually("nobody listens", refused).await;

    // Six addresses, one of them taken.
    for number in 0..5 {
        balancers.load_balancer_ensure(&balancer(&format!("s{number}"), 31002, &[&node])).await.unwrap();
    }
    let refused = balancers.load_balancer_ensure(&web).await.unwrap_err();
    assert!(matches!(refused, CloudError::Quota { .. }), "{refused}");
    let mut foreign = balancer("foreign", 31002, &[&node]);
    foreign.wanted_address = Some(Ipv4Addr::new(192, 0, 2, 1));
    assert!(matches!(balancers.load_balancer_ensure(&foreign).await, Err(CloudError::Invalid { .. })));
}
