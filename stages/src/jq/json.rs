//! JSON: values read from it and written as it.

use std::{io::Write as _, rc::Rc};

use jaq_json::Num;
use serde::de::IgnoredAny;

use super::{
    meter::{self, Overrun, overrun, step},
    text::{TEXT_BYTES_MAX, Text},
    value::{Array, Object, Value},
};

/// Deepest nesting of JSON that is read. `serde_json` stops at the same depth.
pub(super) const DEPTH_MAX: usize = 128;

/// Longest number that is read, in characters: integers are read, and printed, in quadratic time.
const NUMBER_BYTES_MAX: usize = 1000;

/// Returns the value of a JSON text, its numbers to the digit.
///
/// # Errors
/// What is wrong with it, as what follows "the event" or "the text".
pub(super) fn read(text: &[u8]) -> Result<Value, String> {
    meter::moved(text.len());
    let strict = std::str::from_utf8(text).map_err(|error| error.to_string());
    let strict = strict.and_then(|text| {
        serde_json::from_str::<IgnoredAny>(text).map_err(|error| error.to_string())
    });
    strict.map_err(|error| format!("is not JSON: {error}"))?;
    Reader { text, at: 0 }.value(0)
}

/// Reader of a text that is known to be JSON.
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// Next byte that is no white space.
    fn peek(&mut self) -> u8 {
        while let Some(byte) = self.text.get(self.at) {
            if !byte.is_ascii_whitespace() {
                return *byte;
            }
            self.at += 1;
        }
        0
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        let literal = |reader: &mut Self, length, value| {
            reader.at += length;
            Ok(value)
        };
        match self.peek() {
            b'n' => literal(self, 4, Value::Null),
            b't' => literal(self, 4, Value::Bool(true)),
            b'f' => literal(self, 5, Value::Bool(false)),
            b'"' => self.string().map(Value::Text),
            b'[' | b'{' if depth == DEPTH_MAX => {
                Err(format!("is nested deeper than {DEPTH_MAX} levels"))
            }
            b'[' => {
                let mut array = Array::default();
                while self.goes_on(b']') {
                    array.push(self.value(depth + 1)?);
                }
                Ok(Value::Array(Rc::new(array)))
            }
            b'{' => {
                let mut object = Object::default();
                while self.goes_on(b'}') {
                    self.peek();
                    let key = self.string()?;
                    self.peek();
                    self.at += 1;
                    let item = self.value(depth + 1)?;
                    object.insert(key, item);
                }
                Ok(Value::object(object))
            }
            _ => self.number(),
        }
    }

    /// Steps over an opening bracket or a comma; false where the closing bracket follows, which it
    /// steps over, too.
    fn goes_on(&mut self, close: u8) -> bool {
        if self.peek() != close {
            self.at += 1;
        }
        if self.peek() == close {
            self.at += 1;
            return false;
        }
        true
    }

    fn number(&mut self) -> Result<Value, String> {
        let rest = &self.text[self.at..];
        let part = |byte: &u8| !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let length = rest.iter().position(part).unwrap_or(rest.len());
        if length > NUMBER_BYTES_MAX {
            return Err(format!("has a number of more than {NUMBER_BYTES_MAX} digits"));
        }
        self.at += length;
        let digits = str::from_utf8(&rest[..length]).unwrap_or_default();
        Ok(Value::Num(number(digits)))
    }

    fn string(&mut self) -> Result<Text, String> {
        self.at += 1;
        let mut out = Vec::new();
        loop {
            let rest = &self.text[self.at..];
            let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'));
            let end = end.unwrap_or(rest.len());
            out.extend_from_slice(&rest[..end]);
            self.at += end + 1;
            if rest.get(end) != Some(&b'\\') {
                return Ok(Text::of_event(out));
            }
            self.escape(&mut out)?;
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), String> {
        let kind = self.text.get(self.at).copied().unwrap_or_default();
        self.at += 1;
        let character = match kind {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let start = self.at;
                let mut unit = u32::from(self.unit());
                if (0xd800..0xdc00).contains(&unit) && self.text[self.at..].starts_with(b"\\u") {
                    self.at += 2;
                    let low = u32::from(self.unit());
                    unit = match low {
                        0xdc00..0xe000 => 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00),
                        _ => unit,
                    };
                }
                let lone = || format!("is not JSON: half a surrogate pair at byte {start}");
                char::from_u32(unit).ok_or_else(lone)?
            }
            other => char::from(other),
        };
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    /// Four hexadecimal digits.
    fn unit(&mut self) -> u16 {
        let digits = self.text.get(self.at..self.at + 4).unwrap_or_default();
        self.at += 4;
        u16::from_str_radix(str::from_utf8(digits).unwrap_or_default(), 16).unwrap_or_default()
    }
}

/// Number of a text that is one.
pub(super) fn number(digits: &str) -> Num {
    Num::from_str_radix(digits, 10).unwrap_or_else(|| Num::Dec(Rc::new(digits.to_owned())))
}

/// Writer of compact JSON, up to so many bytes.
pub(super) struct Writer {
    out: Vec<u8>,
    bytes_max: usize,
    depth: usize,
    is_json: bool,
}

/// The bytes were not enough.
pub(super) struct Full;

impl Writer {
    pub(super) fn up_to(bytes_max: usize) -> Self {
        Self { out: Vec::new(), bytes_max, depth: 0, is_json: true }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.out
    }

    /// Writes a value.
    ///
    /// # Errors
    /// It is too long; its beginning was written.
    pub(super) fn write(&mut self, value: &Value) -> Result<(), Full> {
        step(1);
        self.depth += 1;
        // As deep as we read; a number is no level.
        self.is_json &= self.depth <= DEPTH_MAX + 1;
        let written = self.parts(value);
        self.depth -= 1;
        written
    }

    fn parts(&mut self, value: &Value) -> Result<(), Full> {
        match value {
            Value::Null => self.put(b"null"),
            Value::Bool(true) => self.put(b"true"),
            Value::Bool(false) => self.put(b"false"),
            Value::Num(Num::Float(number)) if !number.is_finite() => {
                self.is_json = false;
                self.put(Num::Float(*number).to_string().as_bytes())
            }
            Value::Num(Num::Int(number)) => {
                // Writing to memory cannot fail.
                _ = write!(self.out, "{number}");
                self.fits()
            }
            Value::Num(number) => self.put(number.to_string().as_bytes()),
            Value::Text(text) => self.text(text.bytes()),
            Value::Array(array) => {
                self.put(b"[")?;
                for (n, item) in array.iter().enumerate() {
                    self.put(if n > 0 { b"," } else { b"" })?;
                    self.write(item)?;
                }
                self.put(b"]")
            }
            Value::Object(object) => {
                self.put(b"{")?;
                for (n, (key, item)) in object.iter().enumerate() {
                    self.put(if n > 0 { b"," } else { b"" })?;
                    self.text(key.bytes())?;
                    self.put(b":")?;
                    self.write(item)?;
                }
                self.put(b"}")
            }
        }
    }

    fn text(&mut self, text: &[u8]) -> Result<(), Full> {
        meter::moved(text.len());
        self.put(b"\"")?;
        let special = |byte: &u8| matches!(byte, 0..=0x1f | b'"' | b'\\' | 0x7f);
        for part in text.split_inclusive(special) {
            match part.split_last() {
                Some((last, plain)) if special(last) => {
                    self.put(plain)?;
                    match last {
                        b'"' => self.put(b"\\\""),
                        b'\\' => self.put(b"\\\\"),
                        b'\n' => self.put(b"\\n"),
                        b'\r' => self.put(b"\\r"),
                        b'\t' => self.put(b"\\t"),
                        0x08 => self.put(b"\\b"),
                        0x0c => self.put(b"\\f"),
                        other => self.put(format!("\\u{other:04x}").as_bytes()),
                    }?;
                }
                _ => self.put(part)?,
            }
        }
        self.put(b"\"")
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.out.extend_from_slice(bytes);
        self.fits()
    }

    fn fits(&mut self) -> Result<(), Full> {
        if self.out.len() <= self.bytes_max {
            return Ok(());
        }
        self.out.truncate(self.bytes_max);
        Err(Full)
    }
}

/// Returns the JSON text of a value, for `tojson` and `tostring`.
pub(super) fn to_text(value: &Value) -> Text {
    let mut writer = Writer::up_to(TEXT_BYTES_MAX.min(meter::room()));
    if writer.write(value).is_err() {
        overrun(Overrun::Memory(TEXT_BYTES_MAX));
    }
    Text::from(writer.out)
}

/// Returns the JSON of an output of at most so many bytes.
///
/// # Errors
/// What it is that no JSON is: jq's values are more (NaN, infinity, bytes).
pub(super) fn output(value: &Value, bytes_max: usize) -> Result<Vec<u8>, NoOutput> {
    let mut writer = Writer::up_to(bytes_max);
    if writer.write(value).is_err() {
        return Err(NoOutput::TooLong);
    }
    let Writer { out, is_json, .. } = writer;
    if !is_json || str::from_utf8(&out).is_err() {
        return Err(NoOutput::NotJson(String::from_utf8_lossy(&out).into_owned()));
    }
    Ok(out)
}

/// Reason that a value is no output.
pub(super) enum NoOutput {
    /// It takes more bytes than are left.
    TooLong,
    /// It has no form in JSON; with its text.
    NotJson(String),
}
