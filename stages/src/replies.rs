//! Replies: meaning of the answers of HTTP services, NATS services and child processes.

mod exec;

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

pub use self::exec::{ExecLine, exec_line, exec_request, is_exec_reply};
use crate::{Failure, failure::class, text::excerpt};

/// NATS: description of the error of a service that failed.
///
/// Source: <https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-32.md>,
/// "Error Handling".
pub const SERVICE_ERROR: &str = "Nats-Service-Error";
/// NATS: code of a service's failure.
pub const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";

/// Longest class that a handler may give its failures, in bytes: it becomes a header and a subject
/// token.
pub const CLASS_BYTES_MAX: usize = 64;

/// Bytes of a reply's text that go into a failure's message.
const EXCERPT_BYTES_MAX: usize = 200;

/// Reads the status of an HTTP reply: handled, or a failure.
///
/// | Status | Meaning |
/// |---|---|
/// | 2xx | handled |
/// | 3xx | rejected: redirects are not followed |
/// | 400, 422 | rejected as a [`class::VALIDATION`] error |
/// | 408, 425 | retried as a [`class::TIMEOUT`] |
/// | 429 | retried as [`class::RATE_LIMITED`], after `Retry-After` |
/// | other 4xx | rejected as a [`class::HTTP_CLIENT`] error |
/// | 5xx and anything else | retried as a [`class::HTTP_SERVER`] error, after `Retry-After` |
///
/// `retry_after` is [`retry_after`] of the reply's `Retry-After`; `body` is the start of its body,
/// for the message.
///
/// # Errors
/// The failure that the status stands for.
pub fn http_reply(status: u16, retry_after: Option<Duration>, body: &str) -> Result<(), Failure> {
    if (200..300).contains(&status) {
        return Ok(());
    }
    Err(by_status(status, &with_excerpt(format!("http {status}"), body), retry_after))
}

/// Reads the error headers of a NATS service's reply: the code counts as an HTTP status.
///
/// A code that is no HTTP error is retried as a [`class::HANDLER`] failure.
pub fn service_error(code: &str, description: &str) -> Failure {
    let message = with_excerpt(format!("service error {}", excerpt(code, 20)), description);
    match code.trim().parse() {
        Ok(status @ 400..600) => by_status(status, &message, None),
        _ => Failure::retry(class::HANDLER, message),
    }
}

/// Returns the wait that a `Retry-After` header asks for: seconds, or an HTTP date, seen from
/// `now`.
///
/// A date that has passed asks for no wait; any other value is ignored.
///
/// Source: RFC 9110, section 10.2.3.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    let until = SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(until.as_second().try_into().ok()?))?;
    Some(until.duration_since(now).unwrap_or_default())
}

/// Returns a handler's own class, where it can be one; else [`class::HANDLER`].
///
/// A class is up to [`CLASS_BYTES_MAX`] letters, digits, dots, dashes and underscores.
pub fn own_class(class: &str) -> Cow<'static, str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if (1..=CLASS_BYTES_MAX).contains(&class.len()) && class.bytes().all(fits) {
        Cow::Owned(class.to_owned())
    } else {
        Cow::Borrowed(class::HANDLER)
    }
}

/// Returns the failure that an HTTP status other than 2xx stands for.
fn by_status(status: u16, message: &str, retry_after: Option<Duration>) -> Failure {
    let failure = match status {
        300..400 => {
            Failure::reject(class::HTTP_CLIENT, format!("{message} (redirects are not followed)"))
        }
        400 | 422 => Failure::reject(class::VALIDATION, message),
        408 | 425 => Failure::retry(class::TIMEOUT, message),
        429 => Failure::retry(class::RATE_LIMITED, message),
        401..500 => Failure::reject(class::HTTP_CLIENT, message),
        _ => Failure::retry(class::HTTP_SERVER, message),
    };
    match retry_after {
        Some(wait) => failure.after(wait),
        None => failure,
    }
}

/// Returns `what: excerpt`, or `what` alone where there is nothing to add.
fn with_excerpt(what: String, text: &str) -> String {
    match excerpt(text, EXCERPT_BYTES_MAX) {
        text if text.is_empty() => what,
        text => format!("{what}: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::shown;
    use expect_test::expect;
    use proptest::prelude::*;

    #[test]
    fn every_http_status_is_handled_retried_or_rejected() {
        let line = |status: u16| {
            let wait = Some(Duration::from_secs(7)).filter(|_| matches!(status, 301 | 429 | 503));
            format!(
                "{status} {}\n",
                shown(http_reply(status, wait, if status == 422 { "no\r\nstock" } else { "" }))
            )
        };
        let statuses =
            [200, 204, 301, 400, 401, 404, 408, 409, 422, 425, 429, 500, 503, 504, 599, 101];
        expect![[r#"
            200 ()
            204 ()
            301 Reject HttpClientError: http 301 (redirects are not followed)
            400 Reject ValidationError: http 400
            401 Reject HttpClientError: http 401
            404 Reject HttpClientError: http 404
            408 Retry { after: None } TimeoutError: http 408
            409 Reject HttpClientError: http 409
            422 Reject ValidationError: http 422: no  stock
            425 Retry { after: None } TimeoutError: http 425
            429 Retry { after: Some(7s) } RateLimited: http 429
            500 Retry { after: None } HttpServerError: http 500
            503 Retry { after: Some(7s) } HttpServerError: http 503
            504 Retry { after: None } HttpServerError: http 504
            599 Retry { after: None } HttpServerError: http 599
            101 Retry { after: None } HttpServerError: http 101
        "#]]
        .assert_eq(&statuses.map(line).concat());
        let long = http_reply(500, None, &"x".repeat(10_000)).unwrap_err();
        assert!(long.message.len() < 300);
    }

    #[test]
    fn a_service_error_is_read_as_a_status_where_it_is_one() {
        let line = |code: &str| {
            format!("{code}: {}\n", shown(Err::<(), _>(service_error(code, "out of stock"))))
        };
        expect![[r#"
            400: Reject ValidationError: service error 400: out of stock
            404: Reject HttpClientError: service error 404: out of stock
            429: Retry { after: None } RateLimited: service error 429: out of stock
            503: Retry { after: None } HttpServerError: service error 503: out of stock
            200: Retry { after: None } HandlerError: service error 200: out of stock
            42: Retry { after: None } HandlerError: service error 42: out of stock
            OUT_OF_STOCK: Retry { after: None } HandlerError: service error OUT_OF_STOCK: out of stock
            : Retry { after: None } HandlerError: service error : out of stock
        "#]]
        .assert_eq(
            &["400", "404", "429", "503", "200", "42", "OUT_OF_STOCK", ""].map(line).concat(),
        );
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        for (value, wait) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(retry_after(value, now), wait.map(Duration::from_secs), "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_reply_makes_reading_it_panic(line: Vec<u8>, status: u16, code: String, text: String) {
            drop(exec_line(&line, &code, false));
            drop(service_error(&code, &text));
            retry_after(&text, SystemTime::UNIX_EPOCH);
            prop_assert_eq!(http_reply(status, None, &text).is_ok(), (200..300).contains(&status));
        }
    }
}
