//! Joins a client's streams to a process' pipes.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::command::{CommandReader, CommandWriter, RemoteCommand, TerminalSize};
use crate::exit::Exit;

/// As much as one frame carries.
const COPY_BYTES: usize = 32 * 1024;

/// The client's ends, whatever protocol it speaks.
pub(crate) struct ClientStreams {
    pub stdin: Option<CommandReader>,
    pub stdout: Option<CommandWriter>,
    pub stderr: Option<CommandWriter>,
    pub resize: Option<mpsc::Receiver<TerminalSize>>,
}

/// Runs until the process has ended and all its output is delivered. Cancel (drop) it when the client is gone.
pub(crate) async fn join(client: ClientStreams, command: RemoteCommand) -> Exit {
    let RemoteCommand { stdin, stdout, stderr, resize, exit } = command;
    // Input goes on beside: a process need not read it to its end, so nobody waits for it.
    let input = async {
        tokio::join!(forward(client.stdin, stdin), forward_sizes(client.resize, resize));
        std::future::pending::<()>().await
    };
    let output = async {
        let ((), (), exit) = tokio::join!(forward(stdout, client.stdout), forward(stderr, client.stderr), exit);
        exit
    };
    tokio::select! {
        exit = output => exit,
        () = input => unreachable!("input is pending for ever"),
    }
}

/// Copies until `from` ends, then ends `to`. A write error ends the copy: whoever reads is gone.
async fn forward(from: Option<CommandReader>, to: Option<CommandWriter>) {
    match (from, to) {
        (Some(from), Some(to)) => copy(from, to).await,
        (None, Some(mut to)) => {
            let _ = to.shutdown().await;
        }
        // Nobody wants it, but the process must not block on a full pipe.
        (Some(mut from), None) => {
            let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
        }
        (None, None) => {}
    }
}

async fn copy(mut from: CommandReader, mut to: CommandWriter) {
    let mut buffer = vec![0; COPY_BYTES];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..n]).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

async fn forward_sizes(from: Option<mpsc::Receiver<TerminalSize>>, to: Option<mpsc::Sender<TerminalSize>>) {
    if let (Some(mut from), Some(to)) = (from, to) {
        while let Some(size) = from.recv().await {
            if to.send(size).await.is_err() {
                return;
            }
        }
    }
}
