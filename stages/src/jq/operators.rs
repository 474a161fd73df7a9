//! Operators: `+`, `-`, `*`, `/`, `%` and negation, none larger than what is left.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a value of any other kind is an error, or takes part alike"
)]

use std::{
    collections::BTreeSet,
    ops::{Add, Div, Mul, Neg, Rem, Sub},
    rc::Rc,
};

use jaq_core::ops::Math;
use jaq_json::Num;

use super::{
    meter,
    text::{self, Text},
    value::{Error, ValR, Value},
};

impl Add for Value {
    type Output = ValR;

    fn add(self, other: Self) -> ValR {
        meter::step(1);
        match (self, other) {
            (Self::Null, value) | (value, Self::Null) => Ok(value),
            (Self::Num(x), Self::Num(y)) => Self::number(x + y),
            (Self::Text(x), Self::Text(y)) => Ok(Self::Text(x.followed_by(y.bytes()))),
            (Self::Array(mut x), Self::Array(y)) => {
                let array = Rc::make_mut(&mut x);
                y.iter().for_each(|item| array.push(item.clone()));
                Ok(Self::Array(x))
            }
            (Self::Object(mut x), Self::Object(y)) => {
                let object = Rc::make_mut(&mut x);
                y.iter().for_each(|(key, item)| object.insert(key.clone(), item.clone()));
                Ok(Self::Object(x))
            }
            (x, y) => Err(Error::math(x, Math::Add, y)),
        }
    }
}

impl Sub for Value {
    type Output = ValR;

    fn sub(self, other: Self) -> ValR {
        meter::step(1);
        match (self, other) {
            (Self::Num(x), Self::Num(y)) => Self::number(x - y),
            (Self::Array(x), Self::Array(y)) => {
                let without: BTreeSet<&Self> = y.iter().collect();
                Ok(x.iter().filter(|item| !without.contains(item)).cloned().collect())
            }
            (x, y) => Err(Error::math(x, Math::Sub, y)),
        }
    }
}

impl Mul for Value {
    type Output = ValR;

    fn mul(self, other: Self) -> ValR {
        meter::step(1);
        match (self, other) {
            (Self::Num(x), Self::Num(y)) => Self::number(x * y),
            (Self::Text(text), Self::Num(times)) | (Self::Num(times), Self::Text(text)) => {
                repeated(&text, &times)
            }
            (Self::Object(mut x), Self::Object(y)) => {
                Rc::make_mut(&mut x).merge(&y);
                Ok(Self::Object(x))
            }
            (x, y) => Err(Error::math(x, Math::Mul, y)),
        }
    }
}

/// Text so many times over; null for none, as jq has it.
fn repeated(text: &Text, times: &Num) -> ValR {
    let whole = match times {
        Num::Int(_) => times.as_isize().unwrap_or_default(),
        Num::BigInt(_) if *times > Num::Int(0) => isize::MAX,
        Num::BigInt(_) => 0,
        Num::Float(_) | Num::Dec(_) => {
            return Err(Error::math(
                Value::Text(text.clone()),
                Math::Mul,
                Value::Num(times.clone()),
            ));
        }
    };
    match usize::try_from(whole) {
        Ok(1..) if text.bytes().is_empty() => Ok(Value::Text(text.clone())),
        Ok(times @ 1..) => Ok(Value::Text(text.repeated(times))),
        Ok(0) | Err(_) => Ok(Value::Null),
    }
}

impl Div for Value {
    type Output = ValR;

    fn div(self, other: Self) -> ValR {
        meter::step(1);
        match (self, other) {
            (Self::Num(x), Self::Num(y)) => Ok(Self::Num(x / y)),
            (Self::Text(x), Self::Text(y)) => Ok(split(&x, &y)),
            (x, y) => Err(Error::math(x, Math::Div, y)),
        }
    }
}

/// Parts of a text between separators; its characters where the separator is empty.
fn split(text: &Text, separator: &Text) -> Value {
    let (bytes, between) = (text.bytes(), separator.bytes());
    if bytes.is_empty() {
        return Value::from_iter([]);
    }
    let part = |from, upto| Value::Text(text.part(from, upto));
    if between.is_empty() {
        let ends = text::boundaries(bytes).skip(1).chain([bytes.len()]);
        return text::boundaries(bytes).zip(ends).map(|(from, upto)| part(from, upto)).collect();
    }
    let mut from = Some(0);
    std::iter::from_fn(|| {
        let start = from?;
        let end = text::find(bytes, between, start);
        from = end.map(|end| end + between.len());
        Some(part(start, end.unwrap_or(bytes.len())))
    })
    .collect()
}

impl Rem for Value {
    type Output = ValR;

    fn rem(self, other: Self) -> ValR {
        meter::step(1);
        let whole = |number: &Num| matches!(number, Num::Int(_) | Num::BigInt(_));
        match (self, other) {
            (Self::Num(x), Self::Num(y)) if !(whole(&x) && whole(&y) && y == Num::Int(0)) => {
                Ok(Self::Num(x % y))
            }
            (x, y) => Err(Error::math(x, Math::Rem, y)),
        }
    }
}

impl Neg for Value {
    type Output = ValR;

    fn neg(self) -> ValR {
        match self {
            Self::Num(number) => Ok(Self::Num(-number)),
            value => Err(Error::typ(value, "number")),
        }
    }
}
