//! Lives: lives of events that a worker has in hand at one stage, so that none runs twice at once.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::sync::Notify;

use crate::steady::Moment;

/// Life: stream and sequence that it began as.
pub(super) type Life = (Arc<str>, u64);

/// Message: stream, sequence, and the time it was stored, as a stream that is made anew counts from
/// one.
pub(super) type Message = (Arc<str>, u64, SystemTime);

/// Lives of events that are in hand.
#[derive(Debug, Default)]
pub struct Lives {
    held: Mutex<HashMap<Life, Held>>,
    left: Notify,
}

/// Life in hand.
#[derive(Debug)]
struct Held {
    message: Message,
    /// Time of the last sign that the server takes the delivery for ours.
    sign: Moment,
}

/// Delivery in hand, until it is dropped.
#[derive(Debug)]
pub(super) struct InHand<'a> {
    lives: &'a Lives,
    life: Life,
    came: Moment,
    has_begun: AtomicBool,
}

/// Taking of a delivery.
#[derive(Debug)]
pub(super) enum Taken<'a> {
    /// It is in hand.
    InHand(InHand<'a>),
    /// The same message is in hand: its settlement, and its signs of life, are this one's, too.
    Same,
    /// Another message of the same life is in hand.
    Other,
}

impl Lives {
    /// Takes a delivery of `message`, which came at `came`.
    pub(super) fn take(&self, life: Life, message: Message, came: Moment) -> Taken<'_> {
        let mut held = self.held();
        match held.get_mut(&life) {
            None => {
                held.insert(life.clone(), Held { message, sign: came });
                Taken::InHand(InHand { lives: self, life, came, has_begun: AtomicBool::new(false) })
            }
            Some(held) if held.message == message => {
                held.sign = came;
                Taken::Same
            }
            Some(_) => Taken::Other,
        }
    }

    /// Takes a delivery once no other message of its life is in hand; `None` if it is in hand
    /// itself.
    pub(super) async fn take_in_turn(
        &self,
        life: Life,
        message: Message,
        came: Moment,
    ) -> Option<InHand<'_>> {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            // Registered before the look, so that one that leaves in between is not missed.
            left.as_mut().enable();
            match self.take(life.clone(), message.clone(), came) {
                Taken::InHand(hand) => return Some(hand),
                Taken::Same => return None,
                Taken::Other => left.await,
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Life, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InHand<'_> {
    /// Notes that a sign of life was sent.
    pub(super) fn renew(&self) {
        if let Some(held) = self.lives.held().get_mut(&self.life) {
            held.sign = Moment::now();
        }
    }

    /// Notes that it runs: from now on it is finished, whoever else may have it.
    pub(super) fn begin(&self) {
        self.has_begun.store(true, Ordering::Relaxed);
    }

    /// True if it has not begun, and the server has had no sign of life for so long that it has
    /// given it to someone else.
    pub(super) fn has_lapsed(&self, ack_wait: Duration) -> bool {
        if self.has_begun.load(Ordering::Relaxed) || self.came.elapsed() < ack_wait {
            return false;
        }
        let held = self.lives.held();
        held.get(&self.life).is_some_and(|held| held.sign.elapsed() >= ack_wait)
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.lives.held().remove(&self.life);
        self.lives.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(seq: u64) -> Life {
        ("in".into(), seq)
    }

    fn message(stream: &str, seq: u64) -> Message {
        (stream.into(), seq, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn a_message_that_comes_again_while_it_is_in_hand_is_not_taken_twice() {
        let lives = Lives::default();
        let take = |of, message| lives.take(life(of), message, Moment::now());
        let Taken::InHand(first) = take(1, message("in", 1)) else { panic!("not taken") };
        assert!(matches!(take(1, message("in", 1)), Taken::Same));
        assert!(matches!(take(1, message("retry", 7)), Taken::Other));
        let (stream, seq, stored_at) = message("in", 1);
        let anew = (stream, seq, stored_at + Duration::from_secs(1));
        assert!(matches!(take(1, anew), Taken::Other), "the stream was made anew");
        assert!(matches!(take(2, message("in", 2)), Taken::InHand(_)));
        drop(first);
        assert!(matches!(take(1, message("retry", 7)), Taken::InHand(_)));
    }

    #[test]
    fn what_has_not_begun_lapses_unless_the_server_heard_of_it() {
        let (lives, wait) = (Lives::default(), Duration::from_secs(5));
        let ago = |ago| Moment::now() - Duration::from_secs(ago);
        let take = |before| lives.take(life(1), message("in", 1), ago(before));
        let Taken::InHand(first) = take(6) else { panic!("not taken") };
        assert!(first.has_lapsed(wait) && !first.has_lapsed(Duration::from_secs(60)));
        first.renew();
        assert!(!first.has_lapsed(wait), "the server has heard of it");
        assert!(matches!(take(7), Taken::Same));
        assert!(first.has_lapsed(wait));
        assert!(matches!(take(0), Taken::Same));
        assert!(!first.has_lapsed(wait), "the server has just given it to us again");
        assert!(first.has_lapsed(Duration::ZERO));
        first.begin();
        assert!(!first.has_lapsed(Duration::ZERO), "it is finished, whoever else may have it");
    }
}
