//! Outage: a service behind a stage that goes away and comes back, without an operator.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use millstream::{
    broker::Outgoing,
    stages::headers,
    wire::{
        Names,
        breaker_record::{BreakerRecord, BreakerState},
    },
    worker::{Options, Worker},
};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};

use crate::support::{DEADLINE, Mill, eventually, scanned};

/// Events published, and how many a second.
const EVENTS: usize = 1500;
const PER_SECOND: u32 = 300;

/// HTTP service whose port stays when it goes.
struct Service {
    address: SocketAddr,
    books: Arc<Books>,
    task: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Books {
    broken: AtomicBool,
    refused: AtomicUsize,
    accepted: Mutex<BTreeSet<String>>,
}

impl Service {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let mut service =
            Self { address: listener.local_addr().unwrap(), books: Arc::default(), task: None };
        service.serve(listener);
        service
    }

    fn serve(&mut self, listener: TcpListener) {
        let routes = Router::new().route("/", post(answer)).with_state(Arc::clone(&self.books));
        self.task = Some(tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() }));
    }

    /// Sets if it answers 503 from now on.
    fn breaks(&self, broken: bool) {
        self.books.broken.store(broken, Ordering::SeqCst);
    }

    /// Stops: takes no connection any more, and drops those there are.
    async fn goes(&mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        task.await.unwrap_err();
    }

    async fn comes_back(&mut self) {
        let address = self.address;
        let listener = eventually(async || TcpListener::bind(address).await.ok()).await;
        self.serve(listener);
    }

    fn accepted(&self) -> usize {
        self.books.accepted.lock().unwrap().len()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.iter().for_each(JoinHandle::abort);
    }
}

async fn answer(State(books): State<Arc<Books>>, headers: HeaderMap) -> StatusCode {
    if books.broken.load(Ordering::SeqCst) {
        books.refused.fetch_add(1, Ordering::Relaxed);
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let id = headers["millstream-event-id"].to_str().unwrap().to_owned();
    books.accepted.lock().unwrap().insert(id);
    StatusCode::NO_CONTENT
}

/// Fleet of two workers on the service, before anything was published.
async fn fleet(service: &Service) -> (Mill, Worker) {
    let toml = format!(
        r#"
        [pipeline]
        name = "shop"
        [source.events]
        subjects = ["events.>"]
        [stage.work]
        kind = "handle"
        inputs = ["source.events"]
        handler = {{ http = "http://{}/", timeout = "2s" }}
        breaker = {{ wait = "300ms", max_wait = "1s" }}
        [retry.default]
        attempts = 3
        backoff = {{ fixed = "200ms" }}
        "#,
        service.address
    );
    let one = Mill::start(&toml).await;
    let two =
        Worker::start(one.server.connect().await, Arc::clone(&one.pipeline), Options::default())
            .await
            .unwrap();
    (one, two)
}

/// Publishes all events evenly, without waiting for the workers.
fn publish(mill: &Mill) -> JoinHandle<()> {
    let broker = mill.broker.clone();
    tokio::spawn(async move {
        let began = Instant::now();
        for n in 0..EVENTS {
            tokio::time::sleep_until(
                began + Duration::from_secs(1) * u32::try_from(n).unwrap() / PER_SECOND,
            )
            .await;
            let event = json!({
                "eventId": format!("e-{n}"),
                "eventType": "order.created",
                "eventData": {},
            });
            let subject = "events.order.created".to_owned();
            broker.publish(Outgoing::new(subject, event.to_string())).await.unwrap();
        }
    })
}

/// Waits until the record of the breaker is as `wanted`.
async fn breaker_is(mill: &Mill, wanted: impl Fn(&BreakerRecord) -> bool) {
    let key = Names::breaker_key("work");
    eventually(|| async {
        let found = mill.broker.kv_get("shop-state", &key).await.ok()??;
        BreakerRecord::read(&found.0).filter(&wanted).map(drop)
    })
    .await;
}

/// Checks, once every event is done, that there is no letter and few attempts were spent.
async fn nothing_was_lost(mill: &Mill, service: &Service) {
    let end = Instant::now() + DEADLINE;
    while service.accepted() < EVENTS {
        assert!(Instant::now() < end, "{} of {EVENTS} events were accepted", service.accepted());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    mill.idle("work").await;
    breaker_is(mill, |record| record.state == BreakerState::Closed).await;
    assert_eq!(scanned(&mill.broker, "shop-dlq").await.len(), 0, "dead letters");
    let mut failed = scanned(&mill.broker, "shop-failed").await;
    failed.retain(|failed| failed.subject.starts_with("shop.failed.work."));
    let outcomes = failed.into_iter().map(|failed| {
        failed
            .headers
            .get(headers::OUTCOME)
            .map_or_else(String::new, |outcome| outcome.as_str().to_owned())
    });
    let spent = outcomes.filter(|outcome| outcome != "defer").count();
    // Five failures open it, in each of the two workers that has not heard of the other's yet.
    assert!((1..=10).contains(&spent), "{spent} attempts were spent");
}

#[tokio::test]
async fn an_outage_of_the_service_costs_no_letter_and_a_handful_of_attempts() {
    let service = Service::start().await;
    let (one, two) = fleet(&service).await;
    let publishing = publish(&one);
    eventually(async || (service.accepted() > 100).then_some(())).await;
    service.breaks(true);
    breaker_is(&one, |record| record.state == BreakerState::Open && record.opens > 3).await;
    let refused = service.books.refused.load(Ordering::Relaxed);
    service.breaks(false);
    publishing.await.unwrap();
    nothing_was_lost(&one, &service).await;
    // Events in flight in both workers when it begins, and then a probe of each from time to time.
    assert!(refused < 2 * 64 + 40, "the service was asked {refused} times while it was down");
    drop(two);
}

#[tokio::test]
async fn a_service_that_takes_no_connection_costs_no_letter_either() {
    let mut service = Service::start().await;
    let (one, two) = fleet(&service).await;
    let publishing = publish(&one);
    eventually(async || (service.accepted() > 100).then_some(())).await;
    service.goes().await;
    breaker_is(&one, |record| record.state == BreakerState::Open && record.opens > 3).await;
    service.comes_back().await;
    publishing.await.unwrap();
    nothing_was_lost(&one, &service).await;
    drop(two);
}
