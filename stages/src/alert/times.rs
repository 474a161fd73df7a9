//! Times: intervals of time that recur, as Alertmanager's `time_intervals`, in any time zone.

use std::{collections::BTreeMap, ops::RangeInclusive};

use jiff::{
    ToSpan as _, Zoned,
    civil::Date,
    tz::{TimeZone, TimeZoneDatabase},
};

use super::options::TimeOptions;
use crate::{
    Problem,
    calendar::{MONTHS, WEEKDAYS},
    incident::timestamp,
};

/// Most tables of an alert stage.
const TIMES_MAX: usize = 200;
/// Most ranges of one list.
const RANGES_MAX: usize = 100;

/// Intervals by name, each with its alternatives.
#[derive(Debug, Default)]
pub(super) struct Times(BTreeMap<String, Vec<Interval>>);

/// One table: each list that is not empty must hold the time.
#[derive(Debug)]
struct Interval {
    /// Minutes of the day, from and to; a `to` before its `from` is on the next day.
    times: Vec<(i32, i32)>,
    weekdays: Vec<RangeInclusive<i32>>,
    days: Vec<RangeInclusive<i32>>,
    months: Vec<RangeInclusive<i32>>,
    years: Vec<RangeInclusive<i32>>,
    zone: TimeZone,
}

impl Times {
    /// Reads the tables; adds every problem of them.
    pub(super) fn checked(tables: &[TimeOptions], problems: &mut Vec<Problem>) -> Self {
        let mut times = Self::default();
        if tables.len() > TIMES_MAX {
            problems.push(Problem::new(&["time"], format!("expected at most {TIMES_MAX} tables")));
            return times;
        }
        for (n, table) in tables.iter().enumerate() {
            if table.name.is_empty() {
                problems
                    .push(Problem::new(&["time", &n.to_string(), "name"], "a time needs a name"));
            }
            let interval = Interval::checked(table, &n.to_string(), problems);
            times.0.entry(table.name.clone()).or_default().push(interval);
        }
        times
    }

    /// True if there is an interval of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Returns the names of all intervals.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// True if a time lies within the interval of this name.
    pub(super) fn holds(&self, name: &str, at_ms: u64) -> bool {
        self.0
            .get(name)
            .is_some_and(|alternatives| alternatives.iter().any(|interval| interval.holds(at_ms)))
    }
}

impl Interval {
    fn checked(table: &TimeOptions, n: &str, problems: &mut Vec<Problem>) -> Self {
        let mut list =
            |key: &str,
             ranges: &[String],
             read: &dyn Fn(&str) -> Result<RangeInclusive<i32>, String>| {
                if ranges.len() > RANGES_MAX {
                    problems.push(Problem::new(
                        &["time", n, key],
                        format!("expected at most {RANGES_MAX} ranges"),
                    ));
                }
                let mut read_all = Vec::new();
                for (at, text) in ranges.iter().enumerate().take(RANGES_MAX) {
                    match read(text) {
                        Ok(range) => read_all.push(range),
                        Err(hint) => problems.push(
                            Problem::new(
                                &["time", n, key, &at.to_string()],
                                format!("\"{text}\" is no range of {key}"),
                            )
                            .hint(hint),
                        ),
                    }
                }
                read_all
            };
        let times = list("times", &table.times, &clock_range);
        let named = |names: &'static [&'static str]| {
            move |text: &str| {
                let last = i32::try_from(names.len()).expect("a dozen");
                range(text, &|part| one_of(names, part), 1..=last)
            }
        };
        let weekdays = list("weekdays", &table.weekdays, &|text| {
            range(text, &|part| part.parse::<i32>().err().and(one_of(&WEEKDAYS, part)), 1..=7)
        });
        let months = list("months", &table.months, &named(&MONTHS));
        let days = list("days", &table.days, &day_range);
        let years = list("years", &table.years, &|text| {
            range(text, &|part| part.parse().ok(), 1970..=9999)
        });
        let zone = match table.zone.as_deref() {
            None => TimeZone::UTC,
            Some(name) => TimeZoneDatabase::bundled().get(name).unwrap_or_else(|_| {
                let unknown =
                    Problem::new(&["time", n, "zone"], format!("there is no time zone \"{name}\""));
                problems.push(unknown.hint("write it like Europe/Berlin, or leave it out for UTC"));
                TimeZone::UTC
            }),
        };
        let times = times.into_iter().map(RangeInclusive::into_inner).collect();
        Self { times, weekdays, days, months, years, zone }
    }

    fn holds(&self, at_ms: u64) -> bool {
        let at: Zoned = timestamp(at_ms).to_zoned(self.zone.clone());
        let minute = i32::from(at.hour()) * 60 + i32::from(at.minute());
        let today = at.date();
        if self.times.is_empty() {
            return self.has_day(today);
        }
        let yesterday = || today.checked_sub(1.day()).is_ok_and(|day| self.has_day(day));
        self.times.iter().any(|(from, to)| {
            if from < to {
                (*from..*to).contains(&minute) && self.has_day(today)
            } else {
                (minute >= *from && self.has_day(today)) || (minute < *to && yesterday())
            }
        })
    }

    fn has_day(&self, day: Date) -> bool {
        let within = |ranges: &[RangeInclusive<i32>], value: i32| {
            ranges.is_empty() || ranges.iter().any(|range| range.contains(&value))
        };
        let last = i32::from(day.days_in_month());
        // A day before the first of the month is none: in February -31 is no day.
        let counted = |day: i32| if day < 0 { last + 1 + day } else { day };
        let of_month = i32::from(day.day());
        within(&self.weekdays, i32::from(day.weekday().to_monday_one_offset()))
            && (self.days.is_empty()
                || self.days.iter().any(|range| {
                    (counted(*range.start())..=counted(*range.end())).contains(&of_month)
                }))
            && within(&self.months, i32::from(day.month()))
            && within(&self.years, i32::from(day.year()))
    }
}

/// Returns the number of a name, from 1, given whole or as its first three letters.
fn one_of(names: &[&str], text: &str) -> Option<i32> {
    let text = text.to_ascii_lowercase();
    let number = || text.parse::<i32>().ok();
    let named =
        names.iter().position(|name| text == *name || (text.len() == 3 && name.starts_with(&text)));
    named.and_then(|at| i32::try_from(at + 1).ok()).or_else(number)
}

/// `a-b` or `a`, both within bounds and in order.
fn range(
    text: &str,
    read: &dyn Fn(&str) -> Option<i32>,
    bounds: RangeInclusive<i32>,
) -> Result<RangeInclusive<i32>, String> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let (from, to) = read(from.trim())
        .zip(read(to.trim()))
        .ok_or_else(|| "write one, or two with - between".to_owned())?;
    if !bounds.contains(&from) || !bounds.contains(&to) {
        return Err(format!("numbers go from {} to {}", bounds.start(), bounds.end()));
    }
    if from > to {
        return Err("it ends before it begins: write two".to_owned());
    }
    Ok(from..=to)
}

/// `1-5`, `-1`, `-7--1`, `15--1`: days of a month, negative ones from its end.
fn day_range(text: &str) -> Result<RangeInclusive<i32>, String> {
    let text = text.trim();
    let hint = || "write days like 1-5, or -1 for the last of the month".to_owned();
    let split = text
        .char_indices()
        .skip(1)
        .find(|(_, c)| *c == '-')
        .map(|(at, _)| (&text[..at], &text[at + 1..]));
    let (from, to) = split.unwrap_or((text, text));
    let day =
        |text: &str| text.trim().parse::<i32>().ok().filter(|day| (1..=31).contains(&day.abs()));
    let (from, to) = day(from).zip(day(to)).ok_or_else(hint)?;
    if (from < 0 && to > 0) || (from.signum() == to.signum() && from > to) {
        return Err("it ends before it begins: write two".to_owned());
    }
    Ok(from..=to)
}

/// `22:00-06:00` in minutes of the day; `24:00` is the end of it. The two are no range of numbers
/// where they pass midnight.
fn clock_range(text: &str) -> Result<RangeInclusive<i32>, String> {
    let minute = |text: &str| {
        let (hour, minute) = text.trim().split_once(':')?;
        let two = |text: &str| {
            text.parse::<i32>().ok().filter(|_| text.len() == 2 && !text.starts_with('+'))
        };
        let (hour, minute) = (two(hour)?, two(minute)?);
        ((0..24).contains(&hour) && (0..60).contains(&minute) || (hour, minute) == (24, 0))
            .then_some(hour * 60 + minute)
    };
    let (from, to) = text.split_once('-').unwrap_or((text, ""));
    let (from, to) =
        minute(from).zip(minute(to)).ok_or_else(|| "write it like 22:00-06:00".to_owned())?;
    if from == to {
        return Err("it is empty: for a whole day leave times out".to_owned());
    }
    Ok(RangeInclusive::new(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::json;

    fn ms(at: &str) -> u64 {
        at.parse::<jiff::Timestamp>().unwrap().as_millisecond().try_into().unwrap()
    }

    fn times(tables: serde_json::Value) -> (Times, String) {
        let tables: Vec<TimeOptions> = serde_json::from_value(tables).unwrap();
        let mut problems = Vec::new();
        let times = Times::checked(&tables, &mut problems);
        let line = |p: &Problem| {
            format!("{}: {} ({})\n", p.at.join("."), p.message, p.hint.as_deref().unwrap_or("-"))
        };
        (times, problems.iter().map(line).collect())
    }

    #[track_caller]
    fn check(table: serde_json::Value, holds: &[&str], holds_not: &[&str]) {
        let (times, problems) = times(json!([table]));
        assert_eq!(problems, "");
        for (list, wanted) in [(holds, true), (holds_not, false)] {
            for at in list {
                assert_eq!(times.holds("t", ms(at)), wanted, "{at}");
            }
        }
    }

    #[test]
    fn an_interval_holds_what_its_ranges_hold() {
        check(
            json!({ "name": "t", "times": ["09:00-17:00"], "weekdays": ["mon-fri", "sun"] }),
            &["2026-11-27T09:00:00Z", "2026-11-27T16:59:59.999Z", "2026-11-29T12:00:00Z"],
            &["2026-11-27T08:59:59Z", "2026-11-27T17:00:00Z", "2026-11-28T12:00:00Z"],
        );
        check(
            json!({
                "name": "t", "days": ["1-2", "-1"], "months": ["12", "jan-mar", "February"],
                "years": ["2026"],
            }),
            &["2026-12-31T00:00:00Z", "2026-02-28T12:00:00Z", "2026-03-02T00:00:00Z"],
            &[
                "2026-11-30T00:00:00Z",
                "2027-02-28T12:00:00Z",
                "2026-02-27T23:59:59Z",
                "2026-01-03T00:00:00Z",
            ],
        );
        check(
            json!({ "name": "t", "days": ["-31--30"] }),
            &["2026-01-01T00:00:00Z", "2026-02-28T00:00:00Z"][..1],
            &["2026-02-28T00:00:00Z", "2026-01-03T00:00:00Z"],
        );
        check(
            json!({ "name": "t", "days": ["15--1"] }),
            &["2026-02-15T00:00:00Z", "2026-02-28T00:00:00Z"],
            &["2026-02-14T00:00:00Z"],
        );
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins() {
        check(
            json!({ "name": "t", "times": ["22:00-06:00"], "weekdays": ["fri"] }),
            &["2026-11-27T22:00:00Z", "2026-11-28T05:59:59Z"],
            &["2026-11-27T03:00:00Z", "2026-11-28T06:00:00Z", "2026-11-28T22:00:00Z"],
        );
        check(
            json!({ "name": "t", "times": ["20:00-24:00"] }),
            &["2026-11-27T23:59:59Z"],
            &["2026-11-28T00:00:00Z", "2026-11-27T19:59:00Z"],
        );
    }

    #[test]
    fn a_zone_moves_its_clock_in_spring_and_autumn() {
        check(
            json!({ "name": "t", "times": ["22:00-06:00"], "zone": "Europe/Berlin" }),
            // Winter time until 2026-03-29 01:00 UTC, then summer time.
            &[
                "2026-03-28T21:00:00Z",
                "2026-03-29T03:59:59Z",
                "2026-10-24T20:00:00Z",
                "2026-10-25T04:59:59Z",
            ],
            &[
                "2026-03-28T20:59:59Z",
                "2026-03-29T04:00:00Z",
                "2026-10-24T19:59:59Z",
                "2026-10-25T05:00:00Z",
            ],
        );
        // The hour that is skipped has no minute; the one that comes twice counts twice.
        check(
            json!({ "name": "t", "times": ["02:00-03:00"], "zone": "Europe/Berlin" }),
            &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"],
            &["2026-03-29T00:59:00Z", "2026-03-29T01:00:00Z", "2026-10-25T02:00:00Z"],
        );
    }

    #[test]
    fn tables_of_one_name_are_alternatives() {
        let (times, _) = times(json!([
            { "name": "t", "weekdays": ["sat"] },
            { "name": "t", "weekdays": ["sun"], "times": ["00:00-12:00"] },
        ]));
        let holds = |at| times.holds("t", ms(at));
        assert!(
            holds("2026-11-28T23:00:00Z")
                && holds("2026-11-29T11:00:00Z")
                && !holds("2026-11-29T12:00:00Z")
        );
        assert!(times.has("t") && !times.has("u") && !times.holds("u", 0));
    }

    #[test]
    fn what_is_no_range_says_so() {
        let (_, problems) = times(json!([{
            "name": "", "times": ["9-17", "09:00-09:00", "24:01-25:00"],
            "weekdays": ["fri-mon", "8", "maybe"], "days": ["0", "5-1", "-1-5"],
            "months": ["13", "dec-jan"], "years": ["26"], "zone": "Europe/Bonn",
        }]));
        expect![[r#"
            time.0.name: a time needs a name (-)
            time.0.times.0: "9-17" is no range of times (write it like 22:00-06:00)
            time.0.times.1: "09:00-09:00" is no range of times (it is empty: for a whole day leave times out)
            time.0.times.2: "24:01-25:00" is no range of times (write it like 22:00-06:00)
            time.0.weekdays.0: "fri-mon" is no range of weekdays (it ends before it begins: write two)
            time.0.weekdays.1: "8" is no range of weekdays (write one, or two with - between)
            time.0.weekdays.2: "maybe" is no range of weekdays (write one, or two with - between)
            time.0.months.0: "13" is no range of months (numbers go from 1 to 12)
            time.0.months.1: "dec-jan" is no range of months (it ends before it begins: write two)
            time.0.days.0: "0" is no range of days (write days like 1-5, or -1 for the last of the month)
            time.0.days.1: "5-1" is no range of days (it ends before it begins: write two)
            time.0.days.2: "-1-5" is no range of days (it ends before it begins: write two)
            time.0.years.0: "26" is no range of years (numbers go from 1970 to 9999)
            time.0.zone: there is no time zone "Europe/Bonn" (write it like Europe/Berlin, or leave it out for UTC)
        "#]]
        .assert_eq(&problems);
    }
}
