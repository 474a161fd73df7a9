//! Reaper: a process that outlives the test run, and kills what the run has left behind.
//!
//! Drops do not run in a test binary that is killed. The reaper reads the ids of processes from a
//! pipe; when the pipe closes, for whatever reason, it kills those that were not taken off.

use std::{
    io::Write as _,
    ops::{Deref, DerefMut},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{LazyLock, Mutex, PoisonError},
};

/// Keeps a list of ids: `+ ID` adds one, `- ID` takes it off.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
pids=
while read -r sign pid; do
    if [ "$sign" = + ]; then
        pids="$pids $pid"
    else
        rest=
        for one in $pids; do [ "$one" = "$pid" ] || rest="$rest $one"; done
        pids=$rest
    fi
done
for one in $pids; do kill -9 "$one" 2>/dev/null; done
"#;

#[expect(clippy::zombie_processes, reason = "it outlives this process")]
static REAPER: LazyLock<Mutex<ChildStdin>> = LazyLock::new(|| {
    let mut reaper = Command::new("sh");
    reaper.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = reaper.spawn().expect("tests need a shell");
    Mutex::new(child.stdin.expect("its input is a pipe"))
});

fn tell(sign: char, pid: u32) {
    let mut reaper = REAPER.lock().unwrap_or_else(PoisonError::into_inner);
    // Without a reaper nothing is worse than before.
    writeln!(reaper, "{sign} {pid}").ok();
}

/// Child process that ends with the test run, however that ends.
#[derive(Debug)]
pub(crate) struct Reaped<C> {
    child: Option<C>,
    pid: u32,
}

impl<C> Reaped<C> {
    fn new(child: C, pid: u32) -> Self {
        tell('+', pid);
        Self { child: Some(child), pid }
    }

    /// The child by itself, for what takes it whole; the reaper forgets it when `self` is dropped.
    pub(crate) fn take(&mut self) -> C {
        self.child.take().expect("the child is taken once")
    }
}

impl<C> Deref for Reaped<C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.child.as_ref().expect("the child was not taken")
    }
}

impl<C> DerefMut for Reaped<C> {
    fn deref_mut(&mut self) -> &mut C {
        self.child.as_mut().expect("the child was not taken")
    }
}

impl<C> Drop for Reaped<C> {
    fn drop(&mut self) {
        // First the child, which may be killed by its own drop: an id must not be taken off before.
        drop(self.child.take());
        tell('-', self.pid);
    }
}

/// A command that is started so that its process ends with the test run.
pub(crate) trait Start {
    type Child;

    fn start(&mut self) -> Reaped<Self::Child>;
}

impl Start for Command {
    type Child = Child;

    #[track_caller]
    fn start(&mut self) -> Reaped<Child> {
        let child = self.spawn().unwrap();
        let pid = child.id();
        Reaped::new(child, pid)
    }
}

impl Start for tokio::process::Command {
    type Child = tokio::process::Child;

    #[track_caller]
    fn start(&mut self) -> Reaped<tokio::process::Child> {
        let child = self.spawn().unwrap();
        let pid = child.id().expect("it was not waited for yet");
        Reaped::new(child, pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::is_alive;

    #[test]
    fn what_is_on_the_list_ends_with_the_run_and_what_was_taken_off_does_not() {
        let sleeper = || Command::new("sleep").arg("600").spawn().unwrap();
        let (mut left, mut taken) = (sleeper(), sleeper());
        let mut reaper = Command::new("sh");
        let mut reaper = reaper.args(["-c", SCRIPT]).stdin(Stdio::piped()).spawn().unwrap();
        let mut list = reaper.stdin.take().unwrap();
        for line in [format!("+ {}", left.id()), format!("+ {}", taken.id())] {
            writeln!(list, "{line}").unwrap();
        }
        writeln!(list, "- {}", taken.id()).unwrap();
        drop(list);
        reaper.wait().unwrap();
        left.wait().unwrap();
        assert!(is_alive(taken.id()));
        taken.kill().unwrap();
        taken.wait().unwrap();
    }
}
