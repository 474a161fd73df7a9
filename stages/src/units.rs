//! Units: durations and sizes as people write them, `"30s"` and `"64MiB"`.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Duration written with its unit: `"250ms"`, `"30s"`, `"5m"`, `"1h30m"`, `"7d"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Period(pub Duration);

/// Size written with its unit: `"512KiB"`, `"64MiB"`, `"10GiB"`, `"100B"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Size(pub u64);

const PERIOD_UNITS: &[(&str, u64)] =
    &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const SIZE_UNITS: &[(&str, u64)] =
    &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl Period {
    /// Returns a period of whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

/// Returns a period in milliseconds, at most `u64::MAX`.
pub(crate) fn ms(period: Period) -> u64 {
    u64::try_from(period.0.as_millis()).unwrap_or(u64::MAX)
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "expected a duration with its unit, such as \"30s\", \"250ms\" or \"1h30m\", got \
                 \"{text}\""
            )
        };
        if text.is_empty() {
            return Err(wrong());
        }
        let (mut rest, mut total_ms) = (text, 0_u64);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let (number, tail) = rest.split_at(digits);
            let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(end);
            let (_, ms) = PERIOD_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
            let part =
                number.parse::<u64>().ok().and_then(|n| n.checked_mul(*ms)).ok_or_else(wrong)?;
            total_ms = total_ms.checked_add(part).ok_or_else(wrong)?;
            rest = tail;
        }
        Ok(Self(Duration::from_millis(total_ms)))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest_ms = ms(*self);
        if rest_ms == 0 {
            return f.write_str("0s");
        }
        for (unit, ms) in PERIOD_UNITS {
            if rest_ms >= *ms {
                write!(f, "{}{unit}", rest_ms / ms)?;
                rest_ms %= ms;
            }
        }
        Ok(())
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("expected a size with its unit, such as \"64MiB\" or \"10GiB\", got \"{text}\"")
        };
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = text.split_at(digits);
        let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        number.parse::<u64>().ok().and_then(|n| n.checked_mul(*bytes)).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, bytes) =
            SIZE_UNITS.iter().find(|(_, bytes)| self.0.is_multiple_of(*bytes)).unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / bytes)
    }
}

/// Gives a type that is written as a string its serde and JSON Schema forms.
macro_rules! written_as_text {
    ($type:ident, $pattern:literal, $about:literal) => {
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": $about })
            }
        }
    };
}

written_as_text!(
    Period,
    "^([0-9]+(d|h|m|s|ms))+$",
    "a duration with its unit, such as \"30s\", \"250ms\" or \"1h30m\""
);
written_as_text!(
    Size,
    "^[0-9]+(B|KiB|MiB|GiB)$",
    "a size with its unit, such as \"64MiB\" or \"10GiB\""
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_duration_without_a_unit_is_refused() {
        assert_eq!(
            "30".parse::<Period>().unwrap_err(),
            "expected a duration with its unit, such as \"30s\", \"250ms\" or \"1h30m\", got \"30\""
        );
        for text in ["", "s", "3x", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615d"]
        {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
        assert_eq!("1h30m".parse::<Period>().unwrap().0, Duration::from_secs(5400));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(ms in 0..=u64::MAX / 2, bytes: u64) {
            let period = Period(Duration::from_millis(ms));
            prop_assert_eq!(period.to_string().parse::<Period>().unwrap(), period);
            prop_assert_eq!(Size(bytes).to_string().parse::<Size>().unwrap(), Size(bytes));
        }
    }
}
