//! Durations: a histogram of atomics, read by both `/metrics` and the quantiles of `status`.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric},
};
use serde::{Deserialize, Serialize};

/// Buckets of one microsecond each, before they widen.
const NARROW: u64 = 100;
/// Buckets per decade after that, so that a bucket is at most a tenth as wide as what it holds.
const PER_DECADE: u64 = 90;
/// Decades after the narrow buckets: up to 1 000 s. What takes longer falls into the last bucket.
const DECADES: u64 = 7;
const BUCKETS: usize = (NARROW + PER_DECADE * DECADES) as usize;

/// Upper bounds of the buckets of `/metrics`, in microseconds: 1 ms to 60 s. Each is the bound of a
/// bucket here.
const EXPOSED_US: [u64; 15] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// A histogram that many tasks count into without a lock. Cheap to clone: clones count together.
#[derive(Clone)]
pub struct Durations {
    counts: Arc<Counts>,
}

struct Counts {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

/// Snapshot of a histogram, in a form that adds up over workers and travels as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DurationCounts {
    /// The buckets that are not empty, by index: (index, count).
    buckets: Vec<(u16, u64)>,
}

impl Default for Durations {
    fn default() -> Self {
        let buckets = std::array::from_fn(|_| AtomicU64::new(0));
        Self { counts: Arc::new(Counts { buckets, sum_ns: AtomicU64::new(0) }) }
    }
}

impl Durations {
    /// Counts one duration.
    pub fn observe(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.counts.buckets[index(ns.div_ceil(1000))].fetch_add(1, Relaxed);
        self.counts.sum_ns.fetch_add(ns, Relaxed);
    }

    /// Snapshot of the counts.
    pub fn snapshot(&self) -> DurationCounts {
        let counts =
            (0..).zip(&self.counts.buckets).map(|(index, count)| (index, count.load(Relaxed)));
        DurationCounts { buckets: counts.filter(|(_, count)| *count > 0).collect() }
    }
}

impl DurationCounts {
    /// Number of durations counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// The duration that a share of `q` (0 to 1) does not exceed, rounded up by 10 % at most;
    /// `None` if nothing was counted.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        // Counts stay far under 2^52, so the float is exact.
        let rank = ((self.count() as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        let (index, _) = self.buckets.iter().find(|(_, count)| {
            seen += count;
            seen >= rank
        })?;
        Some(Duration::from_micros(upper_us(u64::from(*index))))
    }

    /// Counts since `earlier`, a snapshot of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |index| earlier.buckets.binary_search_by_key(&index, |(index, _)| *index);
        let rest = self.buckets.iter().map(|&(index, count)| {
            let before = before(index).map_or(0, |at| earlier.buckets[at].1);
            (index, count.saturating_sub(before))
        });
        Self { buckets: rest.filter(|(_, count)| *count > 0).collect() }
    }

    /// Adds the counts of another histogram, such as another worker's. Quantiles of the sum are as
    /// good as if one worker had done it all.
    pub fn add(&mut self, other: &Self) {
        for &(index, count) in &other.buckets {
            match self.buckets.binary_search_by_key(&index, |(index, _)| *index) {
                Ok(at) => self.buckets[at].1 = self.buckets[at].1.saturating_add(count),
                Err(at) => self.buckets.insert(at, (index, count)),
            }
        }
    }
}

/// The bucket of a duration in microseconds. Buckets exclude their lower bound and include their
/// upper one.
fn index(us: u64) -> usize {
    let (mut rest, mut decade) = (us.saturating_sub(1), 0);
    while rest >= NARROW {
        rest /= 10;
        decade += 1;
    }
    // Where `decade` is above 0, `rest` is 10 to 99.
    let index = if decade == 0 { rest } else { NARROW + (decade - 1) * PER_DECADE + rest - 10 };
    usize::try_from(index).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

/// The upper bound of a bucket, in microseconds.
fn upper_us(index: u64) -> u64 {
    match index.checked_sub(NARROW) {
        None => index + 1,
        Some(wide) => {
            let (decade, step) = (wide / PER_DECADE, wide % PER_DECADE);
            (step + 11).saturating_mul(
                10_u64.saturating_pow(u32::try_from(decade + 1).unwrap_or(u32::MAX)),
            )
        }
    }
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let seconds = |ns: u64| Duration::from_nanos(ns).as_secs_f64();
        let bounds = EXPOSED_US.iter().map(|us| seconds(us * 1000)).chain([f64::INFINITY]);
        let mut exposed: Vec<(f64, u64)> = bounds.map(|bound| (bound, 0)).collect();
        let snapshot = self.snapshot();
        for &(index, count) in &snapshot.buckets {
            exposed[EXPOSED_US.partition_point(|bound| *bound < upper_us(u64::from(index)))].1 +=
                count;
        }
        let sum = seconds(self.counts.sum_ns.load(Relaxed));
        encoder.encode_histogram::<NoLabelSet>(sum, snapshot.count(), &exposed, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl fmt::Debug for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durations").field("count", &self.snapshot().count()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_exposed_bound_is_the_bound_of_a_bucket() {
        for bound in EXPOSED_US {
            assert_eq!(upper_us(index(bound) as u64), bound, "{bound} µs");
            assert_eq!(index(bound + 1), index(bound) + 1, "{bound} µs");
        }
    }

    #[test]
    fn quantiles_of_two_workers_are_those_of_all_that_they_did() {
        let (fast, slow) = (Durations::default(), Durations::default());
        (0..90).for_each(|_| fast.observe(Duration::from_millis(2)));
        (0..10).for_each(|_| slow.observe(Duration::from_secs(1)));
        let mut fleet = fast.snapshot();
        fleet.add(&slow.snapshot());
        assert_eq!(fleet.quantile(0.5), Some(Duration::from_millis(2)));
        assert_eq!(fleet.quantile(0.9), Some(Duration::from_millis(2)));
        assert_eq!(fleet.quantile(0.95), Some(Duration::from_secs(1)));
        assert_eq!(fleet.since(&fast.snapshot()), slow.snapshot());
        assert_eq!(DurationCounts::default().quantile(0.5), None);
    }

    proptest! {
        #[test]
        fn a_duration_is_read_back_at_most_a_tenth_too_long(us in 1..999_000_000_u64) {
            let durations = Durations::default();
            durations.observe(Duration::from_micros(us));
            let read = durations.snapshot().quantile(0.99).unwrap();
            prop_assert!(read >= Duration::from_micros(us));
            prop_assert!(read.as_micros() <= u128::from(us + us / 10 + 1));
        }
    }
}
