//! The kinds of load.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::StreamExt;
use memchr::{memchr, memmem};
use reqwest::Method;
use serde_json::{Value, json};

use crate::target::{Target, config_map, node, pod};

#[expect(clippy::disallowed_methods, reason = "a load generator measures wall time")]
pub fn now_microseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Names of one run differ from those of the next.
pub fn run_id() -> u64 {
    now_microseconds() % 100_000_000
}

fn quantile(sorted: &[u64], q: f64) -> f64 {
    match sorted.len() {
        0 => 0.0,
        n => sorted[((n - 1) as f64 * q) as usize] as f64 / 1000.0,
    }
}

/// What came of many requests.
#[derive(Debug, Default)]
pub struct Tally {
    microseconds: Vec<u64>,
    errors: usize,
    first_error: Option<String>,
}

impl Tally {
    /// Waits for an operation, and counts it.
    pub async fn time(&mut self, operation: impl Future<Output = Result<()>>) {
        let start = Instant::now();
        match operation.await {
            Ok(()) => self.done(start),
            Err(error) => {
                self.errors += 1;
                self.first_error.get_or_insert(format!("{error:#}"));
            }
        }
    }

    /// One more, begun at `start`.
    pub fn done(&mut self, start: Instant) {
        self.microseconds.push(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
    }

    /// How many failed.
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// What came of them, as it is printed.
    pub fn line(mut self, operation: &str, connections: usize, seconds: f64) -> Value {
        self.microseconds.sort_unstable();
        let done = self.microseconds.len();
        json!({
            "op": operation, "ops": done, "errors": self.errors, "first_error": self.first_error,
            "connections": connections, "s": seconds, "per_s": done as f64 / seconds,
            "p50": quantile(&self.microseconds, 0.5), "p99": quantile(&self.microseconds, 0.99),
        })
    }
}

/// Calls `work` for 0..count over so many connections at once.
pub async fn flood<F, Fut>(count: usize, connections: usize, work: F) -> Result<Tally>
where
    F: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..connections)
        .map(|_| {
            let (work, next) = (work.clone(), next.clone());
            tokio::spawn(async move {
                let mut tally = Tally::default();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return tally;
                    }
                    tally.time(work(number)).await;
                }
            })
        })
        .collect();
    let mut all = Tally::default();
    for worker in workers {
        let tally = worker.await?;
        all.microseconds.extend(tally.microseconds);
        all.errors += tally.errors;
        all.first_error = all.first_error.or(tally.first_error);
    }
    Ok(all)
}

/// Creates pods or ConfigMaps.
pub async fn create(target: &Target, kind: &str, count: usize, connections: usize) -> Result<Value> {
    let (run, start, pods) = (run_id(), Instant::now(), kind == "pod");
    let path = target.core(if pods { "pods" } else { "configmaps" });
    let target = target.clone();
    let tally = flood(count, connections, move |number| {
        let (target, path) = (target.clone(), path.clone());
        async move {
            let name = format!("b{run}-{number}");
            let body = if pods { pod(&name, "basic", number) } else { config_map(&name, now_microseconds()) };
            target.post(&path, &body).await
        }
    });
    let tally = tally.await?;
    Ok(tally.line(&format!("create {kind}"), connections, start.elapsed().as_secs_f64()))
}

/// Creates clusters, each until its own API answers.
pub async fn clusters(target: &Target, count: usize, connections: usize) -> Result<Value> {
    let (run, start) = (run_id(), Instant::now());
    let target = target.clone();
    let tally = flood(count, connections, move |number| {
        let target = target.clone();
        async move {
            let made = target.make("/v1/clusters", &json!({"name": format!("idle-{run}-{number}")})).await?;
            let id = made["id"].as_str().context("the answer has no id")?;
            // Anybody may ask for the version; the tenant's token is none of the cluster's.
            target.anonymous(Method::GET, &format!("/clusters/{id}/version")).send().await?.error_for_status()?;
            Ok(())
        }
    });
    let tally = tally.await?;
    Ok(tally.line("clusters", connections, start.elapsed().as_secs_f64()))
}

/// Puts ConfigMaps into etcd.
pub async fn etcd_put(target: &Target, count: usize, connections: usize) -> Result<Value> {
    let (run, start) = (run_id(), Instant::now());
    let target = target.clone();
    let tally = flood(count, connections, move |number| {
        let target = target.clone();
        async move {
            let name = format!("b{run}-{number}");
            let value = BASE64_STANDARD.encode(config_map(&name, now_microseconds()).to_string());
            let key = BASE64_STANDARD.encode(format!("/registry/configmaps/default/{name}"));
            target.post("/v3/kv/put", &json!({"key": key, "value": value})).await
        }
    });
    let tally = tally.await?;
    Ok(tally.line("etcd put", connections, start.elapsed().as_secs_f64()))
}

/// Reads one path.
pub async fn get(target: &Target, path: &str, count: usize, connections: usize) -> Result<Value> {
    let bytes = Arc::new(AtomicUsize::new(0));
    let (start, total, target, path) = (Instant::now(), bytes.clone(), target.clone(), path.to_owned());
    let tally = flood(count, connections, move |_| {
        let (target, path, bytes) = (target.clone(), path.clone(), bytes.clone());
        async move {
            let answer = target.request(Method::GET, &path).send().await?.error_for_status()?;
            bytes.fetch_add(answer.bytes().await?.len(), Ordering::Relaxed);
            Ok(())
        }
    });
    let tally = tally.await?;
    let seconds = start.elapsed().as_secs_f64();
    let mut line = tally.line("get", connections, seconds);
    line["mb_per_s"] = json!(total.load(Ordering::Relaxed) as f64 / 1e6 / seconds);
    Ok(line)
}

/// Feeds each line of a watch to `line` until it says so.
async fn read_lines(answer: reqwest::Response, mut line: impl FnMut(&[u8]) -> bool) -> Result<bool> {
    let mut chunks = answer.bytes_stream();
    let mut buffer: Vec<u8> = Vec::new();
    while let Some(chunk) = chunks.next().await {
        buffer.extend_from_slice(&chunk?);
        let mut start = 0;
        while let Some(length) = memchr(b'\n', &buffer[start..]) {
            if line(&buffer[start..start + length]) {
                return Ok(true);
            }
            start += length + 1;
        }
        buffer.drain(..start);
    }
    Ok(false)
}

/// Watches ConfigMaps many times while they are written.
pub async fn watch(target: &Target, watchers: usize, writes: usize, connections: usize) -> Result<Value> {
    let path = target.core("configmaps");
    let from = target.revision(&path).await?;
    let url = format!("{path}?watch=1&resourceVersion={from}");
    let (seen, ready) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let readers: Vec<_> = (0..watchers)
        .map(|_| {
            let (target, url, seen, ready) = (target.clone(), url.clone(), seen.clone(), ready.clone());
            tokio::spawn(async move {
                let answer = target.request(Method::GET, &url).send().await?.error_for_status()?;
                ready.fetch_add(1, Ordering::Relaxed);
                let mut lags = Vec::new();
                read_lines(answer, |line| {
                    let written = memmem::find(line, b"\"t\":\"")
                        .and_then(|at| std::str::from_utf8(line.get(at + 5..at + 21)?).ok()?.parse::<u64>().ok());
                    if let Some(written) = written {
                        lags.push(now_microseconds().saturating_sub(written));
                        seen.fetch_add(1, Ordering::Relaxed);
                    }
                    lags.len() >= writes
                })
                .await?;
                anyhow::Ok(lags)
            })
        })
        .collect();
    settle(Duration::from_secs(30), || ready.load(Ordering::Relaxed) == watchers).await;
    let (run, start, writer) = (run_id(), Instant::now(), target.clone());
    let tally = flood(writes, connections, move |number| {
        let (target, path) = (writer.clone(), path.clone());
        async move { target.post(&path, &config_map(&format!("w{run}-{number}"), now_microseconds())).await }
    });
    let tally = tally.await?;
    let written = start.elapsed().as_secs_f64();
    let wanted = watchers * writes;
    settle(Duration::from_secs(60), || seen.load(Ordering::Relaxed) >= wanted).await;
    let seconds = start.elapsed().as_secs_f64();
    let mut lags = Vec::new();
    for reader in readers {
        if let Ok(done) = tokio::time::timeout(Duration::from_secs(5), reader).await {
            lags.extend(done??);
        }
    }
    lags.sort_unstable();
    let events = seen.load(Ordering::Relaxed);
    let mut line = tally.line("watch", connections, written);
    line["watchers"] = json!(watchers);
    line["events"] = json!(events);
    line["events_wanted"] = json!(wanted);
    line["events_per_s"] = json!(events as f64 / seconds);
    line["lag_p50"] = json!(quantile(&lags, 0.5));
    line["lag_p99"] = json!(quantile(&lags, 0.99));
    Ok(line)
}

async fn settle(limit: Duration, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() && start.elapsed() < limit {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Creates nodes and pods, and waits until the pods are bound.
pub async fn schedule(target: &Target, nodes: usize, pods: usize, connections: usize, shape: &str) -> Result<Value> {
    let maker = target.clone();
    let made = flood(nodes, connections, move |number| {
        let target = maker.clone();
        async move {
            let name = format!("bench-node-{number}");
            let node = node(&name, number);
            match target.post("/api/v1/nodes", &node).await {
                Err(error) if error.to_string().starts_with("409") => {}
                other => other?,
            }
            let (path, status) = (format!("/api/v1/nodes/{name}/status"), json!({"status": node["status"]}));
            target.send(Method::PATCH, &path, "application/merge-patch+json", &status).await
        }
    });
    let made = made.await?;
    anyhow::ensure!(made.errors == 0, "nodes: {:?}", made.first_error);
    let path = target.core("pods");
    let from = target.revision(&path).await?;
    let (run, bound) = (run_id(), Arc::new(AtomicUsize::new(0)));
    let (watcher, count, prefix) = (target.clone(), bound.clone(), format!("\"name\":\"s{run}-"));
    let url = format!("{path}?watch=1&resourceVersion={from}");
    let watch = tokio::spawn(async move {
        let mut names: HashSet<Vec<u8>> = HashSet::new();
        // A server may refuse or close a watch: it is opened again from the same revision.
        while names.len() < pods {
            let answer = watcher.request(Method::GET, &url).send().await?;
            if !answer.status().is_success() {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            read_lines(answer, |line| {
                if memmem::find(line, b"\"nodeName\":\"").is_some()
                    && let Some(at) = memmem::find(line, prefix.as_bytes())
                {
                    let rest = &line[at + prefix.len()..];
                    names.insert(rest[..memchr(b'"', rest).unwrap_or(rest.len())].to_vec());
                    count.store(names.len(), Ordering::Relaxed);
                }
                names.len() >= pods
            })
            .await?;
        }
        anyhow::Ok(())
    });
    let (start, maker, shape_name) = (Instant::now(), target.clone(), shape.to_owned());
    let tally = flood(pods, connections, move |number| {
        let (target, path, shape) = (maker.clone(), path.clone(), shape_name.clone());
        async move { target.post(&path, &pod(&format!("s{run}-{number}"), &shape, number)).await }
    });
    let tally = tally.await?;
    let created = start.elapsed().as_secs_f64();
    // Past the limit the line says how many were bound by then.
    let _ = tokio::time::timeout(Duration::from_secs(180), watch).await;
    let seconds = start.elapsed().as_secs_f64();
    let bound = bound.load(Ordering::Relaxed);
    let mut line = tally.line(&format!("schedule {shape}"), connections, created);
    line["nodes"] = json!(nodes);
    line["bound"] = json!(bound);
    line["bound_per_s"] = json!(bound as f64 / seconds);
    Ok(line)
}

/// Creates a Deployment and waits for its pods.
pub async fn rollout(target: &Target, replicas: usize) -> Result<Value> {
    let name = format!("d{}", run_id());
    let labels = json!({"r": name});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "c", "image": "galley.dev/pause:1"}]},
        }},
    });
    let start = Instant::now();
    let path = target.apps("deployments");
    target.post(&path, &deployment).await.context("create the Deployment")?;
    let mut pods = 0;
    while pods < replicas && start.elapsed() < Duration::from_secs(170) {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let seen = target.get(&format!("{path}/{name}")).await?;
        pods = usize::try_from(seen["status"]["replicas"].as_u64().unwrap_or(0)).unwrap_or(0);
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(json!({"op": "rollout", "replicas": replicas, "pods": pods, "s": seconds, "per_s": pods as f64 / seconds}))
}
