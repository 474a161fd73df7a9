//! Roll call: workers of the fleet, when each was last heard of, and what may have died with one.
//!
//! Each worker writes a record every [`limits::HEARTBEAT`] before and while it pulls, and takes it
//! out at a clean end. Whoever falls silent leaves a *doubt*: all that had been delivered by then
//! may have been in its hands. All else that comes again was lost on the way, and is nobody's
//! fault. A worker that starts takes over from the others since when all has been quiet.
//!
//! Time is this worker's own. A record that stands in the bucket behind one of ours was written
//! after ours was sent, whatever the clocks say and however late we read it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::Notify;

use super::{Verdict, WorkerRecord};
use crate::{limits, wire::parse_rfc3339};

/// Roll call of one worker: what it knows of the others.
#[derive(Debug)]
pub struct RollCall {
    roll: Mutex<Roll>,
    changed: Notify,
    /// The bucket was made anew: it is read from its start.
    pub(super) anew: Notify,
}

/// Consumer: stream and name.
type Consumer = (String, String);

/// Knowledge of the fleet.
#[derive(Debug, Default)]
struct Roll {
    me: String,
    /// Records of ours that were sent and not read back: number, and time of sending.
    sent: VecDeque<(u64, Instant)>,
    /// Time at which the last record of ours that was read back was sent: all that was written
    /// before it is known.
    horizon: Option<Instant>,
    /// Records of ours that were read back.
    echoes: u64,
    /// Revision of the last record of ours that the broker said it had stored.
    stored: u64,
    /// Revision of the last record read.
    revision: u64,
    /// Records written that were not read and that nobody we know of wrote.
    missing: u64,
    /// Value of `echoes` since which some are missing.
    missing_since: u64,
    others: BTreeMap<String, Other>,
    /// Last sequence that each consumer had delivered when the last doubt arose; none: not known,
    /// so that all is in doubt.
    doubtful: BTreeMap<Consumer, u64>,
    doubts: u64,
    /// Time since which no worker has died, on the broker's clock.
    quiet_since: Option<SystemTime>,
    /// True once the others are known and the consumers were asked.
    is_called: bool,
}

/// Sign of life of a worker: what its record says of it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sign<'a> {
    started_at: &'a str,
    beats: u64,
    quiet_since: Option<SystemTime>,
}

/// Message that came though nobody had settled its last delivery.
#[derive(Debug, Clone, Copy)]
pub struct Returned {
    /// Sequence in its stream.
    pub seq: u64,
    /// Time the server stored it.
    pub stored_at: SystemTime,
    /// Time it came.
    pub arrived: Instant,
    /// Age that a sign of life may have had then, to count.
    pub within: Duration,
}

/// Another worker.
#[derive(Debug)]
struct Other {
    started_at: String,
    beats: u64,
    /// Time after which its last record was written.
    heard: Option<Instant>,
    /// Records of ours read back by then.
    echoes: u64,
    is_silent: bool,
}

impl RollCall {
    /// Roll call of the worker of this name, which knows nothing yet.
    pub fn new(me: &str) -> Self {
        let roll = Roll { me: me.to_owned(), ..Roll::default() };
        Self { roll: Mutex::new(roll), changed: Notify::new(), anew: Notify::new() }
    }

    /// Verdict on a message of a consumer. Waits until every worker has been heard of since it
    /// came; `None` if that takes longer than [`limits::VERDICT_MAX`].
    pub async fn verdict(
        &self,
        stream: &str,
        consumer: &str,
        returned: Returned,
    ) -> Option<Verdict> {
        let consumer = (stream.to_owned(), consumer.to_owned());
        let verdict = self.until(|roll| roll.verdict(&consumer, &returned));
        tokio::time::timeout(limits::VERDICT_MAX, verdict).await.ok()
    }

    /// Time since which no worker has died, on the broker's clock, if it is known for now.
    pub(super) fn quiet_since(&self) -> Option<SystemTime> {
        self.roll().quiet_since(Instant::now())
    }

    /// Number of workers that are alive, this one included, as far as it knows.
    pub fn alive(&self) -> u64 {
        1 + self.roll().others.values().filter(|other| !other.is_silent).count() as u64
    }

    /// Waits until the others are known, though no longer than [`limits::ROLL_CALL_MAX`]: what is
    /// pulled before may be in doubt later.
    pub async fn begun(&self) {
        let begun = self.until(|roll| roll.is_called.then_some(()));
        tokio::time::timeout(limits::ROLL_CALL_MAX, begun).await.ok();
    }

    /// Notes that the consumers were asked.
    pub(super) fn called(&self) {
        self.roll().is_called = true;
        self.changed.notify_waiters();
    }

    /// Waits until consumers are to be asked for the last sequence that they delivered. Returns the
    /// doubt it is asked for.
    pub(super) async fn doubt(&self, last: Option<u64>) -> u64 {
        self.until(|roll| roll.horizon.map(|_| roll.doubts).filter(|doubts| Some(*doubts) != last))
            .await
    }

    /// Notes that a record of ours is being sent.
    pub(super) fn sent(&self, beat: u64) {
        self.roll().sent(beat, Instant::now());
    }

    /// Notes that a record of ours was stored. Where its revision is below that of one before it,
    /// the bucket was made anew, and nothing is known.
    pub(super) fn stored(&self, revision: u64) {
        let mut roll = self.roll();
        if revision < roll.stored {
            roll.forget();
            self.anew.notify_one();
        }
        roll.stored = revision;
    }

    /// Notes that the bucket was made anew, as whoever follows it heard: nothing is known.
    pub(super) fn forget(&self) {
        self.roll().forget();
    }

    /// Takes in a record of the bucket, `None` if it was taken out.
    pub(super) fn heard(
        &self,
        worker: &str,
        revision: u64,
        written_at: SystemTime,
        record: Option<&WorkerRecord>,
    ) {
        let sign = record.map(|record| Sign {
            started_at: &record.started_at,
            beats: record.beats,
            quiet_since: parse_rfc3339(&record.quiet_since),
        });
        self.roll().heard(worker, revision, written_at, sign, Instant::now());
        self.changed.notify_waiters();
    }

    /// Notes the last sequence that a consumer had delivered after this doubt arose.
    pub(super) fn delivered(&self, stream: &str, consumer: &str, seq: u64, doubt: u64) {
        self.roll().delivered((stream.to_owned(), consumer.to_owned()), seq, doubt);
        self.changed.notify_waiters();
    }

    async fn until<T>(&self, known: impl Fn(&Roll) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before the look, so that no change in between is missed.
            changed.as_mut().enable();
            let known = known(&self.roll());
            if let Some(known) = known {
                return known;
            }
            changed.await;
        }
    }

    fn roll(&self) -> MutexGuard<'_, Roll> {
        self.roll.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Roll {
    fn forget(&mut self) {
        let (me, doubts) = (std::mem::take(&mut self.me), self.doubts + 1);
        *self = Self { me, doubts, ..Self::default() };
    }

    fn sent(&mut self, beat: u64, now: Instant) {
        self.sent.push_back((beat, now));
        if self.sent.len() > limits::HEARTBEATS_SENT_MAX {
            self.sent.pop_front();
        }
    }

    fn heard(
        &mut self,
        worker: &str,
        revision: u64,
        written_at: SystemTime,
        sign: Option<Sign<'_>>,
        now: Instant,
    ) {
        let written = revision.saturating_sub(self.revision);
        self.revision = self.revision.max(revision);
        let known = self.others.get(worker);
        // What was written before we began is not ours to account for.
        if self.horizon.is_some() {
            let accounted = self.accounted(worker, known, sign);
            self.missing = (self.missing + written).saturating_sub(accounted);
        }
        let Some(Sign { started_at, beats, quiet_since }) = sign else {
            self.others.remove(worker);
            return;
        };
        if worker == self.me {
            self.echo(beats, written_at, now);
            return;
        }
        if known.is_some_and(|known| known.started_at != started_at && !known.is_silent) {
            // Another process of the same name: the one before took no leave.
            self.arouse(written_at);
        }
        // It is alive, and knows of those who died before we began.
        if self.horizon.is_some() && self.doubts == 0 {
            self.quiet_since = [self.quiet_since, quiet_since].into_iter().flatten().min();
        }
        let other = Other {
            started_at: started_at.to_owned(),
            beats,
            heard: self.horizon,
            echoes: self.echoes,
            is_silent: false,
        };
        self.others.insert(worker.to_owned(), other);
    }

    /// Records that this one stands for: those of its worker before it, which it has replaced.
    fn accounted(&self, worker: &str, known: Option<&Other>, sign: Option<Sign<'_>>) -> u64 {
        let Some(sign) = sign else { return 1 };
        let before = match known {
            _ if worker == self.me => {
                self.sent.front().map_or(sign.beats, |(first, _)| *first).saturating_sub(1)
            }
            Some(known) if known.started_at == sign.started_at => known.beats,
            Some(_) | None => 0,
        };
        sign.beats.saturating_sub(before).max(1)
    }

    /// A record of ours was read back, so that all before it were read. One that took long tells of
    /// nobody's silence: what held it up held up those of others, which may come behind several of
    /// ours at once.
    fn echo(&mut self, beat: u64, written_at: SystemTime, now: Instant) {
        let mut is_late = false;
        while let Some((sent, at)) = self.sent.pop_front() {
            if sent > beat {
                self.sent.push_front((sent, at));
                break;
            }
            if sent == beat {
                self.horizon = Some(at);
                is_late = now.saturating_duration_since(at) > limits::ECHO_LATE;
            }
        }
        self.quiet_since.get_or_insert(written_at);
        if is_late {
            return;
        }
        self.echoes += 1;
        let echoes = self.echoes;
        if self.missing == 0 {
            self.missing_since = echoes;
        }
        let mut is_doubtful = echoes - self.missing_since >= limits::HEARTBEATS_SILENT_MAX;
        if is_doubtful {
            (self.missing, self.missing_since) = (0, echoes);
        }
        for other in self.others.values_mut().filter(|other| !other.is_silent) {
            other.is_silent = echoes - other.echoes >= limits::HEARTBEATS_SILENT_MAX;
            is_doubtful |= other.is_silent;
        }
        // Whoever is silent for this long is not coming back.
        self.others.retain(|_, other| echoes - other.echoes < limits::HEARTBEATS_GONE);
        if is_doubtful {
            self.arouse(written_at);
        }
    }

    /// A worker may have died: all that has been delivered so far may have been in its hands.
    fn arouse(&mut self, now: SystemTime) {
        self.quiet_since = Some(now);
        self.doubts += 1;
        self.doubtful.clear();
    }

    fn delivered(&mut self, consumer: Consumer, seq: u64, doubt: u64) {
        if self.horizon.is_some() && self.doubts == doubt {
            self.doubtful.insert(consumer, seq);
        }
    }

    /// Time since which no worker has died, where every one was heard of a moment ago: others go by
    /// it who never heard of those that died before they began.
    fn quiet_since(&self, now: Instant) -> Option<SystemTime> {
        self.quiet_since.filter(|_| self.has_heard(now, limits::HEARD_WITHIN))
    }

    /// True if every worker has been heard of since `at`, or within this time before.
    fn has_heard(&self, at: Instant, within: Duration) -> bool {
        let since = |heard: Option<Instant>| heard.is_some_and(|heard| heard + within >= at);
        let mut others = self.others.values().filter(|other| !other.is_silent);
        self.missing == 0 && since(self.horizon) && others.all(|other| since(other.heard))
    }

    fn verdict(&self, consumer: &Consumer, returned: &Returned) -> Option<Verdict> {
        let Returned { seq, stored_at, arrived, within } = *returned;
        let is_old = self.quiet_since.is_none_or(|since| stored_at <= since);
        if is_old && self.doubtful.get(consumer).is_none_or(|to| seq <= *to) {
            return Some(Verdict::Suspect);
        }
        self.has_heard(arrived, within).then_some(Verdict::Innocent)
    }
}

#[cfg(test)]
mod tests;
