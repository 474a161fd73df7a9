//! Breakers: `breaker` of a stage, checked and made into settings.

use millstream_stages::{Kind, breaker::Settings};

use super::{Finder, inputs::StageDraft, shape::what, written::BreakerTable};

/// The settings of a stage's circuit breaker; `None`: it has none. By default kinds that call out
/// have one.
pub fn of(draft: &StageDraft, kind: &Kind, finder: &mut Finder) -> Option<Settings> {
    let (at, written) = (draft.at.join("breaker"), &draft.table.breaker);
    if !kind.calls_out {
        if written.is_some() && !finder.is_spoilt(&at) {
            let message = format!(
                "stage \"{}\" of kind \"{}\" cannot have a circuit breaker",
                draft.name, kind.name
            );
            finder
                .error_on(&at, message)
                .hint("remove it: only a stage of kind \"handle\" depends on what can be down");
        }
        return None;
    }
    let settings = match written {
        None | Some(BreakerTable::Switch(true)) => Settings::default(),
        Some(BreakerTable::Switch(false)) => return None,
        Some(BreakerTable::Settings(settings)) => settings.clone(),
    };
    for (key, period) in [("window", settings.window), ("wait", settings.wait)] {
        let at = at.join(key);
        if period.0.is_zero() && !finder.is_spoilt(&at) {
            finder.error_at(&at, format!("{} should be longer than nothing", what(&at))).hint(
                match key {
                    "wait" => {
                        "a handler that is down would be asked again at once: 1s is a good wait"
                    }
                    _ => "no call would ever be within it: 10s is a good window",
                },
            );
        }
    }
    let Settings { wait, max_wait, .. } = settings;
    // The key of the two that was written; a default by itself is never too long.
    let place = at.join(if wait == Settings::default().wait { "max_wait" } else { "wait" });
    if wait > max_wait && !finder.is_spoilt(&place) {
        finder
            .error_at(
                &place,
                format!(
                    "{} begins with {wait}, which is longer than its max_wait, {max_wait}",
                    what(&at)
                ),
            )
            .hint("raise max_wait, or begin with less");
    }
    Some(settings)
}

/// Description of a breaker, in one line.
pub fn in_words(settings: &Settings) -> String {
    let Settings { failures, rate, calls, window, wait, max_wait } = settings;
    format!(
        "opens after {failures} failures in a row, or {:.0}% of at least {calls} calls in \
         {window}; probes after {wait}, later up to {max_wait}",
        rate * 100.0
    )
}
