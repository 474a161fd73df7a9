//! Lowered: settings that the server or the account limits, made to fit, with what was wanted kept.
//!
//! The account information names the limits of the account; those of the server show only as it
//! refuses. What was wanted stays in the metadata, so that a plan does not find a difference for
//! ever.
//!
//! Source: measured on nats-server 2.15.1 (`jetstream.limits`): error 10052 "duplicates window can
//! not be larger then server limit of 1m0s", 10121 "consumer max ack pending exceeds system limit
//! of 1000", 10113 where the account has `max_bytes_required`.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream::{
    Error, ErrorCode,
    consumer::{self, pull},
    stream::{Config, ConsumerError, ConsumerErrorKind, DiscardPolicy, RetentionPolicy},
};
use millstream_stages::units::{Period, Size};

/// Metadata key with the duplicate window that was wanted, in milliseconds.
const WINDOW: &str = "millstream-wanted-duplicate-window-ms";
/// Metadata key of a stream whose `max_bytes` was set for the account's sake.
const LENT: &str = "millstream-lent-max-bytes";
/// Metadata key with the `max_ack_pending` that was wanted.
const ACK_PENDING: &str = "millstream-wanted-max-ack-pending";
/// Error code of a consumer that wants more acks pending than the server allows.
const ACK_PENDING_EXCEEDED: u64 = 10121;
/// Error code of a stream without `max_bytes` where the account requires one.
const MAX_BYTES_REQUIRED: u64 = 10113;

/// Makes a stream fit what the server said; false if that is not about a limit.
pub(super) fn stream(config: &mut Config, refused: &Error, lent: Option<u64>) -> bool {
    let said = refused.to_string();
    if let Some(limit) = after(&said, "server limit of ").and_then(go_duration)
        && limit < config.duplicate_window
    {
        let wanted = config.duplicate_window.as_millis().to_string();
        config.metadata.entry(WINDOW.to_owned()).or_insert(wanted);
        config.duplicate_window = limit;
        return true;
    }
    let is_required = code(refused) == MAX_BYTES_REQUIRED && config.max_bytes <= 0;
    if let (true, Some(lent)) = (is_required, lent) {
        lend(config, i64::try_from(lent).unwrap_or(i64::MAX));
        return true;
    }
    false
}

/// Limits a stream that declares no limit. One whose messages someone still has to settle then
/// refuses what is new, rather than drop what is oldest; the server does not allow that together
/// with schedules (2.15.1: "message scheduling cannot use discard new").
pub(super) fn lend(config: &mut Config, max_bytes: i64) {
    config.max_bytes = max_bytes;
    config.metadata.insert(LENT.to_owned(), "true".to_owned());
    if config.retention != RetentionPolicy::Limits && !config.allow_message_schedules {
        config.discard = DiscardPolicy::New;
    }
}

/// Makes a consumer fit what the server said; false if that is not about a limit.
pub(super) fn consumer(config: &mut pull::Config, refused: &ConsumerError) -> bool {
    let ConsumerErrorKind::JetStream(refused) = refused.kind() else { return false };
    let said = refused.to_string();
    let limit = after(&said, "limit of ").and_then(|text| text.parse::<i64>().ok());
    match limit.filter(|limit| *limit > 0 && *limit < config.max_ack_pending) {
        Some(limit) if code(&refused) == ACK_PENDING_EXCEEDED => {
            let wanted = config.max_ack_pending.to_string();
            config.metadata.entry(ACK_PENDING.to_owned()).or_insert(wanted);
            config.max_ack_pending = limit;
            true
        }
        _ => false,
    }
}

/// Takes the marks out, so that what is wanted is tried anew.
pub(super) fn forget(metadata: &mut HashMap<String, String>) {
    metadata.retain(|key, _| ![WINDOW, LENT, ACK_PENDING].contains(&key.as_str()));
}

/// True if the `max_bytes` of a stream was set for the account's sake.
pub(super) fn is_lent(config: &Config) -> bool {
    config.metadata.contains_key(LENT)
}

/// Duplicate window of a stream, as it was wanted.
pub(super) fn window(config: &Config) -> Duration {
    let wanted = config.metadata.get(WINDOW).and_then(|text| text.parse().ok());
    wanted.map_or(config.duplicate_window, |ms| {
        config.duplicate_window.max(Duration::from_millis(ms))
    })
}

/// `max_ack_pending` of a consumer, as it was wanted.
pub(super) fn max_ack_pending(config: &consumer::Config) -> u64 {
    let is = u64::try_from(config.max_ack_pending).unwrap_or(0);
    let wanted = config.metadata.get(ACK_PENDING).and_then(|text| text.parse().ok());
    wanted.map_or(is, |wanted: u64| wanted.max(is))
}

/// Settings of a stream that are lower than was wanted, a sentence each.
pub(super) fn of_stream(config: &Config) -> Vec<String> {
    let mut notes = Vec::new();
    let (is, wanted) = (config.duplicate_window, window(config));
    if is < wanted {
        notes.push(format!(
            "stream \"{}\": duplicate_window is {}, the most that the server allows, not {}",
            config.name,
            Period(is),
            Period(wanted)
        ));
    }
    if is_lent(config) {
        notes.push(format!(
            "stream \"{}\": max_bytes is {}, since the account requires a limit; max_bytes in \
             [storage] sets another",
            config.name,
            Size(u64::try_from(config.max_bytes).unwrap_or(0))
        ));
    }
    notes
}

/// Settings of a consumer that are lower than was wanted, as a sentence.
pub(super) fn of_consumer(info: &consumer::Info) -> Option<String> {
    let (is, wanted) = (info.config.max_ack_pending, max_ack_pending(&info.config));
    (u64::try_from(is).unwrap_or(0) < wanted).then(|| {
        format!(
            "consumer \"{}\" on stream \"{}\": max_ack_pending is {is}, the most that the server \
             allows, not {wanted}",
            info.name, info.stream_name
        )
    })
}

fn code(error: &Error) -> u64 {
    let ErrorCode(code) = error.error_code();
    code
}

/// Text after the last `what`.
fn after<'a>(text: &'a str, what: &str) -> Option<&'a str> {
    let at = text.rfind(what)? + what.len();
    let rest = &text[at..];
    Some(rest.split([' ', ',', ')', '"']).next().unwrap_or(rest).trim_end_matches('.'))
}

/// Reads a duration as Go writes it: `1m0s`, `1h0m0s`, `500ms`.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = &rest[digits..];
        let len = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        let seconds = match &unit[..len] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        sum += Duration::try_from_secs_f64(number * seconds).ok()?;
        rest = &unit[len..];
    }
    Some(sum).filter(|sum| !sum.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_read_as_go_writes_it() {
        let read = |text| go_duration(text).map(|read| read.as_millis());
        assert_eq!(
            ["1m0s", "1h30m0s", "500ms", "1.5s", "", "s", "5x"].map(read),
            [Some(60_000), Some(5_400_000), Some(500), Some(1500), None, None, None]
        );
        let said = "duplicates window can not be larger then server limit of 1m0s (10052)";
        assert_eq!(after(said, "server limit of "), Some("1m0s"));
    }
}
