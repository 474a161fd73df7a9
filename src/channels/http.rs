//! HTTP: the one client of channels that post over HTTP.
//!
//! No redirects, no proxies, no private addresses, bounded answers, errors without addresses.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use millstream_stages::{
    Delivery, Failure, Problem, failure::class, headers, replies, units::Period,
};
use reqwest::{
    Client, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};

use super::{
    ChannelContext,
    address::{PublicOnly, is_private, literal},
    redact::Secrets,
};
use crate::{error_chain::root_cause, http_client, limits, shortage::Shortage};

/// Class of an answer whose status is success, but whose body is not what the provider answers
/// then.
pub(super) const UNEXPECTED: &str = "UnexpectedAnswer";
/// Class of a request that the provider refuses in an answer whose status is success.
pub(super) const REFUSED: &str = "RefusedError";

/// Default of a call's timeout.
pub(super) fn default_timeout() -> Period {
    Period::seconds(10)
}

/// Target that a channel posts to.
pub(super) struct Target {
    client: Client,
    url: Url,
    headers: HeaderMap,
    timeout: Duration,
    /// Name of the channel: errors show it in place of the URL.
    name: String,
    secrets: Secrets,
}

/// Keys that [`Target::new`] makes a target of.
pub(super) struct Keys<'a> {
    pub(super) url: &'a str,
    pub(super) timeout: Period,
    pub(super) allow_private: bool,
    /// Headers of every request.
    pub(super) headers: &'a BTreeMap<String, String>,
    /// Secret besides the URL and the headers.
    pub(super) secret: Option<&'a str>,
}

impl Target {
    /// Returns a target, or everything that is wrong with its keys. No message repeats the URL.
    pub(super) fn new(keys: &Keys<'_>, context: &ChannelContext) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let url = url(keys.url, keys.allow_private).map_err(|problem| problems.push(problem)).ok();
        let mut secrets = Secrets::default();
        keys.secret.into_iter().for_each(|secret| secrets.add(secret));
        let mut headers = HeaderMap::new();
        for (name, value) in keys.headers {
            secrets.add(value);
            value.split_whitespace().for_each(|part| secrets.add(part));
            match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                (Ok(name), Ok(mut value)) => {
                    value.set_sensitive(true);
                    headers.insert(name, value);
                }
                (Err(_), _) => problems.push(Problem::new(
                    &["headers", name],
                    format!("\"{name}\" is not the name of a header"),
                )),
                (_, Err(_)) => problems
                    .push(Problem::new(&["headers", name], "the value has control characters")),
            }
        }
        let Some(url) = url.filter(|_| problems.is_empty()) else { return Err(problems) };
        secrets.add_url(&url);
        let resolving = |client: reqwest::ClientBuilder| match keys.allow_private {
            true => client,
            false => client.dns_resolver(Arc::new(PublicOnly)),
        };
        let client = http_client::build(&url, keys.timeout.0, resolving).map_err(|error| {
            vec![Problem::new(
                &["url"],
                format!("no HTTP client: {}", root_cause(&error.without_url())),
            )]
        })?;
        Ok(Self {
            client,
            url,
            headers,
            timeout: keys.timeout.0,
            name: context.name.clone(),
            secrets,
        })
    }

    /// Adds basic authentication, with a user and a password, to every request.
    pub(super) fn basic_auth(mut self, user: &str, password: &str) -> Self {
        use base64::Engine as _;
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        self.secrets.add(password);
        self.secrets.add(&pair);
        let mut value =
            HeaderValue::try_from(format!("Basic {pair}")).expect("base64 is fit for a header");
        value.set_sensitive(true);
        self.headers.insert(AUTHORIZATION, value);
        self
    }

    /// URL of the target.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Most time a call may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Text with the channel's secrets redacted.
    pub(super) fn redact(&self, text: &str) -> String {
        self.secrets.redact(text)
    }

    /// Posts JSON, and reads the answer if its status is success.
    pub(super) async fn post_json(
        &self,
        json: &impl serde::Serialize,
        delivery: &Delivery,
    ) -> Result<Answer, Failure> {
        self.post_json_to(self.url.clone(), json, delivery).await?.accepted(self)
    }

    /// Posts JSON to a URL of the target, and reads the answer whatever its status.
    pub(super) async fn post_json_to(
        &self,
        url: Url,
        json: &impl serde::Serialize,
        delivery: &Delivery,
    ) -> Result<Answer, Failure> {
        let body = serde_json::to_vec(json).expect("a message to a provider is plain data");
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.post(url, headers, body, delivery).await
    }

    /// Posts a body to a URL of the target.
    pub(super) async fn post(
        &self,
        url: Url,
        headers: HeaderMap,
        body: Vec<u8>,
        delivery: &Delivery,
    ) -> Result<Answer, Failure> {
        let mut request = self.client.post(url).headers(headers).headers(self.headers.clone());
        if let Some(traceparent) = &delivery.traceparent {
            request = request.header(headers::TRACEPARENT, headers::clean(traceparent));
        }
        let mut response =
            request.body(body).send().await.map_err(|error| self.no_answer(error))?;
        let status = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|value| replies::retry_after(value, delivery.now));
        let mut body = Vec::new();
        let whole = loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() < limits::HTTP_DISCARD_BYTES_MAX => {
                    body.extend_from_slice(&chunk)
                }
                Ok(None) => break Ok(()),
                // It goes on: past the bound a new connection is cheaper than what is left.
                Ok(Some(_)) => break Ok(()),
                Err(error) => break Err(self.no_answer(error)),
            }
        };
        Ok(Answer {
            status,
            retry_after,
            body: self.redact(&String::from_utf8_lossy(&body)),
            whole,
        })
    }

    /// Failure of a call that got no answer.
    fn no_answer(&self, error: reqwest::Error) -> Failure {
        let (name, error) = (&self.name, error.without_url());
        if error.is_timeout() && !error.is_connect() {
            return Failure::retry(
                class::TIMEOUT,
                format!("no answer on channel \"{name}\" in {}", Period(self.timeout)),
            );
        }
        if let Some(shortage) = error.is_connect().then(|| Shortage::of_connect(&error)).flatten() {
            return shortage.failure(&format!("could not reach channel \"{name}\""));
        }
        let cause = self.redact(&root_cause(&error));
        Failure::retry(class::CONNECTION, format!("could not reach channel \"{name}\": {cause}"))
    }

    /// Failure as this channel's: it names the channel, and shows no secret.
    pub(super) fn failure(&self, failure: Failure) -> Failure {
        Failure {
            message: format!("channel \"{}\": {}", self.name, self.redact(&failure.message)),
            ..failure
        }
    }

    /// Failure of an answer that is not the provider's: something else may have given it, and
    /// nothing is known to have arrived.
    pub(super) fn unexpected(&self, answer: &Answer) -> Failure {
        let said = millstream_stages::text::excerpt(&answer.body, 200);
        let message =
            format!("http {} with an answer that is not the provider's: {said}", answer.status);
        self.failure(Failure::retry(UNEXPECTED, message))
    }
}

/// Answer of a server.
pub(super) struct Answer {
    pub(super) status: u16,
    retry_after: Option<Duration>,
    /// Body, as far as it was read, without the channel's secrets.
    pub(super) body: String,
    /// Error if the body was not read to its end.
    whole: Result<(), Failure>,
}

impl Answer {
    /// Returns the answer, if its status is success.
    ///
    /// # Errors
    /// Failure that the status means; see [`replies::http_reply`].
    pub(super) fn accepted(self, target: &Target) -> Result<Self, Failure> {
        let meant = replies::http_reply(self.status, self.retry_after, &self.body);
        meant.map_err(|failure| target.failure(failure))?;
        Ok(self)
    }

    /// Reads the body as JSON of the provider's own shape.
    ///
    /// # Errors
    /// Failure of a body that broke off, or is not of that shape.
    pub(super) fn json<T: serde::de::DeserializeOwned>(
        &self,
        target: &Target,
    ) -> Result<T, Failure> {
        self.whole.clone()?;
        serde_json::from_str(&self.body).map_err(|_| target.unexpected(self))
    }
}

/// Reads the URL of a channel. It is a secret, so no message repeats it.
fn url(text: &str, allow_private: bool) -> Result<Url, Problem> {
    let hint = "write it like \"https://hooks.example.com/T1/B2\"";
    let url = match Url::parse(text) {
        Ok(url) if ["http", "https"].contains(&url.scheme()) => url,
        Ok(_) => {
            return Err(
                Problem::new(&["url"], "only http and https URLs can be posted to").hint(hint)
            );
        }
        Err(error) => return Err(Problem::new(&["url"], format!("not a URL: {error}")).hint(hint)),
    };
    if !allow_private && url.host_str().and_then(literal).is_some_and(is_private) {
        let problem = Problem::new(&["url"], "the URL leads to a private address");
        return Err(problem.hint("set allow_private = true if it should"));
    }
    Ok(url)
}
