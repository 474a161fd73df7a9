//! Clock: time of the broker, by what it says of its own, and how far the host's is from it.
//!
//! A message that we wrote and read back was stored between the two moments; an answer with the
//! server's time was made between question and answer. Either bounds the broker's time, which then
//! goes on by the steady clock: a host's clock that is wrong, or jumps, changes nothing.
//!
//! Servers of a cluster count as one; each stamps what it leads by its own clock.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use serde::Deserialize;

use super::{
    AdminError, Broker,
    connection::{Block, Sending},
};
use crate::{limits, steady::Moment};

/// Clock of the broker, as far as it is known.
#[derive(Debug, Default)]
pub struct Clock {
    known: Mutex<Option<Reading>>,
    /// Time that was told last.
    told: Mutex<Option<SystemTime>>,
}

/// Reading of the broker's clock.
#[derive(Debug, Clone, Copy)]
struct Reading {
    /// Moment that `time` is taken to be of.
    at: Moment,
    time: SystemTime,
    /// Difference that it may have from the truth, either way.
    error: Duration,
    /// Moment of the last reading that agreed.
    confirmed: Moment,
}

/// Difference of the host's clock from the broker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skew {
    /// Time by which the host is ahead of the broker, or behind.
    pub by: Duration,
    /// True if it is ahead.
    pub is_ahead: bool,
    /// Error of the measurement, either way.
    pub error: Duration,
}

/// Answer to a question about a stream, as far as it concerns us.
#[derive(Deserialize)]
struct Told {
    /// Time of the answer, RFC 3339. Source: nats-server 2.10 and newer, `STREAM.INFO`.
    ts: Option<String>,
}

impl Clock {
    /// Notes that the broker's clock showed `time` at some moment from `asked` to `heard`.
    ///
    /// The narrower of two readings that agree is kept, until it has aged; where they disagree, the
    /// broker's clock was set, or another server leads: the new one holds.
    pub fn read(&self, asked: Moment, heard: Moment, time: SystemTime) {
        let error = heard.since(asked) / 2;
        let new = Reading { at: asked + error, time, error, confirmed: heard };
        let mut known = self.known();
        *known = match *known {
            Some(old) if old.error_at(heard) <= error && old.agrees(&new) => {
                Some(Reading { confirmed: heard, ..old })
            }
            _ => Some(new),
        };
    }

    /// Time of the broker; `None`: not known yet.
    ///
    /// It goes back only where the broker's clock was set back: a narrower reading makes it wait.
    fn time(&self) -> Option<SystemTime> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let time = self.known().map(|reading| reading.time_at(Moment::now()))?;
        let waits = told.is_some_and(|told| {
            told.duration_since(time).is_ok_and(|ahead| ahead < limits::CLOCK_WAITS_MAX)
        });
        if !waits {
            *told = Some(time);
        }
        *told
    }

    /// Time that the broker's clock has passed for certain; `None`: not known yet.
    fn passed(&self) -> Option<SystemTime> {
        let (now, known) = (Moment::now(), (*self.known())?);
        known.time_at(now).checked_sub(known.error_at(now))
    }

    /// Difference of the host's clock from it; `None`: not known yet.
    pub fn skew(&self) -> Option<Skew> {
        let known = (*self.known())?;
        let (now, host) = (Moment::now(), SystemTime::now());
        let (time, error) = (known.time_at(now), known.error_at(now));
        Some(match host.duration_since(time) {
            Ok(by) => Skew { by, is_ahead: true, error },
            Err(behind) => Skew { by: behind.duration(), is_ahead: false, error },
        })
    }

    /// True if it was read within [`limits::CLOCK_READ_EVERY`].
    fn is_fresh(&self) -> bool {
        self.known().is_some_and(|reading| reading.confirmed.elapsed() <= limits::CLOCK_READ_EVERY)
    }

    fn known(&self) -> MutexGuard<'_, Option<Reading>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading {
    fn time_at(&self, now: Moment) -> SystemTime {
        match now >= self.at {
            true => self.time + now.since(self.at),
            false => self.time - self.at.since(now),
        }
    }

    fn error_at(&self, now: Moment) -> Duration {
        self.error + now.since(self.at) / limits::CLOCK_DRIFT
    }

    /// True if both can be right.
    fn agrees(&self, new: &Self) -> bool {
        let (old, error) = (self.time_at(new.at), self.error_at(new.at) + new.error);
        let apart = old.duration_since(new.time).unwrap_or_else(|later| later.duration());
        apart <= error + limits::CLOCK_GRAIN
    }
}

impl Skew {
    /// Seconds that the host is ahead; below zero: behind.
    pub fn seconds(&self) -> f64 {
        if self.is_ahead { self.by.as_secs_f64() } else { -self.by.as_secs_f64() }
    }

    /// Difference that there is at the least.
    pub fn at_least(&self) -> Duration {
        self.by.saturating_sub(self.error)
    }
}

impl Broker {
    /// Clock of the broker.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Time by the broker's clock; by the host's as long as that is not known.
    ///
    /// For what others read: a time to come back at, an age, a stamp. Spans that only this process
    /// sees are counted by `Instant`.
    pub fn now(&self) -> SystemTime {
        self.clock.time().unwrap_or_else(SystemTime::now)
    }

    /// Time as [`Broker::now`] tells it, for records.
    pub fn timestamp(&self) -> jiff::Timestamp {
        jiff::Timestamp::try_from(self.now()).unwrap_or(jiff::Timestamp::MAX)
    }

    /// Time that the broker's clock has passed for certain: what it stores from now on is later. It
    /// is asked for where what is known of it is old.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn passed(&self, stream: &str) -> Result<SystemTime, AdminError> {
        if !self.clock.is_fresh() {
            self.read_clock(stream).await?;
        }
        self.clock.passed().ok_or_else(|| AdminError::read(stream, "the broker told no time"))
    }

    /// Asks the server that leads `stream` for its time.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn read_clock(&self, stream: &str) -> Result<(), AdminError> {
        let subject = format!("$JS.API.STREAM.INFO.{stream}");
        let sending = Sending { subject: &subject, headers: None, extra: &[], body: b"" };
        let asked = Moment::now();
        let answer = self.connection.request(&sending, limits::REQUEST_TIMEOUT).await;
        let heard = Moment::now();
        let answer = answer.map_err(|error| AdminError::read(stream, error))?;
        if Block::read(answer.head()).status.is_some() {
            return Err(AdminError::read(stream, "JetStream does not answer"));
        }
        let told: Told = serde_json::from_slice(&answer.body())
            .map_err(|error| AdminError::read(stream, error))?;
        let time = told.ts.and_then(|ts| ts.parse::<jiff::Timestamp>().ok());
        let time = time.ok_or_else(|| AdminError::read(stream, "the answer has no time"))?;
        self.clock.read(asked, heard, time.into());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn broker_at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn reading(clock: &Clock) -> Reading {
        clock.known().unwrap()
    }

    #[test]
    fn it_goes_on_by_the_steady_clock_whatever_the_hosts_shows() {
        let (clock, start) = (Clock::default(), Moment::now());
        assert!(clock.time().is_none() && clock.skew().is_none() && !clock.is_fresh());
        clock.read(start, start + ms(20), broker_at(1000));
        let known = reading(&clock);
        assert_eq!(known.error, ms(10));
        assert_eq!(known.time_at(start + ms(10)), broker_at(1000));
        assert_eq!(known.time_at(start + ms(60_010)), broker_at(1060));
        assert_eq!(known.time_at(start), broker_at(1000) - ms(10));
        // The host's clock is decades ahead of this broker's.
        let skew = clock.skew().unwrap();
        assert!(skew.is_ahead && skew.at_least() > Duration::from_secs(1 << 30), "{skew:?}");
        assert!(clock.passed().unwrap() <= clock.time().unwrap() - ms(10));
    }

    #[test]
    fn the_narrower_of_two_that_agree_is_kept_until_it_has_aged() {
        let (clock, start) = (Clock::default(), Moment::now());
        clock.read(start, start + ms(2), broker_at(1000));
        // A pause between question and answer.
        clock.read(start + ms(100), start + ms(9100), broker_at(1009));
        assert_eq!(reading(&clock).error, ms(1));
        // A tenth of a millisecond is lost each second.
        let later = start + ms(60_000);
        clock.read(later, later + ms(4), broker_at(1060) + ms(1));
        assert_eq!(reading(&clock).error, ms(2));
    }

    #[test]
    fn where_two_disagree_the_new_one_holds() {
        for second in [900, 1100] {
            let (clock, start) = (Clock::default(), Moment::now());
            clock.read(start, start + ms(2), broker_at(1000));
            clock.read(start + ms(1000), start + ms(1500), broker_at(second));
            assert_eq!(reading(&clock).time_at(start + ms(1250)), broker_at(second));
        }
    }
}
