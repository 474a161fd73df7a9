//! `dlq stats`: number of letters, by stage, reason and class, and since when.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal as _,
    process::ExitCode,
    time::SystemTime,
};

use millstream_stages::units::Size;

use super::{Dlq, filters::Filters, lines};
use crate::{
    commands::{found, people::when, table::Table, terminal_width},
    dead_letter::groups::Stats,
};

/// Arguments of `dlq stats`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream dlq stats
  millstream dlq stats --since 24h --tenant acme
  millstream dlq stats --json | jq .stages.orders

Exit status: 0 there are no letters, 1 there are some, 2 could not tell.")]
pub(super) struct Args {
    #[command(flatten)]
    filters: Filters,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Counts the letters.
///
/// # Errors
/// The letters could not be read.
pub(super) async fn run(dlq: &Dlq, args: Args) -> anyhow::Result<ExitCode> {
    let mut stats = Stats::new(dlq.letters.broker.now());
    dlq.each(&args.filters, |letter| stats.add(letter)).await?;
    let stream_bytes = dlq.letters.broker.stream_state(&dlq.letters.stream()).await?.bytes;
    if args.json {
        let mut value = serde_json::to_value(&stats)?;
        value["streamBytes"] = stream_bytes.into();
        lines::print(&serde_json::to_string_pretty(&value)?)?;
        return Ok(found(stats.letters > 0));
    }
    if stats.letters == 0 {
        println!(
            "no dead letters{}",
            if args.filters.is_empty() { "" } else { " that these flags mean" }
        );
        return Ok(ExitCode::SUCCESS);
    }
    print(&stats, stream_bytes, dlq.letters.broker.now());
    Ok(found(true))
}

fn print(stats: &Stats, stream_bytes: u64, now: SystemTime) {
    let now = std::io::stdout().is_terminal().then_some(now);
    println!(
        "{} dead letters, {} in the last hour, {} in the last 24 h",
        stats.letters, stats.last_hour, stats.last_day
    );
    let time = |at: &Option<String>| at.as_deref().map_or_else(|| "-".into(), |at| when(at, now));
    println!(
        "oldest {}, newest {}; payloads {}, the stream {}",
        crate::commands::printable(&time(&stats.oldest)),
        crate::commands::printable(&time(&stats.newest)),
        rounded(stats.payload_bytes),
        rounded(stream_bytes),
    );
    for (number, what) in [
        (stats.redriven, "were redriven before"),
        (stats.permanent, "are permanent: recovery will not redrive them"),
        (stats.edited, "were edited"),
        (stats.completed_late, "were completed late: their event is done all the same"),
    ] {
        if number > 0 {
            println!("{number} {what}");
        }
    }
    let width = terminal_width();
    println!();
    stages_table(&stats.stages).print(width);
    println!();
    classes_table(&stats.classes).print(width);
    println!("\nwhat went wrong: millstream dlq groups");
}

/// Letters of each stage, a row each, by reason.
fn stages_table(stages: &BTreeMap<String, BTreeMap<String, u64>>) -> Table {
    let reasons: BTreeSet<&String> = stages.values().flat_map(BTreeMap::keys).collect();
    let numbers: Vec<String> = std::iter::once("ALL".to_owned())
        .chain(reasons.iter().map(|reason| reason.to_uppercase()))
        .collect();
    let heading = [&["STAGE".to_owned()], &numbers[..]].concat();
    let mut table = Table::new(&heading).right(&numbers);
    for (stage, by_reason) in stages {
        let all: u64 = by_reason.values().sum();
        let each = reasons
            .iter()
            .map(|reason| by_reason.get(*reason).map_or_else(|| "-".into(), u64::to_string));
        table.row([stage.clone(), all.to_string()].into_iter().chain(each));
    }
    table
}

/// Letters of each class, a row each, the most frequent first.
fn classes_table(classes: &BTreeMap<String, u64>) -> Table {
    let mut classes: Vec<(&String, &u64)> = classes.iter().collect();
    classes.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
    let mut table = Table::new(&["CLASS", "LETTERS"]).right(&["LETTERS"]);
    for (class, number) in classes {
        table.row([class.clone(), number.to_string()]);
    }
    table
}

/// A size in the largest unit that leaves a number of three digits or so.
fn rounded(bytes: u64) -> String {
    let unit =
        [1 << 30, 1 << 20, 1 << 10].into_iter().find(|unit| bytes >= unit * 10).unwrap_or(1_u64);
    Size(bytes / unit * unit).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::table::on_terminals;

    #[test]
    fn stages_and_classes_in_any_script_line_up_on_every_terminal() {
        let counts = |counts: &[(&str, u64)]| {
            counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        let stages = BTreeMap::from([
            ("orders".to_owned(), counts(&[("exhausted", 12_500), ("rejected", 7)])),
            ("支付".to_owned(), counts(&[("rejected", 3), ("undecodable", 1)])),
            (format!("stage-{}", "0123456789".repeat(6)), counts(&[("max_deliver", 123_456)])),
        ]);
        expect_test::expect![[r#"
            80 columns
            STAGE                         ALL  EXHAUSTED  MAX_DELIVER  REJECTED  UNDECODABLE
            orders                      12507      12500            -         7            -
            stage-012345678901234567…  123456          -       123456         -            -
            支付                            4          -            -         3            1
            120 columns
            STAGE                                                                 ALL  EXHAUSTED  MAX_DELIVER  REJECTED  UNDECODABLE
            orders                                                              12507      12500            -         7            -
            stage-0123456789012345678901234567890123456789012345678901234567…  123456          -       123456         -            -
            支付                                                                    4          -            -         3            1
            200 columns
            STAGE                                                                  ALL  EXHAUSTED  MAX_DELIVER  REJECTED  UNDECODABLE
            orders                                                               12507      12500            -         7            -
            stage-012345678901234567890123456789012345678901234567890123456789  123456          -       123456         -            -
            支付                                                                     4          -            -         3            1
        "#]].assert_eq(&on_terminals(|_| stages_table(&stages)));
        let classes = counts(&[
            ("com.example.shop.payments.gateway.GatewayTimeoutExceptionOfTheSecondKind", 12_500),
            ("余额不足", 500),
            ("שגיאת אימות", 500),
            ("Error\nX\u{2066}", 3),
        ]);
        expect_test::expect![[r#"
            80 columns
            CLASS                                                                    LETTERS
            com.example.shop.payments.gateway.GatewayTimeoutExceptionOfTheSecondKi…    12500
            שגיאת אימות                                                                  500
            余额不足                                                                     500
            Error X\u{2066}                                                                3
            120 columns
            CLASS                                                                     LETTERS
            com.example.shop.payments.gateway.GatewayTimeoutExceptionOfTheSecondKind    12500
            שגיאת אימות                                                                   500
            余额不足                                                                      500
            Error X\u{2066}                                                                 3
            200 columns
            CLASS                                                                     LETTERS
            com.example.shop.payments.gateway.GatewayTimeoutExceptionOfTheSecondKind    12500
            שגיאת אימות                                                                   500
            余额不足                                                                      500
            Error X\u{2066}                                                                 3
        "#]]
        .assert_eq(&on_terminals(|_| classes_table(&classes)));
    }
}
