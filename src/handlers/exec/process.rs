//! Process: one child process of an `exec` handler, started, asked, killed.

use std::{
    collections::BTreeMap,
    io,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::FutureExt as _;
use millstream_stages::{replies, text::excerpt};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    task::JoinHandle,
    time::timeout,
};

use crate::limits;

/// Bytes of a line that a message quotes.
const LINE_BYTES_SHOWN: usize = 120;

/// Program to run.
pub(super) struct Program {
    pub(super) command: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    /// Working folder.
    pub(super) folder: PathBuf,
}

/// Running child. Dropping it kills it and the processes it started.
pub(super) struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// Line that is being read from standard output.
    line: Vec<u8>,
    /// Lines, in this call, that were no reply; of the last one, what was wrong with it.
    no_replies: (u64, String),
    /// Task that moves standard error to the log.
    stderr: JoinHandle<()>,
    /// Last line on standard error.
    last_words: Arc<Mutex<String>>,
}

/// Reason that a process gave no reply.
#[derive(Debug)]
pub(super) enum Broken {
    /// End of its standard output.
    Ended,
    /// Line longer than [`limits::REPLY_BYTES_MAX`].
    TooLong,
    /// Other failure of a pipe.
    Pipe(io::Error),
}

impl Program {
    /// Name of the program, for messages.
    pub(super) fn name(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }

    /// Starts the program in a process group of its own: an interrupt typed at the worker's
    /// terminal does not reach it while the worker drains, and it is killed together with what it
    /// starts.
    ///
    /// # Errors
    /// Error of the system.
    pub(super) fn start(&self) -> io::Result<Process> {
        let name = self.name();
        // Where a relative program starts from differs between systems once a working folder is
        // set.
        let program =
            if name.contains('/') { self.folder.join(name) } else { Path::new(name).to_owned() };
        let mut command = Command::new(program);
        for (key, _) in std::env::vars_os()
            .filter(|(key, _)| key.as_encoded_bytes().starts_with(b"MILLSTREAM_"))
        {
            command.env_remove(key);
        }
        if !self.folder.as_os_str().is_empty() {
            command.current_dir(&self.folder);
        }
        let mut child = command
            .args(self.command.iter().skip(1))
            .envs(&self.env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let last_words = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("standard error is piped");
        Ok(Process {
            stdin: child.stdin.take().expect("standard input is piped"),
            stdout: BufReader::new(child.stdout.take().expect("standard output is piped")),
            line: Vec::new(),
            no_replies: (0, String::new()),
            stderr: tokio::spawn(relay(stderr, name.to_owned(), last_words.clone())),
            last_words,
            child,
        })
    }
}

impl Process {
    /// Reason that an idle process cannot be asked, if there is one: it ended, or wrote what nobody
    /// asked for and may be taken for the next reply. What it logs goes to `other`.
    pub(super) fn unfit(&mut self, mut other: impl FnMut(&[u8], &str)) -> Option<&'static str> {
        self.line.clear();
        self.no_replies = (0, String::new());
        let mut read = 0;
        loop {
            let part = match self.stdout.fill_buf().now_or_never() {
                None => break,
                Some(Ok([])) => return Some("ended while it was idle"),
                Some(Ok(part)) => part,
                Some(Err(_)) => return Some("could not be read from"),
            };
            let end = part.iter().position(|byte| *byte == b'\n');
            self.line.extend_from_slice(&part[..end.unwrap_or(part.len())]);
            let used = end.map_or(part.len(), |end| end + 1);
            read += used;
            self.stdout.consume(used);
            if read > limits::EXEC_UNASKED_BYTES_MAX {
                return Some("writes to standard output without end, which is for replies");
            }
            if end.is_some() {
                if replies::is_exec_reply(&self.line) {
                    return Some("replied to an event twice, or to none");
                }
                other(&self.line, "it was not asked");
                self.line.clear();
            }
        }
        (!self.line.is_empty()).then_some("wrote a part of a line to standard output unasked")
    }

    /// Writes one request line and reads lines until `judge` takes one for the reply; the others
    /// are none, for the reason that it gives.
    ///
    /// Both at once, so that a process that answers before it has read everything does not wait for
    /// us while we wait for it. After an error, or if the future is dropped before it is done, the
    /// process is out of step: drop it.
    pub(super) async fn ask<T>(
        &mut self,
        request: &[u8],
        mut judge: impl FnMut(&[u8]) -> Result<T, String>,
    ) -> Result<T, Broken> {
        let Self { stdin, stdout, line, no_replies, .. } = self;
        let write = async {
            match stdin.write_all(request).await {
                // It reads no more: what it wrote, or the end of that, says why.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                written => written.map_err(Broken::Pipe),
            }
        };
        let read = async {
            loop {
                read_line(stdout, line).await?;
                let judged = judge(line);
                let text = excerpt(&String::from_utf8_lossy(line), LINE_BYTES_SHOWN);
                line.clear();
                match judged {
                    Ok(reply) => return Ok(reply),
                    Err(why) => *no_replies = (no_replies.0 + 1, format!("{why}: {text}")),
                }
            }
        };
        let ((), reply) = tokio::try_join!(write, read)?;
        Ok(reply)
    }

    /// Hint for who wrote a program that gave no answer in time, by what it wrote instead.
    pub(super) fn hint(&self) -> String {
        match &self.no_replies {
            (0, _) if self.line.is_empty() => {
                "it wrote nothing to standard output: a reply is one line, and flushed \
                 (in Python, print(…, flush=True))"
                    .to_owned()
            }
            (0, _) => "it wrote a line that has no end: end a reply with a line break and flush it"
                .to_owned(),
            (lines, last) => {
                let several = if *lines == 1 { "" } else { "s" };
                format!(
                    "what it wrote to standard output is no reply ({lines} line{several}; the \
                     last, {last}); logs belong on standard error"
                )
            }
        }
    }

    /// Ends a process that gave no reply; returns how that came about, as what follows "the
    /// process".
    pub(super) async fn end(mut self, broken: Broken) -> String {
        let how = match broken {
            Broken::TooLong => {
                return format!("wrote a reply of more than {} bytes", limits::REPLY_BYTES_MAX);
            }
            Broken::Pipe(error) => return format!("could not be spoken to: {error}"),
            Broken::Ended => match timeout(limits::EXEC_LAST_WORDS, self.child.wait()).await {
                Ok(Ok(status)) => in_words(status),
                Ok(Err(_)) | Err(_) => "closed its standard output".to_owned(),
            },
        };
        // Once it is dead its standard error ends, unless a process it started holds on to it.
        timeout(limits::EXEC_LAST_WORDS, &mut self.stderr).await.ok();
        let last_words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        match last_words.as_str() {
            "" => format!("{how} while it handled the event"),
            last_words => format!("{how} while it handled the event; its last words: {last_words}"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stderr.abort();
        // A process that was waited for has no id any more.
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            // It may just have ended; the client of the child reaps it either way.
            kill_process_group(id, Signal::KILL).ok();
        }
    }
}

fn in_words(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, Some(code)) => format!("exited with status {code}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Reads one line, without its end, behind what `line` holds of it already.
async fn read_line(stdout: &mut BufReader<ChildStdout>, line: &mut Vec<u8>) -> Result<(), Broken> {
    loop {
        let read = stdout.fill_buf().await.map_err(Broken::Pipe)?;
        if read.is_empty() {
            return Err(Broken::Ended);
        }
        let end = read.iter().position(|byte| *byte == b'\n');
        let part = &read[..end.unwrap_or(read.len())];
        if line.len() + part.len() > limits::REPLY_BYTES_MAX {
            return Err(Broken::TooLong);
        }
        line.extend_from_slice(part);
        let used = part.len() + usize::from(end.is_some());
        stdout.consume(used);
        if end.is_some() {
            return Ok(());
        }
    }
}

/// Moves standard error to the log line by line, as fast as it comes, so that the process never
/// waits for it.
async fn relay(stderr: ChildStderr, program: String, last_words: Arc<Mutex<String>>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        // What cannot be read has ended, too.
        let read = stderr.fill_buf().await.unwrap_or_default();
        let end = read.iter().position(|byte| *byte == b'\n');
        let part = &read[..end.unwrap_or(read.len())];
        let kept = part.len().min(limits::LOG_TEXT_BYTES_MAX - line.len());
        line.extend_from_slice(&part[..kept]);
        let (used, ended) = (part.len() + usize::from(end.is_some()), read.is_empty());
        stderr.consume(used);
        if end.is_some() || ended {
            let text = excerpt(&String::from_utf8_lossy(&line), limits::LOG_TEXT_BYTES_MAX);
            line.clear();
            if !text.is_empty() {
                tracing::debug!(program, text, "exec handler wrote to standard error");
                text.clone_into(&mut last_words.lock().unwrap_or_else(PoisonError::into_inner));
            }
        }
        if ended {
            return;
        }
    }
}
