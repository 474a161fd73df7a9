//! jq: filters over one event, for `when`, keys, conditions on letters and the jq handler.
//!
//! A filter sees its event and nothing else: `env`, `$ENV`, `now`, `localtime`, `input`, `debug`
//! and `halt` do not exist, so it reads no secret, prints nothing and gives the same answer each
//! time.
//!
//! No filter and no event takes more than [`Bounds`] say: steps are counted, so that the same event
//! always ends in the same way, and so are the bytes of all values at once and the stack
//! (`meter.rs`). A run may be stopped from another thread ([`Stop`]).

mod access;
mod closures;
mod json;
mod meter;
mod natives;
mod operators;
mod regex;
mod text;
mod value;
mod wording;

use bytes::Bytes;
use jaq_core::{
    Compiler, Ctx, Vars,
    load::{self, Arena, File, Lexer, Loader, Parser, parse::Def},
};

pub use self::meter::{Bounds, Overrun, Stop};
use self::{
    json::NoOutput,
    meter::{Held, Metered, bounded},
    value::{Error, Value},
};
use crate::{Event, text::excerpt};

/// Longest message of a filter's own error, in bytes.
const MESSAGE_BYTES_MAX: usize = 300;

/// Natives of jq's standard library that reach outside the event.
const OUTSIDE: &[&str] =
    &["env", "now", "localtime", "strflocaltime", "halt", "debug_empty", "stderr_empty"];

/// Definitions of jq's standard library that are made from [`OUTSIDE`].
const MADE_FROM_OUTSIDE: &[&str] = &["debug", "stderr", "halt", "halt_error"];

/// Definitions that jq has and jaq 3.1 lacks.
const ADDED: &str = "def IN(xs): any(xs == .; .); def IN(ys; xs): any(ys == xs; .);";

/// Name under which a program is defined, and then called.
const PROGRAM: &str = "__program";

/// A compiled jq program. Any number of threads may run it at once.
pub struct Filter {
    program: jaq_core::Filter<Metered>,
    text: String,
}

/// Error of a text that is not a jq program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct JqError {
    /// Message: lower case, no full stop.
    pub message: String,
    /// Place in the text, in bytes from its start.
    pub offset: usize,
}

/// Reason that a filter gave no answer for an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Its own error, or the reason why it cannot read the event, or why what it gives is no
    /// output; one line.
    #[error("{0}")]
    Error(String),
    /// A bound that it came to.
    #[error(transparent)]
    Overrun(#[from] Overrun),
}

impl Filter {
    /// Compiles a jq program.
    ///
    /// # Errors
    /// The first thing wrong with the text, and where.
    pub fn compile(text: &str) -> Result<Self, JqError> {
        // Loaded for what is wrong with it: the program that runs is read again below.
        Loader::new([]).load(&Arena::default(), File { code: text, path: () }).map_err(
            |errors| {
                let errors = errors.into_iter().map(|(_, error)| wording::loading(text, &error));
                wording::first(text, errors)
            },
        )?;
        let unread = || wording::first(text, std::iter::empty());
        let tokens = Lexer::new(text).lex().map_err(|_| unread())?;
        let program = Parser::new(&tokens).parse(Parser::term).map_err(|_| unread())?;
        let body = closures::off_the_tail(program);
        let program = Def { name: PROGRAM, args: Vec::new(), body };

        let ours = [ADDED, natives::DEFINITIONS].into_iter().flat_map(|text| {
            load::parse(text, |parser| parser.defs()).expect("our own definitions are jq")
        });
        let definitions =
            jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs()).chain(ours);
        let definitions =
            definitions.filter(|definition| !MADE_FROM_OUTSIDE.contains(&definition.name));
        let natives = jaq_core::funs::<Metered>().chain(jaq_std::funs());
        let natives = natives.filter(|(name, ..)| !OUTSIDE.contains(name));
        let natives = natives.filter_map(natives::kept).chain(natives::natives());

        let arena = Arena::default();
        let modules = Loader::new(definitions.map(shortened).chain([program]))
            .load(&arena, File { code: PROGRAM, path: () })
            .map_err(|_| unread())?;
        let program =
            Compiler::default().with_funs(natives).compile(modules).map_err(|errors| {
                wording::first(
                    text,
                    errors
                        .into_iter()
                        .flat_map(|(_, errors)| errors)
                        .map(|e| wording::undefined(text, e)),
                )
            })?;
        Ok(Self { program, text: text.to_owned() })
    }

    /// Returns the text it was compiled from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// True if the first output is neither `false` nor `null`. No output counts as false.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn truthy(&self, event: &Event, bounds: &Bounds, stop: &Stop) -> Result<bool, Fault> {
        self.run(event, bounds, stop, |values| {
            let first = values.next().transpose()?;
            Ok(!matches!(first, None | Some(Value::Null | Value::Bool(false))))
        })
    }

    /// Returns every output as compact JSON. Numbers that the filter only passes on keep their
    /// digits.
    ///
    /// # Errors
    /// [`Fault`]; also that it gives more than `most` outputs, or one that has no form in JSON
    /// (`nan`, `infinite`, bytes).
    pub fn outputs(
        &self,
        event: &Event,
        most: usize,
        bounds: &Bounds,
        stop: &Stop,
    ) -> Result<Vec<Bytes>, Fault> {
        self.run(event, bounds, stop, |values| {
            let (mut outputs, mut left) = (Vec::new(), bounds.bytes);
            for value in values.take(most.saturating_add(1)) {
                let value = value?;
                if outputs.len() == most {
                    return Err(Fault::Error(format!("the filter gives more than {most} outputs")));
                }
                let output = json::output(&value, left).map_err(|error| match error {
                    NoOutput::TooLong => Overrun::Outputs(bounds.bytes).into(),
                    NoOutput::NotJson(text) => {
                        let text = excerpt(&text, 60);
                        Fault::Error(format!("an output has no form in JSON: {text}"))
                    }
                })?;
                left -= output.len();
                outputs.push(output.into());
            }
            Ok(outputs)
        })
    }

    /// Gives `take` the values that the filter gives.
    fn run<T>(
        &self,
        event: &Event,
        bounds: &Bounds,
        stop: &Stop,
        take: impl FnOnce(&mut dyn Iterator<Item = Result<Value, Fault>>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let ran = bounded(bounds, stop, || {
            let input = meter::beside(|| json::read(&event.body))
                .map_err(|error| Fault::Error(format!("the event {error}")))?;
            let context = Ctx::<Metered>::new(Held::new(&self.program.lut), Vars::new([]));
            let values = self.program.id.run((context, input));
            take(&mut values.map(|value| {
                value.map_err(|exception| match exception.get_err() {
                    Ok(error) => Fault::Error(excerpt(&error_text(error), MESSAGE_BYTES_MAX)),
                    Err(_) => Fault::Error("the filter stopped outside any loop".to_owned()),
                })
            }))
        });
        ran.unwrap_or_else(|unwound| match unwound {
            Ok(overrun) => Err(overrun.into()),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                let text = excerpt(text.unwrap_or("no message"), MESSAGE_BYTES_MAX);
                Err(Fault::Error(format!("the filter panicked: {text}")))
            }
        })
    }
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Filter").field(&self.text).finish()
    }
}

/// A definition as one of a text that does not live as long.
fn shortened<'s>(definition: Def<&'static str>) -> Def<&'s str> {
    definition
}

/// Returns the text of an error; a message without the quotes it has as a value.
fn error_text(error: Error) -> String {
    let value = error.into_val();
    if let Value::Text(message) = &value {
        let message = message.bytes();
        String::from_utf8_lossy(&message[..message.len().min(2 * MESSAGE_BYTES_MAX)]).into_owned()
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests;
