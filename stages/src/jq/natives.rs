//! Natives: functions of jq's library that need to look into values, and those with a bound.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a value of any other kind is an error, or takes part alike"
)]

use std::rc::Rc;

use jaq_core::{
    Bind, Native, ValXs,
    native::{self, Fun, bome, unary, v},
};
use jaq_json::Num;

use super::{
    access::places,
    json,
    meter::{self, Metered, listing_paths},
    regex,
    text::{self, Text},
    value::{Array, Error, ValR, Value},
};

/// Natives of jq's libraries that ours replace, or that have no bound of their own.
///
/// The Bessel functions loop as often as their argument says.
pub(super) const REPLACED: &[&str] = &[
    "path",
    "path_value",
    "matches",
    "split_matches",
    "split_",
    "jn",
    "yn",
    "strftime",
    "strptime",
];

/// Definitions around natives that need a bound.
pub(super) const DEFINITIONS: &str = "
def strftime($f): __strftime($f | __brief);
def strptime($f): __strptime($f | __brief);
";

/// Longest format of a time, in bytes: each directive gives many characters.
const FORMAT_BYTES_MAX: usize = 1000;

/// Returns a native of jq's under the name by which [`DEFINITIONS`] calls it; `None` where ours
/// replaces it.
pub(super) fn kept(native: Fun<Metered>) -> Option<Fun<Metered>> {
    let (name, arguments, run) = native;
    match name {
        "strftime" => Some(("__strftime", arguments, run)),
        "strptime" => Some(("__strptime", arguments, run)),
        name if REPLACED.contains(&name) => None,
        name => Some((name, arguments, run)),
    }
}

/// Returns our natives.
pub(super) fn natives() -> impl Iterator<Item = Fun<Metered>> {
    let filter = || -> Box<[Bind]> { [Bind::Fun(())].into() };
    [
        ("path", filter(), Native::new(|cv| listed(cv, |path, _| path))),
        ("path_value", filter(), Native::new(|cv| listed(cv, pair))),
    ]
    .into_iter()
    .chain([
        native("fromjson", 0, |cv| bome(from_json(&cv.1))),
        native("tojson", 0, |cv| bome(Ok(Value::Text(json::to_text(&cv.1))))),
        native("length", 0, |cv| bome(length(&cv.1))),
        native("contains", 1, |cv| unary(cv, |x, y| Ok(contains(&x, &y).into()))),
        native("has", 1, |cv| unary(cv, |x, key| Ok(x.part(&key)?.is_some().into()))),
        native("indices", 1, |cv| unary(cv, |x, y| indices(&x, &y))),
        native("bsearch", 1, |cv| unary(cv, |x, y| search(&x, &y))),
        native("matches", 2, |cv| bome(regex::run(cv, regex::Parts::Matches))),
        native("split_matches", 2, |cv| bome(regex::run(cv, regex::Parts::Both))),
        native("split_", 2, |cv| bome(regex::run(cv, regex::Parts::Between))),
        native("__brief", 0, |cv| bome(brief(cv.1))),
    ])
}

fn native(name: &'static str, arguments: usize, run: jaq_core::RunPtr<Metered>) -> Fun<Metered> {
    native::run::<Metered>((name, v(arguments), run))
}

/// Paths that a filter leads along, each as `form` makes it.
fn listed<'a>(
    mut cv: jaq_core::Cv<'a, Metered>,
    form: fn(Value, Value) -> Value,
) -> ValXs<'a, Value> {
    let (filter, context) = cv.0.pop_fun();
    let mut paths = filter.paths((context, (cv.1, Default::default())));
    Box::new(std::iter::from_fn(move || {
        let next = listing_paths(|| paths.next())?;
        Some(next.map(|(value, path)| {
            let mut parts: Vec<Value> = path.iter().cloned().collect();
            parts.reverse();
            form(parts.into_iter().collect(), value)
        }))
    }))
}

fn pair(path: Value, value: Value) -> Value {
    [path, value].into_iter().collect()
}

fn from_json(value: &Value) -> ValR {
    match value {
        Value::Text(text) => {
            json::read(text.bytes()).map_err(|error| Error::str(format_args!("the text {error}")))
        }
        other => Err(Error::typ(other.clone(), "string")),
    }
}

fn length(value: &Value) -> ValR {
    Ok(match value {
        Value::Null => Value::from(0_usize),
        Value::Num(number) if *number < Num::Int(0) => Value::Num(-number.clone()),
        Value::Num(number) => Value::Num(number.clone()),
        Value::Text(text) => Value::from(text.characters()),
        Value::Array(array) => Value::from(array.len()),
        Value::Object(object) => Value::from(object.len()),
        Value::Bool(_) => return Err(Error::str(format_args!("{value} has no length"))),
    })
}

fn contains(whole: &Value, part: &Value) -> bool {
    meter::step(1);
    match (whole, part) {
        (Value::Text(x), Value::Text(y)) => {
            y.bytes().is_empty() || text::find(x.bytes(), y.bytes(), 0).is_some()
        }
        (Value::Array(x), Value::Array(y)) => y.iter().all(|y| x.iter().any(|x| contains(x, y))),
        (Value::Object(x), Value::Object(y)) => {
            y.iter().all(|(key, y)| x.get(key).is_some_and(|x| contains(x, y)))
        }
        _ => whole == part,
    }
}

fn indices(whole: &Value, part: &Value) -> ValR {
    Ok(match (whole, part) {
        (Value::Text(x), Value::Text(y)) => text_indices(x, y),
        (Value::Array(x), Value::Array(y)) => places(x, y).map(Value::from).collect(),
        (Value::Array(x), y) => {
            let found = x.iter().enumerate().filter(|(_, x)| *x == y);
            found.map(|(at, _)| Value::from(at)).collect()
        }
        (x, y) => return Err(Error::index(x.clone(), y.clone())),
    })
}

/// Places of a text in another, in characters.
fn text_indices(text: &Text, wanted: &Text) -> Value {
    let (bytes, wanted) = (text.bytes(), wanted.bytes());
    if wanted.is_empty() {
        return Value::from_iter([]);
    }
    let starts = text::boundaries(bytes).enumerate().filter(|(_, at)| {
        let is_here = bytes[*at..].starts_with(wanted);
        meter::moved(if bytes[*at] == wanted[0] { wanted.len() } else { 0 });
        is_here
    });
    starts.map(|(character, _)| Value::from(character)).collect()
}

fn search(array: &Value, wanted: &Value) -> ValR {
    let Value::Array(array) = array else { return Err(Error::typ(array.clone(), "array")) };
    let array: &Rc<Array> = array;
    let found = array.binary_search(wanted).map_or_else(|at| -1 - at as isize, |at| at as isize);
    Ok(Value::from(found))
}

/// The format of a time, if it is short.
fn brief(format: Value) -> ValR {
    match &format {
        Value::Text(text) if text.bytes().len() > FORMAT_BYTES_MAX => {
            Err(Error::str(format_args!("a format of more than {FORMAT_BYTES_MAX} bytes")))
        }
        _ => Ok(format),
    }
}
