//! `incidents show`: one incident with its numbers, its story and its samples.

use std::{io::IsTerminal as _, process::ExitCode, time::SystemTime};

use anyhow::bail;
use millstream_stages::{
    incident::{Change, Incident},
    units::Period,
};

use super::{is_meant, short_id, state};
use crate::{
    broker::Broker,
    commands::{lines, people::when, printable},
    config::Pipeline,
    incidents::{history, snapshot},
};

/// Shows the incident that is meant, of those that go on and those whose story is still stored.
///
/// # Errors
/// There is none, or there are several.
pub(super) async fn run(
    broker: &Broker,
    pipeline: &Pipeline,
    text: &str,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let told =
        history::changes(broker, pipeline, None, None, |incident| is_meant(text, incident)).await?;
    let mut known = snapshot::open(broker, pipeline).await?;
    known.retain(|(_, incident)| is_meant(text, incident));
    let mut ids: Vec<&str> =
        known.iter().chain(&told).map(|(_, incident)| incident.incident_id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    // What goes on is meant before what is over.
    let latest = known.first().or(told.last());
    let Some((stage, incident)) = latest else {
        bail!(
            "there is no incident \"{}\"\n hint: `millstream incidents ls --all` lists them",
            printable(text)
        )
    };
    let fingerprints = ids.iter().filter(|id| !id.starts_with(&incident.fingerprint)).count();
    if fingerprints > 0 {
        bail!("\"{}\" could be {}\n hint: type more of it", printable(text), ids.join(", "))
    }
    let story: Vec<&Incident> = told
        .iter()
        .map(|(_, told)| told)
        .filter(|told| told.incident_id == incident.incident_id)
        .collect();
    if json {
        let value = serde_json::json!({ "stage": stage, "incident": incident, "story": story });
        lines::print(&serde_json::to_string_pretty(&value)?)?;
    } else {
        lines::print(&printable(render(incident, &story, broker.now()).trim_end()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(incident: &Incident, story: &[&Incident], now: SystemTime) -> String {
    let now = std::io::stdout().is_terminal().then_some(now);
    let at = |time: jiff::Timestamp| when(&time.to_string(), now);
    let Incident { code, severity, message, count, total, users, .. } = incident;
    let mut out = format!("{} {code}\n  {message}\n\n", short_id(incident));
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            out += &format!("  {name:<14}{value}\n");
        }
    };
    row("severity", severity.as_str().to_owned());
    row("state", state(incident));
    row("id", incident.incident_id.clone());
    row("services", incident.services.join(", "));
    let labels =
        incident.labels.iter().filter(|(label, _)| !SHOWN_ELSEWHERE.contains(&label.as_str()));
    row(
        "labels",
        labels.map(|(label, value)| format!("{label}={value}")).collect::<Vec<_>>().join(" "),
    );
    let window = Period(std::time::Duration::from_millis(incident.window_ms));
    row(
        "errors",
        format!("{count}, of {total} ever; opens at {} within {window}", incident.threshold),
    );
    row(
        "a minute",
        format!(
            "{} {} {}",
            incident.rate_per_minute,
            incident.trend.as_str(),
            spark(&incident.per_minute)
        ),
    );
    row("users", if *users == 0 { String::new() } else { users.to_string() });
    row("first seen", at(incident.first_seen));
    row("last seen", at(incident.last_seen));
    row("opened", at(incident.opened_at));
    if let Some(before) = incident.last_resolved_at {
        row("over before", format!("{}: it is back", at(before)));
    }
    row("channels", incident.channels.join(", "));
    if !story.is_empty() {
        out += "\n  what became of it\n";
        for told in story {
            let who = match told.event {
                Change::Acknowledged => told.acknowledged.as_ref(),
                Change::Resolved => told.resolved_by.as_ref(),
                Change::Opened | Change::Reopened | Change::Updated | Change::Escalated => None,
            };
            let reason = |said: &millstream_stages::incident::OperatorAction| {
                said.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default()
            };
            let by =
                who.map(|said| format!(", by {}{}", said.by, reason(said))).unwrap_or_default();
            let time = match told.event {
                Change::Opened | Change::Reopened => told.opened_at,
                Change::Acknowledged => {
                    told.acknowledged.as_ref().map_or(told.last_seen, |said| said.at)
                }
                Change::Resolved => told.resolved_at.unwrap_or(told.last_seen),
                Change::Updated | Change::Escalated => told.last_seen,
            };
            let (event, severity) = (told.event.as_str(), told.severity.as_str());
            out += &format!(
                "    {:<26}{event:<13}{severity:<9} {} errors{by}\n",
                at(time),
                told.count
            );
        }
    }
    if !incident.samples.is_empty() {
        out += "\n  for example\n";
        for sample in &incident.samples {
            out += &format!("    {}  {}\n", at(sample.at), sample.message);
            for (name, id) in [("event", &sample.event_id), ("trace", &sample.trace_id)] {
                if let Some(id) = id {
                    out += &format!("      {name} {id}\n");
                }
            }
        }
    }
    if !incident.is_over() {
        out += "\n";
        if incident.acknowledged.is_none() {
            out += &format!("mine?   millstream incidents ack {}\n", short_id(incident));
        }
        out += &format!("over?   millstream incidents resolve {}\n", short_id(incident));
        out += &format!(
            "quiet?  millstream silence add 'fingerprint={}' --for 2h --reason …\n",
            incident.fingerprint
        );
    }
    out
}

/// Labels that have a row of their own.
const SHOWN_ELSEWHERE: [&str; 4] = ["code", "severity", "service", "fingerprint"];

/// Counts as a line of bars, the highest as high as there is.
fn spark(counts: &[u64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    // The least that is more than nothing does not look like nothing.
    let bar = |count: &u64| BARS[usize::try_from((count * 7).div_ceil(most)).unwrap_or(7).min(7)];
    counts.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_bars_tells_little_from_nothing() {
        assert_eq!(spark(&[0, 1, 50, 100]), "▁▂▅█");
        assert_eq!(spark(&[0, 0]), "▁▁");
        assert_eq!(spark(&[]), "");
    }
}
