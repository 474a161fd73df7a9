//! Families: every metric with labels, its name and help.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{durations::Durations, tallies::Tallies};

type Labels = Vec<(&'static str, String)>;
pub(super) type Counters = Family<Labels, Counter<u64, AtomicU64>>;
type Gauges = Family<Labels, Gauge<i64, AtomicI64>>;
type Ratios = Family<Labels, Gauge<f64, AtomicU64>>;

/// Metrics with labels, for every stage.
#[derive(Clone, Default)]
pub(super) struct Families {
    pub(super) handled: Counters,
    pub(super) took: Family<Labels, Durations>,
    pub(super) settling: Family<Labels, Durations>,
    pub(super) errors: Counters,
    pub(super) retry_queued: Counters,
    pub(super) retried: Counters,
    pub(super) deferred: Counters,
    pub(super) parked: Counters,
    pub(super) reprocessed: Counters,
    pub(super) recovered: Counters,
    pub(super) permanent: Counters,
    pub(super) dead_lettered: Counters,
    pub(super) published: Counters,
    pub(super) completed_late: Counters,
    pub(super) rebinds: Counters,
    pub(super) redelivered: Counters,
    pub(super) lapsed: Counters,
    pub(super) active: Gauges,
    pub(super) lag: Gauges,
    pub(super) ack_pending: Gauges,
    pub(super) orphans: Gauges,
    pub(super) lost_unread: Counters,
    pub(super) source_fill: Ratios,
    pub(super) applied: Counters,
    pub(super) rejected: Counters,
    pub(super) restarted: Counters,
    pub(super) emitted: Counters,
    pub(super) commits: Counters,
    pub(super) leading: Gauges,
    pub(super) breaker_state: Gauges,
    pub(super) breaker_opens: Counters,
    pub(super) task_panics: Counters,
    pub(super) tallies: Tallies,
}

impl Families {
    pub(super) fn register(&self, registry: &mut Registry) {
        // A counter's name gets its `_total` when it is printed.
        for (name, help, family) in [
            ("events_handled", "Deliveries settled, by outcome", &self.handled),
            ("events_handling_errors", "Attempts that failed, by error class", &self.errors),
            ("events_retry_queued", "Failed attempts whose event comes back", &self.retry_queued),
            ("events_retried", "Deliveries that were a second or later attempt", &self.retried),
            ("events_deferred", "Deliveries put off without spending an attempt", &self.deferred),
            ("events_parked", "Events put into the retry stream for a long wait", &self.parked),
            (
                "events_reprocessed",
                "Events of dead letters sent back to their stage",
                &self.reprocessed,
            ),
            (
                "events_recovered",
                "Events of dead letters sent back because the stage is up again",
                &self.recovered,
            ),
            ("events_permanent", "Dead letters that recovery marked as permanent", &self.permanent),
            ("events_dead_lettered", "Events given up on, by reason", &self.dead_lettered),
            ("events_published", "Results published", &self.published),
            (
                "events_completed_late",
                "Events that completed although there is a dead letter",
                &self.completed_late,
            ),
            (
                "events_lost_unread",
                "Events that expired or were dropped before the stage had read them; take the sum",
                &self.lost_unread,
            ),
            (
                "events_redelivered",
                "Deliveries after one without a known end, by verdict: innocent, suspect",
                &self.redelivered,
            ),
            (
                "deliveries_lapsed",
                "Deliveries left to the server: in hand already, or given to someone else by then",
                &self.lapsed,
            ),
            ("consumer_rebinds", "Times that a consumer was gone and opened again", &self.rebinds),
            ("reduce_applied", "Messages taken into the state of a reduce stage", &self.applied),
            (
                "reduce_rejected",
                "Messages that a reduce stage could not understand",
                &self.rejected,
            ),
            (
                "reduce_streams_restarted",
                "Times that a stream was another one than before and read from its start",
                &self.restarted,
            ),
            (
                "reduce_emitted",
                "Incident events, by kind, and notifications, by channel",
                &self.emitted,
            ),
            ("reduce_commits", "Checkpoints written", &self.commits),
            (
                "task_panics",
                "Panics of background tasks, and of deliveries and jobs outside their handlers",
                &self.task_panics,
            ),
            (
                "breaker_opens",
                "Times that this worker opened the stage's circuit breaker",
                &self.breaker_opens,
            ),
        ] {
            registry.register(name, help, family.clone());
        }
        for (name, help, family) in [
            ("handler_active_count", "Events in hand", &self.active),
            (
                "consumer_lag",
                "Messages not yet delivered; every worker shows the fleet's: take the max",
                &self.lag,
            ),
            (
                "consumer_ack_pending",
                "Messages delivered and not settled; take the max",
                &self.ack_pending,
            ),
            (
                "breaker_state",
                "The stage's circuit breaker: 0 closed, 1 open, 2 letting probes through",
                &self.breaker_state,
            ),
            (
                "orphans",
                "Events stored that nobody will be given again, at the last sweep; take the max",
                &self.orphans,
            ),
            ("reduce_leading", "Whether this worker runs the reduce stage: 1 or 0", &self.leading),
        ] {
            registry.register(name, help, family.clone());
        }
        let help = "Share of the stream's limits, by age or bytes, that unread events take up; \
                    take the max";
        registry.register("source_fill_ratio", help, self.source_fill.clone());
        let help =
            "How long deliveries ran; what was given back or given up unhandled is not among them";
        registry.register("events_handling_duration_seconds", help, self.took.clone());
        let help =
            "How long it took to store what becomes of a failed attempt, its error event included";
        registry.register("events_settling_duration_seconds", help, self.settling.clone());
    }
}
