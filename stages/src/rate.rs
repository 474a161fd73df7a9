//! Rate: so many in a period, as people write it: `"20/min"`, `"5/s"`, `"1/h"`.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Rate: at most so many in any period of this length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Number of times, at least one.
    pub count: u32,
    /// Period in which they may be.
    pub per: Per,
}

/// Period of a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
}

/// Pattern of a rate as it must be written.
pub const PATTERN: &str = "^[1-9][0-9]{0,5}/(s|min|h)$";
/// Words for [`PATTERN`].
pub const WORDS: &str = "a rate, such as \"20/min\", \"5/s\" or \"100/h\"";

impl Per {
    const ALL: [Self; 3] = [Self::Second, Self::Minute, Self::Hour];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Second => "s",
            Self::Minute => "min",
            Self::Hour => "h",
        }
    }

    /// Returns the length of the period.
    pub const fn length(self) -> Duration {
        match self {
            Self::Second => Duration::from_secs(1),
            Self::Minute => Duration::from_secs(60),
            Self::Hour => Duration::from_secs(3600),
        }
    }
}

impl Rate {
    /// Returns a rate of so many a second.
    pub const fn per_second(count: u32) -> Self {
        Self { count, per: Per::Second }
    }

    /// Returns a rate of so many a minute.
    pub const fn per_minute(count: u32) -> Self {
        Self { count, per: Per::Minute }
    }

    /// Returns the mean number of times a second.
    pub fn a_second(self) -> f64 {
        f64::from(self.count) / self.per.length().as_secs_f64()
    }

    /// Returns the rate in the unit that it would be written in, from times a second; rounded.
    pub fn shown(a_second: f64) -> String {
        let whole = |a_period: f64| a_period >= 1.0 && (a_period - a_period.round()).abs() < 1e-6;
        let of = |per: Per| a_second * per.length().as_secs_f64();
        let per = Per::ALL.into_iter().find(|per| whole(of(*per))).unwrap_or(Per::Hour);
        format!("{}/{}", of(per).round(), per.as_str())
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected {WORDS}, got \"{text}\"");
        let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
        let per = Per::ALL.into_iter().find(|per| per.as_str() == unit).ok_or_else(wrong)?;
        let count = count.parse().ok().filter(|count| *count > 0).ok_or_else(wrong)?;
        Ok(Self { count, per })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.per.as_str())
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Rate {
    fn schema_name() -> Cow<'static, str> {
        "Rate".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": PATTERN, "description": WORDS })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_as_it_is_written_and_holds_its_period() {
        for text in ["1/h", "100/h", "20/min", "5/s", "999999/s"] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.to_string(), text);
            assert_eq!(Rate::shown(rate.a_second()), text);
        }
        let hourly: Rate = "1/h".parse().unwrap();
        assert!((hourly.a_second() * 3600.0 - 1.0).abs() < 1e-9);
        assert_eq!(Rate::shown(Rate::per_minute(60).a_second()), "1/s", "the same, shorter");
        assert_eq!(Rate::shown(0.37), "1332/h");
        for text in ["", "5", "0/s", "5/d", "-1/s", "1.5/s", "5 /s", "99999999999/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
