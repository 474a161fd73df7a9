//! RFC 3339: times as text, in headers, keys and bodies.

use std::time::{Duration, SystemTime};

/// Time that [`rfc3339`] wrote; `None` for any other text.
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    Some(text.parse::<jiff::Timestamp>().ok()?.into())
}

/// Text of a time: RFC 3339 with milliseconds, UTC.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let stamp = i64::try_from(since.as_millis())
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", stamp.unwrap_or(jiff::Timestamp::MAX))
}
