//! kill -9 in a storm of writes: nothing acknowledged is lost, and watches resume without a gap.
//!
//! The process that is killed is this test binary again, told by its environment what to be.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Stdio;

use galley_types::Revision;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::support::*;
use crate::testing::{Postgres, config};
use crate::*;

const URL: &str = "GALLEY_STORE_TEST_URL";
const CLUSTER: &str = "GALLEY_STORE_TEST_CLUSTER";
const FROM: &str = "GALLEY_STORE_TEST_FROM";
const ROUND: &str = "GALLEY_STORE_TEST_ROUND";
const CHILD: &str = "tests::crash::a_child_writes_until_it_is_killed";
/// Acknowledgements before each kill.
const STORM: usize = 300;
const ROUNDS: u64 = 4;

/// Says whole lines: a killed process says no half ones that count.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(format!("\n{line}\n").as_bytes());
    let _ = out.flush();
}

/// Does nothing unless the test below started it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_writes_until_it_is_killed() {
    let Ok(url) = std::env::var(URL) else { return };
    let variable = |name| std::env::var(name).expect("the parent sets it");
    // The same holder each time: it takes its shards back at once.
    let store = Store::open(config(&url, "child"), clock()).await.expect("opens");
    let info = store.cluster_by_id(&variable(CLUSTER)).await.expect("reads").expect("there");
    let cluster = store.cluster(info.id).await.expect("loads");
    let from = Revision(variable(FROM).parse().expect("a number"));
    let mut watch = cluster.watch(scope("pods", None), from).await.expect("resumes without a list");
    for writer in 0..32 {
        let (cluster, round) = (cluster.clone(), variable(ROUND));
        tokio::spawn(async move {
            for i in 0.. {
                let name = format!("p-{round}-{writer}-{i}");
                let object = cluster.commit(create("pods", "n", &name, "1")).await.expect("written");
                say(&format!("ACK {} {name}", object.revision));
            }
        });
    }
    loop {
        let event = next_event(&mut watch).await;
        say(&format!("EVENT {} {}", event.object.revision, event.object.key.name));
    }
}

#[tokio::test]
async fn kill_9_loses_nothing_acknowledged_and_watches_resume_without_a_gap() {
    let postgres = Postgres::start().expect("Postgres");
    let store = Store::open(config(&postgres.url(), "parent"), clock()).await.expect("opens");
    let id = store.cluster_for_test("a").await.expect("cluster").id();
    store.close().await;

    let mut acknowledged: BTreeMap<u64, String> = BTreeMap::new();
    let mut seen: BTreeMap<u64, String> = BTreeMap::new();
    for round in 0..ROUNDS {
        let from = seen.last_key_value().map_or(0, |(revision, _)| *revision);
        let mut child = tokio::process::Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", CHILD, "--nocapture"])
            .env(URL, postgres.url())
            .env(CLUSTER, id.to_string())
            .env(FROM, from.to_string())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut kill_after = STORM;
        while let Some(line) = lines.next_line().await.expect("reads") {
            let mut words = line.split(' ');
            let kind = words.next();
            if !matches!(kind, Some("ACK" | "EVENT")) {
                continue;
            }
            let revision: u64 = words.next().and_then(|word| word.parse().ok()).expect("a revision");
            let name = words.next().expect("a name").to_owned();
            if kind == Some("ACK") {
                assert_eq!(acknowledged.insert(revision, name), None, "a revision is given once");
                kill_after = kill_after.saturating_sub(1);
            } else {
                let last = seen.last_key_value().map_or(0, |(revision, _)| *revision);
                assert_eq!(revision, last + 1, "no gap, no duplicate, also across the kill");
                seen.insert(revision, name);
            }
            if kill_after == 0 {
                // SIGKILL. What it said before is still in the pipe.
                let _ = child.start_kill();
            }
        }
        child.wait().await.expect("ends");
        assert_eq!(kill_after, 0, "the child wrote until it was killed");
    }
    assert!(acknowledged.len() >= STORM * usize::try_from(ROUNDS).expect("small"));

    let store = Store::open(config(&postgres.url(), "child"), clock()).await.expect("opens");
    let cluster = store.cluster(id).await.expect("loads");
    let mut watch = cluster.watch(scope("pods", None), Revision(0)).await.expect("all of it");
    for revision in 1..=cluster.revision().0 {
        let event = next_event(&mut watch).await;
        assert_eq!(event.object.revision, Revision(revision));
        for told in [seen.get(&revision), acknowledged.get(&revision)].into_iter().flatten() {
            assert_eq!(**told, *event.object.key.name, "what was said at {revision} is what is there");
        }
    }
    for (revision, name) in acknowledged {
        let object = cluster.get(&ObjectKey::new(&"pods".into(), "n", &name)).expect("acknowledged, so there");
        assert_eq!(object.revision, Revision(revision));
    }
    store.close().await;
}
