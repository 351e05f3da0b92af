//! Reading resource quantities: the numbers that cgroups want.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A quantity in thousandths, rounded up; `None` if the text is none.
fn parse_milli(text: &str) -> Option<i128> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    // `1e3` is an exponent, `1E` is exa.
    let (numerator, denominator): (i128, i128) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        other => {
            let exponent: i32 = other.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    };
    let negative = number.starts_with('-');
    let number = number.trim_start_matches(['+', '-']);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = &fraction[..fraction.len().min(12)];
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10i128.pow(fraction.len() as u32) * denominator;
    let scaled = digits.checked_mul(numerator)?.checked_mul(1000)?;
    let milli = (scaled + scale - 1) / scale;
    Some(if negative { -milli } else { milli })
}

/// The quantity in thousandths, rounded up; 0 if it is malformed (the API server has validated it).
pub fn milli(quantity: &Quantity) -> i64 {
    parse_milli(&quantity.0).and_then(|m| i64::try_from(m).ok()).unwrap_or(0)
}

/// The quantity in whole units, rounded up; 0 if it is malformed.
pub fn whole(quantity: &Quantity) -> i64 {
    parse_milli(&quantity.0).and_then(|m| i64::try_from((m + 999).div_euclid(1000)).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_round_up_in_every_unit() {
        for (text, as_milli, as_whole) in [
            ("100m", 100, 1),
            ("1", 1000, 1),
            ("1.5", 1500, 2),
            ("64Mi", 67_108_864_000, 67_108_864),
            ("1e3", 1_000_000, 1000),
            ("128M", 128_000_000_000, 128_000_000),
            ("1n", 1, 1),
            ("0", 0, 0),
            ("nonsense", 0, 0),
        ] {
            let q = Quantity(text.into());
            assert_eq!((milli(&q), whole(&q)), (as_milli, as_whole), "{text}");
        }
    }
}
