//! Metrics: everything that a worker counts, shown at `/metrics` and handed to the engines.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
};

use prometheus_client::{
    encoding::text,
    metrics::{gauge::Gauge, info::Info},
    registry::Registry,
};

use super::bounded::Bounded;
use crate::{
    config::Pipeline,
    limits,
    observe::{ReduceMetrics, StageMetrics, StageSnapshot, families::Families, gauges::as_gauge},
};

/// Everything that one worker counts.
///
/// Label values are names from the configuration, or come from a bounded set: publishers choose
/// event types, and must not choose how much memory metrics take.
pub struct Metrics {
    registry: Registry,
    /// `1` while the broker is connected.
    broker_connected: Gauge,
    /// Host's clock minus the broker's.
    clock_skew: Gauge<f64, AtomicU64>,
    retry_queue_size: Gauge,
    dead_letter_queue_size: Gauge,
    stages: Bounded<Arc<StageMetrics>>,
    reduces: Bounded<Arc<ReduceMetrics>>,
    families: Families,
}

impl Metrics {
    /// Metrics of a worker of `pipeline`. Stages are there from the start, at zero.
    pub fn new(pipeline: &Pipeline) -> Arc<Self> {
        let mut registry = Registry::with_prefix("millstream");
        let families = Families::default();
        families.register(&mut registry);
        let gauge = |registry: &mut Registry, name, help| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let broker_connected =
            gauge(&mut registry, "broker_connected", "Whether the broker is connected: 1 or 0");
        let clock_skew = Gauge::default();
        registry.register(
            "clock_skew_seconds",
            "Time by which the host's clock is ahead of the broker's; below zero: behind",
            clock_skew.clone(),
        );
        let retry_queue_size = gauge(
            &mut registry,
            "retry_queue_size",
            "Events parked or redriven, waiting in the retry stream",
        );
        let dead_letter_queue_size =
            gauge(&mut registry, "dead_letter_queue_size", "Dead letters stored");
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "The version of millstream", Info::new(version));

        registry.register_collector(Box::new(families.tallies.clone()));
        let (of_map, of_reduce) = (families.clone(), families.clone());
        let metrics = Self {
            families,
            registry,
            broker_connected,
            clock_skew,
            retry_queue_size,
            dead_letter_queue_size,
            stages: Bounded::new(limits::STAGE_LABELS_MAX, move |name| {
                Arc::new(StageMetrics::new(&of_map, name))
            }),
            reduces: Bounded::new(limits::STAGE_LABELS_MAX, move |name| {
                Arc::new(ReduceMetrics::new(&of_reduce, name))
            }),
        };
        for stage in &pipeline.stages {
            if stage.is_map() {
                metrics.stage(&stage.name);
            } else {
                metrics.reduce(&stage.name);
            }
        }
        Arc::new(metrics)
    }

    /// The counters of a map stage, or of a channel under the name of `Names::channel_stage`. Keep
    /// it: this looks it up.
    pub fn stage(&self, name: &str) -> Arc<StageMetrics> {
        self.stages.with(name, Arc::clone)
    }

    /// The counters of a reduce stage. Keep it: this looks it up.
    pub fn reduce(&self, name: &str) -> Arc<ReduceMetrics> {
        self.reduces.with(name, Arc::clone)
    }

    /// Sets if the broker is connected.
    pub fn set_broker_connected(&self, connected: bool) {
        self.broker_connected.set(connected.into());
    }

    /// Sets the time by which the host's clock is ahead of the broker's.
    pub fn set_clock_skew(&self, seconds: f64) {
        self.clock_skew.set(seconds);
    }

    /// Sets the number of events that wait in the retry stream, parked ones included.
    pub fn set_retry_queue_size(&self, events: u64) {
        self.retry_queue_size.set(as_gauge(events));
    }

    /// Sets the number of dead letters stored.
    pub fn set_dead_letter_queue_size(&self, letters: u64) {
        self.dead_letter_queue_size.set(as_gauge(letters));
    }

    /// Counts a panic of a task, a delivery or a job. The names are ours, or of the configuration.
    pub fn task_panicked(&self, task: &str) {
        let labels = vec![("task", task.to_owned())];
        self.families.task_panics.get_or_create_owned(&labels).inc();
    }

    /// Counts events of a stream that were lost before a stage had read them. The names are those
    /// of the configuration.
    pub fn lost_unread(&self, stream: &str, stage: &str, events: u64) {
        let labels = vec![("stream", stream.to_owned()), ("stage", stage.to_owned())];
        self.families.lost_unread.get_or_create_owned(&labels).inc_by(events);
    }

    /// Sets the share of its limits that the unread events of a stream take up.
    pub fn set_source_fill(&self, stream: &str, fill: f64) {
        self.families.source_fill.get_or_create(&vec![("stream", stream.to_owned())]).set(fill);
    }

    /// Snapshots of every map stage's counters, by name.
    pub fn snapshot(&self) -> Vec<(String, StageSnapshot)> {
        let mut stages: Vec<_> = self.stages.all(|name, stage| (name.to_owned(), stage.snapshot()));
        stages.sort_by(|a, b| a.0.cmp(&b.0));
        stages
    }

    /// The reduce stages that this worker runs, sorted.
    pub fn leading(&self) -> Vec<String> {
        let leads =
            self.reduces.all(|name, reduce| reduce.snapshot().leading.then(|| name.to_owned()));
        let mut leads: Vec<String> = leads.into_iter().flatten().collect();
        leads.sort();
        leads
    }

    /// The text of `/metrics`, in the OpenMetrics format.
    pub fn render(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("a String takes all that is written to it");
        out
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use millstream_stages::settle::Reason;

    use super::{
        super::{Outcome, Verdict},
        *,
    };

    pub(crate) fn metrics() -> Arc<Metrics> {
        let nats = crate::broker::Nats::default();
        let storage = crate::config::pipeline::Storage {
            replicas: 1,
            memory: true,
            results_max_age: Duration::ZERO,
            failed_max_age: Duration::ZERO,
            dlq_max_age: Duration::ZERO,
            dlq_max_bytes: None,
            max_bytes: None,
            failed_max_bytes: None,
            results_max_bytes: None,
            retry_max_bytes: None,
            state_max_bytes: None,
            retry_max_age: Duration::ZERO,
        };
        let observe = crate::config::pipeline::Observe { listen: None, otlp: None, sample: 1.0 };
        Metrics::new(&Pipeline {
            name: "shop".into(),
            id: None,
            base: ".".into(),
            config_hash: String::new(),
            nats,
            sources: vec![],
            stages: vec![],
            channels: vec![],
            storage,
            observe,
        })
    }

    #[track_caller]
    fn has(metrics: &Metrics, line: &str) {
        let text = metrics.render();
        assert!(text.lines().any(|l| l == line), "no line {line} in\n{text}");
    }

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = metrics();
        let stage = metrics.stage("orders");
        let in_hand = stage.started();
        stage.handled("order.created", Outcome::Done, Some(Duration::from_millis(3)));
        stage.failed("TimeoutError");
        stage.settled(Outcome::DeadLettered, Duration::from_micros(900));
        stage.dead_lettered(Reason::Crashed);
        stage.redelivered(Verdict::Innocent);
        stage.lapsed();
        stage.set_lag("shop-out-validate", 7, 2);
        metrics.reduce("errors").emitted("opened");
        stage.set_breaker(millstream_stages::breaker::State::Probe);
        has(&metrics, r#"millstream_breaker_state{stage="orders"} 2"#);
        has(&metrics, r#"millstream_breaker_opens_total{stage="orders"} 0"#);
        has(
            &metrics,
            concat!(
                r#"millstream_events_handled_total{stage="orders","#,
                r#"event_type="order.created",status="done"} 1"#,
            ),
        );
        has(
            &metrics,
            r#"millstream_events_handling_duration_seconds_bucket{le="0.0025",stage="orders"} 0"#,
        );
        has(
            &metrics,
            r#"millstream_events_handling_duration_seconds_bucket{le="0.005",stage="orders"} 1"#,
        );
        has(&metrics, r#"millstream_events_handling_duration_seconds_sum{stage="orders"} 0.003"#);
        let settling = concat!(
            r#"millstream_events_settling_duration_seconds_bucket{le="0.001","#,
            r#"stage="orders",status="dead_lettered"} 1"#,
        );
        has(&metrics, settling);
        has(
            &metrics,
            r#"millstream_events_handling_errors_total{stage="orders",class="TimeoutError"} 1"#,
        );
        has(
            &metrics,
            r#"millstream_events_dead_lettered_total{stage="orders",reason="crashed"} 1"#,
        );
        has(
            &metrics,
            r#"millstream_events_redelivered_total{stage="orders",verdict="innocent"} 1"#,
        );
        has(&metrics, r#"millstream_events_redelivered_total{stage="orders",verdict="suspect"} 0"#);
        has(&metrics, r#"millstream_deliveries_lapsed_total{stage="orders"} 1"#);
        has(&metrics, r#"millstream_consumer_lag{stage="orders",stream="shop-out-validate"} 7"#);
        has(&metrics, r#"millstream_reduce_emitted_total{stage="errors",route="opened"} 1"#);
        has(&metrics, r#"millstream_handler_active_count{stage="orders"} 1"#);
        drop(in_hand);
        has(&metrics, r#"millstream_handler_active_count{stage="orders"} 0"#);
        let (name, snapshot) = metrics.snapshot().remove(0);
        assert_eq!(
            (name.as_str(), snapshot.handled, snapshot.failed, snapshot.dead_lettered),
            ("orders", 1, 1, 1)
        );
    }

    #[test]
    fn publishers_cannot_make_metrics_grow_without_bound() {
        let metrics = metrics();
        let stage = metrics.stage("orders");
        for n in 0..1000 {
            stage.handled(&format!("type-{n}"), Outcome::Done, None);
            stage.failed(&format!("class-{n}\n\"}} 1"));
        }
        let types = limits::EVENT_TYPE_LABELS_MAX;
        has(
            &metrics,
            &format!(
                concat!(
                    r#"millstream_events_handled_total{{stage="orders","#,
                    r#"event_type="other",status="done"}} {}"#,
                ),
                1000 - types
            ),
        );
        let text = metrics.render();
        assert_eq!(text.lines().filter(|l| l.contains(r#"status="done""#)).count(), types + 1);
        assert_eq!(
            text.lines().filter(|l| l.contains("class=")).count(),
            limits::CLASS_LABELS_MAX + 1
        );
        assert!(text.contains(r#"class="class-0\n\"} 1"} 1"#), "label text is escaped");
        assert_eq!(metrics.snapshot()[0].1.handled, 1000);
    }
}
