//! Support: a real nats-server per test, a pipeline at work on it, and waiting with one deadline.

use crate::reaper::Reaped;
use std::{
    fmt::Debug,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use millstream::{
    broker::{
        Auth, Broker, Nats, Outgoing, Retention, Stored, StoredMessage, StreamSpec,
        server::{Launch, Server},
    },
    config::{self, Catalogue, Pipeline},
    dead_letter::LetterRecord,
    handlers::{HandlerContext, Registry},
    observe::Trouble,
    stages::{Envelope, Event, event::Identity},
    topology::{self, Topology},
    wire::{Names, Place},
    worker::{Options, Worker},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest wait of a test; generous, since only a test that fails ever spends it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A nats-server of its own, with its data in a folder of its own; both go when it is dropped.
pub(crate) struct TestServer {
    pub(crate) server: Server,
    /// Data of the server, which it outlives: fields are dropped in order.
    folder: TempDir,
}

impl TestServer {
    /// A server with JetStream and no users.
    pub(crate) async fn start() -> Self {
        Self::launch(true, None).await
    }

    /// A server with a configuration file of this text.
    pub(crate) async fn configured(config: &str) -> Self {
        Self::launch(true, Some(config)).await
    }

    /// A server with a user `worker` who may not publish on `subject`; a client without credentials
    /// may do everything.
    pub(crate) async fn denying(subject: &str) -> Self {
        Self::configured(&format!(
            r#"
            authorization {{
                users = [
                    {{ user: admin, password: a, permissions: {{ publish: ">", subscribe: ">" }} }}
                    {{ user: worker, password: w,
                      permissions: {{ publish: {{ allow: ">", deny: "{subject}" }}, subscribe: ">" }} }}
                ]
            }}
            no_auth_user: admin
            "#
        ))
        .await
    }

    /// Three servers of one cluster. It has a leader some time after this returns.
    pub(crate) async fn cluster() -> [Self; 3] {
        // The ports of routes must be known before the servers start.
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listeners = [free(), free(), free()];
        let ports = listeners.each_ref().map(|free| free.local_addr().unwrap().port());
        drop(listeners);
        let routes = ports.map(|port| format!("nats://127.0.0.1:{port}")).join(", ");
        let config = |n: usize| {
            format!(
                "server_name: n{n}\n\
                 cluster {{ name: c, listen: \"127.0.0.1:{}\", routes: [{routes}] }}\n",
                ports[n]
            )
        };
        let configs = [config(0), config(1), config(2)];
        let [a, b, c] = configs.each_ref().map(|config| Self::configured(config));
        let (a, b, c) = tokio::join!(a, b, c);
        [a, b, c]
    }

    pub(crate) async fn launch(jetstream: bool, config: Option<&str>) -> Self {
        Self::launch_on(TempDir::new().unwrap(), jetstream, config).await
    }

    /// A server that opens what another left in this folder.
    pub(crate) async fn on(data: TempDir) -> Self {
        Self::launch_on(data, true, None).await
    }

    async fn launch_on(data: TempDir, jetstream: bool, config: Option<&str>) -> Self {
        let program = Server::find(None).await.unwrap_or_else(|error| panic!("{error}"));
        let config = config.map(|text| {
            let path = data.path().join("nats.conf");
            std::fs::write(&path, text).unwrap();
            path
        });
        let launch = Launch { data: data.path().to_owned(), port: 0, jetstream, config };
        let server =
            Server::launch(&program, launch).await.unwrap_or_else(|error| panic!("{error}"));
        Self { server, folder: data }
    }

    /// Folder of its data and its configuration, `nats.conf`.
    pub(crate) fn data(&self) -> &Path {
        self.folder.path()
    }

    /// Settings to reach it without credentials.
    pub(crate) fn nats(&self) -> Nats {
        Nats { url: vec![self.server.url().to_owned()], ..Nats::default() }
    }

    /// A connection to it.
    pub(crate) async fn connect(&self) -> Broker {
        Broker::connect(&self.nats(), "test").await.unwrap()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of the server's log\n{}\n---", self.server.log_tail());
        }
    }
}

/// Checked pipeline of this text, on the server at `nats_url`; its paths start at the repository's
/// root.
#[track_caller]
pub(crate) fn pipeline(toml: &str, nats_url: &str) -> Arc<Pipeline> {
    pipeline_with(toml, nats_url, &Registry::new())
}

#[track_caller]
pub(crate) fn pipeline_with(toml: &str, nats_url: &str, registry: &Registry) -> Arc<Pipeline> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipeline.toml");
    let flags = [("nats.url".to_owned(), nats_url.to_owned())];
    let catalogue = Catalogue::new(HandlerContext {
        registered: registry.clone(),
        ..HandlerContext::default()
    });
    let loaded = config::load_text(toml, &path, &flags, &[], &catalogue);
    Arc::new(
        loaded.pipeline.unwrap_or_else(|| panic!("{}", config::render(&loaded.reports, false))),
    )
}

/// A pipeline at work: a server of its own, its streams and consumers, and a worker in this
/// process.
pub(crate) struct Mill {
    pub(crate) broker: Broker,
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) names: Names,
    pub(crate) worker: Option<Worker>,
    registry: Registry,
    /// Server, which outlives the rest: fields are dropped in order.
    pub(crate) server: TestServer,
}

impl Mill {
    pub(crate) async fn start(toml: &str) -> Self {
        Self::with(toml, Registry::new()).await
    }

    /// A pipeline at work, with handlers of the test's own.
    pub(crate) async fn with(toml: &str, registry: Registry) -> Self {
        let mut mill = Self::still(TestServer::start().await, toml, registry).await;
        mill.work().await;
        mill
    }

    /// A pipeline without a worker: its streams and consumers are there.
    pub(crate) async fn still(server: TestServer, toml: &str, registry: Registry) -> Self {
        let pipeline = pipeline_with(toml, server.server.url(), &registry);
        let broker = server.connect().await;
        let mill =
            Self { names: pipeline.names(), worker: None, broker, pipeline, registry, server };
        mill.make().await;
        mill
    }

    /// Creates what the pipeline needs and the server does not have.
    pub(crate) async fn make(&self) {
        topology::make(&self.broker, &Topology::of(&self.pipeline)).await.unwrap();
    }

    /// Starts its worker.
    pub(crate) async fn work(&mut self) {
        let options = Options { stages: None, registry: self.registry.clone() };
        self.worker = Some(
            Worker::start(self.broker.clone(), Arc::clone(&self.pipeline), options).await.unwrap(),
        );
    }

    /// A worker on a connection of the user whom a server is [`TestServer::denying`] something.
    pub(crate) async fn denied_worker(&self) -> Worker {
        let nats = Nats { auth: Auth::User("worker".into(), "w".into()), ..self.server.nats() };
        let broker = Broker::connect(&nats, "worker").await.unwrap();
        let options = Options { stages: None, registry: self.registry.clone() };
        Worker::start(broker, Arc::clone(&self.pipeline), options).await.unwrap()
    }

    /// Drains its worker.
    pub(crate) async fn drain(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.drain(std::future::pending()).await;
        }
    }

    pub(crate) async fn publish(&self, subject: &str, body: impl Into<Bytes>) -> Stored {
        self.broker.publish(Outgoing::new(subject, body)).await.unwrap()
    }

    /// Publishes an event in the domain envelope on `events.<type>`.
    pub(crate) async fn event(&self, id: &str, event_type: &str, data: Value) -> Stored {
        self.publish(&format!("events.{event_type}"), domain(id, event_type, data)).await
    }

    /// Messages of a stream, once there are `count` of them.
    #[track_caller]
    pub(crate) fn messages(
        &self,
        stream: &str,
        count: usize,
    ) -> impl Future<Output = Vec<StoredMessage>> {
        let (broker, stream) = (self.broker.clone(), stream.to_owned());
        eventually(move || {
            let (broker, stream) = (broker.clone(), stream.clone());
            async move {
                let found = scanned(&broker, &stream).await;
                (found.len() >= count).then_some(found)
            }
        })
    }

    /// The dead letters there are now.
    pub(crate) async fn letters(&self) -> Vec<StoredMessage> {
        let filter = self.names.dlq_filter(None);
        self.broker.scan(&self.names.dlq_stream(), &filter, 1).try_collect().await.unwrap()
    }

    /// The first dead letter, as soon as there is one.
    pub(crate) async fn next_dead_letter(&self) -> (LetterRecord, StoredMessage) {
        let letter = self.messages(&self.names.dlq_stream(), 1).await.swap_remove(0);
        (LetterRecord::of(&letter), letter)
    }

    /// Place of a stored message.
    pub(crate) async fn place(&self, stream: &str, seq: u64) -> Place {
        let message = self.broker.message(stream, seq).await.unwrap().unwrap();
        Place::new(stream, seq, message.stored_at)
    }

    /// Waits until the consumers of a stage have nothing to deliver and nothing in flight.
    pub(crate) async fn idle(&self, stage: &str) {
        for feed in Topology::of(&self.pipeline).feeds(stage) {
            eventually(async || {
                let state = self.broker.consumer_state(&feed.stream, &feed.consumer).await.ok()?;
                (state.num_pending == 0 && state.num_ack_pending == 0).then_some(())
            })
            .await;
        }
    }
}

/// Trouble of a condition of a worker, as soon as it fails.
#[track_caller]
pub(crate) fn trouble(worker: &Worker, name: &str) -> impl Future<Output = Trouble> {
    eventually(move || std::future::ready(trouble_now(worker, name)))
}

/// Trouble of a condition of a worker, if it fails now.
pub(crate) fn trouble_now(worker: &Worker, name: &str) -> Option<Trouble> {
    let failed = worker.conditions().failed();
    failed.into_iter().find(|(known, _)| known == name)?.1.trouble
}

/// Every message of a stream.
pub(crate) async fn scanned(broker: &Broker, stream: &str) -> Vec<StoredMessage> {
    broker.scan(stream, "", 1).try_collect().await.unwrap()
}

/// An event as a stage is given it, without a tenant.
pub(crate) fn raw_event(id: &str) -> Event {
    let (event_type, version) = ("order.created".into(), "1".into());
    let identity = Identity { id: id.into(), event_type, version, tenant: None };
    Event::new(identity, Envelope::Raw, Bytes::from_static(b"{}"))
}

/// An event in the domain envelope.
pub(crate) fn domain(id: &str, event_type: &str, data: Value) -> String {
    json!({ "eventId": id, "eventType": event_type, "eventData": data }).to_string()
}

/// Text without the times in the names of messages: `@` or `-` and thirteen digits.
pub(crate) fn timeless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['@', '-']) {
        let after = &rest[at + 1..];
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        out.push_str(&rest[..at]);
        if digits != 13 {
            out.push_str(&rest[at..=at]);
        }
        rest = if digits == 13 { &after[13..] } else { after };
    }
    out + rest
}

/// Asks until there is an answer, and returns it; fails at the deadline.
#[track_caller]
pub(crate) fn eventually<T, F: Future<Output = Option<T>>>(
    ask: impl Fn() -> F,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let started = Instant::now();
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            assert!(started.elapsed() < DEADLINE, "still waiting after {DEADLINE:?}, at {caller}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The stream of a key-value bucket.
pub(crate) fn bucket(name: &str) -> StreamSpec {
    StreamSpec {
        bucket: true,
        rollup: true,
        ..stream(&format!("KV_{name}"), &format!("$KV.{name}.>"), Retention::Limits)
    }
}

/// A stream without limits.
pub(crate) fn stream(name: &str, subject: &str, retention: Retention) -> StreamSpec {
    StreamSpec {
        name: name.to_owned(),
        pipeline: "test".to_owned(),
        subjects: vec![subject.to_owned()],
        retention,
        memory: false,
        replicas: 1,
        max_age: None,
        max_bytes: None,
        duplicate_window: Duration::from_secs(120),
        schedules: false,
        rollup: false,
        bucket: false,
        keeps_oldest: false,
        drops_oldest: false,
    }
}

/// True if a process of this id is there.
pub(crate) fn is_alive(pid: u32) -> bool {
    std::process::Command::new("sh")
        .args(["-c", &format!("kill -0 {pid} 2>/dev/null")])
        .status()
        .unwrap()
        .success()
}

/// Process that is killed when it is dropped.
pub(crate) struct Running(pub(crate) Reaped<Child>);

impl Running {
    pub(crate) fn kill(&mut self) {
        // It fails only for a process that has ended and was waited for.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Folder of a package for Python, such as `nats-py==2.16.0`, which is installed once, beside the
/// compiled tests.
pub(crate) fn python_package(package: &str) -> PathBuf {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = cache.join(package);
    if folder.is_dir() {
        return folder;
    }
    fs::create_dir_all(cache).unwrap();
    let fresh = TempDir::new_in(cache).unwrap();
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"])
        .arg(fresh.path());
    let output = pip.arg(package).stdin(Stdio::null()).output();
    let said = output
        .as_ref()
        .map_or_else(ToString::to_string, |o| String::from_utf8_lossy(&o.stderr).into_owned());
    let done = output.is_ok_and(|output| output.status.success());
    assert!(
        done,
        "could not install {package}, which this test uses; it needs python3 with pip: {said}"
    );
    // Another run may have been quicker; then its copy is as good.
    if fs::rename(fresh.path(), &folder).is_err() {
        assert!(folder.is_dir(), "could not put {package} into {}", folder.display());
    }
    folder
}

/// Error of something that must fail.
#[track_caller]
pub(crate) fn failure<T: Debug, E>(result: Result<T, E>) -> E {
    match result {
        Ok(value) => panic!("it succeeded: {value:?}"),
        Err(error) => error,
    }
}
