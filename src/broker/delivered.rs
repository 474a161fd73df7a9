//! Delivered: one delivery of a message, settled once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use async_nats::Subject;
use bytes::Bytes;

use super::{
    Headers,
    budget::Held,
    connection::{Block, Connection, Frame},
    message::{Malformed, text_of},
};

/// Delivery of one message. Settled once: each way of settling takes it.
#[derive(Debug)]
pub struct Delivered {
    connection: Connection,
    subject: Subject,
    reply: Subject,
    headers: Option<Headers>,
    body: Bytes,
    malformed: Option<Box<Malformed>>,
    /// Stream it came from.
    pub stream: Arc<str>,
    /// Stream sequence of the message.
    pub seq: u64,
    /// Number of deliveries of the message, this one included.
    pub deliveries: u32,
    /// Time the server stored the message.
    pub stored_at: SystemTime,
    /// Messages that match the consumer and are still to be delivered.
    pub pending: u64,
    held: Held,
    /// Connection it came by, time it came, and time that the server leaves us for it.
    generation: u64,
    came: Instant,
    ack_wait: Duration,
    /// Milliseconds after it came at which it was last kept alive.
    kept_alive_ms: AtomicU64,
}

/// Places of a delivery, from its reply subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) deliveries: u64,
    pub(super) stream_seq: u64,
    pub(super) consumer_seq: u64,
    pub(super) stored_at: SystemTime,
    pub(super) pending: u64,
}

impl Places {
    /// Reads `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<ns>.<pending>`,
    /// or the later form with a domain and an account before the stream.
    ///
    /// Source: nats-server 2.15.1, `server/consumer.go`, `ackReplyInfo`; ADR-15.
    pub(super) fn read(reply: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(reply).ok()?;
        let count = text.split('.').count();
        let skipped = match count {
            9 => 4,
            11.. => 6,
            _ => return None,
        };
        let mut numbers = text.split('.').skip(skipped).map(|part| part.parse::<u64>().ok());
        let mut next = || numbers.next().flatten();
        let (deliveries, stream_seq, consumer_seq, nanos, pending) =
            (next()?, next()?, next()?, next()?, next()?);
        let stored_at = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
        Some(Self { deliveries, stream_seq, consumer_seq, stored_at, pending })
    }
}

impl Delivered {
    /// Delivery of a message that has come; `None` if its reply subject is not one of a delivery.
    pub(super) fn new(
        stream: &Arc<str>,
        connection: &Connection,
        ack_wait: Duration,
        frame: &Frame,
        held: Held,
    ) -> Option<Self> {
        let places = Places::read(frame.reply())?;
        let (subject, bad_subject) = text_of(frame.subject_bytes());
        let block = Block::read(frame.head());
        let malformed = Malformed::of(block.malformed, bad_subject, frame.head());
        Some(Self {
            connection: connection.clone(),
            subject,
            reply: text_of(frame.reply_bytes()).0,
            headers: Some(block.headers).filter(|headers| !headers.is_empty()),
            body: frame.body(),
            malformed: malformed.map(Box::new),
            stream: Arc::clone(stream),
            seq: places.stream_seq,
            deliveries: u32::try_from(places.deliveries).unwrap_or(u32::MAX),
            stored_at: places.stored_at,
            pending: places.pending,
            held,
            generation: frame.generation,
            came: Instant::now(),
            ack_wait,
            kept_alive_ms: AtomicU64::new(0),
        })
    }

    /// Subject it was published on.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Value of a header.
    pub fn header(&self, name: &'static str) -> Option<&str> {
        super::get(self.headers.as_ref()?, name)
    }

    /// Headers of the message; of a malformed block those that could be read.
    pub fn headers(&self) -> Option<&Headers> {
        self.headers.as_ref()
    }

    /// Payload of the message.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Reason why the message is malformed, and its header block as it is stored.
    pub fn malformed(&self) -> Option<&Malformed> {
        self.malformed.as_deref()
    }

    /// Begins the delivery: it waits no longer, and its bytes make room for others. False if it
    /// must not begin, because the server may have given it to another: it was not kept alive for
    /// its ack wait (the process was paused), or for a quarter of it where the connection that it
    /// came by is gone, since with that a sign of life may have been lost.
    pub fn begin(&self) -> bool {
        self.held.release();
        let is_same = self.connection.generation() == self.generation;
        self.alone() < if is_same { self.ack_wait } else { self.ack_wait / 4 }
    }

    /// Time since it came or was last kept alive.
    fn alone(&self) -> Duration {
        let kept_alive = Duration::from_millis(self.kept_alive_ms.load(Ordering::Relaxed));
        self.came.elapsed().saturating_sub(kept_alive)
    }

    /// Sends an in-progress ack: work goes on, and the ack wait starts anew. Not a settlement.
    pub async fn progress(&self) {
        // A lost sign of life costs a second run of the event, never the event.
        self.connection.settle(&self.reply, b"+WPI");
        // One that comes too late, or on no connection, keeps nothing alive.
        if self.connection.is_up() && self.alone() < self.ack_wait {
            let after = u64::try_from(self.came.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.kept_alive_ms.store(after, Ordering::Relaxed);
        }
    }

    /// Acks the delivery: it is done.
    pub async fn ack(self) {
        self.connection.settle(&self.reply, b"+ACK");
    }

    /// Naks the delivery: it comes again after `wait`.
    pub async fn nak(self, wait: Duration) {
        let text = format!("-NAK {{\"delay\":{}}}", wait.as_nanos());
        self.connection.settle(&self.reply, text.as_bytes());
    }

    /// Terms the delivery: it never comes again. The reason shows in the server's advisory.
    pub async fn term(self, reason: &str) {
        let text = format!("+TERM {}", millstream_stages::headers::clean(reason));
        self.connection.settle(&self.reply, text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_an_ack_subject_are_read() {
        let wanted = Places {
            deliveries: 2,
            stream_seq: 7,
            consumer_seq: 9,
            stored_at: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_500),
            pending: 3,
        };
        assert_eq!(Places::read(b"$JS.ACK.s.c.2.7.9.1500.3"), Some(wanted));
        assert_eq!(Places::read(b"$JS.ACK.dom.hash.s.c.2.7.9.1500.3.tok"), Some(wanted));
        assert_eq!(Places::read(b"$JS.ACK.s.c.2.7.9.1500"), None);
        assert_eq!(Places::read(b"$JS.ACK.s.c.x.7.9.1500.3"), None);
    }
}
