//! Run: the one task of a connection, which reads, writes, and connects again for ever.

use std::{
    future::Future as _,
    hash::{BuildHasher as _, RandomState},
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use futures_util::FutureExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite as _},
    time::{Instant, Interval, MissedTickBehavior},
};

use super::{
    dial::{DialError, Dialled, Dialler, Duplex, Info},
    parse::{self, Frame, Op},
    state::Shared,
};
use crate::{broker::refusal, error_chain::chain, limits, panics};

/// Rounds of reading and writing before other tasks have their turn.
const ROUNDS: u32 = 16;

/// Keeps a connection until nobody uses it any more.
pub(super) async fn run(shared: Arc<Shared>, mut dialler: Dialler, mut dialled: Dialled) {
    loop {
        let mut session = Session::new(dialled);
        shared.set_max_payload(session.max_payload);
        shared.opened();
        if let Err(why) = session.take(&shared) {
            // What came with the greeting cannot be read: nor can what follows.
            tracing::debug!(why, "the broker's greeting is followed by what cannot be read");
        }
        let polled = std::future::poll_fn(|context| session.poll(context, &shared));
        // What panics here breaks this connection, and the next one begins anew.
        let why = AssertUnwindSafe(polled).catch_unwind().await.unwrap_or_else(|panic| {
            note(&shared, &*panic);
            "it panicked".to_owned()
        });
        dialler.learn(&session.learnt);
        drop(session);
        shared.set_why_down(why.clone());
        shared.broke();
        if shared.closed.is_cancelled() {
            return;
        }
        tracing::warn!(why, "lost the connection that carries messages; connecting again");
        dialled = loop {
            let dialling = AssertUnwindSafe(again(&mut dialler, &shared)).catch_unwind();
            let dialled = tokio::select! {
                () = shared.closed.cancelled() => return,
                dialled = dialling => dialled,
            };
            match dialled {
                Ok(dialled) => break dialled,
                Err(panic) => note(&shared, &*panic),
            }
            tokio::time::sleep(limits::RECONNECT_WAIT_MAX).await;
        };
        tracing::info!("the connection that carries messages stands again");
    }
}

/// Notes a panic that was caught.
fn note(shared: &Shared, panic: &(dyn std::any::Any + Send)) {
    let told = panics::told(panic);
    tracing::error!(panic = told, "a connection panicked; this is a defect");
    shared.panicked(told);
}

/// Connects anew, for ever: each server in turn, and then a wait, longer each time.
async fn again(dialler: &mut Dialler, shared: &Shared) -> Dialled {
    let mut wait = limits::RECONNECT_WAIT_MIN;
    for round in 1_u32.. {
        for _ in 0..dialler.count().max(1) {
            let dialled = dialler.dial().await;
            if let Err(DialError::Refused(why)) = &dialled {
                shared.set_refused(Some(why.clone()));
            }
            match dialled {
                Ok(dialled) => return dialled,
                Err(error) => {
                    let error = chain(&error);
                    // Told at the first failure, and then ever more seldom.
                    if round.is_power_of_two() {
                        tracing::warn!(error, "could not connect to the broker again");
                    }
                    shared.set_why_down(error);
                }
            }
        }
        tokio::time::sleep(jittered(wait)).await;
        wait = (wait * 2).min(limits::RECONNECT_WAIT_MAX);
    }
    unreachable!("it tries for ever")
}

/// Between half of a wait and all of it, so that a fleet does not come at once.
fn jittered(wait: Duration) -> Duration {
    let random = RandomState::new().hash_one(0_u8) % 512;
    wait.mul_f64(0.5 + random as f64 / 1024.0)
}

/// Connection at work.
struct Session {
    stream: Box<dyn Duplex>,
    input: BytesMut,
    frames: Vec<Frame>,
    /// Bytes that are being written, and how many of them are.
    writing: Vec<u8>,
    written: usize,
    flushed: bool,
    tick: Interval,
    heard: Instant,
    /// Time of the ping that was sent because nothing was heard.
    pinged: Option<Instant>,
    max_payload: usize,
    /// Servers that the cluster named meanwhile.
    learnt: Vec<String>,
    lame: bool,
}

impl Session {
    fn new(dialled: Dialled) -> Self {
        let Dialled { stream, input, info } = dialled;
        let mut tick = tokio::time::interval(limits::PING_LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            stream,
            input,
            frames: Vec::new(),
            writing: Vec::new(),
            written: 0,
            flushed: true,
            tick,
            heard: Instant::now(),
            pinged: None,
            max_payload: info.max_payload,
            learnt: Vec::new(),
            lame: info.ldm,
        }
    }

    /// Ready with the reason once the connection is broken, or closed with all written.
    fn poll(&mut self, context: &mut Context<'_>, shared: &Shared) -> Poll<String> {
        shared.waker.register(context.waker());
        #[cfg(test)]
        shared.panic_if_wanted();
        match self.work(context, shared) {
            Ok(false) => Poll::Pending,
            Ok(true) => Poll::Ready("nobody uses it any more".to_owned()),
            Err(why) => Poll::Ready(why),
        }
    }

    /// Reads and writes what there is; true once all is written that will be.
    fn work(&mut self, context: &mut Context<'_>, shared: &Shared) -> Result<bool, String> {
        let mut rounds = 0;
        loop {
            let read = self.read(context, shared)?;
            let wrote = self.write(context, shared)?;
            rounds += 1;
            if !read && !wrote {
                break;
            }
            if rounds == ROUNDS {
                context.waker().wake_by_ref();
                break;
            }
        }
        if shared.closed.is_cancelled() && self.writing.is_empty() && self.flushed {
            return Ok(true);
        }
        // Looked at last: after a pause of the process there may be signs of life to be read.
        while self.tick.poll_tick(context).is_ready() {
            self.look(shared)?;
        }
        Ok(false)
    }

    /// Reads once and deals with what came; true if something did.
    fn read(&mut self, context: &mut Context<'_>, shared: &Shared) -> Result<bool, String> {
        self.input.reserve(limits::READ_BUFFER_BYTES / 4);
        let read = pin!(self.stream.read_buf(&mut self.input)).poll(context);
        match read {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(0)) => return Err("the server closed it".to_owned()),
            Poll::Ready(Err(error)) => return Err(error.to_string()),
            Poll::Ready(Ok(_)) => (self.heard, self.pinged) = (Instant::now(), None),
        }
        self.take(shared)?;
        Ok(true)
    }

    /// Deals with the operations that have come whole.
    fn take(&mut self, shared: &Shared) -> Result<(), String> {
        let generation = shared.generation();
        let next = loop {
            match parse::next(&mut self.input) {
                Ok(Some(Op::Message(frame))) => self.frames.push(frame.of(generation)),
                Ok(Some(other)) => {
                    // In order: what came before a pong is given on before it is.
                    if !self.frames.is_empty() {
                        shared.deliver(&mut self.frames);
                    }
                    self.operation(other, shared);
                }
                Ok(None) => break Ok(()),
                Err(garbled) => break Err(garbled.to_string()),
            }
        };
        if !self.frames.is_empty() {
            shared.deliver(&mut self.frames);
        }
        next
    }

    fn operation(&mut self, op: Op, shared: &Shared) {
        match op {
            Op::Ping => {
                shared.answer_ping();
            }
            Op::Pong => shared.pong(),
            Op::Info(text) => match serde_json::from_slice::<Info>(&text) {
                Ok(info) => {
                    shared.set_max_payload(info.max_payload);
                    if info.ldm && !self.lame {
                        tracing::warn!("the broker is about to shut down");
                    }
                    self.lame = info.ldm;
                    self.learnt = info.connect_urls;
                }
                Err(error) => tracing::debug!(%error, "could not read the state of the broker"),
            },
            Op::Refused(text) => match refusal::denied(&text) {
                Some(denied) => shared.denied(denied),
                None => tracing::warn!(error = text, "the broker reports an error"),
            },
            Op::Message(_) | Op::Fine => {}
        }
    }

    /// Writes once; true if something was written.
    fn write(&mut self, context: &mut Context<'_>, shared: &Shared) -> Result<bool, String> {
        if self.written == self.writing.len() {
            self.writing.clear();
            // A burst of large messages does not keep its memory.
            self.writing.shrink_to(limits::WRITE_BUFFER_BYTES_MAX / 4);
            self.written = 0;
            shared.take_out(&mut self.writing);
        }
        let stream = Pin::new(&mut self.stream);
        if self.writing.is_empty() {
            if !self.flushed {
                match stream.poll_flush(context) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(())) => self.flushed = true,
                    Poll::Ready(Err(error)) => return Err(error.to_string()),
                }
            }
            return Ok(false);
        }
        match stream.poll_write(context, &self.writing[self.written..]) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) => Err("the server takes nothing".to_owned()),
            Poll::Ready(Err(error)) => Err(error.to_string()),
            Poll::Ready(Ok(count)) => {
                self.written += count;
                self.flushed = false;
                Ok(true)
            }
        }
    }

    /// Asks for a sign of life where none came for a while, and gives up where none follows.
    fn look(&mut self, shared: &Shared) -> Result<(), String> {
        match self.pinged {
            Some(pinged) if pinged.elapsed() > limits::PONG_WAIT => {
                Err("the server does not answer".to_owned())
            }
            Some(_) => Ok(()),
            None => {
                if self.heard.elapsed() > limits::PING_AFTER {
                    shared.push_ping();
                    self.pinged = Some(Instant::now());
                }
                Ok(())
            }
        }
    }
}
