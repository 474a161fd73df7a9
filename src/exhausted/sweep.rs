//! Sweep: dead letters of what the server gave up on unheard, or what waited too long for a retry.
//!
//! The sweep works from [`orphans`](super::orphans): where there are any, it walks the stream from
//! its oldest message, with single reads (a consumer would count as one more reader). It acts on
//! what two rounds have seen, so that an ack that is on its way is not mistaken. If several stages
//! read one stream, it acts on what no reader waits for any more, and only for readers that show a
//! message given up on.
//!
//! A source keeps its messages whoever has settled them, so nothing shows there which one was given
//! up on: for those, the advisories are the net; what they missed is counted, not found.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime},
};

use millstream_stages::incident::Severity;
use tokio_util::sync::CancellationToken;

use super::{
    bury::{Burial, BuryError, Why},
    orphans::{ReadStream, StageReader, given_up, over},
};
use crate::{
    broker::{AdminError, ConsumerState, Lease, Retention, StoredMessage, get},
    error_chain::causes_of,
    limits,
    topology::{Leftovers, Topology, moving::hand_over_late},
    wire::{Names, Origin, Place, finding::Finding},
};

/// Share of its limit from which on the retry stream is a finding.
const RETRY_NEARLY_FULL: f64 = 0.8;

/// Messages found and left for the next round, and the time first found.
type Seen = HashMap<Place, SystemTime>;

/// Sweep of one worker. Every worker has one, and one of them is elected.
#[derive(Debug)]
pub struct Sweep {
    afterwards: Burial,
    topology: Topology,
    seen: Seen,
    /// Sequence at which it goes on looking at the retry stream.
    cursor: u64,
    /// Time at which it last looked for what is kept for nobody.
    looked: Option<SystemTime>,
    /// Stages that were found to have something, and by how many looks in a row.
    kept: BTreeMap<String, u32>,
}

impl Sweep {
    /// Sweep that has seen nothing yet.
    pub fn new(afterwards: Burial) -> Self {
        Self {
            topology: Topology::of(&afterwards.pipeline),
            afterwards,
            seen: Seen::new(),
            cursor: 1,
            looked: None,
            kept: BTreeMap::new(),
        }
    }

    /// Runs a round every [`limits::SWEEP_EVERY`] while it is elected, until `stop`. One worker of
    /// the fleet is: for many, the same questions were most of what an idle fleet asks. Two that
    /// sweep at once do no harm.
    pub async fn run(mut self, worker: &str, stop: CancellationToken) {
        let broker = self.afterwards.broker.clone();
        let bucket = self.afterwards.pipeline.names().state_bucket();
        loop {
            let lease = Names::SWEEP_LEASE;
            let elected =
                Lease::acquire_every(limits::SWEEP_STANDBY, &broker, &bucket, lease, worker);
            let Some(mut lease) = stop.run_until_cancelled(elected).await else { return };
            // Whatever is under way when the worker stops, or is no longer elected, can be done
            // again.
            tokio::select! {
                () = lease.keep() => {}
                () = self.rounds() => {}
                () = stop.cancelled() => {
                    lease.release().await;
                    return;
                }
            }
            self.retire();
        }
    }

    async fn rounds(&mut self) {
        let mut wait = limits::SWEEP_FIRST;
        loop {
            tokio::time::sleep(wait).await;
            let goes_on = self.round(self.afterwards.broker.now()).await;
            wait = if goes_on { limits::SWEEP_AGAIN } else { limits::SWEEP_EVERY };
        }
    }

    /// Forgets what it saw: another worker sweeps, and shows what it finds.
    fn retire(&mut self) {
        self.seen.clear();
        self.kept.clear();
        for feed in self.topology.all_feeds() {
            self.afterwards.metrics.stage(&feed.stage).set_orphans(&feed.stream, 0);
        }
    }

    /// Looks once at everything. What cannot be done is logged, and tried again in the next round;
    /// true if that had better be soon.
    pub async fn round(&mut self, now: SystemTime) -> bool {
        let mut seen = Seen::new();
        match ReadStream::all(&self.afterwards.broker, &self.topology).await {
            Ok(read_streams) => {
                for read_stream in &read_streams {
                    log_failure(&read_stream.stream, self.look(read_stream, now, &mut seen).await);
                }
            }
            Err(error) => log_failure("*", Err(error.into())),
        }
        self.seen = seen;
        let retry = self.topology.retry_stream();
        let expired = self.expire(&retry, now).await;
        let goes_on = matches!(expired, Ok(true));
        log_failure(&retry, expired.map(|_| ()));
        log_failure("*", self.leftovers(now).await);
        goes_on
    }

    /// Looks for events that wait for a stage that is not there, and publishes a finding about each
    /// such stage: no oftener than each [`limits::LEFTOVERS_EVERY`], and of what two looks have
    /// seen, since in a rolling deploy workers of two configurations are at work.
    ///
    /// While it lasts it is said again each [`limits::LEFTOVERS_SAID_EVERY`], by every worker
    /// within the same minute, of which the server stores one.
    async fn leftovers(&mut self, now: SystemTime) -> Result<(), BuryError> {
        let since = self.looked.and_then(|looked| now.duration_since(looked).ok());
        if since.is_some_and(|since| since < limits::LEFTOVERS_EVERY) {
            return Ok(());
        }
        self.looked = Some(now);
        let Burial { broker, pipeline, .. } = &self.afterwards;
        let found = Leftovers::events(&self.topology, broker).await?;
        let mut kept = BTreeMap::new();
        for held in found.waits() {
            match hand_over_late(&self.topology, broker, held).await {
                Ok(0) => {}
                Ok(events) => {
                    let (stage, heir) = (held.stage.as_str(), held.heir.as_deref());
                    tracing::info!(stage, heir, events, "handed over what came under an old name");
                    continue;
                }
                Err(error) => {
                    let (stage, cause) = (held.stage.as_str(), causes_of(&error));
                    tracing::warn!(stage, error = %error, cause, "could not hand over, yet");
                }
            }
            let seen = self.kept.get(&held.stage).copied().unwrap_or(0) + 1;
            kept.insert(held.stage.clone(), seen);
            if seen < 2 || (seen > 2 && !is_time(now)) {
                continue;
            }
            let (stage, what) = (held.stage.as_str(), held.what());
            tracing::warn!(stage, what, "events wait for a stage that is not there");
            let finding = Finding {
                code: "LeftoverEvents",
                severity: Severity::Medium,
                message: format!("{what} for a stage that no longer reads them: {}", held.hint()),
                stage,
                id: format!("leftover:{stage}:{}", turn(now).0),
            };
            broker.publish(finding.message(&pipeline.names())).await?;
        }
        self.kept = kept;
        let retry = self.topology.retry_stream();
        let full = broker.fullness(&retry).await?.unwrap_or_default();
        if full >= RETRY_NEARLY_FULL && is_time(now) {
            let finding = Finding {
                code: "RetryNearlyFull",
                severity: Severity::High,
                message: format!(
                    "the retry stream is {:.0}% full; when it is full, the oldest events in it are \
                     lost: raise retry_max_bytes in [storage] and apply",
                    full * 100.0
                ),
                stage: "retry",
                id: format!("retry-full:{}", turn(now).0),
            };
            broker.publish(finding.message(&pipeline.names())).await?;
        }
        Ok(())
    }

    /// Looks at one stream: counts its orphans, and dead-letters those seen before.
    async fn look(
        &self,
        read_stream: &ReadStream,
        now: SystemTime,
        seen: &mut Seen,
    ) -> Result<(), BuryError> {
        let Burial { broker, metrics, .. } = &self.afterwards;
        let mut readers = Vec::new();
        let mut found = 0;
        for reader in &read_stream.readers {
            let Some(orphans) = read_stream.orphans(broker, reader).await? else { return Ok(()) };
            metrics.stage(&reader.feed.stage).set_orphans(&read_stream.stream, orphans);
            found += orphans;
        }
        if found == 0 || read_stream.retention == Retention::Limits {
            return Ok(());
        }
        for reader in &read_stream.readers {
            let state = broker.consumer_state(&read_stream.stream, &reader.feed.consumer).await?;
            readers.push((reader, state));
        }
        let shared = read_stream.retention == Retention::Interest;
        if shared
            && broker.stream_state(&read_stream.stream).await?.consumers > read_stream.readers.len()
        {
            // Someone else reads it, and what is stored may wait for them.
            return Ok(());
        }
        let filters = match read_stream.retention {
            Retention::WorkQueue => {
                read_stream.readers.iter().flat_map(StageReader::filters).collect()
            }
            Retention::Interest | Retention::Limits => vec![">"],
        };
        // Where only one reader settles, what is delivered and still there is looked at too, for
        // how long it stays.
        let end_of = |state: &ConsumerState| {
            if read_stream.is_sole() { state.delivered } else { over(state) }
        };
        let end = readers.iter().map(|(_, state)| end_of(state)).max().unwrap_or(0);
        let patience =
            read_stream.readers.iter().map(|reader| reader.ack_wait * 2).max().unwrap_or_default();
        let patience = patience.max(limits::SWEEP_PATIENCE_MIN);
        let (mut from, mut left, mut done) = (1, 0, 0);
        while left < limits::SWEEP_LOOKS_MAX && done < found.min(limits::SWEEP_LOOKS_MAX as u64) {
            let Some(message) = self.next(&read_stream.stream, &filters, from).await? else {
                break;
            };
            if message.seq > end {
                break;
            }
            from = message.seq + 1;
            let mine: Vec<_> =
                readers.iter().filter(|(reader, _)| reader.reads(&message)).collect();
            let is_over = mine.iter().all(|(_, state)| over(state) >= message.seq);
            if mine.is_empty() || !(is_over || read_stream.is_sole()) {
                left += 1;
                continue;
            }
            let key = Place::new(read_stream.stream.as_str(), message.seq, message.stored_at);
            let first = self.seen.get(&key).copied();
            let is_due = first.is_some_and(|first| {
                let stays = now.duration_since(first).unwrap_or_default();
                age(&message, now) >= patience
                    && (is_over || stays >= self.in_hand_max(&mine[0].0.feed.stage))
            });
            if is_due && self.resolve(&read_stream.stream, &mine, &message).await? {
                done += 1;
            } else {
                seen.insert(key, first.unwrap_or(now));
                left += 1;
            }
        }
        Ok(())
    }

    /// Limit of the time that an event of a stage is in flight, its retries included; generous,
    /// since nothing but time shows it.
    ///
    /// A consumer's ack floor stays at what was given up on for as long as anything is ack pending,
    /// which on a busy stage may be always.
    fn in_hand_max(&self, stage: &str) -> Duration {
        let declared = self.afterwards.pipeline.stage(stage);
        let (attempts, turn) = declared.map_or((1, limits::CHANNEL_ACK_WAIT), |stage| {
            (stage.policy.attempts_max(), stage.ack_wait + stage.policy.park_after())
        });
        (turn * attempts.saturating_mul(4)).max(limits::SWEEP_STUCK_MIN)
    }

    /// Deals with a message that none of its readers waits for; true if it was dealt with. What
    /// several stages may have given up on, and nothing shows which, is left where it is.
    async fn resolve(
        &self,
        stream: &str,
        readers: &[&(&StageReader, ConsumerState)],
        message: &StoredMessage,
    ) -> Result<bool, BuryError> {
        let mut suspects: Vec<&StageReader> = Vec::new();
        if let [(reader, _)] = readers {
            suspects.push(reader);
        } else {
            for (reader, state) in readers {
                if self.afterwards.has_letter(&reader.feed.stage, stream, message).await? {
                    // Its letter was written and the message not settled. If it goes now, that was
                    // all.
                    self.settle(reader, message).await?;
                } else if given_up(state) > 0 {
                    suspects.push(reader);
                }
            }
            if self.afterwards.broker.message(stream, message.seq).await?.is_none() {
                return Ok(true);
            }
            if suspects.len() > 1 {
                let mut failed = Vec::new();
                for suspect in suspects {
                    if self.afterwards.failed_there(&suspect.feed.stage, stream, message).await {
                        failed.push(suspect);
                    }
                }
                suspects = failed;
            }
        }
        for suspect in &suspects {
            self.afterwards.bury(&suspect.feed.stage, stream, message, Why::Unnoticed).await?;
            self.settle(suspect, message).await?;
        }
        Ok(!suspects.is_empty())
    }

    async fn settle(
        &self,
        reader: &StageReader,
        message: &StoredMessage,
    ) -> Result<(), AdminError> {
        self.afterwards
            .broker
            .settle_for(&reader.feed.stream, &reader.feed.consumer, message.seq)
            .await
    }

    /// First message from `from` on that any of `filters` matches.
    async fn next(
        &self,
        stream: &str,
        filters: &[&str],
        from: u64,
    ) -> Result<Option<StoredMessage>, AdminError> {
        let mut nearest: Option<StoredMessage> = None;
        for filter in filters {
            let found = self.afterwards.broker.next_on_subject(stream, filter, from).await?;
            nearest = [nearest, found].into_iter().flatten().min_by_key(|message| message.seq);
        }
        Ok(nearest)
    }

    /// Goes on through the retry stream, and dead-letters what has waited there for too long.
    ///
    /// An event that is parked again is stored anew and keeps the time since when it waits: an old
    /// one may be anywhere, so the round goes on where the last one ended, and begins again at the
    /// end. True if some expired and the end was not reached: there are more of them, probably.
    async fn expire(&mut self, stream: &str, now: SystemTime) -> Result<bool, BuryError> {
        let age_max = self.afterwards.pipeline.storage.retry_max_age;
        if age_max.is_zero() {
            return Ok(false);
        }
        let broker = self.afterwards.broker.clone();
        let mut readers = Vec::new();
        if broker.next_on_subject(stream, ">", 1).await?.is_none() {
            self.cursor = 1;
            return Ok(false);
        }
        for feed in self.topology.all_feeds().iter().filter(|feed| feed.stream == stream) {
            let state = broker.consumer_state(stream, &feed.consumer).await?;
            readers.push((StageReader { feed: feed.clone(), ack_wait: Duration::ZERO }, state));
        }
        let (mut bytes, mut expired) = (0, 0);
        for _ in 0..limits::SWEEP_LOOKS_MAX {
            let Some(message) = broker.next_on_subject(stream, ">", self.cursor).await? else {
                self.cursor = 1;
                return Ok(false);
            };
            bytes += message.body.len();
            let reader = readers.iter().find(|(reader, _)| reader.reads(&message));
            // What is in flight is its worker's; what was given up on is found with the orphans.
            let is_waiting = reader.is_none_or(|(_, state)| message.seq > state.delivered);
            if is_waiting && waited(stream, &message, now) > age_max {
                self.let_expire(stream, &message, age_max).await?;
                expired += 1;
            }
            self.cursor = message.seq + 1;
            if bytes > limits::SWEEP_BYTES_MAX {
                break;
            }
        }
        Ok(expired > 0)
    }

    async fn let_expire(
        &self,
        stream: &str,
        message: &StoredMessage,
        age_max: Duration,
    ) -> Result<(), BuryError> {
        let names = self.afterwards.pipeline.names();
        let target = get(&message.headers, "Nats-Schedule-Target").unwrap_or(&message.subject);
        let Some(stage) = names.stage_of_retry(target) else { return Ok(()) };
        self.afterwards.bury(stage, stream, message, Why::Expired(age_max)).await?;
        self.afterwards.broker.delete_message(stream, message.seq).await?;
        Ok(())
    }
}

/// Number of the turn in which findings are said again, and the time since it began.
fn turn(now: SystemTime) -> (u64, Duration) {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let every = limits::LEFTOVERS_SAID_EVERY.as_secs();
    (since.as_secs() / every, Duration::from_secs(since.as_secs() % every))
}

/// True in the time of a turn in which every worker looks once at least, and that is within the
/// duplicate window of findings.
fn is_time(now: SystemTime) -> bool {
    turn(now).1 < limits::LEFTOVERS_EVERY * 2
}

fn age(message: &StoredMessage, now: SystemTime) -> Duration {
    now.duration_since(message.stored_at).unwrap_or_default()
}

/// Time that an event has waited in the retry stream, by its header, or else by when it was stored.
fn waited(stream: &str, message: &StoredMessage, now: SystemTime) -> Duration {
    let place = Place::new(stream, message.seq, message.stored_at);
    let origin = Origin::read(place, &message.subject, |name| get(&message.headers, name));
    now.duration_since(origin.queued_at.unwrap_or(message.stored_at)).unwrap_or_default()
}

fn log_failure(stream: &str, result: Result<(), BuryError>) {
    match result {
        Ok(()) => {}
        // The feed of the consumer reports it, and what to do.
        Err(BuryError::Admin(AdminError::NoStream { .. } | AdminError::NoConsumer { .. })) => {}
        Err(error) => {
            let cause = causes_of(&error);
            tracing::warn!(
                stream,
                error = %error,
                cause,
                "the sweep could not look for events given up on; trying again"
            );
        }
    }
}
