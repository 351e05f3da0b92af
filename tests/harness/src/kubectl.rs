//! Unmodified kubectl, the newest on this machine.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::wait;

/// kubectl with one kubeconfig.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// The newest kubectl, with `kubeconfig`.
    pub fn new(kubeconfig: &Path) -> Result<Self> {
        Ok(Self { program: newest()?, kubeconfig: kubeconfig.to_owned() })
    }

    /// A command to add arguments to.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).env("KUBECTL_INTERACTIVE_DELETE", "false");
        command
    }

    /// Runs it whatever comes of it.
    pub fn try_run(&self, arguments: &[&str]) -> Result<Output> {
        self.command().args(arguments).stdin(Stdio::null()).output().context("run kubectl")
    }

    /// Runs it, and fails with what it said when it fails. The answer is its standard output.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        checked(arguments, self.try_run(arguments)?)
    }

    /// Runs it with standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut child = self
            .command()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("standard input")?.write_all(input.as_bytes())?;
        checked(arguments, child.wait_with_output()?)
    }

    /// Runs it, expects it to fail, and answers what it said on standard error.
    pub fn run_failing(&self, arguments: &[&str]) -> Result<String> {
        let output = self.try_run(arguments)?;
        if output.status.success() {
            bail!("kubectl {} succeeded: {}", arguments.join(" "), String::from_utf8_lossy(&output.stdout));
        }
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// `kubectl apply -f -`.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.run_with_input(&["apply", "-f", "-"], manifest)
    }

    /// `kubectl get ... -o json`.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = vec!["get"];
        all.extend(arguments);
        all.extend(["-o", "json"]);
        Ok(serde_json::from_str(&self.run(&all)?)?)
    }

    /// Asks for the object until `condition` holds.
    pub fn wait_for(
        &self,
        arguments: &[&str],
        limit: Duration,
        what: &str,
        condition: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = Value::Null;
        let waited = wait::until(what, limit, || {
            last = self.get(arguments)?;
            Ok(condition(&last).then(|| last.clone()))
        });
        waited.with_context(|| format!("last seen: {last:#}"))
    }
}

fn checked(arguments: &[&str], output: Output) -> Result<String> {
    if !output.status.success() {
        bail!(
            "kubectl {} failed: {}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The newest of what is on PATH and in the Google Cloud SDK's folder.
pub fn newest() -> Result<PathBuf> {
    let mut candidates: Vec<PathBuf> =
        std::env::var_os("PATH").iter().flat_map(std::env::split_paths).map(|dir| dir.join("kubectl")).collect();
    candidates.extend(
        std::fs::read_dir("/usr/lib/google-cloud-sdk/bin")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("kubectl."))),
    );
    candidates.retain(|path| path.is_file());
    candidates
        .into_iter()
        .filter_map(|path| version(&path).map(|version| (version, path)))
        .max()
        .map(|(_, path)| path)
        .context("no kubectl on this machine (package kubernetes-client)")
}

fn version(program: &Path) -> Option<(u32, u32)> {
    let output = Command::new(program).args(["version", "--client", "-o", "json"]).output().ok()?;
    let value: Value = serde_json::from_slice(&output.stdout).ok()?;
    let number = |field: &str| {
        let text = value["clientVersion"][field].as_str()?;
        text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
    };
    Some((number("major")?, number("minor")?))
}
