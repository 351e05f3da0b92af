//! Scalars with a form of their own: times, base64, and what the API server says of those it cannot read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

/// `text` in the form the API server writes; `None` when it has that form already.
pub(super) fn time(text: &str) -> Result<Option<String>, String> {
    if is_plain_time(text) {
        return Ok(None);
    }
    let at = parse_time(text)?;
    let canonical = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    Ok((canonical != text).then_some(canonical))
}

/// As [`time`], to the microsecond.
pub(super) fn micro_time(text: &str) -> Result<Option<String>, String> {
    let at = parse_time(text)?;
    let canonical = at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    Ok((canonical != text).then_some(canonical))
}

/// `2026-01-31T10:00:00Z`, with a day that every month has: the rest is decided by parsing.
fn is_plain_time(text: &str) -> bool {
    let b = text.as_bytes();
    let digits = |range: std::ops::Range<usize>, max: u32| {
        let mut value = 0;
        b[range].iter().all(|d| {
            value = value * 10 + u32::from(d.wrapping_sub(b'0'));
            d.is_ascii_digit()
        }) && value <= max
    };
    b.len() == 20
        && (b[4], b[7], b[10], b[13], b[16], b[19]) == (b'-', b'-', b'T', b':', b':', b'Z')
        && digits(0..4, 9998)
        && digits(5..7, 12)
        && &b[5..7] != b"00"
        && digits(8..10, 28)
        && &b[8..10] != b"00"
        && digits(11..13, 23)
        && digits(14..16, 59)
        && digits(17..19, 59)
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    // jiff also takes a blank for the T, and lower case: RFC 3339 as Go reads it does not.
    let plausible = text.as_bytes().get(10) == Some(&b'T') && !text.contains(['[', 'z', ' ']);
    match text.parse() {
        Ok(at) if plausible => Ok(at),
        _ => Err(format!(
            "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {:?} as {:?}",
            unparsed(text),
            expected(text)
        )),
    }
}

/// How far the fixed part of the layout fits: the piece of the text, and of the layout, where it stops.
fn fit(text: &str) -> (usize, &'static str) {
    const PIECES: [(usize, &str); 12] = [
        (4, "2006"),
        (1, "-"),
        (2, "01"),
        (1, "-"),
        (2, "02"),
        (1, "T"),
        (2, "15"),
        (1, ":"),
        (2, "04"),
        (1, ":"),
        (2, "05"),
        (0, "Z07:00"),
    ];
    let mut at = 0;
    for (length, piece) in PIECES {
        let fits = text.get(at..at + length).is_some_and(|part| {
            if length > 0 && piece.starts_with(|c: char| c.is_ascii_digit()) {
                part.bytes().all(|b| b.is_ascii_digit())
            } else {
                part == piece
            }
        });
        if !fits {
            return (at, piece);
        }
        at += length;
    }
    (at, "Z07:00")
}

fn unparsed(text: &str) -> &str {
    text.get(fit(text).0..).unwrap_or("")
}

fn expected(text: &str) -> &'static str {
    fit(text).1
}

/// `text` as canonical base64; `None` when it is that already.
pub(super) fn base64(text: &str) -> Result<Option<String>, String> {
    let decoded = match STANDARD.decode(text) {
        Ok(_) => return Ok(None),
        Err(_) if text.contains(['\r', '\n']) => {
            // Line breaks are skipped, as Go's decoder does.
            let joined: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
            STANDARD.decode(&joined).map_err(|e| (e, joined.len()))
        }
        Err(error) => Err((error, text.len())),
    };
    match decoded {
        Ok(bytes) => Ok(Some(STANDARD.encode(bytes))),
        Err((error, length)) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                base64::DecodeError::InvalidLength(_) => length / 4 * 4,
                base64::DecodeError::InvalidPadding => length,
            };
            Err(format!("illegal base64 data at input byte {at}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_in_utc() {
        assert_eq!(time("2026-01-28T10:00:00Z"), Ok(None));
        assert_eq!(time("2026-01-31T10:00:00Z"), Ok(None));
        assert_eq!(time("2026-01-31T12:00:00.5+02:00"), Ok(Some("2026-01-31T10:00:00Z".into())));
        assert_eq!(micro_time("2026-01-31T10:00:00Z"), Ok(Some("2026-01-31T10:00:00.000000Z".into())));
        assert_eq!(
            time("yesterday").unwrap_err(),
            "parsing time \"yesterday\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"yesterday\" as \"2006\""
        );
        assert!(time("2026-02-31T10:00:00Z").is_err());
    }

    #[test]
    fn base64_is_checked() {
        assert_eq!(base64("aGk="), Ok(None));
        assert_eq!(base64("aG\nk="), Ok(Some("aGk=".into())));
        assert_eq!(base64("a?k=").unwrap_err(), "illegal base64 data at input byte 1");
        assert!(base64("aGk").is_err());
    }
}
