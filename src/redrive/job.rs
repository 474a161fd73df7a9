//! Job: a redrive of many letters as a durable record, which whoever runs it carries on.
//!
//! The record is in the key-value bucket of the pipeline's state, written by compare-and-set. It is
//! the audit, too: the last [`crate::limits::JOBS_KEPT`] are kept.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::{dead_letter::LetterFilter, redrive::canary::Canary, wire::rfc3339};

/// How often an event may have been redriven, unless a job is told otherwise.
pub const MAX_REDRIVES: u32 = 3;

/// What a job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A person asked for it.
    Redrive,
    /// A stage is up again: what is not redriven is marked permanent.
    Recover,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It sends letters, or will as soon as somebody runs it.
    Running,
    /// It waits for what becomes of its canary.
    Canary,
    /// Every letter that was meant is dealt with.
    Done,
    /// Its canary failed; the rest of the letters are untouched.
    Stopped,
    /// Somebody stopped it.
    Cancelled,
    /// It cannot go on.
    Failed,
}

/// One job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Its name, which sorts by time.
    pub id: String,
    /// What it is for.
    pub kind: Kind,
    /// How far it is.
    pub state: State,
    /// Why it is in that state, where that needs saying.
    pub why: Option<String>,
    /// Which letters it is about.
    pub filter: LetterFilter,
    /// Letters a second at the most.
    pub per_second: Option<f64>,
    /// No letter of an event that was redriven as often.
    pub max_redrives: u32,
    /// The letters that are tried first.
    pub canary: Option<Canary>,
    /// What a letter must be for recovery to redrive it.
    pub rules: Option<Rules>,
    /// The number of the letter up to which all is done.
    pub cursor: u64,
    /// The number of the last letter when it was made: later ones are not its business.
    pub last: u64,
    /// How many letters were meant when it was made, where that was counted.
    pub expected: Option<u64>,
    /// Whether a letter that it passed by is still there.
    pub left_behind: bool,
    /// What it did so far. After a crash of its runner, what was under way may be missing.
    pub counts: Counts,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// Who made it.
    pub created_by: String,
    /// When somebody first ran it.
    pub started_at: Option<String>,
    /// When it ended.
    pub ended_at: Option<String>,
    /// Who runs it.
    pub runner: Option<String>,
    /// Signs of life of its runner.
    pub beat: u64,
}

/// What became of the letters of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counts {
    /// Sent back to their stage.
    pub redriven: u64,
    /// Left where they are: redriven too often.
    pub guarded: u64,
    /// Left where they are: their event was completed all the same.
    pub completed: u64,
    /// Marked as permanent.
    pub permanent: u64,
    /// Taken by someone else meanwhile.
    pub gone: u64,
    /// Left where they are: they could not be sent.
    pub failed: u64,
}

/// What a letter must be for recovery to redrive it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rules {
    /// Error classes; `*` stands for any text. None: all.
    pub classes: Vec<String>,
    /// Given up on no longer ago, when the job was made.
    pub max_age_ms: u64,
    /// The bucket whose key for the letter's tenant says whether it is active.
    pub tenants: Option<String>,
}

impl Job {
    /// A job that nobody runs yet, of the letters up to `last`.
    pub fn new(
        id: String,
        kind: Kind,
        filter: LetterFilter,
        last: u64,
        by: &str,
        now: SystemTime,
    ) -> Self {
        Self {
            id,
            kind,
            state: State::Running,
            why: None,
            filter,
            per_second: None,
            max_redrives: MAX_REDRIVES,
            canary: None,
            rules: None,
            cursor: 0,
            last,
            expected: None,
            left_behind: false,
            counts: Counts::default(),
            created_at: rfc3339(now),
            created_by: by.to_owned(),
            started_at: None,
            ended_at: None,
            runner: None,
            beat: 0,
        }
    }

    /// Whether it is still to be carried on.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Running | State::Canary)
    }

    /// Ends it.
    pub fn end(&mut self, state: State, why: Option<String>) {
        self.state = state;
        self.why = why.or(self.why.take());
        self.ended_at = Some(rfc3339(SystemTime::now()));
    }
}

impl State {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Canary => "canary",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

impl Kind {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Redrive => "redrive",
            Self::Recover => "recover",
        }
    }
}

/// A new name, such as `r-20261121-101502-ab12` for a job (`r`) or a silence (`s`): it sorts by
/// time, to the microsecond.
pub fn new_id(kind: char, now: SystemTime) -> String {
    let mut micros = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_micros();
    let mut end = [0; 4];
    for digit in end.iter_mut().rev() {
        *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[(micros % 36) as usize];
        micros /= 36;
    }
    format!("{kind}-{}-{}", stamp(now), String::from_utf8_lossy(&end))
}

/// The name of the job that a stage's becoming well makes: the same for every worker that sees it,
/// by the revision of the key that says so.
pub fn recovery_id(stage: &str, revision: u64, written_at: SystemTime) -> String {
    format!("r-{}-{stage}-{revision}", stamp(written_at))
}

fn stamp(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y%m%d-%H%M%S").to_string()
}

impl Counts {
    /// How many letters the job has dealt with.
    pub fn settled(&self) -> u64 {
        let Self { redriven, guarded, completed, permanent, gone, failed } = self;
        redriven + guarded + completed + permanent + gone + failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_job_says_when_it_was_made() {
        let time = SystemTime::from("2026-11-21T10:15:02.9Z".parse::<jiff::Timestamp>().unwrap());
        assert_eq!(new_id('r', time), "r-20261121-101502-jag0");
        let later = time + std::time::Duration::from_micros(1);
        assert!(new_id('r', later) > new_id('r', time) && new_id('r', later).len() == 22);
        assert_eq!(recovery_id("orders", 71, time), "r-20261121-101502-orders-71");
    }

    #[test]
    fn a_record_is_json_that_reads_itself() {
        let filter = LetterFilter { stage: Some("orders".into()), ..LetterFilter::default() };
        let mut job =
            Job::new("r-1".into(), Kind::Redrive, filter, 9, "me@here", SystemTime::UNIX_EPOCH);
        job.canary = Some(Canary::new(10, 0.2));
        let text = serde_json::to_string(&job).unwrap();
        assert_eq!(serde_json::from_str::<Job>(&text).unwrap(), job);
        assert!(
            text.contains(r#""state":"running""#) && text.contains(r#""stopAbove":0.2"#),
            "{text}"
        );
    }
}
