//! `cargo xtask up` for a user who is not root: the control plane with simulated nodes, on a private PostgreSQL and on one that
//! is given.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use galley_harness::{Kubectl, wait};
use galley_tests::{binaries, items};

/// `nobody` and its group, which PostgreSQL finds in the machine's list of users.
const USER: u32 = 65534;

/// What a user has: a home, and Galley's programs.
struct User {
    home: PathBuf,
    bin: PathBuf,
}

impl User {
    fn new() -> Result<Self> {
        let home = std::env::temp_dir().join("galley-test-user");
        let user = Self { bin: home.join("bin"), home };
        // What a run left when it was killed.
        user.clean();
        fs::create_dir_all(&user.bin)?;
        fs::set_permissions(&user.home, fs::Permissions::from_mode(0o755))?;
        chown(&user.home, Some(USER), Some(USER))?;
        for program in ["galley", "galley-server", "galley-node-agent", "xtask"] {
            let (from, to) = (binaries()?.join(program), user.bin.join(program));
            // The user need not reach where they were built.
            if fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
            }
        }
        Ok(user)
    }

    fn clean(&self) {
        for data in ["own", "given"] {
            if self.home.join(data).exists() && self.bin.join("xtask").exists() {
                let _ = self.xtask(&["down", "--purge", "--data-dir", data], &[]);
            }
        }
        let _ = fs::remove_dir_all(&self.home);
    }

    fn run(&self, program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Output> {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"])
            .arg(program)
            .args(arguments)
            .current_dir(&self.home)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.home)
            .envs(environment.iter().copied())
            .stdin(Stdio::null());
        command.output().with_context(|| format!("run {}", program.display()))
    }

    /// What it printed; fails when it fails.
    fn xtask(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Result<String> {
        let output = self.run(&self.bin.join("xtask"), arguments, environment)?;
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        ensure!(output.status.success(), "xtask {arguments:?} failed:\n{text}\n{}", self.logs());
        Ok(text)
    }

    fn up(&self, data: &str, port: &str, environment: &[(&str, &str)]) -> Result<String> {
        self.xtask(&["up", "--binaries", "bin", "--data-dir", data, "--port", port, "--nodes", "3"], environment)
    }

    fn kubectl(&self, data: &str) -> Result<Kubectl> {
        Kubectl::new(&self.home.join(data).join("dev.kubeconfig"))
    }

    /// The pid files of an installation, whole: they change when a process is another one.
    fn processes(&self, data: &str) -> Result<Vec<(String, String)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(self.home.join(data).join("run"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "pid") {
                all.push((path.display().to_string(), fs::read_to_string(&path)?));
            }
        }
        all.sort();
        Ok(all)
    }

    /// Processes of this machine that were started with a path of an installation.
    fn running(&self, data: &str) -> Vec<String> {
        let path = self.home.join(data).display().to_string();
        let lines = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            Some(String::from_utf8_lossy(&line).replace('\0', " "))
        });
        lines.filter(|line| line.contains(&path)).collect()
    }

    fn logs(&self) -> String {
        let server = |data: &str| fs::read_to_string(self.home.join(data).join("run/galley-server.log"));
        let end = |text: String| text.lines().rev().take(15).collect::<Vec<_>>().join("\n");
        ["own", "given"].into_iter().filter_map(|data| server(data).ok()).map(end).collect()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.clean();
    }
}

fn ready_replicas(kubectl: &Kubectl, count: u64) -> Result<()> {
    let ready = |d: &serde_json::Value| d["status"]["readyReplicas"] == count;
    kubectl.wait_for(&["deployment", "web"], Duration::from_secs(60), "ready replicas", ready).map(drop)
}

fn up_and_down(user: &User) -> Result<()> {
    let said = user.up("own", "16093", &[])?;
    for wanted in ["not root: without containers", "simulated nodes", "nodes ready", "export KUBECONFIG="] {
        ensure!(said.contains(wanted), "{wanted:?} is not in:\n{said}");
    }
    let kubectl = user.kubectl("own")?;
    ensure!(items(&kubectl.get(&["nodes"])?).len() == 3);
    kubectl.run(&["create", "deployment", "web", "--image=galley.dev/busybox:1", "--replicas=6"])?;
    ready_replicas(&kubectl, 6)?;

    // Again: what runs is left alone.
    let before = user.processes("own")?;
    user.up("own", "16093", &[])?;
    ensure!(before == user.processes("own")? && before.len() == 3, "{before:?}");

    // Stopped, nothing runs; started again, all is there.
    user.xtask(&["down", "--data-dir", "own"], &[])?;
    ensure!(user.running("own").is_empty(), "{:?}", user.running("own"));
    user.up("own", "16093", &[])?;
    ready_replicas(&user.kubectl("own")?, 6)
}

/// On the PostgreSQL of `own`, as on any that was there before.
fn given_database(user: &User) -> Result<()> {
    let data = user.home.join("own/postgres");
    let socket = data.display().to_string().replace('/', "%2F");
    let url = format!("postgres://galley@{socket}:5432/given");
    let psql = |sql: &str| {
        user.run(
            "psql".as_ref(),
            &["-XAtq", "-h", &data.display().to_string(), "-U", "galley", "-d", "galley", "-c", sql],
            &[],
        )
    };
    let made = psql("create database given")?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let environment = [("DATABASE_URL", url.as_str())];
    user.up("given", "16094", &environment)?;
    let kubectl = user.kubectl("given")?;
    kubectl.run(&["create", "deployment", "web", "--image=galley.dev/busybox:1"])?;
    ready_replicas(&kubectl, 1)?;
    ensure!(!user.home.join("given/postgres").exists(), "no second PostgreSQL");
    user.xtask(&["down", "--data-dir", "given"], &environment)?;
    user.up("given", "16094", &environment)?;
    ready_replicas(&user.kubectl("given")?, 1)?;

    // The database is its owner's: it stays, but without the keys it says nothing, which the next `up` on it says.
    let said = user.xtask(&["down", "--purge", "--data-dir", "given"], &environment)?;
    ensure!(said.contains("the database of DATABASE_URL"), "{said}");
    ensure!(user.running("given").is_empty() && !user.home.join("given").exists(), "{:?}", user.running("given"));
    let refused = user.up("given", "16094", &environment).err().context("the keys are gone")?;
    ensure!(format!("{refused:#}").contains("master key"), "{refused:#}");
    user.xtask(&["down", "--purge", "--data-dir", "given"], &environment)?;
    ready_replicas(&user.kubectl("own")?, 6)
}

#[test]
fn a_user_who_is_not_root_runs_the_control_plane_with_simulated_nodes() {
    let user = User::new().expect("a user");
    up_and_down(&user).unwrap_or_else(|error| panic!("{error:#}\n{}", user.logs()));
    given_database(&user).context("DATABASE_URL").unwrap_or_else(|error| panic!("{error:#}\n{}", user.logs()));
    user.xtask(&["down", "--purge", "--data-dir", "own"], &[]).expect("everything stops");
    let nothing = || Ok((user.running("own").is_empty() && !user.home.join("own").exists()).then_some(()));
    wait::until("nothing to be left", Duration::from_secs(10), nothing).expect("nothing is left");
}
