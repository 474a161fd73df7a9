//! Causes: what an error comes from, as one line of a log or of a failure.

use std::iter::successors;

use millstream_stages::headers;

/// An error and its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The innermost error: what the system or the peer said, on one line.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let innermost = successors(Some(error), |error| error.source()).last();
    headers::clean(&innermost.map(ToString::to_string).unwrap_or_default())
}
