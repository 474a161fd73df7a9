//! Quarantine: events that may kill their worker, run one at a time with nothing else in flight.
//!
//! Such an event is one whose last delivery has no known outcome, and that a worker may have died
//! of. It comes by a consumer of its own. Each worker pulls one at a time, so that a killer takes
//! nobody's attempts with it but its own; half of the workers run some at once.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    delivery::{self, Isolation},
    in_flight::InFlight,
    stage::{MapStage, StageConsumer},
};
use crate::{
    broker::{ConsumerState, Delivered, Pull},
    limits,
};

/// The one task of a worker that runs quarantined events, whatever stage they are for.
pub struct Quarantine {
    in_flight: Arc<InFlight>,
    stages: Vec<QuarantineFeed>,
}

/// Consumer of the quarantined events of one stage.
struct QuarantineFeed {
    stage: Arc<MapStage>,
    feed: StageConsumer,
    /// Last state of the consumer, and the time since which it is so.
    seen: Option<(ConsumerState, Instant)>,
}

impl Quarantine {
    /// Quarantine of these stages.
    pub fn new(in_flight: Arc<InFlight>, stages: Vec<(Arc<MapStage>, StageConsumer)>) -> Self {
        let stages =
            stages.into_iter().map(|(stage, feed)| QuarantineFeed { stage, feed, seen: None });
        Self { in_flight, stages: stages.collect() }
    }

    /// Looks for quarantined events, and runs them, until `stop`.
    pub async fn run(mut self, stop: CancellationToken, abandon: CancellationToken) {
        let mut rest = limits::QUARANTINE_LOOK;
        loop {
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = stop.cancelled() => return,
            }
            rest = limits::QUARANTINE_LOOK;
            for stage in &mut self.stages {
                if stop.is_cancelled() {
                    return;
                }
                if stage.is_waiting().await {
                    let began = Instant::now();
                    stage.shift(&self.in_flight, &stop, &abandon).await;
                    // The others get at least as much time as was taken from them.
                    rest = rest.max(began.elapsed());
                }
            }
        }
    }
}

impl QuarantineFeed {
    /// True if there is an event that nobody has in flight, as far as the server shows.
    async fn is_waiting(&mut self) -> bool {
        // What could not be settled would count as a run that killed its worker.
        let (broker, StageConsumer { stream, consumer, .. }) = (&self.stage.broker, &self.feed);
        if self.stage.line.is_stopped() || broker.is_settling_refused(stream, consumer) {
            return false;
        }
        // A consumer that is not there is the business of whoever looks at the stage's feeds.
        let state = self.stage.broker.consumer_state(&self.feed.stream, &self.feed.consumer).await;
        let Ok(mut state) = state else { return false };
        state.num_waiting = 0;
        // The other half goes on with the rest.
        let at_once = self.stage.roll_call.alive().div_ceil(2).min(limits::QUARANTINE_AT_ONCE_MAX);
        if state.num_ack_pending == 0 || (state.num_pending > 0 && state.num_ack_pending < at_once)
        {
            self.seen = None;
            return state.num_pending > 0;
        }
        // Other workers have some in flight, or had. One that lives settles it, or sends progress
        // that does not show here: so this looks again at long intervals only.
        let since = match &self.seen {
            Some((seen, since)) if *seen == state => *since,
            _ => Instant::now(),
        };
        let is_over = since.elapsed() > self.stage.ack_wait;
        self.seen = Some((state, if is_over { Instant::now() } else { since }));
        is_over
    }

    /// Runs what there is, for a while. Nothing else is in flight before the first is pulled: what
    /// only waited here would count as one that ran.
    async fn shift(
        &self,
        in_flight: &InFlight,
        stop: &CancellationToken,
        abandon: &CancellationToken,
    ) {
        let Self { stage, feed, .. } = self;
        let _isolated = tokio::select! {
            isolated = in_flight.isolate() => isolated,
            () = abandon.cancelled() => return,
        };
        let until = Instant::now() + limits::QUARANTINE_SHIFT;
        let Ok(mut pull) = stage.broker.pull(&feed.stream, &feed.consumer, 1).await else { return };
        while !stop.is_cancelled()
            && !stage.line.is_stopped()
            && let Some(delivered) = next(&mut pull, stop).await
        {
            let turn = stage.turn(abandon.clone());
            delivery::live(stage, feed, delivered, turn, Isolation::Quarantined).await;
            if Instant::now() >= until {
                return;
            }
        }
    }
}

/// Next event, if there is one. What is on its way when nothing more is wanted is taken too: it
/// would wait for its ack wait, and count.
async fn next(pull: &mut Pull, stop: &CancellationToken) -> Option<Delivered> {
    let next = tokio::select! {
        next = pull.next() => next,
        () = tokio::time::sleep(limits::QUARANTINE_NEXT) => None,
        () = stop.cancelled() => None,
    };
    match next {
        Some(Ok(delivered)) => Some(delivered),
        Some(Err(_)) | None => pull.last().await,
    }
}

impl std::fmt::Debug for Quarantine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quarantine").field("stages", &self.stages.len()).finish_non_exhaustive()
    }
}
