//! Store: a letter put on the subject that its event's life claims, held against what is there.

use bytes::Bytes;
use millstream_stages::{headers, incident::Severity};
use ring::{
    digest,
    rand::{SecureRandom as _, SystemRandom},
};

use super::{
    aliases,
    stored::{self, APART, payload_at},
};
use crate::{
    broker::{AdminError, Broker, Headers, Outgoing, PublishError, StoredMessage, get},
    error_chain::causes_of,
    limits,
    wire::{Finding, Names, Origin, Place, parse_rfc3339},
};

/// What is the same in every letter of one life of an event at a stage.
struct Wanted<'a> {
    stage: &'a str,
    life: Place,
    source: Place,
    event_id: Option<&'a str>,
    body: &'a Bytes,
    /// Time of giving up, where this one has it.
    dead_at: Option<&'a str>,
}

/// What a subject holds for a letter that would be stored there.
enum Claim {
    /// Nothing.
    Free,
    /// This letter; true if it is the very one that is being stored, whose ack was lost, and not
    /// that of whoever was first to give up on its event.
    Mine(Box<StoredMessage>, bool),
    /// Another message.
    Taken,
}

/// Stores a letter and waits until it is there; true if this one was the first. Whoever is second
/// to give up on the same life of an event finds the letter there and writes none.
///
/// What is found is compared: a message that is not this letter (a subject can be claimed
/// beforehand by whoever may publish there) is told of, and the letter goes to a further subject.
/// The first of those follows from the letter, so that it is found by whoever is second; the others
/// cannot be foreseen.
///
/// A payload with which the server would find the letter too large is stored first, by itself, on
/// [`Names::dlq_body`]. (What it came from is no place to point at: a source forgets sooner than
/// the letters, and an edge as soon as it is settled.)
///
/// While workers of the configuration before a rename are still at work, two may give up on the
/// same life of an event under two names of its stage: the letter that the stream has first stays.
///
/// # Errors
/// The publish did not succeed: the event must not be settled.
pub async fn store(broker: &Broker, names: &Names, letter: Outgoing) -> Result<bool, PublishError> {
    let wanted = Wanted::of(&letter);
    let unread = |error: AdminError| PublishError::Failed {
        subject: letter.subject.clone(),
        source: error.into(),
    };
    for before in names.before(wanted.stage) {
        if wanted.under(before).find(broker, names).await.map_err(unread)?.is_some() {
            return Ok(false);
        }
    }
    let is_first = store_here(broker, names, &letter, &wanted).await?;
    // Only now: a name that is given after this is given to a worker that will see the letter.
    let others = aliases::of(broker, names, wanted.stage).await;
    if others.is_empty() {
        return Ok(is_first);
    }
    let own = wanted.find(broker, names).await.map_err(unread)?;
    let Some(own) = own else { return Ok(is_first) };
    for other in &others {
        let there = wanted.under(other).find(broker, names).await.map_err(unread)?;
        if there.is_some_and(|there| there.seq < own.seq) {
            stored::remove(broker, names, &own).await.map_err(unread)?;
            return Ok(false);
        }
    }
    Ok(is_first)
}

/// Stores a letter on the first subject of its life that it can claim; true if this one was the
/// first.
async fn store_here(
    broker: &Broker,
    names: &Names,
    letter: &Outgoing,
    wanted: &Wanted<'_>,
) -> Result<bool, PublishError> {
    let (first, mut last) = (letter.subject.clone(), None);
    for n in 0..limits::LETTER_SUBJECTS_MAX {
        let subject = match n {
            0 => first.clone(),
            1 => Names::dlq_beyond(&first, &wanted.digest()),
            _ => Names::dlq_beyond(&first, &unforeseen()),
        };
        let there = Outgoing { subject, ..letter.clone() };
        match store_at(broker, names, there, wanted).await? {
            Ok(is_first) => return Ok(is_first),
            Err(claimed) => {
                last = Some(claimed);
                if n == 0 {
                    told(broker, names, letter).await;
                }
            }
        }
    }
    let subject = last.unwrap_or(first);
    const WHY: &str = "every subject tried for a dead letter holds another message: who may \
                       publish to the dead-letter stream?";
    Err(PublishError::Failed { subject, source: WHY.into() })
}

/// True if there is a letter of this life of an event at `stage`, with this payload, under whatever
/// name of the stage.
///
/// # Errors
/// [`AdminError`]: the dead-letter stream could not be read.
pub async fn is_there(
    broker: &Broker,
    names: &Names,
    stage: &str,
    origin: &Origin,
    event_id: Option<&str>,
    body: &Bytes,
) -> Result<bool, AdminError> {
    let (life, source) = (origin.life.clone(), origin.source.clone());
    let wanted = Wanted { stage, life, source, event_id, body, dead_at: None };
    if wanted.find(broker, names).await?.is_some() {
        return Ok(true);
    }
    for other in aliases::of(broker, names, stage).await {
        if wanted.under(&other).find(broker, names).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Letter of one life of an event at a stage, under whatever name of that, and whatever its payload
/// is by now; `None` if there is none.
///
/// # Errors
/// [`AdminError`]: the dead-letter stream could not be read.
pub async fn letter_of(
    broker: &Broker,
    names: &Names,
    stage: &str,
    life: &Place,
) -> Result<Option<StoredMessage>, AdminError> {
    if let Some(letter) = letter_at(broker, names, stage, life).await? {
        return Ok(Some(letter));
    }
    for other in aliases::of(broker, names, stage).await {
        if let Some(letter) = letter_at(broker, names, &other, life).await? {
            return Ok(Some(letter));
        }
    }
    Ok(None)
}

/// Letter of one life of an event under one name of its stage.
async fn letter_at(
    broker: &Broker,
    names: &Names,
    stage: &str,
    life: &Place,
) -> Result<Option<StoredMessage>, AdminError> {
    let dlq = names.dlq_stream();
    let subject = names.dlq_subject(stage, life);
    if let Some(letter) = broker.last_on_subject(&dlq, &subject).await? {
        return Ok(Some(letter).filter(|letter| is_of_life(letter, life)));
    }
    if life.at_ms == 0 {
        return Ok(None);
    }
    let subject = names.dlq_subject(stage, &life.without_time());
    let letter = broker.last_on_subject(&dlq, &subject).await?;
    // One that an older version wrote; of an earlier life of the stream it is older than this.
    Ok(letter.filter(|letter| {
        let dead_at = get(&letter.headers, headers::DEAD_AT).and_then(parse_rfc3339);
        dead_at.is_some_and(|at| crate::broker::unix_ms(at) >= life.at_ms)
    }))
}

/// True if a letter may be of this life: those of older versions do not say.
fn is_of_life(letter: &StoredMessage, life: &Place) -> bool {
    let said = get(&letter.headers, headers::LIFE);
    said.is_none() || life.may_be(said)
}

/// Stores a letter on its subject; the subject, if another message has it.
async fn store_at(
    broker: &Broker,
    names: &Names,
    mut letter: Outgoing,
    wanted: &Wanted<'_>,
) -> Result<Result<bool, String>, PublishError> {
    let subject = letter.subject.clone();
    let unread =
        |error: AdminError| PublishError::Failed { subject: subject.clone(), source: error.into() };
    if letter.bytes() + limits::LETTER_RESERVE > broker.max_payload() {
        // What is stored beside a letter takes the place of what was there: look first.
        match claim(broker, names, &letter.subject, wanted).await.map_err(unread)? {
            Claim::Free => {}
            Claim::Mine(_, first) => return Ok(Ok(first)),
            Claim::Taken => return Ok(Err(letter.subject)),
        }
        let bytes = letter.body.len();
        // The same bytes, however often they are stored: the last takes the place of those before.
        let apart =
            Outgoing::new(Names::dlq_body(&letter.subject), std::mem::take(&mut letter.body));
        match broker.publish(apart.clone().header("Nats-Rollup", "sub")).await {
            // It came without headers, and only so it fits.
            Err(PublishError::TooLarge { .. }) => broker.publish(apart).await,
            stored => stored,
        }
        .map_err(hinted)?;
        letter =
            letter.header(headers::BODY, APART).header(headers::BODY_BYTES, &bytes.to_string());
    }
    for _ in 0..limits::AMEND_TRIES {
        match broker.publish(letter.clone()).await {
            Ok(_) => return Ok(Ok(true)),
            Err(PublishError::NotFirst { .. }) => {}
            Err(error @ (PublishError::TooLarge { .. } | PublishError::Failed { .. })) => {
                return Err(hinted(error));
            }
        }
        match claim(broker, names, &letter.subject, wanted).await.map_err(unread)? {
            Claim::Mine(_, first) => return Ok(Ok(first)),
            Claim::Taken => return Ok(Err(letter.subject)),
            // It was redriven or dropped since.
            Claim::Free => {}
        }
    }
    const WHY: &str = "its subject is written and emptied by others all the time";
    Err(PublishError::Failed { subject, source: WHY.into() })
}

/// Looks what a subject holds for a letter.
async fn claim(
    broker: &Broker,
    names: &Names,
    subject: &str,
    wanted: &Wanted<'_>,
) -> Result<Claim, AdminError> {
    let dlq = names.dlq_stream();
    let Some(there) = broker.last_on_subject(&dlq, subject).await? else { return Ok(Claim::Free) };
    if !wanted.is_named_by(&there.headers) {
        return Ok(Claim::Taken);
    }
    // An edit may have changed the id with the payload; what they were is kept beside.
    let original = match get(&there.headers, headers::EDITED_AT) {
        Some(_) => broker.last_on_subject(&dlq, &names.dlq_original(subject)).await?,
        None => Some(there.clone()),
    };
    let is_same_event =
        |letter: &StoredMessage| get(&letter.headers, headers::EVENT_ID) == wanted.event_id;
    let Some(original) = original.filter(is_same_event) else { return Ok(Claim::Taken) };
    let body = payload_at(broker, names, subject, &original).await?;
    if body.as_ref() != Some(wanted.body) {
        return Ok(Claim::Taken);
    }
    let dead_at = get(&there.headers, headers::DEAD_AT);
    let is_the_same = dead_at.is_some() && dead_at == wanted.dead_at;
    Ok(Claim::Mine(Box::new(there), is_the_same))
}

impl<'a> Wanted<'a> {
    fn of(letter: &'a Outgoing) -> Self {
        let header = |name| get(&letter.headers, name);
        let place = |name| header(name).and_then(Place::parse);
        // A letter of ours has both.
        let none = || Place { stream: "".into(), seq: 0, at_ms: 0 };
        Self {
            stage: header(headers::STAGE).unwrap_or_default(),
            life: place(headers::LIFE).unwrap_or_else(none),
            source: place(headers::SOURCE).unwrap_or_else(none),
            event_id: header(headers::EVENT_ID),
            body: &letter.body,
            dead_at: header(headers::DEAD_AT),
        }
    }

    /// The same under another name of the stage.
    fn under(&self, stage: &'a str) -> Self {
        Self { stage, life: self.life.clone(), source: self.source.clone(), ..*self }
    }

    /// Letter that is stored under this name of the stage; `None` if there is none.
    async fn find(
        &self,
        broker: &Broker,
        names: &Names,
    ) -> Result<Option<StoredMessage>, AdminError> {
        let subject = names.dlq_subject(self.stage, &self.life);
        match claim(broker, names, &subject, self).await? {
            Claim::Mine(there, _) => return Ok(Some(*there)),
            Claim::Taken => {
                let beyond = Names::dlq_beyond(&subject, &self.digest());
                return Ok(match claim(broker, names, &beyond, self).await? {
                    Claim::Mine(there, _) => Some(*there),
                    Claim::Free | Claim::Taken => None,
                });
            }
            Claim::Free => {}
        }
        let old = names.dlq_subject(self.stage, &self.life.without_time());
        if old == subject {
            return Ok(None);
        }
        Ok(match claim(broker, names, &old, self).await? {
            Claim::Mine(there, _) => Some(*there),
            Claim::Free | Claim::Taken => None,
        })
    }

    /// True if these headers of a letter name the same life of the same event.
    fn is_named_by(&self, there: &Headers) -> bool {
        let header = |name| get(there, name);
        let (life, source) = (header(headers::LIFE), header(headers::SOURCE));
        header(headers::STAGE) == Some(self.stage)
            // Letters of older versions do not say.
            && (life.is_none() || self.life.may_be(life))
            && self.source.may_be(source)
    }

    /// Digest that is the same for whoever gives up on the same life of an event.
    fn digest(&self) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        let named = format!("{}\n{}\n{}\n", self.stage, self.life, self.source);
        context.update(named.as_bytes());
        context.update(self.event_id.unwrap_or_default().as_bytes());
        context.update(b"\n");
        context.update(self.body);
        hex(context.finish().as_ref())
    }
}

/// Tells that the subject of a letter was claimed by another message.
async fn told(broker: &Broker, names: &Names, letter: &Outgoing) {
    let subject = &letter.subject;
    let stage = get(&letter.headers, headers::STAGE).unwrap_or_default();
    tracing::warn!(
        stage,
        subject,
        "another message has the subject of a dead letter; the letter is stored on a further one"
    );
    let finding = Finding {
        code: "LetterSubjectClaimed",
        severity: Severity::High,
        message: format!(
            "the subject \"{subject}\" of a dead letter holds another message; somebody else \
             publishes to the dead-letter stream. The letter is on a further subject: \
             `millstream dlq ls` has both"
        ),
        stage,
        id: format!("claimed:{subject}"),
    };
    if let Err(error) = broker.publish(finding.message(names)).await {
        let cause = causes_of(&error);
        tracing::warn!(stage, error = %error, cause, "could not tell of a claimed letter subject");
    }
}

/// Text that nobody can foresee, where the system has a source of such.
fn unforeseen() -> String {
    let mut bytes = [0; 8];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        bytes = jiff::Timestamp::now().as_microsecond().to_be_bytes();
    }
    hex(&bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Adds what to do to the error of a dead-letter stream that is full.
fn hinted(error: PublishError) -> PublishError {
    const FULL: &str = "the dead-letter stream is full (dlq_max_bytes in [storage]): redrive or \
                        drop letters (`millstream dlq`), or raise it and `millstream apply`";
    let is_full = error.is_full();
    match error {
        PublishError::Failed { subject, .. } if is_full => {
            PublishError::Failed { subject, source: FULL.into() }
        }
        PublishError::Failed { .. }
        | PublishError::NotFirst { .. }
        | PublishError::TooLarge { .. } => error,
    }
}
