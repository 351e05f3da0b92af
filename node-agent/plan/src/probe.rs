//! Probes: when to probe, and what a row of results means.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Probe;

/// Which of a container's probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    /// As events spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// The numbers of a probe, defaulted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub initial_delay: SignedDuration,
    pub period: SignedDuration,
    pub timeout: SignedDuration,
    pub success_threshold: i32,
    pub failure_threshold: i32,
}

impl Timing {
    pub fn of(probe: &Probe) -> Self {
        let seconds = |value: Option<i32>, default: i32| {
            SignedDuration::from_secs(value.filter(|v| *v > 0).unwrap_or(default).into())
        };
        Self {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
        }
    }

    /// When the first probe of a container that started then is due.
    pub fn first_at(&self, started: Timestamp) -> Timestamp {
        started.saturating_add(self.initial_delay).unwrap_or(started)
    }
}

/// What a row of results adds up to so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Below both thresholds: what was said before still counts.
    Undecided,
    Success,
    Failure,
}

/// Counts results in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    last: Option<bool>,
    row: i32,
}

impl Tally {
    /// Adds a result.
    pub fn record(&mut self, success: bool, timing: &Timing) -> Verdict {
        self.row = if self.last == Some(success) { self.row.saturating_add(1) } else { 1 };
        self.last = Some(success);
        match success {
            true if self.row >= timing.success_threshold => Verdict::Success,
            false if self.row >= timing.failure_threshold => Verdict::Failure,
            _ => Verdict::Undecided,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_needs_results_in_a_row() {
        let timing = Timing::of(&Probe { success_threshold: Some(2), failure_threshold: Some(2), ..Probe::default() });
        let mut tally = Tally::default();
        let verdicts: Vec<Verdict> =
            [true, true, false, true, false, false, false].map(|r| tally.record(r, &timing)).into();
        use Verdict::{Failure, Success, Undecided};
        assert_eq!(verdicts, [Undecided, Success, Undecided, Undecided, Undecided, Failure, Failure]);
    }
}
