//! Moving: what a stage of another name holds, handed to the stage that took over.
//!
//! Everything is published, or made, before it is removed where it was, and can be done again: a
//! process that dies in between leaves at most one event twice, which a stage has to bear anyway.
//!
//! - A durable consumer of a stream that the new stage reads as well: the new one starts where the
//!   old one was (in `apply`, by `starts`), and the old one goes.
//! - One of an edge that the new stage does not read: what it has not settled goes to the retry
//!   stream, for the new stage alone.
//! - Parked and waiting events: stored anew for the new stage, due when they were.
//! - Results that readers of the old stage have not settled: to the retry stream, for each reader
//!   alone; for readers by offset, to the stream of the new stage.
//! - State and offsets of a reduce stage: copied, if the new one has none yet.

use std::{collections::BTreeMap, time::SystemTime};

use futures_util::TryStreamExt as _;
use millstream_stages::headers;

use super::{
    leftovers::{Held, Leftovers, Queued, Unread},
    topology::Topology,
};
use crate::{
    broker::{
        AdminError, Broker, CommitError, Expects, Headers, Outgoing, PublishError, StoredMessage,
        get, header, set, unix_ms,
    },
    wire::{Names, Offsets, Origin, Place, rfc3339},
};

/// Hand-over of what a stage holds to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// What is handed over, by the name that the stage had.
    pub held: Held,
    /// Name of the stage that takes over.
    pub to: String,
    /// Consumers of the old stage's results that their readers have not settled, with the reader.
    pub results: Vec<(Unread, String)>,
    /// True if there is a stream of the old stage's results.
    pub has_results: bool,
    /// Sequences at which consumers start whose old one is gone, by stream and consumer: kept by
    /// whoever trims the stream.
    pub kept: BTreeMap<(String, String), u64>,
    /// Keys of a reduce stage's state.
    pub keys: usize,
}

/// What was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// Events that were published for the stage that took over, or for a reader of its results.
    pub events: u64,
    /// Consumers that were removed.
    pub consumers: u64,
    /// Keys of a reduce stage's state that were copied.
    pub keys: u64,
}

/// Hand-over that did not come to its end; doing it again goes on.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The broker could not be asked, or refused.
    #[error("could not read or remove what stage \"{from}\" holds")]
    Admin {
        /// Name of the old stage.
        from: String,
        /// Answer of the broker.
        source: AdminError,
    },
    /// An event could not be published for the stage that takes over.
    #[error("could not hand an event of stage \"{from}\" over")]
    Publish {
        /// Name of the old stage.
        from: String,
        /// Cause.
        source: PublishError,
    },
    /// State could not be copied.
    #[error("could not copy the state of stage \"{from}\"")]
    State {
        /// Name of the old stage.
        from: String,
        /// Cause.
        source: CommitError,
    },
    /// The stage that takes over keeps state, or is chained to another: no single event can be sent
    /// to it.
    #[error(
        "stage \"{to}\" takes no single events, and stage \"{from}\" has {what}: apply with --to-letters \
         {from} or --drop {from}"
    )]
    TakesNone {
        /// Name of the old stage.
        from: String,
        /// Name of the new one.
        to: String,
        /// What the old one holds.
        what: String,
    },
    /// The stage that takes over does not read the stream, and only it knows how to.
    #[error(
        "stage \"{to}\" does not read stream \"{stream}\", of which stage \"{from}\" has {unsettled} \
         events to settle: add its source to the inputs of \"{to}\", or apply with --to-letters \
         {from} or --drop {from}"
    )]
    NotRead {
        /// Name of the old stage.
        from: String,
        /// Name of the new one.
        to: String,
        /// Stream of a source.
        stream: String,
        /// Events that are not settled.
        unsettled: u64,
    },
}

impl Move {
    /// Hand-over of what `from` holds to `to`; `None`: it holds nothing that can be handed over.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn plan(
        topology: &Topology,
        broker: &Broker,
        leftovers: &Leftovers,
        from: &str,
        to: &str,
    ) -> Result<Option<Self>, AdminError> {
        let names = Names::new(&topology.pipeline);
        let held = leftovers.of(from).cloned().unwrap_or_else(|| Held {
            stage: from.to_owned(),
            heir: Some(to.to_owned()),
            ..Held::default()
        });
        let out = names.out_stream(from);
        let has_results = leftovers.streams.iter().any(|(stream, _)| *stream == out);
        let mut results = Vec::new();
        if has_results {
            // Readers that are renamed as well are found under their old names.
            for reader in &leftovers.held {
                let heir = reader.heir.as_ref().unwrap_or(&reader.stage);
                for consumer in reader.consumers.iter().filter(|unread| unread.stream == out) {
                    if topology.takes_retries(heir) {
                        results.push((consumer.clone(), heir.clone()));
                    }
                }
            }
        }
        let prefix = format!("{from}.");
        let keys = match topology.stages.iter().any(|stage| stage == from) {
            true => 0,
            false => match broker.kv_entries(&names.state_bucket(), &prefix).await {
                Ok(entries) => entries.iter().filter(|(key, ..)| is_state(key, from)).count(),
                Err(AdminError::NoStream { .. }) => 0,
                Err(error) => return Err(error),
            },
        };
        let kept = kept(topology, broker, &held, to).await?;
        let plan = Self { held, to: to.to_owned(), results, has_results, kept, keys };
        let is_empty = plan.held.consumers.is_empty()
            && plan.held.waiting + plan.held.parked == 0
            && !plan.has_results
            && plan.kept.is_empty()
            && plan.keys == 0;
        Ok((!is_empty).then_some(plan))
    }

    /// Sequences at which consumers that are made anew start, by stream and consumer.
    pub fn starts(&self, topology: &Topology) -> BTreeMap<(String, String), u64> {
        let names = Names::new(&topology.pipeline);
        let of = |unread: &Unread| {
            if is_queue(&names, unread) {
                return None;
            }
            let reader = topology.reader(&self.to, &unread.stream)?;
            Some(((reader.stream.clone(), reader.name.clone()), unread.floor + 1))
        };
        self.held.consumers.iter().filter_map(of).chain(self.kept.clone()).collect()
    }

    /// First thing that cannot be handed over.
    ///
    /// # Errors
    /// [`MoveError::NotRead`], [`MoveError::TakesNone`].
    pub fn check(&self, topology: &Topology) -> Result<(), MoveError> {
        let names = Names::new(&topology.pipeline);
        if self.held.events() > 0 && !topology.takes_retries(&self.to) {
            return Err(MoveError::TakesNone {
                from: self.held.stage.clone(),
                to: self.to.clone(),
                what: self.held.what(),
            });
        }
        for unread in &self.held.consumers {
            let Unread { stream, unsettled, .. } = unread;
            let is_ours = is_queue(&names, unread) || self.can_resend(&names, unread);
            if *unsettled > 0 && !is_ours && topology.reader(&self.to, stream).is_none() {
                return Err(MoveError::NotRead {
                    from: self.held.stage.clone(),
                    to: self.to.clone(),
                    stream: stream.clone(),
                    unsettled: *unsettled,
                });
            }
        }
        Ok(())
    }

    /// True if it hands over what a reader of the old stage's results has not settled.
    pub(super) fn resends(&self, unread: &Unread) -> bool {
        self.results.iter().any(|(result, _)| result == unread)
    }

    /// True if the messages of a stream say by themselves what they are.
    fn can_resend(&self, names: &Names, unread: &Unread) -> bool {
        unread.stream.starts_with(&format!("{}-out-", names.pipeline()))
    }

    /// Hands everything over. The consumers of the new stage are there.
    ///
    /// # Errors
    /// [`MoveError`]; what was not handed over is where it was.
    pub async fn carry_out(
        &self,
        topology: &Topology,
        broker: &Broker,
    ) -> Result<Moved, MoveError> {
        self.check(topology)?;
        let names = Names::new(&topology.pipeline);
        let (from, to) = (self.held.stage.as_str(), self.to.as_str());
        let mover = Mover { broker, names: &names, from };
        let mut moved = Moved::default();
        for unread in &self.held.consumers {
            if is_queue(&names, unread) {
                continue;
            }
            let reads = topology.reader(to, &unread.stream);
            // A stage that only reads something else now has no consumer to go on with.
            let goes_on = match reads.filter(|_| from != to) {
                Some(reader) => {
                    let found = broker.find_consumer(&reader.stream, &reader.name).await;
                    found.map_err(|source| mover.admin(source))?.is_some()
                }
                None => false,
            };
            if !goes_on && unread.unsettled > 0 {
                moved.events += mover.resend(unread, to).await?;
            }
            moved.consumers += mover.remove(unread).await?;
        }
        let out = names.out_stream(to);
        let is_copied = topology.all_reads().iter().any(|read| read.stream == out);
        if is_copied && self.has_results {
            moved.events += mover.copy_results(topology, to, &self.results).await?;
        }
        for (unread, reader) in &self.results {
            if !is_copied {
                moved.events += mover.resend(unread, reader).await?;
            }
            moved.consumers += mover.remove(unread).await?;
        }
        if from != to {
            // Without consumers, what is there stays there until it is moved.
            for unread in self.held.consumers.iter().filter(|it| is_queue(&names, it)) {
                moved.consumers += mover.remove(unread).await?;
            }
            moved.events += mover.retries(to).await?;
            moved.keys = mover.state(to).await?;
            if self.has_results {
                mover.remove_results().await?;
            }
        }
        Ok(moved)
    }
}

/// True for a consumer of a work queue, whose events are found by their subjects.
fn is_queue(names: &Names, unread: &Unread) -> bool {
    unread.stream == names.retry_stream() || unread.stream == names.notify_stream()
}

/// True for a key of a reduce stage's state or offsets.
fn is_state(key: &str, stage: &str) -> bool {
    key.strip_prefix(stage).is_some_and(|rest| rest == ".offsets" || rest.starts_with(".state."))
}

impl Moved {
    /// Line about what was handed over.
    pub fn line(&self, from: &str, to: &str) -> String {
        let Self { events, consumers, keys } = self;
        let mut line = format!(
            "handed over from \"{from}\" to \"{to}\": {events} events published anew, {consumers} \
             consumers taken over"
        );
        if *keys > 0 {
            line.push_str(&format!(", {keys} keys of state copied"));
        }
        line
    }
}

impl std::fmt::Display for Move {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (from, what) = (&self.held.stage, self.held.what());
        write!(f, "stage \"{from}\" is renamed \"{}\": {what}", self.to)?;
        let results: u64 = self.results.iter().map(|(unread, _)| unread.unsettled).sum();
        if results > 0 {
            write!(f, ", {results} results not settled")?;
        }
        if self.keys > 0 {
            write!(f, ", {} keys of state", self.keys)?;
        }
        f.write_str(": handed over")?;
        if self.held.letters > 0 {
            write!(f, "; letters stay, and a redrive sends them to \"{}\"", self.to)?;
        }
        Ok(())
    }
}

struct Mover<'a> {
    broker: &'a Broker,
    names: &'a Names,
    from: &'a str,
}

impl Mover<'_> {
    fn admin(&self, source: AdminError) -> MoveError {
        MoveError::Admin { from: self.from.to_owned(), source }
    }

    fn state_error(&self, source: CommitError) -> MoveError {
        MoveError::State { from: self.from.to_owned(), source }
    }

    async fn publish(&self, outgoing: Outgoing) -> Result<(), MoveError> {
        let published = self.broker.publish(outgoing).await;
        published
            .map(drop)
            .map_err(|source| MoveError::Publish { from: self.from.to_owned(), source })
    }

    /// Publishes what a consumer of an edge has not settled for one stage alone.
    async fn resend(&self, unread: &Unread, to: &str) -> Result<u64, MoveError> {
        let all = [String::new()];
        let filters = if unread.filters.is_empty() { &all[..] } else { &unread.filters };
        let mut events = 0;
        for filter in filters {
            let found = self.broker.scan(&unread.stream, filter, unread.floor + 1);
            let mut found = std::pin::pin!(found);
            while let Some(message) = found.try_next().await.map_err(|error| self.admin(error))? {
                self.publish(self.for_retry(&unread.stream, &message, to)).await?;
                events += 1;
            }
        }
        Ok(events)
    }

    /// Message of the retry stream that is the same event, in the same life, for a stage.
    fn for_retry(&self, stream: &str, message: &StoredMessage, to: &str) -> Outgoing {
        let mut all = self.lived(stream, message);
        let id = format!("move:{to}:{stream}:{}:{}", message.seq, unix_ms(message.stored_at));
        set(&mut all, headers::MSG_ID, header(&id));
        if all.get(headers::QUEUED_AT).is_none() {
            all.insert(headers::QUEUED_AT, rfc3339(SystemTime::now()));
        }
        Outgoing {
            subject: self.names.retry_subject(to),
            headers: all,
            body: message.body.clone(),
            expects: Expects::Anything,
        }
    }

    /// Headers of a message without those of the server, and with the source and the life that its
    /// place gave it.
    fn lived(&self, stream: &str, message: &StoredMessage) -> Headers {
        let value = |name| get(&message.headers, name);
        let origin = Origin::read(
            Place::new(stream, message.seq, message.stored_at),
            &message.subject,
            value,
        );
        let mut all = Headers::new();
        for (name, values) in message.headers.iter() {
            let name: &str = name.as_ref();
            if let (false, Some(value)) = (name.starts_with("Nats-"), values.first()) {
                all.insert(name, value.clone());
            }
        }
        origin.write_source(&mut all);
        all.insert(headers::LIFE, origin.life.to_string());
        all
    }

    async fn remove(&self, unread: &Unread) -> Result<u64, MoveError> {
        let Unread { stream, name, .. } = unread;
        let found = self.broker.find_consumer(stream, name).await;
        if found.map_err(|error| self.admin(error))?.is_none() {
            return Ok(0);
        }
        self.broker.delete_consumer(stream, name).await.map_err(|error| self.admin(error))?;
        Ok(1)
    }

    /// Stores what waits in work queues for the old stage anew for another, and removes it.
    async fn retries(&self, to: &str) -> Result<u64, MoveError> {
        let mut events = 0;
        let mut queued = Queued::of(self.names, self.broker, self.from);
        while let Some((stream, message)) = queued.next().await.map_err(|it| self.admin(it))? {
            let parked = self.names.parked_for(&message.subject, self.from, to);
            let schedule = get(&message.headers, "Nats-Schedule");
            let outgoing = match (parked, schedule) {
                (Some(subject), Some(schedule)) => {
                    let mut all = self.lived(&stream, &message);
                    all.insert("Nats-Schedule", schedule);
                    all.insert("Nats-Schedule-Target", self.names.retry_subject(to));
                    // The subject names the life: stored twice, the first is replaced.
                    let (body, expects) = (message.body.clone(), Expects::Anything);
                    Outgoing { subject, headers: all, body, expects }
                }
                _ => {
                    let outgoing = self.for_retry(&stream, &message, to);
                    let is_quarantined =
                        message.subject == self.names.quarantine_subject(self.from);
                    let quarantine = is_quarantined.then(|| self.names.quarantine_subject(to));
                    Outgoing { subject: quarantine.unwrap_or(outgoing.subject), ..outgoing }
                }
            };
            self.publish(outgoing).await?;
            self.delete(&stream, message.seq).await?;
            events += 1;
        }
        Ok(events)
    }

    async fn delete(&self, stream: &str, seq: u64) -> Result<(), MoveError> {
        let deleted = self.broker.delete_message(stream, seq).await;
        deleted.map(drop).map_err(|error| self.admin(error))
    }

    /// Copies state and offsets of a reduce stage, the offsets last, and removes the old ones. A
    /// stage that has offsets has begun by itself: then its own hold.
    async fn state(&self, to: &str) -> Result<u64, MoveError> {
        let bucket = self.names.state_bucket();
        let redone = self.broker.redo(&bucket, &Offsets::key(self.from)).await;
        if let Err(error) = redone {
            // Without a bucket there is nothing to copy.
            match self.broker.kv_exists(&bucket).await.map_err(|error| self.admin(error))? {
                true => return Err(self.state_error(error)),
                false => return Ok(0),
            }
        }
        let mut entries = match self.broker.kv_entries(&bucket, &format!("{}.", self.from)).await {
            Err(AdminError::NoStream { .. }) => return Ok(0),
            found => found.map_err(|error| self.admin(error))?,
        };
        entries.retain(|(key, ..)| is_state(key, self.from));
        let offsets = |key: &str| key.ends_with(".offsets") && !key.contains(".state.");
        entries.sort_by_key(|(key, ..)| offsets(key));
        let begun = self.broker.kv_get(&bucket, &Offsets::key(to)).await;
        let mut copied = 0;
        if begun.map_err(|error| self.admin(error))?.is_none() {
            for (key, value, _) in &entries {
                let own = key.strip_prefix(self.from).unwrap_or(key);
                let put = self.broker.kv_put(&bucket, &format!("{to}{own}"), value.clone()).await;
                put.map_err(|error| self.state_error(error))?;
                copied += 1;
            }
        }
        for (key, ..) in entries.iter().rev() {
            let deleted = self.broker.kv_delete(&bucket, key).await;
            deleted.map_err(|error| self.state_error(error))?;
        }
        Ok(copied)
    }

    /// Copies results that are read by offset to the stream of the new stage, from the first that a
    /// reader has not read. Readers with a consumer of the new stream find them there, too.
    async fn copy_results(
        &self,
        topology: &Topology,
        to: &str,
        readers: &[(Unread, String)],
    ) -> Result<u64, MoveError> {
        let (old, new) = (self.names.out_stream(self.from), self.names.out_stream(to));
        let mut read = readers.iter().map(|(unread, _)| unread.floor).min();
        for reader in topology.all_reads().iter().filter(|read| read.stream == new) {
            let offset = self.offset(topology, &reader.stage, &old).await?;
            read = Some(read.map_or(offset, |read| read.min(offset)));
        }
        let prefix = format!("{}.out.{}.", self.names.pipeline(), self.from);
        let mut events = 0;
        let mut found = std::pin::pin!(self.broker.scan(&old, "", read.unwrap_or(0) + 1));
        while let Some(message) = found.try_next().await.map_err(|error| self.admin(error))? {
            let Some(rest) = message.subject.strip_prefix(&prefix) else { continue };
            let mut all = self.lived(&old, &message);
            if let Some(id) = get(&message.headers, headers::MSG_ID) {
                set(&mut all, headers::MSG_ID, header(id));
            }
            let subject = format!("{}.out.{to}.{rest}", self.names.pipeline());
            let (body, expects) = (message.body.clone(), Expects::Anything);
            self.publish(Outgoing { subject, headers: all, body, expects }).await?;
            self.delete(&old, message.seq).await?;
            events += 1;
        }
        Ok(events)
    }

    /// Sequence up to which a reduce stage, under its name or one that it had, has read a stream; 0
    /// where that is not known.
    async fn offset(
        &self,
        topology: &Topology,
        stage: &str,
        stream: &str,
    ) -> Result<u64, MoveError> {
        let created = self.broker.created_ms(stream).await.map_err(|error| self.admin(error))?;
        let before = topology.renamed.iter().filter(|(_, new)| new == stage);
        for name in std::iter::once(stage).chain(before.map(|(old, _)| old.as_str())) {
            let key = Offsets::key(name);
            let found = self.broker.kv_get(&self.names.state_bucket(), &key).await;
            let Some((value, _)) = found.map_err(|error| self.admin(error))? else { continue };
            let offsets = Offsets::read(&value).unwrap_or_default();
            if let Some(seq) = created.and_then(|created| offsets.of_life(stream, created)) {
                return Ok(seq);
            }
        }
        Ok(0)
    }

    /// Removes the stream of the old stage's results where nobody reads it any more.
    async fn remove_results(&self) -> Result<(), MoveError> {
        let old = self.names.out_stream(self.from);
        match self.broker.stream_state(&old).await {
            Ok(state) if state.consumers == 0 => {
                self.broker.delete_stream(&old).await.map_err(|error| self.admin(error))
            }
            Ok(_) | Err(AdminError::NoStream { .. }) => Ok(()),
            Err(error) => Err(self.admin(error)),
        }
    }
}

/// Floor of a consumer, as whoever trims its stream keeps it in the state bucket.
#[derive(serde::Deserialize)]
struct Floor {
    /// Time at which the stream was created, Unix milliseconds.
    created: u64,
    floor: u64,
}

/// Starts of consumers of `to` that are missing, by the floors that were kept of those of the old
/// name, where these are gone. A floor of another life of the stream says nothing.
async fn kept(
    topology: &Topology,
    broker: &Broker,
    held: &Held,
    to: &str,
) -> Result<BTreeMap<(String, String), u64>, AdminError> {
    let (names, mut starts) = (Names::new(&topology.pipeline), BTreeMap::new());
    for feed in topology.feeds(to) {
        let is_found = held.consumers.iter().any(|unread| unread.stream == feed.stream);
        if is_found || feed.stream == names.retry_stream() || held.stage == to {
            continue;
        }
        let key = format!("floor.{}.{}", feed.stream, names.stage_consumer(&held.stage));
        let value = match broker.kv_get(&names.state_bucket(), &key).await {
            Ok(Some((value, _))) => value,
            Ok(None) | Err(AdminError::NoStream { .. }) => continue,
            Err(error) => return Err(error),
        };
        let Ok(Floor { created, floor }) = serde_json::from_slice(&value) else { continue };
        let is_missing = broker.find_consumer(&feed.stream, &feed.consumer).await?.is_none();
        if is_missing && broker.created_ms(&feed.stream).await? == Some(created) {
            starts.insert((feed.stream, feed.consumer), floor + 1);
        }
    }
    Ok(starts)
}
