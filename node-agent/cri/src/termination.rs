//! The termination message: what a container wrote to its message file, or the end of its log if it failed and asked for that.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use k8s_cri::v1 as cri;

use crate::labels;
use crate::logs;

/// Longest message from a file, in bytes.
const MAX_FILE: u64 = 4096;
/// Longest message from a log: bytes and lines.
const MAX_LOG: usize = 2048;
const MAX_LOG_LINES: usize = 80;
/// Log lines carry a prefix of about 40 bytes: read enough to have [`MAX_LOG`] without it.
const LOG_WINDOW: u64 = 16 * 1024;

pub(crate) fn message(status: &cri::ContainerStatus) -> String {
    let annotation = |name: &str| status.annotations.get(name).map(String::as_str).unwrap_or_default();
    let written = head(Path::new(annotation(labels::TERMINATION_FILE)));
    if !written.is_empty() {
        return written;
    }
    let from_log = annotation(labels::TERMINATION_POLICY) == "FallbackToLogsOnError" && status.exit_code != 0;
    if from_log {
        let tail = log_tail(Path::new(&status.log_path));
        if !tail.is_empty() {
            return tail;
        }
    }
    status.message.clone()
}

/// A missing or unreadable file is no message.
fn head(path: &Path) -> String {
    let mut text = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(MAX_FILE).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn log_tail(path: &Path) -> String {
    let Ok(mut file) = File::open(path) else { return String::new() };
    let length = file.metadata().map(|m| m.len()).unwrap_or(0);
    let _ = file.seek(SeekFrom::Start(length.saturating_sub(LOG_WINDOW)));
    let mut raw = Vec::new();
    let _ = file.take(LOG_WINDOW).read_to_end(&mut raw);
    let lines: Vec<&[u8]> = raw.split_inclusive(|b| *b == b'\n').collect();
    let recent = lines.iter().skip(lines.len().saturating_sub(MAX_LOG_LINES));
    let text: Vec<u8> = recent.filter_map(|l| logs::parse(l)).flat_map(|entry| entry.content.to_vec()).collect();
    String::from_utf8_lossy(&text[text.len().saturating_sub(MAX_LOG)..]).into_owned()
}
