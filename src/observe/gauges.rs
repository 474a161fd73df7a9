//! Gauges: counts of the broker as gauge values.

/// Gauge value of a count; the largest where it does not fit.
pub(super) fn as_gauge(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
