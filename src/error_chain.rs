//! Error chain: an error and its causes as one line.

use std::{error::Error, iter::successors};

use millstream_stages::headers;

/// Text of an error and its causes. Errors from outside often repeat their cause: a cause that the
/// text already holds is left out.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    join(error.to_string(), causes(error))
}

/// Text of the causes of an error, without the error itself; empty where it has none.
pub(crate) fn causes_of(error: &(dyn Error + 'static)) -> String {
    join(String::new(), causes(error))
}

/// Text of the innermost cause, the message of the system or the peer, on one line.
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let innermost = causes(error).last().unwrap_or(error);
    headers::clean(&innermost.to_string())
}

/// Causes of an error, the nearest first.
pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(error.source(), |error: &&'a (dyn Error + 'static)| (*error).source())
}

fn join<'a>(said: String, causes: impl Iterator<Item = &'a (dyn Error + 'static)>) -> String {
    causes.map(ToString::to_string).fold(said, |said, cause| match said.contains(&cause) {
        true => said,
        false if said.is_empty() => cause,
        false => format!("{said}: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Step(&'static str, #[source] Option<Box<Step>>);

    #[test]
    fn a_cause_that_was_said_is_not_said_again() {
        let root = Step("connection refused", None);
        let middle = Step("no answer: connection refused", Some(Box::new(root)));
        let top = Step("could not read", Some(Box::new(middle)));
        assert_eq!(chain(&top), "could not read: no answer: connection refused");
        assert_eq!(causes_of(&top), "no answer: connection refused");
        assert_eq!(root_cause(&top), "connection refused");
        assert_eq!(causes_of(&Step("alone", None)), "");
    }
}
