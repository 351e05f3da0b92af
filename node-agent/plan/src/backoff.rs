//! How long to wait before trying again.
//!
//! The delay after a container ends is a property of the instance that ended ([`Container::restart_delay`]): nothing for the
//! first instance, then 10 s, doubled up to 300 s. An instance that ran for ten minutes has earned a fresh start.

use jiff::{SignedDuration, Timestamp};

use crate::observed::Container;

/// The first delay, in seconds.
const RESTART_DELAY_MIN: u32 = 10;
/// The longest delay, in seconds.
pub const RESTART_DELAY_MAX: u32 = 300;
/// A run this long (seconds) resets the delay: twice the longest delay, as kubelet does.
const GOOD_RUN: i64 = 600;

/// The delay that counts for an instance that has ended.
fn delay_of(ended: &Container) -> u32 {
    let ran = match (ended.started_at, ended.finished_at) {
        (Some(from), Some(to)) => to.as_second() - from.as_second(),
        _ => 0,
    };
    if ran >= GOOD_RUN { 0 } else { ended.restart_delay }
}

/// When the successor of an instance that has ended may start.
pub fn restart_at(ended: &Container) -> Timestamp {
    let from = ended.finished_at.unwrap_or(ended.created_at);
    from.saturating_add(SignedDuration::from_secs(delay_of(ended).into())).unwrap_or(from)
}

/// The restart delay to record on the successor of `ended` (none: the first instance).
pub fn next_restart_delay(ended: Option<&Container>) -> u32 {
    match ended {
        None => 0,
        Some(ended) => delay_of(ended).saturating_mul(2).clamp(RESTART_DELAY_MIN, RESTART_DELAY_MAX),
    }
}

/// The wait after the `count`th failed image pull or container creation in a row (1 is the first).
pub fn pull_delay(count: u32) -> SignedDuration {
    let factor = 1u32 << count.saturating_sub(1).min(5);
    SignedDuration::from_secs((RESTART_DELAY_MIN * factor).min(RESTART_DELAY_MAX).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, exited};

    #[test]
    fn the_delay_doubles_from_ten_seconds_to_five_minutes() {
        let mut delay = next_restart_delay(None);
        let mut seen = vec![delay];
        for _ in 0..7 {
            let mut instance = exited("app", 0, 1);
            instance.restart_delay = delay;
            delay = next_restart_delay(Some(&instance));
            seen.push(delay);
        }
        assert_eq!(seen, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_run_of_ten_minutes_resets_the_delay() {
        let mut instance = exited("app", 4, 1);
        instance.restart_delay = 160;
        instance.started_at = Some(at(0));
        instance.finished_at = Some(at(600));
        assert_eq!(restart_at(&instance), at(600));
        assert_eq!(next_restart_delay(Some(&instance)), 10);
    }

    #[test]
    fn pulls_back_off_up_to_five_minutes() {
        let seen: Vec<i64> = (1..=7).map(|n| pull_delay(n).as_secs()).collect();
        assert_eq!(seen, [10, 20, 40, 80, 160, 300, 300]);
    }
}
