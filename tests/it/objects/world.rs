//! World: a fleet under load on one server, the service it calls, and what was overheard.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::jetstream;
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::task::JoinHandle;

use super::service::{self, Calls};
use crate::{
    crash::fleet::Fleet,
    cut::gate::Gate,
    support::{TestServer, eventually},
};

/// Longest time from the end of a fault until all that was acknowledged has its end.
pub(crate) const HEAL: Duration = Duration::from_secs(60);

/// Pipeline of three stages that parks early and alerts at once. With `dedup`, since without it an
/// event that is run twice has two lives behind it, each with its letter.
const PIPELINE: &str = r#"
[pipeline]
name = "mill"

[source.events]
subjects = ["events.>"]

[stage.validate]
kind = "validate"
inputs = ["source.events"]
schemas = "schemas"
ack_wait = "5s"
dedup = "2m"

[stage.first]
kind = "handle"
inputs = ["validate"]
handler = { http = "http://SERVICE/first" }
breaker = false
ack_wait = "5s"
dedup = "2m"

[stage.second]
kind = "handle"
inputs = ["first"]
handler = { http = "http://SERVICE/second" }
breaker = false
ack_wait = "5s"

[stage.errors]
kind = "aggregate-errors"
inputs = ["*.failed"]
threshold = 1

[stage.alerts]
kind = "alert"
inputs = ["errors"]
channels = ["hook"]

[channel.hook]
kind = "webhook"
url = "http://SERVICE/alerts"
allow_private = true
rate = "600/min"

[retry.default]
attempts = 3
backoff = { fixed = "400ms" }
park_after = "300ms"

[observe]
listen = "127.0.0.1:0"
"#;

/// Event whose publish was acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) id: String,
    /// End that it is meant for; see [`Meant::of`].
    pub(crate) meant: Meant,
    pub(crate) body: Vec<u8>,
    pub(crate) at: Instant,
}

/// End that an event is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meant {
    /// Done at the first call.
    Fine,
    /// Done at the second call of the stage `second`.
    Flaky,
    /// Letter of `first`, rejected.
    Refused,
    /// Letter of `second`, exhausted.
    Broken,
    /// Letter of `validate`, rejected.
    Invalid,
}

impl Meant {
    fn of(n: usize) -> Self {
        match n % 20 {
            3 => Self::Refused,
            7 => Self::Broken,
            11 | 12 => Self::Flaky,
            17 => Self::Invalid,
            _ => Self::Fine,
        }
    }

    /// Stage and reason of its letter, if it is meant to have one.
    pub(crate) fn letter(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Fine | Self::Flaky => None,
            Self::Refused => Some(("first", "rejected")),
            Self::Broken => Some(("second", "exhausted")),
            Self::Invalid => Some(("validate", "rejected")),
        }
    }
}

/// Publishes that were overheard on the wire: by what they are for and event, when last and how
/// often.
#[derive(Default)]
pub(crate) struct Overheard(Mutex<HashMap<(String, String), (Instant, u32)>>);

impl Overheard {
    /// Events of which the last publish to these places was before a time.
    pub(crate) fn last_before(&self, places: &[&str], end: Instant) -> Vec<String> {
        let mut last = HashMap::<String, Instant>::new();
        for ((place, id), (at, _)) in &*self.0.lock().unwrap() {
            if places.contains(&place.as_str()) {
                let known = last.entry(id.clone()).or_insert(*at);
                *known = (*known).max(*at);
            }
        }
        last.into_iter().filter(|(_, at)| *at < end).map(|(id, _)| id).collect()
    }

    /// Publishes to a place.
    pub(crate) fn count(&self, place: &str) -> u64 {
        let all = self.0.lock().unwrap();
        let counts = all.iter().filter(|((at, _), _)| at == place).map(|(_, (_, n))| *n);
        counts.map(u64::from).sum()
    }
}

/// Name of the place that a subject of the pipeline is for: `out.first`, `dlq`, `parked`.
fn place(subject: &str) -> String {
    let mut tokens = subject.split('.').skip(1);
    match (tokens.next().unwrap_or_default(), tokens.next()) {
        ("out", Some(stage)) => format!("out.{stage}"),
        (first, _) => first.to_owned(),
    }
}

/// Publisher in this process, until it is told to stop.
pub(crate) struct Load {
    books: Arc<Books>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Books {
    acknowledged: Mutex<Vec<Published>>,
    in_flight: AtomicUsize,
    stop: AtomicUsize,
    refused: AtomicUsize,
}

impl Load {
    fn start(jetstream: jetstream::Context, rate: usize, meant: fn(usize) -> Meant) -> Self {
        let books = Arc::new(Books::default());
        let own = Arc::clone(&books);
        let task = tokio::spawn(async move {
            let mut n = 0;
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            while own.stop.load(Ordering::SeqCst) == 0 {
                ticks.tick().await;
                for _ in 0..rate / 50 {
                    own.in_flight.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(publish(jetstream.clone(), Arc::clone(&own), n, meant(n)));
                    n += 1;
                }
            }
            while own.in_flight.load(Ordering::SeqCst) > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Self { books, task }
    }

    /// Acknowledged events so far.
    pub(crate) fn acknowledged(&self) -> Vec<Published> {
        self.books.acknowledged.lock().unwrap().clone()
    }

    /// Publishes that the server refused so far.
    pub(crate) fn refused(&self) -> usize {
        self.books.refused.load(Ordering::SeqCst)
    }

    /// Stops, and waits until every publish under way is acknowledged.
    pub(crate) async fn stop(&mut self) {
        self.books.stop.store(1, Ordering::SeqCst);
        (&mut self.task).await.unwrap();
    }
}

/// Publishes one event until the server has it; once the load is to stop, refusal is the end.
async fn publish(jetstream: jetstream::Context, books: Arc<Books>, n: usize, meant: Meant) {
    let (id, body) = event(&format!("e-{n}"), &format!("{meant:?}"), meant == Meant::Invalid);
    loop {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", id.as_str());
        let sent = jetstream.publish_with_headers("events.order", headers, body.clone().into());
        let stored = match sent.await {
            Ok(ack) => ack.await,
            Err(error) => Err(error),
        };
        if stored.is_ok() {
            let at = Instant::now();
            let mut acknowledged = books.acknowledged.lock().unwrap();
            acknowledged.push(Published { id, meant, body: body.into(), at });
            break;
        }
        books.refused.fetch_add(1, Ordering::SeqCst);
        if books.stop.load(Ordering::SeqCst) > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    books.in_flight.fetch_sub(1, Ordering::SeqCst);
}

/// Event of this id, with a note to the service.
fn event(id: &str, note: &str, is_invalid: bool) -> (String, String) {
    let amount = if is_invalid { json!("much") } else { json!(5) };
    // Spaces and order of keys are what a letter must keep.
    let body = format!(
        r#"{{ "eventType": "order", "eventId": "{id}","eventVersion":"1",  "eventData": {{"amount": {amount}, "note": "{note}"}} }}"#
    );
    (id.to_owned(), body)
}

/// Fleet at work under load.
pub(crate) struct World {
    pub(crate) fleet: Fleet,
    pub(crate) calls: Arc<Calls>,
    pub(crate) overheard: Arc<Overheard>,
    pub(crate) load: Load,
    pub(crate) jetstream: jetstream::Context,
    tasks: Vec<JoinHandle<()>>,
    gate: Option<Gate>,
    _server: TestServer,
}

impl World {
    /// Two workers, and so many events a second, some of which have had their end already.
    pub(crate) async fn start(rate: usize) -> Self {
        let mut world = Self::still(|pipeline| pipeline).await;
        world.fleet.start();
        world.fleet.start();
        world.publish(rate);
        let begun = || world.calls.accepted("second").len() > 3 * rate;
        eventually(async || begun().then_some(())).await;
        world
    }

    /// Begins to publish so many events a second, of every kind.
    pub(crate) fn publish(&mut self, rate: usize) {
        self.publish_as(rate, Meant::of);
    }

    /// Begins to publish so many events a second, each meant for the end that `meant` says.
    pub(crate) fn publish_as(&mut self, rate: usize, meant: fn(usize) -> Meant) {
        self.load = Load::start(self.jetstream.clone(), rate, meant);
    }

    /// Pipeline that is applied, without load or workers.
    pub(crate) async fn still(change: impl Fn(String) -> String) -> Self {
        Self::build(change, false).await
    }

    /// The same, with a proxy between the fleet and its server.
    pub(crate) async fn gated(change: impl Fn(String) -> String) -> Self {
        Self::build(change, true).await
    }

    /// Proxy before the server.
    pub(crate) fn gate(&self) -> &Gate {
        self.gate.as_ref().expect("the fleet is gated")
    }

    async fn build(change: impl Fn(String) -> String, is_gated: bool) -> Self {
        let server = TestServer::start().await;
        let url = server.server.url().to_owned();
        let gate = if is_gated { Some(Gate::before(&url).await) } else { None };
        let calls = Arc::new(Calls::default());
        let (address, service) = service::start(Arc::clone(&calls)).await;

        let client = async_nats::connect(server.server.url()).await.unwrap();
        let mut wire = client.subscribe("mill.>").await.unwrap();
        client.flush().await.unwrap();
        let overheard = Arc::new(Overheard::default());
        let ears = Arc::clone(&overheard);
        let listening = tokio::spawn(async move {
            while let Some(message) = wire.next().await {
                let id = message.headers.as_ref().and_then(|all| all.get("Millstream-Event-Id"));
                if let Some(id) = id {
                    let key = (place(&message.subject), id.as_str().to_owned());
                    let now = Instant::now();
                    let mut all = ears.0.lock().unwrap();
                    let known = all.entry(key).or_insert((now, 0));
                    *known = (now, known.1 + 1);
                }
            }
        });

        let pipeline = change(PIPELINE.replace("SERVICE", &address));
        let url = gate.as_ref().map_or(url, Gate::url);
        let fleet = Fleet::of(&pipeline, &[("nats.url", url)]);
        let schemas = fleet.folder.path().join("schemas");
        fs::create_dir(&schemas).unwrap();
        let schema = json!({ "properties": { "amount": { "type": "number" } } });
        fs::write(schemas.join("order.1.json"), schema.to_string()).unwrap();
        fleet.apply();
        let jetstream = jetstream::new(client);
        let load = Load::start(jetstream.clone(), 0, Meant::of);
        let tasks = vec![service, listening];
        Self { fleet, calls, overheard, load, jetstream, tasks, gate, _server: server }
    }

    /// Changes the pipeline's file.
    pub(crate) fn rewrite(&self, change: impl Fn(String) -> String) {
        let path = self.fleet.folder.path().join("pipeline.toml");
        fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
    }

    /// Deletes a stream, with all that is in it; returns when it was gone.
    pub(crate) async fn delete_stream(&self, name: &str) -> Instant {
        let held = self.jetstream.get_stream(name).await.unwrap().cached_info().state.messages;
        println!("deleting {name}, with {held} messages");
        self.jetstream.delete_stream(name).await.unwrap();
        Instant::now()
    }

    pub(crate) async fn delete_consumer(&self, stream: &str, name: &str) {
        self.jetstream.delete_consumer_from_stream(name, stream).await.unwrap();
    }

    /// Deals with the fault as an operator does: looks what is missing, and applies.
    pub(crate) fn mend(&self) {
        let (status, plan) = self.fleet.run("plan", &[]);
        println!("plan, exit {status}:\n{plan}");
        assert!(status < 2, "{plan}");
        let (status, applied) = self.fleet.run("apply", &[]);
        assert_eq!(status, 0, "{applied}");
    }

    /// Publishes an event whose error is like none before, and waits until people were told.
    pub(crate) async fn is_alerting(&self) {
        let began = Instant::now();
        let (_, body) = event("odd-1", "Odd", false);
        self.jetstream.publish("events.order", body.into()).await.unwrap().await.unwrap();
        let told = || self.calls.alerts().iter().any(|alert| alert.contains("an odd order"));
        eventually(async || told().then_some(())).await;
        println!("told of a new error after {:.1} s", began.elapsed().as_secs_f32());
    }

    /// Sum of a metric over the workers, of the series with these labels.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let mut sum = 0;
        for n in 0..self.fleet.len() {
            let log = fs::read_to_string(self.fleet.log(n)).unwrap();
            let at = log.rsplit("listening=").next().unwrap().split_whitespace().next().unwrap();
            let at = at.trim_matches('"');
            for line in get(&format!("http://{at}/metrics")).await.lines() {
                let of = line.split(['{', ' ']).next() == Some(name);
                if of && labels.iter().all(|label| line.contains(label)) {
                    sum += line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64;
                }
            }
        }
        sum
    }

    /// Events with a message in one of these streams.
    pub(crate) async fn stored_in(&self, streams: &[&str]) -> HashSet<String> {
        let mut stored = HashSet::new();
        for name in streams {
            let Ok(stream) = self.jetstream.get_stream(*name).await else { continue };
            let state = &stream.cached_info().state;
            for seq in state.first_sequence..=state.last_sequence {
                let Ok(message) = stream.get_raw_message(seq).await else { continue };
                let id = message.headers.get("Millstream-Event-Id");
                stored.extend(id.map(|id| id.as_str().to_owned()));
            }
        }
        stored
    }

    /// Subjects and outcomes of the failed attempts that are stored.
    pub(crate) async fn stored_outcomes(&self) -> Vec<(String, String)> {
        let stream = self.jetstream.get_stream("mill-failed").await.unwrap();
        let state = stream.cached_info().state.clone();
        let mut found = Vec::new();
        for seq in state.first_sequence..=state.last_sequence {
            let Ok(message) = stream.get_raw_message(seq).await else { continue };
            if let Some(outcome) = message.headers.get("Millstream-Outcome") {
                found.push((message.subject.to_string(), outcome.as_str().to_owned()));
            }
        }
        found
    }

    /// Letters of the events that nobody keeps books of.
    pub(crate) async fn odd_letters(&self) -> u64 {
        let stored = self.stored_in(&["mill-dlq"]).await;
        stored.iter().filter(|id| id.starts_with("odd-")).count() as u64
    }

    /// Texts of the findings of this code that are stored.
    pub(crate) async fn stored_findings(&self, code: &str) -> Vec<String> {
        let stream = self.jetstream.get_stream("mill-failed").await.unwrap();
        let state = stream.cached_info().state.clone();
        let mut texts = Vec::new();
        for seq in state.first_sequence..=state.last_sequence {
            let Ok(message) = stream.get_raw_message(seq).await else { continue };
            if message.subject.starts_with(&format!("mill.finding.{code}.")) {
                let body: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
                texts.push(body["message"].as_str().unwrap_or_default().to_owned());
            }
        }
        texts
    }

    /// Messages of each stream that is not empty, and what each consumer has before it.
    pub(crate) async fn under_way(&self) -> BTreeMap<String, u64> {
        let mut busy = BTreeMap::new();
        let mut names = self.jetstream.stream_names();
        while let Some(Ok(stream)) = names.next().await {
            let Ok(stream) = self.jetstream.get_stream(&stream).await else { continue };
            let name = stream.cached_info().config.name.clone();
            if name == "mill-retry" && stream.cached_info().state.messages > 0 {
                busy.insert(name.clone(), stream.cached_info().state.messages);
            }
            let mut consumers = stream.consumers();
            while let Some(Ok(consumer)) = consumers.next().await {
                let left = consumer.num_pending + consumer.num_ack_pending as u64;
                if consumer.config.durable_name.is_some() && left > 0 {
                    busy.insert(format!("{} on {name}", consumer.name), left);
                }
            }
        }
        busy
    }
}

async fn get(url: &str) -> String {
    // It fails where another test has installed it.
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = reqwest::Client::builder().tls_certs_only([]).no_proxy().build().unwrap();
    client.get(url).send().await.unwrap().text().await.unwrap()
}

impl Drop for World {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
