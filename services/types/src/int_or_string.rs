//! `IntOrString`: `maxUnavailable: 1` or `maxUnavailable: 25%`, and ports by number or name.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number or a text, as in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// `1`
    Int(i32),
    /// `25%`, `http`
    String(String),
}

/// A text that is neither number nor percentage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid value for IntOrString: invalid type: string is not a percentage")]
pub struct NotAPercentage {
    /// The text.
    pub text: String,
}

impl IntOrString {
    /// From JSON; `None` when it is neither.
    pub fn from_value(value: &serde_json::Value) -> Option<Self> {
        match value {
            serde_json::Value::Number(n) => i32::try_from(n.as_i64()?).ok().map(Self::Int),
            serde_json::Value::String(text) => Some(Self::String(text.clone())),
            _ => None,
        }
    }

    /// `25` for `25%`; `None` for numbers and other texts.
    pub fn percent(&self) -> Option<i32> {
        match self {
            Self::Int(_) => None,
            Self::String(text) => text.strip_suffix('%')?.parse().ok(),
        }
    }

    /// The number, or the percentage of `total`, rounded up: for what may be added (`maxSurge`).
    pub fn scaled_up(&self, total: i32) -> Result<i32, NotAPercentage> {
        self.scaled(total, 99)
    }

    /// The number, or the percentage of `total`, rounded down: for what may be missing (`maxUnavailable` of a Deployment).
    pub fn scaled_down(&self, total: i32) -> Result<i32, NotAPercentage> {
        self.scaled(total, 0)
    }

    fn scaled(&self, total: i32, round: i64) -> Result<i32, NotAPercentage> {
        match self {
            Self::Int(value) => Ok(*value),
            Self::String(text) => {
                let percent = self.percent().ok_or_else(|| NotAPercentage { text: text.clone() })?;
                let value = (i64::from(percent) * i64::from(total) + round).div_euclid(100);
                Ok(i32::try_from(value).unwrap_or(i32::MAX))
            }
        }
    }
}

impl From<i32> for IntOrString {
    fn from(value: i32) -> Self {
        Self::Int(value)
    }
}

impl From<&str> for IntOrString {
    fn from(value: &str) -> Self {
        Self::String(value.into())
    }
}

impl fmt::Display for IntOrString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => value.fmt(f),
            Self::String(text) => text.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_the_way_that_is_asked_for() {
        let quarter = IntOrString::from("25%");
        assert_eq!((quarter.scaled_up(3), quarter.scaled_down(3)), (Ok(1), Ok(0)));
        assert_eq!((quarter.scaled_up(4), quarter.scaled_down(4)), (Ok(1), Ok(1)));
        assert_eq!(IntOrString::from(2).scaled_up(10), Ok(2));
        assert!(IntOrString::from("two").scaled_up(10).is_err());
    }
}
