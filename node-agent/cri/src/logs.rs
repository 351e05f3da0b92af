//! Container logs in the CRI format: reading them as `kubectl logs` asks, and rotating them.
//!
//! A line is `<RFC 3339 time> <stdout|stderr> <F|P> <content>`; `P` lines are parts of a line that the runtime split. Lines of
//! a log are appended by the runtime; the agent renames a file that grew too large and lets the runtime open a new one, so a
//! follower at the end of a renamed file goes on in the new one.

use std::io::SeekFrom;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;

/// What `kubectl logs` asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    pub timestamps: bool,
    /// Only the last so many lines of the file.
    pub tail_lines: Option<u64>,
    /// Only lines from then on.
    pub since: Option<Timestamp>,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// Only one of `stdout` and `stderr`.
    pub stream: Option<String>,
}

/// One line of a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// As written by the runtime.
    pub time: &'a str,
    pub stream: &'a str,
    /// With its line end, unless it is a part.
    pub content: &'a [u8],
    pub partial: bool,
}

/// How often a follower looks for more.
const POLL: Duration = Duration::from_millis(100);
const CHUNK: usize = 64 * 1024;

/// Reads one line; `None` if it is no CRI log line.
pub fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tag = parts.next()?;
    // A full line without content may lack the last space.
    let (tag, content) = match parts.next() {
        Some(content) => (tag, content),
        None => (tag.strip_suffix(b"\n").unwrap_or(tag), &b"\n"[..]),
    };
    if !matches!(stream, "stdout" | "stderr") {
        return None;
    }
    let partial = tag.split(|b| *b == b':').next() == Some(b"P");
    let content = if partial { content.strip_suffix(b"\n").unwrap_or(content) } else { content };
    Some(Entry { time, stream, content, partial })
}

/// Sends a log to `out` until it is read whole or, following, until `running` says that nothing will come any more. Ends too when
/// the receiver is gone.
pub async fn read<F, R>(path: &Path, options: LogOptions, out: mpsc::Sender<Bytes>, running: F) -> std::io::Result<()>
where
    F: Fn() -> R,
    R: Future<Output = bool>,
{
    let mut file = File::open(path).await?;
    let start = match options.tail_lines {
        Some(lines) => tail_offset(&mut file, lines).await?,
        None => 0,
    };
    file.seek(SeekFrom::Start(start)).await?;
    let mut printer = Printer { left: options.limit_bytes, options, in_line: false };
    let mut buffer: Vec<u8> = Vec::with_capacity(CHUNK);
    let mut last_look = false;
    // The file that comes after a rotation: the runtime may have written to the old one until the new was there, so the old is
    // read to its end first.
    let mut next: Option<File> = None;
    loop {
        let mut chunk = vec![0; CHUNK];
        let n = file.read(&mut chunk).await?;
        if n > 0 {
            last_look = false;
            buffer.extend_from_slice(&chunk[..n]);
            let (text, done) = printer.print(&mut buffer);
            if !text.is_empty() && out.send(text.into()).await.is_err() || done {
                return Ok(());
            }
            continue;
        }
        if !printer.options.follow {
            return Ok(());
        }
        if let Some(new) = next.take() {
            file = new;
            continue;
        }
        next = reopened(&file, path).await;
        if next.is_some() {
            continue;
        }
        // The container may have written between our read and its end: look once more after it.
        if last_look {
            return Ok(());
        }
        if !running().await {
            last_look = true;
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = out.closed() => return Ok(()),
        }
    }
}

/// The file now at `path`, if it is another one than the open one.
async fn reopened(file: &File, path: &Path) -> Option<File> {
    let old = file.metadata().await.ok()?;
    let new = File::open(path).await.ok()?;
    let meta = new.metadata().await.ok()?;
    ((meta.dev(), meta.ino()) != (old.dev(), old.ino())).then_some(new)
}

/// Where the last `lines` lines begin.
async fn tail_offset(file: &mut File, lines: u64) -> std::io::Result<u64> {
    let length = file.metadata().await?.len();
    let mut left = lines;
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(CHUNK as u64);
        file.seek(SeekFrom::Start(start)).await?;
        let mut chunk = vec![0; (end - start) as usize];
        file.read_exact(&mut chunk).await?;
        for (i, byte) in chunk.iter().enumerate().rev() {
            let at = start + i as u64;
            if *byte == b'\n' && at + 1 != length {
                if left <= 1 {
                    return Ok(if left == 0 { length } else { at + 1 });
                }
                left -= 1;
            }
        }
        end = start;
    }
    Ok(if lines == 0 { length } else { 0 })
}

struct Printer {
    options: LogOptions,
    left: Option<u64>,
    in_line: bool,
}

impl Printer {
    /// Prints the whole lines of the buffer and keeps the rest; whether the limit is reached.
    fn print(&mut self, buffer: &mut Vec<u8>) -> (Vec<u8>, bool) {
        let mut text = Vec::with_capacity(buffer.len());
        let mut used = 0;
        for line in buffer.split_inclusive(|b| *b == b'\n') {
            if !line.ends_with(b"\n") {
                break;
            }
            used += line.len();
            let Some(entry) = parse(line) else { continue };
            if !self.wanted(&entry) {
                continue;
            }
            if self.options.timestamps && !self.in_line {
                text.extend_from_slice(entry.time.as_bytes());
                text.push(b' ');
            }
            self.in_line = entry.partial;
            text.extend_from_slice(entry.content);
        }
        buffer.drain(..used);
        if let Some(left) = &mut self.left {
            text.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= text.len() as u64;
            return (text, *left == 0);
        }
        (text, false)
    }

    fn wanted(&self, entry: &Entry<'_>) -> bool {
        if self.options.stream.as_deref().is_some_and(|s| !s.eq_ignore_ascii_case(entry.stream)) {
            return false;
        }
        match self.options.since {
            None => true,
            Some(since) => entry.time.parse::<Timestamp>().is_ok_and(|at| at >= since),
        }
    }
}

/// The files of one container's log that rotation made, oldest first.
pub fn rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        entries.filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(&prefix))).map(|e| e.path()).collect();
    found.sort();
    found
}

/// Renames a log that is larger than `max_bytes`, and removes the oldest so that `max_files` stay with the new one. Whether the
/// runtime has to open the log again.
pub fn rotate(path: &Path, max_bytes: u64, max_files: usize, now: Timestamp) -> std::io::Result<bool> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.len() > max_bytes => {}
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    let old = rotated(path);
    // The new file and the one that is about to be renamed count too.
    for file in &old[..old.len().saturating_sub(max_files.saturating_sub(2))] {
        std::fs::remove_file(file)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(now.strftime(".%Y%m%d-%H%M%S").to_string());
    std::fs::rename(path, PathBuf::from(name))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::sync::atomic::{AtomicBool, Ordering};

    const LOG: &str = "2026-01-01T00:00:00.5Z stdout F one\n2026-01-01T00:00:01Z stderr F two\n\
                       2026-01-01T00:00:02Z stdout P thr\n2026-01-01T00:00:02Z stdout F ee\n\
                       2026-01-01T00:00:03Z stdout F \n";

    async fn printed(options: LogOptions) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let (out, mut lines) = mpsc::channel(16);
        read(&path, options, out, || async { false }).await.unwrap();
        let mut text = Vec::new();
        while let Some(bytes) = lines.recv().await {
            text.extend_from_slice(&bytes);
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn logs_are_printed_as_asked() {
        let since = "2026-01-01T00:00:02Z".parse().unwrap();
        for (options, text) in [
            (LogOptions::default(), "one\ntwo\nthree\n\n"),
            (LogOptions { tail_lines: Some(2), ..Default::default() }, "ee\n\n"),
            (LogOptions { tail_lines: Some(0), ..Default::default() }, ""),
            (LogOptions { tail_lines: Some(99), ..Default::default() }, "one\ntwo\nthree\n\n"),
            (LogOptions { since: Some(since), ..Default::default() }, "three\n\n"),
            (LogOptions { limit_bytes: Some(5), ..Default::default() }, "one\nt"),
            (LogOptions { stream: Some("Stderr".into()), ..Default::default() }, "two\n"),
            (
                LogOptions { timestamps: true, since: Some(since), ..Default::default() },
                "2026-01-01T00:00:02Z three\n2026-01-01T00:00:03Z \n",
            ),
        ] {
            assert_eq!(printed(options.clone()).await, text, "{options:?}");
        }
    }

    #[tokio::test]
    async fn a_follower_goes_on_after_rotation_until_the_container_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "2026-01-01T00:00:00Z stdout F before\n").unwrap();
        let (out, mut lines) = mpsc::channel(16);
        let running = std::sync::Arc::new(AtomicBool::new(true));
        let task = tokio::spawn({
            let (path, running) = (path.clone(), running.clone());
            async move {
                let options = LogOptions { follow: true, ..Default::default() };
                read(&path, options, out, || async { running.load(Ordering::SeqCst) }).await
            }
        });
        assert_eq!(lines.recv().await.unwrap(), "before\n");
        assert!(rotate(&path, 1, 5, "2026-01-01T00:00:01Z".parse().unwrap()).unwrap());
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(b"2026-01-01T00:00:02Z stdout F after\n").unwrap();
        assert_eq!(lines.recv().await.unwrap(), "after\n");
        running.store(false, Ordering::SeqCst);
        task.await.unwrap().unwrap();
        assert_eq!(rotated(&path).len(), 1);
    }
}
