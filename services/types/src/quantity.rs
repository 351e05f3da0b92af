//! `Quantity`: amounts of CPU, memory and other resources, in the text form of the Kubernetes API reference
//! (resource.Quantity).
//!
//! An amount is kept as a whole number of billionths, the finest step the API allows, so sums and comparisons are exact.
//! Equal amounts can be written in several ways (`1000m`, `1`); what is stored and shown is the canonical one, or else two
//! clients' writes of one value would look like a change.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const NANO: i128 = 1_000_000_000;
/// Amounts are capped at this many whole units, as the API does.
const MAX_UNITS: i128 = i64::MAX as i128;

/// Which suffixes the canonical form uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QuantityFormat {
    /// `Ki`, `Mi`, ...
    BinarySi,
    /// `m`, `k`, `M`, ...
    #[default]
    DecimalSi,
    /// `e3`, `e6`, ...
    DecimalExponent,
}

/// Why a text is no quantity; the texts are those of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not of the form number, suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The part before the suffix is no number.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The part after the number is no suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An amount, exact to a billionth. Compares by amount only: `1000m == 1`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nanos: i128,
    format: QuantityFormat,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0, format: QuantityFormat::DecimalSi };

    /// Whole units: cores, pods, ports.
    pub fn from_units(units: i64) -> Self {
        Self { nanos: i128::from(units) * NANO, format: QuantityFormat::DecimalSi }
    }

    /// Thousandths: `250` is `250m`.
    pub fn from_millis(millis: i64) -> Self {
        Self { nanos: i128::from(millis) * (NANO / 1000), format: QuantityFormat::DecimalSi }
    }

    /// Bytes, shown as `Ki`, `Mi`, ...
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nanos: i128::from(bytes) * NANO, format: QuantityFormat::BinarySi }
    }

    /// Whole units, rounded up (away from zero); bytes for memory.
    pub fn units(&self) -> i64 {
        clamp(div_away(self.nanos, NANO))
    }

    /// Thousandths, rounded up (away from zero).
    pub fn millis(&self) -> i64 {
        clamp(div_away(self.nanos, NANO / 1000))
    }

    /// Whether the amount is a whole number of units.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANO == 0
    }

    /// Whether the amount is a whole number of thousandths.
    pub fn is_whole_millis(&self) -> bool {
        self.nanos % (NANO / 1000) == 0
    }

    /// Whether nothing.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whether below nothing.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// How it is written.
    pub fn format(&self) -> QuantityFormat {
        self.format
    }

    /// `text` in canonical form; `None` when it is canonical already.
    pub fn canonicalize(text: &str) -> Result<Option<String>, QuantityError> {
        // Most quantities users write ("100m", "128Mi", "1") are canonical: decide that without allocating.
        if is_plainly_canonical(text) {
            return Ok(None);
        }
        let canonical = text.parse::<Self>()?.to_string();
        Ok((canonical != text).then_some(canonical))
    }
}

/// Small numbers with no sign, no leading zero, no fraction, and a suffix that cannot be a larger one.
fn is_plainly_canonical(text: &str) -> bool {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 || digits > 3 || text.starts_with('0') {
        return text == "0";
    }
    matches!(&text[digits..], "" | "m" | "k" | "M" | "G" | "T" | "Ki" | "Mi" | "Gi" | "Ti")
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

fn div_away(value: i128, by: i128) -> i128 {
    let (quotient, rest) = (value / by, value % by);
    quotient + rest.signum()
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        if text == "0" {
            return Ok(Self::ZERO);
        }
        let bytes = text.as_bytes();
        let signed = matches!(bytes.first(), Some(b'+' | b'-'));
        let start = usize::from(signed);
        let number_end =
            bytes[start..].iter().position(|b| !b.is_ascii_digit() && *b != b'.').map_or(bytes.len(), |at| at + start);
        let number = &text[start..number_end];
        if number.is_empty() {
            return Err(QuantityError::Format);
        }
        let suffix = &text[number_end..];
        check_suffix_form(suffix)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Numeric);
        }
        let (scale, format) = scale_of(suffix)?;
        let nanos = scaled(whole, fraction, scale);
        let nanos = nanos.min(MAX_UNITS * NANO);
        Ok(Self { nanos: if bytes[0] == b'-' { -nanos } else { nanos }, format })
    }
}

/// The suffix must be letters of the known set, then an optional sign and digits.
fn check_suffix_form(suffix: &str) -> Result<(), QuantityError> {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    if rest.bytes().all(|b| b.is_ascii_digit()) { Ok(()) } else { Err(QuantityError::Format) }
}

#[derive(Clone, Copy)]
enum Scale {
    Ten(i32),
    Two(u32),
}

fn scale_of(suffix: &str) -> Result<(Scale, QuantityFormat), QuantityError> {
    use QuantityFormat::{BinarySi, DecimalExponent, DecimalSi};
    Ok(match suffix {
        "" => (Scale::Ten(0), DecimalSi),
        "n" => (Scale::Ten(-9), DecimalSi),
        "u" => (Scale::Ten(-6), DecimalSi),
        "m" => (Scale::Ten(-3), DecimalSi),
        "k" => (Scale::Ten(3), DecimalSi),
        "M" => (Scale::Ten(6), DecimalSi),
        "G" => (Scale::Ten(9), DecimalSi),
        "T" => (Scale::Ten(12), DecimalSi),
        "P" => (Scale::Ten(15), DecimalSi),
        "E" => (Scale::Ten(18), DecimalSi),
        "Ki" => (Scale::Two(10), BinarySi),
        "Mi" => (Scale::Two(20), BinarySi),
        "Gi" => (Scale::Two(30), BinarySi),
        "Ti" => (Scale::Two(40), BinarySi),
        "Pi" => (Scale::Two(50), BinarySi),
        "Ei" => (Scale::Two(60), BinarySi),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
            let exponent: i32 = exponent.parse().map_err(|_| QuantityError::Suffix)?;
            (Scale::Ten(exponent), DecimalExponent)
        }
    })
}

/// `whole.fraction * scale` in billionths, rounded up, capped.
fn scaled(whole: &str, fraction: &str, scale: Scale) -> i128 {
    let cap = MAX_UNITS * NANO;
    let mut digits: i128 = 0;
    let mut kept_fraction = 0i32;
    let mut lost = false;
    for b in whole.bytes() {
        digits = (digits * 10 + i128::from(b - b'0')).min(cap);
    }
    for b in fraction.bytes() {
        // 18 fraction digits are beyond what any suffix can bring back above a billionth, but for an exponent's.
        if digits < 1_000_000_000_000_000_000_000 && kept_fraction < 18 {
            digits = digits * 10 + i128::from(b - b'0');
            kept_fraction += 1;
        } else if b != b'0' {
            lost = true;
        }
    }
    let (mut value, power) = match scale {
        Scale::Ten(exponent) => (digits, 9 + exponent.clamp(-60, 60) - kept_fraction),
        Scale::Two(bits) => (digits.saturating_mul(1i128 << bits), 9 - kept_fraction),
    };
    for _ in 0..power.max(0) {
        value = value.saturating_mul(10);
    }
    for _ in 0..(-power).max(0) {
        lost |= value % 10 != 0;
        value /= 10;
    }
    value.saturating_add(i128::from(lost)).min(cap)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let binary = self.format == QuantityFormat::BinarySi && self.is_whole() && self.nanos.abs() >= 1024 * NANO;
        if binary {
            let (mut value, mut step) = (self.nanos / NANO, 0);
            while value % 1024 == 0 && step < BINARY.len() - 1 {
                value /= 1024;
                step += 1;
            }
            return write!(f, "{value}{}", BINARY[step]);
        }
        let (mut value, mut step) = (self.nanos, 0);
        while value % 1000 == 0 && step < DECIMAL.len() - 1 {
            value /= 1000;
            step += 1;
        }
        match (self.format, step) {
            (QuantityFormat::DecimalExponent, 3) => write!(f, "{value}"),
            (QuantityFormat::DecimalExponent, _) => write!(f, "{value}e{}", step as i32 * 3 - 9),
            _ => write!(f, "{value}{}", DECIMAL[step]),
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl std::hash::Hash for Quantity {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        // A zero takes the other's format, so that sums that start at `Quantity::ZERO` read as their parts do.
        if self.nanos == 0 {
            self.format = other.format;
        }
        self.nanos = self.nanos.saturating_add(other.nanos);
    }
}

impl Add for Quantity {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        if self.nanos == 0 {
            self.format = other.format;
        }
        self.nanos = self.nanos.saturating_sub(other.nanos);
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(mut self, other: Self) -> Self {
        self -= other;
        self
    }
}

impl Neg for Quantity {
    type Output = Self;

    fn neg(self) -> Self {
        Self { nanos: -self.nanos, format: self.format }
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Quantity, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: serde::de::Error>(self, units: i64) -> Result<Quantity, E> {
                Ok(Quantity::from_units(units))
            }

            fn visit_u64<E: serde::de::Error>(self, units: u64) -> Result<Quantity, E> {
                Ok(Quantity::from_units(i64::try_from(units).unwrap_or(i64::MAX)))
            }

            fn visit_f64<E: serde::de::Error>(self, units: f64) -> Result<Quantity, E> {
                self.visit_str(&units.to_string())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_one_canonical_form() {
        for (text, canonical) in [
            ("0", "0"),
            ("0m", "0"),
            ("1", "1"),
            ("1000m", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("5.", "5"),
            ("1500m", "1500m"),
            ("100m", "100m"),
            ("0.1m", "100u"),
            ("1024Mi", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("1023Ki", "1023Ki"),
            ("1Ki", "1Ki"),
            ("1000", "1k"),
            ("1000Mi", "1000Mi"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("129M", "129M"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("1E", "1E"),
            ("1000k", "1M"),
            ("-1", "-1"),
            ("+1", "1"),
            ("0.0000000001", "1n"),
            ("100E", "9223372036854775807"),
            ("007", "7"),
            ("0.001", "1m"),
            ("12e-1", "1200e-3"),
        ] {
            assert_eq!(text.parse::<Quantity>().expect(text).to_string(), canonical, "{text}");
            assert_eq!(
                Quantity::canonicalize(text).expect(text),
                (text != canonical).then(|| canonical.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn texts_that_are_no_quantities_say_why() {
        for (text, error) in [
            ("", QuantityError::Format),
            ("abc", QuantityError::Format),
            ("1x", QuantityError::Format),
            ("1 Gi", QuantityError::Format),
            ("-", QuantityError::Format),
            ("1.2.3", QuantityError::Numeric),
            ("1MM", QuantityError::Suffix),
            ("1mi", QuantityError::Suffix),
            ("1GiGi", QuantityError::Suffix),
        ] {
            assert_eq!(text.parse::<Quantity>(), Err(error), "{text}");
        }
    }

    #[test]
    fn values_round_up() {
        let q = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(q("100m").units(), 1);
        assert_eq!(q("100m").millis(), 100);
        assert_eq!(q("1u").millis(), 1);
        assert_eq!(q("1Gi").units(), 1 << 30);
        assert_eq!((q("1Gi") + q("1Gi")).to_string(), "2Gi");
        assert_eq!((q("1") - q("100m")).to_string(), "900m");
        assert!(q("1500m") > q("1"));
        assert_eq!([q("64Mi"), q("64Mi")].into_iter().sum::<Quantity>().to_string(), "128Mi");
    }
}
