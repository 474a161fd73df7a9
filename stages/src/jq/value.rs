//! Value: what a filter computes with; it counts what it takes in memory and in steps.
//!
//! jaq's own values count nothing, abort on a size that an event chose and compare, hash and print
//! shared parts once for each way that leads to them. Numbers are jaq's.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a value of any other kind is an error, or takes part alike"
)]

use std::{cmp::Ordering, fmt, rc::Rc};

use jaq_json::{Map, Num};

use super::{
    json,
    meter::{self, Charge, Overrun, overrun, step},
    text::Text,
};

/// Deepest nesting of a value that a filter builds. Deeper, nothing of ours reads it.
pub(super) const NESTING_MAX: usize = 256;

/// Longest integer, in bits: 1 233 digits. They grow by multiplication, and are printed in
/// quadratic time.
pub(super) const INTEGER_BITS_MAX: u64 = 4096;

/// Bytes of a value in a message.
const SHOWN_BYTES_MAX: usize = 300;

/// Bytes of an array, and of a place in it, about: arrays grow by doubling.
const ARRAY_BYTES: usize = 80;
const ITEM_BYTES: usize = 40;

/// Bytes of an object, and of an entry, its key apart.
const OBJECT_BYTES: usize = 120;
const ENTRY_BYTES: usize = 120;

pub(super) type Error = jaq_core::Error<Value>;
pub(super) type ValR = jaq_core::ValR<Value>;

/// A JSON value, or a number that JSON has not (`nan`, `infinite`).
#[derive(Debug, Clone, Default)]
pub(super) enum Value {
    #[default]
    Null,
    Bool(bool),
    Num(Num),
    Text(Text),
    Array(Rc<Array>),
    Object(Rc<Object>),
}

/// Items of an array.
#[derive(Debug)]
pub(super) struct Array {
    items: Vec<Value>,
    nesting: usize,
    charge: Charge,
}

/// Entries of an object, in the order in which they came.
#[derive(Debug)]
pub(super) struct Object {
    entries: Map<Text, Value>,
    nesting: usize,
    charge: Charge,
}

impl Value {
    /// Levels of nesting: none for what has no parts. Parts that were taken out may still count.
    fn nesting(&self) -> usize {
        match self {
            Self::Array(array) => array.nesting,
            Self::Object(object) => object.nesting,
            Self::Null | Self::Bool(_) | Self::Num(_) | Self::Text(_) => 0,
        }
    }

    /// Levels of nesting, counted anew.
    fn depth(&self) -> usize {
        step(1);
        match self {
            Self::Array(array) => 1 + array.iter().map(Self::depth).max().unwrap_or(0),
            Self::Object(object) => 1 + object.values().map(Self::depth).max().unwrap_or(0),
            Self::Null | Self::Bool(_) | Self::Num(_) | Self::Text(_) => 0,
        }
    }

    /// Bytes that it takes beside its place, where no charge of its own counts them.
    fn uncharged_bytes(&self) -> usize {
        match self {
            Self::Num(Num::BigInt(integer)) => 64 + integer.bits() as usize / 8,
            Self::Num(Num::Dec(digits)) => 64 + digits.len(),
            _ => 0,
        }
    }

    pub(super) fn object(object: Object) -> Self {
        Self::Object(Rc::new(object))
    }

    pub(super) fn number(number: Num) -> Result<Self, Error> {
        if let Num::BigInt(integer) = &number
            && integer.bits() > INTEGER_BITS_MAX
        {
            return Err(Error::str(format_args!(
                "an integer of more than {INTEGER_BITS_MAX} bits is not calculated with"
            )));
        }
        Ok(Self::Num(number))
    }

    /// A machine-sized integer, if it is one.
    pub(super) fn integer(&self) -> Option<isize> {
        match self {
            Self::Num(number) => number.as_isize(),
            _ => None,
        }
    }
}

/// Nesting of what holds this part. Values are freed and compared recursively, so it has a bound.
fn around(part: &Value) -> usize {
    let mut nesting = part.nesting();
    if nesting >= NESTING_MAX {
        // Parts that were replaced may still be counted.
        nesting = part.depth();
    }
    if nesting >= NESTING_MAX {
        overrun(Overrun::Nesting(NESTING_MAX));
    }
    nesting + 1
}

impl Default for Array {
    fn default() -> Self {
        Self { items: Vec::new(), nesting: 1, charge: Charge::of(ARRAY_BYTES) }
    }
}

impl Array {
    pub(super) fn push(&mut self, item: Value) {
        step(1);
        self.charge.grow(ITEM_BYTES + item.uncharged_bytes());
        self.nesting = self.nesting.max(around(&item));
        self.items.push(item);
    }

    /// Replaces a part; what went stays charged until the array goes.
    pub(super) fn splice(&mut self, from: usize, upto: usize, items: &[Value]) {
        let bytes: usize = items.iter().map(|item| ITEM_BYTES + item.uncharged_bytes()).sum();
        self.charge.grow(bytes);
        meter::moved((self.items.len() + items.len()) * size_of::<Value>());
        let deepest = items.iter().map(around).max().unwrap_or(1);
        self.nesting = self.nesting.max(deepest);
        self.items.splice(from..upto, items.iter().cloned());
    }

    /// Puts an item in a place that exists.
    pub(super) fn set(&mut self, at: usize, item: Value) {
        self.charge.grow(item.uncharged_bytes());
        self.nesting = self.nesting.max(around(&item));
        self.items[at] = item;
    }

    pub(super) fn take(&mut self, at: usize) -> Value {
        std::mem::take(&mut self.items[at])
    }

    pub(super) fn remove(&mut self, at: usize) {
        meter::moved((self.items.len() - at) * size_of::<Value>());
        self.items.remove(at);
    }

    pub(super) fn into_items(self) -> Vec<Value> {
        self.items
    }
}

impl std::ops::Deref for Array {
    type Target = [Value];

    fn deref(&self) -> &[Value] {
        &self.items
    }
}

impl FromIterator<Value> for Array {
    fn from_iter<T: IntoIterator<Item = Value>>(items: T) -> Self {
        let mut array = Self::default();
        items.into_iter().for_each(|item| array.push(item));
        array
    }
}

impl Clone for Array {
    fn clone(&self) -> Self {
        meter::moved(self.items.len() * size_of::<Value>());
        let charge = Charge::of(self.charge.bytes());
        Self { items: self.items.clone(), nesting: self.nesting, charge }
    }
}

impl Default for Object {
    fn default() -> Self {
        Self { entries: Map::default(), nesting: 1, charge: Charge::of(OBJECT_BYTES) }
    }
}

impl Object {
    pub(super) fn insert(&mut self, key: Text, item: Value) {
        step(1);
        self.nesting = self.nesting.max(around(&item));
        let bytes = item.uncharged_bytes();
        let before = self.entries.len();
        self.entries.insert(key, item);
        let places = self.entries.len() - before;
        self.charge.grow(places * ENTRY_BYTES + bytes);
    }

    pub(super) fn remove(&mut self, key: &Text) {
        // In constant time, at the price of another order.
        self.entries.swap_remove(key);
    }

    pub(super) fn take(&mut self, key: &Text) -> Option<Value> {
        self.entries.get_mut(key).map(std::mem::take)
    }

    pub(super) fn into_entries(self) -> Map<Text, Value> {
        self.entries
    }

    /// Merges another into it, objects that both have under a key likewise.
    pub(super) fn merge(&mut self, other: &Self) {
        for (key, theirs) in other.iter() {
            let merged = match (self.take(key), theirs) {
                (Some(Value::Object(mut ours)), Value::Object(theirs)) => {
                    Rc::make_mut(&mut ours).merge(theirs);
                    Value::Object(ours)
                }
                _ => theirs.clone(),
            };
            self.insert(key.clone(), merged);
        }
    }

    /// Entries by key.
    fn sorted(&self) -> Vec<(&Text, &Value)> {
        step(self.entries.len() as u64);
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_by_key(|(key, _)| *key);
        entries
    }
}

impl std::ops::Deref for Object {
    type Target = Map<Text, Value>;

    fn deref(&self) -> &Map<Text, Value> {
        &self.entries
    }
}

impl Clone for Object {
    fn clone(&self) -> Self {
        step(1 + 2 * self.entries.len() as u64);
        let charge = Charge::of(self.charge.bytes());
        Self { entries: self.entries.clone(), nesting: self.nesting, charge }
    }
}

/// Items of an array that nobody else holds, or copies of them.
pub(super) fn items_of(array: Rc<Array>) -> Vec<Value> {
    Rc::try_unwrap(array).unwrap_or_else(|array| (*array).clone()).into_items()
}

/// Entries of an object that nobody else holds, or copies of them.
pub(super) fn entries_of(object: Rc<Object>) -> Map<Text, Value> {
    Rc::try_unwrap(object).unwrap_or_else(|object| (*object).clone()).into_entries()
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

impl From<isize> for Value {
    fn from(number: isize) -> Self {
        Self::Num(Num::Int(number))
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Num(Num::from_integral(number))
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Num(Num::Float(number))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Text::from(text.into_bytes()))
    }
}

impl From<jaq_core::val::Range<Self>> for Value {
    fn from(range: jaq_core::val::Range<Self>) -> Self {
        let mut object = Object::default();
        for (key, bound) in [("start", range.start), ("end", range.end)] {
            if let Some(bound) = bound {
                object.insert(Text::from(key), bound);
            }
        }
        Self::object(object)
    }
}

impl FromIterator<Self> for Value {
    fn from_iter<T: IntoIterator<Item = Self>>(items: T) -> Self {
        Self::Array(Rc::new(items.into_iter().collect()))
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        step(1);
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(x), Self::Bool(y)) => x == y,
            (Self::Num(x), Self::Num(y)) => x == y,
            (Self::Text(x), Self::Text(y)) => x == y,
            (Self::Array(x), Self::Array(y)) => x.items == y.items,
            (Self::Object(x), Self::Object(y)) => {
                x.len() == y.len() && x.iter().all(|(key, item)| y.get(key) == Some(item))
            }
            _ => false,
        }
    }
}

impl Eq for Value {}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Value {
    /// Order of jq: null, booleans, numbers, texts, arrays, objects (by their keys, then by their
    /// values).
    fn cmp(&self, other: &Self) -> Ordering {
        step(1);
        match (self, other) {
            (Self::Bool(x), Self::Bool(y)) => x.cmp(y),
            (Self::Num(x), Self::Num(y)) => x.cmp(y),
            (Self::Text(x), Self::Text(y)) => x.cmp(y),
            (Self::Array(x), Self::Array(y)) => x.items.cmp(&y.items),
            (Self::Object(x), Self::Object(y)) if x.is_empty() || y.is_empty() => {
                x.len().min(1).cmp(&y.len().min(1))
            }
            (Self::Object(x), Self::Object(y)) => {
                let (x, y) = (x.sorted(), y.sorted());
                let keys = x.iter().map(|(key, _)| key).cmp(y.iter().map(|(key, _)| key));
                keys.then_with(|| x.iter().map(|(_, item)| item).cmp(y.iter().map(|(_, i)| i)))
            }
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl Value {
    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Bool(_) => 1,
            Self::Num(_) => 2,
            Self::Text(_) => 3,
            Self::Array(_) => 4,
            Self::Object(_) => 5,
        }
    }
}

impl fmt::Display for Value {
    /// Its beginning as JSON, for messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = json::Writer::up_to(SHOWN_BYTES_MAX);
        let whole = out.write(self).is_ok();
        f.write_str(&String::from_utf8_lossy(out.bytes()))?;
        if whole { Ok(()) } else { f.write_str("…") }
    }
}
