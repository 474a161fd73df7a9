//! Alerting: part of a status with the number of incidents, and their outcome on each channel.

use std::{collections::BTreeMap, fmt::Write as _};

use millstream_stages::{Tally, incident::Severity};
use serde::Serialize;

use crate::commands::width::{columns, pad};

/// Counts of the reduce stages of a pipeline, added up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct AlertingStatus {
    /// Errors that were counted, ever.
    pub errors: u64,
    /// Incidents that go on, by severity.
    pub open: BTreeMap<String, u64>,
    /// Incidents that opened or came back, ever.
    pub began: u64,
    /// Silences that hold now.
    pub silences: u64,
    /// Fingerprints that were forgotten to keep memory bounded, ever.
    pub forgotten: u64,
    /// Notifications for each channel, and changes held back.
    pub channels: BTreeMap<String, ChannelStatus>,
}

/// Outcomes of the changes of incidents on one channel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct ChannelStatus {
    /// Notifications that were decided on, digests included.
    pub notifications: u64,
    /// Notifications among them that are not delivered yet.
    pub waiting: u64,
    /// Digests among them.
    pub digests: u64,
    /// Changes without a notification of their own, by reason.
    pub held: BTreeMap<String, u64>,
}

impl AlertingStatus {
    /// Counts from the tallies of stages.
    pub(super) fn of<'a>(tallies: impl IntoIterator<Item = &'a Tally>) -> Self {
        let mut status = Self::default();
        for tally in tallies {
            let label = |name: &str| {
                tally.labels.iter().find(|(label, _)| *label == name).map(|(_, value)| value)
            };
            let channel = label("channel").cloned();
            let value = tally.value;
            match (tally.name, channel) {
                ("errors_counted_total", _) => status.errors += value,
                ("incidents_open", _) => {
                    let severity = label("severity").cloned().unwrap_or_default();
                    *status.open.entry(severity).or_default() += value;
                }
                ("incidents_total", _)
                    if label("event").is_some_and(|event| event.ends_with("opened")) =>
                {
                    status.began += value;
                }
                ("silences_active", _) => status.silences += value,
                ("fingerprints_forgotten_total", _) => status.forgotten += value,
                ("notifications_total", Some(name)) => status.channel(name).notifications += value,
                ("notifications_digests_total", Some(name)) => {
                    status.channel(name).digests += value
                }
                ("notifications_held_total", Some(name)) if value > 0 => {
                    let reason = label("reason").cloned().unwrap_or_default();
                    *status.channel(name).held.entry(reason).or_default() += value;
                }
                _ => {}
            }
        }
        status.open.retain(|_, count| *count > 0);
        status
    }

    fn channel(&mut self, name: String) -> &mut ChannelStatus {
        self.channels.entry(name).or_default()
    }

    /// Notes how many notifications of a channel wait to be delivered.
    pub(super) fn waits(&mut self, channel: &str, waiting: u64) {
        if waiting > 0 {
            self.channel(channel.to_owned()).waiting = waiting;
        }
    }

    /// Adds the lines of the alerting to a screen.
    pub(super) fn render(&self, out: &mut String) {
        let open: u64 = self.open.values().sum();
        let worst = [Severity::Critical, Severity::High, Severity::Medium, Severity::Low];
        let by: Vec<String> = worst
            .iter()
            .filter_map(|severity| Some((self.open.get(severity.as_str())?, severity.as_str())))
            .map(|(count, severity)| format!("{count} {severity}"))
            .collect();
        let by = if by.is_empty() { String::new() } else { format!(" ({})", by.join(", ")) };
        _ = write!(
            out,
            "\nincidents: {open} open{by}, {} ever, of {} errors",
            self.began, self.errors
        );
        if self.silences > 0 {
            _ = write!(
                out,
                "; {} silence{} held",
                self.silences,
                if self.silences == 1 { "" } else { "s" }
            );
        }
        out.push('\n');
        if self.forgotten > 0 {
            _ = writeln!(
                out,
                "! {} fingerprints were forgotten: raise fingerprints_max, or make them coarser",
                self.forgotten
            );
        }
        let heard =
            || self.channels.iter().filter(|(_, channel)| **channel != ChannelStatus::default());
        let width = heard().map(|(name, _)| name).map(|name| columns(name)).max().unwrap_or(0);
        for (name, channel) in heard() {
            let held: Vec<String> =
                channel.held.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            let held = if held.is_empty() {
                String::new()
            } else {
                format!("; held back: {}", held.join(", "))
            };
            let digests = match channel.digests {
                0 => String::new(),
                1 => ", 1 digest among them".to_owned(),
                n => format!(", {n} digests among them"),
            };
            let waiting = match channel.waiting {
                0 => String::new(),
                n => format!(", {n} not delivered yet"),
            };
            let told = if channel.notifications == 1 { "notification" } else { "notifications" };
            _ = writeln!(
                out,
                "  {}  {} {told}{waiting}{digests}{held}",
                pad(name, width),
                channel.notifications
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_and_held_back_is_a_line_a_channel() {
        let tally = |name, labels: &[(&'static str, &str)], value| {
            let labels =
                labels.iter().map(|(label, value)| (*label, (*value).to_owned())).collect();
            Tally { name, labels, value }
        };
        let tallies = [
            tally("errors_counted_total", &[], 1234),
            tally("incidents_open", &[("severity", "critical")], 1),
            tally("incidents_open", &[("severity", "high")], 2),
            tally("incidents_open", &[("severity", "low")], 0),
            tally("incidents_total", &[("event", "opened")], 5),
            tally("incidents_total", &[("event", "reopened")], 1),
            tally("incidents_total", &[("event", "updated")], 9),
            tally("silences_active", &[], 1),
            tally("notifications_total", &[("channel", "ops")], 17),
            tally("notifications_digests_total", &[("channel", "ops")], 2),
            tally("notifications_held_total", &[("channel", "ops"), ("reason", "repeated")], 4),
            tally("notifications_held_total", &[("channel", "ops"), ("reason", "silenced")], 0),
            tally("notifications_total", &[("channel", "oncall")], 3),
        ];
        let mut out = String::new();
        let mut status = AlertingStatus::of(&tallies);
        status.waits("ops", 0);
        status.waits("oncall", 2);
        status.render(&mut out);
        expect_test::expect![[r#"

            incidents: 3 open (1 critical, 2 high), 6 ever, of 1234 errors; 1 silence held
              oncall  3 notifications, 2 not delivered yet
              ops     17 notifications, 2 digests among them; held back: 4 repeated
        "#]]
        .assert_eq(&out);
    }
}
