//! Headers: names of the headers of every message, and the one sanitiser of their values.
//!
//! The `Millstream-` names are a stable contract: any client in any language may read them.

/// Id of the event, which survives every retry, park and redrive.
pub const EVENT_ID: &str = "Millstream-Event-Id";
/// Type of the event, such as `order.created`.
pub const EVENT_TYPE: &str = "Millstream-Event-Type";
/// Version of the event's type.
pub const EVENT_VERSION: &str = "Millstream-Event-Version";
/// Tenant the event belongs to.
pub const TENANT: &str = "Millstream-Tenant";
/// Envelope of the payload: `domain`, `cloudevents`, `raw` or `error`.
pub const ENVELOPE: &str = "Millstream-Envelope";
/// Trace the event belongs to, 32 hexadecimal digits.
pub const TRACE_ID: &str = "Millstream-Trace-Id";
/// W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// Message the event was first stored as: `<stream>:<seq>@<ms>`, with the time of the store.
pub const SOURCE: &str = "Millstream-Source";
/// Subject the event was first stored under.
pub const SOURCE_SUBJECT: &str = "Millstream-Source-Subject";
/// Stage that gave up on the event, or that a redriven event goes to.
pub const STAGE: &str = "Millstream-Stage";
/// Reason of a dead letter: `exhausted`, `rejected`, `crashed`, `undecodable`, `expired`,
/// `abandoned`.
pub const REASON: &str = "Millstream-Reason";
/// Class of the last failure.
pub const ERROR_CLASS: &str = "Millstream-Error-Class";
/// Message of the last failure, cut to 512 bytes.
pub const ERROR_MESSAGE: &str = "Millstream-Error-Message";
/// Fingerprint of the last failure.
pub const FINGERPRINT: &str = "Millstream-Fingerprint";
/// Attempts spent so far.
pub const ATTEMPTS: &str = "Millstream-Attempts";
/// Time at which the first attempt failed, RFC 3339.
pub const FIRST_FAILED_AT: &str = "Millstream-First-Failed-At";
/// Time at which the event was given up on, RFC 3339.
pub const DEAD_AT: &str = "Millstream-Dead-At";
/// Number of redrives of the event.
pub const REDRIVES: &str = "Millstream-Redrives";
/// Hash of the configuration that was running.
pub const CONFIG: &str = "Millstream-Config";
/// `apart` on a letter that would be too large with its payload: that is on the letter's subject
/// with `.body` added. An edited payload that is too large has a subject of its own:
/// `apart.<name>`, with `.body.<name>` added.
pub const BODY: &str = "Millstream-Body";
/// Bytes of a payload that is kept apart.
pub const BODY_BYTES: &str = "Millstream-Body-Bytes";
/// Inner: life of the event at its stage, `<stream>:<seq>@<ms>`. Parking keeps it, a redrive begins
/// a new one. On error events and letters: the life that failed.
pub const LIFE: &str = "Millstream-Life";
/// Outcome of a failed attempt, on its error event: `retry`, `park`, `defer`, or the reason of the
/// dead letter.
pub const OUTCOME: &str = "Millstream-Outcome";
/// Inner: time since which an event waits in the retry stream, parked again or not, RFC 3339. It
/// expires by this.
pub const QUEUED_AT: &str = "Millstream-Queued-At";
/// On a letter: reason why recovery will not redrive it by itself.
pub const PERMANENT: &str = "Millstream-Permanent";
/// On a letter: time at which its event was completed all the same, RFC 3339.
pub const COMPLETED_AT: &str = "Millstream-Completed-At";
/// On a letter: time at which its payload was last edited, RFC 3339. The original is kept.
pub const EDITED_AT: &str = "Millstream-Edited-At";
/// Edit of the payload before the last redrive: the time of it, in Unix milliseconds.
pub const EDIT: &str = "Millstream-Edit";
/// On a letter: person who edited it.
pub const EDITED_BY: &str = "Millstream-Edited-By";
/// On a letter: header block that its message had, in base64, where that was malformed; the first
/// 4 KiB of it.
pub const RAW_HEADERS: &str = "Millstream-Raw-Headers";
/// NATS: id by which the server drops duplicates.
pub const MSG_ID: &str = "Nats-Msg-Id";

/// Longest header value, in bytes, that [`clean`] lets through.
pub const VALUE_BYTES_MAX: usize = 512;

/// Makes text from outside fit for a header: control characters become spaces, at most 512 bytes.
///
/// CR or LF in a header value panics in the client (async-nats 0.51, `HeaderMap::insert`), so every
/// value that is not our own goes through here.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(VALUE_BYTES_MAX));
    for character in text.chars() {
        let character = if character.is_control() { ' ' } else { character };
        if out.len() + character.len_utf8() > VALUE_BYTES_MAX {
            break;
        }
        out.push(character);
    }
    out.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cleaned_value_has_no_control_characters_and_a_bounded_length(
            text in "\\PC*|[\\x00-\\x1f\\x7f-\\x9f]{0,40}|.{0,2000}",
        ) {
            let cleaned = clean(&text);
            prop_assert!(cleaned.len() <= VALUE_BYTES_MAX);
            prop_assert!(!cleaned.chars().any(char::is_control));
        }
    }
}
