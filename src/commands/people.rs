//! People: name of the user at the keyboard, and times as people write and read them.

use std::time::{Duration, SystemTime};

use millstream_stages::headers;

use crate::{
    dead_letter::filter::{self, FilterError},
    wire::parse_rfc3339,
};

/// User at the keyboard as `user@host`, as far as they are known.
pub(super) fn who() -> String {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user =
        variable("USER").or_else(|| variable("LOGNAME")).unwrap_or_else(|| "somebody".to_owned());
    let host = variable("HOSTNAME").or_else(|| std::fs::read_to_string("/etc/hostname").ok());
    let host = host.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    headers::clean(&format!("{user}@{}", host.unwrap_or_else(|| "localhost".to_owned())))
}

/// Time for people: how long ago before `now`, which is given on a terminal; else as it is.
pub(super) fn when(rfc3339: &str, now: Option<SystemTime>) -> String {
    let ago = now.and_then(|now| now.duration_since(parse_rfc3339(rfc3339)?).ok());
    ago.map_or_else(|| rfc3339.to_owned(), |ago| format!("{} ago", short(ago)))
}

/// A span of time in its largest unit: `5s`, `3m`, `27h`, `2d`.
pub(super) fn short(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// Time that a flag means, as RFC 3339; `text` is RFC 3339, or how long ago.
///
/// # Errors
/// It is neither.
pub(super) fn moment(text: &str, flag: &str, now: SystemTime) -> anyhow::Result<String> {
    filter::moment(text, now).map_err(|error| match error {
        FilterError::Time(text) => anyhow::anyhow!(
            "{flag} \"{text}\" is not a time: write it as RFC 3339, \
             such as 2026-11-21T08:00:00Z, or as how long ago, such as 24h"
        ),
        error @ FilterError::Condition { .. } => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_how_long_ago_on_a_terminal_and_exact_elsewhere() {
        let at = "2026-11-21T08:00:00.000Z";
        let then = parse_rfc3339(at).unwrap();
        let told = |seconds| when(at, Some(then + Duration::from_secs(seconds)));
        let all = [0, 59, 61, 3600, 100_000, 172_800].map(told);
        assert_eq!(all, ["0s ago", "59s ago", "1m ago", "1h ago", "27h ago", "2d ago"]);
        assert_eq!(when(at, None), at);
        // Clocks differ: a time in the future is shown as it is.
        assert_eq!(when(at, Some(then - Duration::from_secs(5))), at);
    }
}
