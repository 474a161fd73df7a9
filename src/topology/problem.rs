//! Problem: reason that a plan is not begun, in words that say what to do.

use std::fmt;

/// Metadata key, of the state bucket's stream, with the id of the pipeline.
pub const ID: &str = "millstream-pipeline-id";

/// Reason that a plan is not begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// Change of a setting that the server never changes.
    Immutable {
        /// The object.
        object: String,
        /// The settings that differ.
        what: String,
    },
    /// Change that would lose messages.
    Lossy {
        /// The object.
        object: String,
        /// Reason that messages would be lost.
        why: String,
    },
    /// Subjects that another stream captures.
    Overlap {
        /// The stream that is wanted.
        stream: String,
        /// Its subject.
        subject: String,
        /// Stream that is there.
        theirs: String,
        /// Subject of that stream.
        their_subject: String,
        /// Pipeline of that stream; empty: none.
        pipeline: String,
        /// True if that stream is one of this pipeline that nothing names any more.
        is_extra: bool,
    },
    /// Limit of the account.
    Limit(String),
    /// Pipeline of the same name that is another one.
    Owner {
        /// Name of both.
        pipeline: String,
        /// Id on the server, where there is one.
        theirs: Option<String>,
        /// Id in the configuration, where there is one.
        ours: Option<String>,
    },
    /// Hand-over that cannot be done.
    Move {
        /// Name that the stage had.
        from: String,
        /// Reason.
        why: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Immutable { object, what } => write!(
                f,
                "{object} cannot be changed in place: {what}; put the setting back, or drain it, \
                 delete it (`nats stream rm` or `nats consumer rm`) and apply again"
            ),
            Self::Lossy { object, why } => write!(
                f,
                "{object} would lose messages: {why}; apply with --allow-lossy if that is what you \
                 want"
            ),
            Self::Overlap { stream, subject, theirs, their_subject, pipeline, is_extra } => {
                write!(f, "stream \"{stream}\" cannot capture \"{subject}\": stream \"{theirs}\"")?;
                match (is_extra, pipeline.as_str()) {
                    (true, _) => f.write_str(", which nothing in this pipeline names any more,")?,
                    (false, "") => f.write_str(", which is of no pipeline,")?,
                    (false, pipeline) => write!(f, " of pipeline \"{pipeline}\"")?,
                }
                write!(f, " captures \"{their_subject}\"; ")?;
                match is_extra {
                    true => write!(
                        f,
                        "read what it holds, then apply with --drop {theirs}, or name the source as \
                         before"
                    ),
                    false => write!(
                        f,
                        "use other subjects, or read that stream: external = \"{theirs}\" in place \
                         of subjects"
                    ),
                }
            }
            Self::Limit(what) | Self::Move { why: what, .. } => f.write_str(what),
            Self::Owner { pipeline, theirs, ours } => {
                let id = |id: &Option<String>| match id {
                    Some(id) => format!("the id \"{id}\""),
                    None => "no id".to_owned(),
                };
                match (theirs, ours) {
                    (None, None) => write!(
                        f,
                        "there is a pipeline \"{pipeline}\" on the server that has no stage and no \
                         source in common with this one"
                    )?,
                    (theirs, ours) => write!(
                        f,
                        "there is another pipeline \"{pipeline}\" on the server: it has {}, and \
                         [pipeline] here has {}",
                        id(theirs),
                        id(ours)
                    )?,
                }
                f.write_str(
                    "; give this one another name, or, if it is the same or takes its place, apply \
                     with --take-over",
                )
            }
        }
    }
}
