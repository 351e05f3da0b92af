//! Time and counts as the API writes them.

use jiff::{SignedDuration, Timestamp};

/// `now` as `metav1.Time` keeps it: a status that is compared with what was read back must not differ by a fraction.
pub fn seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// `at` + so many seconds, never past the end of time.
pub fn after(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// A count that the API omits when it is zero: written as what was there when it means the same.
pub fn positive(count: i32, old: Option<i32>) -> Option<i32> {
    if count == 0 && old.unwrap_or(0) == 0 { old } else { Some(count) }
}
