//! HTTP handler: an HTTP service that is sent each event; its answer is the outcome.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use millstream_stages::{
    Delivery, Envelope, Event, Failure, Handler, Pending, Problem, Reply, failure::class, headers,
    replies, units::Period,
};
use reqwest::{
    Client, Method, Request, Response, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{HandlerContext, HandlerKind, Output, idempotency_key, options};
use crate::{error_chain::root_cause, http_client, limits, shortage::Shortage};

pub(super) const KIND: HandlerKind = HandlerKind {
    name: "http",
    about: "sends the event to an HTTP service; the status decides what becomes of it.",
    options: options::schema_of::<Options>,
    build,
};

/// Sends each event to an HTTP service, its original bytes as the body.
///
/// 2xx: done. 408, 425, 429 and 5xx: retried, after `Retry-After` where it is given. Other 4xx:
/// rejected. No connection: retried as `ConnectionError`; no answer in time: retried as
/// `TimeoutError`. Redirects are not followed and proxies from the environment are not used.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The URL, `http://` or `https://`. A user and password in it are sent as basic
    /// authentication.
    http: String,
    /// The method.
    #[serde(default)]
    method: Verb,
    /// Time limit of a call, from connecting to the end of the reply.
    #[serde(default = "options::default_timeout")]
    timeout: Period,
    /// Headers to add, such as `authorization = "Bearer ${TOKEN}"`. Their values are never shown.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Output of the stage: the event, or the service's reply in its place.
    #[serde(default)]
    output: Output,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Verb {
    #[default]
    Post,
    Put,
    Patch,
}

/// Headers that tell the service which event it is given. `headers` may not set them.
const MILLSTREAM_ATTEMPT: HeaderName = HeaderName::from_static("millstream-attempt");
const MILLSTREAM_EVENT_ID: HeaderName = HeaderName::from_static("millstream-event-id");
const MILLSTREAM_EVENT_TYPE: HeaderName = HeaderName::from_static("millstream-event-type");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const OWN_HEADERS: [HeaderName; 7] = [
    MILLSTREAM_ATTEMPT,
    MILLSTREAM_EVENT_ID,
    MILLSTREAM_EVENT_TYPE,
    IDEMPOTENCY_KEY,
    TRACEPARENT,
    HeaderName::from_static("content-length"),
    HeaderName::from_static("transfer-encoding"),
];

struct Http {
    client: Client,
    /// Parts that all requests share.
    template: Request,
    /// Scheme, host and port of the service: as much of the URL as errors show.
    origin: String,
    timeout: Duration,
    output: Output,
}

fn build(options: &Value, _: &HandlerContext) -> Result<Arc<dyn Handler>, Vec<Problem>> {
    let options: Options = options::read(options)?;
    let url = service_url(&options.http);
    let headers = extra_headers(&options.headers);
    let (url, headers) = match (url, headers) {
        (Ok(url), Ok(headers)) => (url, headers),
        (url, headers) => {
            return Err(url.err().into_iter().chain(headers.err().into_iter().flatten()).collect());
        }
    };
    let not_built = |error: reqwest::Error| {
        vec![Problem::new(
            &["http"],
            format!("no HTTP client: {}", root_cause(&error.without_url())),
        )]
    };
    let client = http_client::build(&url, options.timeout.0, |client| client).map_err(not_built)?;
    let method = match options.method {
        Verb::Post => Method::POST,
        Verb::Put => Method::PUT,
        Verb::Patch => Method::PATCH,
    };
    let origin = url.origin().ascii_serialization();
    let template = client.request(method, url).headers(headers).build().map_err(not_built)?;
    Ok(Arc::new(Http {
        client,
        template,
        origin,
        timeout: options.timeout.0,
        output: options.output,
    }))
}

fn service_url(text: &str) -> Result<Url, Problem> {
    let hint = "write it like \"http://127.0.0.1:9000/orders\"";
    // The URL itself may hold secrets, so no message repeats it.
    let url = Url::parse(text)
        .map_err(|error| Problem::new(&["http"], format!("not a URL: {error}")).hint(hint))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        other => Err(Problem::new(
            &["http"],
            format!("\"{other}\" is not a scheme an event can be sent by"),
        )
        .hint(hint)),
    }
}

fn extra_headers(options: &BTreeMap<String, String>) -> Result<HeaderMap, Vec<Problem>> {
    let mut headers = HeaderMap::new();
    let mut problems = Vec::new();
    for (name, value) in options {
        let mut wrong = |message: String| problems.push(Problem::new(&["headers", name], message));
        match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            (Ok(name), _) if OWN_HEADERS.contains(&name) => {
                wrong(format!("header \"{name}\" is set for every event"))
            }
            (Ok(name), Ok(mut value)) => {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
            (Err(_), _) => wrong(format!("\"{name}\" is not the name of a header")),
            (_, Err(_)) => wrong(format!("the value of header \"{name}\" has control characters")),
        }
    }
    if problems.is_empty() { Ok(headers) } else { Err(problems) }
}

impl Handler for Http {
    fn call<'a>(&'a self, event: &'a Event, delivery: &'a Delivery) -> Pending<'a, Reply> {
        Box::pin(async move {
            let response = self
                .client
                .execute(self.request(event, delivery))
                .await
                .map_err(|error| self.no_answer(error))?;
            self.answer(response, delivery).await
        })
    }
}

impl Http {
    fn request(&self, event: &Event, delivery: &Delivery) -> Request {
        let mut request =
            self.template.try_clone().expect("the template has no body that could not be cloned");
        let headers = request.headers_mut();
        headers.insert(MILLSTREAM_EVENT_ID, value(&event.id));
        headers.insert(MILLSTREAM_EVENT_TYPE, value(&event.event_type));
        headers.insert(MILLSTREAM_ATTEMPT, delivery.attempt.into());
        headers.insert(IDEMPOTENCY_KEY, value(&idempotency_key(event, delivery)));
        if let Some(traceparent) = &delivery.traceparent {
            headers.insert(TRACEPARENT, value(traceparent));
        }
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(match event.envelope {
            Envelope::CloudEvents => "application/cloudevents+json",
            Envelope::Domain | Envelope::Raw | Envelope::Error => "application/json",
        }));
        *request.body_mut() = Some(event.body.clone().into());
        request
    }

    /// Outcome that an answer means. The answer is read to its end, within bounds, so that its
    /// connection can be used again.
    async fn answer(&self, mut response: Response, delivery: &Delivery) -> Result<Reply, Failure> {
        let status = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|value| replies::retry_after(value, delivery.now));
        let used = response.status().is_success() && self.output == Output::Reply;
        let most = if used { limits::REPLY_BYTES_MAX } else { limits::HTTP_DISCARD_BYTES_MAX };
        let body = read(&mut response, most).await;
        if !used {
            // The status decides; a body that breaks off changes nothing.
            let body = body.unwrap_or_default().0;
            replies::http_reply(status, retry_after, &String::from_utf8_lossy(&body))?;
            return Ok(Reply::Pass);
        }
        match body.map_err(|error| self.no_answer(error))? {
            (body, true) => self.output.reply(&body),
            (_, false) => Err(Failure::retry(
                class::HANDLER,
                format!("the reply is longer than {most} bytes"),
            )),
        }
    }

    /// Failure of a call without an answer, or without a whole one.
    fn no_answer(&self, error: reqwest::Error) -> Failure {
        let origin = &self.origin;
        let error = error.without_url();
        if error.is_connect() {
            let why = if error.is_timeout() {
                "it did not accept in time".to_owned()
            } else {
                root_cause(&error)
            };
            let what = format!("could not connect to {origin}");
            match Shortage::of_connect(&error) {
                Some(shortage) => shortage.failure(&what),
                None => Failure::retry(class::CONNECTION, format!("{what}: {why}")),
            }
        } else if error.is_timeout() {
            Failure::retry(
                class::TIMEOUT,
                format!("no answer from {origin} in {}", Period(self.timeout)),
            )
        } else {
            Failure::retry(
                class::CONNECTION,
                format!("lost the connection to {origin}: {}", root_cause(&error)),
            )
        }
    }
}

/// Reads the body up to `most` bytes; true if that is all of it.
async fn read(response: &mut Response, most: usize) -> Result<(Bytes, bool), reqwest::Error> {
    let Some(first) = response.chunk().await? else { return Ok((Bytes::new(), true)) };
    let mut body = BytesMut::from(first);
    while body.len() <= most {
        match response.chunk().await? {
            Some(more) => body.extend_from_slice(&more),
            None => return Ok((body.freeze(), true)),
        }
    }
    body.truncate(most);
    Ok((body.freeze(), false))
}

/// Header value of a text of ours or of an event; what HTTP does not allow there becomes a space.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| {
        HeaderValue::from_str(&headers::clean(text))
            .expect("a cleaned text has no control characters")
    })
}
