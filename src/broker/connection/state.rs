//! State: what a connection has to send, and who waits for what it brings.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use futures_util::task::AtomicWaker;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{parse::Frame, write};
use crate::{
    broker::refusal::{Refusal, Refusals},
    limits,
};

/// Answer that will not come.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Lost {
    /// Connection that broke: the message may have been taken or not.
    #[error("the connection broke before the answer came")]
    Broken,
    /// Subject that the server refuses.
    #[error(transparent)]
    Denied(Refusal),
}

/// Someone who waits for one answer.
struct Waiter {
    subject: Box<str>,
    sender: oneshot::Sender<Result<Frame, Lost>>,
}

/// Subscription of ours.
struct Subscribed {
    subject: Box<str>,
    sender: mpsc::UnboundedSender<Frame>,
    queued: Arc<AtomicUsize>,
    queued_max: usize,
}

#[derive(Default)]
pub(super) struct State {
    /// Bytes to send on the connection that stands.
    pub(super) out: Vec<u8>,
    /// Settlements made while none stands, for the next.
    kept: Vec<u8>,
    up: bool,
    /// Waiters by number. A number is used once: a late answer finds nobody.
    waiters: HashMap<u64, Waiter>,
    subscribed: HashMap<u64, Subscribed>,
    last_id: u64,
    /// Pings that wait for their answer, the oldest first; `None`: a sign of life.
    pongs: VecDeque<Option<oneshot::Sender<()>>>,
}

/// State that a connection and its users share.
pub(crate) struct Shared {
    /// Prefix of the subjects that answers come to; `<inbox>.<number>`.
    pub(super) inbox: String,
    state: Mutex<State>,
    /// Task of the connection.
    pub(super) waker: AtomicWaker,
    /// Room in what is to be sent.
    drained: Notify,
    /// True while the connection stands.
    pub(super) up: watch::Sender<bool>,
    /// Number of connections made.
    generation: AtomicU64,
    max_payload: AtomicUsize,
    refusals: Arc<Refusals>,
    /// True while the server refuses the subscription that answers come by.
    no_answers: AtomicBool,
    /// Reason why the server does not let us in again.
    refused: Mutex<Option<String>>,
    /// Panics of the task, and the last one's message.
    panics: Mutex<(u64, String)>,
    /// True where a test wants the task to panic.
    #[cfg(test)]
    pub(super) wants_panic: AtomicBool,
    /// Cancelled once nobody uses the connection any more.
    pub(super) closed: CancellationToken,
    /// True once a feed lost messages because nobody took them.
    overrun: AtomicBool,
    /// Reason why no connection stands, as it was last found.
    why_down: Mutex<String>,
}

impl Shared {
    pub(super) fn new(inbox: String, refusals: Arc<Refusals>) -> Self {
        Self {
            inbox,
            state: Mutex::default(),
            waker: AtomicWaker::new(),
            drained: Notify::new(),
            up: watch::Sender::new(false),
            generation: AtomicU64::new(0),
            max_payload: AtomicUsize::new(1 << 20),
            refusals,
            no_answers: AtomicBool::new(false),
            refused: Mutex::default(),
            panics: Mutex::default(),
            #[cfg(test)]
            wants_panic: AtomicBool::new(false),
            closed: CancellationToken::new(),
            overrun: AtomicBool::new(false),
            why_down: Mutex::default(),
        }
    }

    /// The state. Held for moments only, never over an await.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reason why no connection stands, as it was last found.
    pub(super) fn why_down(&self) -> String {
        self.why_down.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_why_down(&self, why: String) {
        *self.why_down.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn max_payload(&self) -> usize {
        self.max_payload.load(Ordering::Relaxed)
    }

    pub(super) fn set_max_payload(&self, max: usize) {
        if max > 0 {
            self.max_payload.store(max, Ordering::Relaxed);
        }
    }

    /// A connection stands: what is subscribed is subscribed anew, and what was kept is sent.
    pub(super) fn opened(&self) {
        let mut state = self.lock();
        let state = &mut *state;
        self.generation.fetch_add(1, Ordering::AcqRel);
        state.out.clear();
        self.set_refused(None);
        self.no_answers.store(false, Ordering::Relaxed);
        write::subscribe(&mut state.out, &self.answers(), INBOX_SID);
        for (sid, subscribed) in &state.subscribed {
            write::subscribe(&mut state.out, &subscribed.subject, *sid);
        }
        state.out.append(&mut state.kept);
        state.up = true;
        self.up.send_replace(true);
    }

    /// The connection broke: nobody who waits will have an answer.
    pub(super) fn broke(&self) {
        let waiters = {
            let mut state = self.lock();
            state.up = false;
            state.out.clear();
            state.pongs.clear();
            std::mem::take(&mut state.waiters)
        };
        self.up.send_replace(false);
        for waiter in waiters.into_values() {
            // Who has gone does not wait.
            waiter.sender.send(Err(Lost::Broken)).ok();
        }
        self.drained.notify_waiters();
    }

    /// Appends to what is sent, if a connection stands and there is room: `None` if not.
    pub(super) fn push<T>(&self, write: impl FnOnce(&mut State) -> T) -> Option<T> {
        let mut state = self.lock();
        if !state.up || state.out.len() > limits::WRITE_BUFFER_BYTES_MAX {
            return None;
        }
        let was_empty = state.out.is_empty();
        let done = write(&mut state);
        drop(state);
        if was_empty {
            self.waker.wake();
        }
        Some(done)
    }

    /// Resolves once a connection stands and there is room in what is to be sent.
    pub(super) async fn ready(&self) {
        let mut up = self.up.subscribe();
        loop {
            if up.wait_for(|up| *up).await.is_err() {
                return std::future::pending().await;
            }
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            {
                let state = self.lock();
                if state.up && state.out.len() <= limits::WRITE_BUFFER_BYTES_MAX {
                    return;
                }
            }
            drained.await;
        }
    }

    /// Takes what is to be sent, in place of an empty buffer.
    pub(super) fn take_out(&self, empty: &mut Vec<u8>) {
        let full = {
            let mut state = self.lock();
            std::mem::swap(&mut state.out, empty);
            empty.len() > limits::WRITE_BUFFER_BYTES_MAX
        };
        if full {
            self.drained.notify_waiters();
        }
    }

    /// Keeps a settlement for the next connection. Past [`limits::SETTLEMENTS_KEPT_BYTES_MAX`] it
    /// is dropped, which costs a second run.
    pub(super) fn keep(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        if state.kept.len() < limits::SETTLEMENTS_KEPT_BYTES_MAX {
            write(&mut state.kept);
        }
    }

    /// Gives messages to who waits for them.
    pub(super) fn deliver(&self, frames: &mut Vec<Frame>) {
        let mut state = self.lock();
        for frame in frames.drain(..) {
            if frame.sid == INBOX_SID {
                let id = frame.subject().get(self.inbox.len() + 1..).and_then(number);
                if let Some(waiter) = id.and_then(|id| state.waiters.remove(&id)) {
                    self.refusals.answered(&waiter.subject);
                    waiter.sender.send(Ok(frame)).ok();
                }
                continue;
            }
            let Some(to) = state.subscribed.get(&frame.sid) else { continue };
            let size = frame.size();
            if to.queued.load(Ordering::Relaxed) + size > to.queued_max {
                if !self.overrun.swap(true, Ordering::Relaxed) {
                    tracing::warn!("messages were dropped because they were not taken fast enough");
                }
                continue;
            }
            to.queued.fetch_add(size, Ordering::Relaxed);
            to.sender.send(frame).ok();
        }
    }

    /// Ends what waits on a subject that the server refuses, and reports it.
    pub(super) fn denied(&self, denied: Refusal) {
        let mut state = self.lock();
        if denied.operation == "publish" {
            let ids: Vec<u64> = state
                .waiters
                .iter()
                .filter(|(_, waiter)| *waiter.subject == *denied.subject)
                .map(|(id, _)| *id)
                .collect();
            for id in ids {
                if let Some(waiter) = state.waiters.remove(&id) {
                    waiter.sender.send(Err(Lost::Denied(denied.clone()))).ok();
                }
            }
        } else {
            state.subscribed.retain(|_, subscribed| *subscribed.subject != *denied.subject);
            if denied.subject == self.answers() {
                self.no_answers.store(true, Ordering::Relaxed);
            }
        }
        drop(state);
        self.refusals.report(denied);
    }

    /// Subjects that answers come to.
    fn answers(&self) -> String {
        format!("{}.*", self.inbox)
    }

    /// Subscribes to the answers again, where the server refused that.
    pub(super) fn subscribe_again(&self) {
        if self.no_answers.swap(false, Ordering::Relaxed) {
            self.push_small(|out| write::subscribe(out, &self.answers(), INBOX_SID));
        }
    }

    /// Notes why the server does not let us in again.
    pub(super) fn set_refused(&self, why: Option<String>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    pub(super) fn refused(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes a panic of the task.
    pub(super) fn panicked(&self, told: String) {
        let mut panics = self.panics.lock().unwrap_or_else(PoisonError::into_inner);
        *panics = (panics.0 + 1, told);
    }

    #[cfg(test)]
    pub(super) fn panic_if_wanted(&self) {
        assert!(!self.wants_panic.swap(false, Ordering::Relaxed), "a test wanted this panic");
    }

    pub(super) fn panics(&self) -> (u64, String) {
        self.panics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers a ping, whatever else waits to be sent.
    pub(super) fn answer_ping(&self) {
        self.urgent(|state| state.out.extend_from_slice(b"PONG\r\n"));
    }

    /// Asks the server for a sign of life.
    pub(super) fn push_ping(&self) {
        self.urgent(|state| state.ping(None));
    }

    /// Appends a few bytes to what is sent, room or not; false if no connection stands.
    pub(super) fn push_small(&self, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.lock();
        if !state.up {
            return false;
        }
        let was_empty = state.out.is_empty();
        write(&mut state.out);
        drop(state);
        if was_empty {
            self.waker.wake();
        }
        true
    }

    /// Appends to what is sent, room or not: for a few bytes.
    fn urgent(&self, write: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        if state.up {
            write(&mut state);
            drop(state);
            self.waker.wake();
        }
    }

    /// An answer to the oldest ping.
    pub(super) fn pong(&self) {
        let oldest = self.lock().pongs.pop_front();
        if let Some(Some(waiting)) = oldest {
            waiting.send(()).ok();
        }
    }

    /// Forgets who waits under this number.
    pub(super) fn forget(&self, id: u64) {
        self.lock().waiters.remove(&id);
    }

    /// Ends subscriptions.
    pub(super) fn unsubscribe(&self, sids: &[u64]) {
        for sid in sids {
            self.lock().subscribed.remove(sid);
            self.urgent(|state| write::unsubscribe(&mut state.out, *sid));
        }
    }

    /// Subscribes to subjects, all of which come to one receiver. Holds over connections.
    pub(super) fn subscribe(
        &self,
        subjects: &[String],
        queued_max: usize,
    ) -> (Vec<u64>, mpsc::UnboundedReceiver<Frame>, Arc<AtomicUsize>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let mut state = self.lock();
        let state = &mut *state;
        let sids = subjects
            .iter()
            .map(|subject| {
                let sid = state.next_id();
                if state.up {
                    write::subscribe(&mut state.out, subject, sid);
                }
                let (subject, sender) = (subject.as_str().into(), sender.clone());
                let queued = Arc::clone(&queued);
                state.subscribed.insert(sid, Subscribed { subject, sender, queued, queued_max });
                sid
            })
            .collect();
        self.waker.wake();
        (sids, receiver, queued)
    }
}

/// Id of the subscription that answers come to; others begin above it.
const INBOX_SID: u64 = 1;

impl State {
    /// Number of a waiter or a subscription.
    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id = self.last_id.max(INBOX_SID) + 1;
        self.last_id
    }

    /// Adds someone who waits for the answer to a message on `subject`.
    pub(super) fn wait(
        &mut self,
        id: u64,
        subject: &str,
    ) -> oneshot::Receiver<Result<Frame, Lost>> {
        let (sender, receiver) = oneshot::channel();
        self.waiters.insert(id, Waiter { subject: subject.into(), sender });
        receiver
    }

    /// Asks the server for a sign of life.
    pub(super) fn ping(&mut self, waiting: Option<oneshot::Sender<()>>) {
        self.out.extend_from_slice(b"PING\r\n");
        self.pongs.push_back(waiting);
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
