//! The node's network, seen from its pods, from the nodes and from outside. Needs root.

mod lab;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::Duration;

use galley_node_net::Overlay;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use lab::{Lab, LabNode, Pod, eventually};
use serde_json::{Value, json};
use tokio::net::UdpSocket;

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 50);
const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

fn web(extra: Value) -> Value {
    let mut spec = json!({
        "name": "web", "type": "NodePort", "clusterIP": CLUSTER_IP,
        "ports": [
            { "name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080 },
            { "name": "dgram", "port": 80, "protocol": "UDP", "nodePort": 30080 },
        ],
    });
    for (key, value) in extra.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

fn greeter(node: &LabNode, greeting: &'static str) -> Pod {
    let pod = node.pod(greeting);
    pod.space.greet(8080, greeting);
    pod
}

/// Which greetings come back, and from whom they seem to have been asked.
fn greetings(from: &lab::Space, ip: Ipv4Addr, port: u16) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for _ in 0..24 {
        let text = from.ask(ip, port).unwrap();
        found.insert(text.split(' ').next().unwrap().to_owned());
    }
    found
}

fn ask_udp(from: &lab::Space, local_port: u16, ip: Ipv4Addr, port: u16) -> Option<String> {
    from.run(async {
        let socket = UdpSocket::bind(("0.0.0.0", local_port)).await.unwrap();
        socket.connect((ip, port)).await.unwrap();
        let mut buffer = [0; 64];
        socket.send(b"?").await.ok()?;
        let length = tokio::time::timeout(Duration::from_millis(500), socket.recv(&mut buffer)).await.ok()?.ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    })
}

fn resolve(from: &lab::Space, name: &str, record_type: RecordType) -> Message {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    let bytes = query.to_vec().unwrap();
    eventually("an answer", || {
        let (bytes, mut buffer) = (&bytes, vec![0; 2048]);
        from.run(async move {
            let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
            socket.connect((DNS, 53)).await.unwrap();
            socket.send(bytes).await.ok()?;
            let length = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut buffer)).await.ok()?.ok()?;
            Message::from_vec(&buffer[..length]).ok()
        })
    })
}

fn names(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(ToString::to_string).collect()
}

fn a_service_is_reached_from_everywhere(overlay: Overlay) {
    let mut lab = Lab::new(overlay);
    let (red, blue) = (greeter(&lab.a, "red"), greeter(&lab.b, "blue"));
    let client = lab.a.pod("client");
    lab.service(web(json!({})), json!({}), &[(&red, "a"), (&blue, "b")]);
    eventually("the Service answers", || client.space.ask(CLUSTER_IP, 80).ok());
    eventually("the Service answers on the other node", || lab.b.space.ask(CLUSTER_IP, 80).ok());

    let both = names(&["blue", "red"]);
    assert_eq!(greetings(&client.space, CLUSTER_IP, 80), both, "from a pod");
    assert_eq!(greetings(&red.space, CLUSTER_IP, 80), both, "from a pod that is an endpoint itself");
    assert_eq!(greetings(&lab.b.space, CLUSTER_IP, 80), both, "from a node");
    for node in [&lab.a, &lab.b] {
        assert_eq!(greetings(&lab.outside, node.ip, 30080), both, "from outside through a node port");
        assert_eq!(greetings(&client.space, node.ip, 30080), both, "from a pod through a node port");
        assert_eq!(greetings(&lab.a.space, node.ip, 30080), both, "from a node through a node port");
    }
    let seen = eventually("an answer of blue", || {
        client.space.ask(CLUSTER_IP, 80).ok().filter(|text| text.starts_with("blue"))
    });
    assert_eq!(seen, format!("blue {}", client.ip), "pods see each other's own addresses");
    assert_eq!(client.space.ask(blue.ip, 8080).unwrap(), format!("blue {}", client.ip));
    // Outside of the cluster nobody knows the way to a pod.
    lab.outside.greet(9090, "world");
    assert_eq!(client.space.ask(Ipv4Addr::new(10, 89, 7, 1), 9090).unwrap(), format!("world {}", lab.a.ip));

    // A port that the Service does not have, and an address that no Service has.
    assert_eq!(client.space.ask(CLUSTER_IP, 81), Err(ErrorKind::ConnectionRefused));

    // Without endpoints clients are told at once.
    lab.service(web(json!({})), json!({}), &[]);
    let refused = Err(ErrorKind::ConnectionRefused);
    eventually("pods are refused", || (client.space.ask(CLUSTER_IP, 80) == refused).then_some(()));
    eventually("nodes are refused", || (lab.b.space.ask(CLUSTER_IP, 80) == refused).then_some(()));
    eventually("the outside is refused", || (lab.outside.ask(lab.b.ip, 30080) == refused).then_some(()));
}

#[test]
fn a_service_is_reached_from_everywhere_over_vxlan() {
    a_service_is_reached_from_everywhere(Overlay::default());
}

#[test]
fn a_service_is_reached_from_everywhere_over_plain_routes() {
    a_service_is_reached_from_everywhere(Overlay::Routes);
}

#[test]
fn local_policies_keep_traffic_on_the_node_and_the_clients_address() {
    let mut lab = Lab::new(Overlay::default());
    let red = greeter(&lab.a, "red");
    let (near, far) = (lab.a.pod("near"), lab.b.pod("far"));
    let balancer = Ipv4Addr::new(10, 89, 9, 1);
    let spec = json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31999,
        "loadBalancerSourceRanges": ["10.244.0.0/16"],
    });
    let status = json!({ "loadBalancer": { "ingress": [{ "ip": balancer }] } });
    lab.service(web(spec), status, &[(&red, "a")]);
    eventually("the Service answers", || lab.outside.ask(lab.a.ip, 30080).ok());
    assert_eq!(lab.outside.ask(lab.a.ip, 30080).unwrap(), "red 10.89.7.1", "the client's address is kept");
    assert_eq!(lab.outside.ask(lab.b.ip, 30080), Err(ErrorKind::TimedOut), "a node without endpoints is silent");
    eventually("pods reach the balancer", || far.space.ask(balancer, 80).ok());
    lab.outside.ip(&format!("route add {balancer}/32 via {}", lab.a.ip));
    assert_eq!(lab.outside.ask(balancer, 80), Err(ErrorKind::TimedOut), "the source range keeps others out");

    let probe =
        |node: &LabNode| lab.outside.print(&format!("curl -s -m 5 -w %{{http_code}} http://{}:31999/", node.ip));
    assert!(
        eventually("a has endpoints", || Some(probe(&lab.a)).filter(|text| text.ends_with("200")))
            .contains("\"localEndpoints\":1")
    );
    eventually("b has none", || Some(probe(&lab.b)).filter(|text| text.ends_with("503")));

    lab.service(web(json!({ "internalTrafficPolicy": "Local" })), json!({}), &[(&red, "a")]);
    eventually("the far pod gets nothing", || {
        (far.space.ask(CLUSTER_IP, 80) == Err(ErrorKind::TimedOut)).then_some(())
    });
    assert!(near.space.ask(CLUSTER_IP, 80).unwrap().starts_with("red"));
}

#[test]
fn a_client_stays_with_its_endpoint_and_udp_flows_leave_one_that_is_gone() {
    let mut lab = Lab::new(Overlay::default());
    let (red, blue) = (greeter(&lab.a, "red"), greeter(&lab.b, "blue"));
    let client = lab.a.pod("client");
    lab.service(web(json!({ "sessionAffinity": "ClientIP" })), json!({}), &[(&red, "a"), (&blue, "b")]);
    eventually("the Service answers", || client.space.ask(CLUSTER_IP, 80).ok());
    assert_eq!(greetings(&client.space, CLUSTER_IP, 80).len(), 1);

    // One socket, so one flow: it must move when its endpoint goes.
    let first = eventually("a datagram is answered", || ask_udp(&client.space, 4444, CLUSTER_IP, 80));
    let (left, other) = if first == "red" { ((&blue, "b"), "blue") } else { ((&red, "a"), "red") };
    lab.service(web(json!({ "sessionAffinity": "ClientIP" })), json!({}), &[left]);
    eventually("the flow moved", || ask_udp(&client.space, 4444, CLUSTER_IP, 80).filter(|text| text == other));
    assert_eq!(greetings(&client.space, CLUSTER_IP, 80), names(&[other]));
}

#[test]
fn names_are_resolved_and_the_api_server_is_reached() {
    let mut lab = Lab::new(Overlay::default());
    let red = greeter(&lab.a, "red");
    let client = lab.b.pod("client");
    lab.service(web(json!({})), json!({}), &[(&red, "a")]);
    let headless =
        json!({ "name": "peers", "clusterIP": "None", "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }] });
    lab.service(headless, json!({}), &[(&red, "a")]);
    let outside =
        json!({ "name": "far", "type": "ExternalName", "externalName": "web.default.svc.cluster.local", "ports": [] });
    lab.service(outside, json!({}), &[]);

    let addresses = |name: &str| -> Vec<Ipv4Addr> {
        let answer = resolve(&client.space, name, RecordType::A);
        let records = answer.answers.iter().filter_map(|record| match &record.data {
            RData::A(ip) => Some(ip.0),
            _ => None,
        });
        records.collect()
    };
    eventually("the Service has a name", || {
        (addresses("web.default.svc.cluster.local.") == [CLUSTER_IP]).then_some(())
    });
    eventually("the headless Service has a name", || {
        (addresses("peers.default.svc.cluster.local.") == [red.ip]).then_some(())
    });
    eventually("the alias has a name", || (addresses("far.default.svc.cluster.local.") == [CLUSTER_IP]).then_some(()));
    let missing = resolve(&client.space, "nobody.default.svc.cluster.local.", RecordType::A);
    assert_eq!(missing.metadata.response_code.to_string(), "Non-Existent Domain");
    assert_eq!(missing.authorities.len(), 1);
    let service = resolve(&client.space, "_http._tcp.web.default.svc.cluster.local.", RecordType::SRV);
    assert!(matches!(&service.answers[0].data, RData::SRV(srv) if srv.port == 80));

    // Another name goes to the node's resolvers; there is one in the outside that says what it was asked.
    lab.outside.background(async {
        let socket = UdpSocket::bind("10.89.7.1:53").await.unwrap();
        let mut buffer = vec![0; 2048];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            let mut answer = Message::from_vec(&buffer[..length]).unwrap().into_response();
            let name = answer.queries[0].name().clone();
            let data = RData::A(hickory_proto::rr::rdata::A(Ipv4Addr::new(192, 0, 2, 7)));
            answer.add_answer(hickory_proto::rr::Record::from_rdata(name, 60, data));
            socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        }
    });
    lab.b.resolv_conf("nameserver 10.96.0.10\nnameserver 10.89.7.1\n");
    eventually("the outside is resolved", || {
        (addresses("example.org.") == [Ipv4Addr::new(192, 0, 2, 7)]).then_some(())
    });

    for port in [443, 6443] {
        assert_eq!(client.space.ask(Ipv4Addr::new(10, 96, 0, 1), port).unwrap(), "api");
        assert_eq!(lab.b.space.ask(Ipv4Addr::new(10, 96, 0, 1), port).unwrap(), "api");
    }
}

#[test]
fn a_restarted_agent_changes_nothing_and_cleanup_leaves_nothing() {
    let mut lab = Lab::new(Overlay::default());
    let red = greeter(&lab.a, "red");
    let client = lab.a.pod("client");
    lab.service(web(json!({ "sessionAffinity": "ClientIP" })), json!({}), &[(&red, "a")]);
    eventually("the Service answers", || client.space.ask(CLUSTER_IP, 80).ok());

    // Handles are numbers that the kernel gives to what it adds: equal means that nothing was written again.
    let before = lab.a.space.print("nft -a list ruleset");
    lab.a.space.stop_background();
    assert!(client.space.ask(CLUSTER_IP, 80).unwrap().starts_with("red"), "Services work without the agent");
    lab.a.start();
    lab.a.wait_ready();
    assert_eq!(strip_clients(&lab.a.space.print("nft -a list ruleset")), strip_clients(&before));

    // Somebody deletes the table: a change makes it whole again.
    lab.a.space.print("nft delete table ip galley-proxy");
    lab.service(web(json!({})), json!({}), &[(&red, "a")]);
    eventually("the table is back", || client.space.ask(CLUSTER_IP, 80).ok());

    lab.a.space.stop_background();
    lab.a.space.run(galley_node_net::cleanup(&lab.a.config));
    assert_eq!(lab.a.space.print("nft list ruleset"), "");
    let links = lab.a.space.print("ip -o link");
    assert!(!links.contains("galley"), "{links}");
    let routes = lab.a.space.print("ip route");
    assert!(!routes.contains("10.244."), "{routes}");
    assert!(!lab.a.config.cni_conf_dir.join("10-galley.conflist").exists());
}

/// Without the clients in affinity sets, whose times run.
fn strip_clients(ruleset: &str) -> String {
    ruleset.lines().filter(|line| !line.contains("expires")).collect::<Vec<_>>().join("\n")
}
