//! Demand: pull requests to one consumer, bounded in messages and in bytes.
//!
//! All that was asked for can be taken in at once. A request names the bytes that it has room for,
//! so that the read loop never has to wait for a slow feed; several are on their way at a time,
//! each in a slot with an inbox of its own, by which its messages are known, and with a number, by
//! which its end is: that comes behind the last message, when the slot may hold the next request.

use std::{pin::pin, time::Duration};

use serde_json::json;
use tokio::time::Instant;

use super::{
    Broker,
    budget::{Held, Share},
    connection::{Block, Connection, Frame, Sending, Subscription},
};
use crate::limits;

/// Requests on their way at once, at the most.
const SLOTS: usize = 4;

/// Pull requests to one consumer, and what comes of them.
#[derive(Debug)]
pub(super) struct Demand {
    connection: Connection,
    subscription: Subscription,
    next_subject: String,
    /// Subjects of the slots, which the number of a request is added to.
    inboxes: Vec<String>,
    /// Requests sent.
    requests: u64,
    slots: [Slot; SLOTS],
    /// Messages that there is room for, and free room that is worth a request.
    room: usize,
    step: usize,
    share: Share,
    /// Bytes that a request has at least: fewer would be refused for the next message.
    floor: usize,
    /// Factor by which the largest message is larger than `max_payload` says.
    stretch: usize,
    /// Limits that the server holds requests to.
    batch_max: usize,
    bytes_max: usize,
    expires: Duration,
    /// Time before which no request is sent.
    ask_after: Instant,
    /// Time of the server's last sign of life.
    heard: Instant,
    /// Connection that the requests were sent on.
    generation: u64,
}

/// Request on its way.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// Number of the request.
    number: u64,
    /// Messages and bytes asked for that have not come.
    due: usize,
    bytes: usize,
    /// Bytes that it asked for.
    asked: usize,
    /// Time by which it has ended, whatever was heard of it.
    until: Instant,
}

/// News of a consumer.
#[derive(Debug)]
pub(super) enum Came {
    /// Message, and its share of what may wait.
    Message(Frame, Held),
    /// Sign of life, with the consumer sequence that was delivered last.
    Beat(Option<u64>),
    /// Refusal, or a server that is silent: the requests are sent again.
    Trouble(String),
    /// End of the consumer, or a refused subject.
    Gone,
    /// Nothing for [`limits::PULL_LOOK`].
    Quiet,
}

impl Demand {
    /// Demand of a consumer, for as many as `room` messages at a time.
    pub(super) fn new(broker: &Broker, stream: &str, consumer: &str, room: usize) -> Self {
        let connection = broker.connection.clone();
        let inbox = connection.new_inbox();
        let inboxes: Vec<String> = (0..SLOTS).map(|slot| format!("{inbox}.{slot}")).collect();
        let of_slots: Vec<String> = inboxes.iter().map(|inbox| format!("{inbox}.*")).collect();
        let subscription = connection.subscribe(&of_slots, limits::PULLED_BYTES_MAX);
        let now = Instant::now();
        let room = room.max(1);
        Self {
            subscription,
            next_subject: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            inboxes,
            requests: 0,
            slots: [Slot { number: 0, due: 0, bytes: 0, asked: 0, until: now }; SLOTS],
            room,
            step: room.div_ceil(SLOTS),
            share: broker.budget.share(),
            floor: limits::PULL_BYTES_MIN,
            stretch: 1,
            batch_max: usize::MAX,
            bytes_max: usize::MAX,
            expires: limits::PULL_EXPIRES,
            ask_after: now,
            heard: now,
            generation: connection.generation(),
            connection,
        }
    }

    /// Sets how many messages there is room for, those that are due included.
    pub(super) fn make_room(&mut self, room: usize) {
        self.room = room;
    }

    /// Room from which on it is worth looking again.
    pub(super) fn worth(&self) -> usize {
        self.room.max(self.due()) + self.step
    }

    /// Messages that were asked for and have not come.
    fn due(&self) -> usize {
        self.slots.iter().map(|slot| slot.due).sum()
    }

    /// Next news. Asks for more where there is room. Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Came {
        loop {
            self.ask();
            if let Some(frame) = self.subscription.ready() {
                match self.take(frame) {
                    Some(came) => return came,
                    None => continue,
                }
            }
            let look = pin!(tokio::time::sleep(limits::PULL_LOOK));
            tokio::select! {
                biased;
                frame = self.subscription.next() => match frame {
                    Some(frame) => if let Some(came) = self.take(frame) { return came },
                    None => return Came::Gone,
                },
                () = self.share.freed() => {}
                () = self.connection.renewed(self.generation) => {}
                () = look => return match self.is_lost() {
                    true => Came::Trouble("no heartbeat from the consumer".to_owned()),
                    false => Came::Quiet,
                },
            }
        }
    }

    /// Message that has come already, without asking for more.
    pub(super) fn ready(&mut self) -> Option<Came> {
        while let Some(frame) = self.subscription.ready() {
            if let Some(came) = self.take(frame) {
                return Some(came);
            }
        }
        None
    }

    /// Next news of what was asked for, without asking for more; `None` once all have come, or none
    /// has for `quiet`.
    pub(super) async fn last(&mut self, quiet: Duration) -> Option<Came> {
        loop {
            if let Some(came) = self.ready() {
                return Some(came);
            }
            if self.due() == 0 || self.connection.generation() != self.generation {
                return None;
            }
            let frame = tokio::time::timeout(quiet, self.subscription.next()).await.ok()??;
            if let Some(came) = self.take(frame) {
                return Some(came);
            }
        }
    }

    /// True if the connection is another than that of the requests.
    pub(super) fn is_cut(&self) -> bool {
        self.connection.generation() != self.generation
    }

    /// Sends a request for as much as there is room for, where that is worth one.
    fn ask(&mut self) {
        let generation = self.connection.generation();
        if generation != self.generation {
            // The server forgets what was asked on a connection that is gone.
            self.generation = generation;
            self.slots.iter_mut().for_each(Slot::clear);
        }
        let batch = self.room.saturating_sub(self.due());
        if batch == 0 || batch < self.step || !self.connection.is_up() {
            return;
        }
        let now = Instant::now();
        if now < self.ask_after {
            return;
        }
        for slot in &mut self.slots {
            if slot.due > 0 && slot.until < now {
                slot.clear();
            }
        }
        let Some(free) = self.slots.iter().position(|slot| slot.due == 0) else { return };
        let Some(bytes) = self.bytes() else { return self.share.want() };
        let (batch, bytes) = (batch.min(self.batch_max), bytes.min(self.bytes_max));
        // The server takes no heartbeat longer than half of the request.
        let heartbeat = limits::PULL_HEARTBEAT.min(self.expires / 2);
        let request = json!({
            "batch": batch,
            "max_bytes": bytes,
            "expires": self.expires.as_nanos() as u64,
            "idle_heartbeat": heartbeat.as_nanos() as u64,
        })
        .to_string();
        let sending = Sending {
            subject: &self.next_subject,
            headers: None,
            extra: &[],
            body: request.as_bytes(),
        };
        let number = self.requests + 1;
        if !self.connection.send_now(&sending, &format!("{}.{number}", self.inboxes[free])) {
            return;
        }
        self.requests = number;
        if self.due() == 0 {
            self.heard = now;
        }
        let until = now + self.expires + limits::PULL_HEARTBEAT;
        self.slots[free] = Slot { number, due: batch, bytes, asked: bytes, until };
    }

    /// Bytes that a request may ask for now; `None` where that is too little. A feed that has
    /// nothing may always ask for one message of the largest size.
    fn bytes(&self) -> Option<usize> {
        let waiting = self.share.waiting();
        let asked: usize = self.slots.iter().map(|slot| slot.bytes).sum();
        let largest = self.largest();
        let free = self.share.bytes().saturating_sub(waiting + asked);
        if waiting == 0 && self.due() == 0 {
            return Some(free.max(largest));
        }
        (free >= self.floor.min(largest)).then_some(free)
    }

    /// Size of the largest message, its subjects included.
    fn largest(&self) -> usize {
        (self.connection.max_payload() + limits::PULL_BYTES_MIN).saturating_mul(self.stretch)
    }

    /// Takes in what came: a message, or a status of a request.
    ///
    /// A message may hold a status line of its own; a delivery is known by its reply subject.
    ///
    /// Source: nats-server 2.15.1, `server/consumer.go`; ADR-37.
    fn take(&mut self, frame: Frame) -> Option<Came> {
        self.heard = Instant::now();
        let of_now = frame.generation == self.generation;
        let slot = self.subscription.sids().iter().position(|sid| *sid == frame.sid);
        let slot = slot.and_then(|slot| self.slots.get_mut(slot)).filter(|_| of_now);
        if frame.reply().starts_with(ACK) {
            let size = frame.size();
            if let Some(slot) = slot {
                slot.due = slot.due.saturating_sub(1);
                slot.bytes = slot.bytes.saturating_sub(size);
                if slot.due == 0 || slot.bytes == 0 {
                    slot.clear();
                }
            }
            self.floor = (self.floor / 16 * 15).max(size * 2).max(limits::PULL_BYTES_MIN);
            let held = self.share.hold(size);
            return Some(Came::Message(frame, held));
        }
        let Block { headers, status, description, .. } = Block::read(frame.head());
        let number = |name: &'static str| -> Option<u64> {
            super::get(&headers, name).and_then(|text| text.parse().ok())
        };
        match status {
            Some(100) => return Some(Came::Beat(number("Nats-Last-Consumer"))),
            Some(_) if GONE.contains(&description.as_str()) => return Some(Came::Gone),
            _ => {}
        }
        // Of a request whose messages have all come the slot may hold the next one by now.
        let slot = slot.filter(|slot| is_end_of(frame.subject(), slot.number));
        let was = slot.map(|slot| std::mem::replace(slot, Slot { due: 0, bytes: 0, ..*slot }));
        if description == TOO_LARGE {
            // The next message is larger than what was left of the request. One that was whole did
            // not have room for a single message: it is from a time of a larger max_payload.
            if was.is_some_and(|was| was.bytes == was.asked && was.asked >= self.largest()) {
                self.stretch = (self.stretch * 2).min(limits::PULL_STRETCH_MAX);
            }
            self.floor = (self.floor * 4).min(self.largest());
            return None;
        }
        if self.keep_to(&description) {
            return None;
        }
        // A request has ended by its time: it says how much of it has not come.
        if number("Nats-Pending-Messages").is_some() || !of_now {
            return None;
        }
        self.ask_after = Instant::now() + limits::PULL_LOOK;
        let status = status.unwrap_or_default();
        Some(Came::Trouble(format!("the server answered {status} {description}")))
    }

    /// Keeps to a limit that the server answered with; false if it is none, or nothing is left to
    /// give way.
    ///
    /// Source: nats-server 2.15.1, measured: `max_batch`, `max_bytes` and `max_expires` of a
    /// consumer, which it takes from the limits of the server where it sets none.
    fn keep_to(&mut self, description: &str) -> bool {
        let Some((what, limit)) = description
            .strip_prefix("Exceeded MaxRequest")
            .and_then(|rest| rest.split_once(" of "))
        else {
            return false;
        };
        let number = limit.parse::<usize>().ok().filter(|limit| *limit > 0);
        match (what, number) {
            ("Batch", Some(limit)) if limit < self.batch_max => self.batch_max = limit,
            ("MaxBytes", Some(limit)) if limit < self.bytes_max => self.bytes_max = limit,
            ("Expires", _) if self.expires > limits::PULL_EXPIRES_MIN => {
                self.expires = (self.expires / 2).max(limits::PULL_EXPIRES_MIN);
            }
            _ => return false,
        }
        true
    }

    /// True if the server has forgotten what was asked for: then it is asked again.
    fn is_lost(&mut self) -> bool {
        let expected = self.due() > 0 || !self.connection.is_up();
        let lost = expected && self.heard.elapsed() > limits::PULL_HEARTBEAT * 2;
        if lost {
            self.slots.iter_mut().for_each(Slot::clear);
            self.heard = Instant::now();
        }
        lost
    }
}

/// Lead of the reply subject of every delivery.
const ACK: &[u8] = b"$JS.ACK.";
/// Ends of a consumer, in the server's words.
const GONE: [&str; 2] = ["Consumer Deleted", "Consumer is push based"];
/// End of a request whose rest has no room for the next message.
const TOO_LARGE: &str = "Message Size Exceeds MaxBytes";

/// True if a status with this subject is that of the request with this number.
fn is_end_of(subject: &[u8], number: u64) -> bool {
    let last = subject.rsplit(|byte| *byte == b'.').next();
    last.is_some_and(|last| last == number.to_string().as_bytes())
}

impl Slot {
    fn clear(&mut self) {
        (self.due, self.bytes) = (0, 0);
    }
}
