//! `alert test`: a sample notification sent to a channel, now and past every rule.

use std::{
    process::ExitCode,
    time::{Instant, SystemTime},
};

use millstream_stages::{Delivery, Disposition, incident::Severity};

use crate::{
    channels::{Deliver, sample},
    commands::{App, printable},
    wire::Names,
};

/// Arguments of `alert test`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream alert test oncall
  millstream alert test oncall --about resolved
  millstream alert test mail --severity critical --code DATABASE_CONNECTION_FAILED

It is sent from here, once, without the pipeline: no rule, no rate, no retry. \
It says that it is a test.

Exit status: 0 the channel took it, 1 it did not, 2 could not try.")]
pub(super) struct Args {
    /// The channel: the name of a [channel.<name>] table
    channel: String,
    #[command(flatten)]
    sample: Sample,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Properties of the sample.
#[derive(Debug, clap::Args)]
pub(super) struct Sample {
    /// Kind of notification
    #[arg(long, value_enum, default_value = "test")]
    about: Kind,
    /// Severity: low, medium, high or critical
    #[arg(long, default_value = "high", value_parser = ["low", "medium", "high", "critical"])]
    severity: String,
    /// The code of its errors
    #[arg(long, default_value = "MILLSTREAM_TEST")]
    code: String,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    /// An incident that opened
    Firing,
    /// An incident that is over
    Resolved,
    /// Two incidents of one group
    Group,
    /// A digest of what exceeded the rate of the channel
    Digest,
    /// A test of the channel
    Test,
}

impl Sample {
    /// Notification for the sample.
    pub(super) fn notification(
        &self,
        pipeline: &str,
        channel: &str,
    ) -> millstream_stages::notification::Notification {
        let severity = Severity::meant_by(&self.severity).unwrap_or_default();
        let incident = sample::incident(&self.code, severity, pipeline, jiff::Timestamp::now());
        let about = match self.about {
            Kind::Firing => sample::SampleKind::Firing,
            Kind::Resolved => sample::SampleKind::Resolved,
            Kind::Group => sample::SampleKind::Group,
            Kind::Digest => sample::SampleKind::Digest,
            Kind::Test => sample::SampleKind::Test,
        };
        sample::notification(channel, about, incident)
    }
}

/// Sends a sample notification, and prints if the channel took it.
///
/// # Errors
/// There is no such channel, or no broker where the channel needs one.
pub(super) async fn run(app: &App, args: Args) -> anyhow::Result<ExitCode> {
    let pipeline = app.pipeline()?;
    let channel = super::channel(&pipeline, &args.channel)?;
    // Most channels need no broker, and are to be tried without one.
    let needs_broker = matches!(channel.kind.as_str(), "nats" | "websocket");
    let broker = if needs_broker { Some(app.connect(&pipeline).await?) } else { None };
    let deliver = super::deliver(&pipeline, channel, broker)?;
    let notification = args.sample.notification(&pipeline.name, &channel.name);
    let delivery = Delivery {
        stage: Names::channel_stage(&channel.name),
        attempt: 1,
        now: SystemTime::now(),
        traceparent: None,
        edit: None,
    };
    let began = Instant::now();
    let sent = send(&deliver, &notification, &delivery).await;
    let took = began.elapsed();
    if args.json {
        let (class, message) = match &sent {
            Ok(()) => (None, None),
            Err(failure) => (Some(failure.class.to_string()), Some(failure.message.clone())),
        };
        println!(
            "{}",
            serde_json::json!({
                "channel": channel.name,
                "sent": sent.is_ok(),
                "tookMs": took.as_millis() as u64,
                "class": class,
                "error": message,
                "notificationId": notification.notification_id,
            })
        );
    } else {
        match &sent {
            Ok(()) => {
                println!(
                    "channel \"{}\" took it in {} ms: {}",
                    channel.name,
                    took.as_millis(),
                    notification.title
                )
            }
            Err(failure) => {
                println!(
                    "channel \"{}\" did not take it: {}",
                    channel.name,
                    printable(&failure.to_string())
                );
                let what = match failure.disposition {
                    Disposition::Reject => "a notification would be dead-lettered at once",
                    Disposition::Retry { .. } | Disposition::Defer { .. } => {
                        "a notification would be tried again, by the retry policy of the channel"
                    }
                };
                println!(" hint: {what}; {}", hint(&channel.kind));
            }
        }
    }
    Ok(crate::commands::found(sent.is_err()))
}

/// Sends a notification, within the time that the channel may take.
async fn send(
    deliver: &Deliver,
    notification: &millstream_stages::notification::Notification,
    delivery: &Delivery,
) -> Result<(), millstream_stages::Failure> {
    use millstream_stages::{Failure, Map as _, failure::class};
    let sending = deliver.send(notification, delivery);
    let Some(timeout) = deliver.timeout() else { return sending.await };
    let late = |_| {
        Failure::retry(
            class::TIMEOUT,
            format!("no answer in {}", millstream_stages::units::Period(timeout)),
        )
    };
    tokio::time::timeout(timeout, sending).await.map_err(late)?
}

/// Hint where to look first, by the kind of channel.
fn hint(kind: &str) -> String {
    match kind {
        "nats" | "websocket" => "is the server there, and may we publish?".to_owned(),
        _ => "`millstream alert render` prints what was sent".to_owned(),
    }
}
