//! A process as seen from outside: its pipes, its terminal, its end.

use std::pin::Pin;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::exit::Exit;

/// Reads what a process writes.
pub type CommandReader = Box<dyn AsyncRead + Send + Unpin>;
/// Writes what a process reads.
pub type CommandWriter = Box<dyn AsyncWrite + Send + Unpin>;

/// A byte stream in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Size of a terminal in characters, as clients send it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// Which of a process' streams are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommandOptions {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; never with a terminal, whose output is one stream.
    pub stderr: bool,
    /// A terminal, which can be resized.
    pub tty: bool,
}

impl CommandOptions {
    /// From the kubelet's query parameters `input`, `output`, `error`, `tty`: anything but absent, empty, `0` and `false` is true.
    pub fn from_query(query: &str) -> Self {
        let set = |wanted: &str| {
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .any(|(key, value)| key == wanted && !matches!(value, "" | "0" | "false" | "False" | "FALSE"))
        };
        let tty = set("tty");
        Self { stdin: set("input"), stdout: set("output"), stderr: set("error") && !tty, tty }
    }
}

/// A running process (or a container that is attached to). Dropping it lets go of the process: its stdin ends and its output
/// is no longer read.
pub struct RemoteCommand {
    /// Shut down to let the process read end of file.
    pub stdin: Option<CommandWriter>,
    /// Ends when the process and its children have closed it.
    pub stdout: Option<CommandReader>,
    /// As `stdout`.
    pub stderr: Option<CommandReader>,
    /// Takes new sizes of the terminal.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// How it ended. Ready only after the process is gone.
    pub exit: Pin<Box<dyn Future<Output = Exit> + Send>>,
}

impl std::fmt::Debug for RemoteCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteCommand")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .field("resize", &self.resize.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_from_the_kubelet_query() {
        let options = CommandOptions::from_query("command=sh&input=1&output=1&error=1&tty=1");
        assert_eq!(options, CommandOptions { stdin: true, stdout: true, stderr: false, tty: true });
        let options = CommandOptions::from_query("command=input&output=true&error=1&tty=0");
        assert_eq!(options, CommandOptions { stdin: false, stdout: true, stderr: true, tty: false });
    }

    #[test]
    fn sizes_are_spelled_as_clients_send_them() {
        let size: TerminalSize = serde_json::from_str(r#"{"Width":120,"Height":40}"#).unwrap();
        assert_eq!(size, TerminalSize { width: 120, height: 40 });
        assert_eq!(serde_json::to_string(&size).unwrap(), r#"{"Width":120,"Height":40}"#);
    }
}
