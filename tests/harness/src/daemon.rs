//! Background processes by pid file. A pid is trusted only with its start time, so that a reused pid is never signalled.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait;

/// A background process of an installation.
#[derive(Debug, Clone)]
pub struct Daemon {
    run: PathBuf,
    name: String,
}

impl Daemon {
    /// The daemon `name` whose pid file and log live in `run`.
    pub fn new(run: &Path, name: &str) -> Self {
        Self { run: run.to_owned(), name: name.to_owned() }
    }

    /// Where its output goes.
    pub fn log(&self) -> PathBuf {
        self.run.join(format!("{}.log", self.name))
    }

    fn pid_file(&self) -> PathBuf {
        self.run.join(format!("{}.pid", self.name))
    }

    /// The running process, if there is one.
    pub fn pid(&self) -> Option<u32> {
        let text = fs::read_to_string(self.pid_file()).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let pid = pid.parse().ok()?;
        (start_time(pid)? == started).then_some(pid)
    }

    /// Starts `command` in its own session unless it runs already. Says whether it was started.
    pub fn start(&self, mut command: Command) -> Result<bool> {
        if self.pid().is_some() {
            return Ok(false);
        }
        fs::create_dir_all(&self.run)?;
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {} ({:?})", self.name, command.get_program()))?;
        let pid = child.id();
        let started = start_time(pid).unwrap_or_default();
        fs::write(self.pid_file(), format!("{pid} {started}\n"))?;
        // Reaped here when it dies before this process does, so that it does not linger as a zombie.
        std::thread::spawn(move || {
            let mut child = child;
            child.wait()
        });
        Ok(true)
    }

    /// Asks it to stop, and kills it when it has not within `grace`. Not running is fine.
    pub fn stop(&self, grace: Duration) -> Result<()> {
        if let Some(pid) = self.pid() {
            signal(pid, "TERM")?;
            let gone = || Ok(self.pid().is_none().then_some(()));
            if wait::until("it to stop", grace, gone).is_err() {
                signal(pid, "KILL")?;
                wait::until("it to die", Duration::from_secs(5), gone)?;
            }
        }
        let _ = fs::remove_file(self.pid_file());
        Ok(())
    }

    /// Sends a signal by name: `KILL`, `STOP`.
    pub fn signal(&self, name: &str) -> Result<()> {
        match self.pid() {
            Some(pid) => signal(pid, name),
            None => bail!("{} does not run", self.name),
        }
    }

    /// The end of the log, for error messages.
    pub fn tail(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Fails with the end of the log when the daemon is not running.
    pub fn check(&self) -> Result<()> {
        if self.pid().is_none() {
            bail!("{} has stopped; the end of {}:\n{}", self.name, self.log().display(), self.tail());
        }
        Ok(())
    }
}

fn signal(pid: u32, name: &str) -> Result<()> {
    Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).stderr(Stdio::null()).status()?;
    Ok(())
}

/// Field 22 of `/proc/<pid>/stat`, counted after the command's closing parenthesis; zombies count as gone.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if fields.first() == Some(&"Z") {
        return None;
    }
    fields.get(19).map(|s| (*s).to_owned())
}
