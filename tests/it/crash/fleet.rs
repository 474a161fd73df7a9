//! Fleet: `millstream run` processes and a publisher in Python, none left behind however the test
//! ends.

use std::{
    fs::{self, File},
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use millstream::{
    config::{self, Catalogue, Pipeline},
    handlers::HandlerContext,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::ledger::Published;
use crate::{
    reaper::Start as _,
    support::{DEADLINE, Running, python_package},
};

const NATS_PY: &str = "nats-py==2.16.0";

/// Workers of one pipeline; dropping it kills them.
pub(crate) struct Fleet {
    pub(crate) folder: TempDir,
    set: Vec<(String, String)>,
    workers: Vec<Running>,
}

impl Fleet {
    /// A fleet of the example that the repository ships, used as it is but for what `set` says.
    pub(crate) fn of_the_example(set: &[(&str, String)]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let fleet = Self::of(&fs::read_to_string(root.join("pipeline.toml")).unwrap(), set);
        fs::create_dir(fleet.folder.path().join("schemas")).unwrap();
        for schema in fs::read_dir(root.join("schemas")).unwrap() {
            let schema = schema.unwrap();
            fs::copy(schema.path(), fleet.folder.path().join("schemas").join(schema.file_name()))
                .unwrap();
        }
        fleet
    }

    /// A fleet of the pipeline in this text.
    pub(crate) fn of(pipeline: &str, set: &[(&str, String)]) -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("pipeline.toml"), pipeline).unwrap();
        let set = set.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        Self { folder, set, workers: Vec::new() }
    }

    /// The pipeline as the workers read it.
    pub(crate) fn pipeline(&self) -> Pipeline {
        let loaded = config::load(
            &self.folder.path().join("pipeline.toml"),
            &self.set,
            &[],
            &Catalogue::new(HandlerContext::default()),
        );
        loaded.pipeline.unwrap_or_else(|| panic!("{}", config::render(&loaded.reports, false)))
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.arg(subcommand).args(["--config", "pipeline.toml", "--log", "info"]);
        for (key, value) in &self.set {
            command.args(["--set", &format!("{key}={value}")]);
        }
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// Runs a command beside the workers, as an operator does; returns its exit status and output.
    pub(crate) fn run(&self, subcommand: &str, args: &[&str]) -> (i32, String) {
        Self::output(self.command(subcommand).args(args))
    }

    /// The same for a command whose `--set` means something else: settings go by the environment.
    pub(crate) fn run_plain(&self, subcommand: &str, args: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.arg(subcommand).args(args).current_dir(self.folder.path()).stdin(Stdio::null());
        for (key, value) in &self.set {
            command.env(format!("MILLSTREAM_{}", key.replace('.', "__").to_uppercase()), value);
        }
        Self::output(&mut command)
    }

    fn output(command: &mut Command) -> (i32, String) {
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code().unwrap_or(-1),
            format!("{}{}", text(&output.stdout), text(&output.stderr)),
        )
    }

    /// Creates the streams and consumers.
    pub(crate) fn apply(&self) {
        let output = self.command("apply").output().unwrap();
        assert!(output.status.success(), "apply: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts one more worker.
    pub(crate) fn start(&mut self) {
        let worker = self.spawn(self.workers.len());
        self.workers.push(worker);
    }

    /// Starts one more worker, which may have so many descriptors.
    pub(crate) fn start_with_descriptors(&mut self, most: u32) {
        let plain = self.command("run");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {most}; exec \"$0\" \"$@\"")]);
        command.arg(plain.get_program()).args(plain.get_args());
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        let log = File::create(self.log(self.workers.len())).unwrap();
        let worker = Running(command.stdout(log.try_clone().unwrap()).stderr(log).start());
        self.workers.push(worker);
    }

    /// Address at which a worker serves its metrics and health, once it says so.
    pub(crate) fn listening(&self, n: usize) -> Option<SocketAddr> {
        let log = fs::read_to_string(self.log(n)).unwrap_or_default();
        let said = log.rsplit_once("listening=")?.1.split_whitespace().next()?;
        said.trim_matches('"').parse().ok()
    }

    /// Worker of one stage only, until it is dropped.
    pub(crate) fn start_only(&self, stage: &str) -> Running {
        let log = File::options().create(true).append(true).open(self.log(99)).unwrap();
        let mut command = self.command("run");
        command.args(["--stage", stage]).stdout(log.try_clone().unwrap()).stderr(log);
        Running(command.start())
    }

    fn spawn(&self, n: usize) -> Running {
        let log = File::options().create(true).append(true).open(self.log(n)).unwrap();
        Running(self.command("run").stdout(log.try_clone().unwrap()).stderr(log).start())
    }

    /// Log of a worker.
    pub(crate) fn log(&self, n: usize) -> PathBuf {
        self.folder.path().join(format!("worker-{n}.log"))
    }

    pub(crate) fn len(&self) -> usize {
        self.workers.len()
    }

    /// Kills a worker as `kill -9` does and starts another in its place.
    pub(crate) fn replace(&mut self, n: usize) {
        self.workers[n].kill();
        self.workers[n] = self.spawn(n);
    }

    /// Kills a worker as `kill -9` does.
    pub(crate) fn kill(&mut self, n: usize) {
        self.workers[n].kill();
    }

    /// Process id of a worker.
    pub(super) fn pid(&self, n: usize) -> u32 {
        self.workers[n].0.id()
    }

    /// Sends a signal to a worker.
    pub(super) fn signal(&mut self, n: usize, signal: Signal) {
        kill_process(Pid::from_child(&self.workers[n].0), signal).unwrap();
    }

    /// Lines of all logs that contain `what`.
    pub(super) fn logged(&self, what: &str) -> Vec<String> {
        let logs = (0..self.workers.len()).map(|n| fs::read_to_string(self.log(n)).unwrap());
        logs.flat_map(|log| log.lines().map(ToOwned::to_owned).collect::<Vec<_>>())
            .filter(|line| line.contains(what))
            .collect()
    }

    /// Starts workers again that have died; returns how many.
    pub(crate) fn revive(&mut self) -> usize {
        let dead: Vec<usize> = (0..self.workers.len())
            .filter(|n| self.workers[*n].0.try_wait().unwrap().is_some())
            .collect();
        for n in &dead {
            self.workers[*n] = self.spawn(*n);
        }
        dead.len()
    }

    /// Stops every worker, as SIGTERM does, and starts it again, one after the other.
    pub(crate) async fn roll(&mut self) {
        for n in 0..self.workers.len() {
            self.terminate(n).await;
            self.workers[n] = self.spawn(n);
        }
    }

    /// Tells a worker to stop, as SIGTERM does, and waits until it is gone.
    pub(crate) async fn terminate(&mut self, n: usize) -> (ExitStatus, Duration) {
        let began = Instant::now();
        let worker = &mut self.workers[n].0;
        kill_process(Pid::from_child(worker), Signal::TERM).unwrap();
        (ended(worker).await, began.elapsed())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for n in 0..self.workers.len() {
                let log = fs::read_to_string(self.log(n)).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!(
                    "--- the end of worker {n}'s log\n{}\n---",
                    lines[lines.len().saturating_sub(15)..].join("\n")
                );
            }
        }
    }
}

async fn ended(child: &mut Child) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(began.elapsed() < DEADLINE, "a process is still there after {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Publisher in Python, under way.
pub(super) struct Publisher {
    process: Running,
    ledger: PathBuf,
}

impl Publisher {
    /// Starts a publisher of `count` events, at most `rate` a second.
    pub(super) fn start(folder: &Path, url: &str, count: usize, rate: u32, more: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/crash/publish.py");
        let ledger = folder.join("acknowledged");
        let mut command = Command::new("python3");
        command.arg(script).args(["--url", url, "--ledger"]).arg(&ledger);
        command.args(["--count", &count.to_string(), "--rate", &rate.to_string()]).args(more);
        command
            .env("PYTHONPATH", python_package(NATS_PY))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null());
        let log = File::create(folder.join("publisher.log")).unwrap();
        Self { process: Running(command.stdout(Stdio::null()).stderr(log).start()), ledger }
    }

    /// Waits until all events are acknowledged, and returns them.
    pub(super) async fn acknowledged(mut self) -> Vec<Published> {
        let status = ended(&mut self.process.0).await;
        let log = fs::read_to_string(self.ledger.with_file_name("publisher.log")).unwrap();
        let end: Vec<&str> = log.lines().rev().take(20).collect();
        assert!(status.success(), "the publisher failed: {end:#?}");
        println!("{}", end.first().unwrap_or(&""));
        let mut text = String::new();
        File::open(&self.ledger).unwrap().read_to_string(&mut text).unwrap();
        text.lines().map(Published::read).collect()
    }
}
