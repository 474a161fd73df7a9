//! Canary: the first letters of a job, sent before the others, and their outcomes.

use serde::{Deserialize, Serialize};

/// The letters that a job tries first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Canary {
    /// Number of letters.
    pub count: u32,
    /// Share of them that may fail. Above it the job stops.
    pub stop_above: f64,
    /// Last sequence of the stream of failed attempts when the first was sent.
    pub failed_from: Option<u64>,
    /// Letters that were sent.
    pub sent: Vec<Probe>,
    /// Summary of the outcomes, once all are known, and the rest may follow.
    pub verdict: Option<String>,
}

/// One letter of a canary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// Sequence of the letter.
    pub letter: u64,
    /// The stage it was sent to.
    pub stage: String,
    /// Source of its event, `<stream>:<seq>@<ms>`.
    pub source: String,
    /// Life that its event began when it was sent: the place of the letter.
    #[serde(default)]
    pub life: Option<String>,
    /// Sequence of its event in the retry stream.
    pub retry_seq: u64,
    /// Outcome; `None`: not known yet.
    pub fate: Option<Fate>,
}

/// Outcome of one letter of a canary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fate {
    /// Handled.
    Done,
    /// Failed, with class and message.
    Failed(String),
}

impl Canary {
    /// Canary of `count` letters, of which at most the share `stop_above` may fail.
    pub fn new(count: u32, stop_above: f64) -> Self {
        Self { count, stop_above, failed_from: None, sent: Vec::new(), verdict: None }
    }

    /// Number of failures so far, and the text of the last.
    pub fn failures(&self) -> (usize, Option<&str>) {
        let failed = || {
            self.sent.iter().filter_map(|probe| match &probe.fate {
                Some(Fate::Failed(why)) => Some(why.as_str()),
                Some(Fate::Done) | None => None,
            })
        };
        (failed().count(), failed().next_back())
    }

    /// Number of letters without an outcome.
    pub fn undecided(&self) -> usize {
        self.sent.iter().filter(|probe| probe.fate.is_none()).count()
    }

    /// True if more failed than may, of all that were sent.
    pub fn is_bad(&self) -> bool {
        self.failures().0 as f64 > self.stop_above * self.sent.len() as f64
    }

    /// Summary: "3 of 10 failed, 2 undecided: HttpServerError: 503 from …".
    pub fn summary(&self) -> String {
        let (failed, last) = self.failures();
        let last = last.map(|last| format!(": {last}")).unwrap_or_default();
        let undecided = match self.undecided() {
            0 => String::new(),
            undecided => format!(", {undecided} undecided"),
        };
        format!("{failed} of {} failed{undecided}{last}", self.sent.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_is_bad_above_its_share_and_says_how_many_and_how() {
        let probe = |fate| Probe {
            letter: 1,
            stage: "s".into(),
            source: "a:1".into(),
            life: None,
            retry_seq: 1,
            fate,
        };
        let failed = || Some(Fate::Failed("HttpServerError: 503".into()));
        let mut canary = Canary::new(10, 0.2);
        canary.sent = (0..10).map(|n| probe(if n < 2 { failed() } else { None })).collect();
        assert!(!canary.is_bad(), "20 % is not above 20 %");
        assert_eq!(canary.undecided(), 8);
        canary.sent[5].fate = failed();
        assert!(canary.is_bad());
        assert_eq!(canary.summary(), "3 of 10 failed, 7 undecided: HttpServerError: 503");
        canary.sent[6..].fill(probe(Some(Fate::Done)));
        canary.sent.retain(|probe| probe.fate.is_some());
        assert_eq!(canary.summary(), "3 of 7 failed: HttpServerError: 503");
        let none = Canary::new(5, 0.0);
        assert!(!none.is_bad(), "nothing sent, nothing failed");
    }
}
