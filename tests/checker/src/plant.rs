//! A control plane to be tormented: a PostgreSQL of its own and one or several `galley-server` processes on it, on loopback.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use galley_harness::daemon::Daemon;
use galley_harness::postgres::Postgres;
use galley_harness::wait;
use serde_json::Value;

use crate::client::Target;

/// How long a process may take to start on a busy machine.
const START_WITHIN: Duration = Duration::from_secs(60);

/// Where servers listen. Not where the kernel takes clients' ports from: a client that knocks at a dead server's port may be
/// given that very port, talks to itself, and the server cannot start again.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

fn free_port(candidates: &mut impl Iterator<Item = u16>) -> Result<TcpListener> {
    candidates.find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).context("no port is free")
}

/// How a plant is built.
#[derive(Debug, Clone)]
pub struct Blueprint {
    /// Everything lives here, and is deleted at the end.
    pub root: PathBuf,
    /// Where `galley-server` is.
    pub binaries: PathBuf,
    /// How many servers.
    pub replicas: usize,
    /// The servers' `--lease-seconds`.
    pub lease: Duration,
    /// Further arguments of the servers.
    pub arguments: Vec<String>,
}

/// The processes.
#[derive(Debug)]
pub struct Plant {
    blueprint: Blueprint,
    postgres: Postgres,
    servers: Vec<Server>,
    cluster: String,
    owner_token: String,
    token: String,
    ca: String,
}

#[derive(Debug)]
struct Server {
    daemon: Daemon,
    data: PathBuf,
    port: u16,
}

impl Plant {
    /// Starts everything, with one cluster.
    pub async fn start(blueprint: Blueprint) -> Result<Self> {
        let run = blueprint.root.join("run");
        let mut servers = Vec::new();
        let mut reserved = Vec::new();
        let first = u16::try_from(std::process::id() % u32::from(PORTS.end - PORTS.start)).unwrap_or_default();
        let mut candidates = (PORTS.start + first..PORTS.end).chain(PORTS);
        for number in 0..blueprint.replicas.max(1) {
            let listener = free_port(&mut candidates)?;
            let port = listener.local_addr()?.port();
            // Kept until all are found, so that they differ.
            reserved.push(listener);
            let daemon = Daemon::new(&run, &format!("server-{number}"));
            servers.push(Server { daemon, data: blueprint.root.join(format!("server-{number}")), port });
        }
        drop(reserved);
        let mut plant = Self {
            postgres: Postgres::new(&blueprint.root),
            servers,
            cluster: String::new(),
            owner_token: String::new(),
            token: String::new(),
            ca: String::new(),
            blueprint,
        };
        // What an earlier run left when it was killed.
        plant.stop()?;
        std::fs::create_dir_all(&plant.blueprint.root)?;
        plant.postgres.start()?;
        for number in 0..plant.servers.len() {
            if number > 0 {
                // One installation, one master key.
                std::fs::create_dir_all(&plant.servers[number].data)?;
                let key = Path::new("master.key");
                std::fs::copy(plant.servers[0].data.join(key), plant.servers[number].data.join(key))?;
            }
            plant.server_start(number)?;
            plant.server_wait(number).await?;
        }
        plant.ca = std::fs::read_to_string(plant.servers[0].data.join("ca.pem")).context("read the CA")?;
        plant.admin(&["tenant-create", "torture"])?;
        plant.owner_token = plant.admin(&["token-create", "--tenant", "torture"])?;
        plant.token = plant.admin(&["cloud-token-create"])?;
        plant.cluster = plant.cluster_create().await?;
        Ok(plant)
    }

    /// Makes the cluster at whichever server will; shards may be moving between them.
    async fn cluster_create(&self) -> Result<String> {
        let deadline = tokio::time::Instant::now() + START_WITHIN;
        for attempt in 0.. {
            let create = self
                .request(attempt % self.replicas(), reqwest::Method::POST, "/v1/clusters")
                .bearer_auth(&self.owner_token)
                .header("content-type", "application/json")
                .header("idempotency-key", "torture")
                .body(r#"{"name": "torture"}"#);
            let answer = match create.send().await {
                Ok(answer) if answer.status().is_success() => {
                    let created: Value = answer.json().await?;
                    return Ok(created["id"].as_str().context("the cluster's id")?.to_owned());
                }
                Ok(answer) => answer.text().await.unwrap_or_default(),
                Err(error) => error.to_string(),
            };
            ensure!(tokio::time::Instant::now() < deadline, "create a cluster: {answer}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        unreachable!("the loop ends by returning")
    }

    fn request(&self, number: usize, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        // Loopback, and the certificate's CA is only known when the first server has made it.
        let client = reqwest::Client::builder().danger_accept_invalid_certs(true).no_proxy();
        let client = client.timeout(Duration::from_secs(10)).build().unwrap_or_default();
        client.request(method, format!("https://127.0.0.1:{}{path}", self.servers[number].port))
    }

    /// A request to the cluster's API at one server, as administrator.
    pub fn api(&self, number: usize, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.request(number, method, &format!("/clusters/{}{path}", self.cluster)).bearer_auth(&self.token)
    }

    /// How many servers there are.
    pub fn replicas(&self) -> usize {
        self.servers.len()
    }

    /// The cluster, through all servers.
    pub fn target(&self) -> Target {
        let url = |server: &Server| format!("https://127.0.0.1:{}/clusters/{}", server.port, self.cluster);
        Target { urls: self.servers.iter().map(url).collect(), token: self.token.clone(), ca: Some(self.ca.clone()) }
    }

    /// The administrator's kubeconfig of the cluster, in a file.
    pub async fn kubeconfig(&self) -> Result<PathBuf> {
        let path = format!("/v1/clusters/{}/kubeconfig", self.cluster);
        let answer = self.request(0, reqwest::Method::GET, &path).bearer_auth(&self.owner_token).send().await?;
        let text = answer.error_for_status()?.text().await?;
        let file = self.blueprint.root.join("kubeconfig");
        std::fs::write(&file, text)?;
        Ok(file)
    }

    /// Another process of this plant, which ends with it.
    pub fn daemon(&self, name: &str) -> Daemon {
        Daemon::new(&self.blueprint.root.join("run"), name)
    }

    /// Where the product's binaries are.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.blueprint.binaries.join(name)
    }

    /// The PostgreSQL.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// A server's process and log.
    pub fn server(&self, number: usize) -> &Daemon {
        &self.servers[number].daemon
    }

    /// The number of the server that the lease row of the cluster's shard names.
    pub fn owner(&self) -> Result<Option<usize>> {
        let id = &self.cluster;
        let sql = format!("SELECT s.holder FROM shards s JOIN clusters c ON c.shard_id = s.id WHERE c.id = '{id}'");
        let holder = self.postgres.query(&sql)?;
        let is_holder = |server: &Server| {
            std::fs::read_to_string(server.data.join("holder")).is_ok_and(|name| name.trim() == holder)
        };
        Ok(self.servers.iter().position(is_holder))
    }

    /// Whether every server owns its share of the shards: nothing moves by itself from here on.
    pub fn is_even(&self) -> Result<bool> {
        let sql = "SELECT count(*) || ' ' || count(DISTINCT holder) || ' ' || count(holder) FROM shards";
        let numbers: Vec<usize> = self.postgres.query(sql)?.split(' ').filter_map(|word| word.parse().ok()).collect();
        let most = "SELECT max(n) FROM (SELECT count(*) AS n FROM shards GROUP BY holder) AS shares";
        let most: Option<usize> = self.postgres.query(most)?.parse().ok();
        let [all, holders, held] = numbers[..] else { return Ok(false) };
        Ok(all == held && holders == self.servers.len() && most == Some(all.div_ceil(self.servers.len())))
    }

    /// Starts a server that does not run.
    pub fn server_start(&self, number: usize) -> Result<()> {
        let server = &self.servers[number];
        std::fs::create_dir_all(&server.data)?;
        let address = format!("127.0.0.1:{}", server.port);
        let mut command = Command::new(self.binary("galley-server"));
        command
            .args(["run", "--database-url", &self.postgres.url(), "--listen", &address, "--data-dir"])
            .arg(&server.data)
            .args(["--lease-seconds", &self.blueprint.lease.as_secs().to_string()])
            .args(&self.blueprint.arguments);
        server.daemon.start(command).map(drop)
    }

    /// Waits until a server answers.
    pub async fn server_wait(&self, number: usize) -> Result<()> {
        let deadline = tokio::time::Instant::now() + START_WITHIN;
        loop {
            self.servers[number].daemon.check()?;
            match self.request(number, reqwest::Method::GET, "/readyz").send().await {
                // A replica without shards says so, and serves.
                Ok(_) => return Ok(()),
                other if tokio::time::Instant::now() > deadline => {
                    bail!("server {number} is not ready: {other:?}\n{}", self.servers[number].daemon.tail())
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// `kill -9`, and until it is gone.
    pub fn server_kill(&self, number: usize) -> Result<()> {
        let daemon = &self.servers[number].daemon;
        daemon.signal("KILL")?;
        wait::until("the server to be gone", Duration::from_secs(10), || Ok(daemon.pid().is_none().then_some(())))
    }

    /// What `pg_ctl stop -m immediate` does: no checkpoint, no goodbye.
    pub fn postgres_kill(&self) -> Result<()> {
        let daemon = self.postgres.daemon();
        daemon.signal("QUIT")?;
        wait::until("PostgreSQL to be gone", Duration::from_secs(20), || Ok(daemon.pid().is_none().then_some(())))
    }

    fn admin(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.binary("galley-server"));
        command.args(["admin", "--database-url", &self.postgres.url(), "--data-dir"]).arg(&self.servers[0].data);
        let output = command.args(arguments).output().context("run galley-server admin")?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        let mut text = format!("PostgreSQL:\n{}\n", self.postgres.daemon().tail());
        for (number, server) in self.servers.iter().enumerate() {
            text.push_str(&format!("server {number}:\n{}\n", server.daemon.tail()));
        }
        text
    }

    fn stop(&self) -> Result<()> {
        for entry in std::fs::read_dir(self.blueprint.root.join("run")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(name) = name.strip_suffix(".pid").filter(|name| *name != "postgres") {
                let daemon = self.daemon(name);
                if daemon.pid().is_some() {
                    // A stopped one hears nothing else.
                    daemon.signal("KILL")?;
                }
                daemon.stop(Duration::from_secs(5))?;
            }
        }
        self.postgres.stop()?;
        if self.blueprint.root.exists() {
            std::fs::remove_dir_all(&self.blueprint.root)?;
        }
        Ok(())
    }
}

impl Drop for Plant {
    fn drop(&mut self) {
        if std::env::var_os("GALLEY_TEST_KEEP").is_some() {
            eprintln!("kept: {}", self.blueprint.root.display());
        } else if let Err(error) = self.stop() {
            eprintln!("the plant did not stop cleanly: {error:#}");
        }
    }
}
