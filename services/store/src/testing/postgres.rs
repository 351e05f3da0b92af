//! A private Postgres server in a temporary directory, on a unix socket, with fsync on: what users have, for a test alone.
//!
//! `initdb` runs once for each machine and version; later servers start from a copy of what it made.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const SUPERUSER: &str = "galley";
const START_WITHIN: Duration = Duration::from_secs(60);

/// Why there is no server to test with.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// No `initdb` under `/usr/lib/postgresql/*/bin` or on the PATH.
    #[error("Postgres is not installed (looked for initdb in /usr/lib/postgresql/*/bin and on PATH)")]
    NotInstalled,
    /// Postgres refuses to run as root, and there is no user `postgres` to run it as.
    #[error("running as root, and there is no user named postgres")]
    NoUser,
    /// A command could not be run.
    #[error("{command}")]
    Command {
        /// Which.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A command failed.
    #[error("{command} failed; see {log}")]
    Failed {
        /// Which.
        command: String,
        /// Where it says why.
        log: PathBuf,
    },
    /// The server did not accept connections in time.
    #[error("the server does not accept connections; see {log}")]
    NotReady {
        /// Where it says why.
        log: PathBuf,
    },
    /// A file could not be made.
    #[error("{path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The user that the server runs as, when that is not this process' own.
#[derive(Debug, Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

/// A running server. Dropping it stops it and removes its files.
#[derive(Debug)]
pub struct Postgres {
    directory: TempDir,
    bin: PathBuf,
    account: Option<Account>,
    server: Child,
}

impl Postgres {
    /// Starts a server with an empty database. Blocks for a moment; call it in a test's own thread, at whose end the kernel
    /// stops the server even if the test is killed.
    pub fn start() -> Result<Self, PostgresError> {
        let bin = binaries().ok_or(PostgresError::NotInstalled)?;
        let account = account()?;
        let template = template(&bin, account)?;
        let directory = temporary(&std::env::temp_dir(), account)?;
        let data = directory.path().join("data");
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(&template).arg(&data);
        run(copy, account, &directory.path().join("copy.log"))?;
        let server = serve(&bin, account, directory.path())?;
        Ok(Self { directory, bin, account, server })
    }

    /// Where to connect, as a superuser.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}@localhost/{database}?host={}", self.directory.path().display())
    }

    /// Kills the server as a power cut would, and starts it again.
    pub fn crash_and_restart(&mut self) -> Result<(), PostgresError> {
        self.signal("QUIT");
        let _ = self.server.wait();
        self.server = serve(&self.bin, self.account, self.directory.path())?;
        Ok(())
    }

    /// Sends a signal to the server's main process: `STOP` and `CONT` make it hang for a while.
    pub fn signal(&self, signal: &str) {
        let _ = Command::new("kill").arg(format!("-{signal}")).arg(self.server.id().to_string()).status();
    }

    /// Resident memory and CPU time are read from `/proc` of this process and its children.
    pub fn pid(&self) -> u32 {
        self.server.id()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.signal("CONT");
        self.signal("QUIT");
        let _ = self.server.wait();
    }
}

/// The newest installed version's programs.
fn binaries() -> Option<PathBuf> {
    let version = |path: &PathBuf| -> Option<u32> { path.file_name()?.to_str()?.parse().ok() };
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut versions: Vec<PathBuf> = installed.filter(|path| path.join("bin/initdb").exists()).collect();
    versions.sort_by_key(version);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).find(|path| path.join("initdb").exists());
    versions.pop().map(|path| path.join("bin")).or(on_path)
}

fn account() -> Result<Option<Account>, PostgresError> {
    let path = Path::new("/proc/self");
    let own = std::fs::metadata(path).map_err(|source| PostgresError::File { path: path.into(), source })?;
    if own.uid() != 0 {
        return Ok(None);
    }
    let path = Path::new("/etc/passwd");
    let users = std::fs::read_to_string(path).map_err(|source| PostgresError::File { path: path.into(), source })?;
    let entry = users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|entry| entry[0] == "postgres");
    let entry = entry.ok_or(PostgresError::NoUser)?;
    match (entry.get(2).and_then(|uid| uid.parse().ok()), entry.get(3).and_then(|gid| gid.parse().ok())) {
        (Some(uid), Some(gid)) => Ok(Some(Account { uid, gid })),
        _ => Err(PostgresError::NoUser),
    }
}

fn temporary(parent: &Path, account: Option<Account>) -> Result<TempDir, PostgresError> {
    let failed = |source| PostgresError::File { path: parent.to_owned(), source };
    let directory = tempfile::Builder::new().prefix("galley-postgres-").tempdir_in(parent).map_err(failed)?;
    if let Some(account) = account {
        std::os::unix::fs::chown(directory.path(), Some(account.uid), Some(account.gid)).map_err(failed)?;
    }
    Ok(directory)
}

/// A data directory fresh from `initdb`.
fn template(bin: &Path, account: Option<Account>) -> Result<PathBuf, PostgresError> {
    let version = bin.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    let owner = account.map_or("own".to_owned(), |account| account.uid.to_string());
    let template = std::env::temp_dir().join(format!("galley-postgres-template-{version}-{owner}"));
    if template.join("PG_VERSION").exists() {
        return Ok(template);
    }
    let directory = temporary(&std::env::temp_dir(), account)?;
    let data = directory.path().join("data");
    let mut initdb = Command::new(bin.join("initdb"));
    initdb.args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username", SUPERUSER, "--pgdata"]);
    initdb.arg(&data);
    run(initdb, account, &directory.path().join("initdb.log"))?;
    // Whoever comes first puts it there.
    if let Err(source) = std::fs::rename(&data, &template)
        && !template.join("PG_VERSION").exists()
    {
        return Err(PostgresError::File { path: template, source });
    }
    Ok(template)
}

fn run(mut command: Command, account: Option<Account>, log: &Path) -> Result<(), PostgresError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let failed = |source| PostgresError::Command { command: name.clone(), source };
    if let Some(account) = account {
        command.gid(account.gid).uid(account.uid);
    }
    let output = File::create(log).map_err(failed)?;
    let errors = output.try_clone().map_err(failed)?;
    let status =
        command.stdin(Stdio::null()).stdout(output).stderr(errors).current_dir("/").status().map_err(failed)?;
    if status.success() { Ok(()) } else { Err(PostgresError::Failed { command: name, log: log.to_owned() }) }
}

fn serve(bin: &Path, account: Option<Account>, directory: &Path) -> Result<Child, PostgresError> {
    let log = directory.join("server.log");
    let failed = |source| PostgresError::Command { command: "postgres".into(), source };
    // The kernel stops it when the test dies without cleaning up.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if let Some(Account { uid, gid }) = account {
        command.arg("--reuid").arg(uid.to_string()).arg("--regid").arg(gid.to_string()).arg("--clear-groups");
    }
    command.arg("--").arg(bin.join("postgres")).arg("-D").arg(directory.join("data")).arg("-k").arg(directory);
    command.args([
        "-c",
        "listen_addresses=",
        "-c",
        "fsync=on",
        "-c",
        "max_connections=200",
        "-c",
        "shared_buffers=128MB",
    ]);
    let output = File::options().create(true).append(true).open(&log).map_err(failed)?;
    let errors = output.try_clone().map_err(failed)?;
    let mut server =
        command.stdin(Stdio::null()).stdout(output).stderr(errors).current_dir("/").spawn().map_err(failed)?;
    let deadline = Instant::now() + START_WITHIN;
    loop {
        let ready = Command::new(bin.join("pg_isready")).arg("-q").arg("-h").arg(directory).status().map_err(failed)?;
        if ready.success() {
            return Ok(server);
        }
        let ended = server.try_wait().map_err(failed)?.is_some();
        if ended || Instant::now() > deadline {
            let _ = server.kill();
            let _ = server.wait();
            // The directory goes with the error: keep what the server said.
            if let Ok(text) = std::fs::read_to_string(&log) {
                eprintln!("{text}");
            }
            return Err(PostgresError::NotReady { log });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
