//! Two sessions over an in-memory connection.

use std::time::Duration;

use galley_tunnel::{OpenError, SILENCE, Session, SessionEnd};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::time::timeout;

#[tokio::test]
async fn both_ends_open_streams_with_headers() {
    let (a, b) = duplex(64 * 1024);
    let (agent, mut to_agent) = Session::client(a);
    let (server, mut to_server) = Session::server(b);

    let mut up = agent.open("api").await.unwrap();
    up.write_all(b"hello").await.unwrap();
    up.shutdown().await.unwrap();
    let mut got = to_server.next().await.unwrap();
    assert_eq!(got.header, "api");
    let mut text = String::new();
    got.stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello");
    // The other direction of a half-closed stream still works.
    got.stream.write_all(b"and back").await.unwrap();
    got.stream.shutdown().await.unwrap();
    text.clear();
    up.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "and back");

    let mut down = server.open("dial 10.244.0.3:80").await.unwrap();
    let mut got = to_agent.next().await.unwrap();
    assert_eq!(got.header, "dial 10.244.0.3:80");
    got.stream.write_all(b"ok\n").await.unwrap();
    assert_eq!(galley_tunnel::read_line(&mut down).await.unwrap(), "ok");
}

#[tokio::test]
async fn a_reader_that_stops_holds_its_writer_and_nobody_else() {
    let (a, b) = duplex(16 * 1024);
    let (agent, _to_agent) = Session::client(a);
    let (_server, mut to_server) = Session::server(b);

    let mut slow = agent.open("slow").await.unwrap();
    let held = to_server.next().await.unwrap();
    let chunk = vec![7u8; 64 * 1024];
    let mut written = 0usize;
    while let Ok(result) = timeout(Duration::from_millis(200), slow.write_all(&chunk)).await {
        result.unwrap();
        written += chunk.len();
        assert!(written < 64 << 20, "the writer was never held back");
    }

    let mut quick = agent.open("quick").await.unwrap();
    quick.write_all(b"x").await.unwrap();
    quick.shutdown().await.unwrap();
    let mut got = to_server.next().await.unwrap();
    assert_eq!(got.header, "quick");
    let mut bytes = Vec::new();
    got.stream.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, b"x");

    drop(slow);
    let mut held = held.stream;
    let mut total = 0;
    let mut buffer = vec![0u8; 64 * 1024];
    while let Ok(n) = held.read(&mut buffer).await {
        if n == 0 {
            break;
        }
        total += n;
    }
    assert!(total > 0);
}

#[tokio::test]
async fn closing_ends_both_ends_and_says_why() {
    let (a, b) = duplex(64 * 1024);
    let (agent, mut to_agent) = Session::client(a);
    let (server, mut to_server) = Session::server(b);
    let mut open = agent.open("api").await.unwrap();
    let mut other = to_server.next().await.unwrap();

    server.close();
    assert!(to_agent.next().await.is_none());
    assert!(to_server.next().await.is_none());
    assert!(matches!(agent.ended().await, SessionEnd::ClosedByPeer));
    assert!(matches!(server.ended().await, SessionEnd::ClosedHere));
    assert!(matches!(agent.open("api").await, Err(OpenError::Ended(SessionEnd::ClosedByPeer))));
    let mut buffer = [0u8; 1];
    assert!(!matches!(open.read(&mut buffer).await, Ok(1)));
    assert!(!matches!(other.stream.read(&mut buffer).await, Ok(1)));
}

#[tokio::test]
async fn dropping_incoming_ends_the_session() {
    let (a, b) = duplex(64 * 1024);
    let (agent, to_agent) = Session::client(a);
    let (server, _to_server) = Session::server(b);
    drop(to_agent);
    assert!(matches!(agent.ended().await, SessionEnd::ClosedHere));
    assert!(matches!(server.ended().await, SessionEnd::ClosedByPeer));
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up() {
    let (a, _held_open) = duplex(64 * 1024);
    let (agent, mut to_agent) = Session::client(a);
    let started = tokio::time::Instant::now();
    assert!(to_agent.next().await.is_none());
    assert!(matches!(agent.ended().await, SessionEnd::Silent(_)));
    assert!(started.elapsed() >= SILENCE);
}

#[tokio::test]
async fn hundreds_of_streams_run_at_once() {
    let (a, b) = duplex(64 * 1024);
    let (agent, _to_agent) = Session::client(a);
    let (_server, mut to_server) = Session::server(b);
    tokio::spawn(async move {
        while let Some(mut got) = to_server.next().await {
            tokio::spawn(async move {
                let (mut r, mut w) = tokio::io::split(&mut got.stream);
                let _ = tokio::io::copy(&mut r, &mut w).await;
                let _ = w.shutdown().await;
            });
        }
    });
    let mut tasks = Vec::new();
    for n in 0..600u32 {
        let agent = agent.clone();
        tasks.push(tokio::spawn(async move {
            let mut stream = agent.open("echo").await.unwrap();
            let sent = n.to_be_bytes().repeat(500);
            stream.write_all(&sent).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut back = Vec::new();
            stream.read_to_end(&mut back).await.unwrap();
            assert_eq!(back, sent);
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}
