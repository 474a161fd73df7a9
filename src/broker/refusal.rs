//! Refusal: subjects that the server does not let us use, for as long as it refuses them.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};

use super::{Broker, connection::Sending};
use crate::limits;

/// Subject that the server does not let us use. Waiting does not help: someone has to grant it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("the NATS server refuses us {operation} on \"{subject}\": grant it to the user of [nats]")]
pub struct Refusal {
    /// Operation attempted: `publish` or `subscribe`.
    pub operation: String,
    /// Subject refused.
    pub subject: String,
}

/// Refusals of a broker's connections, those of kindred subjects as one.
#[derive(Debug)]
pub(super) struct Refusals {
    known: Mutex<BTreeMap<Refusal, Known>>,
    /// Number of those known, which is looked at where something succeeds.
    count: AtomicUsize,
    /// Time at which the subscriptions that answers come by were last made anew.
    tried: Mutex<Option<Instant>>,
    each: broadcast::Sender<Refusal>,
    changes: watch::Sender<u64>,
}

/// Refusal that was seen.
#[derive(Debug)]
struct Known {
    /// Subject that was refused last, and when.
    subject: String,
    last: Instant,
}

/// Refusals as they come.
pub(super) struct EachRefusal(broadcast::Receiver<Refusal>);

impl EachRefusal {
    /// Refusal of a publish on this subject, of those that have come.
    pub(super) fn of(&mut self, subject: &str) -> Option<Refusal> {
        loop {
            match self.0.try_recv() {
                Ok(refusal) if refusal.is_of(subject) => return Some(refusal),
                Ok(_) | Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(_) => return None,
            }
        }
    }

    /// Next refusal of a publish on this subject.
    async fn next_of(&mut self, subject: &str) -> Refusal {
        loop {
            match self.0.recv().await {
                Ok(refusal) if refusal.is_of(subject) => return refusal,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
            }
        }
    }
}

impl Refusal {
    /// True if it is of a publish on this subject.
    fn is_of(&self, subject: &str) -> bool {
        self.operation == "publish" && self.subject == subject
    }
}

/// Operation and subject that a `Permissions Violation for Publish to "a.b"` refuses.
///
/// Source: nats-server 2.15, `server/client.go`, `pubPermissionViolation` and
/// `subPermissionViolation`.
pub(super) fn denied(text: &str) -> Option<Refusal> {
    const LEAD: &str = "permissions violation for ";
    let start = text.to_ascii_lowercase().find(LEAD)? + LEAD.len();
    let rest = &text[start..];
    let operation = if rest.starts_with(['P', 'p']) { "publish" } else { "subscribe" };
    let subject = rest.split('"').nth(1)?;
    Some(Refusal { operation: operation.to_owned(), subject: subject.to_owned() })
}

/// Subjects that are granted or refused together with this one: those of a letter are as many as
/// there are letters.
fn pattern(subject: &str) -> String {
    let tokens: Vec<&str> = subject.split('.').collect();
    let first = |count: usize| match tokens.len() > count {
        true => format!("{}.>", tokens[..count].join(".")),
        false => subject.to_owned(),
    };
    match tokens[..] {
        // Both forms of an ack: the later one names a domain and an account first.
        ["$JS", "ACK", .., _] => first(if tokens.len() >= 11 { 6 } else { 4 }),
        ["$JS", "API", "CONSUMER", "MSG", "NEXT", ..] => first(6),
        ["$JS", "API", "CONSUMER", "DURABLE", "CREATE", ..] => first(6),
        ["$JS", "API", "STREAM", "MSG", ..] => subject.to_owned(),
        ["$JS", "API", ..] => first(5),
        ["_INBOX", ..] => first(1),
        ["$KV", ..] => first(2),
        _ => first(3),
    }
}

/// Subject of an ack that is refused or granted as those of a pattern, and settles nothing.
fn harmless(subject: &str) -> Option<String> {
    let tokens: Vec<&str> = subject.split('.').collect();
    if !subject.starts_with(ACK) || tokens.len() < 9 {
        return None;
    }
    let numbers = if tokens.len() >= 11 { 6 } else { 4 };
    let zeroed = tokens.iter().enumerate().map(|(n, token)| match n >= numbers {
        true => "0",
        false => token,
    });
    Some(zeroed.collect::<Vec<_>>().join("."))
}

/// Lead of the subjects of acks.
const ACK: &str = "$JS.ACK.";

impl Default for Refusals {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            count: AtomicUsize::new(0),
            tried: Mutex::default(),
            each: broadcast::Sender::new(64),
            changes: watch::Sender::new(0),
        }
    }
}

impl Refusals {
    fn known(&self) -> MutexGuard<'_, BTreeMap<Refusal, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports a refusal. Logged when it is new.
    pub(super) fn report(&self, refusal: Refusal) {
        let mut known = self.known();
        let Refusal { operation, subject } = refusal.clone();
        let key = Refusal { operation, subject: pattern(&subject) };
        let seen = Known { subject, last: Instant::now() };
        if known.insert(key, seen).is_none() {
            let Refusal { operation, subject } = &refusal;
            tracing::error!(operation, subject, "the broker refuses a subject");
        }
        if known.len() > limits::REFUSALS_MAX {
            let oldest = known.iter().min_by_key(|(_, seen)| seen.last).map(|(key, _)| key.clone());
            oldest.map(|oldest| known.remove(&oldest));
        }
        self.changed(&known);
        drop(known);
        // It fails where nobody waits for one.
        self.each.send(refusal).ok();
    }

    /// Notes that a publish was answered: it is not refused, or no longer.
    pub(super) fn answered(&self, subject: &str) {
        if self.count.load(Ordering::Relaxed) > 0 {
            self.granted(subject);
        }
    }

    fn granted(&self, subject: &str) {
        let key = Refusal { operation: "publish".to_owned(), subject: pattern(subject) };
        let mut known = self.known();
        if known.remove(&key).is_some() {
            self.changed(&known);
        }
    }

    fn changed(&self, known: &BTreeMap<Refusal, Known>) {
        self.count.store(known.len(), Ordering::Relaxed);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Refusals that hold, as far as is known: whoever is refused tries again, so that one that is
    /// not seen for [`limits::REFUSAL_KEPT`] is one no longer. An ack is not tried again: it is
    /// asked about.
    fn hold(&self) -> Vec<Refusal> {
        let mut known = self.known();
        let before = known.len();
        known.retain(|refusal, seen| {
            refusal.subject.starts_with(ACK) || seen.last.elapsed() < limits::REFUSAL_KEPT
        });
        if known.len() != before {
            self.changed(&known);
        }
        known.keys().cloned().collect()
    }

    /// Acks that are refused: pattern, and a subject to ask about it.
    fn acks(&self) -> Vec<(String, Instant)> {
        let known = self.known();
        let acks = known.iter().filter(|(refusal, _)| refusal.subject.starts_with(ACK));
        acks.filter_map(|(_, seen)| Some((harmless(&seen.subject)?, seen.last))).collect()
    }

    /// True if answers are refused, and that is to be tried again. What was tried, and is not
    /// refused again by the next time that this is asked, is granted.
    fn may_subscribe_anew(&self) -> bool {
        let mut known = self.known();
        let last = known.iter().filter(|(refusal, _)| is_of_inbox(refusal));
        let Some(last) = last.map(|(_, seen)| seen.last).max() else { return false };
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if tried.is_some_and(|tried| tried > last) {
            known.retain(|refusal, _| !is_of_inbox(refusal));
            self.changed(&known);
            return false;
        }
        *tried = Some(Instant::now());
        true
    }

    /// Time at which a subject like this was last refused.
    fn last(&self, subject: &str) -> Option<Instant> {
        let key = Refusal { operation: "publish".to_owned(), subject: pattern(subject) };
        self.known().get(&key).map(|seen| seen.last)
    }
}

impl Broker {
    /// Subjects that the server refuses us now; those of one kind are one pattern.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.refusals.hold()
    }

    /// Resolves once the server has refused us a subject, and at once if it already has.
    ///
    /// The client shows such a refusal as a timeout of whatever waited; this is its cause.
    pub async fn refused(&self) -> Refusal {
        let mut each = self.refusals.each.subscribe();
        let already = {
            let known = self.refusals.known();
            known.iter().next().map(|(key, seen)| Refusal {
                subject: seen.subject.clone(),
                operation: key.operation.clone(),
            })
        };
        if let Some(already) = already {
            return already;
        }
        loop {
            match each.recv().await {
                Ok(refusal) => return refusal,
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
            }
        }
    }

    /// Result of `work`, which publishes on `subject` by way of the client.
    ///
    /// # Errors
    /// The refusal, at once: the client waits for an answer that cannot come.
    pub(super) async fn unless_refused<T>(
        &self,
        subject: &str,
        work: impl Future<Output = T>,
    ) -> Result<T, Refusal> {
        let mut refusals = self.each_refusal();
        tokio::select! {
            biased;
            done = work => {
                self.answered(subject);
                Ok(done)
            }
            refusal = refusals.next_of(subject) => Err(refusal),
        }
    }

    /// Refusals from now on, one by one.
    pub(super) fn each_refusal(&self) -> EachRefusal {
        EachRefusal(self.refusals.each.subscribe())
    }

    /// Notes that a publish on this subject was taken.
    pub(super) fn answered(&self, subject: &str) {
        self.refusals.answered(subject);
    }

    /// Changes of what is refused: each is a reason to look again.
    pub fn refusal_changes(&self) -> watch::Receiver<u64> {
        self.refusals.changes.subscribe()
    }

    /// True while the server refuses us to settle what a consumer delivers: what is done would come
    /// again and again.
    pub fn is_settling_refused(&self, stream: &str, consumer: &str) -> bool {
        if self.refusals.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let end = format!(".{stream}.{consumer}.>");
        self.refusals
            .known()
            .keys()
            .any(|refusal| refusal.subject.starts_with(ACK) && refusal.subject.ends_with(&end))
    }

    /// Asks again for what nobody else asks for: acks, by ones that settle nothing, and the
    /// subscriptions that answers come by.
    ///
    /// Source: nats-server 2.15.1, measured in `tests/it/refused.rs`: an in-progress ack of
    /// sequence 0 does nothing, and is refused like any other.
    pub async fn ask_again(&self) {
        for (subject, before) in self.refusals.acks() {
            let sending = Sending { subject: &subject, headers: None, extra: &[], body: b"+WPI" };
            let is_sent = self.connection.send_now(&sending, "");
            // The refusal comes before the answer to what was sent after it.
            let is_heard = is_sent && self.connection.flush(limits::REQUEST_TIMEOUT).await.is_ok();
            if is_heard && self.refusals.last(&subject).is_none_or(|last| last == before) {
                self.refusals.granted(&subject);
            }
        }
        self.connection.subscribe_again();
        if self.refusals.may_subscribe_anew() {
            // The client subscribes only when it connects. Nothing is lost by it that would have
            // had an answer.
            if let Err(error) = self.client.force_reconnect().await {
                tracing::debug!(%error, "could not have the client connect anew");
            }
        }
    }
}

/// True for a subscription that answers come by.
fn is_of_inbox(refusal: &Refusal) -> bool {
    refusal.operation == "subscribe" && refusal.subject.starts_with("_INBOX.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_what_was_refused() {
        let refused =
            denied("Permissions Violation for Subscription to \"shop.>\" using queue \"q\"")
                .unwrap();
        assert_eq!((refused.operation.as_str(), refused.subject.as_str()), ("subscribe", "shop.>"));
        assert_eq!(denied("Maximum Connections Exceeded"), None);
    }

    #[test]
    fn subjects_that_are_granted_together_are_refused_as_one() {
        for (subject, kind) in [
            ("shop.dlq.work.shop-in-events.1-1700000000000", "shop.dlq.work.>"),
            ("shop.out.validate.order.created", "shop.out.validate.>"),
            ("shop.retry.work", "shop.retry.work"),
            ("$JS.ACK.shop-in-events.shop-work.1.2.3.4.5", "$JS.ACK.shop-in-events.shop-work.>"),
            ("$JS.ACK.d.h.s.c.1.2.3.4.5.tok", "$JS.ACK.d.h.s.c.>"),
            ("$JS.API.CONSUMER.MSG.NEXT.s.c", "$JS.API.CONSUMER.MSG.NEXT.s.>"),
            ("$JS.API.CONSUMER.CREATE.s.Zq3kW8y1.shop.failed.>", "$JS.API.CONSUMER.CREATE.s.>"),
            ("$JS.API.STREAM.PURGE.shop-dlq", "$JS.API.STREAM.PURGE.shop-dlq"),
            ("$JS.API.STREAM.MSG.DELETE.shop-dlq", "$JS.API.STREAM.MSG.DELETE.shop-dlq"),
            ("$JS.API.INFO", "$JS.API.INFO"),
            ("$KV.shop-state.errors.lease", "$KV.shop-state.>"),
            ("_INBOX.abc.s.7.0", "_INBOX.>"),
        ] {
            assert_eq!(pattern(subject), kind, "{subject}");
        }
    }

    #[test]
    fn an_ack_is_asked_about_by_one_that_settles_nothing() {
        assert_eq!(harmless("$JS.ACK.s.c.1.2.3.4.5").as_deref(), Some("$JS.ACK.s.c.0.0.0.0.0"));
        let later = harmless("$JS.ACK.d.h.s.c.1.2.3.4.5.tok");
        assert_eq!(later.as_deref(), Some("$JS.ACK.d.h.s.c.0.0.0.0.0.0"));
        assert_eq!(harmless("shop.dlq.work.s.1"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_ends_with_an_answer_or_unseen_and_an_ack_only_when_it_was_asked_about() {
        let refusals = Refusals::default();
        let refuse = |subject: &str| {
            refusals.report(Refusal { operation: "publish".into(), subject: subject.into() });
        };
        refuse("shop.dlq.work.s.1");
        refuse("shop.dlq.work.s.2");
        refuse("$JS.ACK.s.c.1.2.3.4.5");
        assert_eq!(refusals.hold().len(), 2);
        refusals.answered("shop.dlq.work.s.3");
        assert_eq!(refusals.hold().len(), 1);
        refuse("shop.dlq.work.s.1");
        tokio::time::sleep(limits::REFUSAL_KEPT).await;
        let held = refusals.hold();
        assert_eq!((held.len(), held[0].subject.as_str()), (1, "$JS.ACK.s.c.>"));
        refusals.granted("$JS.ACK.s.c.0.0.0.0.0");
        assert!(refusals.hold().is_empty());
        // Answers that are refused: what is tried and not refused again is granted.
        refusals.report(Refusal { operation: "subscribe".into(), subject: "_INBOX.a.*".into() });
        tokio::time::sleep(limits::RIGHTS_ASK).await;
        assert!(refusals.may_subscribe_anew());
        assert_eq!(refusals.hold().len(), 1);
        tokio::time::sleep(limits::RIGHTS_ASK).await;
        assert!(!refusals.may_subscribe_anew());
        assert!(refusals.hold().is_empty());
        for n in 0..2 * limits::REFUSALS_MAX {
            refuse(&format!("a.b.{n}"));
        }
        assert_eq!(refusals.hold().len(), limits::REFUSALS_MAX);
    }
}
