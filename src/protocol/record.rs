//! Records: encoded to JSON once, when they are written, and never again.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::datum::Datum;
use super::json::{write_text, write_value};
use super::number::Number;

/// The name of a field, together with its JSON form as records hold it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldName {
    name: Arc<str>,
    token: Arc<[u8]>,
}

impl FieldName {
    /// Prepares a name for look-ups.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut token = Vec::with_capacity(name.len() + 2);
        write_text(&mut token, name);
        Self {
            name: name.into(),
            token: token.into(),
        }
    }

    /// The name as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The name as JSON, quotes included.
    #[must_use]
    pub fn token(&self) -> &[u8] {
        &self.token
    }
}

/// An immutable JSON object in normal form, with a table of where its fields lie. Cloning shares it.
///
/// One allocation holds it all: a byte that says how wide the offsets are, the number of fields, for each field
/// where its name and its value end, then the JSON text.
#[derive(Clone, PartialEq, Eq)]
pub struct Record(Arc<[u8]>);

const NARROW: u8 = 0;
const WIDE: u8 = 1;

impl Record {
    /// Encodes an object.
    #[must_use]
    pub fn from_object(object: &Map<String, Value>) -> Self {
        let mut builder = RecordBuilder::with_capacity(object.len(), 32 * object.len());
        for (name, value) in object {
            builder.push_value(name, value);
        }
        builder.finish()
    }

    /// Takes bytes that [`Record::as_bytes`] gave, or nothing where they cannot be such.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let record = Self(bytes.into());
        let layout = record.layout()?;
        let json = bytes.get(layout.json..)?;
        let mut last = 0;
        for at in 0..layout.count {
            let (name_end, value_end) = record.ends(&layout, at)?;
            if name_end <= last || value_end <= name_end || value_end > json.len() {
                return None;
            }
            last = value_end;
        }
        (json.first() == Some(&b'{') && json.len() > last && json.last() == Some(&b'}')).then_some(record)
    }

    /// The whole block: what is kept on disk.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The JSON text.
    #[must_use]
    pub fn json(&self) -> &[u8] {
        let layout = self.layout().unwrap_or_default();
        self.0.get(layout.json..).unwrap_or(b"{}")
    }

    /// The number of fields.
    #[must_use]
    pub fn field_count(&self) -> usize {
        self.layout().unwrap_or_default().count
    }

    /// The JSON text of a field's value.
    #[must_use]
    pub fn token(&self, field: &FieldName) -> Option<&[u8]> {
        self.fields().find_map(|(name, value)| (name == field.token()).then_some(value))
    }

    /// A field's value as filters and schemas look at it.
    #[must_use]
    pub fn value(&self, field: &FieldName) -> FieldValue<'_> {
        self.token(field).map_or(FieldValue::Missing, FieldValue::decode)
    }

    /// A field's value as keys and indexes hold it.
    #[must_use]
    pub fn datum(&self, field: &FieldName) -> Datum {
        self.value(field).to_datum()
    }

    /// All fields: the JSON text of their names, quotes included, and of their values.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let layout = self.layout().unwrap_or_default();
        let json = self.0.get(layout.json..).unwrap_or(b"{}");
        let mut start = 1;
        (0..layout.count).map_while(move |at| {
            let (name_end, value_end) = self.ends(&layout, at)?;
            let field = (json.get(start..name_end)?, json.get(name_end + 1..value_end)?);
            start = value_end + 1;
            Some(field)
        })
    }

    /// The record as a Rust type.
    ///
    /// # Errors
    /// Where the record does not have the shape of `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(self.json())
    }

    /// The record as a JSON value.
    #[must_use]
    pub fn to_value(&self) -> Value {
        serde_json::from_slice(self.json()).unwrap_or(Value::Null)
    }

    /// The version of a stored record: 1 when it was inserted, one more with every update.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.metadata(b"\"_version\"").and_then(Number::as_u64).unwrap_or(0)
    }

    /// When a stored record ends, in milliseconds since 1970: its `_expiresAt`, where that is a number.
    #[must_use]
    pub fn expires_at(&self) -> Option<Number> {
        self.metadata(b"\"_expiresAt\"")
    }

    fn metadata(&self, token: &[u8]) -> Option<Number> {
        let value = self.fields().find_map(|(name, value)| (name == token).then_some(value))?;
        Number::parse(value)
    }

    fn layout(&self) -> Option<Layout> {
        let (head, width, count) = match *self.0.first()? {
            NARROW => (3, 2, usize::from(u16::from_le_bytes(self.0.get(1..3)?.try_into().ok()?))),
            WIDE => (5, 4, u32::from_le_bytes(self.0.get(1..5)?.try_into().ok()?) as usize),
            _ => return None,
        };
        let json = count.checked_mul(2 * width)?.checked_add(head)?;
        Some(Layout { head, width, count, json })
    }

    fn ends(&self, layout: &Layout, at: usize) -> Option<(usize, usize)> {
        let entry = self.0.get(layout.head + at * 2 * layout.width..)?;
        if layout.width == 2 {
            let name = u16::from_le_bytes(entry.get(..2)?.try_into().ok()?);
            let value = u16::from_le_bytes(entry.get(2..4)?.try_into().ok()?);
            Some((usize::from(name), usize::from(value)))
        } else {
            let name = u32::from_le_bytes(entry.get(..4)?.try_into().ok()?);
            let value = u32::from_le_bytes(entry.get(4..8)?.try_into().ok()?);
            Some((name as usize, value as usize))
        }
    }
}

/// Where the parts of a block lie.
#[derive(Default)]
struct Layout {
    head: usize,
    width: usize,
    count: usize,
    json: usize,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.json()))
    }
}

impl Serialize for Record {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &serde_json::value::RawValue = serde_json::from_slice(self.json()).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

/// Puts a record together, field by field, from values or from the JSON text of other records.
#[derive(Default)]
pub struct RecordBuilder {
    json: Vec<u8>,
    ends: Vec<(u32, u32)>,
}

impl RecordBuilder {
    /// A builder with room for so many fields and bytes of JSON.
    #[must_use]
    pub fn with_capacity(fields: usize, bytes: usize) -> Self {
        let mut json = Vec::with_capacity(bytes + 2);
        json.push(b'{');
        Self {
            json,
            ends: Vec::with_capacity(fields),
        }
    }

    /// Appends a field with a value.
    pub fn push_value(&mut self, name: &str, value: &Value) {
        self.push_with(|json| write_text(json, name), |json| write_value(json, value));
    }

    /// Appends a field with a number.
    pub fn push_number(&mut self, name: &FieldName, number: Number) {
        self.push_number_token(name.token(), number);
    }

    /// Appends a field with a number, by the JSON text of its name.
    pub fn push_number_token(&mut self, name: &[u8], number: Number) {
        self.push_with(|json| json.extend_from_slice(name), |json| number.write(json));
    }

    /// Appends a field as another record holds it.
    pub fn push_token(&mut self, name: &[u8], value: &[u8]) {
        self.push_with(|json| json.extend_from_slice(name), |json| json.extend_from_slice(value));
    }

    fn push_with(&mut self, name: impl FnOnce(&mut Vec<u8>), value: impl FnOnce(&mut Vec<u8>)) {
        if self.json.is_empty() {
            self.json.push(b'{');
        }
        if !self.ends.is_empty() {
            self.json.push(b',');
        }
        name(&mut self.json);
        let name_end = self.json.len();
        self.json.push(b':');
        value(&mut self.json);
        // A record is bounded by the payload limit, far below 4 GiB.
        self.ends.push((name_end as u32, self.json.len() as u32));
    }

    /// The finished record.
    #[must_use]
    pub fn finish(mut self) -> Record {
        if self.json.is_empty() {
            self.json.push(b'{');
        }
        self.json.push(b'}');
        let narrow = u16::try_from(self.json.len()).is_ok() && u16::try_from(self.ends.len()).is_ok();
        let mut block = Vec::with_capacity(5 + self.ends.len() * 8 + self.json.len());
        if narrow {
            block.push(NARROW);
            block.extend_from_slice(&(self.ends.len() as u16).to_le_bytes());
            for (name, value) in &self.ends {
                block.extend_from_slice(&(*name as u16).to_le_bytes());
                block.extend_from_slice(&(*value as u16).to_le_bytes());
            }
        } else {
            block.push(WIDE);
            block.extend_from_slice(&(self.ends.len() as u32).to_le_bytes());
            for (name, value) in &self.ends {
                block.extend_from_slice(&name.to_le_bytes());
                block.extend_from_slice(&value.to_le_bytes());
            }
        }
        block.extend_from_slice(&self.json);
        Record(block.into())
    }
}

/// One field's value, decoded as far as its type; texts are borrowed where they hold no escape.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue<'a> {
    /// The field is not there.
    Missing,
    /// An explicit null.
    Null,
    /// A boolean.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text.
    Text(Cow<'a, str>),
    /// A list, as JSON text.
    Array(&'a [u8]),
    /// An object, as JSON text.
    Object(&'a [u8]),
}

impl<'a> FieldValue<'a> {
    /// Decodes the JSON text of a value in normal form.
    #[must_use]
    pub fn decode(token: &'a [u8]) -> Self {
        match token.first() {
            Some(b'"') => decode_text(token),
            Some(b't') => Self::Bool(true),
            Some(b'f') => Self::Bool(false),
            Some(b'n') => Self::Null,
            Some(b'[') => Self::Array(token),
            Some(b'{') => Self::Object(token),
            Some(_) => Number::parse(token).map_or(Self::Missing, Self::Number),
            None => Self::Missing,
        }
    }

    /// Neither null nor missing.
    #[must_use]
    pub fn is_present(&self) -> bool {
        !matches!(self, Self::Missing | Self::Null)
    }

    /// The value as keys and indexes hold it.
    #[must_use]
    pub fn to_datum(&self) -> Datum {
        match self {
            Self::Missing => Datum::Missing,
            Self::Null => Datum::Null,
            Self::Bool(bool) => Datum::Bool(*bool),
            Self::Number(number) => Datum::Number(*number),
            Self::Text(text) => Datum::text(text),
            Self::Array(_) | Self::Object(_) => Datum::Composite,
        }
    }

    /// The name of the value's type, as messages say it.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Missing => "undefined",
            Self::Null => "null",
            Self::Bool(_) => "boolean",
            Self::Number(_) => "number",
            Self::Text(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }
}

fn decode_text(token: &[u8]) -> FieldValue<'_> {
    let inner = token.get(1..token.len().saturating_sub(1)).unwrap_or_default();
    if inner.contains(&b'\\') {
        return serde_json::from_slice::<String>(token).map_or(FieldValue::Missing, |text| FieldValue::Text(Cow::Owned(text)));
    }
    std::str::from_utf8(inner).map_or(FieldValue::Missing, |text| FieldValue::Text(Cow::Borrowed(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(json: &str) -> Record {
        Record::from_object(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn a_record_gives_back_what_was_put_in() {
        let record = record(r#"{"id":"a","n":1.0,"deep":{"x":[1,null]},"e\"sc":"l\ni","":false}"#);
        assert_eq!(record.field_count(), 5);
        assert_eq!(
            std::str::from_utf8(record.json()).unwrap(),
            r#"{"id":"a","n":1,"deep":{"x":[1,null]},"e\"sc":"l\ni","":false}"#
        );
        assert_eq!(record.value(&FieldName::new("n")), FieldValue::Number(Number::Int(1)));
        assert_eq!(record.value(&FieldName::new("e\"sc")), FieldValue::Text("l\ni".into()));
        assert_eq!(record.value(&FieldName::new("")), FieldValue::Bool(false));
        assert_eq!(record.value(&FieldName::new("deep")), FieldValue::Object(br#"{"x":[1,null]}"#));
        assert_eq!(record.value(&FieldName::new("x")), FieldValue::Missing);
    }

    #[test]
    fn an_empty_record_is_an_empty_object() {
        assert_eq!(record("{}").json(), b"{}");
        assert_eq!(RecordBuilder::default().finish().json(), b"{}");
        assert_eq!(record("{}").fields().count(), 0);
    }

    #[test]
    fn a_large_record_uses_wide_offsets() {
        let long = "x".repeat(70_000);
        let record = record(&format!(r#"{{"a":"{long}","b":2}}"#));
        assert_eq!(record.value(&FieldName::new("b")), FieldValue::Number(Number::Int(2)));
        assert_eq!(Record::from_bytes(record.as_bytes()), Some(record));
    }

    #[test]
    fn bytes_that_are_no_record_are_refused() {
        let good = record(r#"{"a":1,"b":"x"}"#);
        assert_eq!(Record::from_bytes(good.as_bytes()), Some(good.clone()));
        for cut in 0..good.as_bytes().len() {
            assert_eq!(Record::from_bytes(&good.as_bytes()[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Record::from_bytes(&[7, 0, 0]), None);
    }
}
