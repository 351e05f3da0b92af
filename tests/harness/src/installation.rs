//! One installation: its processes, its nodes, its first cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use galley_cloud_local::{LocalCloud, LocalNode, NodeSpec, RegistryMirror, ensure_bridge, stop_all};
use serde_json::Value;

use crate::daemon::Daemon;
use crate::kubectl::Kubectl;
use crate::postgres::{Postgres, is_root};
use crate::wait;

/// How an installation differs from the next.
#[derive(Debug, Clone)]
pub struct Options {
    /// Everything lives here.
    pub root: PathBuf,
    /// Where the product's binaries are.
    pub binaries: PathBuf,
    /// The local cloud: bridge, addresses, state.
    pub cloud: LocalCloud,
    /// The server's TLS port, on loopback and on the cloud's bridge.
    pub port: u16,
    /// Instead of a private PostgreSQL.
    pub database_url: Option<String>,
    /// Where nodes fetch images from instead.
    pub mirrors: Vec<RegistryMirror>,
    /// Further arguments of `galley-server run`.
    pub server_arguments: Vec<String>,
}

/// An installation, running or not.
#[derive(Debug, Clone)]
pub struct Installation {
    options: Options,
    postgres: Postgres,
    server: Daemon,
    cloud_controller: Daemon,
    tenant: String,
}

/// A further server of an installation.
#[derive(Debug, Clone)]
pub struct Replica {
    daemon: Daemon,
    data_dir: PathBuf,
    port: u16,
}

impl Replica {
    /// Its process.
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Its name in lease rows.
    pub fn holder(&self) -> Result<String> {
        holder(&self.data_dir)
    }

    /// Where clients reach this server rather than another.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

/// The tenant of the first cluster.
pub const TENANT: &str = "dev";
/// The first cluster.
pub const CLUSTER: &str = "dev";

impl Installation {
    /// Nothing is started or made yet.
    pub fn new(options: Options) -> Self {
        let run = options.root.join("run");
        Self {
            postgres: Postgres::new(&options.root),
            server: Daemon::new(&run, "galley-server"),
            cloud_controller: Daemon::new(&run, "galley-cloud-controller"),
            tenant: TENANT.into(),
            options,
        }
    }

    /// The same, seen as another tenant, which is made if there is none of this name.
    pub fn as_tenant(&self, tenant: &str) -> Self {
        Self { tenant: tenant.into(), ..self.clone() }
    }

    /// Its options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The server's daemon.
    pub fn server(&self) -> &Daemon {
        &self.server
    }

    /// The private PostgreSQL.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    fn binary(&self, name: &str) -> PathBuf {
        self.options.binaries.join(name)
    }

    fn server_dir(&self) -> PathBuf {
        self.options.root.join("server")
    }

    /// The installation CA's certificate.
    pub fn ca(&self) -> PathBuf {
        self.server_dir().join("ca.pem")
    }

    /// Where clients and nodes reach it. Nodes live behind the bridge, which only root can make.
    pub fn url(&self) -> String {
        let host = if is_root() { self.options.cloud.gateway().to_string() } else { "127.0.0.1".into() };
        format!("https://{host}:{}", self.options.port)
    }

    /// The PostgreSQL that it uses.
    pub fn database_url(&self) -> String {
        self.options.database_url.clone().unwrap_or_else(|| self.postgres.url())
    }

    /// Starts PostgreSQL, unless one was given.
    pub fn database_start(&self) -> Result<()> {
        if self.options.database_url.is_some() { Ok(()) } else { self.postgres.start() }
    }

    /// Starts the server and waits until it is ready.
    pub fn server_start(&self) -> Result<()> {
        let mut command = self.server_command(&self.server_dir(), self.options.port)?;
        if is_root() {
            ensure_bridge(&self.options.cloud).context("make the bridge of the local cloud")?;
            command.args(["--listen", &format!("{}:{}", self.options.cloud.gateway(), self.options.port)]);
        }
        self.server.start(command)?;
        self.server_wait()
    }

    fn server_command(&self, data_dir: &Path, port: u16) -> Result<Command> {
        fs::create_dir_all(data_dir)?;
        let mut command = Command::new(self.binary("galley-server"));
        command
            .args([
                "run",
                "--database-url",
                &self.database_url(),
                "--domain",
                "galley.local",
                "--advertise",
                &self.url(),
            ])
            .arg("--data-dir")
            .arg(data_dir)
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args(&self.options.server_arguments);
        Ok(command)
    }

    /// A further server on the same database, on loopback only: number 2 and up. It is given the first one's master key.
    pub fn replica(&self, number: u16) -> Replica {
        let name = format!("server-{number}");
        Replica {
            daemon: Daemon::new(&self.options.root.join("run"), &format!("galley-{name}")),
            data_dir: self.options.root.join(name),
            port: self.options.port + 1000 * (number - 1),
        }
    }

    /// Starts a further server, and waits until it is ready.
    pub fn replica_start(&self, replica: &Replica, more: &[&str]) -> Result<()> {
        let mut command = self.server_command(&replica.data_dir, replica.port)?;
        command.args(more);
        let key = fs::read(self.server_dir().join("master.key")).context("the first server's master key")?;
        write_private(&replica.data_dir.join("master.key"), &key)?;
        replica.daemon.start(command)?;
        self.ready_wait(&replica.daemon, &replica.url())
    }

    /// Waits until the server answers.
    pub fn server_wait(&self) -> Result<()> {
        self.ready_wait(&self.server, &self.url())
    }

    fn ready_wait(&self, daemon: &Daemon, url: &str) -> Result<()> {
        wait::until("the server to be ready", Duration::from_secs(60), || {
            daemon.check()?;
            let output = Command::new("curl")
                .args(["--silent", "--show-error", "--fail", "--max-time", "5", "--cacert"])
                .arg(self.ca())
                .arg(format!("{url}/readyz"))
                .output()?;
            if !output.status.success() {
                bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
            }
            Ok(Some(()))
        })
    }

    /// The first server's name in lease rows.
    pub fn holder(&self) -> Result<String> {
        holder(&self.server_dir())
    }

    /// `galley-server admin ...`: what it printed.
    pub fn admin(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.binary("galley-server"));
        command.args(["admin", "--database-url", &self.database_url(), "--data-dir"]).arg(self.server_dir());
        printed(command.args(arguments))
    }

    /// A token that `make` prints, made once and kept in the data directory.
    fn token(&self, file: &str, make: &[&[&str]]) -> Result<String> {
        let path = self.server_dir().join(file);
        if let Ok(token) = fs::read_to_string(&path) {
            return Ok(token.trim().to_owned());
        }
        let mut token = String::new();
        for arguments in make {
            token = self.admin(arguments)?;
        }
        write_private(&path, &token)?;
        Ok(token)
    }

    /// The API token of the tenant (`dev`, or see [`Self::as_tenant`]), which is made if there is none.
    pub fn tenant_token(&self) -> Result<String> {
        let tenant = self.tenant.as_str();
        self.token(&format!("{tenant}.token"), &[&["tenant-create", tenant], &["token-create", "--tenant", tenant]])
    }

    /// `galley ...` as the tenant: what it printed.
    pub fn galley(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.binary("galley"));
        command.env("GALLEY_SERVER", self.url()).env("GALLEY_TOKEN", self.tenant_token()?).env("GALLEY_CA", self.ca());
        printed(command.args(arguments))
    }

    /// Makes the cluster if there is none of this name, and writes its kubeconfig.
    pub fn cluster(&self, name: &str) -> Result<Kubectl> {
        let list: Value = serde_json::from_str(&self.galley(&["cluster", "list", "-o", "json"])?)?;
        let exists = list["items"].as_array().is_some_and(|items| items.iter().any(|c| c["name"] == name));
        if !exists {
            self.galley(&["cluster", "create", name])?;
        }
        let path = self.kubeconfig(name);
        write_private(&path, &self.galley(&["cluster", "kubeconfig", name])?)?;
        Kubectl::new(&path)
    }

    /// Where the kubeconfig of a cluster is.
    pub fn kubeconfig(&self, name: &str) -> PathBuf {
        self.options.root.join(format!("{name}.kubeconfig"))
    }

    /// What `galley-node-agent` needs to join a cluster: a fresh one-time token with its server and CA hash.
    pub fn join_arguments(&self, cluster: &str) -> Result<Vec<String>> {
        let answer = self.galley(&["node", "join-command", cluster, "-o", "json"])?;
        let answer: Value = serde_json::from_str(&answer)?;
        let text = |field: &str| answer[field].as_str().map(str::to_owned).with_context(|| format!("no {field}"));
        let pairs = [("--server", "server"), ("--ca-hash", "caHash"), ("--token", "token")];
        let mut arguments = vec!["join".to_owned()];
        for (flag, field) in pairs {
            arguments.extend([flag.to_owned(), text(field)?]);
        }
        Ok(arguments)
    }

    /// Starts a node of the local cloud that joins the cluster.
    pub fn node_start(&self, cluster: &str, name: &str, more: &[&str], images: &[PathBuf]) -> Result<LocalNode> {
        let mut agent_arguments = self.join_arguments(cluster)?;
        agent_arguments.extend(more.iter().map(|a| (*a).to_owned()));
        let spec = NodeSpec {
            name: name.to_owned(),
            agent: Some(self.binary("galley-node-agent")),
            agent_arguments,
            registry_mirrors: self.options.mirrors.clone(),
            images: images.to_vec(),
        };
        LocalNode::start(&self.options.cloud, spec).with_context(|| format!("start node {name}"))
    }

    /// Starts simulated nodes, which need no root: pods run on them without containers.
    pub fn simulated_start(&self, cluster: &str, count: u32, prefix: &str) -> Result<Daemon> {
        let daemon = Daemon::new(&self.options.root.join("run"), &format!("simulated-{prefix}"));
        if daemon.pid().is_none() {
            let mut command = Command::new(self.binary("galley-node-agent"));
            command
                .arg("simulated")
                .args(["--count", &count.to_string(), "--prefix", prefix, "--kubeconfig"])
                .arg(self.kubeconfig(cluster));
            daemon.start(command)?;
        }
        Ok(daemon)
    }

    /// Starts the cloud controller with the local cloud: load balancers on this machine.
    pub fn cloud_controller_start(&self) -> Result<()> {
        self.token("cloud.token", &[&["cloud-token-create"]])?;
        let mut command = Command::new(self.binary("galley-cloud-controller"));
        command.args(["run", "--cloud", "local", "--server", &self.url(), "--ca-file"]).arg(self.ca());
        command.arg("--token-file").arg(self.server_dir().join("cloud.token"));
        command.args(self.options.cloud.arguments());
        self.cloud_controller.start(command)?;
        Ok(())
    }

    /// Stops everything in reverse order. `purge` deletes the data as well.
    pub fn stop(&self, purge: bool) -> Result<()> {
        let grace = Duration::from_secs(10);
        let stop_all_named = |prefix: &str| -> Result<()> {
            for entry in fs::read_dir(self.options.root.join("run")).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if let Some(name) = name.strip_suffix(".pid").filter(|n| n.starts_with(prefix)) {
                    Daemon::new(&self.options.root.join("run"), name).stop(grace)?;
                }
            }
            Ok(())
        };
        stop_all_named("simulated-")?;
        self.cloud_controller.stop(grace)?;
        if is_root() {
            stop_all(&self.options.cloud, purge).context("stop the local cloud")?;
        }
        stop_all_named("galley-server-")?;
        self.server.stop(grace)?;
        self.postgres.stop()?;
        if purge && self.options.root.exists() {
            fs::remove_dir_all(&self.options.root)
                .with_context(|| format!("delete {}", self.options.root.display()))?;
        }
        Ok(())
    }
}

fn holder(data_dir: &Path) -> Result<String> {
    Ok(fs::read_to_string(data_dir.join("holder")).context("the server's name in lease rows")?.trim().to_owned())
}

fn printed(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!(
            "{} failed: {}",
            Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Tokens and keys are for their owner's eyes.
fn write_private(path: &Path, contents: impl AsRef<[u8]>) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let temporary = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(contents.as_ref())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    Ok(())
}
