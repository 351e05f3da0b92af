//! Running the tools that speak netlink for us: `nft`, `ip`, `bridge`, `conntrack`.
//!
//! Changes are rare and come in batches, so a process for each batch costs little, and what the agent does can be repeated
//! by hand.

use std::io;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// A tool did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("`{program}` cannot be started")]
    Start {
        program: &'static str,
        #[source]
        source: io::Error,
    },
    /// Its input or output broke.
    #[error("`{program}` could not be talked to")]
    Pipe {
        program: &'static str,
        #[source]
        source: io::Error,
    },
    /// It refused.
    #[error("`{program} {arguments}` failed: {stderr}")]
    Refused { program: &'static str, arguments: String, stderr: String },
    /// It answered something that is no JSON.
    #[error("`{program} {arguments}` printed something that is not JSON")]
    NotJson {
        program: &'static str,
        arguments: String,
        #[source]
        source: serde_json::Error,
    },
}

/// Runs a tool with `input` on its standard input, and gives what it printed.
pub async fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<Vec<u8>, CommandError> {
    let pipe = |source| CommandError::Pipe { program, source };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| CommandError::Start { program, source })?;
    let stdin = child.stdin.take();
    let write = async {
        if let Some(mut stdin) = stdin {
            // A tool that refuses early closes its input; its exit code says more than the broken pipe.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let ((), output) = tokio::join!(write, child.wait_with_output());
    let output = output.map_err(pipe)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(CommandError::Refused { program, arguments: arguments.join(" "), stderr })
}

/// Runs a tool that prints JSON. Nothing printed is an empty list.
pub async fn json(program: &'static str, arguments: &[&str]) -> Result<serde_json::Value, CommandError> {
    let output = run(program, arguments, "").await?;
    if output.iter().all(u8::is_ascii_whitespace) {
        return Ok(serde_json::Value::Array(Vec::new()));
    }
    serde_json::from_slice(&output).map_err(|source| CommandError::NotJson {
        program,
        arguments: arguments.join(" "),
        source,
    })
}

/// `ip`, its words separated by spaces.
pub async fn ip(words: &str) -> Result<(), CommandError> {
    let words: Vec<&str> = words.split_whitespace().collect();
    run("ip", &words, "").await.map(drop)
}
