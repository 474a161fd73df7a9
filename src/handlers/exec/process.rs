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
use millstream_stages::text::excerpt;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    task::JoinHandle,
    time::timeout,
};

use crate::limits;

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
            stderr: tokio::spawn(relay(stderr, name.to_owned(), last_words.clone())),
            last_words,
            child,
        })
    }
}

impl Process {
    /// Reason that an idle process cannot be asked, if there is one: it ended, or wrote what nobody
    /// asked for.
    pub(super) fn unfit(&mut self) -> Option<&'static str> {
        match self.stdout.fill_buf().now_or_never() {
            None => None,
            Some(Ok([])) => Some("ended while it was idle"),
            Some(Ok(_)) => Some("wrote to standard output unasked, which is for replies alone"),
            Some(Err(_)) => Some("could not be read from"),
        }
    }

    /// Writes one request line and reads one reply line.
    ///
    /// Both at once, so that a process that answers before it has read everything does not wait for
    /// us while we wait for it. After an error, or if the future is dropped before it is done, the
    /// process is out of step: drop it.
    pub(super) async fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>, Broken> {
        let (stdin, stdout) = (&mut self.stdin, &mut self.stdout);
        let write = async {
            match stdin.write_all(request).await {
                // It reads no more: what it wrote, or the end of that, says why.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                written => written.map_err(Broken::Pipe),
            }
        };
        let ((), reply) = tokio::try_join!(write, read_reply(stdout))?;
        Ok(reply)
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

/// Reads one line, without its end.
async fn read_reply(stdout: &mut BufReader<ChildStdout>) -> Result<Vec<u8>, Broken> {
    let mut line = Vec::new();
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
            return Ok(line);
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
