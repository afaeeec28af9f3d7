//! What one value must look like, at the top of a record or deep inside.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::faults::{Faults, Path};
use super::format::Format;
use super::pattern::Pattern;
use super::properties::{Word, type_name};
use crate::protocol::{Datum, FieldValue, Number, utf16_length};

/// The declared type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    String,
    Number,
    Boolean,
    Object,
    Array,
    /// A number, or any text: only a format looks closer.
    Date,
}

impl Word for Kind {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("string", Self::String),
        ("number", Self::Number),
        ("boolean", Self::Boolean),
        ("object", Self::Object),
        ("array", Self::Array),
        ("date", Self::Date),
    ];
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Object => "object",
            Self::Array => "array",
            Self::Date => "date",
        }
    }

    /// Whether values of the type can be texts.
    pub const fn has_texts(self) -> bool {
        matches!(self, Self::String | Self::Date)
    }

    /// Whether values of the type can be numbers.
    pub const fn has_numbers(self) -> bool {
        matches!(self, Self::Number | Self::Date)
    }

    /// Whether values of the type equal others, and can so be keys, unique or references.
    pub const fn has_equality(self) -> bool {
        !matches!(self, Self::Object | Self::Array)
    }

    /// The message about a value of another type.
    pub fn expected(self, actual: &str) -> String {
        format!("Expected type \"{}\", got {actual}", self.as_str())
    }

    /// Whether the JSON text of a value, not null, is of the type: its first byte tells.
    pub fn accepts_token(self, token: &[u8]) -> bool {
        let first = token.first().copied().unwrap_or_default();
        match self {
            Self::String => first == b'"',
            Self::Number => matches!(first, b'-' | b'0'..=b'9'),
            Self::Boolean => matches!(first, b't' | b'f'),
            Self::Object => first == b'{',
            Self::Array => first == b'[',
            Self::Date => matches!(first, b'"' | b'-' | b'0'..=b'9'),
        }
    }

    fn accepts(self, value: &Value) -> bool {
        match self {
            Self::String => value.is_string(),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
            Self::Object => value.is_object(),
            Self::Array => value.is_array(),
            Self::Date => value.is_string() || value.is_number(),
        }
    }
}

/// All that is asked of one value.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub kind: Kind,
    pub required: bool,
    /// Nothing where only the type counts.
    pub constraints: Option<Box<Constraints>>,
    pub content: Content,
}

/// What is asked of the parts of a value.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// Nothing.
    Free,
    /// Rules for members of an object; members without one are free.
    Properties(Vec<(String, Rule)>),
    /// One rule for each element of a list.
    Items(Box<Rule>),
}

/// What is asked of a value beyond its type.
#[derive(Clone, Debug, Default)]
pub(super) struct Constraints {
    pub one_of: Option<OneOf>,
    pub min_length: Option<u64>,
    pub max_length: Option<u64>,
    pub pattern: Option<Pattern>,
    pub format: Option<Format>,
    pub min: Option<Number>,
    pub max: Option<Number>,
}

/// The values of an `enum`. Lists and objects equal nothing, so those in it do not count.
#[derive(Clone, Debug)]
pub(super) struct OneOf {
    members: Box<[Datum]>,
    /// The members as messages list them.
    text: Box<str>,
}

/// A value as constraints look at it.
enum Scalar<'a> {
    Text(&'a str),
    Number(Number),
    Bool(bool),
    Composite,
}

impl<'a> From<&'a FieldValue<'_>> for Scalar<'a> {
    fn from(value: &'a FieldValue<'_>) -> Self {
        match value {
            FieldValue::Text(text) => Self::Text(text),
            FieldValue::Number(number) => Self::Number(*number),
            FieldValue::Bool(bool) => Self::Bool(*bool),
            FieldValue::Missing | FieldValue::Null | FieldValue::Array(_) | FieldValue::Object(_) => Self::Composite,
        }
    }
}

impl<'a> From<&'a Value> for Scalar<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::String(text) => Self::Text(text),
            Value::Number(number) => Self::Number(number.into()),
            Value::Bool(bool) => Self::Bool(*bool),
            Value::Null | Value::Array(_) | Value::Object(_) => Self::Composite,
        }
    }
}

impl Rule {
    /// Any value of a type.
    pub fn of(kind: Kind) -> Self {
        Self {
            kind,
            required: false,
            constraints: None,
            content: Content::Free,
        }
    }

    /// A value of the right type satisfies the rule.
    pub fn is_type_only(&self) -> bool {
        self.constraints.is_none() && matches!(self.content, Content::Free)
    }

    /// Checks the constraints on a field of the record.
    pub fn check_field(&self, value: &FieldValue<'_>, path: &Path<'_>, faults: &mut Faults) {
        if let Some(constraints) = &self.constraints {
            constraints.check(&value.into(), path, faults);
        }
    }

    /// Checks the parts of a field of the record, given as JSON text.
    pub fn check_content(&self, token: &[u8], path: &Path<'_>, faults: &mut Faults) {
        if matches!(self.content, Content::Free) {
            return;
        }
        // A record holds nothing but JSON: the text can always be read.
        let value = serde_json::from_slice(token).unwrap_or(Value::Null);
        self.check_parts(&value, path, faults);
    }

    fn check_parts(&self, value: &Value, path: &Path<'_>, faults: &mut Faults) {
        match (&self.content, value) {
            (Content::Properties(rules), Value::Object(members)) => check_members(rules, members, path, faults),
            (Content::Items(rule), Value::Array(items)) => {
                for (at, item) in items.iter().enumerate() {
                    if faults.is_full() {
                        return;
                    }
                    if !item.is_null() {
                        rule.check_value(item, &Path::Item(path, at), faults);
                    }
                }
            }
            (Content::Free | Content::Properties(_) | Content::Items(_), _) => {}
        }
    }

    /// Checks a value inside a field: null has been dealt with.
    fn check_value(&self, value: &Value, path: &Path<'_>, faults: &mut Faults) {
        if !self.kind.accepts(value) {
            faults.add(path, "type", self.kind.expected(type_name(value)));
            return;
        }
        if let Some(constraints) = &self.constraints {
            constraints.check(&value.into(), path, faults);
        }
        self.check_parts(value, path, faults);
    }
}

fn check_members(rules: &[(String, Rule)], members: &Map<String, Value>, path: &Path<'_>, faults: &mut Faults) {
    for (name, rule) in rules {
        let path = Path::Member(path, name);
        match members.get(name) {
            None | Some(Value::Null) if rule.required => faults.add(&path, "required", "Field is required"),
            None | Some(Value::Null) => {}
            Some(value) => rule.check_value(value, &path, faults),
        }
    }
}

impl Constraints {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        let Self {
            one_of,
            min_length,
            max_length,
            pattern,
            format,
            min,
            max,
        } = self;
        one_of.is_none()
            && min_length.is_none()
            && max_length.is_none()
            && pattern.is_none()
            && format.is_none()
            && min.is_none()
            && max.is_none()
    }

    fn check(&self, value: &Scalar<'_>, path: &Path<'_>, faults: &mut Faults) {
        if let Some(one_of) = self.one_of.as_ref().filter(|one_of| !one_of.contains(value)) {
            faults.add(path, "enum", format!("Value must be one of: {}", one_of.text));
        }
        match value {
            Scalar::Text(text) => self.check_text(text, path, faults),
            Scalar::Number(number) => self.check_number(*number, path, faults),
            Scalar::Bool(_) | Scalar::Composite => {}
        }
    }

    fn check_text(&self, text: &str, path: &Path<'_>, faults: &mut Faults) {
        if self.min_length.is_some() || self.max_length.is_some() {
            let length = utf16_length(text) as u64;
            if let Some(least) = self.min_length.filter(|least| length < *least) {
                faults.add(path, "minLength", format!("Minimum length is {least}"));
            }
            if let Some(most) = self.max_length.filter(|most| length > *most) {
                faults.add(path, "maxLength", format!("Maximum length is {most}"));
            }
        }
        if let Some(pattern) = self.pattern.as_ref().filter(|pattern| !pattern.is_found_in(text)) {
            faults.add(path, "pattern", format!("Value must match pattern \"{}\"", pattern.source()));
        }
        if let Some(format) = self.format.filter(|format| !format.accepts(text)) {
            faults.add(path, "format", format!("Invalid {} format", format.as_str()));
        }
    }

    fn check_number(&self, number: Number, path: &Path<'_>, faults: &mut Faults) {
        if let Some(min) = self.min.filter(|min| number < *min) {
            faults.add(path, "min", format!("Minimum value is {min}"));
        }
        if let Some(max) = self.max.filter(|max| number > *max) {
            faults.add(path, "max", format!("Maximum value is {max}"));
        }
    }
}

impl OneOf {
    /// The members as a definition lists them.
    pub fn new(members: &[Value]) -> Self {
        let text = members.iter().map(script_text).collect::<Vec<_>>().join(", ");
        Self {
            members: members.iter().map(Datum::from).filter(Datum::is_key).collect(),
            text: text.into(),
        }
    }

    /// The members as messages list them.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn contains(&self, value: &Scalar<'_>) -> bool {
        self.members.iter().any(|member| match (member, value) {
            (Datum::Text(member), Scalar::Text(text)) => member.as_str() == *text,
            (Datum::Number(member), Scalar::Number(number)) => member == number,
            (Datum::Bool(member), Scalar::Bool(bool)) => member == bool,
            (Datum::Text(_) | Datum::Number(_) | Datum::Bool(_) | Datum::Composite | Datum::Null | Datum::Missing, _) => false,
        })
    }
}

/// A list's element as ECMAScript's `join` prints it.
fn script_text(value: &Value) -> Cow<'_, str> {
    match value {
        Value::Null => "".into(),
        Value::Bool(bool) => bool.to_string().into(),
        Value::Number(number) => Number::from(number).to_string().into(),
        Value::String(text) => text.into(),
        Value::Array(items) => items.iter().map(script_text).collect::<Vec<_>>().join(",").into(),
        Value::Object(_) => "[object Object]".into(),
    }
}
