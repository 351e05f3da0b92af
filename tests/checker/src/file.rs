//! Histories in files: one JSON object a line.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use galley_history::Entry;

/// Writes a history.
pub fn write(path: &Path, history: &[Entry]) -> Result<()> {
    let failed = || format!("write {}", path.display());
    let mut file = BufWriter::new(File::create(path).with_context(failed)?);
    for entry in history {
        serde_json::to_writer(&mut file, entry).with_context(failed)?;
        file.write_all(b"\n").with_context(failed)?;
    }
    file.flush().with_context(failed)
}

/// Reads a history.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut history = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line?;
        let entry = serde_json::from_str(&line);
        history.push(entry.with_context(|| format!("line {} of {}", number + 1, path.display()))?);
    }
    Ok(history)
}
