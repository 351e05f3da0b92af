//! Waiting for a condition, with an end and a reason.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks `condition` until it gives a value. On time-out the error is what it said last.
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    let mut last = String::from("it never held");
    loop {
        match condition() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(error) => last = format!("{error:#}"),
        }
        if start.elapsed() > limit {
            bail!("waited {} s for {what}: {last}", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
