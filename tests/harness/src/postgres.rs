//! A private PostgreSQL under the data directory, on a unix socket only.
//!
//! PostgreSQL refuses to run as root. As root it is started in a user namespace that shows it another user id: the files
//! stay root's, so that no parent directory needs to be opened to a system user.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{daemon::Daemon, wait};

/// The server of one data directory.
#[derive(Debug, Clone)]
pub struct Postgres {
    data: PathBuf,
    daemon: Daemon,
}

impl Postgres {
    /// The PostgreSQL of an installation at `root`.
    pub fn new(root: &Path) -> Self {
        Self { data: root.join("postgres"), daemon: Daemon::new(&root.join("run"), "postgres") }
    }

    /// For `DATABASE_URL`.
    pub fn url(&self) -> String {
        let socket = self.data.display().to_string().replace('/', "%2F");
        format!("postgres://galley@{socket}:5432/galley")
    }

    /// The daemon, for its pid and log.
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Creates the database if there is none, starts it if it is not running, waits until it answers.
    pub fn start(&self) -> Result<()> {
        let bin = binaries()?;
        if !self.data.join("PG_VERSION").exists() {
            fs::create_dir_all(&self.data)?;
            let made = unprivileged(&bin.join("initdb"))
                .args(["--auth=trust", "--username=galley", "--encoding=UTF8", "--no-locale", "-D"])
                .arg(&self.data)
                .output()
                .context("initdb")?;
            if !made.status.success() {
                let _ = fs::remove_dir_all(&self.data);
                bail!("initdb: {}", String::from_utf8_lossy(&made.stderr).trim());
            }
        }
        let mut server = unprivileged(&bin.join("postgres"));
        server.arg("-D").arg(&self.data).arg("-k").arg(&self.data).args([
            "-c",
            "listen_addresses=",
            "-c",
            "max_connections=200",
            "-c",
            "shared_buffers=256MB",
        ]);
        if self.daemon.pid().is_none() {
            // Left behind by a machine that lost power; the pid in it may be anybody's by now.
            let _ = fs::remove_file(self.data.join("postmaster.pid"));
        }
        self.daemon.start(server)?;
        wait::until("PostgreSQL to answer", Duration::from_secs(60), || {
            self.daemon.check()?;
            let exists = self.psql(&bin, "postgres", "select 1 from pg_database where datname = 'galley'")?;
            if exists.trim() != "1" {
                self.psql(&bin, "postgres", "create database galley")?;
            }
            Ok(Some(()))
        })
    }

    /// What the server's database answers, a line for each row.
    pub fn query(&self, sql: &str) -> Result<String> {
        Ok(self.psql(&binaries()?, "galley", sql)?.trim().to_owned())
    }

    fn psql(&self, bin: &Path, database: &str, sql: &str) -> Result<String> {
        let output = Command::new(bin.join("psql"))
            .args(["-XAt", "-U", "galley", "-d", database, "-c", sql, "-h"])
            .arg(&self.data)
            .output()?;
        if !output.status.success() {
            bail!("psql: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Stops it.
    pub fn stop(&self) -> Result<()> {
        // TERM is PostgreSQL's 'smart' shutdown, which waits for clients; INT is the fast one.
        if self.daemon.pid().is_some() {
            self.daemon.signal("INT")?;
        }
        self.daemon.stop(Duration::from_secs(20))
    }
}

/// `/usr/lib/postgresql/<newest>/bin`.
fn binaries() -> Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            let bin = entry.path().join("bin");
            (bin.join("initdb").exists() && bin.join("psql").exists()).then_some((version, bin))
        })
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin).context("no PostgreSQL server under /usr/lib/postgresql (package postgresql)")
}

fn unprivileged(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let (user, group) = other_user(&fs::read_to_string("/etc/passwd").unwrap_or_default());
    let mut command = Command::new("unshare");
    command.args(["--user", &format!("--map-user={user}"), &format!("--map-group={group}")]).arg(program);
    command
}

/// The user and group ids that PostgreSQL runs as when root starts it: it looks up its user's name, so the user must be one of
/// this machine. Debian's package makes `postgres`; `nobody` is everywhere.
fn other_user(passwd: &str) -> (u32, u32) {
    let of = |name: &str| {
        let mut fields = passwd.lines().map(|line| line.split(':')).find(|line| line.clone().next() == Some(name))?;
        Some((fields.nth(2)?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    of("postgres").or_else(|| of("nobody")).unwrap_or((65534, 65534))
}

/// Whether this process is root.
pub fn is_root() -> bool {
    fs::read_to_string("/proc/self/status")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0"))
}

#[cfg(test)]
mod tests {
    use super::other_user;

    #[test]
    fn root_lends_postgresql_a_user_that_the_machine_has() {
        let nobody = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65533:nobody:/:/bin/false\n";
        assert_eq!(other_user(nobody), (65534, 65533));
        assert_eq!(other_user(&format!("{nobody}postgres:x:101:104::/:/bin/sh\n")), (101, 104));
        assert_eq!(other_user(""), (65534, 65534));
    }
}
