//! Skew: difference of the host's clock from the broker's, as a gauge and as a condition.
//!
//! Nothing is decided by the host's clock, so a worker whose clock is wrong is ready; its log and
//! its spans show wrong times, and certificates are judged by them.

use std::time::Duration;

use millstream_stages::units::Period;

use super::{
    conditions::{Conditions, Trouble},
    metrics::Metrics,
};
use crate::{
    broker::{Clock, Skew},
    limits,
};

/// Name of the condition.
const CONDITION: &str = "clock";
const SYNCHRONISE: &str =
    "synchronise the clocks of this host and of the broker's, with chrony or another NTP client";

/// Watch of the host's clock.
#[derive(Debug, Default)]
pub(super) struct SkewWatch {
    /// Skew that was told last, while there is one to tell.
    told: Option<Skew>,
}

impl SkewWatch {
    /// Sets the gauge and the condition; nothing while the broker's clock is not known.
    pub(super) fn look(&mut self, clock: &Clock, metrics: &Metrics, conditions: &Conditions) {
        let Some(skew) = clock.skew() else { return };
        metrics.set_clock_skew(skew.seconds());
        let was_told = self.told.is_some();
        match self.news(skew) {
            Some(trouble) => conditions.failing(CONDITION, trouble),
            // Named once there was something: a worker whose clock alone is well is not ready yet.
            None if was_told && self.told.is_none() => conditions.ok(CONDITION),
            None => {}
        }
    }

    /// Trouble to tell, if it is another than was told last.
    fn news(&mut self, skew: Skew) -> Option<Trouble> {
        // Less is needed to end it than to begin it, so that it is not told at every look.
        let from = match self.told {
            None => limits::CLOCK_SKEW_TOLD,
            Some(_) => limits::CLOCK_SKEW_TOLD * 3 / 4,
        };
        if skew.at_least() < from {
            self.told = None;
            return None;
        }
        if let Some(told) = self.told {
            let moved = Duration::from_secs_f64((skew.seconds() - told.seconds()).abs());
            if moved <= limits::CLOCK_SKEW_TOLD.max(told.by / 10) {
                return None;
            }
        }
        self.told = Some(skew);
        let by = Period::seconds(skew.by.as_secs());
        let way = if skew.is_ahead { "ahead of" } else { "behind" };
        let why = format!(
            "the host's clock is {by} {way} the broker's; waits and timers go by the broker's, log \
             lines and spans by the host's"
        );
        Some(Trouble::harmless(why, SYNCHRONISE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skew(seconds: f64, error: f64) -> Skew {
        let by = Duration::from_secs_f64(seconds.abs());
        Skew { by, is_ahead: seconds > 0.0, error: Duration::from_secs_f64(error) }
    }

    #[test]
    fn a_skew_is_told_beyond_two_seconds_once_for_each_size_of_it() {
        let mut watch = SkewWatch::default();
        let mut told = |seconds, error| watch.news(skew(seconds, error)).map(|it| it.why);
        assert_eq!(told(1.9, 0.0), None);
        assert_eq!(told(60.0, 59.0), None, "a broker that answers late is no wrong clock");
        let why = told(-2.1, 0.0).unwrap();
        assert!(why.starts_with("the host's clock is 2s behind the broker's"), "{why}");
        assert_eq!(told(-3.0, 0.0), None, "much the same");
        assert!(told(600.0, 0.0).unwrap().contains("10m ahead of"));
        assert_eq!(told(630.0, 0.0), None);
        assert_eq!(told(1.0, 0.0), None);
        assert!(told(3.0, 0.0).is_some(), "it was over");
    }
}
