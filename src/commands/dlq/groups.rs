//! `dlq groups`: letters by fingerprint, the same failures together.

use std::{io::IsTerminal as _, process::ExitCode, time::SystemTime};

use super::{Dlq, filters::Filters, lines, ls::NARROW};
use crate::{
    commands::{count, found, people::when, table::Table, terminal_width},
    dead_letter::groups::{Group, Groups},
    limits,
};

/// Digits of a fingerprint that are shown: enough to tell ten thousand groups apart.
const SHORT: usize = 8;

/// Arguments of `dlq groups`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream dlq groups                       what went wrong, the most frequent first
  millstream dlq groups --since 24h --stage orders
  millstream dlq groups --json | jq '.groups[0].message'

Exit status: 0 there are none, 1 there are some, 2 could not tell.")]
pub(super) struct Args {
    #[command(flatten)]
    filters: Filters,
    /// Most groups shown
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Groups the letters by fingerprint.
///
/// # Errors
/// The letters could not be read.
pub(super) async fn run(dlq: &Dlq, args: Args) -> anyhow::Result<ExitCode> {
    let mut groups = Groups::new(limits::GROUPS_MAX);
    let mut letters = 0_u64;
    dlq.each(&args.filters, |letter| {
        letters += 1;
        groups.add(letter);
    })
    .await?;
    let (mut groups, other) = groups.finish();
    let all = groups.len();
    groups.truncate(args.limit);
    if args.json {
        let value = serde_json::json!({
            "letters": letters,
            "groups": groups,
            "groupsAll": all,
            "inNoGroup": other,
        });
        lines::print(&serde_json::to_string_pretty(&value)?)?;
        return Ok(found(letters > 0));
    }
    let Some(top) = groups.first() else {
        println!(
            "no dead letters{}",
            if args.filters.is_empty() { "" } else { " that these flags mean" }
        );
        return Ok(ExitCode::SUCCESS);
    };
    let now = std::io::stdout().is_terminal().then(|| dlq.letters.broker.now());
    let width = terminal_width();
    table(&groups, now, width).print(width);
    println!();
    println!("{} in {}", count(usize::try_from(letters)?, "letter"), count(all, "group"));
    if all > groups.len() {
        println!("{} more; --limit {all} shows all", count(all - groups.len(), "group"));
    }
    if other > 0 {
        println!(
            "{other} of the letters are in none of these groups: only {} are told apart; \
             narrow it down with --stage or --since",
            limits::GROUPS_MAX
        );
    }
    let fingerprint = crate::commands::printable(short(&top.fingerprint));
    println!("look:    millstream dlq ls --fingerprint {fingerprint}");
    println!("one:     millstream dlq show {}", top.sample);
    println!("mended?  millstream dlq redrive --fingerprint {fingerprint} --canary 10");
    Ok(found(true))
}

/// Groups, a row each, for a terminal of `width` columns; times are as of `now`, if given.
fn table(groups: &[Group], now: Option<SystemTime>, width: Option<usize>) -> Table {
    let mut table = Table::new(&[
        "COUNT", "GROUP", "STAGE", "CLASS", "FIRST", "LAST", "TYPES", "SAMPLE", "MESSAGE",
    ])
    .right(&["COUNT", "SAMPLE"]);
    for group in groups {
        table.row([
            group.count.to_string(),
            short(&group.fingerprint).to_owned(),
            group.stages.to_string(),
            group.classes.to_string(),
            when(&group.first, now),
            when(&group.last, now),
            group.types.to_string(),
            group.sample.to_string(),
            group.message.clone(),
        ]);
    }
    if width.is_some_and(|width| width < NARROW) {
        table.without("FIRST");
        table.without("TYPES");
    }
    table
}

fn short(fingerprint: &str) -> &str {
    fingerprint.get(..SHORT).unwrap_or(fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        commands::table::on_terminals, dead_letter::groups::NameList, wire::parse_rfc3339,
    };

    #[test]
    fn groups_in_any_script_line_up_on_every_terminal() {
        let names = |names: &[&str]| NameList {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            more: names.len() > 1,
        };
        let group = |count, class: &str, types: &[&str], message: &str| Group {
            fingerprint: "1fd18fd1a0b1c2d3".into(),
            count,
            first: "2026-11-20T08:00:00.000Z".into(),
            last: "2026-11-21T10:59:57.000Z".into(),
            stages: names(&["orders"]),
            classes: names(&[class]),
            types: names(types),
            sample: count * 3,
            message: message.into(),
        };
        let groups = [
            group(
                12_500,
                "com.example.shop.payments.gateway.GatewayTimeoutException",
                &["order.created", "order.changed"],
                "event 0199a3f2-77aa-7bbb-8ccc-ddddeeeeffff: no answer within five seconds",
            ),
            group(500, "余额不足", &["订单.已创建"], "账户余额不足，无法完成订单的支付"),
            group(3, "ValidationError", &[], "אין יתרה מספקת בחשבון"),
        ];
        let now = parse_rfc3339("2026-11-21T11:00:00Z");
        let shown = on_terminals(|width| table(&groups, now, width));
        expect_test::expect![[r#"
            80 columns
            COUNT  GROUP     STAGE   CLASS             LAST    SAMPLE  MESSAGE
            12500  1fd18fd1  orders  com.example.sho…  3s ago   37500  event 0199a3f2-77aa-…
              500  1fd18fd1  orders  余额不足          3s ago    1500  账户余额不足，无法完…
                3  1fd18fd1  orders  ValidationError   3s ago       9  אין יתרה מספקת בחשבון
            120 columns
            COUNT  GROUP     STAGE   CLASS                FIRST    LAST    TYPES                SAMPLE  MESSAGE
            12500  1fd18fd1  orders  com.example.shop.p…  27h ago  3s ago  order.created, ord…   37500  event 0199a3f2-77aa-7bbb-8c…
              500  1fd18fd1  orders  余额不足             27h ago  3s ago  订单.已创建            1500  账户余额不足，无法完成订单…
                3  1fd18fd1  orders  ValidationError      27h ago  3s ago  -                         9  אין יתרה מספקת בחשבון
            200 columns
            COUNT  GROUP     STAGE   CLASS                                     FIRST    LAST    TYPES                            SAMPLE  MESSAGE
            12500  1fd18fd1  orders  com.example.shop.payments.gateway.Gatew…  27h ago  3s ago  order.created, order.changed, …   37500  event 0199a3f2-77aa-7bbb-8ccc-ddddeeeeffff: no answer within five seconds
              500  1fd18fd1  orders  余额不足                                  27h ago  3s ago  订单.已创建                        1500  账户余额不足，无法完成订单的支付
                3  1fd18fd1  orders  ValidationError                           27h ago  3s ago  -                                     9  אין יתרה מספקת בחשבון
        "#]].assert_eq(&shown);
    }
}
