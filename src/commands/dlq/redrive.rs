//! `dlq redrive`: sends letters back to the stage that failed, as a job that survives its runner.

use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;
use futures_util::StreamExt as _;
use millstream_stages::{headers, rate::Rate, text::excerpt, units::Period};
use serde::Serialize;

use super::{Dlq, filters, jobs};
use crate::{
    broker::get,
    commands::{people::who, table::Table, terminal_width},
    dead_letter::{
        LetterFilter, LetterRecord,
        read::{Examined, Letters, Span},
    },
    limits,
    redrive::{
        canary::Canary,
        job::{Job, Kind, MAX_REDRIVES, new_id},
        resend::stage_of,
        store::{Claim, Jobs},
        targets::Targets,
    },
};

/// Number of letters above which a redrive on a terminal asks before it sends them.
const ASKS_ABOVE: u64 = 100;

/// Arguments of `dlq redrive`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream dlq redrive 17 18
  millstream dlq redrive --stage orders --dry-run
  millstream dlq redrive --stage orders --class HttpServerError --canary 10 --stop-above 20%
  millstream dlq redrive --tenant acme --since 2h --rate 500/s
  millstream dlq redrive --all --detach      the workers do it; \
`dlq jobs show` says how far they are

Only the stage that failed sees the events again. A letter goes once its event is on its way; \
if it fails
again, it is a letter again, with one redrive more. Letters that come meanwhile are left alone.

It is a job: should this command die, a worker carries on (`millstream dlq jobs`). Ctrl-C stops it.

Exit status: 0 done, or nothing to do; 1 stopped by its canary, cancelled, \
or some could not be sent;
2 could not do it.")]
pub(super) struct Args {
    /// The numbers of letters, as `ls` prints them
    #[arg(value_name = "LETTER")]
    pub(super) letters: Vec<u64>,
    #[command(flatten)]
    pub(super) filters: filters::Filters,
    /// Every letter there is
    #[arg(long, conflicts_with = "letters")]
    all: bool,
    /// Only say what would be sent
    #[arg(long)]
    dry_run: bool,
    /// At most so many, such as 500/s or 20/min
    #[arg(long)]
    rate: Option<Rate>,
    /// Send so many first, wait for what becomes of them, and only then the rest
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::CANARY_MAX))
    )]
    canary: Option<u32>,
    /// Stop if more of the canary fail, such as 20% (else: if any fails)
    #[arg(long, value_name = "SHARE", requires = "canary", value_parser = share)]
    stop_above: Option<f64>,
    /// Leave letters of events that were redriven as often: they come back every time
    #[arg(long, value_name = "N", default_value_t = MAX_REDRIVES)]
    max_redrives: u32,
    /// Leave it to the workers
    #[arg(long)]
    detach: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Counts of the letters that a redrive would send and leave.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Count {
    /// Letters that match.
    letters: u64,
    /// Letters that would be sent.
    redriven: u64,
    /// Letters that the guard would leave.
    guarded: u64,
    /// Letters whose event was completed all the same.
    completed: u64,
    /// Letters of stages that take none, by stage, with the reason.
    skipped: BTreeMap<String, (u64, String)>,
    by_stage_and_class: BTreeMap<String, BTreeMap<String, u64>>,
}

/// Sends letters back.
///
/// # Errors
/// What was asked makes no sense, or the broker does not answer.
pub(super) async fn run(dlq: &Dlq, args: Args) -> anyhow::Result<ExitCode> {
    let Letters { broker, names } = &dlq.letters;
    let mut filter = args.filters.filter(broker.now())?;
    filter.letters.clone_from(&args.letters);
    if filter.is_all() && !args.all {
        bail!(
            "say which letters to redrive: their numbers, as `millstream dlq ls` prints them, \
             or flags such as --stage; --all means every one"
        )
    }
    filters::known_stage(broker, &dlq.pipeline, names, &filter).await?;
    let last = broker.stream_state(&names.dlq_stream()).await?.last_seq;
    let counted = count(dlq, &filter, last, &args).await?;
    if args.dry_run {
        return print_dry_run(&counted, &args);
    }
    if counted.letters == 0 {
        match args.json {
            true => println!("{}", serde_json::to_string(&counted)?),
            false => println!("no dead letters match: nothing to redrive"),
        }
        return Ok(ExitCode::SUCCESS);
    }
    if counted.redriven == 0 && !counted.skipped.is_empty() {
        bail!("could not redrive, and every letter stays: {}", counted.skips().join("; "));
    }
    if counted.redriven > ASKS_ABOVE && !args.yes && !args.json && !agrees(&counted)? {
        println!("nothing was redriven");
        return Ok(ExitCode::from(1));
    }
    let now = broker.now();
    let mut job = Job::new(new_id('r', now), Kind::Redrive, filter, last, &who(), now);
    job.per_second = args.rate.map(Rate::a_second);
    job.max_redrives = args.max_redrives;
    job.canary = args.canary.map(|count| Canary::new(count, args.stop_above.unwrap_or(0.0)));
    job.expected = Some(counted.letters);
    let records = Jobs::new(broker, names);
    if args.detach {
        records.create(&job).await?;
        return jobs::print_detached(&job, args.json);
    }
    let claim = Claim::create(&records, job, &jobs::runner()).await?;
    let context = jobs::context(broker, &dlq.pipeline);
    jobs::carry_on(&context, claim, args.json).await
}

/// Counts the letters that match, with a progress bar.
async fn count(dlq: &Dlq, filter: &LetterFilter, last: u64, args: &Args) -> anyhow::Result<Count> {
    let Letters { broker, names } = &dlq.letters;
    let mut counted = Count::default();
    let targets = Targets::of(&dlq.pipeline);
    let selecting = filters::compile(filter)?;
    if !filter.letters.is_empty() {
        for seq in &filter.letters {
            let letter = super::letter(broker, names, *seq).await?;
            if selecting.takes(broker, names, &letter).await? {
                counted.add(&letter, args, &targets, true);
            }
        }
        return Ok(counted);
    }
    let span = Span { after: 0, before: Some(last + 1) };
    let mut seen = std::pin::pin!(dlq.letters.oldest_first(&selecting, span, false));
    let bar = dlq.looking().await?;
    while let Some(Examined { letter, seq }) = seen.next().await.transpose()? {
        bar.at(seq, false);
        if let Some(letter) = letter {
            counted.add(&letter, args, &targets, false);
        }
    }
    bar.finish();
    Ok(counted)
}

impl Count {
    fn add(
        &mut self,
        letter: &crate::broker::StoredMessage,
        args: &Args,
        targets: &Targets,
        named: bool,
    ) {
        let LetterRecord { error_class, redrives, .. } = LetterRecord::of(letter);
        let stage = stage_of(letter).to_owned();
        self.letters += 1;
        if get(&letter.headers, headers::COMPLETED_AT).is_some() && !named {
            self.completed += 1;
        } else if redrives >= args.max_redrives {
            self.guarded += 1;
        } else if let Err(why) = targets.of_letters(&stage) {
            self.skipped.entry(stage.clone()).or_insert_with(|| (0, why.to_string())).0 += 1;
        } else {
            self.redriven += 1;
        }
        *self.by_stage_and_class.entry(stage).or_default().entry(error_class).or_default() += 1;
    }
}

impl Count {
    /// A sentence about the letters of each stage that cannot be sent.
    fn skips(&self) -> Vec<String> {
        let skip = |(stage, (number, why)): (&String, &(u64, String))| {
            let number = usize::try_from(*number).unwrap_or(usize::MAX);
            let letters = super::super::count(number, "letter");
            let stage = excerpt(stage, limits::STAGE_SHOWN_BYTES);
            super::super::printable(&match stage.is_empty() {
                true => format!("{letters}: {why}"),
                false => format!("{letters} of stage \"{stage}\": {why}"),
            })
        };
        self.skipped.iter().map(skip).collect()
    }
}

fn print_dry_run(counted: &Count, args: &Args) -> anyhow::Result<ExitCode> {
    if args.json {
        println!("{}", serde_json::to_string(counted)?);
        return Ok(ExitCode::SUCCESS);
    }
    let letters = |n: u64| super::super::count(usize::try_from(n).unwrap_or(usize::MAX), "letter");
    if counted.letters == 0 {
        println!("no dead letters match: nothing would be redriven");
        return Ok(ExitCode::SUCCESS);
    }
    table(&counted.by_stage_and_class).print(terminal_width());
    println!("\nwould redrive {}", letters(counted.redriven));
    if counted.guarded > 0 {
        println!("{}", jobs::guard_line(counted.guarded, args.max_redrives));
    }
    if counted.completed > 0 {
        println!(
            "would leave {} whose event was completed all the same",
            letters(counted.completed)
        );
    }
    counted.skips().iter().for_each(|skip| println!("would leave {skip}"));
    if let Some(rate) = args.rate {
        let seconds = (counted.redriven as f64 / rate.a_second()).ceil();
        println!("at this rate it takes {}", Period(Duration::from_secs_f64(seconds)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Letters of each stage and class, a row each.
fn table(by_stage_and_class: &BTreeMap<String, BTreeMap<String, u64>>) -> Table {
    let mut table = Table::new(&["STAGE", "CLASS", "LETTERS"]).right(&["LETTERS"]);
    for (stage, classes) in by_stage_and_class {
        for (class, n) in classes {
            table.row([stage.clone(), class.clone(), n.to_string()]);
        }
    }
    table
}

/// Asks a person at a terminal; true if they agree, or if nobody is there to be asked.
fn agrees(counted: &Count) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(true);
    }
    let stages: Vec<&str> = counted.by_stage_and_class.keys().map(String::as_str).collect();
    let (number, to) = (counted.redriven, super::super::printable(&stages.join(", ")));
    eprint!("redrive {number} letters to {to}? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Parses a share: `20%` or `0.2`.
fn share(text: &str) -> Result<f64, String> {
    let number = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse(),
    };
    number
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| format!("expected a share from 0% to 100%, such as 20%, got \"{text}\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::table::on_terminals;

    #[test]
    fn a_share_is_written_with_or_without_the_sign() {
        assert_eq!((share("20%"), share("0.2"), share("0%")), (Ok(0.2), Ok(0.2), Ok(0.0)));
        assert!(share("20").is_err() && share("-1%").is_err() && share("NaN").is_err());
    }

    #[test]
    fn a_dry_run_in_any_script_lines_up_on_every_terminal() {
        let counts = |counts: &[(&str, u64)]| {
            counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        let long = "com.example.shop.payments.gateway.GatewayTimeoutException";
        let counted = BTreeMap::from([
            ("orders".to_owned(), counts(&[("HttpServerError", 12_500), (long, 7)])),
            ("支付".to_owned(), counts(&[("余额不足", 3), ("שגיאת אימות", 41)])),
            (format!("stage-{}", "0123456789".repeat(3)), counts(&[("TimeoutError", 1)])),
        ]);
        expect_test::expect![[r#"
            80 columns
            STAGE                                 CLASS                              LETTERS
            orders                                HttpServerError                      12500
            orders                                com.example.shop.payments.gatewa…        7
            stage-012345678901234567890123456789  TimeoutError                             1
            支付                                  שגיאת אימות                             41
            支付                                  余额不足                                 3
            120 columns
            STAGE                                 CLASS                                     LETTERS
            orders                                HttpServerError                             12500
            orders                                com.example.shop.payments.gateway.Gatew…        7
            stage-012345678901234567890123456789  TimeoutError                                    1
            支付                                  שגיאת אימות                                    41
            支付                                  余额不足                                        3
            200 columns
            STAGE                                 CLASS                                     LETTERS
            orders                                HttpServerError                             12500
            orders                                com.example.shop.payments.gateway.Gatew…        7
            stage-012345678901234567890123456789  TimeoutError                                    1
            支付                                  שגיאת אימות                                    41
            支付                                  余额不足                                        3
        "#]]
        .assert_eq(&on_terminals(|_| table(&counted)));
    }
}
