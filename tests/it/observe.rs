//! Observation: real scrapes, a real collector, and logs that hostile text cannot forge.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use millstream::{
    config::{Pipeline, pipeline},
    observe::{
        Conditions, Exporter, LogFormat, LogOptions, Metrics, Outcome, Trouble, bind, logs, span,
    },
    stages::Failure,
    wire::TraceContext,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span,
};
use prost::Message as _;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{Registry, layer::SubscriberExt as _};

const DEADLINE: Duration = Duration::from_secs(20);
const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Pipeline without stages.
fn empty_pipeline() -> Pipeline {
    Pipeline {
        name: "shop".into(),
        id: None,
        base: ".".into(),
        config_hash: "0123456789ab".into(),
        nats: millstream::broker::Nats::default(),
        sources: vec![],
        stages: vec![],
        channels: vec![],
        storage: pipeline::Storage {
            replicas: 1,
            memory: true,
            results_max_age: DEADLINE,
            failed_max_age: DEADLINE,
            dlq_max_age: DEADLINE,
            dlq_max_bytes: None,
            max_bytes: None,
            failed_max_bytes: None,
            results_max_bytes: None,
            retry_max_bytes: None,
            state_max_bytes: None,
            retry_max_age: Duration::ZERO,
        },
        observe: pipeline::Observe { listen: Some(LOCAL), otlp: None, sample: 1.0 },
    }
}

async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = reqwest::Client::builder().timeout(DEADLINE).no_proxy().build().unwrap();
    let response = client.get(format!("http://{address}{path}")).send().await.unwrap();
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    (response.status().as_u16(), kind, response.text().await.unwrap())
}

#[tokio::test]
async fn a_worker_is_scraped_and_says_what_it_waits_for() {
    let (metrics, conditions, stop) =
        (Metrics::new(&empty_pipeline()), Arc::<Conditions>::default(), CancellationToken::new());
    let endpoints = bind(LOCAL, metrics.clone(), conditions.clone()).await.unwrap();
    let (address, stopped) = (endpoints.bound, stop.clone());
    tokio::spawn(async move { endpoints.run(stopped).await });

    metrics.stage("orders").handled("order.created", Outcome::Done, Some(Duration::from_millis(2)));
    let (status, kind, text) = get(address, "/metrics").await;
    assert_eq!(
        (status, kind.as_str()),
        (200, "application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    let line = concat!(
        r#"millstream_events_handled_total{stage="orders","#,
        r#"event_type="order.created",status="done"} 1"#
    );
    assert!(text.lines().any(|l| l == line) && text.ends_with("# EOF\n"), "{text}");

    assert_eq!(get(address, "/readyz").await.0, 503, "nothing is known yet");
    conditions.ok("broker");
    let gone = "consumer \"shop-orders\" on stream \"shop-out-validate\" is gone";
    conditions.failing("consumer shop-orders", Trouble::with_remedy(gone, "`millstream apply`"));
    let (status, _, body) = get(address, "/readyz").await;
    assert_eq!(status, 503);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["missing"][0]["what"], "consumer shop-orders");
    assert_eq!(
        (&body["missing"][0]["why"], &body["missing"][0]["remedy"]),
        (&gone.into(), &"`millstream apply`".into())
    );
    let since = body["missing"][0]["since"].as_str().unwrap();
    assert!(since.parse::<jiff::Timestamp>().is_ok(), "{since}");
    assert_eq!(get(address, "/healthz").await.0, 200, "alive although not ready");
    conditions.ok("consumer shop-orders");
    assert_eq!(get(address, "/readyz").await.0, 200);

    let taken = bind(address, metrics, conditions).await.unwrap_err().to_string();
    assert!(taken.contains(&address.to_string()) && taken.contains("observe.listen"), "{taken}");
    stop.cancel();
}

/// Collector of spans: its address, and what is posted to `/v1/traces`, decoded.
async fn collector() -> (String, mpsc::UnboundedReceiver<ExportTraceServiceRequest>) {
    type Requests = mpsc::UnboundedSender<ExportTraceServiceRequest>;
    async fn receive(State(requests): State<Requests>, headers: HeaderMap, body: Bytes) {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        requests.send(ExportTraceServiceRequest::decode(body).unwrap()).unwrap();
    }
    let (requests, received) = mpsc::unbounded_channel();
    let listener = TcpListener::bind(LOCAL).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let routes = Router::new().route("/v1/traces", post(receive)).with_state(requests);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (endpoint, received)
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let value = span.attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?;
    Some(format!("{:?}", value.value?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sampled_trace_is_exported_however_quiet_the_logs_are() {
    let (endpoint, mut received) = collector().await;
    let exporter = Exporter::new(&endpoint, 1.0, "shop", "w-1").unwrap();
    let quiet = LogOptions { filter: Some("off".into()), ..LogOptions::default() };
    let subscriber = Registry::default()
        .with(logs::layer(&quiet, false, io::stderr).unwrap())
        .with(exporter.layer());

    let parent =
        TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
    let unsampled = TraceContext { sampled: false, ..TraceContext::root("e-2") };
    let (outgoing, passed_on) = tracing::subscriber::with_default(subscriber, || {
        let first = span::handle_message("validate", "e-1", "order.created", 2, &parent);
        let outgoing = span::outgoing(&first, &parent);
        span::settled(&first, Outcome::Retried, Some(&Failure::retry("TimeoutError", "no answer")));
        let second = span::handle_message("validate", "e-2", "order.created", 1, &unsampled);
        (outgoing, span::outgoing(&second, &unsampled))
    });
    assert!(
        outgoing.sampled
            && outgoing.trace_id == parent.trace_id
            && outgoing.span_id != parent.span_id
    );
    assert!(!passed_on.sampled && passed_on.trace_id == unsampled.trace_id);
    assert!(TraceContext::root("e-3").sampled, "a share of 1 samples what begins here");

    exporter.shutdown(DEADLINE).await;
    let request = tokio::time::timeout(DEADLINE, received.recv()).await.unwrap().unwrap();
    let resource = request.resource_spans[0].resource.as_ref().unwrap();
    assert!(resource.attributes.iter().any(|a| a.key == "service.instance.id"), "{resource:?}");
    let spans: Vec<&Span> = request
        .resource_spans
        .iter()
        .flat_map(|r| &r.scope_spans)
        .flat_map(|scope| &scope.spans)
        .collect();
    let [span] = spans[..] else { panic!("one span, the sampled one: {spans:?}") };
    assert_eq!(span.trace_id, parent.trace_id);
    assert_eq!(span.parent_span_id, parent.span_id);
    assert_eq!(span.span_id, outgoing.span_id, "what is called next is a child of this span");
    assert_eq!(attribute(span, "stage").unwrap(), r#"StringValue("validate")"#);
    assert_eq!(attribute(span, "status").unwrap(), r#"StringValue("retried")"#);
    assert_eq!(attribute(span, "error.type").unwrap(), r#"StringValue("TimeoutError")"#);
}

#[test]
fn without_an_exporter_spans_are_disabled_and_the_trace_goes_on_all_the_same() {
    let loud = LogOptions { filter: Some("trace".into()), ..LogOptions::default() };
    let subscriber = Registry::default().with(logs::layer(&loud, false, io::stderr).unwrap());
    let parent = TraceContext::root("e-1");
    let outgoing = tracing::subscriber::with_default(subscriber, || {
        let span = span::handle_message("validate", "e-1", "order.created", 1, &parent);
        assert!(span.is_disabled());
        span::outgoing(&span, &parent)
    });
    assert!(outgoing.trace_id == parent.trace_id && outgoing.span_id != parent.span_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_does_not_hold_up_the_shutdown() {
    // Accepts connections in its backlog and says nothing.
    let silent = TcpListener::bind(LOCAL).await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let exporter = Exporter::new(&endpoint, 1.0, "shop", "w-1").unwrap();
    let parent = TraceContext { sampled: true, ..TraceContext::root("e-1") };
    tracing::subscriber::with_default(Registry::default().with(exporter.layer()), || {
        drop(span::handle_message("validate", "e-1", "order.created", 1, &parent));
    });
    let bound = Duration::from_millis(300);
    tokio::time::timeout(bound + Duration::from_secs(5), exporter.shutdown(bound)).await.unwrap();
}

/// Sink for the log lines of a test.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Log line of which every field is `text`.
fn logged(format: LogFormat, filter: &str, text: &str) -> String {
    let (lines, options) = (Lines::default(), LogOptions { format, filter: Some(filter.into()) });
    let writer = {
        let lines = lines.clone();
        move || lines.clone()
    };
    let subscriber = Registry::default().with(logs::layer(&options, false, writer).unwrap());
    tracing::subscriber::with_default(subscriber, || {
        let error = io::Error::other(text.to_owned());
        let error: &dyn std::error::Error = &error;
        tracing::warn!(
            target: "millstream::map",
            event_id = text,
            shown = %text,
            debugged = ?text,
            error,
            "failed: {text}"
        );
    });
    String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
}

#[test]
fn hostile_text_can_neither_forge_a_log_line_nor_reach_the_terminal() {
    let hostile = "a\nERROR forged\r\t\x1b[2J\x1b]0;title\x07\x08\x7f\u{9b}31m\u{85}\u{202e}\
                   \u{2028}\0 é ü \"quoted\" \\";
    for format in [LogFormat::Console, LogFormat::Json] {
        let text = logged(format, "info", hostile);
        let line = text.strip_suffix('\n').unwrap();
        let dangerous =
            line.chars().find(|c| c.is_control() || ('\u{2028}'..='\u{202e}').contains(c));
        assert_eq!(dangerous, None, "{format:?}: {line}");
        assert!(line.contains("é ü") && line.contains("forged"), "the rest stays readable: {line}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&logged(LogFormat::Json, "info", hostile)).unwrap();
    assert_eq!(json["event_id"], hostile, "nothing is lost");
    assert_eq!(json["message"], format!("failed: {hostile}"));
}

#[test]
fn a_bare_level_is_ours_and_directives_are_taken_as_they_are() {
    assert!(logged(LogFormat::Console, "warn", "x").contains("failed: x"));
    assert_eq!(logged(LogFormat::Console, "error", "x"), "");
    assert_eq!(logged(LogFormat::Console, "millstream::map=error", "x"), "");
    assert!(logged(LogFormat::Console, "millstream::map=trace", "x").contains("failed: x"));
    let options = LogOptions { filter: Some("millstream=loud".into()), ..LogOptions::default() };
    let refused =
        logs::layer::<Registry, _>(&options, false, io::stderr).err().unwrap().to_string();
    assert!(refused.contains("millstream=loud"), "{refused}");
}
