//! Handle: a connection as the rest of the room uses it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::ServerAddr;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    dial::{DialError, Dialler},
    parse::Frame,
    run,
    state::{Lost, Shared},
    write::{self, Reply, Sending, Unsendable},
};
use crate::{
    broker::{
        refusal::{Refusal, Refusals},
        settings::Nats,
    },
    limits,
};

/// Connection to the broker. Cheap to clone; it is made again for ever until the last clone goes.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Held>);

/// Shared state, and the end of the connection with its last user.
struct Held(Arc<Shared>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.closed.cancel();
        self.0.waker.wake();
    }
}

/// Message that was not sent, or has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// Message that cannot be sent as it is.
    #[error(transparent)]
    Unsendable(#[from] Unsendable),
    /// Answer that will not come.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// No answer in time, or no connection to ask on.
    #[error("no answer in {0:?}")]
    TimedOut(Duration),
}

impl SendError {
    /// Refusal that is the cause, if one is.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Lost(Lost::Denied(refusal)) => Some(refusal),
            Self::Lost(Lost::Broken) | Self::Unsendable(_) | Self::TimedOut(_) => None,
        }
    }
}

/// Messages of some subjects, in the order in which they came.
pub(crate) struct Subscription {
    connection: Connection,
    sids: Vec<u64>,
    frames: mpsc::UnboundedReceiver<Frame>,
    queued: Arc<AtomicUsize>,
}

/// Place of one who waits, given back where the wait ends without an answer.
struct Place<'a> {
    shared: &'a Shared,
    id: u64,
    answered: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.shared.forget(self.id);
        }
    }
}

impl Connection {
    /// Makes the first connection: each server is tried once. `inbox` is a subject of our own.
    ///
    /// # Errors
    /// [`DialError`] of the last server.
    pub(crate) async fn open(
        nats: &Nats,
        name: &str,
        servers: Vec<ServerAddr>,
        inbox: String,
        refusals: Arc<Refusals>,
    ) -> Result<Self, DialError> {
        let mut dialler = Dialler::new(nats, name, servers);
        let mut tries = dialler.count().max(1);
        let dialled = loop {
            match dialler.dial().await {
                Ok(dialled) => break dialled,
                Err(error) if tries <= 1 => return Err(error),
                Err(_) => tries -= 1,
            }
        };
        let shared = Arc::new(Shared::new(inbox, refusals));
        let mut up = shared.up.subscribe();
        tokio::spawn(run::run(Arc::clone(&shared), dialler, dialled));
        up.wait_for(|up| *up).await.ok();
        Ok(Self(Arc::new(Held(shared))))
    }

    fn shared(&self) -> &Shared {
        &self.0.0
    }

    /// True while the connection stands.
    pub(crate) fn is_up(&self) -> bool {
        *self.shared().up.borrow()
    }

    /// Reason why it does not stand, as it was last found.
    pub(crate) fn why_down(&self) -> String {
        self.shared().why_down()
    }

    /// Number of the connection, from 1: a new one knows nothing of what was asked on the last.
    pub(crate) fn generation(&self) -> u64 {
        self.shared().generation()
    }

    /// Largest message that the server takes, headers and payload, in bytes.
    pub(crate) fn max_payload(&self) -> usize {
        self.shared().max_payload()
    }

    /// Resolves once a connection stands that is another than that of `generation`.
    pub(crate) async fn renewed(&self, generation: u64) {
        let mut up = self.shared().up.subscribe();
        up.wait_for(|up| *up && self.generation() != generation).await.ok();
    }

    /// Sends a message if that can be done at once; false if not.
    pub(crate) fn send_now(&self, sending: &Sending<'_>, reply: &str) -> bool {
        let shared = self.shared();
        let max = shared.max_payload();
        let sent =
            shared.push(|state| write::message(&mut state.out, sending, Reply::To(reply), max));
        matches!(sent, Some(Ok(())))
    }

    /// Sends a message with a reply subject, without waiting for anything but room.
    ///
    /// # Errors
    /// [`SendError`]; after [`limits::REQUEST_TIMEOUT`] without a connection.
    pub(crate) async fn send(
        &self,
        sending: &Sending<'_>,
        reply: Option<&str>,
    ) -> Result<(), SendError> {
        let reply = reply.map_or(Reply::Nobody, Reply::To);
        let deadline = Instant::now() + limits::REQUEST_TIMEOUT;
        let shared = self.shared();
        loop {
            let max = shared.max_payload();
            if let Some(sent) =
                shared.push(|state| write::message(&mut state.out, sending, reply, max))
            {
                return Ok(sent?);
            }
            self.ready(deadline, limits::REQUEST_TIMEOUT).await?;
        }
    }

    /// Sends a message and waits for the one answer to it. `timeout` holds for all of it.
    ///
    /// # Errors
    /// [`SendError`].
    pub(crate) async fn request(
        &self,
        sending: &Sending<'_>,
        timeout: Duration,
    ) -> Result<Frame, SendError> {
        let deadline = Instant::now() + timeout;
        let shared = self.shared();
        loop {
            let max = shared.max_payload();
            let sent = shared.push(|state| {
                let id = state.next_id();
                let reply = Reply::Inbox(&shared.inbox, id);
                write::message(&mut state.out, sending, reply, max)
                    .map(|()| (id, state.wait(id, sending.subject)))
            });
            let Some(sent) = sent else {
                self.ready(deadline, timeout).await?;
                continue;
            };
            let (id, answer) = sent?;
            let mut place = Place { shared, id, answered: false };
            let answer = tokio::time::timeout_at(deadline, answer).await;
            // Who answered took the place away.
            place.answered = answer.is_ok();
            return match answer {
                Ok(Ok(answer)) => Ok(answer?),
                Ok(Err(_)) => Err(Lost::Broken.into()),
                Err(_) => Err(SendError::TimedOut(timeout)),
            };
        }
    }

    async fn ready(&self, deadline: Instant, timeout: Duration) -> Result<(), SendError> {
        tokio::time::timeout_at(deadline, self.shared().ready())
            .await
            .map_err(|_| SendError::TimedOut(timeout))
    }

    /// Sends a settlement. One that is made while no connection stands is sent on the next; one
    /// that is lost costs a redelivery, never the event.
    pub(crate) fn settle(&self, subject: &str, body: &[u8]) {
        let sending = Sending { subject, headers: None, extra: &[], body };
        let encode = |out: &mut Vec<u8>| {
            write::message(out, &sending, Reply::Nobody, usize::MAX).ok();
        };
        let shared = self.shared();
        if !shared.push_small(encode) {
            shared.keep(encode);
        }
    }

    /// Waits until the server has read all that was sent before.
    ///
    /// # Errors
    /// [`SendError`].
    pub(crate) async fn flush(&self, timeout: Duration) -> Result<(), SendError> {
        let deadline = Instant::now() + timeout;
        loop {
            let pinged = self.shared().push(|state| {
                let (sender, receiver) = oneshot::channel();
                state.ping(Some(sender));
                receiver
            });
            let Some(pong) = pinged else {
                self.ready(deadline, timeout).await?;
                continue;
            };
            return match tokio::time::timeout_at(deadline, pong).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(Lost::Broken.into()),
                Err(_) => Err(SendError::TimedOut(timeout)),
            };
        }
    }

    /// Subscribes to subjects, over all connections to come. Past `queued_max` bytes that nobody
    /// takes, messages are dropped.
    pub(crate) fn subscribe(&self, subjects: &[String], queued_max: usize) -> Subscription {
        let (sids, frames, queued) = self.shared().subscribe(subjects, queued_max);
        Subscription { connection: self.clone(), sids, frames, queued }
    }

    /// Subscribes again to the answers, where the server refused that.
    pub(crate) fn subscribe_again(&self) {
        self.shared().subscribe_again();
    }

    /// Reason why the server does not let us in again; `None`: it does, or was not asked.
    pub(crate) fn refused(&self) -> Option<String> {
        self.shared().refused()
    }

    /// Panics of the connection's task that were caught, and the last one's message.
    pub(crate) fn panics(&self) -> (u64, String) {
        self.shared().panics()
    }

    /// Subject that nobody else uses.
    pub(crate) fn new_inbox(&self) -> String {
        let id = self.shared().lock().next_id();
        // Two tokens below the prefix: answers have one.
        format!("{}.s.{id}", self.shared().inbox)
    }
}

impl Subscription {
    /// Next message; `None` once the server refuses the subject. Nothing is lost if the future is
    /// dropped.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let frame = self.frames.recv().await?;
        self.queued.fetch_sub(frame.size(), Ordering::Relaxed);
        Some(frame)
    }

    /// Next message of those that have come.
    pub(crate) fn ready(&mut self) -> Option<Frame> {
        let frame = self.frames.try_recv().ok()?;
        self.queued.fetch_sub(frame.size(), Ordering::Relaxed);
        Some(frame)
    }

    /// Ids of its subjects, in the order in which they were given.
    pub(crate) fn sids(&self) -> &[u64] {
        &self.sids
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.connection.shared().unsubscribe(&self.sids);
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("sids", &self.sids).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// Server that greets whoever comes, and answers pings.
    async fn server() -> ServerAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    socket.write_all(b"INFO {\"max_payload\":1024}\r\n").await?;
                    let mut some = [0; 4096];
                    while let count @ 1.. = socket.read(&mut some).await? {
                        for _ in String::from_utf8_lossy(&some[..count]).matches("PING") {
                            socket.write_all(b"PONG\r\n").await?;
                        }
                    }
                    std::io::Result::Ok(())
                });
            }
        });
        url.parse().unwrap()
    }

    #[tokio::test]
    async fn a_connection_that_panics_is_counted_and_made_again() {
        let (nats, servers) = (Nats::default(), vec![server().await]);
        let opened = Connection::open(&nats, "test", servers, "_INBOX.t".into(), Arc::default());
        let connection = opened.await.unwrap();
        let patience = Duration::from_secs(20);
        for panics in 1..=3 {
            let generation = connection.generation();
            connection.shared().wants_panic.store(true, Ordering::Relaxed);
            connection.shared().waker.wake();
            tokio::time::timeout(patience, connection.renewed(generation)).await.unwrap();
            connection.flush(patience).await.unwrap();
            assert_eq!((connection.generation(), connection.panics().0), (generation + 1, panics));
        }
        assert!(connection.panics().1.contains("a test wanted"), "{}", connection.panics().1);
    }
}
