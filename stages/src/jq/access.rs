//! Access: parts of values read and replaced, as jq's paths ask for them.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a value of any other kind is an error, or takes part alike"
)]

use std::rc::Rc;

use jaq_core::{Exn, path::Opt, val::Range};
use jaq_json::Num;

use super::{
    json, meter,
    text::Text,
    value::{Array, Error, Object, ValR, Value, entries_of, items_of},
};

type ValX<'a> = jaq_core::ValX<'a, Value>;

/// Bytes of an item that is sorted or grouped, with its keys.
const SORTED_ITEM_BYTES: usize = 120;

const ITERABLE: &str = "iterable (array or object)";

impl jaq_core::ValT for Value {
    fn from_num(digits: &str) -> ValR {
        Self::number(json::number(digits))
    }

    fn from_map<I: IntoIterator<Item = (Self, Self)>>(entries: I) -> ValR {
        let mut object = Object::default();
        for (key, item) in entries {
            match key {
                Self::Text(key) => object.insert(key, item),
                other => {
                    return Err(Error::str(format_args!("cannot use {other} as an object's key")));
                }
            }
        }
        Ok(Self::object(object))
    }

    fn key_values(self) -> Box<dyn Iterator<Item = Result<(Self, Self), Error>>> {
        match self {
            Self::Array(array) => {
                let items = items_of(array).into_iter().enumerate();
                Box::new(items.map(|(n, item)| Ok((Self::from(n), item))))
            }
            Self::Object(object) => {
                let entries = entries_of(object).into_iter();
                Box::new(entries.map(|(key, item)| Ok((Self::Text(key), item))))
            }
            value => Box::new(std::iter::once(Err(Error::typ(value, ITERABLE)))),
        }
    }

    fn values(self) -> Box<dyn Iterator<Item = ValR>> {
        match self {
            Self::Array(array) => Box::new(items_of(array).into_iter().map(Ok)),
            Self::Object(object) => {
                Box::new(entries_of(object).into_iter().map(|(_, item)| Ok(item)))
            }
            value => Box::new(std::iter::once(Err(Error::typ(value, ITERABLE)))),
        }
    }

    fn index(self, index: &Self) -> ValR {
        let part = self.part(index)?;
        if part.is_none() {
            meter::dead_part();
        }
        Ok(part.unwrap_or_default())
    }

    fn range(self, range: Range<&Self>) -> ValR {
        meter::dead_part();
        let range = bounds(range)?;
        match self {
            Self::Text(text) => {
                let (from, upto) = byte_range(&text, &range);
                Ok(Self::Text(text.part(from, upto)))
            }
            Self::Array(array) => {
                let (from, upto) = item_range(&range, array.len());
                Ok(array[from..upto].iter().cloned().collect())
            }
            value => Err(Error::typ(value, "rangeable (array or string)")),
        }
    }

    fn map_values<'a, I: Iterator<Item = ValX<'a>>>(
        self,
        opt: Opt,
        f: impl Fn(Self) -> I,
    ) -> ValX<'a> {
        match self {
            Self::Array(array) => items_of(array).into_iter().flat_map(f).collect(),
            Self::Object(object) => {
                let mut mapped = Object::default();
                for (key, item) in entries_of(object) {
                    if let Some(item) = f(item).next() {
                        mapped.insert(key, item?);
                    }
                }
                Ok(Self::object(mapped))
            }
            value => opt.fail(value, |value| Exn::from(Error::typ(value, ITERABLE))),
        }
    }

    fn map_index<'a, I: Iterator<Item = ValX<'a>>>(
        mut self,
        index: &Self,
        opt: Opt,
        f: impl Fn(Self) -> I,
    ) -> ValX<'a> {
        match (&mut self, index) {
            (Self::Text(_) | Self::Array(_), Self::Object(range)) => {
                let range = range.get(&Text::from("start"))..range.get(&Text::from("end"));
                return self.map_range(range, opt, f);
            }
            (Self::Object(object), Self::Text(key)) => {
                let object = Rc::make_mut(object);
                match f(object.take(key).unwrap_or_default()).next().transpose()? {
                    Some(item) => object.insert(key.clone(), item),
                    None => object.remove(key),
                }
            }
            (Self::Array(array), index) => {
                let place = position(index).map(|position| position.within(array.len()));
                let at = match place {
                    Ok(Some(at)) if at < array.len() => at,
                    Ok(_) => {
                        let error = Error::str(format_args!("index {index} out of bounds"));
                        return opt.fail(self, |_| Exn::from(error));
                    }
                    Err(error) => return opt.fail(self, |_| Exn::from(error)),
                };
                let array = Rc::make_mut(array);
                match f(array.take(at)).next().transpose()? {
                    Some(item) => array.set(at, item),
                    None => array.remove(at),
                }
            }
            (Self::Object(_), key) => {
                let error = Error::index(self.clone(), key.clone());
                return opt.fail(self, |_| Exn::from(error));
            }
            _ => return opt.fail(self, |value| Exn::from(Error::typ(value, ITERABLE))),
        }
        Ok(self)
    }

    fn map_range<'a, I: Iterator<Item = ValX<'a>>>(
        mut self,
        range: Range<&Self>,
        opt: Opt,
        f: impl Fn(Self) -> I,
    ) -> ValX<'a> {
        let range = match bounds(range) {
            Ok(range) => range,
            Err(error) => return opt.fail(self, |_| Exn::from(error)),
        };
        match &mut self {
            Self::Array(array) => {
                let (from, upto) = item_range(&range, array.len());
                let part = array[from..upto].iter().cloned().collect();
                let items = match f(part).next().transpose()? {
                    None => Vec::new(),
                    Some(Self::Array(items)) => items_of(items),
                    Some(other) => return Err(Exn::from(Error::typ(other, "array"))),
                };
                Rc::make_mut(array).splice(from, upto, &items);
                Ok(self)
            }
            Self::Text(text) => {
                let (from, upto) = byte_range(text, &range);
                let part = match f(Self::Text(text.part(from, upto))).next().transpose()? {
                    None => Text::from(""),
                    Some(Self::Text(part)) => part,
                    Some(other) => return Err(Exn::from(Error::typ(other, "string"))),
                };
                let end = text.part(upto, text.bytes().len());
                let begin = text.part(0, from);
                Ok(Self::Text(begin.followed_by(part.bytes()).followed_by(end.bytes())))
            }
            _ => opt.fail(self, |value| Exn::from(Error::typ(value, "array"))),
        }
    }

    fn as_bool(&self) -> bool {
        !matches!(self, Self::Null | Self::Bool(false))
    }

    fn into_string(self) -> Self {
        match self {
            text @ Self::Text(_) => text,
            value => Self::Text(json::to_text(&value)),
        }
    }
}

impl Value {
    /// Part at an index; `None` where there is none.
    pub(super) fn part(self, index: &Self) -> Result<Option<Self>, Error> {
        Ok(match (self, index) {
            (Self::Null, _) => None,
            (Self::Array(array), Self::Num(Num::Int(_) | Num::BigInt(_))) => {
                position(index)?.within(array.len()).and_then(|at| array.get(at).cloned())
            }
            (Self::Array(array), Self::Array(wanted)) => {
                Some(places(&array, wanted).map(Self::from).collect())
            }
            (Self::Object(object), Self::Text(key)) => object.get(key).cloned(),
            (value @ (Self::Text(_) | Self::Array(_)), Self::Object(range)) => {
                let range = range.get(&Text::from("start"))..range.get(&Text::from("end"));
                return jaq_core::ValT::range(value, range).map(Some);
            }
            (value, index) => return Err(Error::index(value, index.clone())),
        })
    }
}

/// Places at which a run of items stands in an array.
pub(super) fn places(array: &Array, wanted: &Array) -> impl Iterator<Item = usize> {
    let windows = array.windows(wanted.len().max(1)).enumerate();
    let found = windows.filter(|(_, window)| !wanted.is_empty() && **window == **wanted);
    found.map(|(at, _)| at)
}

/// Place in an array or a text: from its start, or from its end.
#[derive(Debug, Clone, Copy)]
enum Position {
    FromStart(usize),
    FromEnd(usize),
}

impl Position {
    /// Distance from the start; `None` where it lies before it.
    fn within(self, length: usize) -> Option<usize> {
        match self {
            Self::FromStart(at) => Some(at),
            Self::FromEnd(back) => length.checked_sub(back),
        }
    }
}

fn position(index: &Value) -> Result<Position, Error> {
    match index {
        Value::Num(Num::Int(at)) if *at >= 0 => Ok(Position::FromStart(at.unsigned_abs())),
        Value::Num(Num::Int(at)) => Ok(Position::FromEnd(at.unsigned_abs())),
        Value::Num(number @ Num::BigInt(_)) if *number > Num::Int(0) => {
            Ok(Position::FromStart(usize::MAX))
        }
        Value::Num(Num::BigInt(_)) => Ok(Position::FromEnd(usize::MAX)),
        other => Err(Error::typ(other.clone(), "integer")),
    }
}

fn bounds(range: Range<&Value>) -> Result<Range<Position>, Error> {
    let bound = |bound: Option<&Value>| {
        bound.filter(|bound| !matches!(bound, Value::Null)).map(position).transpose()
    };
    Ok(bound(range.start)?..bound(range.end)?)
}

/// Range in items, within a length.
fn item_range(range: &Range<Position>, length: usize) -> (usize, usize) {
    let bound = |bound: Option<Position>, default: usize| {
        bound.map_or(default, |position| position.within(length).unwrap_or(0).min(length))
    };
    let (from, upto) = (bound(range.start, 0), bound(range.end, length));
    (from, upto.max(from))
}

/// Range in bytes of one that is in characters.
fn byte_range(text: &Text, range: &Range<Position>) -> (usize, usize) {
    let counted = [range.start, range.end].into_iter().flatten();
    let from_end = counted.clone().any(|bound| matches!(bound, Position::FromEnd(_)));
    let length = if from_end { text.characters() } else { usize::MAX };
    let (from, upto) = item_range(range, length);
    let offset = |at: usize| if at == usize::MAX { text.bytes().len() } else { text.offset(at) };
    let start = offset(from);
    (start, offset(upto).max(start))
}

impl jaq_std::ValT for Value {
    fn into_seq<S: FromIterator<Self>>(self) -> Result<S, Self> {
        match self {
            Self::Array(array) => {
                meter::reserve(array.len() * SORTED_ITEM_BYTES);
                Ok(items_of(array).into_iter().collect())
            }
            value => Err(value),
        }
    }

    fn is_int(&self) -> bool {
        matches!(self, Self::Num(Num::Int(_) | Num::BigInt(_)))
    }

    fn as_isize(&self) -> Option<isize> {
        self.integer()
    }

    fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Num(Num::Int(number)) => Some(*number as f64),
            Self::Num(Num::Float(number)) => Some(*number),
            Self::Num(number) => number.to_string().parse().ok(),
            _ => None,
        }
    }

    fn is_utf8_str(&self) -> bool {
        matches!(self, Self::Text(_))
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Text(text) => {
                meter::moved(text.bytes().len());
                Some(text.bytes())
            }
            _ => None,
        }
    }

    fn as_sub_str(&self, part: &[u8]) -> Self {
        match self {
            Self::Text(text) => Self::Text(text.part_of(part)),
            other => other.clone(),
        }
    }

    fn from_utf8_bytes(bytes: impl AsRef<[u8]> + Send + 'static) -> Self {
        Self::Text(Text::from(bytes.as_ref().to_vec()))
    }
}
