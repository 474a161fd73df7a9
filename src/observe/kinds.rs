//! Kinds: every kind of condition, with what is looked at and what to do: the table in the papers.

use std::fmt::Write as _;

/// Kind of condition.
#[derive(Debug)]
pub struct Kind {
    /// Form of its names: one word, and what follows it.
    pub name: &'static str,
    /// Thing that is looked at, and by whom.
    pub looked_at: &'static str,
    /// Remedy in general; a condition names its own.
    pub remedy: &'static str,
    /// Test that shows it, as `FILE::FUNCTION` below `tests/it`, or in the source; empty: none.
    pub test: &'static str,
}

/// Every kind of condition.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "backlog of STAGE",
        looked_at: "for the fleet: events that wait for a stage, while no worker pulls them and \
                    its breaker is closed",
        remedy: "start a worker that runs the stage",
        test: "conditions/unread.rs::what_no_worker_reads_is_named_with_the_stage_to_start",
    },
    Kind {
        name: "broker",
        looked_at: "by each worker, from before its first connection: both connections, and \
                    answers to what it asks",
        remedy: "start the server, or mend the address or credentials in `[nats]`",
        test: "conditions/cut_off.rs::a_worker_that_loses_its_server_is_not_ready_and_says_why",
    },
    Kind {
        name: "bucket NAME",
        looked_at: "by each worker: the key-value buckets of state and of workers, read and \
                    written; for the fleet: leader and room",
        remedy: "`millstream apply` makes it; `state_max_bytes` gives it room",
        test: "conditions/deleted.rs::a_bucket_that_is_deleted_is_named_by_every_worker",
    },
    Kind {
        name: "clock",
        looked_at: "by each worker: its clock against the broker's",
        remedy: "synchronise the clocks of the hosts (NTP)",
        test: "clock.rs::a_worker_whose_clock_is_behind_waits_as_long_as_was_asked",
    },
    Kind {
        name: "consumer NAME on stream STREAM",
        looked_at: "by each worker: the consumers that it pulls from; for the fleet: every one \
                    that the configuration needs (of stages, retries, quarantine, channels and the \
                    router), its leader, and if it is paused",
        remedy: "`millstream apply` makes it; `nats consumer resume` ends a pause",
        test: "conditions/deleted.rs::what_is_deleted_or_paused_under_a_fleet_is_named_everywhere",
    },
    Kind {
        name: "credentials",
        looked_at: "by each worker: that the server lets its user in",
        remedy: "mend the user or the credentials in `[nats]`, or at the server",
        test: "refused.rs::a_user_that_is_taken_away_is_let_in_again_by_itself",
    },
    Kind {
        name: "disk",
        looked_at: "by each worker: that nothing fails for want of room on its own disk",
        remedy: "make room on it",
        test: "src/observe/lacks.rs::\
               a_shortage_is_a_condition_until_it_was_not_noticed_for_a_while",
    },
    Kind {
        name: "duty NAME",
        looked_at: "by each worker: duties of the fleet that it could take",
        remedy: "start a worker that may take it",
        test: "duties.rs::\
               what_a_duty_lacks_on_one_host_is_left_to_others_and_told_where_nobody_has_it",
    },
    Kind {
        name: "files",
        looked_at: "by each worker: its descriptors: 80 % are open, or something failed for \
                    want of one",
        remedy: "raise the limit (`LimitNOFILE`, `ulimit -n`), or lower `concurrency`",
        test: "shortage.rs::a_worker_without_descriptors_defers_says_so_and_goes_on",
    },
    Kind {
        name: "lease NAME",
        looked_at: "for the fleet: that someone renews the lease of each reduce stage, of the \
                    channels (`notify-channels`), of health checks that recovery goes by, and of \
                    the sweep (`keeper.sweep`)",
        remedy: "start a worker that runs the stage",
        test: "conditions/unread.rs::what_no_worker_reads_is_named_with_the_stage_to_start",
    },
    Kind {
        name: "memory",
        looked_at: "by each worker: that nothing fails for want of memory",
        remedy: "give the host, or the container, more memory",
        test: "src/observe/lacks.rs::\
               a_shortage_is_a_condition_until_it_was_not_noticed_for_a_while",
    },
    Kind {
        name: "port ADDRESS",
        looked_at: "by each worker: the address in `observe.listen`",
        remedy: "give this worker another one: `--set observe.listen=127.0.0.1:0` (any free \
                 port); it works without, and takes the address once it is free",
        test: "conditions/port.rs::a_second_worker_on_an_address_works_without_it_until_it_is_free",
    },
    Kind {
        name: "ports",
        looked_at: "by each worker: that a port is left to connect from",
        remedy: "lower `concurrency`, or let services keep connections open",
        test: "src/observe/lacks.rs::\
               a_shortage_is_a_condition_until_it_was_not_noticed_for_a_while",
    },
    Kind {
        name: "processes",
        looked_at: "by each worker: that processes and threads can be started",
        remedy: "raise the limit (`TasksMax`, `ulimit -u`, the pids limit of the container)",
        test: "src/observe/lacks.rs::\
               a_shortage_is_a_condition_until_it_was_not_noticed_for_a_while",
    },
    Kind {
        name: "stage NAME",
        looked_at: "by each worker: a stage that could not go on; of a reduce stage, its reading \
                    and its commits",
        remedy: "it is tried again; what the cause says",
        test: "conditions/deleted.rs::what_is_deleted_or_paused_under_a_fleet_is_named_everywhere",
    },
    Kind {
        name: "storage",
        looked_at: "for the fleet: what the account may store, and what it does",
        remedy: "raise the limit of the account, or make room",
        test: "conditions/full.rs::a_full_account_and_a_full_stream_are_named",
    },
    Kind {
        name: "stream NAME",
        looked_at: "for the fleet: every stream that the configuration needs: that it is there, \
                    has a leader, and takes what is published",
        remedy: "`millstream apply` makes it; raise its `max_bytes`, or make room",
        test: "conditions/deleted.rs::what_is_deleted_or_paused_under_a_fleet_is_named_everywhere",
    },
    Kind {
        name: "subject SUBJECT",
        looked_at: "by each worker: subjects that the server refuses it",
        remedy: "grant it to the user of `[nats]`",
        test: "refused.rs::\
               whatever_is_refused_is_named_the_worker_lives_and_goes_on_once_it_is_granted",
    },
    Kind {
        name: "task NAME",
        looked_at: "by each worker: its background tasks, which are started again after a panic",
        remedy: "please report it, with the log",
        test: "supervised.rs::each_task_that_panics_is_counted_and_told_and_everything_works_on",
    },
    Kind {
        name: "watcher",
        looked_at: "by each worker: that someone looks at the fleet; if nobody does, it looks \
                    itself",
        remedy: "it passes once a worker of this version is elected keeper",
        test: "conditions/unread.rs::a_worker_that_hears_of_no_look_looks_itself_and_says_so",
    },
    Kind {
        name: "worker",
        looked_at: "a worker that has not started",
        remedy: "wait",
        test: "src/observe/conditions.rs::a_trouble_lasts_since_it_began_whatever_is_said_of_it",
    },
];

/// Kind of the condition of this name.
pub fn of(name: &str) -> Option<&'static Kind> {
    let first = |text: &'static str| text.split(' ').next().unwrap_or(text);
    KINDS.iter().find(|kind| first(kind.name) == name.split(' ').next().unwrap_or(name))
}

/// Table of the kinds, in Markdown.
pub fn table() -> String {
    let mut out =
        String::from("| Condition | Looked at | What to do | Shown by |\n|---|---|---|---|\n");
    for Kind { name, looked_at, remedy, test } in KINDS {
        _ = writeln!(out, "| `{name}` | {looked_at} | {remedy} | `{test}` |");
    }
    out
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    const PAPER: &str = "\
# Conditions

Everything that a worker needs is a condition: it holds, or it does not hold since a time, for a
reason, with a remedy. `/readyz` is 200 while all that a worker needs holds, and else 503 with those
that do not (`missing`); `elsewhere` there names what is wrong with the fleet and does not stop this
worker, such as a stage that nobody runs. `millstream status` names all of them, of every worker,
and its exit status is not 0 while there is one. The log has one WARN for each cause and one line
when it is over. One that lasts for 10 s is the finding `ConditionFailed`, which stages that read
`monitor` are given, again every 10 min while it lasts.

What concerns the whole fleet one elected worker, the keeper, asks of the server every 2 s; the
others read its answer in the state bucket (`fleet.record`). A worker that hears of none for 10 s
looks itself, and says so. `status` looks for itself as well, and names besides the conditions
below `workers` (none is at work) and `incidents` (a critical one is open).

This table is made of the code (`src/observe/kinds.rs`) by `cargo xtask snapshots kinds`.

";

    #[test]
    fn the_table_in_the_papers_is_the_code() {
        let paper = format!("{PAPER}{}", table());
        expect_test::expect_file!["../../docs/conditions.md"].assert_eq(&paper);
    }

    #[test]
    fn each_kind_is_found_by_its_names_and_shown_by_a_test_that_is_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for kind in KINDS {
            assert!(of(kind.name).is_some_and(|found| found.name == kind.name), "{kind:?}");
            let named = kind.test.split_once("::");
            let (file, function) = named.unwrap_or_else(|| panic!("{}: no test", kind.name));
            let file =
                if file.starts_with("src/") { file.into() } else { format!("tests/it/{file}") };
            let text =
                fs::read_to_string(root.join(&file)).unwrap_or_else(|e| panic!("{file}: {e}"));
            assert!(text.contains(&format!("fn {function}(")), "{file} has no {function}");
        }
        assert!(of("stream shop-dlq").is_some() && of("weather").is_none());
    }
}
