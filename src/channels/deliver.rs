//! Deliver: the map stage of one channel, which words each notification, bounds it, and sends it.

use std::{sync::Arc, time::Duration};

use millstream_stages::{
    Delivery, Event, Failure, Map, Pending, Problem, failure::class, notification::Notification,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    Channel, ChannelContext, Endpoint, build, sanitize,
    template::{Form, Template},
};

/// Longest title that is sent, in bytes.
pub const TITLE_BYTES_MAX: usize = 512;
/// Longest text that is sent, in bytes.
pub const TEXT_BYTES_MAX: usize = 16 << 10;

/// Templates that any channel may have, as they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words {
    /// Template of the title.
    pub title: Option<String>,
    /// Template of the text.
    pub text: Option<String>,
}

/// Templates that were read and checked.
#[derive(Debug, Default)]
struct Wording {
    title: Option<Template>,
    text: Option<Template>,
}

impl Words {
    /// Problems of the templates, at `title` and `text`.
    pub fn problems(&self) -> Vec<Problem> {
        self.read().err().unwrap_or_default()
    }

    fn read(&self) -> Result<Wording, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut read = |key, source: &Option<String>| {
            let template = Template::checked(key, source.as_deref()?, Form::Text);
            template.map_err(|problem| problems.push(problem)).ok()
        };
        let wording = Wording { title: read("title", &self.title), text: read("text", &self.text) };
        if problems.is_empty() { Ok(wording) } else { Err(problems) }
    }
}

/// Map stage that delivers the notifications of one channel, so that they are retried and
/// dead-lettered like any event.
pub struct Deliver {
    channel: Arc<dyn Channel>,
    wording: Wording,
    name: String,
}

impl Deliver {
    /// Builds the stage that sends to a channel of this kind.
    ///
    /// # Errors
    /// Problems of the kind's own keys and of the templates, all of them.
    pub fn build(
        kind: &str,
        options: &Value,
        words: &Words,
        context: &ChannelContext,
    ) -> Result<Self, Vec<Problem>> {
        match (build(kind, options, context), words.read()) {
            (Ok(channel), Ok(wording)) => Ok(Self { channel, wording, name: context.name.clone() }),
            (channel, wording) => Err(channel
                .err()
                .into_iter()
                .flatten()
                .chain(wording.err().into_iter().flatten())
                .collect()),
        }
    }

    /// Sends one notification, as it would be sent from the stream.
    ///
    /// # Errors
    /// Failure of the channel, or of a template that does not fit.
    pub async fn send(
        &self,
        notification: &Notification,
        delivery: &Delivery,
    ) -> Result<(), Failure> {
        self.channel.send(&self.worded(notification)?, delivery).await
    }

    /// Text of what [`Deliver::send`] would send, secrets redacted.
    ///
    /// # Errors
    /// Failure of a template that does not fit.
    pub fn preview(&self, notification: &Notification) -> Result<String, Failure> {
        Ok(self.channel.preview(&self.worded(notification)?))
    }

    /// Maker of the service of the channel while a worker runs, if it has one; see
    /// [`Channel::endpoint`].
    pub fn endpoint(&self) -> impl Fn(CancellationToken) -> Option<Endpoint> + Send + Sync + use<> {
        let channel = Arc::clone(&self.channel);
        move |stop| Arc::clone(&channel).endpoint(stop)
    }

    /// Puts a notification into the channel's words, within bounds, and with nothing in it that
    /// could harm a receiver of text.
    fn worded(&self, notification: &Notification) -> Result<Notification, Failure> {
        let mut value = serde_json::to_value(notification).expect("a notification is plain data");
        sanitize::scrub(&mut value);
        let mut worded: Notification = serde_json::from_value(value)
            .expect("texts in a notification stay texts when they are scrubbed");
        let at_channel = |mut failure: Failure| {
            failure.message = format!("channel \"{}\": {}", self.name, failure.message);
            failure
        };
        if let Some(template) = &self.wording.title {
            worded.title = template.render(&worded).map_err(at_channel)?;
        }
        worded.title = sanitize::line(&worded.title, TITLE_BYTES_MAX);
        if let Some(template) = &self.wording.text {
            worded.text = template.render(&worded).map_err(at_channel)?;
        }
        worded.text = sanitize::cut(&sanitize::plain(&worded.text), TEXT_BYTES_MAX).into_owned();
        Ok(worded)
    }
}

impl Map for Deliver {
    fn apply<'a>(&'a self, event: &'a Event, delivery: &'a Delivery) -> Pending<'a, Vec<Event>> {
        Box::pin(async move {
            let notification: Notification =
                serde_json::from_slice(&event.body).map_err(|error| {
                    Failure::reject(class::DECODE, format!("not a notification: {error}"))
                })?;
            self.send(&notification, delivery).await?;
            Ok(Vec::new())
        })
    }

    fn timeout(&self) -> Option<Duration> {
        self.channel.timeout()
    }
}

impl std::fmt::Debug for Deliver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deliver").field("channel", &self.name).finish_non_exhaustive()
    }
}
