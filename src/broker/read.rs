//! Read: messages of a stream in order, by offset, without settling anything.

use std::time::{Duration, SystemTime};

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
    stream::RetentionPolicy,
};
use futures_util::{Stream, stream};
use tokio::time::Instant;

use super::{
    AdminError, Broker, StoredMessage, admin,
    delivered::Places,
    demand::{Came, Demand},
};
use crate::limits;

/// Selection of the messages of a stream that a scan gives.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// Subject filter, with wildcards; empty: all.
    pub filter: String,
    /// First sequence.
    pub from_seq: u64,
    /// Last sequence; `None`: that of the last message now.
    pub to_seq: Option<u64>,
    /// Time before which stored messages are left out.
    pub since: Option<SystemTime>,
    /// Headers only, no payloads: [`StoredMessage::body_bytes`] still gives their size.
    pub headers_only: bool,
}

/// Stream, subjects and start of a reading.
#[derive(Debug, Clone, Default)]
pub(super) struct Reading {
    pub(super) stream: String,
    /// Subject filters that do not overlap; empty: everything.
    pub(super) filters: Vec<String>,
    /// First sequence wanted.
    pub(super) from_seq: u64,
    /// Time before which stored messages are left out. It decides where to begin, until something
    /// was read.
    pub(super) since: Option<SystemTime>,
    /// Headers only, no payloads.
    pub(super) headers_only: bool,
}

impl Reading {
    fn of(stream: &str, filters: &[String], from_seq: u64) -> Self {
        Self { stream: stream.to_owned(), filters: filters.to_vec(), from_seq, ..Self::default() }
    }
}

/// End of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Last message of the stream as it was when the reading began.
    LastAtStart,
    /// End of what is stored: nothing is left to read.
    NothingLeft,
    /// No end: it goes on for ever, and a broken connection is mended.
    Never,
}

impl Broker {
    /// Messages of a stream on subjects that match `filter` (empty: all), from `from_seq` to what
    /// is the last one now.
    ///
    /// Nothing is settled, whatever the stream's retention. A work-queue stream lets nobody read
    /// beside its consumers, so there each message is fetched by itself, which is slower.
    pub fn scan(
        &self,
        stream: &str,
        filter: &str,
        from_seq: u64,
    ) -> impl Stream<Item = Result<StoredMessage, AdminError>> + Send + use<> {
        self.scan_some(stream, Scan { filter: filter.to_owned(), from_seq, ..Scan::default() })
    }

    /// Messages of a stream that a [`Scan`] selects; as [`Broker::scan`] for the rest.
    pub fn scan_some(
        &self,
        stream: &str,
        scan: Scan,
    ) -> impl Stream<Item = Result<StoredMessage, AdminError>> + Send + use<> {
        let Scan { filter, from_seq, to_seq, since, headers_only } = scan;
        let filters = Some(filter).filter(|filter| !filter.is_empty()).into_iter().collect();
        let reading = Reading { stream: stream.to_owned(), filters, from_seq, since, headers_only };
        self.read_to(reading, End::LastAtStart, to_seq)
    }

    /// Messages of a stream on subjects that match any of `filters` (none: all), from `from_seq`
    /// on, for ever.
    ///
    /// In stream order, each once. What goes wrong meanwhile (a restart of the server, a lost
    /// consumer) is given as an error, after which the reading goes on behind the last message that
    /// was given: an error is a notice, not an end.
    pub fn follow(
        &self,
        stream: &str,
        filters: &[String],
        from_seq: u64,
    ) -> impl Stream<Item = Result<StoredMessage, AdminError>> + Send + use<> {
        self.read(Reading::of(stream, filters, from_seq), End::Never)
    }

    /// Messages as [`Broker::follow`] gives them, up to what is stored by the time that all of it
    /// is read.
    pub fn stored(
        &self,
        stream: &str,
        filters: &[String],
        from_seq: u64,
    ) -> impl Stream<Item = Result<StoredMessage, AdminError>> + Send + use<> {
        self.read(Reading::of(stream, filters, from_seq), End::NothingLeft)
    }

    pub(super) fn read(
        &self,
        reading: Reading,
        end: End,
    ) -> impl Stream<Item = Result<StoredMessage, AdminError>> + Send + use<> {
        self.read_to(reading, end, None)
    }

    fn read_to(
        &self,
        reading: Reading,
        end: End,
        last: Option<u64>,
    ) -> impl Stream<Item = Result<StoredMessage, AdminError>> + Send + use<> {
        let reader = Reader {
            broker: self.clone(),
            reading,
            end,
            open: None,
            walks: false,
            last,
            failures: 0,
        };
        stream::unfold(Some(reader), |reader| async move {
            let mut reader = reader?;
            match reader.next().await {
                Ok(Some(message)) => Some((Ok(message), Some(reader))),
                Ok(None) => None,
                Err(error) if reader.end == End::Never => Some((Err(error), Some(reader))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

/// Consumer of our own without acks. What the server has sent counts as delivered, whether it came
/// or not, so what is missing is found by the consumer sequence: of the next message, of a
/// heartbeat, of the consumer's state; and where the connection is another, by that alone.
struct Open {
    jetstream: jetstream::Context,
    consumer: PullConsumer,
    demand: Demand,
    /// Consumer sequence of the last message that came.
    consumer_seq: u64,
    /// Time since which none came.
    quiet_since: Instant,
    /// Consumer sequence that the consumer's state said was delivered, when it was last asked.
    delivered: u64,
}

struct Reader {
    broker: Broker,
    reading: Reading,
    end: End,
    open: Option<Open>,
    /// True if each message is fetched by itself: on a work-queue stream.
    walks: bool,
    /// Last sequence that is read: by default that of the last message when the reading began.
    last: Option<u64>,
    /// Openings that failed in a row.
    failures: u32,
}

impl Reader {
    /// Next message; `None` at the end. After an error the next call opens the stream anew.
    async fn next(&mut self) -> Result<Option<StoredMessage>, AdminError> {
        loop {
            if self
                .last
                .is_some_and(|last| self.end == End::LastAtStart && self.reading.from_seq > last)
            {
                return Ok(None);
            }
            if self.walks {
                return self.walk().await;
            }
            let Some(open) = &mut self.open else {
                if self.failures > 0 {
                    let wait = limits::REOPEN_WAIT_MAX
                        .min(Duration::from_millis(50) * 2_u32.pow(self.failures.min(10)));
                    tokio::time::sleep(wait).await;
                }
                self.failures += 1;
                let begun = self.last.is_some();
                match self.open().await {
                    Ok(true) => return Ok(None),
                    Ok(false) => {}
                    // It has been there, so it may be there again: a connection breaks, a leader
                    // changes.
                    Err(AdminError::Read { .. })
                        if begun
                            && self.end != End::Never
                            && self.failures < limits::READ_FAILURES_MAX => {}
                    Err(error) => return Err(error),
                }
                continue;
            };
            // What has come already is good, whatever became of the connection.
            let came = match open.demand.ready() {
                Some(came) => came,
                None if open.demand.is_cut() => {
                    self.reopen();
                    continue;
                }
                None => open.demand.next().await,
            };
            let frame = match came {
                Came::Message(frame, _) => frame,
                // The server counts as delivered what we have not seen, and it is not on its way:
                // a heartbeat does not overtake a message.
                Came::Beat(Some(last)) if last > open.consumer_seq => {
                    self.lost("messages were lost on the way")?;
                    continue;
                }
                Came::Beat(_) => continue,
                Came::Gone => return Err(self.broken("the consumer is gone")),
                Came::Trouble(why) => {
                    self.lost(&why)?;
                    continue;
                }
                Came::Quiet => {
                    if self.quiet().await? {
                        return Ok(None);
                    }
                    continue;
                }
            };
            let Some(places) = Places::read(frame.reply()) else {
                return Err(self.broken("a message has a reply subject that cannot be read"));
            };
            if places.consumer_seq != open.consumer_seq + 1 {
                self.lost("messages were lost on the way")?;
                continue;
            }
            open.consumer_seq += 1;
            open.quiet_since = Instant::now();
            self.failures = 0;
            let seq = places.stream_seq;
            if self.end == End::LastAtStart && self.last.is_some_and(|last| seq > last) {
                return Ok(None);
            }
            self.reading.from_seq = seq + 1;
            self.reading.since = None;
            if places.pending == 0 && self.end != End::Never {
                self.last = Some(seq);
                self.end = End::LastAtStart;
            }
            return Ok(Some(StoredMessage::read(&frame, seq, places.stored_at)));
        }
    }

    /// Looks at the consumer's state where nothing came for a while; true if nothing is left.
    async fn quiet(&mut self) -> Result<bool, AdminError> {
        let Some(open) = &mut self.open else { return Ok(false) };
        // What was to come may be deleted meanwhile; then nothing comes, and nothing says so. A
        // reading without an end is told by heartbeats.
        if self.end == End::Never || open.quiet_since.elapsed() < limits::READ_IDLE {
            return Ok(false);
        }
        let info = match open.consumer.get_info().await {
            Ok(info) => info,
            Err(error) => return self.lost(&error.to_string()).map(|()| false),
        };
        let delivered = info.delivered.consumer_sequence;
        if info.num_pending == 0 && delivered == open.consumer_seq {
            return Ok(true);
        }
        open.quiet_since = Instant::now();
        // Twice, with time between: what was on its way has had time to come.
        if open.delivered > open.consumer_seq {
            self.lost("messages were lost on the way")?;
        } else {
            open.delivered = delivered;
        }
        Ok(false)
    }

    /// Opens the stream at the next sequence wanted; true if there is nothing to read at all.
    async fn open(&mut self) -> Result<bool, AdminError> {
        let name = self.reading.stream.clone();
        let stream = self
            .broker
            .jetstream
            .get_stream(&name)
            .await
            .map_err(|error| admin::no_stream(&name, error))?;
        let info = stream.cached_info();
        let last = *self.last.get_or_insert(info.state.last_sequence);
        if self.end != End::Never && (info.state.messages == 0 || last < self.reading.from_seq) {
            return Ok(true);
        }
        if info.config.retention == RetentionPolicy::WorkQueue {
            self.walks = true;
            return Ok(false);
        }
        let from_seq = self.reading.from_seq.max(1);
        let deliver_policy = match self.reading.since {
            Some(since) => DeliverPolicy::ByStartTime { start_time: since.into() },
            None => DeliverPolicy::ByStartSequence { start_sequence: from_seq },
        };
        let read_ahead = if self.reading.headers_only {
            limits::HEADERS_READ_AHEAD_MAX
        } else {
            limits::READ_AHEAD_MAX
        };
        let wanted =
            usize::try_from(last.saturating_sub(from_seq).saturating_add(1)).unwrap_or(usize::MAX);
        let config = pull::Config {
            deliver_policy,
            headers_only: self.reading.headers_only,
            ack_policy: AckPolicy::None,
            filter_subjects: self.reading.filters.clone(),
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: limits::READER_INACTIVE_MAX,
            ..pull::Config::default()
        };
        let consumer =
            stream.create_consumer(config).await.map_err(|error| AdminError::read(&name, error))?;
        if self.end != End::Never && consumer.cached_info().num_pending == 0 {
            return Ok(true);
        }
        let room = match self.end {
            End::LastAtStart => read_ahead.min(wanted),
            End::NothingLeft | End::Never => read_ahead,
        };
        let demand = Demand::new(&self.broker, &name, &consumer.cached_info().name, room);
        self.open = Some(Open {
            jetstream: self.broker.jetstream.clone(),
            consumer,
            demand,
            consumer_seq: 0,
            quiet_since: Instant::now(),
            delivered: 0,
        });
        Ok(false)
    }

    /// Next message, fetched by itself.
    async fn walk(&mut self) -> Result<Option<StoredMessage>, AdminError> {
        let all = vec![">".to_owned()];
        let filters = if self.reading.filters.is_empty() { &all } else { &self.reading.filters };
        loop {
            let mut nearest: Option<StoredMessage> = None;
            for filter in filters {
                let found = self
                    .broker
                    .next_on_subject(&self.reading.stream, filter, self.reading.from_seq)
                    .await?;
                nearest = [nearest, found].into_iter().flatten().min_by_key(|message| message.seq);
            }
            match nearest {
                Some(message) => {
                    let beyond = self
                        .last
                        .is_some_and(|last| self.end == End::LastAtStart && message.seq > last);
                    self.reading.from_seq = message.seq + 1;
                    return Ok(Some(message).filter(|_| !beyond));
                }
                None if self.end == End::Never => tokio::time::sleep(limits::READ_IDLE).await,
                None => return Ok(None),
            }
        }
    }

    /// Opens the stream anew at the next sequence wanted, because the connection is another.
    fn reopen(&mut self) {
        tracing::debug!(stream = self.reading.stream, "reading goes on over another connection");
        self.open = None;
    }

    /// Opens the stream anew at the next sequence wanted, because what came is not all. It is no
    /// error until that has not helped several times.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    fn lost(&mut self, why: &str) -> Result<(), AdminError> {
        tracing::debug!(stream = self.reading.stream, why, "reading anew from where it was");
        self.open = None;
        if self.failures >= limits::READ_FAILURES_MAX {
            return Err(AdminError::read(&self.reading.stream, why.to_owned()));
        }
        Ok(())
    }

    fn broken(&mut self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> AdminError {
        self.open = None;
        self.failures = self.failures.max(1);
        AdminError::read(&self.reading.stream, error)
    }
}

/// Deletes the consumer at the server, which would else keep it, and on an interest stream its
/// messages, until it has been inactive for long enough.
impl Drop for Open {
    fn drop(&mut self) {
        let info = self.consumer.cached_info();
        let (stream, name, jetstream) =
            (info.stream_name.clone(), info.name.clone(), self.jetstream.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // If it fails, the server deletes it a little later by itself.
            runtime.spawn(
                async move { jetstream.delete_consumer_from_stream(name, stream).await.ok() },
            );
        }
    }
}
