//! A wall clock that tokio's time moves: with paused time, a simulation's clock.

use std::time::Duration;

use galley_types::Clock;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Starts at a given time and moves with tokio's clock, and by hand. Make it inside a runtime.
#[derive(Debug)]
pub struct TokioClock {
    start: Timestamp,
    since: Instant,
    ahead: Mutex<Duration>,
}

impl TokioClock {
    /// Starts at `start`.
    pub fn at(start: Timestamp) -> Self {
        Self { start, since: Instant::now(), ahead: Mutex::default() }
    }

    /// Moves the wall clock alone.
    pub fn advance(&self, by: Duration) {
        *self.ahead.lock() += by;
    }
}

impl Default for TokioClock {
    /// A morning in 2026.
    fn default() -> Self {
        Self::at(Timestamp::from_second(1_767_254_400).expect("a valid time"))
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        let passed = self.since.elapsed() + *self.ahead.lock();
        self.start + SignedDuration::try_from(passed).unwrap_or(SignedDuration::MAX)
    }
}
