//! A JSON file as members, with the places of keys that stand there twice: JSON's own reader would take the last one.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::keys::{is_section, key_of};

/// Reads a JSON text. Gives its value, and the places of keys that were there before.
///
/// # Errors
/// Where it is no JSON.
pub(super) fn parsed(text: &str) -> Result<(Value, Vec<String>), serde_json::Error> {
    let mut repeated = Vec::new();
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Reading {
        at: &Position::root(),
        repeated: &mut repeated,
    }
    .deserialize(&mut reader)?;
    reader.end()?;
    Ok((value, repeated))
}

/// Where in the file something stands.
struct Position {
    path: String,
    surroundings: Surroundings,
}

/// What names are to be expected of an object's members.
#[derive(Clone, Copy)]
enum Surroundings {
    /// Keys of the table.
    Section,
    /// Names of the user's own, in the value of a key.
    Value,
    /// Anything: what is there does not belong there, and may be a token.
    Unknown,
}

impl Position {
    const fn root() -> Self {
        Self {
            path: String::new(),
            surroundings: Surroundings::Section,
        }
    }

    /// The position of a member, the so manieth. Names that are, or may be, tokens are not shown.
    fn member(&self, name: &str, at: usize) -> Self {
        let path = match (self.surroundings, self.path.as_str()) {
            (Surroundings::Unknown, path) | (Surroundings::Value, path @ "auth.tokens") => format!("{path}[{at}]"),
            (Surroundings::Section | Surroundings::Value, "") => name.to_owned(),
            (Surroundings::Section | Surroundings::Value, path) => format!("{path}.{name}"),
        };
        let surroundings = match self.surroundings {
            Surroundings::Section if is_section(&path) => Surroundings::Section,
            Surroundings::Section if key_of(&path).is_some() => Surroundings::Value,
            Surroundings::Section => Surroundings::Unknown,
            same @ (Surroundings::Value | Surroundings::Unknown) => same,
        };
        Self { path, surroundings }
    }

    fn element(&self, at: usize) -> Self {
        Self {
            path: format!("{}[{at}]", self.path),
            surroundings: self.surroundings,
        }
    }
}

/// A value that is being read.
struct Reading<'r> {
    at: &'r Position,
    repeated: &'r mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Reading<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reading<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Reading {
            at: &self.at.element(list.len()),
            repeated: &mut *self.repeated,
        })? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        let mut count = 0;
        while let Some(name) = members.next_key::<String>()? {
            let at = self.at.member(&name, count);
            if object.contains_key(&name) {
                self.repeated.push(at.path.clone());
            }
            let value = members.next_value_seed(Reading {
                at: &at,
                repeated: &mut *self.repeated,
            })?;
            object.insert(name, value);
            count += 1;
        }
        Ok(Value::Object(object))
    }
}
