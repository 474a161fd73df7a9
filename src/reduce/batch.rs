//! Batch: inputs applied since the last commit, and outputs to publish before the next.

use std::time::SystemTime;

use millstream_stages::{
    Emission, Emits, Failure, failure::class, headers, incident::Severity, settle::Reason,
};
use tokio::time::Instant;

use crate::{
    broker::{Headers, Outgoing, StoredMessage, header, set},
    config::{Pipeline, pipeline::Stage},
    dead_letter::{Letter, letter::Identity},
    limits,
    wire::Finding,
};

/// Inputs applied since the last commit, and their outputs.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) emissions: Vec<Emission>,
    pub(super) dead_letters: Vec<Outgoing>,
    /// Findings about what was rejected.
    pub(super) findings: Vec<Outgoing>,
    pub(super) inputs: usize,
    /// Time of the commit at the latest; `None` while there is nothing to commit.
    pub(super) due: Option<Instant>,
}

impl Batch {
    /// Notes that something changed.
    pub(super) fn begin(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + limits::COMMIT_WAIT);
    }

    /// True if one more step might not fit the commit, with so many keys changed already.
    pub(super) fn is_full(&self, dirty_len: usize) -> bool {
        // The offsets are one key of the commit.
        let keys = 1 + dirty_len + millstream_stages::KEYS_PER_STEP_MAX;
        self.inputs >= limits::COMMIT_INPUTS_MAX
            || keys > limits::COMMIT_KEYS_MAX
            || self.emissions.len() >= limits::COMMIT_EMISSIONS_MAX
    }
}

/// Message of an emission, with an id, so that the server drops a repeat.
pub(super) fn emission(pipeline: &Pipeline, stage: &Stage, emission: Emission) -> Outgoing {
    let names = pipeline.names();
    let subject = match stage.kind.emits {
        Emits::Events | Emits::Incidents => names.out_subject(&stage.name, &emission.route),
        Emits::Notifications => names.notify_subject(&emission.route),
    };
    let mut outgoing = Outgoing::new(subject, emission.body)
        .id(&emission.id)
        .header(headers::EVENT_ID, &emission.id)
        .header(headers::EVENT_TYPE, &emission.route)
        .header(headers::ENVELOPE, emission.envelope.as_str());
    for (name, value) in emission.headers {
        set(&mut outgoing.headers, name, header(&value));
    }
    outgoing
}

/// Dead letter of a message that the stage rejects.
pub(super) fn reject(
    pipeline: &Pipeline,
    stage: &Stage,
    stream: &str,
    message: &StoredMessage,
    failure: &Failure,
    now: SystemTime,
) -> Outgoing {
    let (origin, identity) = Identity::stored(pipeline, stream, message);
    let letter = Letter {
        stage: &stage.name,
        reason: if failure.class == class::DECODE { Reason::Undecodable } else { Reason::Rejected },
        failure,
        attempts: 1,
        first_failed_at: now,
        dead_at: now,
        origin: &origin,
        identity,
        traceparent: header_of(&message.headers, headers::TRACEPARENT),
        config: &pipeline.config_hash,
        body: message.body.clone(),
        malformed: message.malformed.as_ref(),
    };
    letter.message(&pipeline.names())
}

/// Finding about an error report that is malformed: its letter alone would wait for someone to
/// look, while an error is missing from the counts.
pub(super) fn malformed(
    pipeline: &Pipeline,
    stage: &Stage,
    stream: &str,
    message: &StoredMessage,
    failure: &Failure,
) -> Outgoing {
    let seq = message.seq;
    let finding = Finding {
        code: "MalformedMessage",
        severity: Severity::Medium,
        message: format!(
            "an error report at {stream}:{seq} is not counted: {}. It is a dead letter of {}",
            failure.message, stage.name
        ),
        stage: &stage.name,
        id: format!("malformed:{}:{stream}:{seq}", stage.name),
    };
    finding.message(&pipeline.names())
}

/// Header of a message, if it is text.
pub(super) fn header_of<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.as_str())
}
