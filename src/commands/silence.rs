//! `silence`: notifications held back for a while: add, list, remove.

use std::{collections::BTreeSet, io::IsTerminal as _, process::ExitCode, time::SystemTime};

use anyhow::{Context as _, bail, ensure};
use jiff::Timestamp;
use millstream_stages::{
    matcher::{Matchers, labels_hint},
    operator::Silence,
    units::Period,
};

use super::{App, count, found, people, people::when, printable, table::Table, terminal_width};
use crate::{
    broker::Broker,
    config::Pipeline,
    incidents::{
        silences::{self, Phase},
        snapshot,
    },
    limits,
    redrive::job::new_id,
};

/// Arguments of `silence`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream silence add code=PAYMENT_GATEWAY_UNAVAILABLE --for 2h --reason 'provider maintenance'
  millstream silence add service=shop/orders 'severity!=critical' --for 30m --reason deploy
  millstream silence ls
  millstream silence rm s-20261121-101502-ab12

Incidents go on and are counted; `millstream incidents ls` shows them. \
Incidents that still go on when the silence ends are sent then.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Hold back notifications of incidents that fit every matcher
    #[command(after_help = "Examples:
  millstream silence add code=X --for 2h --reason 'known, being mended'
  millstream silence add 'code=~DEVICE_.*' stage=orders --for 8h \
      --from 2026-11-21T22:00:00Z --reason maintenance

A matcher is LABEL=VALUE, LABEL!=VALUE, LABEL=~REGEX or LABEL!~REGEX; several may stand in one \
text, as in '{code=X, severity!=critical}'. \
The labels of an incident are code, severity, service,
fingerprint, stage (of failed attempts), and what else its fingerprint is made of; \
`incidents show` prints them.")]
    Add {
        /// Conditions that must all hold, such as severity=high or 'code=~PAY.*'
        #[arg(required = true, value_name = "MATCHER")]
        matchers: Vec<String>,
        /// Duration, such as 2h
        #[arg(long = "for", value_name = "TIME")]
        duration: Period,
        /// Start time, RFC 3339; by default, now
        #[arg(long, value_name = "TIME")]
        from: Option<Timestamp>,
        /// Reason, for those who wonder why nothing came
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Name to record; by default, the user at the keyboard
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// List silences that hold or will hold
    #[command(after_help = "Examples:
  millstream silence ls
  millstream silence ls --all --json | jq -r .id

Exit status: 0 there are none, 1 there are some, 2 could not tell.")]
    Ls {
        /// Include silences that are over; they stay on record for 7 days
        #[arg(long)]
        all: bool,
        /// JSON, one silence per line
        #[arg(long)]
        json: bool,
    },
    /// End a silence now
    #[command(after_help = "Examples:
  millstream silence rm s-20261121-101502-ab12")]
    Rm {
        /// Silence id, as `ls` prints it; its beginning is enough
        silence: String,
        /// JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs one of the subcommands.
///
/// # Errors
/// The broker cannot be read or written; there is no such silence.
pub async fn run(app: &App, args: Args) -> anyhow::Result<ExitCode> {
    let pipeline = app.pipeline()?;
    if snapshot::alerts(&pipeline).next().is_none() {
        bail!("the pipeline sends no notifications\n hint: add a stage of kind = \"alert\"");
    }
    let broker = app.connect(&pipeline).await?;
    super::must_exist(&broker, &pipeline.names().state_stream()).await?;
    match args.command {
        Command::Add { matchers, duration, from, reason, by, json } => {
            let silence = silence(&matchers, &pipeline, duration, from, reason, by, broker.now())?;
            add(&broker, &pipeline, silence, json).await
        }
        Command::Ls { all, json } => ls(&broker, &pipeline, all, json).await,
        Command::Rm { silence, json } => rm(&broker, &pipeline, &silence, json).await,
    }
}

/// Silence that the arguments ask for.
fn silence(
    matchers: &[String],
    pipeline: &Pipeline,
    duration: Period,
    from: Option<Timestamp>,
    reason: String,
    by: Option<String>,
    at: SystemTime,
) -> anyhow::Result<Silence> {
    let matchers = fitting_some(matchers, &pipeline.incident_labels())?;
    ensure!(!duration.0.is_zero(), "--for 0s would hold nothing back");
    ensure!(
        !reason.trim().is_empty(),
        "--reason is empty: say why, for those who wonder why nothing came"
    );
    let now = Timestamp::try_from(at)?;
    let starts_at = from.unwrap_or(now);
    let ends_at = silences::later(starts_at, duration.0);
    ensure!(
        ends_at > now,
        "it would be over already: it begins at {starts_at} and ends at {ends_at}"
    );
    let id = new_id('s', at);
    Ok(Silence {
        id,
        matchers,
        by: by.unwrap_or_else(people::who),
        reason,
        made_at: now,
        starts_at,
        ends_at,
    })
}

/// Matchers that an incident can fit.
fn fitting_some(texts: &[String], known: &BTreeSet<String>) -> anyhow::Result<Matchers> {
    let mut all = Matchers::default();
    for text in texts {
        all.0.extend(text.parse::<Matchers>().map_err(anyhow::Error::msg)?.0);
    }
    if let Some((why, hint)) = all.never() {
        bail!("{why}\n hint: {hint}");
    }
    if let Some(label) = all.unknown(known).first() {
        bail!("no incident has the label \"{}\"\n hint: {}", printable(label), labels_hint(known));
    }
    Ok(all)
}

async fn add(
    broker: &Broker,
    pipeline: &Pipeline,
    silence: Silence,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let names = pipeline.names();
    let there = silences::all(broker, &names).await?;
    ensure!(
        there.len() < limits::SILENCES_MAX,
        "there are {} silences on record, which is the most\n \
         hint: a few with wider matchers hold back as much",
        there.len()
    );
    silences::put(broker, &names, &silence).await?;
    let open = snapshot::open(broker, pipeline).await?;
    let fitting: Vec<&str> = open
        .iter()
        .filter(|(_, incident)| silence.matchers.match_all(&incident.labels))
        .map(|(_, incident)| incident.code.as_str())
        .collect();
    if json {
        println!("{}", serde_json::json!({ "silence": silence, "openIncidents": fitting.len() }));
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", silence.id);
    println!("holds back {} until {}", printable(&silence.matchers.to_string()), silence.ends_at);
    match fitting.as_slice() {
        [] => println!("no incident that goes on fits it now"),
        [first] => println!("1 incident that goes on fits it: {}", printable(first)),
        [first, ..] => {
            println!("{} incidents that go on fit it, such as {}", fitting.len(), printable(first))
        }
    }
    println!("end it:  millstream silence rm {}", silence.id);
    Ok(ExitCode::SUCCESS)
}

async fn ls(
    broker: &Broker,
    pipeline: &Pipeline,
    all: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let now = broker.timestamp();
    let mut silences = silences::all(broker, &pipeline.names()).await?;
    silences.retain(|silence| all || Phase::of(silence, now) != Phase::Expired);
    if json {
        for silence in &silences {
            let mut line = serde_json::to_value(silence)?;
            line["state"] = Phase::of(silence, now).as_str().into();
            println!("{line}");
        }
        return Ok(found(!silences.is_empty()));
    }
    if silences.is_empty() {
        println!(
            "no silences{}",
            if all { "" } else { " that hold; --all lists those that are over" }
        );
        return Ok(found(false));
    }
    let clock = std::io::stdout().is_terminal().then(|| broker.now());
    table(&silences, now, clock).print(terminal_width());
    println!();
    println!("{}", count(silences.len(), "silence"));
    Ok(found(true))
}

/// Silences, a row each, as they are at `now`; times are as of `clock`, if given.
fn table(silences: &[Silence], now: Timestamp, clock: Option<SystemTime>) -> Table {
    let mut table = Table::new(&["SILENCE", "STATE", "MADE", "ENDS", "BY", "MATCHERS", "REASON"]);
    for silence in silences {
        let ends = match (clock, silence.ends_at.duration_since(now).try_into()) {
            (Some(_), Ok(left)) => format!("in {}", people::short(left)),
            (Some(_), Err(_)) => when(&silence.ends_at.to_string(), clock),
            (None, _) => silence.ends_at.to_string(),
        };
        table.row([
            silence.id.clone(),
            Phase::of(silence, now).as_str().to_owned(),
            when(&silence.made_at.to_string(), clock),
            ends,
            silence.by.clone(),
            silence.matchers.to_string(),
            silence.reason.clone(),
        ]);
    }
    table
}

async fn rm(
    broker: &Broker,
    pipeline: &Pipeline,
    id: &str,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let now = broker.timestamp();
    let names = pipeline.names();
    let all = silences::all(broker, &names).await?;
    let mut meant = all.into_iter().filter(|silence| silence.id.starts_with(id));
    let hint = "`millstream silence ls` lists them";
    let first = meant
        .next()
        .with_context(|| format!("there is no silence \"{}\"\n hint: {hint}", printable(id)))?;
    if let Some(second) = meant.next() {
        bail!(
            "\"{}\" could be {} or {}\n hint: type more of it",
            printable(id),
            first.id,
            second.id
        );
    }
    if Phase::of(&first, now) == Phase::Expired {
        bail!("silence {} was over at {} already", first.id, first.ends_at);
    }
    let ended = silences::end(broker, &names, first).await?;
    if json {
        println!("{}", serde_json::to_string(&ended)?);
    } else {
        println!(
            "{} is over; what it held back and still goes on is told \
             with the next notification of its group",
            ended.id
        );
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::table::on_terminals;

    #[test]
    fn a_silence_that_no_incident_can_fit_is_refused() {
        let known = millstream_stages::matcher::LABELS.map(str::to_owned).into();
        let read = |text: &str| fitting_some(&[text.to_owned()], &known);
        assert_eq!(read("{code=X, severity!=low}").unwrap().0.len(), 2);
        for (text, wanted) in [
            ("severity=warning", "you may mean medium"),
            ("alertname=X", "no incident has the label"),
            ("code=a}", "double quotes"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn silences_in_any_script_line_up_on_every_terminal() {
        let now: Timestamp = "2026-11-21T11:00:00Z".parse().unwrap();
        let silence = |id: &str, matchers: &[&str], by: &str, reason: &str, ends: &str| Silence {
            id: id.into(),
            matchers: Matchers(matchers.iter().map(|text| text.parse().unwrap()).collect()),
            by: by.into(),
            reason: reason.into(),
            made_at: "2026-11-21T08:00:00Z".parse().unwrap(),
            starts_at: "2026-11-21T08:00:00Z".parse().unwrap(),
            ends_at: ends.parse().unwrap(),
        };
        let silences = [
            silence(
                "s-20261121-101502-ab12",
                &["code=PAYMENT_GATEWAY_UNAVAILABLE", "severity!=critical", "service=shop/orders"],
                "ada@a-host-with-a-long-name.ops.example.com",
                "provider maintenance 0199a3f2-77aa-7bbb-8ccc-ddddeeeeffff",
                "2026-11-21T13:30:00Z",
            ),
            silence(
                "s-20261121-101503-cd34",
                &["code=余额不足"],
                "小明@运维",
                "已知问题，正在修复，请勿打扰",
                "2026-11-22T23:00:00Z",
            ),
            silence("s-1", &["stage=orders"], "דנה", "תחזוקה", "2026-11-21T10:00:00Z"),
        ];
        let clock = Some(SystemTime::from(now));
        let shown = on_terminals(|_| table(&silences, now, clock));
        expect_test::expect![[r#"
            80 columns
            SILENCE                 STATE    MADE    ENDS    BY        MATCHERS  REASON
            s-20261121-101502-ab12  active   3h ago  in 2h   ada@a-h…  code="P…  provider m…
            s-20261121-101503-cd34  active   3h ago  in 36h  小明@运…  code="…   已知问题，…
            s-1                     expired  3h ago  1h ago  דנה       stage="…  תחזוקה
            120 columns
            SILENCE                 STATE    MADE    ENDS    BY                    MATCHERS             REASON
            s-20261121-101502-ab12  active   3h ago  in 2h   ada@a-host-with-a-l…  code="PAYMENT_GATE…  provider maintenance 0199a3…
            s-20261121-101503-cd34  active   3h ago  in 36h  小明@运维             code="余额不足"      已知问题，正在修复，请勿打扰
            s-1                     expired  3h ago  1h ago  דנה                   stage="orders"       תחזוקה
            200 columns
            SILENCE                 STATE    MADE    ENDS    BY                                        MATCHERS                                  REASON
            s-20261121-101502-ab12  active   3h ago  in 2h   ada@a-host-with-a-long-name.ops.example…  code="PAYMENT_GATEWAY_UNAVAILABLE" seve…  provider maintenance 0199a3f2-77aa-7bbb-8ccc-ddddeeeeffff
            s-20261121-101503-cd34  active   3h ago  in 36h  小明@运维                                 code="余额不足"                           已知问题，正在修复，请勿打扰
            s-1                     expired  3h ago  1h ago  דנה                                       stage="orders"                            תחזוקה
        "#]].assert_eq(&shown);
    }
}
