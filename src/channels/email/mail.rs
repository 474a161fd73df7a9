//! Mail: a notification as a message with a text and an HTML part.
//!
//! Headers mark it as written by no person.

use std::time::SystemTime;

use lettre::{
    Message,
    message::{
        Mailbox, MultiPart,
        header::{HeaderName, HeaderValue},
    },
};
use millstream_stages::{
    Failure,
    failure::class,
    incident::Severity,
    notification::{About, Notification, Status},
};

use crate::channels::sanitize;

/// Parts of a mail.
pub(super) struct Mail<'a> {
    pub(super) from: &'a Mailbox,
    pub(super) to: &'a [Mailbox],
    pub(super) pipeline: &'a str,
    pub(super) notification: &'a Notification,
}

impl Mail<'_> {
    /// Returns the message.
    ///
    /// # Errors
    /// [`class::VALIDATION`] rejection where it cannot be put together.
    pub(super) fn message(&self, now: SystemTime) -> Result<Message, Failure> {
        let Notification { notification_id, severity, status, why, group, channel, title, .. } =
            self.notification;
        let domain = self.from.email.domain();
        // The ids are ours alone; what is in them is hashed, since a mail id may hold little.
        let id = |what: &str| {
            let digest = ring::digest::digest(&ring::digest::SHA256, what.as_bytes());
            let hex: String =
                digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
            format!("<{hex}@{domain}>")
        };
        // Nobody sends the root of a thread: what refers to the same one is shown together all the
        // same. A digest's thread is that of all digests of its channel.
        let root = match self.notification.about {
            About::Digest { .. } => id(&format!("{}/{channel}/digest", self.pipeline)),
            About::Incident { .. } | About::Group { .. } => {
                id(&format!("{}/{channel}/{group}", self.pipeline))
            }
        };
        let mut builder = Message::builder()
            .from(self.from.clone())
            .subject(title.clone())
            .date(now)
            .message_id(Some(id(notification_id)))
            .in_reply_to(root.clone())
            .references(root);
        for to in self.to {
            builder = builder.to(to.clone());
        }
        for (name, value) in [
            // RFC 3834, section 5: nobody's holiday notice answers it.
            ("Auto-Submitted", "auto-generated"),
            ("X-Auto-Response-Suppress", "All"),
            ("X-Millstream-Pipeline", self.pipeline),
            ("X-Millstream-Notification-Id", notification_id),
            ("X-Millstream-Group", group),
            ("X-Millstream-Severity", severity.as_str()),
            ("X-Millstream-Status", status.as_str()),
            ("X-Millstream-Why", why.as_str()),
        ] {
            let name = HeaderName::new_from_ascii_str(name);
            builder = builder.raw_header(HeaderValue::new(name, sanitize::line(value, 512)));
        }
        if *severity == Severity::Critical && *status == Status::Firing {
            let name = HeaderName::new_from_ascii_str("Importance");
            builder = builder.raw_header(HeaderValue::new(name, "high".to_owned()));
        }
        let parts = MultiPart::alternative_plain_html(self.text(), self.html());
        builder
            .multipart(parts)
            .map_err(|error| Failure::reject(class::VALIDATION, format!("not a mail: {error}")))
    }

    /// Text of the headers as they are sent, and of the two parts before they are encoded.
    pub(super) fn preview(&self, now: SystemTime) -> String {
        match self.message(now) {
            Ok(message) => format!(
                "{}\n{}\n--- the same as HTML ---\n{}",
                message.headers(),
                self.text(),
                self.html()
            )
            .replace("\r\n", "\n"),
            Err(failure) => failure.to_string(),
        }
    }

    fn text(&self) -> String {
        let Notification { title, text, .. } = self.notification;
        format!("{title}\n\n{text}\n-- \n{}\n", self.footer())
    }

    /// HTML part. Everything that was written elsewhere goes through [`sanitize::html`].
    fn html(&self) -> String {
        let Notification { title, text, severity, status, .. } = self.notification;
        let colour = match (status, severity) {
            (Status::Resolved, _) => "#1a7f37",
            (Status::Firing, Severity::Critical) => "#b00020",
            (Status::Firing, Severity::High) => "#d1242f",
            (Status::Firing, Severity::Medium) => "#9a6700",
            (Status::Firing, Severity::Low) => "#57606a",
        };
        let [title, text, footer] = [title, text, &self.footer()].map(|text| sanitize::html(text));
        format!(
            "<!doctype html>\n<html><head><meta charset=\"utf-8\"></head>\
             <body style=\"font-family:sans-serif;font-size:14px\">\n\
             <h2 style=\"border-left:6px solid {colour};padding-left:10px;font-size:17px\">\
             {title}</h2>\n\
             <div style=\"white-space:pre-wrap\">{text}</div>\n\
             <p style=\"color:#57606a;font-size:12px\">{footer}</p>\n</body></html>\n"
        )
    }

    fn footer(&self) -> String {
        let Notification { channel, notification_id, .. } = self.notification;
        format!(
            "sent by Millstream: pipeline {}, channel {channel}, notification {notification_id}",
            self.pipeline
        )
    }
}
