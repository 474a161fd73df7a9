//! Mover: the steps of a hand-over, each of which can be done again.

use futures_util::TryStreamExt as _;
use millstream_stages::headers;

use super::{
    leftovers::{Queued, Unread},
    topology::Topology,
};
use crate::{
    broker::{
        AdminError, Broker, CommitError, Expects, Headers, Outgoing, PublishError, StoredMessage,
        get, header, set, unix_ms,
    },
    wire::{Names, Offsets, Origin, Place, rfc3339},
};

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

/// Carrier of what the stage `from` holds.
pub(super) struct Mover<'a> {
    pub(super) broker: &'a Broker,
    pub(super) names: &'a Names,
    pub(super) from: &'a str,
}

impl Mover<'_> {
    pub(super) fn admin(&self, source: AdminError) -> MoveError {
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
    pub(super) async fn resend(&self, unread: &Unread, to: &str) -> Result<u64, MoveError> {
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
            all.insert(headers::QUEUED_AT, rfc3339(self.broker.now()));
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

    pub(super) async fn remove(&self, unread: &Unread) -> Result<u64, MoveError> {
        let Unread { stream, name, .. } = unread;
        let found = self.broker.find_consumer(stream, name).await;
        if found.map_err(|error| self.admin(error))?.is_none() {
            return Ok(0);
        }
        self.broker.delete_consumer(stream, name).await.map_err(|error| self.admin(error))?;
        Ok(1)
    }

    /// Stores what waits in work queues for the old stage anew for another, and removes it.
    pub(super) async fn retries(&self, to: &str) -> Result<u64, MoveError> {
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
    pub(super) async fn state(&self, to: &str) -> Result<u64, MoveError> {
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
    pub(super) async fn copy_results(
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
    pub(super) async fn remove_results(&self) -> Result<(), MoveError> {
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

/// True for a key of a reduce stage's state or offsets.
pub(super) fn is_state(key: &str, stage: &str) -> bool {
    key.strip_prefix(stage).is_some_and(|rest| rest == ".offsets" || rest.starts_with(".state."))
}
