//! The AWS emulator of the tests: moto from PyPI in a virtual environment of its own, behind a front that makes it answer as AWS does
//! and that injects faults (`emulator/aws.py` says how).

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

const REQUIREMENTS: &str = include_str!("../emulator/requirements.txt");
const FRONT: &str = include_str!("../emulator/aws.py");

/// Whether this machine's Python can make virtual environments.
pub fn python_is_complete() -> bool {
    let probe = Command::new("python3").args(["-c", "import venv, ensurepip"]).stderr(Stdio::null()).status();
    probe.is_ok_and(|status| status.success())
}

/// The build's directory for what is no program of ours; tests and xtask run from below the same one.
fn target_directory() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let profile = own.ancestors().find(|path| path.ends_with("debug") || path.ends_with("release"));
    let target = profile.and_then(Path::parent).context("this program was not started from a target directory")?;
    Ok(target.to_owned())
}

/// Makes the virtual environment unless it is there, and answers with it.
pub fn ensure() -> Result<PathBuf> {
    let directory = target_directory()?.join("aws-emulator");
    fs::create_dir_all(&directory)?;
    // Tests are processes that start at the same time.
    let lock = File::create(directory.join("lock"))?;
    lock.lock()?;
    let (venv, installed) = (directory.join("venv"), directory.join("installed"));
    if fs::read_to_string(&installed).is_ok_and(|text| text == REQUIREMENTS) {
        return Ok(venv);
    }
    let requirements = directory.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS)?;
    if venv.exists() {
        fs::remove_dir_all(&venv)?;
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "-r"];
    run(Command::new(venv.join("bin/python")).args(pip).arg(&requirements))?;
    fs::write(&installed, REQUIREMENTS)?;
    Ok(venv)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?} did not start"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// A running emulator with nothing in it; it ends with this value, or with this process.
pub struct Emulator {
    child: Child,
    url: String,
}

impl Emulator {
    /// Starts one on a port of its own.
    pub fn start() -> Result<Self> {
        let python = ensure()?.join("bin/python");
        let mut child = Command::new(python)
            .args(["-c", FRONT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the AWS emulator did not start")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("the AWS emulator has no output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let port = line.trim().strip_prefix("listening ").context("the AWS emulator ended before it listened")?;
        Ok(Self { url: format!("http://127.0.0.1:{port}"), child })
    }

    /// For `AWS_ENDPOINT_URL`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Talks to the front: `/_fault`, `/_lag`, `/_log`.
    pub fn control(&self, path: &str, body: Option<&str>) -> Result<String> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--noproxy", "*"]);
        if let Some(body) = body {
            curl.args(["--request", "PUT", "--data", body]);
        }
        let output = curl.arg(format!("{}{path}", self.url)).output()?;
        if !output.status.success() {
            bail!("the AWS emulator refused {path}");
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
