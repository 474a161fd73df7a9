//! Filters: jq run within bounds, and off the runtime's threads where it takes long.
//!
//! Most filters take some microseconds. So each runs at once, on the thread of whoever asks, in
//! bounds so short that nobody waits for it; what those cut off runs again from its start, in the
//! widest bounds, on a thread of its own. Of those threads a process has few, whatever the number
//! of stages, and a permit is given back when its thread has ended and not before.

use std::{
    io,
    sync::{Arc, LazyLock},
    thread,
};

use bytes::Bytes;
use millstream_stages::{
    Event,
    jq::{Bounds, Fault, Filter, Stop},
};
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

use crate::limits;

/// Permits of the threads. One core is left to the rest of the worker.
static THREADS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    Arc::new(Semaphore::new(cores.saturating_sub(1).clamp(1, limits::FILTER_THREADS_MAX)))
});

/// Reason that a filter gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The filter, or the event: it will be the same again.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// It took too long on this machine, now.
    #[error(
        "the filter did not end in {} s: it does too much for each event, or the machine is busy",
        limits::FILTER_RUN_MAX.as_secs()
    )]
    Slow,
    /// No thread could be started. It is not the event's fault.
    #[error("could not start a thread for a filter: {0}")]
    NoThread(#[source] io::Error),
}

/// True if a filter is true for an event: [`Filter::truthy`]. Dropped, it ends the run.
///
/// # Errors
/// [`NoAnswer`].
pub async fn truthy(filter: &Arc<Filter>, event: &Event) -> Result<bool, NoAnswer> {
    run(filter, event, |filter, event, bounds, stop| filter.truthy(event, bounds, stop)).await
}

/// Outputs of a filter, at most `most`: [`Filter::outputs`]. Dropped, it ends the run.
///
/// # Errors
/// [`NoAnswer`].
pub async fn outputs(
    filter: &Arc<Filter>,
    event: &Event,
    most: usize,
) -> Result<Vec<Bytes>, NoAnswer> {
    let outputs = move |filter: &Filter, event: &Event, bounds: &Bounds, stop: &Stop| {
        filter.outputs(event, most, bounds, stop)
    };
    run(filter, event, outputs).await
}

async fn run<T: Send + 'static>(
    filter: &Arc<Filter>,
    event: &Event,
    run: impl Fn(&Filter, &Event, &Bounds, &Stop) -> Result<T, Fault> + Send + 'static,
) -> Result<T, NoAnswer> {
    if event.body.len() <= limits::FILTER_INLINE_BYTES_MAX {
        match run(filter, event, &Bounds::SHORT, &Stop::default()) {
            Err(Fault::Overrun(_)) => {}
            answered => return Ok(answered?),
        }
    }
    let permit = THREADS.clone().acquire_owned().await.expect("nothing closes the semaphore");
    let stop = StopWhenDropped(Stop::default());
    let (answer, answered) = oneshot::channel();
    let (filter, event, stopped) = (filter.clone(), event.clone(), stop.0.clone());
    thread::Builder::new()
        .name("filter".to_owned())
        .stack_size(Bounds::FULL_STACK_BYTES)
        .spawn(move || {
            // Nobody may be left to hear it.
            drop(answer.send(run(&filter, &event, &Bounds::FULL, &stopped)));
            drop(permit);
        })
        .map_err(NoAnswer::NoThread)?;
    match timeout(limits::FILTER_RUN_MAX, answered).await {
        Ok(answered) => Ok(answered.expect("a run answers: it unwinds no further")?),
        Err(_) => Err(NoAnswer::Slow),
    }
}

/// Ends a run that nobody waits for any more.
struct StopWhenDropped(Stop);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use millstream_stages::{Envelope, event::Identity};

    use super::*;

    fn event(body: &str) -> Event {
        let (event_type, version) = ("order.created".to_owned(), "1".to_owned());
        let identity = Identity { id: "e1".to_owned(), event_type, version, tenant: None };
        Event::new(identity, Envelope::Raw, Bytes::copy_from_slice(body.as_bytes()))
    }

    fn filter(text: &str) -> Arc<Filter> {
        Arc::new(Filter::compile(text).unwrap())
    }

    /// Threads of this process that run filters.
    fn threads() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")));
        names.filter(|name| name.as_ref().is_ok_and(|name| name.trim() == "filter")).count()
    }

    // One test, so that no other's threads are counted.
    #[tokio::test]
    async fn runaways_take_few_threads_give_them_back_and_stop_nobody() {
        let runaway = filter("if .n == 1 then last(repeat(.)) else .n end");
        let most = THREADS.available_permits();
        let runs: Vec<_> = (0..20)
            .map(|_| {
                let runaway = runaway.clone();
                tokio::spawn(async move {
                    let event = event(r#"{"n": 1}"#);
                    let run = outputs(&runaway, &event, 10);
                    tokio::time::timeout(Duration::from_millis(300), async { run.await.is_err() })
                        .await
                        .is_err()
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(threads() <= most, "{} threads", threads());

        let began = Instant::now();
        for n in 2..1000 {
            let event = event(&format!(r#"{{"n": {n}}}"#));
            assert_eq!(outputs(&runaway, &event, 10).await.unwrap(), [n.to_string()]);
        }
        let took = began.elapsed();
        assert!(took < Duration::from_secs(5), "a thousand innocent events took {took:?}");

        for run in runs {
            assert!(run.await.unwrap(), "a filter that never ends gave an answer");
        }
        // Their calls were dropped, so their threads end though their steps are not used up.
        let began = Instant::now();
        while THREADS.available_permits() < most || threads() > 0 {
            assert!(began.elapsed() < Duration::from_secs(1), "{} threads hang on", threads());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }

        // What is too long for the caller's thread gets one of its own.
        let sum = filter("[range(.n)] | add");
        assert_eq!(outputs(&sum, &event(r#"{"n": 5000}"#), 1).await.unwrap(), ["12497500"]);
        let large = event(&format!("[{}1]", "1,".repeat(100_000)));
        assert!(truthy(&filter("length == 100001"), &large).await.unwrap());
        let deep = truthy(&filter("def f: 1 + f; f"), &event("1")).await.unwrap_err();
        assert!(deep.to_string().contains("called itself too deep"), "{deep}");
        let own = outputs(&filter(".a.b"), &event(r#"{"a": 1}"#), 1).await.unwrap_err();
        assert_eq!(own.to_string(), "cannot index 1 with \"b\"");
    }
}
