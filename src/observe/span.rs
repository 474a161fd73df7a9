//! Span: one span for each delivery; disabled, at next to no cost, where no exporter is set.

use millstream_stages::{Delivery, Event, Failure};
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use tracing::{Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::counters::Outcome;
use crate::wire::TraceContext;

/// The target of every span. Logs leave it out; the exporter takes nothing else.
pub(super) const TARGET: &str = "millstream::span";

/// The span of one delivery of an event to a stage, within the trace of `parent`.
pub fn handle(stage: &str, event: &Event, delivery: &Delivery, parent: &TraceContext) -> Span {
    handle_message(stage, &event.id, &event.event_type, delivery.attempt, parent)
}

/// The span of one delivery of what is not an event, such as a notification to its channel.
pub fn handle_message(
    stage: &str,
    event_id: &str,
    event_type: &str,
    attempt: u32,
    parent: &TraceContext,
) -> Span {
    let span = tracing::info_span!(
        target: TARGET,
        parent: None,
        "handle",
        otel.kind = "consumer",
        messaging.system = "nats",
        stage,
        event_id,
        event_type,
        attempt,
        status = field::Empty,
        error.type = field::Empty,
        otel.status_code = field::Empty,
    );
    if !span.is_disabled() {
        let flags = if parent.sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
        let (trace_id, span_id) =
            (TraceId::from_bytes(parent.trace_id), SpanId::from_bytes(parent.span_id));
        let remote = SpanContext::new(trace_id, span_id, flags, true, TraceState::NONE);
        // Fails only where no exporter listens, and then there is nothing to set.
        span.set_parent(opentelemetry::Context::new().with_remote_span_context(remote)).ok();
    }
    span
}

/// The context to pass on from within `span`, which began in `parent`: the value of the outgoing
/// `traceparent`.
pub fn outgoing(span: &Span, parent: &TraceContext) -> TraceContext {
    if span.is_disabled() {
        return parent.child();
    }
    let context = span.context();
    let own = context.span().span_context().clone();
    if !own.is_valid() {
        return parent.child();
    }
    TraceContext {
        trace_id: own.trace_id().to_bytes(),
        span_id: own.span_id().to_bytes(),
        sampled: own.trace_flags().is_sampled(),
    }
}

/// Records on `span` the outcome of its delivery.
pub fn settled(span: &Span, outcome: Outcome, failure: Option<&Failure>) {
    span.record("status", outcome.as_str());
    if let Some(failure) = failure {
        span.record("error.type", failure.class.as_ref());
        span.record("otel.status_code", "ERROR");
    }
}
