//! What equality, order, keys and indexes see of a JSON value.

use std::cmp::Ordering;
use std::fmt;

use compact_str::CompactString;
use serde_json::Value;

use super::number::Number;

/// Text ordered by UTF-16 code unit, as the protocol's clients order it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Text(CompactString);

impl Text {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(CompactString::new(text))
    }

    /// The text itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_utf16(&self.0, &other.0)
    }
}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Compares two texts by UTF-16 code unit without decoding them.
///
/// UTF-8 bytes order texts by code point. That differs only where a surrogate pair (UTF-8 lead bytes F0 to F4)
/// meets U+E000–U+FFFF (lead bytes EE and EF), which UTF-16 puts behind it.
#[must_use]
pub fn compare_utf16(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    match a.iter().zip(b).position(|(x, y)| x != y) {
        None => a.len().cmp(&b.len()),
        Some(at) => utf16_rank(a[at]).cmp(&utf16_rank(b[at])),
    }
}

/// The place of a UTF-8 byte in UTF-16 order. F5 and above never occur in UTF-8.
const fn utf16_rank(byte: u8) -> u8 {
    match byte {
        0xEE => 0xF5,
        0xEF => 0xF6,
        other => other,
    }
}

/// The number of UTF-16 code units of a text: what clients call its length.
#[must_use]
pub fn utf16_length(text: &str) -> usize {
    if text.is_ascii() {
        text.len()
    } else {
        text.chars().map(char::len_utf16).sum()
    }
}

/// A field's value as far as equality and order go.
///
/// The order of the variants is the order of values of different types: numbers, texts, booleans, lists and
/// objects, then what has no value. Equality never converts between types. All lists and objects are one
/// `Composite`: they order as equals, and no filter finds them equal to anything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Datum {
    /// A number, compared by value.
    Number(Number),
    /// A text, ordered by UTF-16 code unit.
    Text(Text),
    /// A boolean, false before true.
    Bool(bool),
    /// A list or an object.
    Composite,
    /// An explicit null.
    Null,
    /// The field is not there.
    Missing,
}

impl Datum {
    /// A text.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::Text(Text::new(text))
    }

    /// Neither null nor missing.
    #[must_use]
    pub fn is_present(&self) -> bool {
        !matches!(self, Self::Null | Self::Missing)
    }

    /// A value that can be a primary key: a number, a text or a boolean.
    #[must_use]
    pub fn is_key(&self) -> bool {
        matches!(self, Self::Number(_) | Self::Text(_) | Self::Bool(_))
    }

    /// The place in a sort: as `Ord`, but null and missing are equal.
    #[must_use]
    pub fn sort_cmp(&self, other: &Self) -> Ordering {
        match (self.is_present(), other.is_present()) {
            (true, true) => self.cmp(other),
            (present, other_present) => other_present.cmp(&present),
        }
    }

    /// The JSON value, where there is one to give back (`Composite` and `Missing` have none).
    #[must_use]
    pub fn to_value(&self) -> Option<Value> {
        match self {
            Self::Number(number) => Some(number.to_value()),
            Self::Text(text) => Some(Value::from(text.as_str())),
            Self::Bool(bool) => Some(Value::from(*bool)),
            Self::Null => Some(Value::Null),
            Self::Composite | Self::Missing => None,
        }
    }
}

impl Number {
    /// The number as a JSON value.
    #[must_use]
    pub fn to_value(self) -> Value {
        match self {
            Self::Int(int) => Value::from(int),
            Self::Uint(uint) => Value::from(uint),
            Self::Float(float) => Value::from(float),
        }
    }
}

impl From<&Value> for Datum {
    fn from(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(bool) => Self::Bool(*bool),
            Value::Number(number) => Self::Number(number.into()),
            Value::String(text) => Self::text(text),
            Value::Array(_) | Value::Object(_) => Self::Composite,
        }
    }
}

impl From<&str> for Datum {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Datum {
    fn from(text: String) -> Self {
        Self::text(&text)
    }
}

impl From<i64> for Datum {
    fn from(int: i64) -> Self {
        Self::Number(Number::Int(int))
    }
}

impl From<i32> for Datum {
    fn from(int: i32) -> Self {
        Self::Number(Number::Int(i64::from(int)))
    }
}

impl From<u64> for Datum {
    fn from(int: u64) -> Self {
        Self::Number(Number::from(int))
    }
}

impl From<bool> for Datum {
    fn from(bool: bool) -> Self {
        Self::Bool(bool)
    }
}

/// As messages name a value: texts bare, as the reference prints them.
impl fmt::Display for Datum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text.as_str()),
            Self::Bool(bool) => bool.fmt(f),
            Self::Composite => f.write_str("[object]"),
            Self::Null => f.write_str("null"),
            Self::Missing => f.write_str("undefined"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_order_by_utf16_code_unit() {
        let mut texts = ["\u{FF5E}", "a", "😀", "Z", "", "a9", "a10", "\u{E000}", "é"];
        texts.sort_by(|a, b| compare_utf16(a, b));
        let mut expected = texts;
        expected.sort_by_key(|text| text.encode_utf16().collect::<Vec<_>>());
        assert_eq!(texts, expected);
        assert!(compare_utf16("😀", "\u{FF5E}").is_lt());
    }

    #[test]
    fn an_index_entry_stays_small() {
        // 24 bytes an entry is what the memory figures in docs/BENCHMARKS.md rest on.
        assert_eq!(size_of::<Datum>(), 24);
    }

    #[test]
    fn what_has_no_value_sorts_last_and_as_equal() {
        assert_eq!(Datum::Null.sort_cmp(&Datum::Missing), Ordering::Equal);
        assert!(Datum::Composite.sort_cmp(&Datum::Null).is_lt());
        assert!(Datum::from(9).sort_cmp(&Datum::from("10")).is_lt());
    }
}
