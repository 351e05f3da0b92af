//! Cron schedules: five fields, names of months and days, ranges, lists and steps, and the `@` words.
//!
//! Day of month and day of week are alternatives where both are restricted, as in every cron. A time that a zone skips in
//! spring does not happen; one that it repeats in autumn happens once. Source: Kubernetes documentation, 'CronJob'; crontab(5).

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// A text that is no schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSchedule {
    /// What is wrong with it.
    pub why: String,
}

/// When something happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At the minutes that the fields name.
    Fields(Fields),
    /// `@every 90s`, counted from the last time.
    Every(SignedDuration),
}

/// Bit sets of the five fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    any_day: bool,
    any_weekday: bool,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// A schedule that names no day within this many days (leap years come every four, but for centuries) names none.
const HORIZON_DAYS: i64 = 8 * 366;

impl Schedule {
    /// Parses a schedule.
    pub fn parse(text: &str) -> Result<Self, BadSchedule> {
        let bad = |why: String| BadSchedule { why };
        let fields = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => {
                if let Some(duration) = other.strip_prefix("@every ") {
                    let every: SignedDuration =
                        duration.trim().parse().map_err(|_| bad(format!("failed to parse duration {other}")))?;
                    return Ok(Self::Every(every.max(SignedDuration::from_secs(1))));
                }
                if other.starts_with('@') {
                    return Err(bad(format!("unrecognized descriptor: {other}")));
                }
                other
            }
        };
        let parts: Vec<&str> = fields.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = parts[..] else {
            return Err(bad(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" "))));
        };
        Ok(Self::Fields(Fields {
            minutes: field(minutes, 0, 59, &[])?,
            hours: field(hours, 0, 23, &[])?,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, &MONTHS)?,
            weekdays: field(weekdays, 0, 7, &DAYS).map(|set| (set | (set >> 7)) & 0x7f)?,
            any_day: is_any(days),
            any_weekday: is_any(weekdays),
        }))
    }

    /// The first time after `after`, if there is one.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let fields = match self {
            Self::Every(every) => return after.checked_add(*every).ok(),
            Self::Fields(fields) => fields,
        };
        let mut local = zone.to_datetime(after);
        local = DateTime::new(local.year(), local.month(), local.day(), local.hour(), local.minute(), 0, 0).ok()?;
        local = local.checked_add(1.minute()).ok()?;
        let end = local.checked_add(HORIZON_DAYS.days()).ok()?;
        while local < end {
            if !fields.has_day(&local) {
                local = local.checked_add(1.day()).ok()?.date().to_datetime(jiff::civil::Time::midnight());
            } else if !has(fields.hours, local.hour()) {
                let hour = DateTime::new(local.year(), local.month(), local.day(), local.hour(), 0, 0, 0).ok()?;
                local = hour.checked_add(1.hour()).ok()?;
            } else if !has(fields.minutes, local.minute()) {
                local = local.checked_add(1.minute()).ok()?;
            } else {
                let ambiguous = zone.to_ambiguous_timestamp(local);
                let skipped = matches!(ambiguous.offset(), jiff::tz::AmbiguousOffset::Gap { .. });
                match ambiguous.earlier() {
                    Ok(at) if !skipped && at > after => return Some(at),
                    _ => local = local.checked_add(1.minute()).ok()?,
                }
            }
        }
        None
    }
}

impl Fields {
    fn has_day(&self, at: &DateTime) -> bool {
        let day = has(self.days, at.day());
        let weekday = has(self.weekdays, at.weekday().to_sunday_zero_offset());
        let either = if self.any_day || self.any_weekday { day && weekday } else { day || weekday };
        has(self.months, at.month()) && either
    }
}

fn has(set: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| set & (1 << value) != 0)
}

fn is_any(text: &str) -> bool {
    text == "*" || text == "?"
}

fn field(text: &str, low: u32, high: u32, names: &[&str]) -> Result<u64, BadSchedule> {
    let mut set = 0;
    for part in text.split(',') {
        let bad = |why: &str| BadSchedule { why: format!("{why}: {part}") };
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<u32>().map_err(|_| bad("failed to parse number"))?)),
            None => (part, None),
        };
        if step == Some(0) {
            return Err(bad("step of range should be a positive number"));
        }
        let (first, last) = if is_any(range) {
            (low, high.min(if names.len() == 7 { 6 } else { high }))
        } else {
            let (first, last) = range.split_once('-').map_or((range, None), |(first, last)| (first, Some(last)));
            let first = value(first, low, names).ok_or_else(|| bad("failed to parse number"))?;
            let last = match (last, step) {
                (Some(last), _) => value(last, low, names).ok_or_else(|| bad("failed to parse number"))?,
                (None, Some(_)) => high,
                (None, None) => first,
            };
            (first, last)
        };
        if first < low || last > high {
            return Err(bad(&format!("value out of range [{low}, {high}]")));
        }
        if first > last {
            return Err(bad("beginning of range beyond end of range"));
        }
        (first..=last).step_by(step.unwrap_or(1) as usize).for_each(|value| set |= 1 << value);
    }
    Ok(set)
}

fn value(text: &str, low: u32, names: &[&str]) -> Option<u32> {
    if let Some(position) = names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
        return Some(u32::try_from(position).ok()? + if names.len() == 12 { low } else { 0 });
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str) -> String {
        let schedule = Schedule::parse(schedule).unwrap();
        schedule.next(after.parse().unwrap(), &TimeZone::UTC).map_or("never".into(), |at| at.to_string())
    }

    #[test]
    fn schedules_name_their_next_time() {
        for (schedule, after, want) in [
            ("* * * * *", "2026-01-01T00:00:30Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:45:00Z", "2026-01-01T01:00:00Z"),
            ("0 3 * * 1-5", "2026-01-02T04:00:00Z", "2026-01-05T03:00:00Z"),
            ("0 0 29 feb *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("30 6 1,15 * sun", "2026-01-01T07:00:00Z", "2026-01-04T06:30:00Z"),
            ("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("5/20 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z"),
            ("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"),
            ("@every 90s", "2026-01-01T00:00:00Z", "2026-01-01T00:01:30Z"),
            ("0 0 31 2 *", "2026-01-01T00:00:00Z", "never"),
        ] {
            assert_eq!(next(schedule, after), want, "{schedule}");
        }
    }

    #[test]
    fn what_is_no_schedule_says_why() {
        for text in ["", "* * * *", "60 * * * *", "*/0 * * * *", "5-1 * * * *", "@often", "a * * * *"] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_zone_moves_the_time_and_skips_what_it_skips() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let daily = Schedule::parse("30 2 * * *").unwrap();
        let after = |text: &str| daily.next(text.parse().unwrap(), &zone).unwrap().to_string();
        assert_eq!(after("2026-01-01T00:00:00Z"), "2026-01-01T01:30:00Z");
        // 2:30 does not exist on March 29, 2026.
        assert_eq!(after("2026-03-28T12:00:00Z"), "2026-03-30T00:30:00Z");
    }
}
