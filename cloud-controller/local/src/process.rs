//! Processes that outlive the one that started them, found again after any crash.
//!
//! A process is remembered by its id and start time: ids are given out again, start times in clock ticks of one boot are not. What
//! no record knows (shims and containers, whose parent died) is found in /proc by what it was started with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::error::LocalError;

/// How often a dying process is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// Clock ticks after boot.
    started: u64,
}

/// The fields of /proc/PID/stat after the command, which itself may hold spaces and parentheses.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

impl Process {
    /// The process that has this id now.
    pub fn of(pid: i32) -> Option<Self> {
        let started = stat(pid)?.get(19)?.parse().ok()?;
        Some(Self { pid, started })
    }

    /// Whether it still runs; a zombie does not.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
            && stat(self.pid).is_some_and(|fields| fields.first().is_some_and(|state| state != "Z" && state != "X"))
    }

    fn signal(self, signal: Signal) {
        if self.is_alive()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// Kills it, without waiting.
    pub fn kill(self) {
        self.signal(Signal::KILL);
    }

    /// Whether it ended within `limit`.
    fn ended(self, limit: Duration) -> bool {
        let begun = Instant::now();
        while self.is_alive() {
            if begun.elapsed() > limit {
                return false;
            }
            std::thread::sleep(LOOK);
        }
        true
    }

    /// Asks it to end, and kills it when it does not within `grace`.
    pub fn stop(self, node: &str, grace: Duration) -> Result<(), LocalError> {
        self.signal(Signal::TERM);
        if self.ended(grace) {
            return Ok(());
        }
        self.kill();
        self.expect_end(node)
    }

    /// Waits until a killed process is gone.
    pub fn expect_end(self, node: &str) -> Result<(), LocalError> {
        // Killed processes end when the kernel lets go of what they wait for: disks, mostly.
        let limit = Duration::from_secs(30);
        if self.ended(limit) { Ok(()) } else { Err(LocalError::Stuck { name: node.into(), pid: self.pid }) }
    }
}

/// Starts a program that goes on when this one ends: in a session of its own, with its output in a file.
pub fn start(program: &str, arguments: &[String], log: &Path) -> Result<Process, LocalError> {
    let open = |path: &Path| OpenOptions::new().create(true).append(true).open(path);
    let output = open(log).map_err(LocalError::file(log))?;
    let errors = output.try_clone().map_err(LocalError::file(log))?;
    // A new process is no group leader, so setsid becomes the program without a fork, and the id stays.
    let mut child = Command::new("setsid")
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(|source| LocalError::Start { program: program.into(), source })?;
    let pid = i32::try_from(child.id()).unwrap_or_default();
    let process = Process::of(pid);
    // While this process lives, nobody else takes the child's exit code; without that it would stay as a zombie.
    std::thread::spawn(move || child.wait());
    process
        .ok_or_else(|| LocalError::Start { program: program.into(), source: std::io::Error::other("it ended at once") })
}

/// All processes whose command line satisfies `matches`, and their descendants.
pub fn find(matches: impl Fn(&[&str]) -> bool) -> Vec<Process> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    let mut roots = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if let Some(parent) = stat(pid).and_then(|fields| fields.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
        let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).into_owned();
        if matches(&line.split('\0').collect::<Vec<_>>()) {
            roots.push(pid);
        }
    }
    let mut found = BTreeSet::new();
    while let Some(pid) = roots.pop() {
        if found.insert(pid) {
            roots.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found.into_iter().filter_map(Process::of).collect()
}
