//! Edit: a letter's payload changed, read anew and checked by its schemas; the original is kept.

use std::{collections::BTreeMap, time::SystemTime};

use bytes::Bytes;
use millstream_stages::{
    Build, Delivery, Envelope, Event, Failure,
    envelope::{self, Carrier},
    headers,
};

use super::{
    amend, filter,
    stored::{APART, LetterRecord},
};
use crate::{
    broker::{
        AdminError, Broker, Expects, Headers, Outgoing, PublishError, StoredMessage, get, header,
        set,
    },
    config::{
        Pipeline,
        pipeline::{Input, Stage},
        world::ConfigWorld,
    },
    dead_letter::stored,
    limits,
    wire::{Names, Place, TraceContext, identity::IDENTITY, rfc3339, write_identity},
};

/// Reason why an edited payload would only fail again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unfit {
    /// Not an event in the letter's envelope.
    #[error("it is not an event in the {envelope} envelope: {said}")]
    Undecodable {
        /// The envelope.
        envelope: &'static str,
        /// Message of the decoder.
        said: String,
    },
    /// The id of another event.
    #[error("it has the id \"{new}\", and the event's is \"{old}\": an event keeps its id")]
    OtherId {
        /// The event's id.
        old: String,
        /// Id in the payload.
        new: String,
    },
    /// Rejected by a `validate` stage.
    #[error("stage \"{stage}\" rejects it: {said}")]
    Rejected {
        /// The stage.
        stage: String,
        /// Message of the failure.
        said: String,
    },
    /// A `validate` stage could not be built, so nothing is known.
    #[error("the schemas of stage \"{stage}\" cannot be used: {said}")]
    NoSchemas {
        /// The stage.
        stage: String,
        /// Problems of its options.
        said: String,
    },
}

/// An edit that was not stored. The letter is as it was.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The original could not be stored.
    #[error("could not keep the original of letter {seq}")]
    Original {
        /// The letter.
        seq: u64,
        /// Cause.
        source: PublishError,
    },
    /// The edited letter could not be stored.
    #[error("could not store the edited letter {seq}")]
    Store {
        /// The letter.
        seq: u64,
        /// Cause.
        source: PublishError,
    },
    /// The letter could not be read to see if the edit is stored.
    #[error("could not look whether the edited letter {seq} is stored")]
    Look {
        /// The letter.
        seq: u64,
        /// Cause.
        source: AdminError,
    },
    /// Conflict: someone else was first.
    #[error(
        "letter {seq} was changed, redriven or dropped by someone else meanwhile; nothing of yours \
         was stored"
    )]
    Changed {
        /// The letter.
        seq: u64,
    },
}

/// Decodes an edited payload. An event that was decoded before keeps its id.
///
/// `message_id` is the `Nats-Msg-Id` of the message it was published as, which is the id of a raw
/// event.
///
/// # Errors
/// [`Unfit`].
pub fn read(letter: &StoredMessage, message_id: Option<&str>, body: Bytes) -> Result<Event, Unfit> {
    let known = |name| get(&letter.headers, name);
    let record = LetterRecord::of(letter);
    let envelope = known(headers::ENVELOPE).and_then(Envelope::named).unwrap_or(Envelope::Raw);
    let id = record.event_id.as_deref();
    let carrier = Carrier {
        subject: &record.source_subject,
        message_id: id.or(message_id),
        fallback_id: &record.source,
    };
    let undecodable = |failure: Failure| Unfit::Undecodable {
        envelope: envelope.as_str(),
        said: failure.message,
    };
    let event = envelope::decode(envelope, body.clone(), &carrier).map_err(undecodable)?;
    match id {
        Some(old) if event.id != old => Err(Unfit::OtherId { old: old.to_owned(), new: event.id }),
        // The identity of a raw event is in the headers, not in the payload.
        Some(_) if envelope == Envelope::Raw => {
            Ok(filter::event(&StoredMessage { body, ..letter.clone() }))
        }
        _ => Ok(event),
    }
}

/// Checks an event by the schemas on its way from `source`, a [`Place`], to `stage`, the stage
/// itself included: it must pass the `validate` stages of one of the ways there are.
///
/// # Errors
/// [`Unfit::Rejected`], [`Unfit::NoSchemas`].
pub async fn check(
    pipeline: &Pipeline,
    stage: &str,
    source: &str,
    event: &Event,
) -> Result<(), Unfit> {
    let came_from = Place::parse(source).and_then(|place| pipeline.source_of(&place.stream));
    let mut passes: BTreeMap<&str, Result<(), Unfit>> = BTreeMap::new();
    // The stages are in order: each after what it reads.
    for here in &pipeline.stages {
        let mut ways = here.inputs.iter().filter_map(|input| match input {
            Input::Source(name) => {
                came_from.is_none_or(|source| source.name == *name).then_some(Ok(()))
            }
            Input::Results(before) => passes.get(before.as_str()).cloned(),
            Input::Failed(_) | Input::Findings => Some(Ok(())),
        });
        // Where no way is known, this stage is all that can be asked.
        let first = ways.next().unwrap_or(Ok(()));
        let best = ways.fold(first, |best, way| best.or(way));
        let passed = match best {
            Ok(()) => validate(pipeline, here, event).await,
            failed => failed,
        };
        if here.name == stage {
            return passed;
        }
        passes.insert(&here.name, passed);
    }
    Ok(())
}

/// Applies a `validate` stage to an event; a stage of any other kind passes it.
async fn validate(pipeline: &Pipeline, stage: &Stage, event: &Event) -> Result<(), Unfit> {
    let Build::Map(build) = stage.kind.build else { return Ok(()) };
    if !stage.kind.checks_only {
        return Ok(());
    }
    let world =
        ConfigWorld { base: &pipeline.base, handler: &|_, _| Err(Vec::new()), channels: &[] };
    let map = build(&stage.options, &world).map_err(|problems| Unfit::NoSchemas {
        stage: stage.name.clone(),
        said: problems
            .iter()
            .map(|problem| problem.message.as_str())
            .collect::<Vec<_>>()
            .join("; "),
    })?;
    let delivery = Delivery {
        stage: stage.name.clone(),
        attempt: 1,
        now: SystemTime::now(),
        traceparent: None,
        edit: None,
    };
    let answered = map.apply(event, &delivery).await;
    answered
        .map(|_| ())
        .map_err(|failure| Unfit::Rejected { stage: stage.name.clone(), said: failure.message })
}

/// Headers of an edited letter. `event` is its payload decoded, if it could be.
pub fn edited(letter: &StoredMessage, event: Option<&Event>, by: &str, now: SystemTime) -> Headers {
    let is_about_body = |name: &str| [headers::BODY, headers::BODY_BYTES].contains(&name);
    let mut all = without(letter, |name| {
        is_about_body(name) || (event.is_some() && IDENTITY.contains(&name))
    });
    if let Some(event) = event {
        write_identity(event, &mut all);
        if get(&all, headers::TRACEPARENT).is_none() {
            let trace = TraceContext::root(&event.id).to_string();
            if let Some(trace_id) = trace.split('-').nth(1) {
                set(&mut all, headers::TRACE_ID, header(trace_id));
            }
            set(&mut all, headers::TRACEPARENT, trace);
        }
    }
    set(&mut all, headers::EDITED_AT, rfc3339(now));
    set(&mut all, headers::EDITED_BY, header(by));
    all
}

/// Headers of a letter without those of its publish (`Nats-…`) and those that `leave` is true for.
fn without(letter: &StoredMessage, leave: impl Fn(&str) -> bool) -> Headers {
    let mut all = Headers::new();
    for (name, values) in letter.headers.iter() {
        let name: &str = name.as_ref();
        if !name.starts_with("Nats-") && !leave(name) {
            for value in values {
                all.append(name, value.clone());
            }
        }
    }
    all
}

/// Keeps the original of a letter, if no earlier edit did, then puts the edited letter in its
/// place; its new sequence.
///
/// If the process dies in between, the letter is as it was and its original is there twice, which
/// harms nothing. A payload too large for its letter is stored first, under a name of its own,
/// which the letter then points at: until it is there, and after it is, the letter has the one
/// payload or the other. What it pointed at before goes last, unless the original has it.
///
/// # Errors
/// [`EditError`].
pub async fn put(
    broker: &Broker,
    names: &Names,
    letter: &StoredMessage,
    new_headers: Headers,
    body: Bytes,
) -> Result<u64, EditError> {
    let seq = letter.seq;
    let was_apart = stored::apart(&letter.subject, &letter.headers);
    let original = Outgoing {
        subject: names.dlq_original(&letter.subject),
        headers: without(letter, |_| false),
        body: letter.body.clone(),
        expects: Expects::Nothing,
    };
    match broker.publish(original).await {
        Ok(_) | Err(PublishError::NotFirst { .. }) => {}
        Err(source @ (PublishError::TooLarge { .. } | PublishError::Failed { .. })) => {
            return Err(EditError::Original { seq, source });
        }
    }
    let store_error = |source| EditError::Store { seq, source };
    let (new_headers, body) =
        set_apart(broker, letter, new_headers, body).await.map_err(store_error)?;
    let stored = amend::amend(broker, letter, new_headers.clone(), body.clone()).await;
    if let Some(new) = stored.map_err(store_error)? {
        if let Some(apart) = was_apart.filter(|apart| *apart != Names::dlq_body(&letter.subject))
            && let Err(error) = broker.purge_up_to(&names.dlq_stream(), &apart, seq).await
        {
            // The letter is right all the same; what it pointed at goes when it is dropped, or
            // expires.
            tracing::debug!(
                letter = new,
                error = %error,
                "could not remove the payload that was edited"
            );
        }
        return Ok(new);
    }
    // A try whose answer was lost may have been the one that changed it.
    let now = broker.last_on_subject(&names.dlq_stream(), &letter.subject).await;
    let now = now.map_err(|source| EditError::Look { seq, source })?;
    let mine = |name| get(&new_headers, name);
    let is_ours = |found: &StoredMessage| {
        let same = |name| get(&found.headers, name) == mine(name);
        found.body == body && same(headers::EDITED_AT) && same(headers::EDITED_BY)
    };
    now.filter(is_ours).map(|found| found.seq).ok_or(EditError::Changed { seq })
}

/// Stores a payload by itself if it is too large for its letter; the headers and the payload that
/// the letter has then.
async fn set_apart(
    broker: &Broker,
    letter: &StoredMessage,
    headers: Headers,
    body: Bytes,
) -> Result<(Headers, Bytes), PublishError> {
    let mut whole =
        Outgoing { headers, body, ..Outgoing::new(letter.subject.clone(), Bytes::new()) };
    if whole.bytes() + limits::LETTER_RESERVE > broker.max_payload() {
        // A name that no concurrent edit of the same letter has.
        let micros = jiff::Timestamp::now().as_microsecond();
        let name = format!("{APART}.{micros}-{}", std::process::id());
        whole = whole.header(headers::BODY, &name);
        let bytes = whole.body.len().to_string();
        whole = whole.header(headers::BODY_BYTES, &bytes);
        if let Some(subject) = stored::apart(&letter.subject, &whole.headers) {
            broker.publish(Outgoing::new(subject, std::mem::take(&mut whole.body))).await?;
        }
    }
    Ok((whole.headers, whole.body))
}
