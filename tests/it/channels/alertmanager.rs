//! Alertmanager: the channel against a real one, where there is one, and always against one that
//! checks what the v2 API asks for.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use jiff::Timestamp;
use millstream::{
    channels::{Deliver, sample},
    stages::{
        incident::{Change, Incident, Severity},
        notification::About,
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{channel, context, hostile, notification, outcome, send};
use crate::{
    reaper::Start as _,
    support::{Running, eventually},
};

/// Programs that may be it: the name in Debian, and the name elsewhere.
const PROGRAMS: [&str; 2] = ["prometheus-alertmanager", "alertmanager"];

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).flat_map(|folder| PROGRAMS.map(|name| folder.join(name)));
    found.into_iter().find(|program| program.is_file())
}

fn ours(base: &str) -> Deliver {
    channel(
        "alertmanager",
        &json!({ "url": base, "allow_private": true, "link": "https://ops.example/live" }),
    )
}

/// Active alerts of the Alertmanager at `base`, by name and severity.
async fn active(base: &str) -> BTreeMap<(String, String), Value> {
    let alerts: Vec<Value> =
        reqwest_get(&format!("{base}/api/v2/alerts?active=true&silenced=true&inhibited=true"))
            .await;
    let label =
        |alert: &Value, name: &str| alert["labels"][name].as_str().unwrap_or_default().to_owned();
    alerts
        .into_iter()
        .map(|alert| ((label(&alert, "alertname"), label(&alert, "severity")), alert))
        .collect()
}

async fn reqwest_get(url: &str) -> Vec<Value> {
    millstream::tls::install_provider();
    let client = reqwest::Client::builder().tls_certs_only([]).no_proxy().build().unwrap();
    let text = client.get(url).send().await.unwrap().text().await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn incident(code: &str, severity: Severity) -> Incident {
    sample::incident(code, severity, "shop", Timestamp::now())
}

/// Checks everything that must hold with any Alertmanager.
async fn holds(base: &str) {
    let ours = ours(base);
    let names = async || active(base).await.into_keys().collect::<Vec<_>>();
    let pair = |name: &str, severity: &str| (name.to_owned(), severity.to_owned());

    // It opens.
    let mut redis = incident("REDIS_DOWN", Severity::High);
    redis.labels.insert("tenant.id".to_owned(), "acme".to_owned());
    send(&ours, &sample::notification("ops", sample::SampleKind::Firing, redis.clone()))
        .await
        .unwrap();
    assert_eq!(names().await, [pair("REDIS_DOWN", "high")]);
    let alert = &active(base).await[&pair("REDIS_DOWN", "high")];
    assert_eq!(
        (&alert["labels"]["tenant_id"], &alert["labels"]["pipeline"]),
        (&json!("acme"), &json!("shop"))
    );
    assert!(alert["annotations"]["summary"].as_str().unwrap().contains("REDIS_DOWN"), "{alert:#}");
    assert_eq!(alert["generatorURL"], "https://ops.example/live");
    // Past the five minutes after which Alertmanager would end it.
    let ends: Timestamp = alert["endsAt"].as_str().unwrap().parse().unwrap();
    assert!(ends.duration_since(Timestamp::now()).as_hours() >= 11, "{alert:#}");

    // It becomes worse: what it was is over.
    let worse = |mut incident: Incident| {
        incident.severity = Severity::Critical;
        incident.event = Change::Escalated;
        incident
    };
    send(&ours, &sample::notification("ops", sample::SampleKind::Firing, worse(redis.clone())))
        .await
        .unwrap();
    eventually(async || (names().await == [pair("REDIS_DOWN", "critical")]).then_some(())).await;

    // It is over, in a group with one that goes on.
    let mut over = worse(redis);
    over.event = Change::Resolved;
    over.resolved_at = Some(Timestamp::now());
    let mut group = sample::notification(
        "ops",
        sample::SampleKind::Group,
        incident("DISK_FULL", Severity::Low),
    );
    let About::Group { incidents } = &mut group.about else {
        unreachable!("the sample is of a group")
    };
    incidents.list[1] = over;
    send(&ours, &group).await.unwrap();
    eventually(async || (names().await == [pair("DISK_FULL", "low")]).then_some(())).await;

    // A digest is one alert, and hostile text does not keep an alert from being taken.
    send(
        &ours,
        &sample::notification(
            "ops",
            sample::SampleKind::Digest,
            incident("MANY", Severity::Medium),
        ),
    )
    .await
    .unwrap();
    send(&ours, &hostile()).await.unwrap();
    let names = names().await;
    assert!(names.len() == 3 && names.contains(&pair("MillstreamDigest", "medium")), "{names:?}");
}

#[tokio::test]
async fn alerts_open_become_worse_and_end_in_an_alertmanager() {
    holds(&Strict::start().await).await;
    match program() {
        None => println!(
            "checked against the v2 API's rules only: no {} is installed",
            PROGRAMS.join(" or ")
        ),
        Some(program) => {
            let real = Real::start(&program).await;
            holds(&real.base).await;
            println!("checked against the v2 API's rules, and against {}", program.display());
        }
    }
}

#[tokio::test]
async fn an_alertmanager_that_does_not_take_an_alert_says_why() {
    let base = Strict::start().await;
    let mut empty = notification(sample::SampleKind::Firing);
    let About::Incident { incident } = &mut empty.about else {
        unreachable!("the sample is of one incident")
    };
    // No code, and nothing else to know it by: the API refuses an alert without labels, ours always
    // has some.
    incident.code.clear();
    incident.labels.clear();
    incident.services.clear();
    send(&ours(&base), &empty).await.unwrap();
    let wrong = ours(&format!("{base}/nowhere"));
    assert_eq!(
        outcome(&send(&wrong, &empty).await),
        "reject HttpClientError: channel \"ops\": http 404"
    );
    assert!(
        super::built(
            "alertmanager",
            &json!({ "url": "http://a.example", "user": "x" }),
            &context()
        )
        .is_err()
    );
}

/// Real Alertmanager, until it is dropped.
struct Real {
    base: String,
    _process: Running,
    _folder: TempDir,
}

impl Real {
    async fn start(program: &PathBuf) -> Self {
        let folder = TempDir::new().unwrap();
        let config = folder.path().join("config.yml");
        std::fs::write(&config, "route:\n  receiver: none\nreceivers:\n  - name: none\n").unwrap();
        // It has no way to say which free port it took.
        let address = super::peer::nobody();
        let mut command = Command::new(program);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address={address}")).arg("--cluster.listen-address=");
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let real = Self {
            base: format!("http://{address}"),
            _process: Running(command.start()),
            _folder: folder,
        };
        eventually(async || tokio::net::TcpStream::connect(address).await.ok()).await;
        real
    }
}

type Known = Arc<Mutex<BTreeMap<BTreeMap<String, String>, Value>>>;

/// Server that checks each alert as the v2 API does, and keeps it.
///
/// Source: Alertmanager 0.28, `api/v2/api.go` (`postAlertsHandler`), `types.go` (`Alert.Validate`)
/// and `openapi.yaml`.
struct Strict;

impl Strict {
    async fn start() -> String {
        let known = Known::default();
        let routes = Router::new()
            .route("/api/v2/alerts", get(Self::list).post(Self::take))
            .with_state(known);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        format!("http://{address}")
    }

    async fn list(State(known): State<Known>) -> Json<Vec<Value>> {
        let now = Timestamp::now();
        let goes_on =
            |alert: &&Value| alert["endsAt"].as_str().unwrap().parse::<Timestamp>().unwrap() > now;
        Json(known.lock().unwrap().values().filter(goes_on).cloned().collect())
    }

    async fn take(
        State(known): State<Known>,
        Json(alerts): Json<Vec<Value>>,
    ) -> Result<(), (StatusCode, String)> {
        let refuse = |why: String| Err((StatusCode::BAD_REQUEST, why));
        for alert in alerts {
            let table = |key: &str| -> Option<BTreeMap<String, String>> {
                serde_json::from_value(alert[key].clone()).ok()
            };
            let (Some(labels), Some(annotations)) = (table("labels"), table("annotations")) else {
                return refuse(format!("labels and annotations are texts: {alert}"));
            };
            let fits = |name: &str| {
                let mut bytes = name.bytes();
                bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
                    && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
            };
            if let Some(name) = labels.keys().chain(annotations.keys()).find(|name| !fits(name)) {
                return refuse(format!("invalid label set: invalid name {name:?}"));
            }
            if labels.is_empty() || labels.values().any(String::is_empty) {
                return refuse("at least one label pair required, and none empty".to_owned());
            }
            let time =
                |key: &str| alert[key].as_str().and_then(|text| text.parse::<Timestamp>().ok());
            match (time("startsAt"), time("endsAt")) {
                (Some(starts), Some(ends)) if starts <= ends => {}
                times => return refuse(format!("start time must be before end time: {times:?}")),
            }
            if alert
                .get("generatorURL")
                .is_some_and(|url| reqwest::Url::parse(url.as_str().unwrap_or_default()).is_err())
            {
                return refuse("generatorURL is not a URI".to_owned());
            }
            known.lock().unwrap().insert(labels, alert);
        }
        Ok(())
    }
}
