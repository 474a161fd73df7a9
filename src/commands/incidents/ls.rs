//! `incidents ls`: incidents that go on, the worst first, and those that are over.

use std::{io::IsTerminal as _, process::ExitCode, time::SystemTime};

use millstream_stages::incident::{Change, Incident};
use serde::Serialize;

use super::{short_id, state};
use crate::{
    broker::Broker,
    commands::{
        count, found,
        lines::Lines,
        people::{self, when},
        table::Table,
        terminal_width,
    },
    config::Pipeline,
    incidents::{history, snapshot},
    limits,
    wire::parse_rfc3339,
};

/// Columns that a terminal needs to show how an incident goes, beside what it is.
const WIDE: usize = 130;

/// Arguments of `incidents ls`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Include incidents that are over
    #[arg(long)]
    all: bool,
    /// With --all: only those that were over at this time or later: RFC 3339, or how long ago
    #[arg(long, value_name = "TIME", default_value = "24h")]
    since: String,
    /// Only those of this severity: low, medium, high or critical; may be repeated
    #[arg(long, value_parser = ["low", "medium", "high", "critical"])]
    severity: Vec<String>,
    /// Only those of this code
    #[arg(long)]
    code: Option<String>,
    /// JSON, one incident per line
    #[arg(long)]
    json: bool,
}

/// An incident as `--json` prints it.
#[derive(Serialize)]
struct Line<'a> {
    stage: &'a str,
    #[serde(flatten)]
    incident: &'a Incident,
}

/// Lists incidents.
///
/// # Errors
/// The broker cannot be read.
pub(super) async fn run(
    broker: &Broker,
    pipeline: &Pipeline,
    args: &Args,
) -> anyhow::Result<ExitCode> {
    let fits = |incident: &Incident| {
        (args.severity.is_empty()
            || args.severity.iter().any(|severity| severity == incident.severity.as_str()))
            && args.code.as_ref().is_none_or(|code| *code == incident.code)
    };
    let mut incidents = snapshot::open(broker, pipeline).await?;
    incidents.retain(|(_, incident)| fits(incident));
    let open = incidents.len();
    if args.all {
        let since = parse_rfc3339(&people::moment(&args.since, "--since", broker.now())?);
        let mut over =
            history::changes(broker, pipeline, Some(Change::Resolved), since, fits).await?;
        over.reverse();
        incidents.extend(over);
    }
    if args.json {
        let mut lines = Lines::stdout();
        for (stage, incident) in &incidents {
            if !lines.line(&serde_json::to_string(&Line { stage, incident })?)? {
                break;
            }
        }
        lines.flush()?;
        return Ok(found(open > 0));
    }
    if incidents.is_empty() {
        let flags = !args.severity.is_empty() || args.code.is_some();
        println!("no incidents{}", if flags { " that these flags mean" } else { "" });
        return Ok(found(false));
    }
    let shown = incidents.len().min(limits::TABLE_ROWS_MAX);
    let now = std::io::stdout().is_terminal().then(|| broker.now());
    let width = terminal_width();
    table(&incidents[..shown], now, width).print(width);
    println!();
    println!("{} open{}", count(open, "incident"), over_of(&incidents, open));
    if let Some((_, first)) = incidents.first().filter(|_| open > 0) {
        let id = short_id(first);
        println!("look:   millstream incidents show {id}");
        if first.acknowledged.is_none() {
            println!("mine?   millstream incidents ack {id}");
        }
    }
    Ok(found(open > 0))
}

fn over_of(incidents: &[(String, Incident)], open: usize) -> String {
    if incidents.len() > open {
        format!(", {} over", incidents.len() - open)
    } else {
        String::new()
    }
}

/// Incidents, a row each, for a terminal of `width` columns; times are as of `now`, if given.
fn table(incidents: &[(String, Incident)], now: Option<SystemTime>, width: Option<usize>) -> Table {
    let mut table = Table::new(&[
        "INCIDENT", "SEVERITY", "COUNT", "A MINUTE", "TREND", "USERS", "SINCE", "LAST", "STATE",
        "CODE", "SERVICE", "MESSAGE",
    ])
    .right(&["COUNT", "A MINUTE", "USERS"]);
    for (_, incident) in incidents {
        table.row([
            short_id(incident),
            incident.severity.as_str().to_owned(),
            incident.count.to_string(),
            incident.rate_per_minute.to_string(),
            incident.trend.as_str().to_owned(),
            if incident.users == 0 { String::new() } else { incident.users.to_string() },
            when(&incident.opened_at.to_string(), now),
            when(&incident.last_seen.to_string(), now),
            state(incident),
            incident.code.clone(),
            incident.services.join(", "),
            incident.message.clone(),
        ]);
    }
    table.without_empty("USERS");
    if width.is_some_and(|width| width < WIDE) {
        for heading in ["TREND", "SINCE", "A MINUTE", "SERVICE", "USERS"] {
            table.without(heading);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use millstream_stages::incident::{OperatorAction, Severity};

    use super::*;
    use crate::{channels::sample, commands::table::on_terminals, wire::parse_rfc3339};

    #[test]
    fn incidents_in_any_script_line_up_on_every_terminal() {
        let at = "2026-11-21T08:00:00Z".parse().unwrap();
        let incident = |code: &str, severity, message: &str| Incident {
            message: message.into(),
            ..sample::incident(code, severity, "shop", at)
        };
        let incidents = [
            Incident {
                count: 12_500,
                rate_per_minute: 208.3,
                users: 100,
                acknowledged: Some(OperatorAction { by: "小明".into(), at, reason: None }),
                services: ["shop/orders", "shop/支付", "shop/billing-and-invoices"]
                    .map(String::from)
                    .into(),
                ..incident(
                    "PAYMENT_GATEWAY_UNAVAILABLE",
                    Severity::Critical,
                    "event <uuid>: no connection to <ip>: connection refused",
                )
            },
            incident("余额不足", Severity::High, "账户余额不足，无法完成订单的支付"),
            Incident {
                generation: 12,
                users: 0,
                ..incident("BALANCE", Severity::Low, "אין יתרה מספקת בחשבון")
            },
        ]
        .map(|incident| ("errors".to_owned(), incident));
        let now = parse_rfc3339("2026-11-21T11:00:00Z");
        let shown = on_terminals(|width| table(&incidents, now, width));
        expect_test::expect![[r#"
            80 columns
            INCIDENT     SEVERITY  COUNT  LAST    STATE        CODE         MESSAGE
            0a5599aa-1   critical  12500  3h ago  ack by 小明  PAYMENT_GA…  event <uuid>: n…
            cd1fa7d8-1   high          5  3h ago  open         余额不足     账户余额不足，…
            9c0f4252-12  low           5  3h ago  open again   BALANCE      אין יתרה מספקת …
            120 columns
            INCIDENT     SEVERITY  COUNT  LAST    STATE        CODE                         MESSAGE
            0a5599aa-1   critical  12500  3h ago  ack by 小明  PAYMENT_GATEWAY_UNAVAILABLE  event <uuid>: no connection to <ip>: co…
            cd1fa7d8-1   high          5  3h ago  open         余额不足                     账户余额不足，无法完成订单的支付
            9c0f4252-12  low           5  3h ago  open again   BALANCE                      אין יתרה מספקת בחשבון
            200 columns
            INCIDENT     SEVERITY  COUNT  A MINUTE  TREND   USERS  SINCE   LAST    STATE        CODE                         SERVICE                                   MESSAGE
            0a5599aa-1   critical  12500     208.3  rising    100  3h ago  3h ago  ack by 小明  PAYMENT_GATEWAY_UNAVAILABLE  shop/orders, shop/支付, shop/billing-an…  event <uuid>: no connection to <ip>: connect…
            cd1fa7d8-1   high          5       2.5  rising      3  3h ago  3h ago  open         余额不足                     shop-sample                               账户余额不足，无法完成订单的支付
            9c0f4252-12  low           5       2.5  rising         3h ago  3h ago  open again   BALANCE                      shop-sample                               אין יתרה מספקת בחשבון
        "#]].assert_eq(&shown);
    }
}
