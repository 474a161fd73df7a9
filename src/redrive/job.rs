//! Job: redrive of many letters as a durable record, which whoever runs it carries on.
//!
//! The record is in the key-value bucket of the pipeline's state, written by compare-and-set. It is
//! the audit, too: the last [`crate::limits::JOBS_KEPT`] are kept.

use std::{collections::BTreeMap, time::SystemTime};

use serde::{Deserialize, Serialize};

use crate::{
    dead_letter::LetterFilter,
    limits,
    redrive::{above::Above, canary::Canary},
    wire::rfc3339,
};

/// Default limit of the redrives of an event.
pub const MAX_REDRIVES: u32 = 3;

/// Purpose of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Asked for by a person.
    Redrive,
    /// Made since a stage is up again: what is not redriven is marked permanent.
    Recover,
}

/// State of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Open: it sends letters, or will as soon as somebody runs it.
    Running,
    /// Open: it waits for the outcomes of its canary.
    Canary,
    /// Ended: every letter that matches is dealt with.
    Done,
    /// Ended by its canary, which failed; the rest of the letters are untouched.
    Stopped,
    /// Ended by somebody.
    Cancelled,
    /// Ended by an error: it cannot go on.
    Failed,
}

/// Record of one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Name of the job, which sorts by time.
    pub id: String,
    /// Purpose of the job.
    pub kind: Kind,
    /// State of the job.
    pub state: State,
    /// Reason for the state, where it needs one.
    pub why: Option<String>,
    /// Letters that the job is about.
    pub filter: LetterFilter,
    /// Limit of letters a second.
    pub per_second: Option<f64>,
    /// Limit of redrives: no letter of an event that was redriven as often.
    pub max_redrives: u32,
    /// Letters that are tried first.
    pub canary: Option<Canary>,
    /// Conditions under which recovery redrives a letter.
    pub rules: Option<Rules>,
    /// Sequence of the letter up to which all is done.
    pub cursor: u64,
    /// Sequence of the last letter when the job was made: later ones are not its business.
    pub last: u64,
    /// Time at which the stream of the letters was created, in Unix milliseconds: in another one
    /// the sequences are those of other letters. 0: not known, the job was not run yet.
    #[serde(default)]
    pub letters_created_ms: u64,
    /// Number of letters that matched when the job was made, where that was counted.
    pub expected: Option<u64>,
    /// True if a letter that the job passed by is still there.
    pub left_behind: bool,
    /// Reasons why letters stay that were to be sent, with how many; the first
    /// [`crate::limits::JOB_REASONS_MAX`] of them.
    #[serde(default)]
    pub left: BTreeMap<String, u64>,
    /// Letters above the cursor whose fate is on record.
    #[serde(default)]
    pub above: Above,
    /// Time on the broker's clock, in Unix milliseconds, before which its rate lets no letter go.
    /// 0: at once.
    #[serde(default)]
    pub next_ms: u64,
    /// Number of steps that wait for the record to be written.
    #[serde(skip)]
    pub mark: u64,
    /// Outcomes so far: of the letters up to the cursor, and of those above that are counted.
    pub counts: Counts,
    /// Time at which the job was made, RFC 3339.
    pub created_at: String,
    /// Maker of the job.
    pub created_by: String,
    /// Time of its first run.
    pub started_at: Option<String>,
    /// Time of its end.
    pub ended_at: Option<String>,
    /// Process that runs it.
    pub runner: Option<String>,
    /// Heartbeats of its runner.
    pub beat: u64,
}

/// Outcomes of the letters of a job.
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
    /// Left where they are: their stage is gone, or takes none.
    pub skipped: u64,
}

/// Conditions under which recovery redrives a letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rules {
    /// Error classes; `*` stands for any text. Empty: all.
    pub classes: Vec<String>,
    /// Limit of the age of a letter when the job was made, in milliseconds.
    pub max_age_ms: u64,
    /// Bucket whose key for the letter's tenant says if it is active.
    pub tenants: Option<String>,
}

impl Job {
    /// Job that nobody runs yet, of the letters up to `last`.
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
            letters_created_ms: 0,
            expected: None,
            left_behind: false,
            left: BTreeMap::new(),
            above: Above::default(),
            next_ms: 0,
            mark: 0,
            counts: Counts::default(),
            created_at: rfc3339(now),
            created_by: by.to_owned(),
            started_at: None,
            ended_at: None,
            runner: None,
            beat: 0,
        }
    }

    /// True if the job is still to be carried on.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Running | State::Canary)
    }

    /// Notes why a letter stays.
    pub fn leave(&mut self, why: String) {
        if self.left.len() >= limits::JOB_REASONS_MAX && !self.left.contains_key(&why) {
            return;
        }
        *self.left.entry(why).or_insert(0) += 1;
    }

    /// Ends the job at `now`.
    pub fn end(&mut self, state: State, why: Option<String>, now: SystemTime) {
        self.state = state;
        self.why = why.or(self.why.take());
        self.ended_at = Some(rfc3339(now));
    }
}

impl State {
    /// Name of the state.
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
    /// Name of the kind.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Redrive => "redrive",
            Self::Recover => "recover",
        }
    }
}

/// New name, such as `r-20261121-101502-ab12` for a job (`r`) or a silence (`s`), which sorts by
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

/// Name of the job that is made when a stage is up again: the same for every worker that sees it,
/// by the revision of the key that shows it.
pub fn recovery_id(stage: &str, revision: u64, written_at: SystemTime) -> String {
    format!("r-{}-{stage}-{revision}", stamp(written_at))
}

fn stamp(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y%m%d-%H%M%S").to_string()
}

impl Counts {
    /// Number of letters that the job has dealt with.
    pub fn settled(&self) -> u64 {
        let Self { redriven, guarded, completed, permanent, gone, failed, skipped } = self;
        redriven + guarded + completed + permanent + gone + failed + skipped
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
