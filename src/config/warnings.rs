//! Warnings: settings of a correct configuration that will hurt, or that have no effect.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use super::{
    Finder, KeyPath,
    inputs::written,
    pipeline::{Input, Pipeline, Stage},
    policies,
};
use millstream_stages::{retry::Terms, units::Period};

/// Reports settings that will hurt. `timeouts` are those of the stages that have one.
pub fn warn(
    root: &Value,
    pipeline: &Pipeline,
    timeouts: &BTreeMap<String, Duration>,
    finder: &mut Finder,
) {
    for stage in &pipeline.stages {
        let at = KeyPath::of(&["stage", &stage.name]);
        unread(pipeline, stage, &at, finder);
        if stage.is_map() && !stage.chain {
            waits(stage, &at, timeouts.get(&stage.name).copied(), finder);
        }
        idle_keys(root, stage, &at, finder);
    }
    for source in &pipeline.sources {
        if pipeline.readers(&Input::Source(source.name.clone())).next().is_none() {
            finder
                .warn_on(
                    &KeyPath::of(&["source", &source.name]),
                    format!("nobody reads source \"{}\"", source.name),
                )
                .hint(format!(
                    "add \"source.{}\" to the inputs of a stage, or remove it",
                    source.name
                ));
        }
    }
    outlast(root, pipeline, finder);
    unused(root, pipeline, finder);
    if finder.is_empty() {
        client_side_types(pipeline, finder);
    }
}

fn unread(pipeline: &Pipeline, stage: &Stage, at: &KeyPath, finder: &mut Finder) {
    let name = &stage.name;
    let read = |input: Input| pipeline.readers(&input).next().is_some();
    if stage.is_map() && !read(Input::Failed(name.clone())) {
        finder.warn_on(at, format!("nobody reads the failures of stage \"{name}\"")).hint(format!(
            "add \"{name}.failed\" or \"*.failed\" to the inputs of an aggregate-errors stage"
        ));
    }
    let wants_reader = !stage.kind.calls_out && !stage.notifies();
    if wants_reader && !read(Input::Results(name.clone())) {
        finder
            .warn_on(at, format!("nobody reads stage \"{name}\", so its results are lost"))
            .hint(format!("add \"{name}\" to the inputs of the stage that should have them"));
    }
}

fn waits(stage: &Stage, at: &KeyPath, timeout: Option<Duration>, finder: &mut Finder) {
    let name = &stage.name;
    if let Some(timeout) = timeout.filter(|timeout| *timeout > stage.ack_wait) {
        let (timeout, ack_wait) = (Period(timeout), Period(stage.ack_wait));
        finder
            .warn_on(
                at,
                format!(
                    "the handler of stage \"{name}\" may take {timeout}, longer than its ack_wait \
                     of {ack_wait}"
                ),
            )
            .hint(
                "a worker that dies is noticed after ack_wait, a slow handler is kept alive by \
                 progress acks; raise ack_wait above the timeout",
            );
    }
    if stage.max_ack_pending < stage.concurrency as u64 {
        let (pending, concurrency) = (stage.max_ack_pending, stage.concurrency);
        finder
            .warn_at(
                &at.join("max_ack_pending"),
                format!(
                    "stage \"{name}\" never has {concurrency} events in hand: max_ack_pending is \
                     {pending}"
                ),
            )
            .hint("raise max_ack_pending above concurrency times the number of workers");
    }
}

/// Reports limits of age under which an event goes before its retries, or an outage, are over.
fn outlast(root: &Value, pipeline: &Pipeline, finder: &mut Finder) {
    for source in pipeline.sources.iter().filter(|source| source.external.is_none()) {
        let input = Input::Source(source.name.clone());
        let readers = pipeline.readers(&input).filter(|stage| stage.is_map());
        let longest = readers.filter_map(longest_wait).max_by_key(|(wait, _)| *wait);
        let Some((wait, what)) = longest else { continue };
        if !source.max_age.is_zero() && source.max_age < wait {
            let at = KeyPath::of(&["source", &source.name]);
            let message = format!(
                "source \"{}\" keeps events for {}, shorter than {what}",
                source.name,
                Period(source.max_age)
            );
            let own = at.join("max_age");
            let warned = if own.find(root).is_some() {
                finder.warn_at(&own, message)
            } else {
                finder.warn_on(&at, message)
            };
            warned.hint("an event that expires before it is done is lost; raise max_age");
        }
    }
    let most = pipeline.storage.retry_max_age;
    let stages = pipeline.stages.iter().filter(|stage| stage.is_map() && !stage.chain);
    let longest = stages.filter_map(longest_wait).max_by_key(|(wait, _)| *wait);
    if let Some((wait, what)) = longest
        && !most.is_zero()
        && most < wait
    {
        let message = format!("retry_max_age is {}, shorter than {what}", Period(most));
        finder
            .warn_at(&KeyPath::of(&["storage", "retry_max_age"]), message)
            .hint("an event that waits for longer becomes a dead letter, \"expired\"; raise it");
    }
}

/// Longest time that a stage lets an event wait, and the words for it.
fn longest_wait(stage: &Stage) -> Option<(Duration, String)> {
    let (policy, name) = (&stage.policy, &stage.name);
    let of = |terms| policies::timetable(terms).last().map(|turn| turn.since);
    let rules = policy.rule.iter().map(|rule| Terms {
        attempts: rule.attempts.unwrap_or(policy.attempts),
        backoff: rule.backoff.as_ref().unwrap_or(&policy.backoff),
    });
    let own = Terms { attempts: policy.attempts, backoff: &policy.backoff };
    let retries = rules.chain([own]).filter_map(of).max().map(|wait| {
        (wait, format!("the {} that stage \"{name}\" takes over its retries", rough(wait)))
    });
    let breaker = stage.breaker.as_ref().map(|breaker| {
        let Period(wait) = breaker.max_wait;
        (wait, format!("the {} that the circuit breaker of stage \"{name}\" waits", rough(wait)))
    });
    retries.into_iter().chain(breaker).max_by_key(|(wait, _)| *wait)
}

/// Time to the second.
fn rough(wait: Duration) -> Period {
    Period(if wait.as_secs() > 0 { Duration::from_secs(wait.as_secs()) } else { wait })
}

/// Reports keys that have no effect where they stand.
fn idle_keys(root: &Value, stage: &Stage, at: &KeyPath, finder: &mut Finder) {
    let name = &stage.name;
    let chained = ["ack_wait", "max_ack_pending", "concurrency"];
    let keeps_state = ["concurrency", "max_ack_pending", "ack_wait", "dedup", "retry"];
    let (keys, why): (&[&str], &str) = if !stage.is_map() {
        (&keeps_state, "one worker runs it, event after event")
    } else if stage.chain {
        (&chained, "it runs inside the stage it is chained to, by the keys of that one")
    } else {
        return;
    };
    for key in keys {
        let at = at.join(*key);
        if at.find(root).is_some() {
            finder
                .warn_on(&at, format!("\"{key}\" of stage \"{name}\" has no effect: {why}"))
                .hint("remove it");
        }
    }
}

fn unused(root: &Value, pipeline: &Pipeline, finder: &mut Finder) {
    let names = |section: &str| -> Vec<String> {
        root[section].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    };
    let users = || {
        ["stage", "channel"].into_iter().filter_map(|section| root[section].as_object()).flatten()
    };
    for name in names("retry") {
        let used = users().any(|(_, table)| table["retry"].as_str().unwrap_or("default") == name);
        if !used {
            finder
                .warn_on(
                    &KeyPath::of(&["retry", &name]),
                    format!("no stage or channel uses retry policy \"{name}\""),
                )
                .hint(format!("add retry = \"{name}\" to one, or remove it"));
        }
    }
    for name in names("channel") {
        let used = pipeline.stages.iter().any(|stage| names_channel(&stage.options, &name));
        if !used && name != "log" {
            finder
                .warn_on(
                    &KeyPath::of(&["channel", &name]),
                    format!("no stage sends to channel \"{name}\""),
                )
                .hint(format!("add \"{name}\" to the channels of an alert stage, or remove it"));
        }
    }
}

/// True if some `channels` list in the options names the channel.
pub fn names_channel(options: &Value, name: &str) -> bool {
    match options {
        Value::Object(table) => table.iter().any(|(key, value)| {
            let listed = key == "channels"
                && value.as_array().is_some_and(|list| list.iter().any(|item| item == name));
            listed || names_channel(value, name)
        }),
        Value::Array(list) => list.iter().any(|value| names_channel(value, name)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Reports a note, where nothing else is reported: the worker, not the server, applies `types` on a
/// source.
fn client_side_types(pipeline: &Pipeline, finder: &mut Finder) {
    for stage in pipeline.stages.iter().filter(|stage| stage.is_map() && !stage.types.is_empty()) {
        if let Some(source) = stage.inputs.iter().find(|input| matches!(input, Input::Source(_))) {
            let message = format!(
                "stage \"{}\" is sent every event of {}, and passes over those of other types",
                stage.name,
                written(source)
            );
            finder.note_at(&KeyPath::of(&["stage", &stage.name, "types"]), message).hint(
                "publishers choose a source's subjects; behind a validate stage the server \
                 selects by type",
            );
        }
    }
}
