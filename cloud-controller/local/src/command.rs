//! Running tools to their end.

use std::process::{Command, Stdio};

use crate::error::LocalError;

/// Runs a command to its end; gives what it printed.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, LocalError> {
    run_with(Command::new(program).args(arguments), program, arguments)
}

fn run_with(command: &mut Command, program: &str, arguments: &[&str]) -> Result<String, LocalError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| LocalError::Start { program: program.into(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(LocalError::Command {
        command: format!("{program} {}", arguments.join(" ")),
        stderr: String::from_utf8_lossy(&output.stderr).trim().into(),
    })
}

/// `ip`, its words separated by spaces.
pub fn ip(words: &str) -> Result<String, LocalError> {
    run("ip", &words.split_whitespace().collect::<Vec<_>>())
}
