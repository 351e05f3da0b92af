//! Two SPDY ends over an in-memory connection.

use galley_streams::spdy::{Connection, Headers, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

#[tokio::test]
async fn streams_carry_headers_bytes_and_half_closes() {
    let (a, b) = duplex(64 * 1024);
    let (client, _none) = Connection::start(a, Role::Client);
    let (server, mut incoming) = Connection::start(b, Role::Server);
    let mut ours = client.open(Headers::new([("streamType", "stdin")])).await.unwrap();
    ours.write_all(b"to the server").await.unwrap();
    ours.shutdown().await.unwrap();
    let mut theirs = incoming.next().await.unwrap();
    assert_eq!(theirs.headers().get("streamType"), Some("stdin"));
    let mut text = String::new();
    theirs.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "to the server");
    theirs.write_all(b"and back").await.unwrap();
    theirs.shutdown().await.unwrap();
    text.clear();
    ours.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "and back");
    drop((ours, theirs));
    server.close().await;
    client.ended().await;
}

#[tokio::test]
async fn a_dropped_stream_ends_its_peer_and_closing_loses_nothing() {
    let (a, b) = duplex(1024);
    let (client, _none) = Connection::start(a, Role::Client);
    let (server, mut incoming) = Connection::start(b, Role::Server);
    let dropped = client.open(Headers::default()).await.unwrap();
    let mut theirs = incoming.next().await.unwrap();
    drop(dropped);
    assert_eq!(theirs.read(&mut [0; 8]).await.unwrap(), 0);
    assert!(theirs.write_all(b"x").await.is_err());

    let mut ours = client.open(Headers::default()).await.unwrap();
    let mut theirs = incoming.next().await.unwrap();
    let sent = vec![42u8; 300_000];
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        theirs.write_all(&sent).await.unwrap();
        theirs.shutdown().await.unwrap();
        server.close().await;
    });
    let mut got = Vec::new();
    ours.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, expected);
    drop((ours, client));
    writer.await.unwrap();
}

#[tokio::test]
async fn pings_are_answered_and_nonsense_ends_the_connection() {
    let (mut raw, b) = duplex(4096);
    let (server, _incoming) = Connection::start(b, Role::Server);
    raw.write_all(&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 9]).await.unwrap();
    let mut pong = [0; 12];
    raw.read_exact(&mut pong).await.unwrap();
    assert_eq!(pong, [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 9]);
    raw.write_all(b"\x80\x02 not spdy").await.unwrap();
    assert!(matches!(server.ended().await, galley_streams::spdy::SpdyEnd::Failed(_)));
}
