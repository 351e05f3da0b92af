//! Time is an input. Only a binary makes a [`SystemClock`]; everything else is handed a [`Clock`], so that a simulation
//! can drive it.

use jiff::Timestamp;

/// Where `now` comes from.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The current instant, wall clock.
    fn now(&self) -> Timestamp;
}

/// The machine's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
