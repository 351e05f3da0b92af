//! What one tenant's noise costs another: a quiet tenant's latencies alone, and beside a storm on another tenant's cluster.
//!
//! The storm is a process of its own, at the lowest priority: it takes what is left of the machine, so that what is measured is
//! the server and not the generator.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

use crate::load::{Tally, flood, now_microseconds, run_id};
use crate::target::{Target, config_map};

/// Objects of the noisy tenant: what each of its lists is made of.
const NOISY_OBJECTS: usize = 5000;
/// Objects of the quiet tenant.
const QUIET_OBJECTS: usize = 50;
/// A quiet tenant's next round of requests begins so long after the last.
const PACE: Duration = Duration::from_millis(20);
/// The text in a large object: almost the MiB that a ConfigMap may hold in all.
const LARGE: usize = (1 << 20) - 1024;
/// Those of the storm's fifty clients that write large objects.
const LARGE_CLIENTS: std::ops::Range<usize> = 20..30;
/// A slow watcher reads one piece in this time.
const SLOW: Duration = Duration::from_millis(500);

/// Measures. The storm is fifty clients that never pause; the quiet tenant is one.
pub async fn noisy(quiet: &Target, noisy: (&str, &str), seconds: u64) -> Result<Value> {
    let maps = quiet.core("configmaps");
    let (run, owner, path) = (run_id(), quiet.clone(), maps.clone());
    let made = flood(QUIET_OBJECTS, 4, move |number| {
        let (target, path) = (owner.clone(), path.clone());
        async move { target.post(&path, &config_map(&format!("q{run}-{number}"), now_microseconds())).await }
    });
    let made = made.await?;
    ensure!(made.errors() == 0, "the quiet tenant's objects: {made:?}");
    // What is measured is not the first of its kind.
    measure(quiet, run, Duration::from_secs(2)).await?;
    let alone = measure(quiet, run, Duration::from_secs(seconds)).await?;
    let mut storm = Command::new("nice")
        .arg("-n19")
        .arg(std::env::current_exe()?)
        .args(["--server", noisy.0, "--token", noisy.1, "storm"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("start the storm")?;
    let mut told = BufReader::new(storm.stdout.take().context("the storm's output")?);
    let mut line = String::new();
    told.read_line(&mut line).await?;
    ensure!(line.trim() == "storming", "the storm did not begin: {line:?}");
    let beside = measure(quiet, run, Duration::from_secs(seconds)).await?;
    // It ends when its input does, and says what it did.
    drop(storm.stdin.take());
    let mut did = String::new();
    told.read_to_string(&mut did).await?;
    ensure!(storm.wait().await?.success(), "the storm failed");
    let storm: Value = serde_json::from_str(did.trim()).context("what the storm did")?;
    for work in ["lists_per_s", "large_per_s", "creates_per_s"] {
        ensure!(storm[work].as_f64().is_some_and(|rate| rate > 0.0), "the storm had none of {work}: {storm}");
    }
    let mut line = json!({"op": "noisy", "storm": storm, "errors": 0});
    for (alone, beside) in alone.into_iter().zip(beside) {
        let (operation, alone) = alone;
        let (_, beside) = beside;
        ensure!(alone.errors() + beside.errors() == 0, "{operation}: {alone:?} {beside:?}");
        let (alone, beside) = (alone.line(operation, 1, 1.0), beside.line(operation, 1, 1.0));
        let ratio = beside["p99"].as_f64().unwrap_or(0.0) / alone["p99"].as_f64().unwrap_or(1.0);
        line[operation] = json!({"ops": beside["ops"], "alone_p50": alone["p50"], "alone_p99": alone["p99"],
            "p50": beside["p50"], "p99": beside["p99"], "ratio": ratio});
    }
    Ok(line)
}

/// A quiet tenant's GETs, creates and small lists, one after the other at its pace.
async fn measure(target: &Target, run: u64, duration: Duration) -> Result<Vec<(&'static str, Tally)>> {
    let maps = target.core("configmaps");
    let one = format!("{maps}/q{run}-0");
    let part = run_id();
    let mut tallies = [Tally::default(), Tally::default(), Tally::default()];
    let (start, mut number) = (Instant::now(), 0);
    while start.elapsed() < duration {
        tokio::time::sleep(PACE).await;
        number += 1;
        let [get, create, list] = &mut tallies;
        get.time(read(target, &one)).await;
        let body = config_map(&format!("m{part}-{number}"), now_microseconds());
        create.time(target.post(&maps, &body)).await;
        list.time(read(target, &format!("{maps}?limit=50"))).await;
    }
    Ok(["get", "create", "list"].into_iter().zip(tallies).collect())
}

async fn read(target: &Target, path: &str) -> Result<()> {
    target.request(Method::GET, path).send().await?.error_for_status()?.bytes().await?;
    Ok(())
}

/// Fifty clients: lists of everything, large objects, small ones, and watches that are hardly read. Until standard input ends.
pub async fn storm(target: &Target) -> Result<Value> {
    let maps = target.core("configmaps");
    let (run, maker, path) = (run_id(), target.clone(), maps.clone());
    let made = flood(NOISY_OBJECTS, 32, move |number| {
        let (target, path) = (maker.clone(), path.clone());
        async move { target.post(&path, &config_map(&format!("n{run}-{number}"), now_microseconds())).await }
    });
    ensure!(made.await?.errors() == 0, "the noisy tenant's objects");
    // Written over and over from then on. Here, so that one that can never be written is no refusal of the storm.
    for client in LARGE_CLIENTS {
        target.post(&maps, &large(&format!("large-{run}-{client}"), 0)).await.context("a large object")?;
    }
    let done: [Arc<AtomicUsize>; 4] = Default::default();
    let refused = Arc::new(AtomicUsize::new(0));
    for client in 0..50 {
        let (target, maps, refused) = (target.clone(), maps.clone(), refused.clone());
        let kind = match client {
            0..20 => 0,
            client if LARGE_CLIENTS.contains(&client) => 1,
            30..40 => 2,
            _ => 3,
        };
        let count = done[kind].clone();
        tokio::spawn(async move {
            let mut number = 0;
            loop {
                number += 1;
                let name = format!("s{run}-{client}-{number}");
                let answer = match kind {
                    0 => read(&target, &maps).await,
                    1 => {
                        let name = format!("large-{run}-{client}");
                        let body = large(&name, number);
                        target.send(Method::PUT, &format!("{maps}/{name}"), "application/json", &body).await
                    }
                    2 => target.post(&maps, &config_map(&name, now_microseconds())).await,
                    _ => slow_watch(&target, &maps).await,
                };
                match answer {
                    Ok(()) => count.fetch_add(1, Ordering::Relaxed),
                    // Refused or cut off: as noisy tenants do, it tries again.
                    Err(_) => refused.fetch_add(1, Ordering::Relaxed),
                };
            }
        });
    }
    let start = Instant::now();
    println!("storming");
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    let seconds = start.elapsed().as_secs_f64();
    let rate = |kind: usize| done[kind].load(Ordering::Relaxed) as f64 / seconds;
    Ok(json!({"lists_per_s": rate(0), "large_per_s": rate(1), "creates_per_s": rate(2), "slow_watches": 10,
        "refused_per_s": refused.load(Ordering::Relaxed) as f64 / seconds}))
}

/// A large ConfigMap, which differs by its number.
fn large(name: &str, number: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": {"k": "v".repeat(LARGE), "number": number.to_string()}})
}

async fn slow_watch(target: &Target, maps: &str) -> Result<()> {
    let answer = target.request(Method::GET, &format!("{maps}?watch=1")).send().await?.error_for_status()?;
    let mut pieces = answer.bytes_stream();
    while let Some(piece) = pieces.next().await {
        piece?;
        tokio::time::sleep(SLOW).await;
    }
    Ok(())
}
