//! Lives: a stream followed through its lives: deleted, made anew, restored, in memory.
//!
//! Offsets and revisions are numbers of one life of a stream. Each time that the stream is opened,
//! and now and then, this asks whether it still is the one that they were read from.

use std::time::SystemTime;

use futures_util::{Stream, StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use super::{AdminError, Broker, KvChange, kv, message::StoredMessage, unix_ms};
use crate::limits;

/// Mark in a stream: the last message that was read, and the life that it belongs to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Mark {
    /// Sequence of the message; 0: none was read.
    pub seq: u64,
    /// Time at which the server stored it, in Unix milliseconds; 0: not known.
    pub at_ms: u64,
    /// Time at which the stream was created, in Unix milliseconds; 0: not known.
    pub created_ms: u64,
}

/// What following a stream gives.
#[derive(Debug)]
pub enum Heard {
    /// The stream was opened: it is the one that was read before, or there was none.
    Same {
        /// Time at which it was created, in Unix milliseconds.
        created_ms: u64,
    },
    /// The stream is another one than was read before: it is read from its start.
    Anew {
        /// The last that was read of the one before.
        was: Mark,
        /// Time at which this one was created, in Unix milliseconds.
        created_ms: u64,
        /// How it shows.
        why: String,
    },
    /// Next message.
    Message(StoredMessage),
}

/// What following the keys of a bucket gives.
#[derive(Debug)]
pub enum KvHeard {
    /// The bucket is another one than before. What was heard of its keys holds no more, and each
    /// that it has is given from here on, with revisions that begin at 1 again.
    Anew,
    /// A key as it is, or its change.
    Change(KvChange),
}

/// Answer to a look at a stream.
enum Look {
    Same { created_ms: u64 },
    Another { created_ms: u64, why: String },
}

impl Broker {
    /// First message from this time on whose subject matches `filter`, from the leader; `None` if
    /// there is none.
    ///
    /// Source: nats-server 2.15.1, `STREAM.MSG.GET` with `next_by_subj` and `start_time` (measured
    /// in `tests/it/incarnation.rs`).
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn next_since(
        &self,
        stream: &str,
        filter: &str,
        since: SystemTime,
    ) -> Result<Option<StoredMessage>, AdminError> {
        let start = jiff::Timestamp::try_from(since).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let request = json!({ "next_by_subj": filter, "start_time": start.to_string() });
        self.raw(stream, &request).await
    }

    /// Messages of a stream as [`Broker::follow`] gives them, from behind `mark`, or, where that is
    /// of another life of the stream, from its start.
    ///
    /// Before the first message, and after each error, it says which. An error is a notice, not an
    /// end.
    pub fn follow_lives(
        &self,
        stream: &str,
        filters: &[String],
        mark: Mark,
    ) -> impl Stream<Item = Result<Heard, AdminError>> + Send + use<> {
        let follower = Follower {
            broker: self.clone(),
            stream: stream.to_owned(),
            filters: filters.to_vec(),
            mark,
            open: None,
            looked: None,
            look_at: Instant::now(),
            failures: 0,
        };
        stream::unfold(follower, |mut follower| async move {
            let heard = follower.next().await;
            Some((heard, follower))
        })
    }

    /// Stream of the keys that begin with `prefix` (whole tokens, such as `job.`): each as it is
    /// now, then each change, for ever, through all lives of the bucket. An error is a notice, not
    /// an end.
    pub fn kv_follow(
        &self,
        bucket: &str,
        prefix: &str,
    ) -> impl Stream<Item = Result<KvHeard, AdminError>> + Send + use<> {
        let (root, filter) = (kv::subject(bucket, ""), kv::subject(bucket, &format!("{prefix}>")));
        let heard = self.follow_lives(&kv::stream(bucket), &[filter], Mark::default());
        heard.filter_map(move |heard| {
            let heard = match heard {
                Ok(Heard::Message(message)) => {
                    let StoredMessage { subject, headers, body, seq, stored_at, .. } = message;
                    let key = subject.strip_prefix(&root).unwrap_or(&subject).to_owned();
                    let value = Some(body).filter(|_| !kv::is_deleted(&headers));
                    let change = KvChange { key, value, revision: seq, written_at: stored_at };
                    Some(Ok(KvHeard::Change(change)))
                }
                Ok(Heard::Anew { .. }) => Some(Ok(KvHeard::Anew)),
                Ok(Heard::Same { .. }) => None,
                Err(error) => Some(Err(error)),
            };
            std::future::ready(heard)
        })
    }

    /// Mark to go on from, once more, if the stream is still the one of `mark`; else the start of
    /// what it is now, and how that shows.
    ///
    /// # Errors
    /// [`AdminError::NoStream`], [`AdminError::Read`].
    pub async fn same_stream(
        &self,
        stream: &str,
        mark: Mark,
    ) -> Result<(Mark, Option<String>), AdminError> {
        Ok(match self.look_at(stream, mark).await? {
            Look::Same { created_ms } => (Mark { created_ms, ..mark }, None),
            Look::Another { created_ms, why } => {
                (Mark { created_ms, ..Mark::default() }, Some(why))
            }
        })
    }

    async fn look_at(&self, stream: &str, mark: Mark) -> Result<Look, AdminError> {
        let state = self.stream_state(stream).await?;
        let created_ms = unix_ms(state.created);
        let another = |why: String| Ok(Look::Another { created_ms, why });
        if mark.created_ms != 0 && mark.created_ms != created_ms {
            return another("it was deleted and made anew".to_owned());
        }
        if state.last_seq < mark.seq {
            let (last, seq) = (state.last_seq, mark.seq);
            return another(format!("it ends at {last}, and {seq} was read"));
        }
        if mark.seq > 0
            && mark.at_ms > 0
            && state.first_seq <= mark.seq
            && let Some(there) = self.message(stream, mark.seq).await?
            && unix_ms(there.stored_at) != mark.at_ms
        {
            return another(format!("another message has the sequence {}", mark.seq));
        }
        Ok(Look::Same { created_ms })
    }
}

struct Follower {
    broker: Broker,
    stream: String,
    filters: Vec<String>,
    mark: Mark,
    /// The reading, where the stream is open.
    open: Option<stream::BoxStream<'static, Result<StoredMessage, AdminError>>>,
    /// Time of the last look that showed the stream to be the same; `None`: since it was opened
    /// there was none.
    looked: Option<Instant>,
    /// Time of the next look where nothing comes.
    look_at: Instant,
    /// Looks that failed in a row.
    failures: u32,
}

impl Follower {
    async fn next(&mut self) -> Result<Heard, AdminError> {
        loop {
            let Some(messages) = &mut self.open else { return self.open().await };
            let read = tokio::select! {
                biased;
                read = messages.next() => read,
                () = tokio::time::sleep_until(self.look_at) => {
                    match self.look_again().await {
                        // What is open goes on by itself; the next look is soon.
                        Err(AdminError::Read { .. } | AdminError::Change { .. }) => {}
                        looked => looked?,
                    }
                    continue;
                }
            };
            let message = match read {
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    self.open = None;
                    return Err(error);
                }
                None => {
                    self.open = None;
                    return Err(AdminError::read(&self.stream, "the reading has ended"));
                }
            };
            // The reading mends a broken connection by itself, and whatever the stream is by then
            // is read from behind the mark.
            let trusted = |looked: Instant| looked.elapsed() < limits::SAME_STREAM_TRUST;
            if !self.looked.is_some_and(trusted) {
                if let Err(error) = self.look_again().await {
                    self.open = None;
                    return Err(error);
                }
                if self.open.is_none() {
                    continue;
                }
            }
            (self.mark.seq, self.mark.at_ms) = (message.seq, unix_ms(message.stored_at));
            self.failures = 0;
            return Ok(Heard::Message(message));
        }
    }

    /// Closes the stream if it is not what it was, or gone; it is opened again with the next call.
    async fn look_again(&mut self) -> Result<(), AdminError> {
        self.look_at = Instant::now() + limits::SAME_STREAM_LOOK;
        match self.broker.look_at(&self.stream, self.mark).await {
            Ok(Look::Same { .. }) => {
                (self.failures, self.looked) = (0, Some(Instant::now()));
                Ok(())
            }
            Ok(Look::Another { .. }) => {
                self.open = None;
                Ok(())
            }
            Err(error) => {
                if let AdminError::NoStream { .. } = error {
                    self.open = None;
                }
                Err(error)
            }
        }
    }

    async fn open(&mut self) -> Result<Heard, AdminError> {
        if self.failures > 0 {
            let step = std::time::Duration::from_millis(50) * 2_u32.pow(self.failures.min(10));
            tokio::time::sleep(step.min(limits::REOPEN_WAIT_MAX)).await;
        }
        self.failures = self.failures.saturating_add(1);
        let look = self.broker.look_at(&self.stream, self.mark).await?;
        let was = self.mark;
        let heard = match look {
            Look::Same { created_ms } => {
                self.mark.created_ms = created_ms;
                Heard::Same { created_ms }
            }
            Look::Another { created_ms, why } => {
                self.mark = Mark { created_ms, ..Mark::default() };
                Heard::Anew { was, created_ms, why }
            }
        };
        let messages = self.broker.follow(&self.stream, &self.filters, self.mark.seq + 1).boxed();
        // It may be made anew between this look and the opening: the first message is not trusted.
        (self.open, self.looked) = (Some(messages), None);
        self.look_at = Instant::now() + limits::SAME_STREAM_LOOK;
        Ok(heard)
    }
}
