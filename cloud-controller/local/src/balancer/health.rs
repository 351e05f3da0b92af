//! Which nodes get new connections.
//!
//! A node is taken out after some failed checks in a row, and comes back after one good one. When none is well, all are tried: a check
//! that is wrong must not take the Service down.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use galley_cloud::HealthCheck;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::Settings;

/// How often nodes are checked, and what counts.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    pub interval: Duration,
    pub timeout: Duration,
    /// Failures in a row that take a node out.
    pub failures: u32,
}

impl Default for Rhythm {
    /// A dead node is noticed within three seconds; a cloud's balancer takes thirty.
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), timeout: Duration::from_secs(1), failures: 2 }
    }
}

/// The nodes' health, kept up to date by a task that ends with the last copy.
#[derive(Clone)]
pub struct Health {
    shared: Arc<Shared>,
}

struct Shared {
    settings: watch::Receiver<Settings>,
    failures: Arc<Mutex<BTreeMap<Ipv4Addr, u32>>>,
    limit: u32,
    turn: AtomicUsize,
    task: AbortHandle,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Health {
    pub fn start(settings: watch::Receiver<Settings>, rhythm: Rhythm) -> Self {
        let failures = Arc::new(Mutex::new(BTreeMap::new()));
        let task = tokio::spawn(check_all(settings.clone(), failures.clone(), rhythm)).abort_handle();
        let shared = Shared { settings, failures, limit: rhythm.failures, turn: AtomicUsize::new(0), task };
        Self { shared: Arc::new(shared) }
    }

    /// The targets in the order in which a new connection should try them: the healthy first, each connection starting with
    /// another one.
    pub fn order(&self) -> Vec<Ipv4Addr> {
        let settings = self.shared.settings.borrow().clone();
        let failures = self.shared.failures.lock();
        let is_well = |ip: &Ipv4Addr| failures.get(ip).is_none_or(|failed| *failed < self.shared.limit);
        let all = settings.wanted.targets.iter().map(|target| target.address);
        let (mut well, ill): (Vec<_>, Vec<_>) = all.partition(is_well);
        if well.is_empty() {
            well = ill;
        }
        if !well.is_empty() {
            let start = self.shared.turn.fetch_add(1, Ordering::Relaxed) % well.len();
            well.rotate_left(start);
        }
        well
    }

    /// A connection could not be made: what the next check would say is known now.
    pub fn failed(&self, target: Ipv4Addr) {
        *self.shared.failures.lock().entry(target).or_default() += 1;
    }
}

async fn check_all(
    mut settings: watch::Receiver<Settings>,
    failures: Arc<Mutex<BTreeMap<Ipv4Addr, u32>>>,
    rhythm: Rhythm,
) {
    loop {
        let current = settings.borrow_and_update().wanted.clone();
        failures.lock().retain(|ip, _| current.targets.iter().any(|target| target.address == *ip));
        let checks = current.targets.iter().map(|target| async {
            let check = check(target.address, current.health);
            let well = tokio::time::timeout(rhythm.timeout, check).await.is_ok_and(|well| well);
            let mut failures = failures.lock();
            let failed = failures.entry(target.address).or_default();
            *failed = if well { 0 } else { failed.saturating_add(1) };
        });
        futures::future::join_all(checks).await;
        tokio::select! {
            () = tokio::time::sleep(rhythm.interval) => {}
            changed = settings.changed() => if changed.is_err() { return },
        }
    }
}

async fn check(address: Ipv4Addr, check: HealthCheck) -> bool {
    match check {
        HealthCheck::None => true,
        HealthCheck::Tcp { port } => TcpStream::connect((address, port)).await.is_ok(),
        HealthCheck::Http { port } => http_is_ok(address, port).await.unwrap_or(false),
    }
}

async fn http_is_ok(address: Ipv4Addr, port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect((address, port)).await?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    // `HTTP/1.1 200`
    let mut status = [0; 12];
    stream.read_exact(&mut status).await?;
    Ok(&status[9..] == b"200")
}
