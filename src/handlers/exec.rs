//! Exec handler: a long-lived child process, one JSON line to it per event, one line back.

mod process;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use millstream_stages::{
    Delivery, Event, Failure, Handler, Pending, Problem, Reply,
    failure::class,
    replies::{self, ExecLine},
    text::excerpt,
    units::Period,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tokio::{sync::Semaphore, time::timeout_at};

use self::process::{Process, Program};
use super::{HandlerContext, HandlerKind, options};
use crate::{limits, shortage::Shortage};

pub(super) const KIND: HandlerKind = HandlerKind {
    name: "exec",
    about: "hands the event to a long-lived child process as a line of JSON \
            and reads its line of JSON.",
    options: options::schema_of::<Options>,
    build,
};

/// Hands each event to a long-lived child process, in any language.
///
/// The child reads a line `{"id", "type", "version", "tenant", "attempt", "event"}` from its
/// standard input, `event` being the event as it was published, and answers with one line on its
/// standard output, flushed: `{"id", "ok": true}`, or `{"id", "ok": true, "outputs": […]}`, or
/// `{"id", "error": {"class", "message", "retry": "retry" | "reject" | "defer", "after": "2s"}}`,
/// `id` being that of the event. Any other line is no reply, and waited past. One event at a time
/// per process. A process that dies is started again; one that does not answer within the timeout
/// is killed. Standard error goes to the log, at debug. At the end of its input it should exit.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The program and its arguments, such as `["python3", "handlers/orders.py"]`. No shell is
    /// involved. It runs in the folder of `pipeline.toml`, and relative paths start there.
    #[serde(rename = "exec")]
    command: Vec<String>,
    /// Processes that run, each with one event at a time.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 256))]
    processes: usize,
    /// Environment variables to set. The rest is inherited, but for `MILLSTREAM_…`, which may hold
    /// our own secrets.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Time limit of a call.
    #[serde(default = "options::default_timeout")]
    timeout: Period,
}

fn one() -> usize {
    1
}

struct Exec {
    program: Program,
    /// One permit per slot in `idle`.
    free: Semaphore,
    idle: Mutex<Vec<Slot>>,
    /// Time limit of a call.
    timeout: Duration,
    /// True once the program named the event in a reply: from then on each reply must.
    names_events: AtomicBool,
    /// Lines on standard output that were no replies.
    no_replies: AtomicU64,
}

/// Slot for one process.
#[derive(Default)]
struct Slot {
    process: Option<Process>,
    /// Processes that ended without an answer since the last answer.
    deaths: u32,
    /// Text on how the last of them ended, as what follows "the process".
    last: String,
    /// Time from which the next one may be started.
    start_at: Option<Instant>,
}

fn build(options: &Value, context: &HandlerContext) -> Result<Arc<dyn Handler>, Vec<Problem>> {
    let options: Options = options::read(options)?;
    let mut problems = Vec::new();
    let name = options.command.first().map(String::as_str).unwrap_or_default();
    if name.is_empty() {
        problems.push(
            Problem::new(&["exec"], "no program to run")
                .hint("write it like [\"python3\", \"handlers/orders.py\"]"),
        );
    }
    let with_path = name.contains('/') && Path::new(name).is_relative();
    if with_path && !context.base.join(name).is_file() {
        problems.push(Problem::new(
            &["exec", "0"],
            format!("there is no file \"{name}\" beside pipeline.toml"),
        ));
    }
    if !(1..=limits::EXEC_PROCESSES_MAX).contains(&options.processes) {
        let most = limits::EXEC_PROCESSES_MAX;
        problems.push(Problem::new(
            &["processes"],
            format!("expected 1 to {most}, got {}", options.processes),
        ));
    }
    if let Some(name) =
        options.env.keys().find(|name| name.is_empty() || name.contains(['=', '\0']))
    {
        problems.push(Problem::new(
            &["env", name],
            format!("\"{name}\" is not the name of a variable"),
        ));
    }
    if options.command.iter().chain(options.env.values()).any(|text| text.contains('\0')) {
        problems.push(Problem::new(
            &["exec"],
            "a program, its arguments and its environment cannot hold a NUL",
        ));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Arc::new(Exec {
        free: Semaphore::new(options.processes),
        timeout: options.timeout.0,
        names_events: AtomicBool::new(false),
        no_replies: AtomicU64::new(0),
        idle: Mutex::new((0..options.processes).map(|_| Slot::default()).collect()),
        program: Program {
            command: options.command,
            env: options.env,
            folder: context.base.clone(),
        },
    }))
}

impl Handler for Exec {
    fn call<'a>(&'a self, event: &'a Event, delivery: &'a Delivery) -> Pending<'a, Reply> {
        Box::pin(async move {
            let request = replies::exec_request(event, delivery)?;
            let limit = self.timeout.saturating_sub(limits::EXEC_TIMEOUT_MARGIN);
            let until = tokio::time::Instant::now() + limit;
            let _permit = timeout_at(until, self.free.acquire())
                .await
                .map_err(|_| self.unanswered("every process was busy with other events"))?
                .expect("nothing closes the semaphore");
            let mut lease = TakenSlot::of(self);
            // From here to its answer the process belongs to this call. A call that is dropped, at
            // its timeout or at the end of the worker, takes the process along: its answer may be
            // taken for that to the next event.
            let mut process = lease.process()?;
            lease.slot.assume_dead("it did not answer in time");
            let asked = process.ask(&request, |line| self.judge(line, &event.id));
            match timeout_at(until, asked).await {
                Ok(Ok(Told::Reply(reply))) => {
                    lease.slot.answered(process);
                    reply
                }
                Ok(Ok(Told::Unreadable(failure))) => {
                    "wrote a reply that cannot be read".clone_into(&mut lease.slot.last);
                    Err(failure)
                }
                Ok(Err(broken)) => {
                    let how = process.end(broken).await;
                    lease.slot.last.clone_from(&how);
                    Err(Failure::retry(class::HANDLER, format!("the process {how}")))
                }
                Err(_) => {
                    let hint = process.hint();
                    lease.slot.last = format!("did not answer in time: {hint}");
                    Err(self.unanswered(&hint))
                }
            }
        })
    }
}

/// Answer of a program to an event.
enum Told {
    Reply(Result<Reply, Failure>),
    Unreadable(Failure),
}

impl Exec {
    /// Answer in a line that was written while the event `id` was in hand; else why it is none.
    fn judge(&self, line: &[u8], id: &str) -> Result<Told, String> {
        let names_events = self.names_events.load(Ordering::Relaxed);
        match replies::exec_line(line, id, names_events) {
            ExecLine::Reply { reply, has_id } => {
                self.names_events.fetch_or(has_id, Ordering::Relaxed);
                Ok(Told::Reply(reply))
            }
            ExecLine::Unreadable(failure) => Ok(Told::Unreadable(failure)),
            ExecLine::NoReply(why) => {
                self.no_reply(line, &why);
                Err(why)
            }
        }
    }

    /// Counts a line that is no reply; the first, the tenth and so on are told.
    fn no_reply(&self, line: &[u8], why: &str) {
        let lines = self.no_replies.fetch_add(1, Ordering::Relaxed) + 1;
        if lines != 10_u64.pow(lines.ilog10()) {
            return;
        }
        let text = excerpt(&String::from_utf8_lossy(line), limits::LOG_TEXT_BYTES_MAX);
        tracing::warn!(
            program = self.program.name(),
            lines,
            text,
            error = why,
            "exec handler wrote to standard output what is no reply: let it log to standard error"
        );
    }

    fn unanswered(&self, hint: &str) -> Failure {
        Failure::retry(class::TIMEOUT, format!("no answer in {}; {hint}", Period(self.timeout)))
    }
}

/// Slot taken by one call. However the call ends, the slot goes back.
struct TakenSlot<'a> {
    exec: &'a Exec,
    slot: Slot,
}

impl<'a> TakenSlot<'a> {
    /// Takes a slot, one with a running process if there is one. The caller holds a permit.
    fn of(exec: &'a Exec) -> Self {
        let mut idle = exec.idle();
        let running = idle.iter().rposition(|slot| slot.process.is_some());
        let index = running
            .unwrap_or_else(|| idle.len().checked_sub(1).expect("a permit stands for a slot"));
        Self { exec, slot: idle.swap_remove(index) }
    }

    /// Returns the slot's process, started where there is none that can be used.
    ///
    /// A program that cannot be started, or that keeps dying, is a dependency that is down: the
    /// event is deferred.
    fn process(&mut self) -> Result<Process, Failure> {
        let Exec { program, .. } = self.exec;
        if let Some(mut process) = self.slot.process.take() {
            let exec = self.exec;
            match process.unfit(|line, why| exec.no_reply(line, why)) {
                None => return Ok(process),
                Some(why) => {
                    tracing::warn!(
                        program = program.name(),
                        error = why,
                        "exec handler is started again"
                    );
                    self.slot.assume_dead(why);
                }
            }
        }
        let wait = self
            .slot
            .start_at
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        if !wait.is_zero() {
            let Slot { deaths, last, .. } = &self.slot;
            let message = format!(
                "the process ended {deaths} times in a row without an answer; the last {last}"
            );
            return Err(Failure::defer(class::HANDLER, message).after(wait));
        }
        program.start().map_err(|error| {
            if let Some(shortage) = Shortage::of_start(&error) {
                return shortage.failure(&format!("could not start \"{}\"", program.name()));
            }
            let message = format!("could not start \"{}\": {error}", program.name());
            self.slot.assume_dead(&message);
            Failure::defer(class::HANDLER, message)
        })
    }
}

impl Drop for TakenSlot<'_> {
    fn drop(&mut self) {
        self.exec.idle().push(std::mem::take(&mut self.slot));
    }
}

impl Slot {
    /// Counts the process as dead until it answers, so that a call may be dropped at any time.
    fn assume_dead(&mut self, why: &str) {
        self.deaths = self.deaths.saturating_add(1);
        self.start_at = Some(Instant::now() + restart_wait(self.deaths));
        why.clone_into(&mut self.last);
    }

    fn answered(&mut self, process: Process) {
        *self = Self { process: Some(process), ..Self::default() };
    }
}

/// Wait of a slot before its next process after so many deaths in a row: none after one, then twice
/// as long each time.
fn restart_wait(deaths: u32) -> Duration {
    match deaths {
        0 | 1 => Duration::ZERO,
        more => Duration::from_millis(100 << (more - 2).min(10)).min(limits::EXEC_RESTART_WAIT_MAX),
    }
}

impl Exec {
    fn idle(&self) -> MutexGuard<'_, Vec<Slot>> {
        // Nothing can panic while it is held, and a list of slots is whole at any time.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_before_a_restart_grows_and_is_bounded() {
        let waits_ms: Vec<u128> =
            [0, 1, 2, 3, 4, 8, 9, u32::MAX].map(|deaths| restart_wait(deaths).as_millis()).into();
        assert_eq!(waits_ms, [0, 0, 100, 200, 400, 5000, 5000, 5000]);
    }
}
