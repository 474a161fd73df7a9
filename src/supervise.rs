//! Supervise: background tasks of a worker by name: each panic is seen, counted and told, and the
//! task started again.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{sync::broadcast, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    limits,
    observe::{Conditions, Metrics, Trouble},
    panics,
};

/// Supervisor of the tasks of one worker. Cheap to clone.
///
/// The condition of a task has its name: `task router`, `stage orders`.
#[derive(Debug, Clone)]
pub struct Supervisor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    conditions: Arc<Conditions>,
    metrics: Arc<Metrics>,
    /// Tasks that fell, and the time since which they have been well.
    fallen: Mutex<HashMap<String, Instant>>,
    /// Names of tasks in which a test wants a panic.
    wanted: broadcast::Sender<String>,
    /// Task in whose work a test wants one, and whether it does.
    in_work: Mutex<String>,
    is_in_work: AtomicBool,
}

impl Supervisor {
    /// Supervisor that reports to these conditions and counts.
    pub fn new(conditions: Arc<Conditions>, metrics: Arc<Metrics>) -> Self {
        panics::note_places();
        let wanted = broadcast::Sender::new(16);
        Self(Arc::new(Inner {
            conditions,
            metrics,
            fallen: Mutex::default(),
            wanted,
            in_work: Mutex::default(),
            is_in_work: AtomicBool::new(false),
        }))
    }

    /// Conditions of the worker.
    pub fn conditions(&self) -> &Conditions {
        &self.0.conditions
    }

    /// Keeps a task at work until it ends after `stop`. `start` makes it anew, with nothing of what
    /// it knew, whenever it has panicked, or ended although nobody stopped it; after a wait that
    /// grows to [`limits::TASK_AGAIN_MAX`].
    pub async fn keep<Fut>(
        self,
        name: impl Into<String>,
        stop: CancellationToken,
        mut start: impl FnMut() -> Fut,
    ) where
        Fut: Future<Output = ()>,
    {
        let name = name.into();
        self.0.conditions.ok(&name);
        let mut wait = limits::TASK_AGAIN_MIN;
        loop {
            let began = Instant::now();
            let ended = AssertUnwindSafe(async { self.watch(&name, start()).await });
            let ended = ended.catch_unwind().await;
            let why = match ended {
                Err(panic) => self.count(&name, &*panic),
                Ok(()) if stop.is_cancelled() => return,
                Ok(()) => {
                    tracing::error!(task = name, "a task ended although nobody stopped it");
                    "it ended although nobody stopped it".to_owned()
                }
            };
            if began.elapsed() >= limits::TASK_WELL {
                wait = limits::TASK_AGAIN_MIN;
            }
            self.fell(&name, &why);
            if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
            wait = (wait * 2).min(limits::TASK_AGAIN_MAX);
            // From now on it is at work again, and well after a while.
            self.fell(&name, &why);
        }
    }

    /// Result of a piece of work of a task; `None` if it panicked, which is told as the task's.
    pub async fn caught<T>(&self, name: &str, work: impl Future<Output = T>) -> Option<T> {
        let work = async {
            self.panic_if_wanted(name);
            work.await
        };
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(done) => Some(done),
            Err(panic) => {
                let why = self.count(name, &*panic);
                self.fell(name, &why);
                None
            }
        }
    }

    /// Tells of a panic that was caught elsewhere.
    pub fn panicked(&self, name: &str, why: &str) {
        tracing::error!(task = name, panic = why, "a task panicked; this is a defect");
        self.0.metrics.task_panicked(name.strip_prefix("task ").unwrap_or(name));
        self.fell(name, &format!("it panicked: {why}"));
    }

    /// Panics in the task of this name when it is next at work; false if no task is kept. For tests
    /// of what is done about panics: nothing of the program calls it.
    pub fn want_panic(&self, name: &str) -> bool {
        self.0.wanted.send(name.to_owned()).is_ok()
    }

    /// Panics in the next piece of work of the task of this name, as [`Supervisor::want_panic`].
    pub fn want_panic_in_work(&self, name: &str) {
        *self.0.in_work.lock().unwrap_or_else(PoisonError::into_inner) = name.to_owned();
        self.0.is_in_work.store(true, Ordering::Release);
    }

    /// Work is many: where nothing is wanted, this looks at one number.
    fn panic_if_wanted(&self, name: &str) {
        if !self.0.is_in_work.load(Ordering::Relaxed) {
            return;
        }
        let is_wanted = *self.0.in_work.lock().unwrap_or_else(PoisonError::into_inner) == name;
        if is_wanted && self.0.is_in_work.swap(false, Ordering::AcqRel) {
            panic!("a test wanted this panic");
        }
    }

    async fn watch(&self, name: &str, work: impl Future<Output = ()>) {
        let mut wanted = self.0.wanted.subscribe();
        let mut work = pin!(work);
        loop {
            tokio::select! {
                () = &mut work => return,
                Ok(task) = wanted.recv() => {
                    assert!(task != name, "a test wanted this panic");
                }
            }
        }
    }

    /// Counts a panic and logs it; the reason, for its condition.
    fn count(&self, name: &str, panic: &(dyn std::any::Any + Send)) -> String {
        let told = panics::told(panic);
        tracing::error!(task = name, panic = told, "a task panicked; this is a defect");
        self.0.metrics.task_panicked(name.strip_prefix("task ").unwrap_or(name));
        format!("it panicked: {told}")
    }

    /// Reports a task that fell, until it has been well for [`limits::TASK_WELL`].
    fn fell(&self, name: &str, why: &str) {
        const REMEDY: &str = "it is started again by itself; this is a defect: please report it \
                              with the lines of the log around it";
        self.0.conditions.failing(name, Trouble::with_remedy(why, REMEDY));
        let mut fallen = self.0.fallen.lock().unwrap_or_else(PoisonError::into_inner);
        if fallen.insert(name.to_owned(), Instant::now()).is_some() {
            return;
        }
        drop(fallen);
        let (inner, name) = (Arc::downgrade(&self.0), name.to_owned());
        tokio::spawn(async move {
            let mut rest = limits::TASK_WELL;
            loop {
                tokio::time::sleep(rest).await;
                let Some(inner) = inner.upgrade() else { return };
                rest = inner.rest(&name);
                if rest.is_zero() {
                    return inner.conditions.ok(&name);
                }
            }
        });
    }
}

impl Inner {
    /// Time for which a task that fell must still be well; zero once that is over.
    fn rest(&self, name: &str) -> Duration {
        let mut fallen = self.fallen.lock().unwrap_or_else(PoisonError::into_inner);
        let since = fallen.get(name).map_or(limits::TASK_WELL, Instant::elapsed);
        let rest = limits::TASK_WELL.saturating_sub(since);
        if rest.is_zero() {
            fallen.remove(name);
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn supervisor() -> (Supervisor, Arc<Conditions>, Arc<Metrics>) {
        let (conditions, metrics) =
            (Arc::<Conditions>::default(), crate::observe::metrics::tests::metrics());
        (Supervisor::new(Arc::clone(&conditions), Arc::clone(&metrics)), conditions, metrics)
    }

    fn why(conditions: &Conditions) -> Option<String> {
        conditions.failed().pop().and_then(|(_, condition)| Some(condition.trouble?.why))
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_counted_told_and_started_again_with_growing_waits() {
        let (supervisor, conditions, metrics) = supervisor();
        let (stop, runs) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let (ends, counts) = (stop.clone(), Arc::clone(&runs));
        let began = Instant::now();
        let kept = tokio::spawn(supervisor.keep("task router", stop.clone(), move || {
            let (stop, run) = (ends.clone(), counts.fetch_add(1, Ordering::Relaxed));
            async move {
                assert!(run >= 4, "run {run}");
                stop.cancelled().await;
            }
        }));
        let until = async |count| {
            while runs.load(Ordering::Relaxed) < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        until(2).await;
        let told = why(&conditions).unwrap();
        assert!(told.starts_with("it panicked: run "), "{told}");
        assert!(told.contains(" (at src/supervise.rs:"), "{told}");
        until(5).await;
        assert!(began.elapsed() >= limits::TASK_AGAIN_MIN * (1 + 2 + 4 + 8));
        let text = metrics.render();
        assert!(text.contains("millstream_task_panics_total{task=\"router\"} 4"), "{text}");
        // It is at work, and still told of for a while.
        tokio::time::sleep(limits::TASK_WELL / 2).await;
        assert!(why(&conditions).unwrap().contains("run 3"));
        tokio::time::sleep(limits::TASK_WELL).await;
        assert_eq!(why(&conditions), None);
        stop.cancel();
        kept.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_unasked_is_trouble_as_well_and_waits_are_bounded() {
        let (supervisor, conditions, _) = supervisor();
        let (stop, runs) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let counts = Arc::clone(&runs);
        let kept = tokio::spawn(supervisor.keep("task sweep", stop.clone(), move || {
            counts.fetch_add(1, Ordering::Relaxed);
            std::future::ready(())
        }));
        tokio::time::sleep(limits::TASK_AGAIN_MAX * 10).await;
        assert_eq!(why(&conditions).as_deref(), Some("it ended although nobody stopped it"));
        let before = runs.load(Ordering::Relaxed);
        tokio::time::sleep(limits::TASK_AGAIN_MAX * 2).await;
        assert!((1..=3).contains(&(runs.load(Ordering::Relaxed) - before)));
        stop.cancel();
        kept.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_piece_of_work_that_panics_is_told_as_its_tasks_and_no_other_is_hit() {
        let (supervisor, conditions, metrics) = supervisor();
        assert_eq!(supervisor.caught("stage orders", async { 7 }).await, Some(7));
        assert!(conditions.all().is_empty());
        assert_eq!(supervisor.caught("stage orders", async { panic!("poison") }).await, None::<()>);
        assert!(why(&conditions).unwrap().starts_with("it panicked: poison"));
        assert!(metrics.render().contains("task_panics_total{task=\"stage orders\"} 1"));
        tokio::time::sleep(limits::TASK_WELL * 2).await;
        assert_eq!(why(&conditions), None);
    }
}
