//! Breaker record: the state of one circuit breaker that the fleet shares, as the value of one key.

use jiff::{SignedDuration, Timestamp};
use millstream_stages::{Failure, incident::Severity, text};
use serde::{Deserialize, Serialize};
use tokio::time::Duration;

use super::finding::Finding;
use crate::limits;

/// State of one breaker that the fleet shares. Half open is not among it: each worker finds that
/// out by itself.
///
/// The times are for people. Nothing is decided by them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BreakerRecord {
    /// Open or closed.
    pub state: BreakerState,
    /// Class and message of the failure that opened it, on one line.
    pub reason: String,
    /// Time it is open before a worker may probe, from when that worker sees it.
    pub wait_ms: u64,
    /// Openings in a row: the first, and one more for each probe that failed.
    pub opens: u32,
    /// Time it opened, RFC 3339. A probe that fails does not change it.
    pub opened_at: Option<String>,
    /// Time the wait is over, RFC 3339.
    pub probe_at: Option<String>,
    /// Time it closed, RFC 3339; `None` while it is open.
    pub closed_at: Option<String>,
    /// Worker that wrote the record.
    pub by: String,
}

/// State of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BreakerState {
    /// Open: the handler counts as down.
    Open,
    /// Closed: the handler is called.
    #[default]
    Closed,
}

impl BreakerRecord {
    /// Record of a breaker that is open for `wait`, since `opened_at` or else since now.
    pub fn open(
        failure: &Failure,
        wait: Duration,
        opens: u32,
        opened_at: Option<String>,
        now: Timestamp,
        by: &str,
    ) -> Self {
        let probe_at =
            SignedDuration::try_from(wait).ok().and_then(|wait| now.checked_add(wait).ok());
        Self {
            state: BreakerState::Open,
            reason: text::excerpt(&failure.to_string(), limits::BREAKER_REASON_BYTES_MAX),
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            opens,
            opened_at: opened_at.or_else(|| Some(now.to_string())),
            probe_at: probe_at.map(|at| at.to_string()),
            closed_at: None,
            by: by.to_owned(),
        }
    }

    /// Finding of the monitor, where the breaker is open: one each time that it opens or a probe
    /// fails, so that the incident goes on for as long as the outage does.
    pub fn finding<'a>(&self, stage: &'a str, revision: u64) -> Option<Finding<'a>> {
        (self.state == BreakerState::Open).then(|| Finding {
            code: "BreakerOpened",
            severity: Severity::High,
            message: format!("the circuit breaker is open: {}", self.reason),
            stage,
            // Revisions begin at 1 again in a bucket that was made anew.
            id: format!(
                "breaker.{stage}.{revision}.{}",
                self.opened_at.as_deref().unwrap_or_default()
            ),
        })
    }

    /// Closes the breaker; the record of its opening stays.
    pub fn close(&mut self, now: Timestamp, by: &str) {
        self.state = BreakerState::Closed;
        self.probe_at = None;
        self.closed_at = Some(now.to_string());
        by.clone_into(&mut self.by);
    }

    /// Time it is open before a worker may probe.
    pub fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_ms)
    }

    /// Record in the value of a key; `None` if it is none of ours.
    pub fn read(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }

    pub fn written(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record is plain data")
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use millstream_stages::failure::class;

    use super::*;

    #[test]
    fn a_record_is_short_and_on_one_line() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let failure =
            Failure::retry(class::CONNECTION, format!("refused\r\n\x1b[2J{}", "x".repeat(10_000)));
        let mut record = BreakerRecord::open(&failure, Duration::from_secs(4), 3, None, now, "w-1");
        assert!(record.reason.len() <= limits::BREAKER_REASON_BYTES_MAX + '…'.len_utf8());
        assert!(!record.reason.chars().any(char::is_control));
        record.reason.truncate(24);
        let shown = |record: &BreakerRecord| serde_json::to_string_pretty(record).unwrap();
        expect![[r#"
            {
              "state": "open",
              "reason": "ConnectionError: refused",
              "wait_ms": 4000,
              "opens": 3,
              "opened_at": "2026-01-02T03:04:05Z",
              "probe_at": "2026-01-02T03:04:09Z",
              "closed_at": null,
              "by": "w-1"
            }"#]]
        .assert_eq(&shown(&record));
        record.close(now, "w-2");
        expect![[r#"
            {
              "state": "closed",
              "reason": "ConnectionError: refused",
              "wait_ms": 4000,
              "opens": 3,
              "opened_at": "2026-01-02T03:04:05Z",
              "probe_at": null,
              "closed_at": "2026-01-02T03:04:05Z",
              "by": "w-2"
            }"#]]
        .assert_eq(&shown(&record));
        assert_eq!(BreakerRecord::read(&record.written()), Some(record));
        assert_eq!(BreakerRecord::read(b"nonsense"), None);
    }
}
