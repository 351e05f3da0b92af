//! Clients that do not read: what the server keeps for them, and how they go on.

use std::collections::BTreeSet;

use bytes::Bytes;
use galley_store::{ClusterStore, Write, testing};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use super::support::{FrontDoor, TestCluster, front_door};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SIZE: usize = 100_000;
/// More than any socket takes, and than a log keeps.
const COUNT: usize = 400;

/// Writes large ConfigMaps, past the API: they are to be read.
async fn fill(store: &ClusterStore, names: std::ops::Range<usize>) {
    let write = |number: usize| {
        let object = json!({"kind": "ConfigMap", "apiVersion": "v1",
            "metadata": {"name": format!("c{number}"), "namespace": "default", "uid": "u"}});
        let mut draft = testing::draft("configmaps", &object, &[]);
        draft.tail = [draft.tail.as_ref(), &vec![b' '; SIZE]].concat().into();
        Write::Create(draft)
    };
    for number in names {
        store.commit(write(number)).await.expect("written");
    }
}

/// A connection that sends requests one after another, or at once, as the protocol has it.
enum Client {
    One(hyper::client::conn::http1::SendRequest<Empty<Bytes>>),
    Two(hyper::client::conn::http2::SendRequest<Empty<Bytes>>),
}

impl Client {
    async fn new(cluster: &TestCluster<'_>, second: bool) -> Self {
        let admin = cluster.credential("admin", "system:masters");
        let io = cluster.door.connect(&cluster.host(), cluster.authority.certificate(), Some(&admin)).await.unwrap();
        let io = TokioIo::new(io);
        if second {
            let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            Self::Two(sender)
        } else {
            let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            Self::One(sender)
        }
    }

    async fn get(&mut self, host: &str, path: &str) -> Incoming {
        let uri = match self {
            Self::One(_) => path.to_owned(),
            Self::Two(_) => format!("https://{host}{path}"),
        };
        let request = Request::builder().uri(uri).header("host", host).body(Empty::new()).unwrap();
        let response = match self {
            Self::One(sender) => sender.send_request(request).await,
            Self::Two(sender) => sender.send_request(request).await,
        };
        let response = response.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body()
    }
}

async fn cluster(door: &FrontDoor) -> TestCluster<'_> {
    let token = door.tenant("acme").await;
    door.cluster(&token, "shop").await
}

#[tokio::test]
async fn a_list_is_made_as_it_is_read() {
    let door = front_door().await;
    let cluster = cluster(&door).await;
    let store = door.store.cluster(cluster.info.id).await.unwrap();
    fill(&store, 0..COUNT).await;
    let whole = u64::try_from(SIZE * COUNT).unwrap();
    for second in [false, true] {
        let before = door.flow.stats().sent;
        let mut client = Client::new(&cluster, second).await;
        let mut body = client.get(&cluster.host(), MAPS).await;
        let first = body.frame().await.unwrap().unwrap();
        // The server had every chance to go on: it has answered other requests meanwhile.
        let mut other = Client::new(&cluster, second).await;
        for _ in 0..20 {
            other.get(&cluster.host(), "/api/v1/namespaces/default").await.collect().await.unwrap();
        }
        // What two sockets and one window take.
        let sent = door.flow.stats().sent - before;
        assert!(sent < whole / 2, "HTTP/2: {second}: {sent} bytes of {whole} were made for who does not read");
        let rest = body.collect().await.unwrap().to_bytes();
        let text = [first.into_data().unwrap(), rest].concat();
        let list: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(list["items"].as_array().map(Vec::len), Some(COUNT));
        assert!(door.flow.stats().sent - before >= whole);
    }
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_cut_off_and_resumes() {
    let door = front_door().await;
    let cluster = cluster(&door).await;
    let store = door.store.cluster(cluster.info.id).await.unwrap();
    let mut version = store.revision().0;
    let path = |version: u64| format!("{MAPS}?watch=true&resourceVersion={version}");
    for second in [false, true] {
        let mut client = Client::new(&cluster, second).await;
        let slow = client.get(&cluster.host(), &path(version)).await;
        let names = if second { COUNT..2 * COUNT } else { 0..COUNT };
        fill(&store, names.clone()).await;
        let mut seen = BTreeSet::new();
        // It ends as a watch does whose time is over: no error.
        let read = slow.collect().await.expect("a clean end").to_bytes();
        take(&read, &mut version, &mut seen);
        assert!(seen.len() < COUNT, "HTTP/2: {second}: it was cut off");
        let mut client = Client::new(&cluster, second).await;
        let mut resumed = client.get(&cluster.host(), &path(version)).await;
        let mut buffer = Vec::new();
        while seen.len() < COUNT {
            let frame = resumed.frame().await.expect("it goes on").unwrap();
            buffer.extend_from_slice(&frame.into_data().unwrap());
            let whole = buffer.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            take(&buffer.drain(..whole).collect::<Vec<_>>(), &mut version, &mut seen);
        }
        assert_eq!(seen, names.map(|number| format!("c{number}")).collect(), "each once");
    }
}

/// Reads events: the newest version, and whom they are about.
fn take(lines: &[u8], version: &mut u64, seen: &mut BTreeSet<String>) {
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let event: Value = serde_json::from_slice(line).unwrap();
        let metadata = &event["object"]["metadata"];
        *version = metadata["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert_eq!(event["type"], "ADDED", "{event}");
        assert!(seen.insert(metadata["name"].as_str().unwrap().to_owned()), "{} comes twice", metadata["name"]);
    }
}
