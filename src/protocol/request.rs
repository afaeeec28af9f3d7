//! What clients send: members of an object, each still JSON text, read by whom they concern.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::number::Number;
use super::operation::{Operation, Order};

/// The members of a JSON object with their values as JSON text, borrowed from the message.
#[derive(Debug, Default)]
pub struct Fields<'a>(SmallVec<[(Cow<'a, str>, &'a str); 8]>);

impl<'a> Fields<'a> {
    /// Splits the text of a JSON object.
    ///
    /// # Errors
    /// Where the text is no JSON object.
    pub fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The JSON text of a member's value, without white space around it. Of several members of one name the
    /// last one counts.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find_map(|(member, value)| (member == name).then_some(*value))
    }
}

impl<'a> Fields<'a> {
    /// All members with the JSON text of their values, as often as they are there.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), *value))
    }
}

impl<'a> Deserialize<'a> for Fields<'a> {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'a> Visitor<'a> for FieldsVisitor {
    type Value = Fields<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut members: M) -> Result<Fields<'a>, M::Error> {
        let mut fields = Fields::default();
        while let Some((MemberName(name), value)) = members.next_entry::<MemberName<'a>, &'a RawValue>()? {
            fields.0.push((name, value.get()));
        }
        Ok(fields)
    }
}

/// The name of a member: borrowed, unless it is written with escapes.
struct MemberName<'a>(Cow<'a, str>);

impl<'a> Deserialize<'a> for MemberName<'a> {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(MemberNameVisitor)
    }
}

struct MemberNameVisitor;

impl<'a> Visitor<'a> for MemberNameVisitor {
    type Value = MemberName<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a member")
    }

    fn visit_borrowed_str<E>(self, name: &'a str) -> Result<MemberName<'a>, E> {
        Ok(MemberName(Cow::Borrowed(name)))
    }

    fn visit_str<E>(self, name: &str) -> Result<MemberName<'a>, E> {
        Ok(MemberName(Cow::Owned(name.to_owned())))
    }
}

/// A request whose envelope is sound. Its fields are not looked at yet.
#[derive(Debug)]
pub struct Request<'a> {
    id: Number,
    name: Cow<'a, str>,
    operation: Option<Operation>,
    fields: Fields<'a>,
}

impl<'a> Request<'a> {
    pub(super) fn new(id: Number, name: Cow<'a, str>, fields: Fields<'a>) -> Self {
        let operation = Operation::parse(&name);
        Self {
            id,
            name,
            operation,
            fields,
        }
    }

    /// The number under which the client awaits the answer.
    #[must_use]
    pub fn id(&self) -> Number {
        self.id
    }

    /// The `type` as it was sent.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is asked for, where the `type` names anything.
    #[must_use]
    pub fn operation(&self) -> Option<Operation> {
        self.operation
    }

    /// All members of the message.
    #[must_use]
    pub fn fields(&self) -> &Fields<'a> {
        &self.fields
    }

    /// Whether the request may start before the earlier ones of its connection are answered.
    #[must_use]
    pub fn order(&self) -> Order {
        self.operation.map_or(Order::Alone, Operation::order)
    }
}
